"""Start a worker process, by fork; `spawning.py` has the other ways.

Each way gives a `Popen` for `multiprocessing.Process`, so that a worker is a
process like any other to `active_children()` and to those who read
`pool._pool`.
"""

import atexit
import errno
import gc
import os
import select
import signal
import sys
import threading
import time
import warnings
from _signal import (  # type: ignore[import-not-found] # `signal` makes enums of what they return
    SIG_BLOCK,
    SIG_SETMASK,
    pthread_sigmask,
)
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import starmap
from multiprocessing import process, util

from motorpool.kernel import opened, read
from motorpool.typed import TYPE_CHECKING, NamedTuple
from motorpool.worker.main import Setup, work
from motorpool.worker.threads import is_bare

if TYPE_CHECKING:
    from io import FileIO

# A worker is deaf to them until it has its own handlers.
UNTIL_STARTED = (signal.SIGINT, signal.SIGTERM)

# A process that does not stand still by then is in the kernel, and writes nothing.
FREEZE_SECONDS = 0.05


class Fds(NamedTuple):
    """What a worker inherits: its channel, its page, and the file of the arenas."""

    channel: int
    page: int
    arena: int


class Lifeline:
    """A pipe of which this process alone holds the writing end; workers die when it closes."""

    def __init__(self) -> None:
        self._pid = 0
        self._ends = (-1, -1)
        self._lock = threading.Lock()

    def reading_end(self) -> int:
        """Return the end to give to workers."""
        with self._lock:  # Else two threads' first workers get a pipe each, and inherit both.
            if self._pid != os.getpid():
                self._ends = os.pipe()
                self._pid = os.getpid()
            return self._ends[0]

    def forget(self) -> None:
        """In a forked child: the writing end is the parent's."""
        self._lock = threading.Lock()
        if self._pid:
            os.close(self._ends[1])
            self._pid = 0


LIFELINE = Lifeline()
os.register_at_fork(after_in_child=LIFELINE.forget)


class Popen:
    """A worker process as `multiprocessing.Process` wants to see it."""

    def __init__(self) -> None:
        self.pid = 0
        self.forked: list[int] = []  # the same, from the moment on when there is one
        self._watch: FileIO | None = None
        self.sentinel = -1
        self.returncode: int | None = None
        self.fault: OSError | None = None  # why its exit code is not known
        self.peak: int | None = None  # bytes in memory at the most, known at the end
        # Reentrant: a signal handler of the program's may end the pool.
        self._lock = threading.RLock()
        self._freezing = threading.RLock()

    def begun(self, pid: int) -> None:
        """Take note of the process's number, and watch it."""
        self.pid = pid
        self._watch = opened(os.pidfd_open, pid)
        self.sentinel = self._watch.fileno()

    def reap_unwatched(self) -> None:
        """Collect the exit code of a process that was killed and is not watched."""
        os.waitpid(self.pid, 0)

    def give_up(self) -> None:
        """End a process that cannot be used, if it has begun."""
        self.pid = self.pid or sum(self.forked)
        if self.sentinel >= 0:
            self.kill()
            self.wait()
            self.close()
        elif self.pid:  # There are no more descriptors, for instance.
            os.kill(self.pid, signal.SIGKILL)
            self.reap_unwatched()

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code, None while it runs."""
        with self._lock:
            if self.returncode is None and self.sentinel >= 0:
                self.returncode = self.reap(flag)
            return self.returncode

    def reap(self, flag: int) -> int | None:
        """Collect the exit code from the system."""
        try:
            end = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | flag)
            if end is None:
                return None
            if end.si_status == 0:
                _, status = os.waitpid(self.pid, 0)
            else:
                # It imports a module, for which one that leaves in peace need not wait.
                _, status, usage = os.wait4(self.pid, 0)
                self.peak = self.known_peak(usage.ru_maxrss)
        except ChildProcessError:
            return self.reaped_by_others() if self.await_end(0) else None
        return os.waitstatus_to_exitcode(status)

    def reaped_by_others(self) -> int:
        """Take note that nobody can tell the exit code; return what multiprocessing gives then."""
        self.fault = ChildProcessError(
            "how is not known: this program ignores SIGCHLD or collects the exit codes of all its "
            "children, or its fork server is gone"
        )
        return 255

    def known_peak(self, kilobytes: int) -> int | None:
        """Return in bytes what the kernel tells of the process's peak, None if it misleads."""
        return kilobytes << 10

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process, and return the exit code."""
        if self.returncode is None and self.sentinel >= 0:
            self.await_end(timeout)
        return self.poll()

    def await_end(self, timeout: float | None = None) -> bool:
        """Wait for the end of the process; return whether it has come."""
        # `multiprocessing.connection.wait` never returns while a test has stopped the clock.
        end = select.poll()
        end.register(self.sentinel, select.POLLIN)
        return bool(end.poll(None if timeout is None else max(timeout, 0) * 1000))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Have the process stand still, so that what it is at stays true until it is killed."""
        with self._freezing:
            self.send_signal(signal.SIGSTOP)
            limit = time.monotonic() + FREEZE_SECONDS
            while self._is_moving() and time.monotonic() < limit:
                time.sleep(0.0002)
            try:
                yield
            finally:
                self.send_signal(signal.SIGCONT)

    def _is_moving(self) -> bool:
        return self._state() in ("R", "S", "D")

    def is_stopped(self) -> bool:
        """Tell whether somebody has stopped the process."""
        return self._state() in ("T", "t")

    def _state(self) -> str:
        try:
            stat = read(f"/proc/{self.pid}/stat").decode(errors="replace")
        except OSError:
            return ""
        return stat[stat.rindex(")") + 2 :][:1]

    def send_signal(self, number: int) -> None:
        """Send any signal, unless the process has ended."""
        with self._lock:  # Else the descriptor may be closed, and be another's.
            if self.returncode is None and self.sentinel >= 0:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self.sentinel, number)

    def forget(self) -> None:
        """In a forked child, where another thread may have held the lock: close."""
        self._lock = threading.RLock()
        self.close()

    def close(self) -> None:
        """Stop watching the process."""
        with self._lock:
            self.sentinel = -1
            if self._watch is not None:
                self._watch.close()


