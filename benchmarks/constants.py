"""A large constant that all tasks use."""

from functools import partial
from time import perf_counter
from typing import Any

from benchmarks import floors
from benchmarks.contenders import Contender
from benchmarks.scenario import LOWER, Metric, Metrics, Scenario, Settings, at_most, check

BYTES = 100 << 20
TASKS = 500
METRICS = (Metric("seconds", "s", LOWER), Metric("share", "× without + a copy", LOWER))


def pick(constant: Any, index: int) -> float:
    """Return an element of the constant."""
    return float(constant[index])


def alone(index: int) -> float:
    """Do the same without a constant."""
    return float(index)


def _constant(settings: Settings) -> Any:
    import numpy as np

    return np.arange(settings.pick(BYTES, BYTES // 4) // 8, dtype=float)


def _measure(contender: Contender, settings: Settings, function: Any, constant: Any) -> Metrics:
    expected = [float(index) for index in range(TASKS)]
    copying = constant.nbytes / floors.copy_speed(constant, 3)
    with contender:
        times = []
        for each in (alone, alone, function):
            begun = perf_counter()
            results = contender.map(each, list(range(TASKS)))
            times.append(perf_counter() - begun)
            check(results == expected, "elements of the constant")
    return {"seconds": times[2], "share": times[2] / (times[1] + copying)}


def _bound(contender: Contender, settings: Settings) -> Metrics:
    constant = _constant(settings)
    return _measure(contender, settings, partial(pick, constant), constant)


def _closed_over(contender: Contender, settings: Settings) -> Metrics:
    constant = _constant(settings)
    return _measure(contender, settings, lambda index: float(constant[index]), constant)


def _copy(settings: Settings) -> Metrics:
    constant = _constant(settings)
    return {"seconds": constant.nbytes / floors.copy_speed(constant, 3), "share": 1.0}


_BOUNDS = (
    at_most("seconds", 1, "joblib"),
    at_most("seconds", 1, "best peer"),
    at_most("share", 1.5, "one"),
)

SCENARIOS = [
    Scenario(
        "constants.partial",
        "100 MiB array (quick: 25 MiB) bound with `partial`, 500 tasks",
        METRICS,
        _bound,
        _copy,
        _BOUNDS,
        ("map",),
        peers=("stdlib", "futures", "joblib", "mpire", "billiard", "ray"),
        is_for_heavy=True,
        seconds=20.0,
    ),
    Scenario(
        "constants.closure",
        "100 MiB array (quick: 25 MiB) closed over by a lambda, 500 tasks",
        METRICS,
        _closed_over,
        _copy,
        _BOUNDS,
        ("map",),
        peers=("joblib", "ray"),
        is_for_heavy=True,
        seconds=20.0,
    ),
]
