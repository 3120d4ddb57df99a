"""How far one driver goes: the real scheduler in virtual time, with 10 to 10,000 workers.

    python docs/growth.py            measure a message, simulate, draw docs/growth.svg

One thread handles all messages, one after the other. What a message costs it is
measured here, on a pool of processes and on one of an executor. Then the
scheduler that pools use is run against workers that exist as numbers only. With
chunks of a fixed length, the plot shows where the driver saturates; the dots
are the lengths that the scheduler finds by itself.
"""

import heapq
import os
import sys
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from motorpool import Pool
from motorpool.engines.executor import ExecutorEngine
from motorpool.messages import (
    ChunkDone,
    FinishJob,
    JobSubmitted,
    RecallChunks,
    SendChunk,
    StartWorker,
    Tick,
    WorkerReady,
    WorkerStarted,
)
from motorpool.scheduler import Cost, Scheduler
from motorpool.scheduler.chunking import MESSAGE_SECONDS, timing

PLOT = Path(__file__).with_suffix(".svg")
WORKERS = (10, 100, 1000, 10_000)
LENGTHS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
ITEM_SECONDS = 0.0005
LATENCY = 50e-6
CHUNKS_PER_WORKER = 40
ENOUGH = 0.95


class Run(NamedTuple):
    """What came of a simulated job."""

    efficiency: float  # of the workers' time, what went into tasks
    saturation: float  # of the driver's time, what went into messages


class Growth:
    """A pool of workers that exist as numbers, and a driver whose time is counted."""

    def __init__(self, workers: int, message: float, assumed: float) -> None:
        self.scheduler = Scheduler(workers, None, assumed)
        self.half = message / 2  # a message there, or one back
        self.now = self.driver_free = self.driver_busy = 0.0
        self.finished = 0.0
        self.inboxes: dict[int, deque[Any]] = {}
        self.running: dict[int, Any] = {}
        self.heap: list[Any] = []
        self.order = count()
        for number, _ in enumerate(self.scheduler.start()):
            self.inboxes[number] = deque()
            self.execute(self.scheduler.handle(WorkerStarted(number), 0.0))
            self.execute(self.scheduler.handle(WorkerReady(number), 0.0))

    def run(self, items: int, chunksize: int | None) -> Run:
        """Run one job to its end."""
        self.execute(self.scheduler.handle(JobSubmitted(0, items, chunksize, Cost()), 0.0))
        while self.heap:
            self.now, _, action, arguments = heapq.heappop(self.heap)
            action(*arguments)
        work = items * ITEM_SECONDS
        workers = len(self.inboxes)
        return Run(work / (workers * self.finished), self.driver_busy / self.finished)

    def at(self, when: float, action: Any, *arguments: Any) -> None:
        """Do something later."""
        heapq.heappush(self.heap, (when, next(self.order), action, arguments))

    def spend(self) -> float:
        """Take the driver's time for half a message; return when that is done."""
        self.driver_free = max(self.driver_free, self.now) + self.half
        self.driver_busy += self.half
        return self.driver_free

    def execute(self, commands: list[Any]) -> None:
        """Carry out what the scheduler says."""
        for command in commands:
            kind = type(command)
            if kind is SendChunk:
                self.at(self.spend() + LATENCY, self.arrive, command)
            elif kind is FinishJob:
                self.finished = self.driver_free
            elif kind is RecallChunks or kind is StartWorker:
                self.spend()

    def arrive(self, command: SendChunk) -> None:
        """Have a chunk come to its worker."""
        self.inboxes[command.worker].append(command)
        if command.worker not in self.running:
            self.begin(command.worker)

    def begin(self, worker: int) -> None:
        """Run the next chunk, as far as its budget goes."""
        command = self.running[worker] = self.inboxes[worker].popleft()
        chunk = command.chunk
        items = chunk.stop - chunk.start
        if command.budget >= 0:
            items = min(items, int(command.budget / ITEM_SECONDS) + 1)
        self.at(self.now + items * ITEM_SECONDS, self.end, worker, items)

    def end(self, worker: int, items: int) -> None:
        """Send the results, and go on with the next chunk."""
        chunk = self.running.pop(worker).chunk
        seconds = items * ITEM_SECONDS
        stop = chunk.start + items
        event = ChunkDone(worker, chunk.number, chunk.start, stop, seconds, None, None)
        self.at(self.now + LATENCY, self.receive, event)
        if self.inboxes[worker]:
            self.begin(worker)

    def receive(self, event: ChunkDone) -> None:
        """Have the driver handle an event when its turn comes."""
        done = self.spend()
        self.execute(self.scheduler.handle(event, done))
        wake = self.scheduler.wake_at
        if wake is not None and wake <= done:
            self.execute(self.scheduler.handle(Tick(), done))


