"""How many tiny tasks a second get through, one by one and by the hundred thousand."""

import sys
import time
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any

from benchmarks import floors
from benchmarks.contenders import Contender
from benchmarks.scenario import (
    HIGHER,
    LOWER,
    PEERS,
    Metric,
    Metrics,
    Scenario,
    Settings,
    at_least,
    at_most,
    check,
)
from benchmarks.tasks import increment, nap

RATE = (Metric("rate", "tasks/s", HIGHER),)
# The best of a few calls of one function, and the first of them, whose cost nobody knew.
BEST_AND_FIRST = (Metric("rate", "tasks/s", HIGHER), Metric("first", "tasks/s", HIGHER))
CHUNKING = ("stdlib", "joblib", "mpire", "billiard")


def _warm(contender: Contender) -> None:
    check(contender.map(abs, list(range(-100, 0))) == list(range(100, 0, -1)), "warm-up")


def _map(contender: Contender, count: int, rounds: int, chunksize: int | None = None) -> Metrics:
    items = list(range(count))
    expected = [increment(number) for number in items]
    with contender:
        _warm(contender)
        rates = []
        for _ in range(rounds):
            begun = perf_counter()
            results = contender.map(increment, items, chunksize)
            rates.append(count / (perf_counter() - begun))
            check(results == expected, "results of map")
            del results
    return {"rate": max(rates), "first": rates[0]}


def _map_many(contender: Contender, settings: Settings) -> Metrics:
    return _map(contender, 200_000, 3)


def _map_most(contender: Contender, settings: Settings) -> Metrics:
    return _map(contender, settings.pick(5_000_000, 1_000_000), 1)


def _map_single(contender: Contender, settings: Settings) -> Metrics:
    return _map(contender, settings.pick(20_000, 4_000), 1, 1)


def _burst(contender: Contender, settings: Settings) -> Metrics:
    count = settings.pick(20_000, 4_000)
    with contender:
        _warm(contender)
        submit = contender.submit
        begun = perf_counter()
        waits = [submit(increment, number) for number in range(count)]
        results = [wait() for wait in waits]
        taken = perf_counter() - begun
    check(results == list(range(1, count + 1)), "results of a burst")
    return {"rate": count / taken}


def _stream(contender: Contender, method: str, items: Iterable[int], count: int) -> Metrics:
    with contender:
        _warm(contender)
        begun = perf_counter()
        results = list(getattr(contender, method)(increment, items))
        taken = perf_counter() - begun
    check(sorted(results) == list(range(1, count + 1)), f"results of {method}")
    check(method != "imap" or results == sorted(results), "order of imap")
    return {"rate": count / taken}


def _imap(contender: Contender, settings: Settings) -> Metrics:
    count = settings.pick(50_000, 20_000)
    return _stream(contender, "imap", list(range(count)), count)


def _imap_unordered(contender: Contender, settings: Settings) -> Metrics:
    count = settings.pick(50_000, 20_000)
    return _stream(contender, "imap_unordered", list(range(count)), count)


def _imap_generator(contender: Contender, settings: Settings) -> Metrics:
    count = settings.pick(50_000, 20_000)
    return _stream(contender, "imap", (number for number in range(count)), count)


def _look_ahead(contender: Contender, settings: Settings) -> Metrics:
    """Count what is read of the input before a slow consumer wants it; tasks take 1 ms."""
    count = settings.pick(5_000, 1_000)
    pulled = 0

    def inputs() -> Iterator[float]:
        nonlocal pulled
        for _ in range(count):
            pulled += 1
            yield 0.001

    # Not closed: the rest is nobody's concern, and ends with this process.
    contender.open()
    results = contender.imap(nap, inputs())
    ahead = 0
    for taken in range(1, 41):
        check(next(results) == 0.001, "results of imap")
        time.sleep(0.01)
        ahead = max(ahead, pulled - taken)
    return {"items": float(ahead)}


def _objects(contender: Contender, settings: Settings) -> Metrics:
    main: Any = sys.modules["__main__"]
    points = [main.Point(number, -number) for number in range(settings.pick(100_000, 30_000))]
    with contender:
        _warm(contender)
        rates = []
        for _ in range(3):
            begun = perf_counter()
            results = contender.map(main.turned, points)
            rates.append(len(points) / (perf_counter() - begun))
            check(len(results) == len(points), "number of objects")
            pairs = zip(results, points, strict=True)
            check(all(type(r) is main.Point and r.x == -p.x for r, p in pairs), "objects")
            del results
    return {"rate": max(rates), "first": rates[0]}


