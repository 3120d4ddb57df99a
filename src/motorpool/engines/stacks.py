"""Take the stacks of worker processes without their help: ask by a signal, read a file.

What answers in the worker is in `worker/signals.py`. A worker tells the number of
its file's descriptor in its page; the file is opened by way of `/proc`.
"""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from motorpool.stacks import Frame, format_frames, parse_dump, task_frames, worker_frames
from motorpool.typed import NamedTuple
from motorpool.worker.signals import NAME, STACK_SIGNAL

# How long to wait for an answer. It takes a millisecond; a worker that is
# stopped, or cannot be scheduled, gives none.
ANSWER_SECONDS = 0.5
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
    """A worker that was asked: its file, and where the answer begins."""

    pid: int
    fd: int
    begin: int


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
        target.send_signal(STACK_SIGNAL)
    except OSError as error:
        os.close(fd)
        return f"no stack: {error.strerror or error}"
    return Asked(target.pid, fd, begin)


def _receive(asked: Asked, deadline: float) -> tuple[str, ...]:
    pause = 0.0002
    try:
        while not _is_answered(asked):
            if time.monotonic() >= deadline:
                if os.fstat(asked.fd).st_size > asked.begin:
                    break  # The task blocks the signal in its own thread; another one answered.
                return (f"  (no stack within {ANSWER_SECONDS} s: {_state(asked.pid)})\n",)
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        size = os.fstat(asked.fd).st_size
        text = os.pread(asked.fd, max(size - asked.begin, 0), asked.begin).decode(errors="replace")
        if size > MOST_BYTES:
            # The writer goes on where it was; what was before becomes a hole.
            os.ftruncate(asked.fd, 0)
    finally:
        os.close(asked.fd)
    return tuple(_format(frames) for frames in parse_dump(text)) or ("  (no Python frame)\n",)


def _is_answered(asked: Asked) -> bool:
    """Tell whether the answer is there, and whole: the handler has returned."""
    if os.fstat(asked.fd).st_size <= asked.begin:
        return False
    with suppress(OSError):
        masks = _MASKS.findall(Path(f"/proc/{asked.pid}/status").read_text())
        return not any(int(mask, 16) >> (STACK_SIGNAL - 1) & 1 for mask in masks)
    return True


def _state(pid: int) -> str:
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return _STATES.get(state, "it does not answer")
    return "it has ended"


def _format(frames: list[Frame]) -> str:
    task = task_frames(frames)
    return format_frames(worker_frames(frames) if task is None else task)
