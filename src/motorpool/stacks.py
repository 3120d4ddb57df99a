"""Stacks of workers as text: read what `faulthandler` wrote, and show it to a person."""

import linecache
import re

from motorpool.typed import NamedTuple

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<name>.*)')
_HEADER = re.compile(r"^Stack \(most recent call first\):$", re.MULTILINE)

# What calls tasks, and what calls that.
_RUN = "motorpool/worker/run.py"
_MAIN = "motorpool/worker/main.py"
# What tells a stack between two bytecodes of the task.
_TELLER = "motorpool/worker/signals.py"


class Frame(NamedTuple):
    """One call of a stack."""

    file: str
    line: int
    name: str


class WorkerStack(NamedTuple):
    """What a worker is running, and where it is in it.

    Attributes
    ----------
    pid, worker
        The worker's process, and its name; for a thread, the process it is in.
    function, index, item
        The task: the function's name, the item's position in the submitted
        iterable and its short repr. None if the worker is not running a task.
    seconds
        For how long the task has run, to about a hundredth of a second; None
        if the worker is not running one.
    stack
        The calls of the task's thread, the most recent last, without
        motorpool's own. If it could not be had, the reason, in parentheses.
    """

    pid: int
    worker: str
    function: str | None
    index: int | None  # type: ignore[assignment] # a tuple's method, which nobody misses
    item: str | None
    seconds: float | None
    stack: str

    def __str__(self) -> str:
        """Return it all as text, much like a traceback."""
        lines = [f"{self.worker} (pid {self.pid}) {self._doing()}"]
        if self.stack:
            lines.append(self.stack.rstrip("\n"))
        return "\n".join(lines)

    def _doing(self) -> str:
        if self.function is None:
            return "is not running a task" + (":" if self.stack else "")
        return (
            f"has been running item {self.index}, {self.item}, of {self.function} "
            f"for {self.seconds:.1f} s:"
        )


class Stacks(tuple[WorkerStack, ...]):
    """The stacks of all workers; as text, one after the other."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the stacks as text."""
        return "\n\n".join(map(str, self))


def parse_dump(text: str) -> list[list[Frame]]:
    """Return the stacks in a dump of `faulthandler`; in each, the most recent call comes last."""
    return [_parse_thread(block) for block in _HEADER.split(text)[1:]]


def _parse_thread(block: str) -> list[Frame]:
    found = filter(None, map(_FRAME.fullmatch, block.splitlines()))
    frames = [
        Frame(call["file"], int(call["line"]) if call["line"].isdigit() else 0, call["name"])
        for call in found
    ]
    if frames and frames[0].file.endswith(_TELLER):
        del frames[0]
    return frames[::-1]


def task_frames(frames: list[Frame]) -> list[Frame] | None:
    """Return the calls that a worker's task made, None if `frames` has no task."""
    for at in range(len(frames) - 1, -1, -1):
        if frames[at].file.endswith(_RUN):
            return frames[at + 1 :]
    return None


def worker_frames(frames: list[Frame]) -> list[Frame]:
    """Return the calls of a worker without a task; none if it merely waits for one.

    Left out is what led to its loop: under fork, the calls of the parent.
    """
    for at in range(len(frames) - 1, -1, -1):
        if frames[at].name == "serve" and frames[at].file.endswith(_MAIN):
            frames = frames[at + 1 :]
            break
    return frames if any("motorpool/" not in frame.file for frame in frames) else []


def format_frames(frames: list[Frame]) -> str:
    """Return `frames` as in a traceback, with the lines of source that are at hand."""
    lines = []
    for file, line, name in frames:
        lines.append(f'  File "{file}", line {line or "?"}, in {name}\n')
        source = linecache.getline(file, line).strip() if line else ""
        if source:
            lines.append(f"    {source}\n")
    return "".join(lines)
