"""Timeouts, retries, cancelling and error policies: what a caller may ask of tasks."""

import concurrent.futures
import functools
import math
import multiprocessing
import os
import pickle
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

import motorpool
import workloads
from conftest import DEADLINE, eventually, outcome, outcomes
from motorpool import TaskCancelledError, TaskTimeoutError, WorkerLostError

SHORT = 0.3
"""A timeout; the tasks that must not end in time wait for much longer."""

SLOW = 5
SQUARES = [n * n for n in range(12)]
OTHERS = [n * n for n in range(12) if n != SLOW]


@pytest.fixture
def gate(tmp_path):
    """Name the file that slow tasks wait for; threads are let go at the end."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def log(tmp_path):
    """Name the file in which each run of a task leaves a line."""
    path = tmp_path / "log"
    path.touch()
    return path


def runs(log):
    """Return how often each item was run, by item."""
    lines = log.read_text().split()
    return {int(line): lines.count(line) for line in lines}


def kinds(found):
    """Return the types of errors, and None for results."""
    return [type(value) if isinstance(value, BaseException) else None for value in found]


def values(found):
    """Return the results among results and errors."""
    return [value for value in found if not isinstance(value, BaseException)]


def notes(error):
    """Return all notes of an error as one text."""
    return "\n".join(getattr(error, "__notes__", []))


def is_alive(pid):
    """Return whether a process runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def given(result):
    """Return what a call gave, or what it promised."""
    return result.get(timeout=DEADLINE) if hasattr(result, "get") else result


# Timeouts


def slow(gate, items=(SLOW,)):
    """Return a function that does not come to an end for some items."""
    return functools.partial(workloads.square_or_wait, str(gate), items)


def starred(gate):
    """Return the same for items with a factor of 1."""
    return functools.partial(workloads.square_pair_or_wait, str(gate), (SLOW,))


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [None, 1, 4, 12])
def test_late_item_fails_alone(pool, gate, chunksize):
    """One item that does not end costs itself, whatever the chunks."""
    found = pool.map(slow(gate), range(12), chunksize, timeout=SHORT, on_error="return")

    assert kinds(found) == [TaskTimeoutError if n == SLOW else None for n in range(12)]
    assert values(found) == OTHERS
    assert pool.map(workloads.square, range(12)) == SQUARES


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_map_with_a_late_item_raises(pool, gate, method):
    """Every kind of map takes a timeout for each task."""
    call = getattr(pool, method)
    is_starred = method.startswith("star")
    items = [(n, 1) for n in range(12)] if is_starred else range(12)
    with pytest.raises(TaskTimeoutError) as caught:
        given(call(starred(gate) if is_starred else slow(gate), items, timeout=SHORT))

    assert caught.value.index == SLOW


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("kind", [list, iter])
def test_stream_with_a_late_item_goes_on(pool, gate, method, kind):
    """An iterator raises for the late item, and gives all others."""
    found = outcomes(getattr(pool, method)(slow(gate), kind(range(12)), timeout=SHORT))

    assert sorted(values(found)) == OTHERS
    assert kinds(found).count(TaskTimeoutError) == 1
    if method == "imap":
        assert kinds(found)[SLOW] is TaskTimeoutError


@pytest.mark.quick
@pytest.mark.parametrize("method", ["apply", "apply_async"])
def test_late_call_raises(pool, gate, method):
    """A single call takes a timeout, and another call does not suffer from it."""
    with pytest.raises(TaskTimeoutError):
        given(getattr(pool, method)(slow(gate), (SLOW,), timeout=SHORT))

    assert pool.apply(workloads.square, (3,)) == 9


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_many_late_items_fail_alone(pool, gate, log, chunksize):
    """Each late item fails, each other one arrives, and none is run twice."""
    late = tuple(range(0, 30, 7))
    function = functools.partial(workloads.note_run_then_wait, str(log), str(gate), late)
    found = pool.map(function, range(30), chunksize, timeout=SHORT, on_error="return")

    assert kinds(found) == [TaskTimeoutError if n in late else None for n in range(30)]
    assert runs(log) == dict.fromkeys(range(30), 1)


