"""The thread engine against the standard library's two."""

import queue
import threading
from statistics import median
from time import perf_counter

from benchmarks.contenders import Contender
from benchmarks.efficiency import sleepers
from benchmarks.scenario import (
    HIGHER,
    LOWER,
    Metric,
    Metrics,
    Scenario,
    Settings,
    at_least,
    at_most,
    check,
    percentile,
)
from benchmarks.tasks import increment, nap

PEERS = ("stdlib-threads", "futures-threads")
OURS = "motorpool-threads"


def _apply(contender: Contender, settings: Settings) -> Metrics:
    times = []
    with contender:
        for number in range(settings.pick(3000, 600)):
            begun = perf_counter()
            value = contender.apply(increment, number)
            times.append(1e6 * (perf_counter() - begun))
            check(value == number + 1, "result of apply")
    return {"p50": median(times), "p99": percentile(times, 0.99)}


def _handed_over(settings: Settings) -> Metrics:
    """Measure the least that two threads need: a C queue each way."""
    there: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    back: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work() -> None:
        while (item := there.get()) is not None:
            back.put(increment(item))

    thread = threading.Thread(target=work)
    thread.start()
    times = []
    for number in range(settings.pick(3000, 600)):
        begun = perf_counter()
        there.put(number)
        back.get()
        times.append(1e6 * (perf_counter() - begun))
    there.put(None)
    thread.join()
    return {"p50": median(times), "p99": percentile(times, 0.99)}


def _map(contender: Contender, settings: Settings) -> Metrics:
    items = list(range(settings.pick(20_000, 5_000)))
    best = 0.0
    with contender:
        for _ in range(3):
            begun = perf_counter()
            results = contender.map(increment, items)
            best = max(best, len(items) / (perf_counter() - begun))
            check(results == [item + 1 for item in items], "results of map")
    return {"rate": best}


def _burst(contender: Contender, settings: Settings) -> Metrics:
    count = settings.pick(10_000, 3_000)
    with contender:
        submit = contender.submit
        begun = perf_counter()
        results = [wait() for wait in [submit(increment, number) for number in range(count)]]
        taken = perf_counter() - begun
    check(results == list(range(1, count + 1)), "results of a burst")
    return {"rate": count / taken}


def _naps(contender: Contender, settings: Settings) -> Metrics:
    with contender:
        contender.map(abs, list(range(64)))
        begun = perf_counter()
        return sleepers(contender.map(nap, [0.01] * 200), 200, contender.workers, begun)


def _bare_naps(settings: Settings) -> Metrics:
    begun = perf_counter()
    bare = [threading.Thread(target=lambda: [nap(0.01) for _ in range(13)]) for _ in range(16)]
    for thread in bare:
        thread.start()
    for thread in bare:
        thread.join()
    return {"ideal": 0.13 / (perf_counter() - begun)}


SCENARIOS = [
    Scenario(
        "threads.apply",
        "threads: blocking `apply`",
        (Metric("p50", "µs", LOWER), Metric("p99", "µs", LOWER)),
        _apply,
        _handed_over,
        (at_most("p50", 1, "best peer"),),
        ("apply",),
        ours=OURS,
        peers=PEERS,
    ),
    Scenario(
        "threads.map",
        "threads: `map`, 20,000 ints",
        (Metric("rate", "tasks/s", HIGHER),),
        _map,
        None,
        (at_least("rate", 1, "best peer"),),
        ("map",),
        ours=OURS,
        peers=PEERS,
    ),
    Scenario(
        "threads.burst",
        "threads: 10,000 `apply_async`, then all `get`",
        (Metric("rate", "tasks/s", HIGHER),),
        _burst,
        None,
        (at_least("rate", 1, "best peer"),),
        ("submit",),
        ours=OURS,
        peers=PEERS,
    ),
    Scenario(
        "threads.naps",
        "threads: 200 sleeps of 10 ms on 16 workers",
        (Metric("ideal", "of ideal", HIGHER),),
        _naps,
        _bare_naps,
        (at_least("ideal", 0.97, "one"), at_least("ideal", 1, "best peer")),
        ("map",),
        ours=OURS,
        peers=PEERS,
        workers=16,
    ),
]
