"""Where the time of a call and of a chunk goes: `python -m benchmarks.breakdown`.

Four measurements are put together. The wall time of a call, and the CPU time
that the kernel charged to parent and worker for it, come from a run that
nothing disturbs. Their difference is what both waited to be woken up. How the
CPU time divides comes from a second run under `sys.setprofile`, which sees each
call of a Python or C function; what the profiler itself takes is subtracted,
so is what a system call takes beyond what it needs when it need not wait,
since a profile cannot tell work from waiting. What is left of the CPU time is
the kernel's: it stops one process and starts another.
"""

import argparse
import multiprocessing
import os
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median
from time import perf_counter
from types import CodeType, FrameType
from typing import Any

import motorpool
from benchmarks import wakeups
from benchmarks.tasks import increment

HOME = str(Path(motorpool.__file__).parent)
CALLS = 3000
CHUNKS = 300
CHUNK_ITEMS = 1000

PICKLE = "pickle"
SYSTEM = "system calls and locks"
SCHEDULER = "scheduling"
FRAMES = "frames (cut and packed)"
PYTHON = "the rest of motorpool (Python)"
TASK = "the task"
SWITCHES = "switching processes, waking cores"
WAITS = "nobody runs"
PARTS = (PICKLE, SYSTEM, SCHEDULER, FRAMES, PYTHON, TASK)

# These may wait; what they take when they need not is measured by itself.
_MAY_WAIT = {"poll", "read", "readv", "recv", "recv_into", "select", "acquire", "wait"}
_SYSTEM_MODULES = {"posix", "select", "_socket", "_thread", "_signal"}


def category(code: CodeType) -> str:
    """Return which part a Python function belongs to."""
    file = code.co_filename
    if not file.startswith(HOME):
        return TASK if file.startswith(str(Path(__file__).parent)) else PYTHON
    inside = file[len(HOME) + 1 :]
    if inside.startswith("scheduler"):
        return SCHEDULER
    if inside.startswith("transport"):
        return FRAMES
    return PICKLE if inside.startswith(("serialization", "reducers")) else PYTHON


def category_of_c(function: Any) -> str:
    """Return which part a C function belongs to."""
    module = getattr(function, "__module__", None)
    owner = type(getattr(function, "__self__", None))
    if module is None:
        module = owner.__module__
    if module == "_pickle":
        return PICKLE
    if module in _SYSTEM_MODULES:
        may_wait = getattr(function, "__name__", "") in _MAY_WAIT
        return f"{SYSTEM}:{function.__name__}" if may_wait else SYSTEM
    if owner is list and function.__name__ == "extend":
        return TASK  # A bulk run: `values.extend(map(call, items))`.
    return FRAMES if owner.__name__ == "Struct" else ""


class Profiler:
    """Adds up the time between two calls or returns, by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._codes: dict[CodeType, str] = {}
        self._stack: list[str] = []
        self._now = PYTHON
        self._last = perf_counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Charge the time since the last event."""
        self.seconds[self._now] += perf_counter() - self._last
        self.events[self._now] += 1
        if event == "call":
            self._stack.append(self._now)
            self._now = self._of(frame)
        elif event == "c_call":
            self._stack.append(self._now)
            self._now = category_of_c(argument) or self._now
            if self._now.startswith(SYSTEM):
                self.calls[argument.__name__] += 1
        elif self._stack:
            self._now = self._stack.pop()
        elif event == "return" and frame.f_back is not None:
            # A frame that was there before the profiler.
            self._now = self._of(frame.f_back)
        self._last = perf_counter()

    def _of(self, frame: FrameType) -> str:
        code = frame.f_code
        found = self._codes.get(code)
        if found is None:
            found = self._codes[code] = category(code)
        return found

    def start(self) -> None:
        """Begin, in this thread."""
        self._last = perf_counter()
        sys.setprofile(self)

    def stop(self) -> dict[str, Any]:
        """End; return seconds and events by part, and the calls of system and locks."""
        sys.setprofile(None)
        return {"seconds": self.seconds, "events": self.events, "calls": self.calls}