def test_timeout_error_tells_the_facts(process_pool, tmp_path):
    """The error says which item of which function took too long, and where."""
    path = tmp_path / "pid"
    result = process_pool.starmap_async(
        workloads.write_pid_and_be_stubborn, [(str(path), "ignores SIGTERM")], timeout=SHORT
    )
    error = outcome(result)
    twin = pickle.loads(pickle.dumps(error))

    for each in (error, twin):
        assert type(each) is TaskTimeoutError
        assert each.pid == int(path.read_text())
        assert (each.index, each.seconds) == (0, SHORT)
        assert each.function == "write_pid_and_be_stubborn"
        assert "ignores SIGTERM" in each.item
        for fact in (str(each.pid), "item 0", "ignores SIGTERM", each.function, "0.3 s"):
            assert fact in str(each)


@pytest.mark.parametrize("how", ["ignores SIGTERM", "holds the interpreter's lock"])
def test_timeout_error_shows_where_the_task_was(process_pool, tmp_path, how):
    """The error has the stack of the task at its end, be it in C code."""
    result = process_pool.apply_async(
        workloads.write_pid_and_be_stubborn, (str(tmp_path / "pid"), how), timeout=SHORT
    )
    error = outcome(result)

    for text in (error.stack, str(error), str(pickle.loads(pickle.dumps(error)))):
        assert "in write_pid_and_be_stubborn" in text
        assert "workloads.py" in text


def test_timeout_error_is_caught_as_any_timeout():
    """Code that catches a timeout of either kind catches a task's."""
    for kind in (
        TimeoutError,
        multiprocessing.TimeoutError,
        motorpool.TimeoutError,
        motorpool.MotorpoolError,
    ):
        assert issubclass(TaskTimeoutError, kind)


@pytest.mark.parametrize("how", workloads.STUBBORN)
def test_stubborn_task_is_gone(process_pool, tmp_path, how):
    """Whatever a task does, its worker is gone two seconds after its time at the latest."""
    path = tmp_path / "pid"
    result = process_pool.apply_async(
        workloads.write_pid_and_be_stubborn, (str(path), how), timeout=SHORT
    )
    assert type(outcome(result)) is TaskTimeoutError

    assert eventually(lambda: not is_alive(int(path.read_text())), timeout=2)
    assert process_pool.map(workloads.square, range(12)) == SQUARES


@pytest.mark.parametrize("chunksize", [None, 3])
def test_item_that_does_not_load_in_time_fails(process_pool, chunksize):
    """Time spent on unpickling counts, and neighbours in the chunk are run."""
    items = [1, workloads.NeverLoaded(), 3]
    found = process_pool.map(workloads.same, items, chunksize, timeout=SHORT, on_error="return")

    assert found[::2] == [1, 3]
    assert type(found[1]) is TaskTimeoutError


def test_time_in_the_queue_does_not_count(make_pool):
    """A timeout is each task's own: those that wait for others have all of it."""
    pool = make_pool(1)
    calls = [pool.apply_async(time.sleep, (0.2,), timeout=0.7) for _ in range(6)]

    assert [outcome(call) for call in calls] == [None] * 6


def test_timeout_is_kept_while_nobody_waits(pool, gate):
    """The error callback of a late task is called though nobody asks for the result."""
    told = []
    pool.apply_async(slow(gate), (SLOW,), timeout=SHORT, error_callback=told.append)

    assert eventually(lambda: told)
    assert type(told[0]) is TaskTimeoutError


def test_timeout_is_kept_while_another_call_is_waited_for(pool, gate):
    """A thread that waits for something else does not keep a task beyond its time."""
    first = pool.apply_async(slow(gate), (SLOW,))
    second = pool.apply_async(slow(gate), (SLOW,), timeout=SHORT)
    with pytest.raises(motorpool.TimeoutError):
        first.get(timeout=4 * SHORT)

    assert second.ready()
    assert type(outcome(second)) is TaskTimeoutError


