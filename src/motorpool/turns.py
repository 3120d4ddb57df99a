"""Whoever waits, drives: which thread polls the engine, and how the others sleep.

A thread that waits for a result takes turns itself: it polls, handles what has
come, and returns the moment its result is there. Others that wait meanwhile
sleep until it wakes them; the first to wake goes on driving. When nobody waits
and work is outstanding, the attendant thread drives.

Guarantees
----------
- The lock `_driving` is held by the thread that polls, which may sleep with it.
  Nobody waits for it.
- A signal handler that waits for a result in the midst of a poll drives itself:
  the poll below it goes on afterwards.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import current_thread, get_ident, main_thread

from motorpool.attendant import Attendant
from motorpool.engines.base import Engine
from motorpool.typed import Any, Protocol

# The longest sleep of a thread that waits: a net under a wake-up that was missed.
MOST_SECONDS = 0.5


class Work(Protocol):
    """What there is to drive."""

    def turn(self, timeout: float) -> None:
        """Wait for events, and handle them."""

    def has_work(self) -> bool:
        """Tell whether anything is outstanding."""

    def wake_at(self) -> float | None:
        """Return when to look again even without an event."""


class Turns:
    """The threads that wait for `work`, which runs on `engine`, and the attendant."""

    def __init__(self, work: Work, engine: Engine) -> None:
        self._work = work
        self._engine = engine
        self._driving = threading.Lock()
        self._driver = 0  # the thread that holds it
        self._sleepers: deque[Any] = deque()
        self._released: deque[object] = deque()
        # Drops a reference to the pool, perhaps the last, at a moment when no lock is held.
        self.let_go = self._released.append
        self.drop_released = self._released.clear
        self.is_driven = self._driving.locked
        self._attendant = Attendant(engine.fileno(), self._attend, self.attend_if_needed)
        self.is_switching = self._attendant.is_switching

    # A thread that waits.

    def wait_until(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive, or sleep while another thread does, until `is_done()` or the deadline."""
        has_slept = False
        while True:
            if self._driving.acquire(False):
                try:
                    self._driver = get_ident()
                    self._attendant.rest()
                    return self._drive(is_done, deadline)
                finally:
                    self._driver = 0
                    self._driving.release()
                    self._hand_over()
            if is_done():
                return True
            if self._drives_below(has_slept=has_slept):
                return self._drive_within(is_done, deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._sleep(is_done, deadline)
            has_slept = True

    def take_turns(self, is_due: Callable[[], bool]) -> None:
        """Take turns as long as they are due, if nobody else drives."""
        if self._driving.acquire(False):
            try:
                self._driver = get_ident()
                if self._attendant.is_attending:
                    self._attendant.rest()
                while is_due():
                    self._work.turn(MOST_SECONDS)
            finally:
                self._driver = 0
                self._driving.release()
                self._hand_over()

    def _drives_below(self, *, has_slept: bool) -> bool:
        """Tell whether this is a signal handler that interrupted the thread that drives."""
        if self._driver:
            return self._driver == get_ident()
        # It has just taken the lock, or is about to release it. No other thread takes that long.
        return has_slept and self._driving.locked() and current_thread() is main_thread()

    def _drive_within(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive in a signal handler that came while this thread was driving."""
        try:
            return self._drive(is_done, deadline)
        finally:
            self._engine.wake()  # The poll below may have lost to this one what it waits for.

    def _drive(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        while not is_done():
            if deadline is None and self._work.wake_at() is None:
                self._work.turn(MOST_SECONDS)
                continue
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            self._work.turn(self._patience(now, deadline))
        return True

    def _patience(self, now: float, deadline: float | None) -> float:
        until = now + MOST_SECONDS
        if deadline is not None:
            until = min(until, deadline)
        wake_at = self._work.wake_at()
        if wake_at is not None:
            until = min(until, wake_at)
        return max(until - now, 0.0)

    def _sleep(self, is_done: Callable[[], bool], deadline: float | None) -> None:
        sleeper = threading.Lock()
        sleeper.acquire()
        self._sleepers.append(sleeper)
        # The driving thread may have finished between the caller's look and this
        # one; it would not have seen the sleeper.
        if not is_done() and self._driving.locked():
            sleeper.acquire(timeout=max(self._patience(time.monotonic(), deadline), 0.001))
        with suppress(ValueError):
            self._sleepers.remove(sleeper)

    def _hand_over(self) -> None:
        if self._sleepers:
            self.wake_sleepers()
        elif self._work.has_work():
            self.attend_if_needed()
        self._released.clear()

    # Others.

    def wake_sleepers(self) -> None:
        """Have every thread that sleeps look again."""
        while self._sleepers:
            try:
                sleeper = self._sleepers.popleft()
            except IndexError:
                return
            sleeper.release()

    def wake(self) -> None:
        """Have every waiting thread look again, the one that polls included."""
        self.wake_sleepers()
        self.wake_driving()

    def wake_driving(self) -> None:
        """Have the thread that polls, if there is one, look again."""
        if self._driving.locked():
            self._engine.wake()

    # The attendant.

    def attend(self, *, now: bool) -> None:
        """Have the attendant drive; `now`: without waiting for an event first."""
        self._attendant.attend(now=now)

    def attend_if_needed(self) -> None:
        """Have the attendant drive if there is work and nobody does."""
        if self._work.has_work() and not self._driving.locked():
            self._attendant.attend(now=self._work.wake_at() is not None)

    def _attend(self) -> float | None:
        """Handle what there is without waiting; return when to come again, None for never."""
        if not self._driving.acquire(blocking=False):
            return None
        try:
            self._driver = get_ident()
            self._work.turn(0.0)
            return self._patience(time.monotonic(), None) if self._work.has_work() else None
        finally:
            self._driver = 0
            self._driving.release()
            self.wake_sleepers()
            self._released.clear()

    # The end.

    def end(self, close: Callable[[], None]) -> None:
        """Have all threads leave, then call `close`: nobody polls what it closes."""
        self.wake()
        self._attendant.close()
        # In a signal handler, or a finalizer, this thread may be the one that drives.
        patience = 0.0 if self._driver == get_ident() else 1.0
        is_driving = self._driving.acquire(timeout=patience)
        try:
            close()
        finally:
            if is_driving:
                self._driving.release()