_PROFILER: Profiler | None = None


def start_profiler() -> None:
    """Begin to profile this process's thread, a worker's perhaps."""
    global _PROFILER  # noqa: PLW0603 - there is one in a process
    _PROFILER = Profiler()
    _PROFILER.start()


def stop_profiler() -> dict[str, Any]:
    """End it and return what it found."""
    assert _PROFILER is not None
    return _PROFILER.stop()


def event_seconds() -> float:
    """Return what an event of the profiler takes that it charges to the profiled."""

    def nothing() -> None:
        pass

    def run() -> float:
        begun = perf_counter()
        for _ in range(20_000):
            nothing()
        return perf_counter() - begun

    bare = min(run() for _ in range(5))
    found = []
    for _ in range(5):
        profiler = Profiler()
        profiler.start()
        run()
        profiler.stop()
        found.append((sum(profiler.seconds.values()) - bare) / sum(profiler.events.values()))
    return median(found)


def system_call_seconds(size: int) -> dict[str, float]:
    """Return what each system call takes that need not wait, for a frame of `size` bytes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    epoll = select.epoll()
    epoll.register(ours, select.EPOLLIN)
    frame = bytes(size)
    times: dict[str, list[float]] = {"write": [], "poll": [], "read": []}
    for _ in range(2000):
        marks = [perf_counter()]
        os.write(theirs.fileno(), frame)
        marks.append(perf_counter())
        epoll.poll(1)
        marks.append(perf_counter())
        os.read(ours.fileno(), 1 << 16)
        marks.append(perf_counter())
        for name, begun, ended in zip(times, marks, marks[1:], strict=False):
            times[name].append(ended - begun)
    epoll.close()
    ours.close()
    theirs.close()
    return {name: median(values) for name, values in times.items()}


def cpu_seconds() -> float:
    """Return the CPU time of this process."""
    used = getrusage(RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


Work = Callable[[Any], object]


def cpu_of(pool: Any, work: Work) -> tuple[float, float, float]:
    """Return wall time and the CPU time of parent and worker while `work(pool)` runs."""
    worker, parent, begun = pool.apply(cpu_seconds), cpu_seconds(), perf_counter()
    work(pool)
    taken = perf_counter() - begun
    return taken, cpu_seconds() - parent, pool.apply(cpu_seconds) - worker


def profiles_of(pool: Any, work: Work) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the profiles of parent and worker, each from the least disturbed of some runs."""
    parents, workers = [], []
    for _ in range(5):
        profiler = Profiler()
        profiler.start()
        work(pool)
        parents.append(profiler.stop())
        pool.apply(start_profiler)
        work(pool)
        workers.append(pool.apply(stop_profiler))
    return min(parents, key=_total), min(workers, key=_total)


def _total(profile: dict[str, Any]) -> float:
    return float(sum(profile["seconds"].values()))


def divided(
    profile: dict[str, Any], cpu: float, each: float, calls: dict[str, float]
) -> dict[str, float]:
    """Return the parts of `cpu` seconds: system calls as measured, the rest as profiled."""
    parts = dict.fromkeys(PARTS, 0.0)
    for name, seconds in profile["seconds"].items():
        part, _, call = name.partition(":")
        if call:
            parts[part] += calls.get(call, calls["read"]) * profile["calls"][call]
        else:
            parts[part] += max(0.0, seconds - each * profile["events"][name])
    total = sum(parts.values())
    if total > cpu:  # A profile sees short things longer than they are.
        parts = {name: seconds * cpu / total for name, seconds in parts.items()}
    parts[SWITCHES] = max(0.0, cpu - total)
    return parts


def _apply_many(pool: Any) -> None:
    for number in range(CALLS):
        pool.apply(increment, (number,))


def _map_chunks(pool: Any) -> None:
    pool.map(abs, range(CHUNKS * CHUNK_ITEMS), chunksize=CHUNK_ITEMS)