def test_pool_sets_the_timeout_of_its_calls(make_pool, gate):
    """A timeout given to the pool holds for every call that has none of its own."""
    pool = make_pool(2, timeout=SHORT)
    assert type(outcome(pool.apply_async(slow(gate), (SLOW,)))) is TaskTimeoutError
    assert type(outcome(pool.map_async(slow(gate), [SLOW]))) is TaskTimeoutError

    unlimited = pool.apply_async(time.sleep, (2 * SHORT,), timeout=math.inf)
    assert outcome(unlimited) is None


def test_items_that_end_just_in_time_or_late_are_one_or_the_other(pool, log):
    """At the very deadline an item is done or late; nobody else is, and nothing is run twice."""
    function = functools.partial(workloads.note_run_and_sleep, str(log), 0.02)
    found = pool.map(function, range(60), 10, timeout=0.0203, on_error="return")

    assert set(kinds(found)) <= {None, TaskTimeoutError}
    assert all(value in (n, None) or kinds([value])[0] for n, value in enumerate(found))
    assert runs(log) == dict.fromkeys(range(60), 1)


def test_wait_for_a_result_is_no_timeout_of_the_task(pool, gate):
    """`get(timeout)` limits the wait only; the task goes on."""
    result = pool.apply_async(slow(gate), (SLOW,))
    with pytest.raises(motorpool.TimeoutError) as caught:
        result.get(timeout=0.01)
    assert type(caught.value) is motorpool.TimeoutError
    gate.touch()

    assert outcome(result) == SLOW * SLOW


# Retries


def failing(log, times, bad):
    """Return a function that fails for the first runs of some items."""
    return functools.partial(workloads.note_run_and_fail, str(log), times, bad)


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [None, 1, 5, 20])
def test_failed_items_are_run_again(pool, log, chunksize):
    """An item that succeeds within its attempts is a result like any other."""
    bad = (0, 3, 4, 19)
    function = failing(log, 2, bad)
    found = pool.map(function, range(20), chunksize, retries=2, backoff=0.01)

    assert found == [n * n for n in range(20)]
    assert runs(log) == {n: 3 if n in bad else 1 for n in range(20)}


@pytest.mark.quick
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_attempts_come_to_an_end(pool, log, retries):
    """After the last attempt its error is raised, and tells how many there were."""
    function = failing(log, 9, (2,))
    with pytest.raises(ValueError, match=f"run {retries + 1} of 2") as caught:
        pool.map(function, range(4), retries=retries, backoff=0.01)

    assert runs(log) == {0: 1, 1: 1, 2: 1 + retries, 3: 1}
    told = f"the last of {retries + 1} attempts"
    assert (told in notes(caught.value)) == (retries > 0)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("kind", [list, iter])
def test_streams_try_again(pool, log, method, kind):
    """Iterators give the results of later attempts, `imap` in order."""
    function = failing(log, 1, (1, 4))
    found = list(getattr(pool, method)(function, kind(range(20)), retries=1, backoff=0.01))

    assert sorted(found) == [n * n for n in range(20)]
    assert method != "imap" or found == sorted(found)


@pytest.mark.parametrize("method", ["apply", "apply_async", "starmap", "starmap_async"])
def test_other_calls_try_again(pool, log, method):
    """Single calls and starmaps take retries too."""
    arguments = (3,) if method.startswith("apply") else [(3,)]
    call = getattr(pool, method)
    found = given(call(failing(log, 1, (3,)), arguments, retries=1, backoff=0.01))

    assert found == (9 if method.startswith("apply") else [9])


