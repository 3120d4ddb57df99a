"""What the parent's memory grows to."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.scenario import LOWER, Metric, Metrics, Scenario, Settings, at_most, check
from benchmarks.tasks import increment, same

MEBIBYTES = (Metric("peak", "MiB", LOWER),)
MEBIBYTE = 1 << 20
VALUE_BYTES = 10_000
PAUSE = 0.002


class Peak:
    """The most memory that this process held since this was made, above what it held then."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = self._read("VmRSS")

    def mebibytes(self) -> float:
        """Return it."""
        return (self._read("VmHWM") - self._before) / 1024

    @staticmethod
    def _read(field: str) -> int:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(next(row.split()[1] for row in status.splitlines() if row.startswith(field)))


def block(number: int) -> bytes:
    """Return a mebibyte that begins with the number."""
    return number.to_bytes(4, "big") * (MEBIBYTE // 4)


def _consume_slowly(results: Iterator[bytes]) -> int:
    seen = set()
    for block in results:
        seen.add(block[:4])
        check(len(block) == MEBIBYTE, "size of a block")
        time.sleep(PAUSE)
    return len(seen)


def _slow_consumer(contender: Contender, settings: Settings) -> Metrics:
    return _through_slowly(contender, settings, block, iter)


def _slow_echo(contender: Contender, settings: Settings) -> Metrics:
    return _through_slowly(contender, settings, same, lambda numbers: map(block, numbers))


def _through_slowly(
    contender: Contender,
    settings: Settings,
    function: Callable[[Any], bytes],
    inputs: Callable[[range], Iterator[Any]],
) -> Metrics:
    count = settings.pick(2000, 300)
    with contender:
        contender.map(abs, list(range(64)))
        peak = Peak()
        stream = contender.imap_unordered or contender.imap
        check(_consume_slowly(stream(function, inputs(range(count)))) == count, "number of blocks")
        return {"peak": peak.mebibytes()}


def _serially(settings: Settings) -> Metrics:
    count = settings.pick(2000, 300)
    peak = Peak()
    check(_consume_slowly(map(block, range(count))) == count, "number of blocks")
    return {"peak": peak.mebibytes()}


def _many_ints(contender: Contender, settings: Settings) -> Metrics:
    items = list(range(settings.pick(5_000_000, 1_000_000)))
    with contender:
        contender.map(abs, list(range(64)))
        peak = Peak()
        results = contender.map(increment, items)
        check(results[-1] == len(items) and len(results) == len(items), "results")
        return {"peak": peak.mebibytes()}


def _list_of_ints(settings: Settings) -> Metrics:
    items = list(range(settings.pick(5_000_000, 1_000_000)))
    peak = Peak()
    results = [increment(item) for item in items]
    check(len(results) == len(items), "results")
    return {"peak": peak.mebibytes()}


def _held_results(contender: Contender, settings: Settings) -> Metrics:
    """Weigh 1,000 finished results beyond their values."""
    value = bytes(VALUE_BYTES)
    with contender:
        for wait in [contender.submit(same, value) for _ in range(200)]:
            wait()
        tracemalloc.start()
        waits = [contender.submit(same, value) for _ in range(1000)]
        for wait in waits:
            check(wait() == value, "value")
        time.sleep(0.1)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del waits
    return {"bytes": held / 1000 - VALUE_BYTES}


SCENARIOS = [
    Scenario(
        "memory.slow_consumer",
        "2,000 results of 1 MiB (quick: 300), slow `imap_unordered`: parent's peak",
        MEBIBYTES,
        _slow_consumer,
        _serially,
        (at_most("peak", 1, "best peer"),),
        ("imap",),
        peers=("stdlib", "futures", "joblib", "mpire", "pebble", "billiard"),
        repetitions=1,
        seconds=90.0,
    ),
    Scenario(
        "memory.slow_echo",
        "2,000 × 1 MiB there and back (quick: 300), slow `imap_unordered`: parent's peak",
        MEBIBYTES,
        _slow_echo,
        _serially,
        (at_most("peak", 1, "best peer"),),
        ("imap",),
        peers=("stdlib", "mpire"),
        repetitions=1,
        seconds=90.0,
    ),
    Scenario(
        "memory.map_5M",
        "`map` over 5 million ints (quick: 1 million): parent's peak",
        MEBIBYTES,
        _many_ints,
        _list_of_ints,
        (at_most("peak", 1.3, "stdlib"),),
        ("map",),
        peers=("stdlib", "billiard"),
        repetitions=1,
    ),
    Scenario(
        "memory.held_results",
        "1,000 finished results held: bytes each beyond the value",
        (Metric("bytes", "B", LOWER),),
        _held_results,
        None,
        (at_most("bytes", 1, "stdlib"),),
        ("submit",),
        peers=("stdlib", "futures", "mpire", "pebble"),
        repetitions=1,
    ),
]
