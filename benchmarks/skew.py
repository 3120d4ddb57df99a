"""Whether cores stay busy when a few tasks are long, and stand where they hurt."""

import random
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from benchmarks import floors
from benchmarks.contenders import Contender
from benchmarks.scenario import (
    HIGHER,
    PEERS,
    Metric,
    Metrics,
    Scenario,
    Settings,
    at_least,
    check,
)
from benchmarks.tasks import spin

SHARE = (Metric("ideal", "of ideal", HIGHER),)
POSITIONS = {"first": 0.0, "third": 1 / 3, "two_thirds": 2 / 3, "last": 1.0}
AT_POSITIONS = tuple(Metric(name, "of ideal", HIGHER) for name in POSITIONS)


def fifty_times(settings: Settings, *, long_first: bool) -> list[float]:
    """Return the lengths of 400 tasks of which 5 % are 50 times longer."""
    short = settings.pick(700, 300) * 1e-6
    lengths = [short] * 380 + [50 * short] * 20
    return lengths[::-1] if long_first else lengths


def one_long(settings: Settings, position: float) -> list[float]:
    """Return the lengths of one task of 1 s among 10,000 of 10 µs."""
    count = settings.pick(10_000, 2_000)
    lengths = [10e-6] * count
    lengths.insert(round(position * count), settings.pick(1000, 200) * 1e-3)
    return lengths


def heavy_tail(settings: Settings) -> list[float]:
    """Return lengths from a Pareto distribution, the same in each run, 1.5 s together."""
    draw = random.Random(4)
    lengths = [draw.paretovariate(1.1) for _ in range(settings.pick(2000, 800))]
    scale = settings.pick(1500, 500) * 1e-3 / sum(lengths)
    return [length * scale for length in lengths]


def spins(run: Callable[..., Any], loops: Sequence[int], workers: int) -> float:
    """Run busy loops by `run(function, items)`; return the ideal makespan over the measured one.

    The ideal is the shortest that the lengths allow as they were measured in the tasks.
    """
    begun = perf_counter()
    results = run(spin, loops)
    taken = perf_counter() - begun
    check([each for each, _ in results] == loops, "results of busy loops")
    seconds = [length for _, length in results]
    return max(sum(seconds) / workers, *seconds) / taken


def share(contender: Contender, settings: Settings, lengths: Sequence[float]) -> float:
    """Return the ideal makespan of `map` over the measured one."""
    loops = [settings.loops(length) for length in lengths]
    with contender:
        # Another function than the one measured: what it costs is not known yet.
        check(contender.map(abs, list(range(-64, 0))) == list(range(64, 0, -1)), "warm-up")
        return spins(contender.map, loops, contender.workers)


def floor(settings: Settings, lengths: Sequence[float]) -> float:
    """Return that share for two bare processes that take the tasks in order."""
    return floors.spins_in_order([settings.loops(length) for length in lengths])


def _at_positions(contender: Contender, settings: Settings) -> Metrics:
    return {
        name: share(contender, settings, one_long(settings, at)) for name, at in POSITIONS.items()
    }


def _floor_at_positions(settings: Settings) -> Metrics:
    return {name: floor(settings, one_long(settings, at)) for name, at in POSITIONS.items()}


SCENARIOS = [
    Scenario(
        "skew.worst_last",
        "400 tasks, the last 5 % 50 times longer",
        SHARE,
        lambda c, s: {"ideal": share(c, s, fifty_times(s, long_first=False))},
        lambda s: {"ideal": floor(s, fifty_times(s, long_first=False))},
        (at_least("ideal", 0.97, "one"), at_least("ideal", 1, "best peer")),
        ("map",),
        peers=(*PEERS, "ray", "dask"),
        is_for_heavy=True,
    ),
    Scenario(
        "skew.worst_first",
        "400 tasks, the first 5 % 50 times longer",
        SHARE,
        lambda c, s: {"ideal": share(c, s, fifty_times(s, long_first=True))},
        lambda s: {"ideal": floor(s, fifty_times(s, long_first=True))},
        (at_least("ideal", 0.97, "one"), at_least("ideal", 1, "best peer")),
        ("map",),
    ),
    Scenario(
        "skew.heavy_tail",
        "2,000 tasks, lengths from a heavy tail",
        SHARE,
        lambda c, s: {"ideal": share(c, s, heavy_tail(s))},
        lambda s: {"ideal": floor(s, heavy_tail(s))},
        (at_least("ideal", 0.97, "one"), at_least("ideal", 1, "best peer")),
        ("map",),
    ),
    Scenario(
        "skew.one_long",
        "one task of 1 s among 10,000 of 10 µs (quick: 0.2 s among 2,000), by position",
        AT_POSITIONS,
        _at_positions,
        _floor_at_positions,
        # Who takes tasks in order has run all others when it meets the last: 0.95 at the most.
        tuple(at_least(name, 0.97, "one") for name in POSITIONS)
        + tuple(at_least(name, 0.97, "floor") for name in POSITIONS),
        ("map",),
        peers=("stdlib", "futures", "joblib", "mpire"),
        repetitions=2,
    ),
]