@pytest.mark.parametrize(
    ("retry_on", "expected"),
    [(ValueError, 3), ((KeyError, ValueError), 3), (KeyError, 1), ((), 1), (Exception, 3)],
)
def test_only_some_errors_are_tried_again(pool, log, retry_on, expected):
    """`retry_on` says after which errors there is another attempt."""
    result = pool.apply_async(
        failing(log, 9, (2,)), (2,), retries=2, backoff=0.01, retry_on=retry_on
    )

    assert type(outcome(result)) is ValueError
    assert runs(log) == {2: expected}


@pytest.mark.quick
def test_lost_worker_counts_as_a_failed_attempt(process_pool, log):
    """An item that killed its worker is run again, if that was allowed."""
    function = functools.partial(workloads.note_run_and_die, str(log), 2, (3,))
    found = process_pool.map(function, range(12), 4, retries=2, backoff=0.01)

    assert found == SQUARES
    assert runs(log) == {n: 3 if n == 3 else 1 for n in range(12)}


@pytest.mark.parametrize("retry_on", [ValueError, WorkerLostError])
def test_lost_worker_is_tried_again_only_if_named(process_pool, log, retry_on):
    """`retry_on` decides about lost workers as about other errors."""
    function = functools.partial(workloads.note_run_and_die, str(log), 9, (3,))
    result = process_pool.apply_async(function, (3,), retries=1, backoff=0.01, retry_on=retry_on)
    error = outcome(result)

    assert type(error) is WorkerLostError
    assert runs(log) == {3: 2 if retry_on is WorkerLostError else 1}
    assert ("the last of 2 attempts" in notes(error)) == (retry_on is WorkerLostError)


@pytest.mark.parametrize("retry_on", [Exception, TaskTimeoutError, ValueError])
def test_late_item_is_tried_again_if_named(pool, gate, log, retry_on):
    """A timeout is a failure like any other: each attempt has all the time."""
    function = functools.partial(workloads.note_run_then_wait, str(log), str(gate), (3,))
    result = pool.apply_async(
        function, (3,), timeout=SHORT, retries=1, backoff=0.01, retry_on=retry_on
    )

    assert type(outcome(result)) is TaskTimeoutError
    assert runs(log) == {3: 1 if retry_on is ValueError else 2}


def test_waiting_for_the_next_attempt_holds_up_nobody(make_pool, log):
    """While an item waits for its backoff, its worker does the others."""
    pool = make_pool(1)
    function = failing(log, 1, (0,))
    found = list(pool.imap_unordered(function, range(6), retries=1, backoff=0.5))

    assert found == [1, 4, 9, 16, 25, 0]


def test_leaving_the_pool_waits_for_the_next_attempt(make_pool, log):
    """`with` does not end before an item has had its attempts."""
    with make_pool(2) as pool:
        result = pool.map_async(failing(log, 2, (1,)), range(3), retries=2, backoff=0.05)

    assert result.get() == [0, 1, 4]


def test_what_cannot_be_sent_is_not_tried_again(process_pool):
    """An item that does not pickle fails at once: nothing was run."""
    began = time.monotonic()
    result = process_pool.map_async(
        workloads.same, [workloads.Holder("h")], retries=3, backoff=DEADLINE
    )

    assert isinstance(outcome(result), motorpool.NotPicklableError)
    assert time.monotonic() - began < DEADLINE


# Cancelling


def cancelled(result):
    """Assert that a result is cancelled for good."""
    assert result.cancelled()
    error = outcome(result)
    assert type(error) is TaskCancelledError
    assert isinstance(error, concurrent.futures.CancelledError)
    assert result.ready()
    assert not result.successful()


@pytest.mark.quick
def test_waiting_call_that_is_cancelled_never_runs(make_pool, gate, log):
    """What is cancelled in the queue, or sent ahead, is not run."""
    pool = make_pool(1)
    first = pool.apply_async(slow(gate), (SLOW,))
    waiting = [pool.apply_async(workloads.note_run, (str(log), n)) for n in range(20)]
    for result in waiting[1::2]:
        assert result.cancel()
    gate.touch()

    assert outcome(first) == SLOW * SLOW
    assert [outcome(result) for result in waiting[::2]] == list(range(0, 20, 2))
    assert runs(log) == dict.fromkeys(range(0, 20, 2), 1)
    for result in waiting[1::2]:
        cancelled(result)