# A forked process of multiprocessing runs what was registered in it since 3.13.
_RUNS_ATEXIT = sys.version_info >= (3, 13)


def start_by_fork(
    worker: process.BaseProcess, popen: Popen, fds: Fds, initializer: object, region: int
) -> None:
    """Fork a worker that runs `work`; it has all that this process has."""
    lifeline = LIFELINE.reading_end()
    setup = Setup(None, None, None, region, is_bare())  # All else is inherited.
    util._flush_std_streams()  # type: ignore[attr-defined] # noqa: SLF001 - as multiprocessing's Popen
    mask = pthread_sigmask(SIG_BLOCK, UNTIL_STARTED)
    try:
        _fork(popen.forked)
        if popen.forked == [0]:
            code = 1
            try:
                _age_objects()
                _make_room_on_the_stack()
                if _RUNS_ATEXIT:
                    atexit._clear()  # noqa: SLF001 - what is registered there is the parent's
                worker._target = lambda: work(*fds, lifeline, -1, initializer, setup)  # type: ignore[attr-defined] # noqa: SLF001
                worker._config["daemon"] = False  # type: ignore[attr-defined] # noqa: SLF001 - it may have children
                code = worker._bootstrap(parent_sentinel=lifeline)  # type: ignore[attr-defined] # noqa: SLF001
                if _RUNS_ATEXIT:
                    atexit._run_exitfuncs()  # noqa: SLF001 - as multiprocessing's Popen
            finally:
                os._exit(code)
    finally:
        pthread_sigmask(SIG_SETMASK, mask)
    popen.begun(popen.forked[0])


def _fork(found: list[int]) -> None:
    """Fork, and put what that returns into `found`.

    In one go of C: an interrupt right after it leaves no process that nobody knows of.
    """
    forked = starmap(os.fork, ((),))
    if sys.version_info < (3, 12):
        found.extend(forked)
        return
    with refused_as_scarcity(), warnings.catch_warnings():
        # It warns if there are threads. A worker runs none of their code,
        # and the locks they may hold are the program's, as with any fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        found.extend(forked)


@contextmanager
def refused_as_scarcity() -> Iterator[None]:
    """Raise what the system would for want of room where Python 3.12 refuses, as it ends."""
    try:
        yield
    except RuntimeError as error:
        raise BlockingIOError(errno.EAGAIN, str(error)) from error


def _age_objects() -> None:
    """Have the garbage collector take what was inherited for old.

    Else the first small collections go through all that is young in the
    parent, and every object that they look at is a page to be copied.
    """
    if not gc.get_freeze_count():  # else the program has seen to it
        gc.freeze()
        gc.unfreeze()


def _make_room_on_the_stack() -> None:
    """Leave tasks as much of the stack as if the pool were not used deep in a recursion."""
    depth, frame = 0, sys._getframe()  # noqa: SLF001 - what there is for this
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    limit = sys.getrecursionlimit()
    if depth > limit // 4:
        sys.setrecursionlimit(limit + depth)


def start(worker: process.BaseProcess) -> None:
    """Start a worker; a daemonic process may do so too, for ours end with their parent."""
    config = process.current_process()._config  # type: ignore[attr-defined] # noqa: SLF001
    daemon = config.pop("daemon", None)
    try:
        worker.start()
    finally:
        if daemon is not None:
            config["daemon"] = daemon
