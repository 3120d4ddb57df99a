"""No slower than what it replaces: ratios, both sides taken in turns in one run.

And no more work than it takes: the calls of functions are counted, which no
busy machine changes. `benchmarks/` measures the times.
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

import pytest

import workloads
from conftest import START_METHODS, build_pool

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif("fork" not in START_METHODS, reason="compares pools that fork"),
]
REPETITIONS = 7
CALLS = 300
ITEMS = range(200_000)


@pytest.fixture
def one_core():
    """Keep the test and its pools on one core.

    To wake another core takes longer than all that a pool does, and where the
    kernel puts a worker is chance. On one core only the work counts, and nobody
    looks again and again for what comes soon.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def both(one_core, leak_guard):
    """Give the standard library's pool and motorpool's, warm, by name."""
    pools = {
        "stdlib": multiprocessing.get_context("fork").Pool(2),
        "motorpool": build_pool("fork", 2),
    }
    for pool in pools.values():
        pool.map(workloads.square, range(100), chunksize=1)
    yield pools
    while pools:
        _, pool = pools.popitem()
        pool.terminate()
        pool.join()


def seconds(action):
    """Return how long `action()` takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def test_apply_is_faster(both):
    """The median round trip of a blocking call is shorter than the stdlib's."""
    times = {name: [] for name in both}
    for _ in range(REPETITIONS):
        for name, pool in both.items():
            times[name] += [seconds(lambda pool=pool: pool.apply(abs, (-1,))) for _ in range(CALLS)]
    medians = {name: statistics.median(taken) for name, taken in times.items()}

    assert medians["motorpool"] < medians["stdlib"], medians


def test_map_of_many_small_items_is_no_slower(both):
    """A default `map` over 200,000 integers takes at most 1.5 times the stdlib's."""
    ratios = []
    for _ in range(REPETITIONS):
        taken = {
            name: seconds(lambda pool=pool: pool.map(abs, ITEMS)) for name, pool in both.items()
        }
        ratios.append(taken["motorpool"] / taken["stdlib"])

    assert statistics.median(ratios) <= 1.5, sorted(ratios)


def calls_of(action):
    """Return the least number of functions that this thread calls in `action()`."""
    return min(workloads.CallCounter().of(action) for _ in range(REPETITIONS))


@pytest.fixture
def lone(one_core, leak_guard):
    """Give a pool of one worker, warm."""
    with build_pool("fork", 1) as pool:
        for _ in range(20):
            pool.apply(abs, (-1,))
        yield pool


@pytest.fixture
def counting(leak_guard):
    """Give a pool of one worker, warm, in which each chunk travels by itself: it counts them."""
    with build_pool("fork", 1, maxtasksperchild=10**9) as pool:
        pool.map(abs, range(100), chunksize=5)
        yield pool


def calls_of_worker(pool, action):
    """Return the least number of functions that the pool's one worker calls in `action()`."""

    def once():
        pool.apply(workloads.begin_counting)
        action()
        return pool.apply(workloads.end_counting)

    # A worker that is kept waiting amid short items takes them for long ones.
    return min(once() for _ in range(3))


@pytest.mark.quick
def test_apply_calls_few_functions(lone):
    """A blocking call stays as short as it is: 69 functions in the caller, 27 in the worker."""
    caller = calls_of(lambda: lone.apply(abs, (-1,)))
    many = calls_of_worker(lone, lambda: [lone.apply(abs, (-1,)) for _ in range(CALLS)])

    assert caller <= 80
    assert many / CALLS <= 32


@pytest.fixture
def thread(leak_guard):
    """Give a pool of one thread, warm."""
    with build_pool("threads", 1) as pool:
        for _ in range(20):
            pool.apply(abs, (-1,))
        yield pool


@pytest.mark.quick
def test_call_of_a_thread_calls_few_functions(thread):
    """A blocking call of a thread stays as short as it is: 47 functions in the caller."""
    assert calls_of(lambda: thread.apply(abs, (-1,))) <= 55


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["fork", "threads"])
def test_call_of_many_calls_few_functions(leak_guard, kind):
    """A call that finds the pool busy joins others, which costs the caller 17 functions."""
    with build_pool(kind, 1) as pool:
        first = [pool.apply_async(abs, (-1,)) for _ in range(2)]
        many = calls_of(lambda: first.extend(pool.apply_async(abs, (-1,)) for _ in range(CALLS)))

        assert [result.get() for result in first] == [1] * len(first)
    assert many / CALLS <= 40