@pytest.mark.quick
def test_running_call_that_is_cancelled_costs_its_worker_only(process_pool, tmp_path):
    """The worker of a cancelled task ends at once; other tasks go on."""
    paths = [tmp_path / "first", tmp_path / "second"]
    gate = tmp_path / "gate"
    first, second = [
        process_pool.apply_async(workloads.write_pid_then_wait, (str(path), str(gate)))
        for path in paths
    ]
    waiting = process_pool.map_async(workloads.square, range(12))
    assert eventually(lambda: all(path.exists() and path.read_text() for path in paths))

    assert first.cancel()
    cancelled(first)
    assert eventually(lambda: not is_alive(int(paths[0].read_text())), timeout=2)
    assert is_alive(int(paths[1].read_text()))
    gate.touch()
    assert outcome(second) is None
    assert outcome(waiting) == SQUARES


def test_running_call_in_a_thread_is_left_alone(make_pool, gate, engine):
    """A cancelled task does not keep a worker from the next one, on any engine."""
    pool = make_pool(1)
    running = pool.apply_async(slow(gate), (SLOW,))
    following = pool.apply_async(workloads.square, (3,))
    assert running.cancel()

    cancelled(running)
    assert outcome(following) == 9
    assert eventually(lambda: len(pool._pool) == 1)


@pytest.mark.parametrize("how", workloads.STUBBORN)
def test_stubborn_task_is_cancelled(process_pool, tmp_path, how):
    """A task that ignores everything is gone within two seconds."""
    path = tmp_path / "pid"
    result = process_pool.apply_async(workloads.write_pid_and_be_stubborn, (str(path), how))
    assert eventually(lambda: path.exists() and path.read_text())
    assert result.cancel()

    assert eventually(lambda: not is_alive(int(path.read_text())), timeout=2)
    cancelled(result)


def test_finished_call_cannot_be_cancelled(pool):
    """Cancelling what is done says so and changes nothing."""
    result = pool.apply_async(workloads.square, (3,))
    assert outcome(result) == 9

    assert not result.cancel()
    assert not result.cancelled()
    assert result.get() == 9


def test_cancelling_twice_is_cancelling_once(pool, gate):
    """The second call agrees with the first."""
    result = pool.apply_async(slow(gate), (SLOW,))

    assert result.cancel()
    assert result.cancel()
    cancelled(result)


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_map_that_is_cancelled_ends(pool, gate, log, chunksize):
    """Of a cancelled map nothing more is begun; the pool goes on."""
    slow_items = tuple(range(30))
    function = functools.partial(workloads.note_run_then_wait, str(log), str(gate), slow_items)
    result = pool.map_async(function, range(30), chunksize)
    assert eventually(lambda: len(runs(log)) == 2)

    assert result.cancel()
    cancelled(result)
    assert pool.map(workloads.square, range(12)) == SQUARES
    assert len(runs(log)) == 2


def test_error_callback_is_told_of_the_cancelling(pool, gate):
    """Whoever is called back about errors is called back about this."""
    told = []
    result = pool.map_async(slow(gate), range(12), callback=told.append, error_callback=told.append)
    assert result.cancel()

    assert eventually(lambda: told)
    assert kinds(told) == [TaskCancelledError]


def test_cancel_from_another_thread_wakes_who_waits(pool, gate):
    """A thread in `get` hears at once that its result is cancelled."""
    result = pool.apply_async(slow(gate), (SLOW,))
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(outcome, result)
        assert eventually(pool._driver._turns.is_driven)
        assert result.cancel()

        assert type(waiting.result(DEADLINE)) is TaskCancelledError


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("kind", [list, iter])
def test_iterator_that_is_cancelled_ends(pool, gate, method, kind):
    """Results that are there are given out; then comes the error, then the end."""
    iterator = getattr(pool, method)(slow(gate), kind(range(12)))
    assert next(iterator) in SQUARES
    assert iterator.cancel()
    found = outcomes(iterator)

    assert kinds(found)[-1] is TaskCancelledError
    assert set(values(found)) <= set(OTHERS)
    assert not iterator.cancel()
    assert next(iterator, "end") == "end"


