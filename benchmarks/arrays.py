"""Large arrays there and back."""

from time import perf_counter
from typing import Any

from benchmarks import floors
from benchmarks.contenders import Contender
from benchmarks.scenario import (
    HIGHER,
    Metric,
    Metrics,
    Scenario,
    Settings,
    at_least,
    check,
)

SPEED = (Metric("speed", "GB/s", HIGHER), Metric("writable", "", HIGHER))
BYTES = 16 << 20
COUNT = 8
PEERS = ("stdlib", "futures", "joblib", "mpire", "pebble", "billiard", "ray", "dask")

_MADE: list[Any] = []


def _new_arrays() -> list[Any]:
    import numpy as np

    return [np.full(BYTES // 8, number, float) for number in range(COUNT)]


def _arrays() -> list[Any]:
    """Return arrays that this process made once and keeps."""
    if not _MADE:
        _MADE.extend(_new_arrays())
    return _MADE


def corners(array: Any) -> tuple[float, bool]:
    """Return the sum of first and last element, and whether the array may be written to."""
    writable = bool(array.flags.writeable)
    if writable:
        array[0] += 0.0
    return float(array[0] + array[-1]), writable


def produce(number: int) -> Any:
    """Return an array that exists already."""
    return _arrays()[number]


def _rounds(settings: Settings) -> int:
    return settings.pick(4, 2)


def _arguments(contender: Contender, settings: Settings) -> Metrics:
    best = 0.0
    results: list[tuple[float, bool]] = []
    with contender:
        for _ in range(1 + _rounds(settings)):
            # Others than before: joblib remembers which it has stored in a file.
            arrays = _new_arrays()
            begun = perf_counter()
            results = contender.map(corners, arrays)
            best = max(best, COUNT * BYTES / (perf_counter() - begun))
            check([total for total, _ in results] == [2.0 * n for n in range(COUNT)], "corners")
    return {"speed": best / 1e9, "writable": float(all(writable for _, writable in results))}


def _results(contender: Contender, settings: Settings) -> Metrics:
    times = []
    writable = True
    with contender:
        # Each worker makes its own arrays in the first rounds.
        for _ in range(2 + _rounds(settings)):
            begun = perf_counter()
            arrays = contender.map(produce, list(range(COUNT)))
            times.append(perf_counter() - begun)
            check([a[0] + a[-1] for a in arrays] == [2.0 * n for n in range(COUNT)], "arrays")
            writable = writable and all(array.flags.writeable for array in arrays)
            del arrays
    return {"speed": COUNT * BYTES / min(times[2:]) / 1e9, "writable": float(writable)}


def _copy(settings: Settings) -> Metrics:
    return {"speed": floors.copy_speed(_arrays()[0]) / 1e9, "writable": 1.0}


_BOUNDS = (
    at_least("speed", 0.5, "floor"),
    at_least("speed", 3, "best peer"),
    at_least("writable", 1, "one"),
)

SCENARIOS = [
    Scenario(
        "arrays.arguments",
        "16 MiB float64 arrays as arguments",
        SPEED,
        _arguments,
        _copy,
        _BOUNDS,
        ("map",),
        peers=PEERS,
        is_for_heavy=True,
    ),
    Scenario(
        "arrays.results",
        "16 MiB float64 arrays as results",
        SPEED,
        _results,
        _copy,
        _BOUNDS,
        ("map",),
        peers=PEERS,
        is_for_heavy=True,
    ),
]