def _best_pickle(items: list[Any], results: list[Any], rounds: int) -> Metrics:
    times = [floors.pickle_both_ways(items, results) for _ in range(rounds)]
    return {"rate": len(items) / min(times), "first": len(items) / times[0]}


def _pickle_many(settings: Settings) -> Metrics:
    return _best_pickle(list(range(200_000)), list(range(1, 200_001)), 3)


def _pickle_most(settings: Settings) -> Metrics:
    count = settings.pick(5_000_000, 1_000_000)
    return _best_pickle(list(range(count)), list(range(1, count + 1)), 1)


def _pickle_stream(settings: Settings) -> Metrics:
    count = settings.pick(50_000, 20_000)
    return _best_pickle(list(range(count)), list(range(1, count + 1)), 3)


def _pickle_each(settings: Settings) -> Metrics:
    count = settings.pick(20_000, 4_000)
    return {
        "rate": count / min(floors.pickle_each_both_ways(increment, range(count)) for _ in "abc")
    }


def _pickle_objects(settings: Settings) -> Metrics:
    main: Any = sys.modules["__main__"]
    points = [main.Point(number, -number) for number in range(settings.pick(100_000, 30_000))]
    return _best_pickle(points, [main.turned(point) for point in points], 3)


SCENARIOS = [
    Scenario(
        "throughput.map_200k",
        "`map`, 200,000 ints, default chunks",
        BEST_AND_FIRST,
        _map_many,
        _pickle_many,
        (
            at_least("rate", 1, "stdlib"),
            at_least("rate", 0.7, "floor"),
            at_least("first", 1, "stdlib"),
        ),
        ("map",),
        peers=(*CHUNKING, "ray"),
        is_for_heavy=True,
    ),
    Scenario(
        "throughput.map_5M",
        "`map`, 5 million ints (quick: 1 million), default chunks",
        RATE,
        _map_most,
        _pickle_most,
        (at_least("rate", 1, "stdlib"), at_least("rate", 0.7, "floor")),
        ("map",),
        peers=("stdlib", "billiard"),
        repetitions=2,
    ),
    Scenario(
        "throughput.map_single",
        "`map(chunksize=1)`, 20,000 ints",
        RATE,
        _map_single,
        _pickle_each,
        (at_least("rate", 2, "best peer"),),
        ("map",),
    ),
    Scenario(
        "throughput.burst",
        "20,000 `apply_async`, then all `get`",
        RATE,
        _burst,
        _pickle_each,
        (at_least("rate", 3, "best peer"),),
        ("submit",),
        peers=("stdlib", "stdlib-forkserver", "loky", *PEERS[1:], "ray"),
        is_for_heavy=True,
    ),
    Scenario(
        "throughput.imap",
        "`imap`, list of 50,000 ints, defaults",
        RATE,
        _imap,
        _pickle_stream,
        (at_least("rate", 1, "best peer"),),
        ("imap",),
    ),
    Scenario(
        "throughput.imap_generator",
        "`imap`, generator of 50,000 ints, defaults",
        RATE,
        _imap_generator,
        _pickle_stream,
        (at_least("rate", 1, "best peer"),),
        ("imap",),
    ),
    Scenario(
        "throughput.imap_unordered",
        "`imap_unordered`, list of 50,000 ints, defaults",
        RATE,
        _imap_unordered,
        _pickle_stream,
        (at_least("rate", 1, "best peer"),),
        ("imap_unordered",),
    ),
    Scenario(
        "throughput.look_ahead",
        "inputs that `imap` reads ahead of a consumer of 100 a second; tasks of 1 ms",
        (Metric("items", "items", LOWER),),
        _look_ahead,
        None,
        (at_most("items", 100, "one"),),
        ("imap",),
        peers=(*PEERS, "ray"),
        is_for_heavy=True,
        repetitions=2,
    ),
    Scenario(
        "throughput.objects",
        "`map`, 100,000 small objects of a `__main__` class",
        BEST_AND_FIRST,
        _objects,
        _pickle_objects,
        (at_least("rate", 0.9, "floor"), at_least("rate", 1, "best peer")),
        ("map",),
        peers=(*CHUNKING, "ray"),
        is_for_heavy=True,
    ),
]
