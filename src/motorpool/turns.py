"""Whoever waits, drives: which thread polls the engine, and how the others sleep.

A thread that waits for a result takes turns itself: it polls, handles what has
come, and returns the moment its result is there. Others that wait meanwhile
sleep until it wakes them; the first to wake goes on driving. When nobody waits
and work is outstanding, the attendant thread drives.

Guarantees
----------
- One thread polls, and may sleep meanwhile: the one that `_driving` names. Who
  finds another there does not wait for its end.
- A signal handler that waits for a result in the midst of a poll drives itself:
  the poll below it goes on afterwards.
- A thread that an interrupt drives out names itself no more, and somebody else
  goes on. A lock would stay taken if it came right after its `acquire`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident

from motorpool.attendant import Attendant
from motorpool.engines.base import Engine
from motorpool.typed import Any, Protocol, TypeVar

R = TypeVar("R")

# The longest sleep of a thread that waits: a net under a wake-up that was missed.
MOST_SECONDS = 0.5
_DRIVER = 0  # the one key of `Turns._driving`


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
        # The thread that polls. Its name is entered, and read, in one go of C.
        self._driving: dict[int, int] = {}
        self._is_cut = False  # An exception has ended a poll: what it found may be told nowhere.
        self._sleepers: deque[Any] = deque()
        self._released: deque[object] = deque()
        # Drops a reference to the pool, perhaps the last, at a moment when no lock is held.
        self.let_go = self._released.append
        self.drop_released = self._released.clear
        self.is_driven: Callable[[], int] = self._driving.__len__
        self._attendant = Attendant(engine.fileno(), self._attend, self.attend_if_needed)
        self.is_switching = self._attendant.is_switching

    # A thread that waits.

    def wait_until(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Drive, or sleep while another thread does, until `is_done()` or the deadline."""
        me = get_ident()
        if self._driving.get(_DRIVER) == me:
            return self._drive_within(is_done, deadline)
        return self._in_turn(me, self._wait, is_done, deadline)

    def take_turns(self, is_due: Callable[[], bool]) -> None:
        """Take turns as long as they are due, if nobody drives."""
        if not self._driving:
            self._in_turn(get_ident(), self._take, is_due)

    def _in_turn(self, me: int, wait: Callable[..., R], *args: Any) -> R:
        """Call `wait(me, *args)`, which may drive, and have others go on afterwards."""
        try:
            return wait(me, *args)
        except BaseException:
            self._is_cut = True
            raise
        finally:
            try:
                self._leave(me)
            except BaseException:
                self._is_cut = True
                self._leave(me)
                raise

    def _wait(self, me: int, is_done: Callable[[], bool], deadline: float | None) -> bool:
        while True:
            if self._driving.setdefault(_DRIVER, me) == me:
                self._attendant.rest()
                return self._drive(is_done, deadline)
            if is_done():
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            self._sleep(is_done, deadline)

    def _take(self, me: int, is_due: Callable[[], bool]) -> None:
        if self._driving.setdefault(_DRIVER, me) == me:
            if self._attendant.is_attending:
                self._attendant.rest()
            while is_due():
                self._work.turn(MOST_SECONDS)

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
        try:
            # The driving thread may have finished between the caller's look and this
            # one; it would not have seen the sleeper.
            if not is_done() and self._driving:
                sleeper.acquire(timeout=max(self._patience(time.monotonic(), deadline), 0.001))
        finally:
            with suppress(ValueError):
                self._sleepers.remove(sleeper)

    def _leave(self, me: int) -> None:
        """Have others go on if this thread was driving, or was cut short as it waited."""
        if self._driving.get(_DRIVER) == me:
            del self._driving[_DRIVER]
        elif not self._is_cut:
            return
        self._hand_over()

    def _hand_over(self) -> None:
        if self._sleepers:
            self.wake_sleepers()
        elif self._work.has_work():
            self.attend_if_needed()
        self._is_cut = False
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
        if self._driving:
            self._engine.wake()

    # The attendant.

    def attend(self, *, now: bool) -> None:
        """Have the attendant drive; `now`: without waiting for an event first."""
        self._attendant.attend(now=now)

    def attend_if_needed(self) -> None:
        """Have the attendant drive if there is work and nobody does."""
        if self._work.has_work() and not self._driving:
            self._attendant.attend(now=self._is_cut or self._work.wake_at() is not None)

    def _attend(self) -> float | None:
        """Handle what there is without waiting; return when to come again, None for never."""
        me = get_ident()
        if self._driving.setdefault(_DRIVER, me) != me:
            return None
        try:
            self._work.turn(0.0)
            return self._patience(time.monotonic(), None) if self._work.has_work() else None
        finally:
            del self._driving[_DRIVER]
            self.wake_sleepers()
            self._released.clear()

    # The end.

    def end(self, close: Callable[[], None]) -> None:
        """Have all threads leave, then call `close`: nobody polls what it closes."""
        self.wake()
        self._attendant.close()
        me = get_ident()
        # In a signal handler, or a finalizer, this thread may be the one that drives.
        is_below = self._driving.get(_DRIVER) == me
        until = time.monotonic() + 1.0
        try:
            while self._driving.setdefault(_DRIVER, me) != me and time.monotonic() < until:
                time.sleep(0.0005)
            close()
        finally:
            if not is_below and self._driving.get(_DRIVER) == me:
                del self._driving[_DRIVER]
