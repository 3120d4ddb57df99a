"""Looking again for a moment before going to sleep.

Waking a core that sleeps takes longer than all the rest of a short call. Where
parent and worker have a core each, an answer that comes soon is seen sooner by
who stays awake for it. Where it does not come soon that is time wasted, and
where they share a core it keeps away the one that is waited for. Which it is
shows by itself: each look in vain doubles how many of the next are left out.
"""

import os
from collections.abc import Callable
from time import perf_counter

from motorpool.typed import Any

# What a short call and the other side's half of the way take, several times over.
SPIN_SECONDS = 0.0001
# Looks left out after many in vain. Those that remain are no burden.
MOST_SKIPPED = 1023


class Spin:
    """Waits for one kind of event, which tends to come soon or tends not to."""

    def __init__(self) -> None:
        self._can_pay = len(os.sched_getaffinity(0)) > 1
        self._skipped = 0  # of the next looks, after the last one in vain
        self._left_out = 0  # of these, still to come

    def look(self, poll: Callable[[float], Any]) -> Any:
        """Return what `poll(0)` gives within a moment, or nothing."""
        if self._left_out or not self._can_pay:
            self._left_out -= 1
            return None
        now = perf_counter()
        until = now + SPIN_SECONDS
        while not (found := poll(0)) and now < until:
            now = perf_counter()
        # What comes late has found this process asleep: it shares its core.
        if found and perf_counter() < until:
            self._skipped = 0
        else:
            self._skipped = self._left_out = min(2 * self._skipped + 1, MOST_SKIPPED)
        return found
