"""Tasks that leave a record of each run outside of the pool."""

import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import motorpool

RECORD = struct.Struct("<qq")
"""What a run appends to the log: the item's number and the process id."""

LARGE = 200_000


class Planned(Exception):
    """What an item of the kind `raises` raises."""


class Refused(Exception):
    """What an item, or a result, raises that cannot be loaded."""


class Item(NamedTuple):
    """The argument of one run; `cargo` may refuse to be loaded."""

    number: int
    kind: str
    log: str
    cargo: Any = None


class Refusal:
    """An object that pickles and then cannot be loaded."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        return _refuse, (self.number,)


def _refuse(number):
    raise Refused(number)


def run(item):
    """Record the run, then do what the item's kind says."""
    with Path(item.log).open("ab", buffering=0) as log:
        log.write(RECORD.pack(item.number, os.getpid()))
    return item.number, KINDS[item.kind](item.number)


def run_pair(item, _other):
    """Do the same for `starmap`."""
    return run(item)


def _raise(number):
    raise Planned(number)


def _die(_number):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


KINDS = {
    "quick": lambda number: -number,
    "naps": lambda number: time.sleep(number % 5 / 1000),
    "computes": lambda number: sum(range(number % 50_000)),
    "grows": lambda number: number.to_bytes(8, "little") * (LARGE // 8),
    "raises": _raise,
    "dies": _die,
    "exits": lambda number: os._exit(3),
    "locks": lambda number: threading.Lock(),
    "backfires": Refusal,
    "refuses": None,
}

ERRORS = {
    "raises": Planned,
    "dies": motorpool.WorkerLostError,
    "exits": motorpool.WorkerLostError,
    "locks": motorpool.ResultNotPicklableError,
    "backfires": motorpool.ResultNotLoadedError,
    "refuses": motorpool.ResultNotLoadedError,
}
"""How items of a kind fail that never succeed."""


def value(item):
    """Return what the item gives, in the parent."""
    return item.number, KINDS[item.kind](item.number)
