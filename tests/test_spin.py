"""Looking again before going to sleep: only as long as it is worth it."""

import os
import time

import pytest

import motorpool
import workloads
from motorpool.spin import MOST_SKIPPED, SPIN_SECONDS, Spin


class Polled:
    """Gives nothing at its first `empty` polls, then something; counts the looks."""

    def __init__(self, empty=0):
        self.empty = empty
        self.polls = 0

    def __call__(self, timeout):
        assert timeout == 0
        self.polls += 1
        return [] if self.polls <= self.empty else ["sign"]


@pytest.fixture
def spin(monkeypatch):
    """Return a spin of a process that may use two CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    return Spin()


def looks_that_poll(spin, poll, times):
    """Return which of so many looks polled at all."""
    polled = []
    for number in range(times):
        before = poll.polls
        spin.look(poll)
        if poll.polls > before:
            polled.append(number)
    return polled


def test_what_comes_soon_is_found_without_sleeping(spin):
    """A sign that comes at the third poll is returned, again and again."""
    for _ in range(5):
        assert spin.look(Polled(empty=2)) == ["sign"]


def test_looks_in_vain_become_rare(spin):
    """Where nothing ever comes soon, hardly anybody looks any more."""
    never = Polled(empty=float("inf"))

    assert looks_that_poll(spin, never, 100) == [0, 2, 6, 14, 30, 62]
    looked = looks_that_poll(spin, never, 20 * MOST_SKIPPED)
    assert len(looked) <= 20 + 10


def test_one_success_brings_looking_back(spin):
    """What came soon once may do so the next time."""
    looks_that_poll(spin, Polled(empty=float("inf")), 3)
    soon = Polled()

    first = looks_that_poll(spin, soon, 10)[0]
    assert looks_that_poll(spin, soon, 3) == [0, 1, 2]
    assert first <= 3


def test_what_comes_late_counts_as_vain(spin):
    """A poll that took all of the moment was a process that did not run meanwhile."""

    def late(_timeout):
        until = time.perf_counter() + 2 * SPIN_SECONDS
        while time.perf_counter() < until:
            pass
        return ["sign"]

    assert spin.look(late) == ["sign"]
    assert spin.look(Polled()) is None


def test_nobody_looks_on_a_single_cpu(monkeypatch):
    """Who looks there keeps away the one that it waits for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})

    assert Spin().look(Polled()) is None


def test_pool_that_was_called_uses_no_cpu_afterwards(make_process_pool):
    """A moment after a call, parent and worker sleep."""
    pool = make_process_pool(1)
    for _ in range(100):
        pool.apply(workloads.square, (3,))
    before = pool.apply(time.process_time), time.process_time()
    with pytest.raises(motorpool.TimeoutError):
        pool.apply_async(time.sleep, (1.0,)).get(timeout=0.9)
    after = pool.apply(time.process_time), time.process_time()

    assert max(after[0] - before[0], after[1] - before[1]) < 0.3