@pytest.mark.quick
@pytest.mark.parametrize("length", [10, 100])
def test_chunk_costs_the_parent_few_calls(counting, length):
    """A chunk costs the parent 116 calls, however many items it has."""

    def calls(chunks):
        items = range(chunks * length)
        return calls_of(lambda: counting.map(abs, items, chunksize=length))

    calls(10)

    assert (calls(250) - calls(50)) / 200 <= 124


@pytest.mark.quick
def test_chunk_costs_the_worker_few_calls(counting):
    """A chunk costs the worker 64 calls if its items are run in bulk, else 18 more an item."""
    counting.map(abs, range(10_000), chunksize=1000)

    # So few items are one bulk run, however slow the machine: of more, it would be chance.
    short = calls_of_worker(counting, lambda: counting.map(abs, range(1000), chunksize=10))
    unknown = calls_of_worker(
        counting, lambda: counting.map(workloads.same, range(300), chunksize=10)
    )

    assert short / 100 <= 72
    assert unknown / 300 <= 20


@pytest.mark.quick
def test_single_items_cost_the_parent_next_to_nothing(lone):
    """Items of `chunksize=1` travel together, so that one costs the parent less than a call."""
    lone.map(abs, range(2000), chunksize=1)

    calls = calls_of(lambda: lone.map(abs, range(20_000), chunksize=1))

    assert calls <= 20_000


def modules_of(program):
    """Return the modules that `program` has imported at its end, in an interpreter of its own."""
    report = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    finished = subprocess.run(
        [sys.executable, "-c", program + report], check=True, stdout=subprocess.PIPE
    )
    return set(json.loads(finished.stdout.splitlines()[-1]))


def ours(modules):
    """Return those of `modules` that are motorpool's."""
    return {name for name in modules if name.partition(".")[0] == "motorpool"}


# What is slow to import, and no plain pool has any use for.
SLOW = {
    "typing",
    "logging",
    "pathlib",
    "concurrent.futures",
    "cloudpickle",
    "dataclasses",
    "asyncio",
    "dis",
}


@pytest.mark.quick
def test_import_imports_little():
    """`from motorpool import Pool` imports 48 modules of ours, and what the stdlib's pool does."""
    stdlib = modules_of("import multiprocessing.pool")
    imported = modules_of("from motorpool import Pool") - stdlib

    assert {name.partition(".")[0] for name in imported - ours(imported)} <= {"importlib", "mmap"}
    assert len(ours(imported)) <= 49, sorted(imported)


@pytest.mark.quick
def test_plain_pool_imports_nothing_slow():
    """A pool that starts, calls and ends imports nothing that only few pools need."""
    stdlib = modules_of("import multiprocessing.pool")
    imported = modules_of(
        "from multiprocessing import get_context\n"
        "from motorpool import Pool\n"
        "with Pool(2, context=get_context('fork')) as pool:\n"
        "    assert pool.apply(abs, (-1,)) == 1\n"
        "    assert pool.map(abs, [-1, 2]) == [1, 2]"
    )

    assert not imported & (SLOW - stdlib)
    assert len(ours(imported)) <= 60, sorted(ours(imported))


@pytest.mark.quick
def test_functions_and_classes_that_a_fork_has_import_nothing_slow():
    """What the script defined before the pool was made is not pickled by value."""
    stdlib = modules_of("import multiprocessing.pool")
    imported = modules_of(
        "from multiprocessing import get_context\n"
        "from motorpool import Pool\n"
        "class Box:\n"
        "    def __init__(self, number):\n"
        "        self.number = number\n"
        "def twice(box):\n"
        "    return Box(2 * box.number)\n"
        "with Pool(2, context=get_context('fork')) as pool:\n"
        "    assert [box.number for box in pool.map(twice, [Box(1), Box(2)])] == [2, 4]"
    )

    assert not imported & (SLOW - stdlib)


@pytest.mark.quick
def test_worker_imports_little(leak_guard):
    """A spawned worker imports 20 modules of ours, nothing slow, and no multiprocessing."""
    bare = modules_of("")
    with build_pool("spawn", 1) as pool:
        imported = set(pool.apply(eval, ("sorted(__import__('sys').modules)",))) - bare

    assert not imported & (SLOW | {"multiprocessing", "subprocess", "tempfile"})
    assert len(ours(imported)) <= 22, sorted(ours(imported))
