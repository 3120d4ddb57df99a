"""Start a worker process by spawn or forkserver.

It starts from a bare interpreter and imports the child half only; never the
script.
"""

import os
import resource
import sys
from _signal import (  # type: ignore[import-not-found] # `signal` makes enums of what they return
    SIG_BLOCK,
    SIG_SETMASK,
    pthread_sigmask,
)
from collections.abc import Callable
from multiprocessing import process, spawn, util
from multiprocessing.context import set_spawning_popen

from motorpool.engines.server import ForkServer
from motorpool.engines.starting import (
    LIFELINE,
    UNTIL_STARTED,
    Fds,
    Popen,
    refused_as_scarcity,
)
from motorpool.worker.identity import Identity, InheritedFd

# Given a writer of the set-up, which may collect descriptors to inherit.
SetUp = Callable[[], bytes]

_SERVER = ForkServer()
os.register_at_fork(after_in_child=_SERVER.forget)


class SpawnedPopen(Popen):
    """A worker that runs a program of its own."""

    DupFd = InheritedFd

    def __init__(self) -> None:
        super().__init__()
        self.inherited: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        """Have the child inherit `fd`; called while objects are pickled for it."""
        self.inherited.append(fd)
        return len(self.inherited) - 1

    def known_peak(self, kilobytes: int) -> int | None:
        """Return the peak if it is larger than ours, which the kernel counts in."""
        ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes << 10 if kilobytes > ours else None


class ServedPopen(SpawnedPopen):
    """A worker that the fork server started, and has to reap."""

    def reap_unwatched(self) -> None:
        """Have the server collect the exit code."""
        _SERVER.reap(self.pid)

    def reap(self, flag: int) -> int | None:
        """Ask the server for the exit code."""
        if flag == os.WNOHANG and not self.await_end(0):
            return None
        self.await_end()
        code, peak = _SERVER.reap(self.pid)
        self.peak = peak << 10 if peak else None
        return self.reaped_by_others() if code is None else code


def start_by_spawn(popen: SpawnedPopen, fds: Fds, set_up: SetUp) -> bytes:
    """Start a bare interpreter that runs `work`; return its set-up."""
    payload = _with_spawning(popen, set_up)
    lifeline = LIFELINE.reading_end()
    tracker = tracker_fd()
    numbers = (*fds, lifeline, tracker, popen.inherited)
    code = child_program(f"from motorpool.worker.spawned import main; main{numbers!r}")
    mask = pthread_sigmask(SIG_BLOCK, UNTIL_STARTED)
    try:
        popen.begun(_spawn(code, [*fds, lifeline, tracker, *popen.inherited]))
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
    return payload


def start_by_server(popen: SpawnedPopen, fds: Fds, set_up: SetUp) -> bytes:
    """Have the fork server fork a worker; return its set-up."""
    payload = _with_spawning(popen, set_up)
    passed = [*fds, LIFELINE.reading_end(), *popen.inherited]
    popen.begun(_SERVER.start(passed, _launch_server))
    return payload


def _with_spawning(popen: Popen, set_up: SetUp) -> bytes:
    # Locks and connections may be pickled only while a process is being started.
    set_spawning_popen(popen)  # type: ignore[arg-type]
    try:
        return set_up()
    finally:
        set_spawning_popen(None)


def _launch_server(control: int) -> int:
    code = child_program(f"from motorpool.worker.forkserver import main; main({control})")
    tracker = tracker_fd()
    mask = pthread_sigmask(SIG_BLOCK, UNTIL_STARTED)
    try:
        return _spawn(code, [control, tracker])
    finally:
        pthread_sigmask(SIG_SETMASK, mask)


def tracker_fd() -> int:
    """Return the descriptor of a resource tracker that runs already, else -1."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    fd = getattr(getattr(tracker, "_resource_tracker", None), "_fd", None)
    return -1 if fd is None else int(fd)


def child_program(last: str) -> str:
    """Return a program that sees the parent's `sys.path` before it imports anything."""
    path = list(sys.path)
    here = os.path.abspath(__file__ + "/../../..")  # noqa: PTH100 - `pathlib` is slow to import
    if here not in path:
        path.append(here)
    argv = getattr(sys, "argv", [])  # A program that embeds Python may have none.
    return f"import sys; sys.path[:] = {path!r}; sys.argv[:] = {argv!r}; {last}"


def _spawn(code: str, fds: list[int]) -> int:
    """Run `code` in an interpreter with our options that inherits `fds`; return its pid."""
    executable = os.fsencode(spawn.get_executable() or "")
    if not executable:
        msg = "sys.executable names no interpreter: see multiprocessing.set_executable"
        raise FileNotFoundError(msg)
    options = util._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001
    if sys.version_info >= (3, 11) and not _directory():
        options.append("-P")  # Without it CPython 3.13.0 looks there when it imports, and fails.
    command = [executable, *(os.fsencode(part) for part in (*options, "-c", code))]
    passed = sorted({fd for fd in fds if fd >= 0})
    with refused_as_scarcity():
        pid: int = util.spawnv_passfds(executable, command, passed)
    return pid


def identity_of(worker: process.BaseProcess, method: str) -> Identity:
    """Return what a worker that was not forked from here must know of itself."""
    parent = process.current_process()
    return Identity(
        name=worker.name,
        numbers=tuple(worker._identity),  # noqa: SLF001
        authkey=bytes(parent.authkey),
        parent_name=parent.name,
        parent_pid=os.getpid(),
        method=method,
        directory=_directory(),
    )


def _directory() -> str:
    """Return the working directory, "" if it was removed."""
    try:
        return os.getcwd()  # noqa: PTH109 - `pathlib` is slow to import
    except OSError:
        return ""