def test_call_cancelled_while_its_worker_starts_never_runs(make_process_pool, gate, log):
    """A worker whose initializer still runs does not begin what was cancelled meanwhile."""
    pool = make_process_pool(1, initializer=workloads.wait_for, initargs=(str(gate),))
    result = pool.apply_async(workloads.note_run, (str(log), 1))
    following = pool.apply_async(workloads.square, (3,))
    assert result.cancel()
    gate.touch()

    assert outcome(following) == 9
    assert runs(log) == {}


@pytest.mark.parametrize("is_together", [True, False])
def test_cancelling_at_any_moment_costs_nobody_else(pool, log, is_together):
    """Tasks that are cancelled as they end cost no other task, and none is run twice."""
    generator = random.Random(3)
    kept, dropped = [], []
    for number in range(60):
        length = generator.choice([0.0, 0.0005, 0.002])
        function, arguments = workloads.note_run_and_sleep, (str(log), length, number)
        if not is_together:  # Calls of a function that goes by name are sent together.
            function, arguments = functools.partial(function, *arguments), ()
        results = dropped if number % 3 == 0 else kept
        results.append((number, pool.apply_async(function, arguments)))
        if number % 3 == 2:
            time.sleep(generator.random() * 0.004)
            dropped[-1][1].cancel()

    assert [outcome(result) for _, result in kept] == [number for number, _ in kept]
    assert set(kinds(outcome(result) for _, result in dropped)) <= {None, TaskCancelledError}
    assert set(runs(log).values()) == {1}


def test_retry_that_is_cancelled_never_comes(pool, log):
    """Cancelling ends the wait for the next attempt."""
    result = pool.apply_async(failing(log, 9, (2,)), (2,), retries=1, backoff=60)
    assert eventually(lambda: runs(log))
    assert result.cancel()

    cancelled(result)
    assert runs(log) == {2: 1}


# What an error does to the others

BAD = (2, 5)


def bad():
    """Return a function that fails for two items."""
    return functools.partial(workloads.fail_on, BAD)


EXPECTED = {
    "return": ([None, None, ValueError, None, None, ValueError, None, None], [0, 1, 9, 16, 36, 49]),
    "skip": ([None] * 6, [0, 1, 9, 16, 36, 49]),
}


@pytest.mark.quick
@pytest.mark.parametrize("on_error", EXPECTED)
@pytest.mark.parametrize("method", ["map", "map_async", "imap", "starmap", "starmap_async"])
def test_errors_are_returned_or_skipped_in_order(pool, method, on_error):
    """Errors stand in their places, or are left out; results keep their order."""
    items = [(n,) for n in range(8)] if method.startswith("star") else range(8)
    for chunksize in (None, 1, 3):
        found = list(given(getattr(pool, method)(bad(), items, chunksize, on_error=on_error)))

        assert (kinds(found), values(found)) == EXPECTED[on_error], chunksize


@pytest.mark.parametrize("on_error", EXPECTED)
@pytest.mark.parametrize("kind", [list, iter])
def test_unordered_errors_are_returned_or_skipped(pool, on_error, kind):
    """`imap_unordered` gives errors as they come, or leaves them out."""
    found = list(pool.imap_unordered(bad(), kind(range(8)), on_error=on_error))

    assert sorted(kinds(found), key=str) == sorted(EXPECTED[on_error][0], key=str)
    assert sorted(values(found)) == EXPECTED[on_error][1]


@pytest.mark.parametrize("on_error", ["return", "skip"])
def test_map_that_keeps_errors_is_successful(pool, on_error):
    """The callback gets the list; there is no error to be called back about."""
    told = []
    result = pool.map_async(
        bad(), range(8), callback=told.append, error_callback=pytest.fail, on_error=on_error
    )
    found = outcome(result)

    assert result.successful()
    assert told == [found]


