"""Take the stacks of worker processes without their help: ask by a signal, read a file.

What answers in the worker is in `worker/signals.py`. A worker tells the number of
its file's descriptor in its page; the file is opened by way of `/proc`. One that runs
Python code answers the first question, between two bytecodes. If it has not answered
although it had the time to, it sits in C code or in a system call: it is safe then to
have a signal handler read its frames, and that is the second question.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from motorpool.stacks import Frame, format_frames, parse_dump, task_frames, worker_frames
from motorpool.typed import NamedTuple
from motorpool.worker.signals import END, NAME, STACK_SIGNAL, STUCK_SIGNAL

# How long to wait for an answer. It takes a millisecond; a worker that is
# stopped, or cannot be scheduled, gives none.
ANSWER_SECONDS = 0.5
# What shows that a worker is not in Python code: it sleeps and did not answer for so
# long, or has computed for so many ticks of the kernel's clock without an answer.
SLEEP_SECONDS = 0.001
MOST_TICKS = 3
# A file that is longer than this is emptied.
MOST_BYTES = 1 << 20
_MASKS = re.compile(r"^(?:SigPnd|ShdPnd|SigBlk):\s*([0-9a-f]+)$", re.MULTILINE)
_STATES = {
    "T": "it is stopped",
    "t": "it is stopped by a debugger",
    "D": "it waits in the kernel, for a disk or a network file system perhaps",
    "Z": "it has ended",
}


class Target(NamedTuple):
    """A worker process to be asked, and the descriptor of its file, 0 if it has none yet."""

    pid: int
    fd: int
    send_signal: Callable[[int], None]


class Asked(NamedTuple):
    """A worker that was asked: its file, where the answer begins, its computing time before."""

    target: Target
    fd: int
    begin: int
    ticks: int


def ask_stacks(targets: Sequence[Target | None]) -> Callable[[], list[tuple[str, ...]]]:
    """Ask targets for their stacks, and return a function that waits for them.

    It gives the stack of each target's tasks; where there is none, the reason,
    in parentheses.
    """
    asked = [_ask(target) for target in targets]
    deadline = time.monotonic() + ANSWER_SECONDS

    def receive() -> list[tuple[str, ...]]:
        return [
            _receive(one, deadline) if isinstance(one, Asked) else (f"  ({one})\n",)
            for one in asked
        ]

    return receive


def _ask(target: Target | None) -> Asked | str:
    """Send the signal; return the reason if it cannot be."""
    if target is None:
        return "no stack: the worker has ended"
    path = Path(f"/proc/{target.pid}/fd/{target.fd}")
    try:
        # The task may have closed the file; its number may be another's now.
        if not target.fd or NAME not in path.readlink().name:
            return "no stack: the worker is starting, or closed the file for it"
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"no stack: {error.strerror or error}"
    try:
        info = Path(f"/proc/{target.pid}/fdinfo/{target.fd}").read_text()
        begin = int(info.split(maxsplit=2)[1])
        _, ticks = _condition(target.pid)
        target.send_signal(STACK_SIGNAL)
    except OSError as error:
        os.close(fd)
        return f"no stack: {error.strerror or error}"
    return Asked(target, fd, begin, ticks)


def _receive(asked: Asked, deadline: float) -> tuple[str, ...]:
    try:
        text = _answer(asked, deadline)
        if asked.begin + len(text) > MOST_BYTES:
            # The writer goes on where it was; what was before becomes a hole.
            os.ftruncate(asked.fd, 0)
    finally:
        os.close(asked.fd)
    if not text:
        return (f"  (no stack within {ANSWER_SECONDS} s: {_state(asked.target.pid)})\n",)
    return tuple(_format(frames) for frames in parse_dump(text)) or ("  (no Python frame)\n",)


def _answer(asked: Asked, deadline: float) -> str:
    """Return what the worker has written, empty if it wrote nothing in time."""
    sleep_until = deadline - ANSWER_SECONDS + SLEEP_SECONDS
    is_stuck = False
    pause = 0.0002
    while True:
        text = _read(asked)
        if END in text or (text and is_stuck and _is_over(asked.target.pid)):
            break
        now = time.monotonic()
        if now >= deadline:
            break  # Perhaps the task blocks the signal in its own thread, and another answered.
        if not is_stuck and _is_in_c(asked, is_late=now >= sleep_until):
            is_stuck = True
            with suppress(OSError):
                asked.target.send_signal(STUCK_SIGNAL)
        time.sleep(pause)
        pause = min(2 * pause, 0.005)
    return text.partition(END)[0].decode(errors="replace")


def _read(asked: Asked) -> bytes:
    size = os.fstat(asked.fd).st_size
    return os.pread(asked.fd, max(size - asked.begin, 0), asked.begin)


def _is_in_c(asked: Asked, *, is_late: bool) -> bool:
    """Tell whether the worker would have answered if it ran Python code."""
    with suppress(OSError, IndexError):
        state, ticks = _condition(asked.target.pid)
        return (is_late and state in "SD") or ticks - asked.ticks >= MOST_TICKS
    return False


def _is_over(pid: int) -> bool:
    """Tell whether the handler of `STUCK_SIGNAL` has returned."""
    with suppress(OSError):
        masks = _MASKS.findall(Path(f"/proc/{pid}/status").read_text())
        return not any(int(mask, 16) >> (STUCK_SIGNAL - 1) & 1 for mask in masks)
    return True


def _condition(pid: int) -> tuple[str, int]:
    """Return the state of the thread that runs the tasks, and its computing time in ticks."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
    return stat[0], int(stat[11]) + int(stat[12])


def _state(pid: int) -> str:
    with suppress(OSError, IndexError):
        return _STATES.get(_condition(pid)[0], "it does not answer")
    return "it has ended"


def _format(frames: list[Frame]) -> str:
    task = task_frames(frames)
    return format_frames(worker_frames(frames) if task is None else task)
