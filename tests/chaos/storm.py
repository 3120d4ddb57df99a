"""Random calls from several threads, while workers are killed and stopped at random."""

import contextlib
import functools
import os
import queue
import random
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import NamedTuple

import motorpool

from .account import Account
from .tasks import ERRORS, run, run_pair

PATIENCE = 30
"""Seconds after which what has not come back counts as lost."""

HARMLESS = ("raises",)
"""The kinds of items that fail without harm to the process that runs them."""

USUAL = ("quick", "quick", "quick", "naps", "computes", "grows")


class Storm(NamedTuple):
    """What to do, and for how long; the same seed makes the same choices."""

    seconds: float
    seed: int
    threads: int = 4
    pause: float = 0.05  # between two faults
    kills: float = 0.8  # of the faults; the others are stops
    errors: tuple[str, ...] = tuple(ERRORS)  # the kinds of items that fail

    @property
    def is_harmless(self):
        """Whether the workers are threads, which share the fate of the program."""
        return self.errors == HARMLESS

    def rage(self, pool, log):
        """Use and ill-treat `pool`, end it, and return the balance."""
        account = Account(log)
        until = time.monotonic() + self.seconds
        callers = [Caller(self, number, pool, account, until) for number in range(self.threads)]
        harm = Harm(self, account, until)
        for thread in callers if self.is_harmless else (*callers, harm):
            thread.start()
        for caller in callers:
            caller.join(max(0, until + PATIENCE - time.monotonic()))
        is_stuck = any(caller.is_alive() for caller in callers)
        stacks = str(pool.stacks()) if is_stuck else ""
        harm.stop()
        if is_stuck:
            account.close()
            pool.terminate()
        pool.close()
        pool.join()
        account.close()
        for caller in callers:
            caller.join(PATIENCE)
        balance = account.balance()
        balance["wrong"] += [caller.error for caller in callers if caller.error]
        balance["wrong"] += [stacks] * is_stuck
        return balance


class Harm(threading.Thread):
    """A thread that kills and stops workers at random times."""

    def __init__(self, storm, account, until):
        super().__init__(daemon=True)
        self._storm, self._account, self._until = storm, account, until
        self._random = random.Random(f"{storm.seed}/harm")
        self._over = threading.Event()

    def run(self):
        """Do harm until the time is up: what has begun by then has to end in peace."""
        while not self._over.wait(self._random.uniform(0, 2 * self._storm.pause)):
            if time.monotonic() > self._until:
                return
            # Three deaths of starting workers in a row mean a bad initializer: leave them alone.
            workers = sorted(filter(is_alive, self._account.workers()))
            if not workers:
                continue
            victim = self._random.choice(workers)
            if self._random.random() < 0.03:
                self._kill(*workers)
            elif self._random.random() < self._storm.kills:
                self._kill(victim)
            else:
                self._halt(victim)

    def _kill(self, *pids):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self._account.kills += 1

    def _halt(self, pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._account.stops += 1
            self._over.wait(self._random.uniform(0, 0.1))
            os.kill(pid, signal.SIGCONT)

    def stop(self):
        """Do no more harm; who was stopped goes on."""
        self._over.set()
        if self.ident is not None:
            self.join()


class Caller(threading.Thread):
    """A thread that makes random calls and accounts for what they give."""

    def __init__(self, storm, number, pool, account, until):
        super().__init__(daemon=True)
        self._pool, self._account, self._until = pool, account, until
        self._errors = storm.errors
        self._random = random.Random(f"{storm.seed}/{number}")
        self._called = 0
        self._number = number
        self.error = ""

    def run(self):
        """Call until the time is up."""
        calls = (
            self._apply,
            self._apply_async,
            self._await_callbacks,
            self._map,
            self._map_async,
            self._stream,
        )
        try:
            while time.monotonic() < self._until and self._account.is_open:
                self._random.choice(calls)()
        except BaseException as error:
            if self._account.is_open:
                self.error = "in a caller: " + "".join(traceback.format_exception(error, limit=-5))

    def _items(self, most):
        """Return random items: most of them usual, some of the kinds that fail."""
        bad = self._random.choice((0, 0, 0.02, 0.2))
        if most > 1 and self._random.random() < 0.05:  # enough of them to be run in bulk
            return self._account.items(["quick"] * 4000)
        return self._account.items(
            self._random.choice(self._errors if self._random.random() < bad else USUAL)
            for _ in range(self._random.randint(1, most))
        )

    def _apply(self):
        (item,) = self._items(1)
        self._account.settle(item, attempt(self._pool.apply, run, (item,)))

    def _apply_async(self):
        items = self._items(40)
        results = [self._pool.apply_async(run, (item,), **self._callbacks()) for item in items]
        for item, result in zip(items, results, strict=True):
            outcome = attempt(result.get, PATIENCE)
            if isinstance(outcome, motorpool.TimeoutError):
                self.error = f"item {item.number} hangs:\n{self._pool.stacks()}"
            self._account.settle(item, outcome)

    def _await_callbacks(self):
        """Wait for no result, so that nobody may be there to drive the pool."""
        items, outcomes = self._items(40), queue.SimpleQueue()
        for item in items:
            told = functools.partial(_told, outcomes, item)
            self._pool.apply_async(run, (item,), callback=told, error_callback=told)
        for _ in items:
            try:
                self._account.settle(*outcomes.get(timeout=PATIENCE))
            except queue.Empty:
                self.error = f"a callback hangs:\n{self._pool.stacks()}"
                return

    def _map(self):
        items, chunksize = self._items(60), self._random.choice((None, None, 1, 7))
        if self._random.random() < 0.5:
            outcome = attempt(self._pool.map, run, items, chunksize)
        else:
            outcome = attempt(self._pool.starmap, run_pair, [(i, 0) for i in items], chunksize)
        self._account.settle_map(items, outcome)

    def _map_async(self):
        items, chunksize = self._items(60), self._random.choice((None, None, 1, 7))
        if self._random.random() < 0.5:
            result = self._pool.map_async(run, items, chunksize, **self._callbacks())
        else:
            pairs = [(item, 0) for item in items]
            result = self._pool.starmap_async(run_pair, pairs, chunksize, **self._callbacks())
        self._account.settle_map(items, attempt(result.get, PATIENCE))

    def _stream(self):
        items, chunksize = self._items(60), self._random.choice((1, 1, 7, 30))
        if self._random.random() < 0.5:
            outcomes = read(self._pool.imap(run, iter(items), chunksize), len(items))
            for item, outcome in zip(items, outcomes, strict=False):
                self._account.settle(item, outcome)
        else:
            outcomes = read(self._pool.imap_unordered(run, iter(items), chunksize), len(items))
            self._account.settle_stream(items, outcomes)

    def _callbacks(self):
        self._called += 1
        call = self._number, self._called
        self._account.expect_callback(call)

        def told(_outcome):
            self._account.called_back(call)

        return {"callback": told, "error_callback": told}


def is_alive(pid):
    """Tell whether there is a process of that id, and not only what is left of one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _told(outcomes, item, outcome):
    outcomes.put((item, outcome))


def attempt(call, *arguments):
    """Return what a call returns, or what it raises."""
    try:
        return call(*arguments)
    except Exception as error:
        return error


def read(stream, count):
    """Return what a stream gives: values, and errors in their place; one more than it should."""
    found = []
    while len(found) <= count:
        outcome = attempt(stream.next, PATIENCE)
        if isinstance(outcome, StopIteration):
            break
        found.append(outcome)
    return found
