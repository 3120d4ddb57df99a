"""The account of a run: what became of each item, against what the tasks recorded."""

import itertools
import threading
from collections import Counter
from pathlib import Path

import motorpool

from .tasks import ERRORS, RECORD, Item, Refusal, value

NAMELESS = motorpool.ResultNotPicklableError, motorpool.ResultNotLoadedError


class Account:
    """Items that were given to the pool, how often they came back, and what was wrong."""

    def __init__(self, log):
        self.log = str(log)
        Path(log).touch()
        self.kills = self.stops = self.calls = 0
        self.is_open = True
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._items = {}
        self._delivered = Counter()
        self._failed = Counter()
        self._told = Counter()
        self._expected = Counter()
        self._wrong = []

    def items(self, kinds):
        """Return one new item of each kind, to be given to the pool."""
        found = []
        for kind in kinds:
            number = next(self._numbers)
            cargo = Refusal(number) if kind == "refuses" else None
            found.append(Item(number, kind, self.log, cargo))
        with self._lock:
            self.calls += 1
            self._items.update((item.number, item) for item in found)
        return found

    def settle(self, item, outcome):
        """Note what the pool gave for an item: its value, or an error."""
        with self._lock:
            if not self.is_open:
                return
            if isinstance(outcome, BaseException):
                self._failed[item.number] += 1
                allowed = motorpool.WorkerLostError, ERRORS.get(item.kind, ())
                is_right = isinstance(outcome, allowed[: 1 + (item.kind in ERRORS)])
            else:
                self._delivered[item.number] += 1
                is_right = item.kind not in ERRORS and outcome == value(item)
            if not is_right:
                self._wrong.append(f"item {item.number} ({item.kind}): {outcome!r}"[:300])

    def settle_map(self, items, outcome):
        """Note what a map gave: all values in order, or the error of one item for all."""
        if not isinstance(outcome, BaseException):
            self._check(len(outcome) == len(items), f"{len(outcome)} results of {len(items)}")
            for item, one in zip(items, outcome, strict=False):
                self.settle(item, one)
            return
        kinds = {item.kind for item in items}
        allowed = (motorpool.WorkerLostError, *(ERRORS[kind] for kind in kinds if kind in ERRORS))
        self._check(isinstance(outcome, allowed), f"map of {kinds}: {outcome!r}"[:300])
        with self._lock:
            if self.is_open:
                self._failed.update(item.number for item in items)

    def settle_stream(self, items, outcomes):
        """Note what an iterator gave in its own order, told apart by what it says."""
        left = {item.number: item for item in items}
        # Those that do not say which item they are of go last, to what is left of their kind.
        for outcome in sorted(outcomes, key=lambda one: isinstance(one, NAMELESS)):
            number = self._number(items, left, outcome)
            item = left.pop(number, None) or self._items.get(number)
            if item is None:
                self._check(False, f"from a stream: {outcome!r}"[:300])
            else:
                self.settle(item, outcome)

    @staticmethod
    def _number(items, left, outcome):
        if not isinstance(outcome, BaseException):
            return outcome[0]
        if isinstance(outcome, motorpool.WorkerLostError):
            return items[outcome.index].number
        alike = (n for n, item in left.items() if type(outcome) is ERRORS.get(item.kind))
        own = outcome.args[0] if outcome.args else None
        return own if own in left else next(alike, None)

    def expect_callback(self, call):
        """Note that exactly one callback is due for the call."""
        with self._lock:
            self._expected[call] += 1

    def called_back(self, call):
        """Note that a callback was called."""
        with self._lock:
            if self.is_open:
                self._told[call] += 1

    def _check(self, is_right, text):
        if not is_right:
            with self._lock:
                if self.is_open:
                    self._wrong.append(text)

    def workers(self):
        """Return the ids of all processes that have run something so far."""
        # A dead worker's id may come again: who asks looks at who is alive.
        return {pid for _, pid in self._records()}

    def _records(self):
        return RECORD.iter_unpack(Path(self.log).read_bytes())

    def close(self):
        """Take nothing more: what has not come back by now is lost."""
        with self._lock:
            self.is_open = False

    def balance(self):
        """Return the figures of the run."""
        runs, pids = Counter(), set()
        for number, pid in self._records():
            runs[number] += 1
            pids.add(pid)
        back = self._delivered + self._failed
        unrun = {n for n in self._delivered if not runs[n]}
        idle = {n for n in runs if self._items[n].kind == "refuses"}
        callbacks = self._expected - self._told + (self._told - self._expected)
        return {
            "calls": self.calls,
            "items": len(self._items),
            "delivered": len(self._delivered),
            "failed": len(self._failed),
            "kills": self.kills,
            "stops": self.stops,
            "workers": len(pids),
            "lost": len(self._items.keys() - back.keys()),
            "doubled": sum(count > 1 for count in back.values()),
            "run twice": sum(count > 1 for count in runs.values()),
            "not run": len(unrun | idle),
            "callbacks": callbacks.total() if hasattr(callbacks, "total") else len(callbacks),
            "wrong": list(self._wrong),
        }


MUST_BE_NONE = ("lost", "doubled", "run twice", "not run", "callbacks", "wrong", "left over")
"""What has to be nothing in every account, whatever was done to the workers."""


def faults(balance):
    """Return what is wrong with a balance, empty if nothing is."""
    return {name: balance[name] for name in MUST_BE_NONE if balance.get(name)}