def _measured(work: Work, count: int, size: int, *, on_one_core: bool) -> dict[str, Any]:
    """Return the parts of one of `count` calls or chunks, in microseconds."""
    before = os.sched_getaffinity(0)
    # Where tasks are counted, chunks do not travel together, and calls go by the books.
    tasks = sys.maxsize if work is _map_chunks else None
    try:
        with motorpool.Pool(1, None, (), tasks, multiprocessing.get_context("fork")) as pool:
            pool.apply(os.sched_setaffinity, (0, {min(before)}))
            os.sched_setaffinity(0, {min(before) if on_one_core else max(before)})
            work(pool)
            wall, parent, worker = min(cpu_of(pool, work) for _ in range(5))
            profiles = profiles_of(pool, work)
    finally:
        os.sched_setaffinity(0, before)
    each, calls = event_seconds(), system_call_seconds(size)
    to_each = 1e6 / count
    columns = [
        {name: to_each * seconds for name, seconds in divided(profile, cpu, each, calls).items()}
        for profile, cpu in zip(profiles, (parent, worker), strict=True)
    ]
    counts = [
        {name: round(number / count, 2) for name, number in profile["calls"].items()}
        for profile in profiles
    ]
    return {
        "wall": to_each * wall,
        "parent": columns[0],
        "worker": columns[1],
        "calls": counts,
    }


def _table(places: dict[str, dict[str, Any]], *, in_turns: bool) -> list[str]:
    heads = [f"{who}, {place}" for place in places for who in ("parent", "worker")]
    lines = [f"| µs | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    columns = [found[who] for found in places.values() for who in ("parent", "worker")]
    lines += [_row(part, [column[part] for column in columns]) for part in (*PARTS, SWITCHES)]
    lines.append(_row("CPU time", [sum(column.values()) for column in columns]))
    walls: list[float | None] = []
    waits: list[float | None] = []
    for found in places.values():
        cpu = sum(found["parent"].values()) + sum(found["worker"].values())
        waits += [max(0.0, found["wall"] - cpu), None]
        walls += [found["wall"], None]
    if in_turns:
        lines.append(_row(WAITS, waits))
    lines.append(_row("wall time", walls))
    return lines


def _row(name: str, values: list[Any]) -> str:
    cells = ["" if value is None else f"{value:.1f}" for value in values]
    return f"| {name} | {' | '.join(cells)} |"


def _calls(found: dict[str, Any]) -> str:
    texts = []
    for who, counts in zip(("the parent", "the worker"), found["calls"], strict=True):
        named = [f"{count:g} `{name}`" for name, count in counts.items() if count >= 0.01]
        texts.append(f"{who} makes {', '.join(named)}")
    return "; ".join(texts)


def as_markdown() -> str:
    """Measure, and return the tables."""
    calls = {
        "one core": _measured(_apply_many, CALLS, 150, on_one_core=True),
        "two cores": _measured(_apply_many, CALLS, 150, on_one_core=False),
    }
    chunks = {
        "two cores": _measured(_map_chunks, CHUNKS, 3 * CHUNK_ITEMS, on_one_core=False),
    }
    lines = [
        "One `apply(increment, (n,))` on an idle pool of one worker. Parent and worker take turns,",
        "on one core or each on its own:",
        "",
        *_table(calls, in_turns=True),
        "",
        f"System calls and calls of locks, of each: {_calls(calls['one core'])}.",
        "",
        f"One chunk of {CHUNK_ITEMS:,} ints, `map(abs, ..., chunksize={CHUNK_ITEMS})`, one",
        "worker, which is sent one at a time. Parent and worker run side by side:",
        "",
        *_table(chunks, in_turns=False),
        "",
        f"System calls and calls of locks, of each: {_calls(chunks['two cores'])}.",
        "",
        "The same round trip with nothing but 100 bytes each way, by mechanism:",
        "",
        wakeups.as_markdown(),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables, and write them into the docs if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.breakdown")
    parser.add_argument("--docs", action="store_true", help="write the tables into docs/ as well")
    is_for_docs = parser.parse_args().docs
    tables = as_markdown()
    print(tables)
    if is_for_docs:
        from benchmarks.page import write_section

        write_section("breakdown", tables)


if __name__ == "__main__":
    main()