def measured() -> dict[str, float]:
    """Return what a chunk costs the driver's thread, there and back, by engine."""
    found = {}
    with Pool(32) as pool:
        found["processes"] = _cost(pool, 32, 0.010)
    with ProcessPoolExecutor(8) as executor, Pool(engine=executor) as pool:
        found["executor"] = _cost(pool, 8, 0.025)
    return found


def _cost(pool: Pool, workers: int, seconds: float) -> float:
    """Return the time that this process takes for a nap of another, too long to share a chunk."""
    naps = [seconds] * workers
    pool.map(time.sleep, naps * 2, 1)
    costs = []
    for _ in range(5):
        begun = time.process_time()
        pool.map(time.sleep, naps * 40, 1)
        costs.append((time.process_time() - begun) / (len(naps) * 40))
    return min(costs)


def fixed(workers: int, message: float, length: float) -> Run:
    """Run a job in chunks of a fixed length."""
    size = max(1, round(length / ITEM_SECONDS))
    return Growth(workers, message, message).run(size * workers * CHUNKS_PER_WORKER, size)


def adaptive(workers: int, message: float, assumed: float) -> tuple[float, Run]:
    """Run a job in the chunks that the scheduler makes; return the length it aims at."""
    length = timing(workers, assumed).target
    items = round(length / ITEM_SECONDS) * workers * CHUNKS_PER_WORKER
    return length, Growth(workers, message, assumed).run(items, None)


def shortest_enough(runs: dict[float, Run]) -> float | None:
    """Return the shortest chunk length that keeps the workers busy enough."""
    return next((length for length, run in runs.items() if run.efficiency >= ENOUGH), None)


def study(message: float, assumed: float, workers: tuple[int, ...]) -> dict[int, Any]:
    """Return fixed and adaptive runs by number of workers."""
    found = {}
    for number in workers:
        runs = {length: fixed(number, message, length) for length in LENGTHS}
        found[number] = runs, adaptive(number, message, assumed)
    return found


def report(name: str, message: float, results: dict[int, Any]) -> None:
    """Print a table."""
    print(f"\n{name}: a message costs the driver {message * 1e6:.0f} us")
    print("| workers | shortest chunk at 95 % | adaptive chunk | efficiency | driver busy |")
    print("| --: | --: | --: | --: | --: |")
    for workers, (runs, (length, run)) in results.items():
        least = shortest_enough(runs)
        least_text = f"{least * 1e3:g} ms" if least else "none"
        print(
            f"| {workers:,} | {least_text} | {length * 1e3:g} ms | {run.efficiency:.1%} "
            f"| {run.saturation:.0%} |"
        )


def draw(studies: dict[str, tuple[float, dict[int, Any]]]) -> None:
    """Draw efficiency over chunk length."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "motorpool"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(studies), figsize=(11, 4.2), sharey=True)
    for axis, (name, (message, results)) in zip(axes, studies.items(), strict=True):
        for workers, (runs, (length, run)) in results.items():
            (line,) = axis.semilogx(
                [1e3 * length for length in runs],
                [run.efficiency for run in runs.values()],
                label=f"{workers:,} workers",
            )
            axis.plot(1e3 * length, run.efficiency, "o", color=line.get_color())
        axis.axhline(ENOUGH, color="gray", linewidth=0.8, linestyle=":")
        axis.set_title(f"{name}: {message * 1e6:.0f} µs a message")
        axis.set_xlabel("length of a chunk, ms")
        axis.set_ylim(0, 1.02)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("workers' time spent in tasks")
    axes[0].legend(title="dot: found by the scheduler")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})
    print(f"\n{PLOT}")


def main() -> None:
    """Measure, simulate, report, draw."""
    assumed = {"processes": MESSAGE_SECONDS, "executor": ExecutorEngine.message_seconds}
    workers = WORKERS if "--small" not in sys.argv else WORKERS[:2]
    studies = {}
    for name, message in measured().items():
        results = study(message, assumed[name], workers)
        report(name, message, results)
        studies[name] = message, results
    if "--small" not in sys.argv:
        draw(studies)


if __name__ == "__main__":
    os.environ.pop("MOTORPOOL_ENGINE", None)
    main()
