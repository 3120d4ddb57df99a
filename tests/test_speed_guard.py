"""No slower than what it replaces: ratios, both sides taken in turns in one run."""

import multiprocessing
import statistics
import time

import pytest

import workloads
from conftest import START_METHODS, build_pool

pytestmark = pytest.mark.skipif("fork" not in START_METHODS, reason="compares pools that fork")
REPETITIONS = 7
CALLS = 300
ITEMS = range(200_000)


@pytest.fixture
def both(leak_guard):
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
