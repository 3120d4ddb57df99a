"""How much of two cores the tasks get, by their length: the headline plot."""

import os
import random
from collections.abc import Iterable
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
from benchmarks.skew import floor, share, spins
from benchmarks.tasks import nap

# Name: length of a task and number of tasks, in seconds.
LENGTHS = {
    "10us": (10e-6, 30_000),
    "100us": (100e-6, 4_000),
    "1ms": (1e-3, 600),
    "10ms": (1e-2, 80),
}
BY_LENGTH = tuple(Metric(name, "of 2 cores", HIGHER) for name in LENGTHS)
MIXED = (Metric("list", "of 2 cores", HIGHER), Metric("iterator", "of 2 cores", HIGHER))
WANTED = {"10us": 0.95, "100us": 0.98, "1ms": 0.98, "10ms": 0.98}


def _lengths(name: str, settings: Settings) -> list[float]:
    length, count = LENGTHS[name]
    return [length] * (count if not settings.is_quick else count // 2)


def _mixed(settings: Settings) -> list[float]:
    """Return lengths between 10 µs and 10 ms, each decade as often as the others."""
    draw = random.Random(5)
    return [10 ** draw.uniform(-5, -2) for _ in range(settings.pick(600, 200))]


def _lazily(contender: Contender, settings: Settings, lengths: list[float]) -> float:
    """Return the ideal makespan of `imap` of a generator over the measured one."""
    loops = [settings.loops(length) for length in lengths]
    with contender:
        check(contender.map(abs, list(range(-64, 0))) == list(range(64, 0, -1)), "warm-up")
        return spins(
            lambda function, items: list(contender.imap(function, (each for each in items))),
            loops,
            contender.workers,
        )


def _by_length(contender: Contender, settings: Settings) -> Metrics:
    return {name: share(contender, settings, _lengths(name, settings)) for name in LENGTHS}


def _by_length_lazily(contender: Contender, settings: Settings) -> Metrics:
    return {name: _lazily(contender, settings, _lengths(name, settings)) for name in LENGTHS}


def _both_mixed(contender: Contender, settings: Settings) -> Metrics:
    lengths = _mixed(settings)
    return {
        "list": share(contender, settings, lengths),
        "iterator": _lazily(contender, settings, lengths),
    }


def _floor_by_length(settings: Settings) -> Metrics:
    return {name: floor(settings, _lengths(name, settings)) for name in LENGTHS}


def _floor_mixed(settings: Settings) -> Metrics:
    return dict.fromkeys(("list", "iterator"), floor(settings, _mixed(settings)))


def sleepers(results: Iterable[Any], count: int, workers: int, begun: float) -> Metrics:
    """Return the share of the ideal makespan that naps of 10 ms took."""
    check(list(results) == [0.01] * count, "results of naps")
    return {"ideal": -(-count // workers) * 0.01 / (perf_counter() - begun)}


def _naps(contender: Contender, settings: Settings) -> Metrics:
    with contender:
        contender.map(abs, list(range(64)))
        begun = perf_counter()
        return sleepers(contender.map(nap, [0.01] * 200), 200, contender.workers, begun)


def _floor_naps(settings: Settings) -> Metrics:
    begun = perf_counter()
    pids = [floors.run_in_fork(lambda: [nap(0.01) for _ in range(13)]) for _ in range(16)]
    for pid in pids:
        os.waitpid(pid, 0)
    return {"ideal": 0.13 / (perf_counter() - begun)}


def _bounds(factor: float) -> tuple[Any, ...]:
    level = tuple(at_least(name, 1, "best peer") for name in LENGTHS)
    return (*level, *(at_least(name, factor * share, "one") for name, share in WANTED.items()))


SCENARIOS = [
    Scenario(
        "efficiency.list",
        "tasks of 10 µs, 100 µs, 1 ms, 10 ms; `map` of a list",
        BY_LENGTH,
        _by_length,
        _floor_by_length,
        _bounds(1),
        ("map",),
        peers=(*PEERS, "ray"),
        is_for_heavy=True,
    ),
    Scenario(
        "efficiency.iterator",
        "tasks of 10 µs, 100 µs, 1 ms, 10 ms; `imap` of a generator",
        BY_LENGTH,
        _by_length_lazily,
        _floor_by_length,
        _bounds(1),
        ("map", "imap"),
    ),
    Scenario(
        "efficiency.mixed",
        "tasks of 10 µs to 10 ms, mixed; `map` of a list, `imap` of a generator",
        MIXED,
        _both_mixed,
        _floor_mixed,
        tuple(at_least(name, 1, "best peer") for name in ("list", "iterator"))
        + tuple(at_least(name, 0.98, "one") for name in ("list", "iterator")),
        ("map", "imap"),
    ),
    Scenario(
        "efficiency.naps",
        "200 sleeps of 10 ms on 16 workers",
        (Metric("ideal", "of ideal", HIGHER),),
        _naps,
        _floor_naps,
        (at_least("ideal", 0.97, "one"), at_least("ideal", 1, "best peer")),
        ("map",),
        workers=16,
    ),
]
