"""What a measurement is: a scenario, its metrics, its floor and the bounds it has to keep."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.contenders import Contender

Metrics = dict[str, float]

LOWER = "lower"
HIGHER = "higher"

PEERS = ("stdlib", "futures", "joblib", "mpire", "pebble", "billiard")
HEAVY_PEERS = ("ray", "dask")


class Settings(NamedTuple):
    """What a measurement is told by the run that it is part of."""

    is_quick: bool
    loops_per_second: float

    def pick(self, full: int, quick: int) -> int:
        """Return the size to use."""
        return quick if self.is_quick else full

    def loops(self, seconds: float) -> int:
        """Return the length of a busy loop that takes `seconds` on a free core."""
        return max(1, round(seconds * self.loops_per_second))


class Metric(NamedTuple):
    """A number that a measurement gives."""

    name: str
    unit: str
    better: str

    def is_better(self, one: float, other: float) -> bool:
        """Tell whether `one` is better than `other`."""
        return one < other if self.better == LOWER else one > other


class Bound(NamedTuple):
    """What a metric of ours has to keep, as a multiple of what was measured in the same run.

    `of` names a contender, `"floor"`, `"best peer"`, `"itself"` (then
    `of_metric` names another metric, of another scenario if it has a colon:
    ``"latency.apply:p50"``), or `"one"` for a plain number.
    """

    metric: str
    relation: str  # "at most" or "at least"
    factor: float
    of: str
    of_metric: str = ""


def at_most(metric: str, factor: float, of: str, of_metric: str = "") -> Bound:
    """Return an upper bound."""
    return Bound(metric, "at most", factor, of, of_metric)


def at_least(metric: str, factor: float, of: str, of_metric: str = "") -> Bound:
    """Return a lower bound."""
    return Bound(metric, "at least", factor, of, of_metric)


class Scenario(NamedTuple):
    """One thing to measure, of every contender that can do it.

    `run` gets a contender that is not open yet and checks the results it gets.
    `needs` names the contender's methods that it calls.
    """

    name: str
    title: str
    metrics: Sequence[Metric]
    run: Callable[[Contender, Settings], Metrics]
    floor: Callable[[Settings], Metrics] | None = None
    bounds: Sequence[Bound] = ()
    needs: Sequence[str] = ()
    ours: str = "motorpool"
    peers: Sequence[str] = PEERS
    is_for_heavy: bool = False
    workers: int = 2
    repetitions: int = 3
    seconds: float = 60.0  # after which a measurement is ended

    @property
    def group(self) -> str:
        """The first part of the name."""
        return self.name.partition(".")[0]


class WrongResultError(Exception):
    """A contender gave something else than it was asked for."""


def check(is_right: Any, what: str) -> None:
    """Raise unless a result is as it has to be."""
    if not is_right:
        raise WrongResultError(what)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