def test_long_stream_of_skipped_items_ends(pool):
    """A stream of which nothing is left gives nothing, and does not stall."""
    assert list(pool.imap(workloads.fail, iter(range(3000)), on_error="skip")) == []


@pytest.mark.parametrize("on_error", ["return", "skip"])
def test_lost_items_are_returned_or_skipped(process_pool, tmp_path, on_error):
    """A lost worker is an error like any other."""
    function = functools.partial(workloads.die_on, "sigkill", str(tmp_path / "trace"), 5)
    found = process_pool.map(function, range(12), on_error=on_error)

    assert values(found) == OTHERS
    assert kinds(found).count(WorkerLostError) == (on_error == "return")


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_stopped_map_cancels_the_rest(pool, gate, log, chunksize):
    """With `on_error="stop"` the first error ends the map, though others still run."""
    function = functools.partial(
        workloads.note_run_then_wait, str(log), str(gate), tuple(range(1, 50))
    )
    items = ["not a number", *range(1, 50)]
    with pytest.raises(TypeError):
        pool.map(function, items, chunksize, on_error="stop")

    assert pool.map(workloads.square, range(12)) == SQUARES
    # Each worker had begun one, at the very end perhaps, and a replaced one another.
    assert log.read_text().count("\n") <= 3


def test_stopped_map_calls_back_once(pool, gate):
    """The error callback of a stopped map gets the error that stopped it."""
    told = []
    function = functools.partial(workloads.fail_on, BAD)
    pool.map_async(function, range(8), error_callback=told.append, on_error="stop")

    assert eventually(lambda: told)
    assert kinds(told) == [ValueError]


@pytest.mark.parametrize("items", [1, 3])
def test_stopped_map_may_fail_at_its_last_item(pool, items):
    """An error that comes with the end of a map is raised all the same."""
    with pytest.raises(ValueError, match="bad"):
        pool.map(functools.partial(workloads.fail_on, (items - 1,)), range(items), on_error="stop")


@pytest.mark.parametrize("kind", [list, iter])
def test_stopped_imap_ends_at_the_error(pool, kind):
    """`imap` gives what comes before the error, raises it in its place, and ends."""
    found = outcomes(pool.imap(bad(), kind(range(1000)), on_error="stop"))

    assert values(found) == [0, 1]
    assert kinds(found) == [None, None, ValueError]


def test_raising_map_runs_everything(pool, log):
    """By default an error keeps no other item from being run."""
    with pytest.raises(ValueError, match="of 3"):
        pool.map(failing(log, 9, (3, 7)), range(20), on_error="raise")

    assert runs(log) == dict.fromkeys(range(20), 1)


def test_pool_sets_the_policy_of_its_maps(make_pool):
    """A policy given to the pool holds for its maps; a call has its own way to say otherwise."""
    pool = make_pool(2, on_error="skip", retries=1, backoff=0.0)
    assert pool.map(bad(), range(8)) == EXPECTED["skip"][1]
    assert list(pool.imap(bad(), range(8))) == EXPECTED["skip"][1]

    with pytest.raises(ValueError, match="bad 2") as caught:
        pool.map(bad(), range(8), on_error="raise")
    assert "2 attempts" in notes(caught.value)
    with pytest.raises(ValueError, match="bad 2"):
        pool.apply(bad(), (2,), retries=0)


# Wrong values

