"""How long a single call takes, there and back, when the pool has nothing else to do."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

from benchmarks import floors
from benchmarks.contenders import Contender
from benchmarks.scenario import (
    HEAVY_PEERS,
    LOWER,
    PEERS,
    Metric,
    Metrics,
    Scenario,
    Settings,
    at_most,
    check,
    percentile,
)
from benchmarks.tasks import increment

MICROSECONDS = (Metric("p50", "µs", LOWER), Metric("p99", "µs", LOWER))
WITH_THREAD = (Metric("p50", "µs", LOWER), Metric("p50_pauses", "µs", LOWER))
PAUSE = 0.001
WARM_UP = 100
MOST_SECONDS = 4.0  # after which a slow contender may stop


def _calls(settings: Settings) -> int:
    return settings.pick(3000, 600)


def _in_microseconds(times: list[float]) -> Metrics:
    return {"p50": 1e6 * median(times), "p99": 1e6 * percentile(times, 0.99)}


def _time(call: Callable[[int], int], count: int) -> list[float]:
    times = []
    limit = perf_counter() + MOST_SECONDS
    for number in range(-WARM_UP, count):
        begun = perf_counter()
        value = call(number)
        times.append(perf_counter() - begun)
        check(value == number + 1, f"{value} for {number}")
        if begun > limit and len(times) > 2 * WARM_UP:
            break
    return times[WARM_UP:]


def _apply(contender: Contender, settings: Settings) -> Metrics:
    with contender:
        apply = contender.apply
        return _in_microseconds(_time(lambda n: apply(increment, n), _calls(settings)))


def _submit(contender: Contender, settings: Settings) -> Metrics:
    with contender:
        submit = contender.submit
        return _in_microseconds(_time(lambda n: submit(increment, n)(), _calls(settings)))


def _apply_beside_thread(contender: Contender, settings: Settings) -> Metrics:
    medians = {}
    with contender:
        apply = contender.apply
        for name, pause in (("p50_pauses", PAUSE), ("p50", 0.0)):
            with floors.io_thread(pause):
                times = _time(lambda n: apply(increment, n), _calls(settings) // 6)
            medians[name] = 1e6 * median(times)
    return medians


def _pipe(settings: Settings) -> Metrics:
    return _in_microseconds(floors.pipe_round_trips(_calls(settings))[WARM_UP:])


def _pipe_beside_thread(settings: Settings) -> Metrics:
    medians = {}
    for name, pause in (("p50_pauses", PAUSE), ("p50", 0.0)):
        with floors.io_thread(pause):
            times = floors.pipe_round_trips(_calls(settings) // 6)
        medians[name] = 1e6 * median(times)
    return medians


_BOUNDS = (
    at_most("p50", 3, "floor"),
    at_most("p50", 1 / 2, "best peer"),
    at_most("p99", 10, "itself", "p50"),
)
_WIDE = ("stdlib", "stdlib-forkserver", "loky", *PEERS[1:])

SCENARIOS = [
    Scenario(
        "latency.apply",
        "blocking `apply`, idle pool",
        MICROSECONDS,
        _apply,
        _pipe,
        _BOUNDS,
        ("apply",),
        peers=(*_WIDE, *HEAVY_PEERS),
        is_for_heavy=True,
        repetitions=5,
    ),
    Scenario(
        "latency.apply_async",
        "`apply_async().get()`, idle pool",
        MICROSECONDS,
        _submit,
        _pipe,
        _BOUNDS,
        ("submit",),
        peers=_WIDE,
        repetitions=5,
    ),
    Scenario(
        "latency.executor",
        "`Executor.submit().result()`, idle pool",
        MICROSECONDS,
        _submit,
        _pipe,
        _BOUNDS,
        ("submit",),
        ours="motorpool-executor",
        peers=("futures", "loky", "pebble"),
    ),
    Scenario(
        "latency.beside_thread",
        "blocking `apply` beside a thread that reads and writes files without pause (with pauses)",
        WITH_THREAD,
        _apply_beside_thread,
        _pipe_beside_thread,
        (
            at_most("p50", 2, "itself", "latency.apply:p50"),
            at_most("p50_pauses", 2, "itself", "latency.apply:p50"),
        ),
        ("apply",),
    ),
]
