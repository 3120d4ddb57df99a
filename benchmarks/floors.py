"""What the machine itself takes: nobody is faster, and everybody is compared with it."""

import os
import pickle
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.tasks import spin

_LENGTHS = struct.Struct("dd")  # of tasks: their sum, and the longest
_HUNDRED_BYTES = b"x" * 80  # and what pickle puts around it


def run_in_fork(function: Callable[[], object]) -> int:
    """Run `function` in a forked child that does nothing else; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid


def pipe_round_trips(count: int) -> list[float]:
    """Return the seconds of each round trip of a 100-byte pickle through two raw pipes.

    To wake a process on another core can take ten times as long as on the same
    one, and the kernel places them as it likes. So this measures both, and
    returns the shorter ones.
    """
    cpus = os.sched_getaffinity(0)
    together = _round_trips(count, {min(cpus)})
    free = _round_trips(count, cpus)
    return min(together, free, key=median)


def _round_trips(count: int, cpus: set[int]) -> list[float]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    here, there = os.pipe(), os.pipe()

    def answer() -> None:
        os.close(here[1])
        while message := os.read(here[0], 4096):
            os.write(there[1], pickle.dumps(pickle.loads(message)))

    pid = run_in_fork(answer)
    os.close(here[0])
    times = []
    for _ in range(count):
        begun = perf_counter()
        os.write(here[1], pickle.dumps(_HUNDRED_BYTES))
        pickle.loads(os.read(there[0], 4096))
        times.append(perf_counter() - begun)
    os.close(here[1])
    os.waitpid(pid, 0)
    for fd in there:
        os.close(fd)
    os.sched_setaffinity(0, before)
    return times


def pickle_both_ways(items: Any, results: Any) -> float:
    """Return the seconds to pickle and unpickle items and results once, in one process."""
    begun = perf_counter()
    for values in (items, results):
        pickle.loads(pickle.dumps(values, 5))
    return perf_counter() - begun


def pickle_each_both_ways(function: object, items: Iterable[Any]) -> float:
    """Return the seconds to do so for each task by itself, its function included."""
    begun = perf_counter()
    for item in items:
        pickle.loads(pickle.dumps((function, (item,)), 5))
        pickle.loads(pickle.dumps(item, 5))
    return perf_counter() - begun


def fork_and_exit() -> float:
    """Return the seconds of a bare fork, exit and wait."""
    begun = perf_counter()
    os.waitpid(run_in_fork(lambda: None), 0)
    return perf_counter() - begun


def bare_interpreter() -> float:
    """Return the seconds of an interpreter that starts and ends, and imports nothing."""
    begun = perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    return perf_counter() - begun


def copy_speed(array: Any, rounds: int = 9) -> float:
    """Return the bytes a second at which numpy copies one array onto another, both in use."""
    import numpy as np

    other = np.empty_like(array)
    times = []
    for _ in range(rounds + 1):
        begun = perf_counter()
        np.copyto(other, array)
        times.append(perf_counter() - begun)
    return float(array.nbytes / median(times[1:]))


def spins_in_order(loops: Sequence[int], processes: int = 2) -> float:
    """Return the share of the ideal makespan of bare processes that are told what to run.

    Each loop goes to who would be free first, in the given order: what a pool
    without overhead does that does not know the lengths either.
    """
    hands: list[list[int]] = [[] for _ in range(processes)]
    sums = [0] * processes
    for length in loops:
        least = sums.index(min(sums))
        sums[least] += length
        hands[least].append(length)
    start, done = os.pipe(), os.pipe()

    def work(hand: list[int]) -> None:
        os.write(done[1], bytes(_LENGTHS.size))
        os.read(start[0], 1)
        seconds = [spin(length)[1] for length in hand]
        os.write(done[1], _LENGTHS.pack(sum(seconds), max(seconds)))

    pids = [run_in_fork(partial(work, hand)) for hand in hands]
    _read_exactly(done[0], processes * _LENGTHS.size)
    begun = perf_counter()
    os.write(start[1], bytes(processes))
    ran = list(_LENGTHS.iter_unpack(_read_exactly(done[0], processes * _LENGTHS.size)))
    taken = perf_counter() - begun
    for pid in pids:
        os.waitpid(pid, 0)
    for fd in (*start, *done):
        os.close(fd)
    return max(sum(total for total, _ in ran) / processes, *(most for _, most in ran)) / taken


def _read_exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return data


@contextmanager
def io_thread(pause: float) -> Any:
    """Run a thread that reads and writes files, with `pause` seconds of sleep in between."""
    import threading

    stop = threading.Event()

    def work() -> None:
        with open("/dev/zero", "rb", 0) as source, open(os.devnull, "wb", 0) as sink:
            while not stop.is_set():
                sink.write(source.read(4096))
                if pause:
                    time.sleep(pause)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