WRONG = [
    ("timeout", 0, ValueError),
    ("timeout", -1, ValueError),
    ("timeout", math.nan, ValueError),
    ("timeout", "1", TypeError),
    ("timeout", True, TypeError),
    ("retries", -1, ValueError),
    ("retries", 1.5, TypeError),
    ("retries", "2", TypeError),
    ("backoff", -0.1, ValueError),
    ("backoff", math.inf, ValueError),
    ("backoff", "1", TypeError),
    ("retry_on", "ValueError", TypeError),
    ("retry_on", (ValueError, 3), TypeError),
    ("retry_on", [ValueError], TypeError),
    ("on_error", "ignore", ValueError),
    ("on_error", 3, ValueError),
    ("time_out", 3, TypeError),
]
METHODS = {
    "apply": (),
    "apply_async": (),
    "map": ([1],),
    "map_async": ([1],),
    "starmap": ([(1,)],),
    "starmap_async": ([(1,)],),
    "imap": ([1],),
    "imap_unordered": ([1],),
}


@pytest.mark.parametrize(("name", "value", "kind"), WRONG)
def test_wrong_value_raises_at_the_call(name, value, kind):
    """A mistake is told at once by every method, in words that name it, and nothing is run."""
    with motorpool.ThreadPool(1) as pool:
        for method, arguments in METHODS.items():
            expected = TypeError if name == "on_error" and "apply" in method else kind
            with pytest.raises(expected, match=name):
                getattr(pool, method)(pytest.fail, *arguments, **{name: value})
    with pytest.raises(kind, match=name):
        motorpool.Pool(1, **{name: value})
    with pytest.raises(kind, match=name):
        motorpool.ThreadPool(1, **{name: value})


def test_options_can_be_left_to_the_pool():
    """None is the pool's own value, for every option."""
    with motorpool.ThreadPool(1) as pool:
        options = dict.fromkeys(["timeout", "retries", "backoff", "retry_on", "on_error"])

        assert pool.map(workloads.square, [3], **options) == [9]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_every_option(method):
    """No method is left out."""
    options = {"timeout": 5, "retries": 2, "backoff": 0.5, "retry_on": (KeyError, ValueError)}
    if "apply" not in method:
        options["on_error"] = "return"
    arguments = ((3,),) if "apply" in method else ([(3,)] if "star" in method else [3],)
    with motorpool.ThreadPool(1) as pool:
        found = given(getattr(pool, method)(workloads.square, *arguments, **options))

        assert found == 9 if "apply" in method else list(found) == [9]


# What it is about: nothing is left behind


@pytest.mark.quick
def test_call_that_nobody_waits_for_any_more_holds_up_no_end(make_pool, gate):
    """Leaving the pool cancels one call of many that timed out, and finishes the others."""
    pool = make_pool(2)
    with pool:
        stuck = [pool.apply_async(workloads.wait_for, (str(gate),)) for _ in range(2)]
        others = [pool.apply_async(workloads.square, (n,)) for n in range(9)]
        with pytest.raises(motorpool.TimeoutError):
            stuck[1].get(timeout=0.1)
        with pytest.raises(motorpool.TimeoutError):
            stuck[0].get(timeout=0.1)

    assert kinds(map(outcome, stuck)) == [motorpool.PoolTerminatedError] * 2
    assert [outcome(other) for other in others] == [n * n for n in range(9)]


def test_timeout_is_kept_by_a_worker_that_was_stopped_before(process_pool, worker_ids):
    """What a stopped worker was sent and cannot begin goes to another."""
    for pid in worker_ids(process_pool):
        os.kill(pid, signal.SIGSTOP)
    calls = [process_pool.apply_async(workloads.square, (n,), timeout=SHORT) for n in range(6)]

    assert [outcome(call) for call in calls] == [n * n for n in range(6)]


def test_killed_workers_are_gone_for_good(process_pool, gate):
    """Ten late tasks in a row leave no process behind, and the pool at full width."""
    for _ in range(5):
        found = process_pool.map(slow(gate, (1, 2)), [1, 2], 1, timeout=0.1, on_error="return")
        assert kinds(found) == [TaskTimeoutError] * 2

    assert eventually(lambda: len(process_pool._pool) == 2)
    assert eventually(lambda: len(psutil.Process(os.getpid()).children()) <= 5)
    assert process_pool.map(workloads.square, range(12)) == SQUARES
    assert not Path(gate).exists()
