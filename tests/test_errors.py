"""What a user meets when a task, an argument, a result or a callback fails."""

import copy
import functools
import inspect
import logging
import multiprocessing
import multiprocessing.pool
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from concurrent.futures.process import BrokenProcessPool

import pytest

import motorpool
import motorpool.errors
import workloads
from conftest import DEADLINE, eventually, outcome, outcomes
from motorpool.books import Books
from motorpool.messages import WorkerLost

RUNS_ON_EXECUTORS = True

CALLS = {
    "apply": lambda pool, func, item: pool.apply(func, (item,)),
    "apply_async": lambda pool, func, item: pool.apply_async(func, (item,)).get(DEADLINE),
    "map": lambda pool, func, item: pool.map(func, [item]),
    "map_async": lambda pool, func, item: pool.map_async(func, [item]).get(DEADLINE),
    "imap": lambda pool, func, item: list(pool.imap(func, [item])),
    "imap_unordered": lambda pool, func, item: list(pool.imap_unordered(func, [item])),
    "starmap": lambda pool, func, item: pool.starmap(func, [(item,)]),
    "starmap_async": lambda pool, func, item: pool.starmap_async(func, [(item,)]).get(DEADLINE),
}
needs_notes = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="notes and groups came with Python 3.11"
)


def error_of(pool, function, item="item-7"):
    """Return the error with which a call of `function` ends."""
    with pytest.raises(BaseException) as caught:
        pool.map_async(function, [item]).get(timeout=DEADLINE)
    return caught.value


def assert_alive(pool):
    """Assert that the pool still does its work."""
    squares = pool.map_async(workloads.square, range(10), chunksize=1)
    assert squares.get(timeout=DEADLINE) == [n * n for n in range(10)]


def chain_of(error):
    """Return all errors reachable through causes and contexts."""
    found, waiting = [], [error]
    while waiting:
        this = waiting.pop()
        if this is not None and all(this is not other for other in found):
            found.append(this)
            waiting += [this.__cause__, this.__context__]
    return found


# The task's own exception


@pytest.mark.quick
def test_error_of_a_task_arrives_as_itself(pool):
    """The exception that a task raised is the one that the caller catches."""
    for call in CALLS.values():
        with pytest.raises(ValueError, match="cannot do 'item-7'") as caught:
            call(pool, workloads.fail, "item-7")

        assert type(caught.value) is ValueError
        assert caught.value.args == ("cannot do 'item-7'",)
        assert_alive(pool)


@pytest.mark.quick
def test_error_has_the_workers_traceback_as_its_cause(process_pool):
    """The cause of an error is the traceback as it was in the worker."""
    error = error_of(process_pool, workloads.fail)
    text = str(error.__cause__)

    assert "Traceback (most recent call last)" in text
    assert "in fail" in text
    assert "workloads.py" in text


@needs_notes
def test_error_has_a_note_of_where_it_arose(pool):
    """A note names the function, the item and the worker."""
    for call in CALLS.values():
        with pytest.raises(ValueError, match="cannot do") as caught:
            call(pool, workloads.fail, "item-7")
        notes = "\n".join(caught.value.__notes__)

        assert "fail" in notes
        assert "item-7" in notes
        assert "worker" in notes.lower()


@needs_notes
def test_note_names_the_position_and_process(process_pool, worker_ids):
    """The note of a failed map says which item, and in which process."""
    pids = worker_ids(process_pool)
    failing = functools.partial(workloads.fail_on, {3})
    with pytest.raises(ValueError, match="bad 3") as caught:
        process_pool.map(failing, range(5))
    notes = "\n".join(caught.value.__notes__)

    assert "3" in notes
    assert "fail_on" in notes
    assert any(str(pid) in notes for pid in pids)


def test_worker_traceback_names_the_item_where_notes_do_not_show(process_pool):
    """What is printed says which item, also on Python 3.10, which shows no notes."""
    failing = functools.partial(workloads.fail_on, {3})
    with pytest.raises(ValueError, match="bad 3") as caught:
        process_pool.map(failing, range(5))

    named = "item 3, 3, of " in str(caught.value.__cause__)
    assert named is (sys.version_info < (3, 11))


@pytest.mark.quick
def test_error_with_required_arguments_arrives(pool):
    """An exception whose constructor wants arguments comes as itself."""
    error = error_of(pool, workloads.raise_needs_two)

    assert type(error) is workloads.NeedsTwo
    assert str(error) == "1-2"
    assert (error.left, error.right) == (1, 2)
    assert_alive(pool)


def test_error_with_a_required_keyword_arrives(pool):
    """An exception whose constructor wants a keyword comes as itself."""
    error = error_of(pool, workloads.raise_needs_keyword)

    assert type(error) is workloads.NeedsKeyword
    assert str(error) == "code 12"
    assert error.code == 12
    assert_alive(pool)


@pytest.mark.parametrize(
    ("function", "name", "text"),
    [
        (workloads.raise_with_lock, "HoldsLock", "locked in"),
        (workloads.raise_fails_to_load, "FailsToLoadError", "not to be loaded"),
    ],
    ids=["cannot be pickled", "cannot be unpickled"],
)
def test_error_that_does_not_travel_has_a_faithful_stand_in(process_pool, function, name, text):
    """An exception that cannot be sent is told with its name, text and traceback."""
    error = error_of(process_pool, function)

    assert isinstance(error, Exception)
    assert name in f"{type(error).__name__} {error}"
    assert text in str(error)
    assert f"in {function.__name__}" in str(error.__cause__)
    assert_alive(process_pool)


@needs_notes
def test_group_of_errors_arrives_whole(pool):
    """An ExceptionGroup keeps its members, nested groups included."""
    error = error_of(pool, workloads.raise_group)
    flat, inner = error.exceptions

    assert type(error).__name__ == "ExceptionGroup"
    assert error.message == "outer"
    assert type(flat) is ValueError
    assert inner.message == "inner"
    assert [type(e) for e in inner.exceptions] == [KeyError]
    assert str(inner.exceptions[0].__cause__) == "'deepest'"


@needs_notes
def test_notes_of_the_task_are_kept(pool):
    """A note that the task added comes before the pool's."""
    error = error_of(pool, workloads.raise_with_note)

    assert error.__notes__[0] == "a note of the task"


@pytest.mark.parametrize("function", [workloads.raise_from_cause, workloads.raise_in_context])
def test_chain_of_errors_is_kept(pool, function):
    """The cause and the context of an error can still be reached."""
    error = error_of(pool, function)

    assert str(error) == "outer"
    assert any(type(link) is KeyError and link.args == ("inner key",) for link in chain_of(error))


def test_errors_that_are_each_others_cause_arrive(pool):
    """A chain that goes round in a circle is kept as it is."""
    error = error_of(pool, workloads.raise_cycle)
    found = [link for link in chain_of(error) if type(link) is workloads.NeedsTwo]

    assert [link.args for link in found] == [error.args, found[1].args]
    assert found[1].__cause__ is error


def test_long_chain_of_errors_arrives(pool):
    """Each of many errors is kept whose class cannot be called with its `args`."""
    error = error_of(pool, workloads.raise_after_many)

    assert sum(type(link) is workloads.NeedsTwo for link in chain_of(error)) == 30
    assert_alive(pool)


@needs_notes
def test_error_out_of_a_group_arrives(pool):
    """A member that is raised by itself has its group as the context, which has the member."""
    error = error_of(pool, workloads.raise_unwrapped)

    assert type(error) is workloads.NeedsTwo
    assert error.__context__.exceptions == (error,)
    assert any(type(link) is KeyError for link in chain_of(error))


@pytest.mark.parametrize("options", [{}, {"on_error": "return", "retries": 1, "backoff": 0}])
def test_error_that_is_false_arrives(pool, options):
    """An exception may be an empty container: it is an error all the same."""
    function = functools.partial(workloads.raise_empty_error_if, 2)
    found = outcomes(pool.imap(function, range(4), **options))

    assert found[:2] + found[3:] == [0, 1, 3]
    assert type(found[2]) is workloads.EmptyError
    with pytest.raises(workloads.EmptyError):
        pool.map(function, range(4), on_error="stop")
    assert_alive(pool)


def test_remote_traceback_shows_the_chain(process_pool):
    """The traceback of the worker tells the cause of the error as well."""
    error = error_of(process_pool, workloads.raise_from_cause)

    assert "inner key" in str(error.__cause__)
    assert "direct cause" in str(error.__cause__)


@pytest.mark.quick
def test_error_with_a_cause_is_shown_once(process_pool):
    """What is printed of it does not have the cause a second time, out of the traceback."""
    error = error_of(process_pool, workloads.raise_from_cause)

    assert "".join(traceback.format_exception(error)).count("KeyError: 'inner key'") == 1


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (workloads.leave, SystemExit),
        (workloads.interrupt, KeyboardInterrupt),
        (workloads.raise_own_base_exception, workloads.OwnBaseException),
    ],
)
def test_base_exceptions_arrive_and_end_no_worker(pool, worker_ids, function, kind):
    """`sys.exit`, an interrupt or a BaseException in a task is an error like others."""
    pids = worker_ids(pool)
    for call in ("apply", "map", "imap", "imap_unordered"):
        with pytest.raises(kind) as caught:
            CALLS[call](pool, function, 3)

        assert type(caught.value) is kind
        if kind is SystemExit:
            assert caught.value.code == 3
        assert_alive(pool)
        assert worker_ids(pool) == pids


# Arguments and results that do not travel


@pytest.mark.quick
@pytest.mark.parametrize(
    "kind",
    [motorpool.ResultNotPicklableError, multiprocessing.pool.MaybeEncodingError],
    ids=["motorpool", "stdlib"],
)
def test_result_that_cannot_be_pickled_fails_alone(process_pool, kind):
    """Only the item whose result cannot be sent fails, and says so."""
    function = functools.partial(workloads.lock_if, 2)
    found = outcomes(process_pool.imap(function, range(5)))

    assert found[:2] + found[3:] == [0, 1, 3, 4]
    assert isinstance(found[2], kind)
    assert "lock" in str(found[2])
    assert "on item 2" in str(found[2])
    assert found[2].index == 2
    assert_alive(process_pool)


def test_result_that_cannot_be_pickled_is_an_error_everywhere(process_pool):
    """Each call reports a result that cannot be sent."""
    for call in CALLS.values():
        with pytest.raises(motorpool.ResultNotPicklableError):
            call(process_pool, functools.partial(workloads.lock_if, 2), 2)
        assert_alive(process_pool)


def test_result_that_cannot_be_unpickled_fails_alone(process_pool):
    """Only the item whose result cannot be loaded here fails, and says why."""
    function = functools.partial(workloads.unloadable_if, 2)
    found = outcomes(process_pool.imap(function, range(5)))

    assert found[:2] + found[3:] == [0, 1, 3, 4]
    assert isinstance(found[2], Exception)
    assert "refused to load: 2" in "\n".join(map(str, chain_of(found[2])))
    assert_alive(process_pool)


@pytest.mark.quick
def test_result_that_cannot_be_unpickled_beside_an_error_fails_alone(process_pool):
    """An item of the same chunk that raised keeps its own error, and the others their results."""
    found = outcomes(process_pool.imap(workloads.raise_or_unloadable, range(4), chunksize=4))

    assert found[0] == 0
    assert type(found[1]) is motorpool.ResultNotLoadedError
    assert type(found[2]) is ValueError
    assert found[3] == 3


def raise_fault(*_arguments):
    """Stand for a bug of the pool's own."""
    raise LookupError


def test_fault_in_the_midst_of_taking_results_leaves_nobody_waiting(
    make_process_pool, monkeypatch, tmp_path
):
    """A fault of the pool's own fails the calls in flight; later ones are done."""
    pool = make_process_pool(1)
    gate = tmp_path / "gate"
    first = pool.apply_async(workloads.wait_for, (str(gate),))
    opener = threading.Timer(0.1, gate.touch)
    with monkeypatch.context() as patched:
        patched.setattr("motorpool.engines.processes.ProcessEngine._results", raise_fault)
        opener.start()
        with pytest.raises(LookupError):
            pool.map(workloads.square, range(4))
    opener.join()

    assert type(outcome(first)) is motorpool.InternalError
    assert outcome(pool.map_async(workloads.square, range(4))) == [0, 1, 4, 9]


def test_fault_as_a_job_ends_leaves_nobody_waiting(make_pool, monkeypatch):
    """Whoever waits for a job that was about to end when the fault came is told."""
    pool = make_pool(1)
    with monkeypatch.context() as patched:
        patched.setattr("motorpool.results.MapResult.finish", raise_fault)
        result = pool.map_async(workloads.square, range(4))
        with pytest.raises((LookupError, motorpool.InternalError)):
            result.get(DEADLINE)

    assert type(outcome(result)) is motorpool.InternalError
    assert outcome(pool.map_async(workloads.square, range(4))) == [0, 1, 4, 9]


def raise_at_a_loss(handle, books, event):
    """Fail as the end of a worker is told, in place of a method of the pool's."""
    if type(event) is WorkerLost:
        raise LookupError
    return handle(books, event)


@pytest.mark.parametrize("method", ["books.Books.handle", "scheduler.staff.Staff.replace_lost"])
def test_fault_as_a_worker_is_lost_costs_the_pool_no_worker(make_process_pool, monkeypatch, method):
    """The end of a worker that was told in a step which came to nothing is not forgotten."""
    pool = make_process_pool(1)
    assert_alive(pool)
    faulty = raise_fault
    if method == "books.Books.handle":
        handle = Books.handle
        faulty = lambda books, event: raise_at_a_loss(handle, books, event)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(f"motorpool.{method}", faulty)
        # The former if this thread is told, the latter if the attendant is.
        with pytest.raises((LookupError, motorpool.InternalError)):
            pool.apply(workloads.kill_itself)

    assert_alive(pool)


NEAR_THE_LIMIT = """
def descend(depth, call):
    return descend(depth - 1, call) if depth else call()

with open_pool() as pool:
    calls = lambda: pool.map(abs, [-1, 2]), lambda: pool.apply(abs, (-1,))
    limit = sys.getrecursionlimit()
    refused = 0
    for depth in range(limit - 60, limit - 5):
        for call in calls:
            try:
                descend(depth, call)
            except (RecursionError, motorpool.MotorpoolError):
                refused += 1
            assert pool.map_async(abs, range(3)).get(10) == [0, 1, 2], depth
    assert refused
"""


def test_stack_that_is_full_does_the_pool_no_harm(start_script, start_method):
    """A call at the end of the stack raises `RecursionError`; later ones are done."""
    finished = start_script(NEAR_THE_LIMIT, start_method).finish()

    assert finished.returncode == 0, finished.stderr


OPENED_DEEP = """
def call_at(depth, function):
    return call_at(depth - 1, function) if depth else function()

def descend(_item):
    return call_at(200, lambda: "done")

pool = call_at(sys.getrecursionlimit() - 100, lambda: open_pool())
assert pool.map(descend, range(4), 1) == ["done"] * 4
assert pool.apply(int, ("1",)) == 1
pool.close()
pool.join()
"""


def test_pool_that_was_opened_deep_in_a_recursion_has_all_of_the_stack(start_script, engine):
    """Tasks do not suffer for the depth at which their workers were forked."""
    finished = start_script(OPENED_DEEP, engine).finish()

    assert finished.returncode == 0, finished.stderr


def test_result_that_cannot_be_unpickled_is_an_error_everywhere(process_pool):
    """Each call reports a result that cannot be loaded."""
    for call in CALLS.values():
        with pytest.raises(Exception) as caught:
            call(process_pool, functools.partial(workloads.unloadable_if, 2), 2)
        assert "refused to load: 2" in "\n".join(map(str, chain_of(caught.value)))
        assert_alive(process_pool)


@pytest.mark.quick
def test_argument_that_cannot_be_pickled_is_named(process_pool):
    """An argument that cannot be sent is named, with the part that is to blame."""
    for call in CALLS.values():
        with pytest.raises((TypeError, pickle.PicklingError)) as caught:
            call(process_pool, workloads.same, workloads.Holder("box"))
        text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])

        assert "Holder" in text
        assert "handle" in text
        assert "lock" in text
        assert_alive(process_pool)


def test_argument_that_cannot_be_pickled_fails_alone(process_pool):
    """The other items of a stream are done though one cannot be sent."""
    items = [0, 1, workloads.Holder("box"), 3, 4]
    found = outcomes(process_pool.imap(workloads.same, items))

    assert found[:2] + found[3:] == [0, 1, 3, 4]
    assert isinstance(found[2], Exception)
    assert "Holder" in str(found[2])


def test_call_with_an_argument_that_cannot_be_pickled_leaves_others_alone(
    process_pool,
):
    """Calls around one that cannot be sent give their results."""
    good = process_pool.apply_async(workloads.square, (2,))
    bad = process_pool.apply_async(workloads.same, (workloads.Holder("box"),))
    more = process_pool.apply_async(workloads.square, (3,))

    assert outcome(good) == 4
    assert isinstance(outcome(bad), Exception)
    assert outcome(more) == 9


def test_argument_that_cannot_be_unpickled_fails_alone(process_pool):
    """An item that the worker cannot load fails; the others are done."""
    items = [0, 1, workloads.FailsToLoad("two"), 3, 4]
    found = outcomes(process_pool.imap(workloads.same, items))

    assert found[:2] + found[3:] == [0, 1, 3, 4]
    assert "item 2 arrived" in str(found[2])
    assert "refused to load: two" in "\n".join(map(str, chain_of(found[2])))
    assert_alive(process_pool)


def test_argument_that_cannot_be_unpickled_is_an_error_everywhere(process_pool):
    """Each call reports an item that the worker cannot load."""
    for call in CALLS.values():
        with pytest.raises(Exception) as caught:
            call(process_pool, workloads.same, workloads.FailsToLoad("two"))
        assert "refused to load: two" in "\n".join(map(str, chain_of(caught.value)))
        assert_alive(process_pool)


def test_function_that_cannot_be_pickled_is_named(process_pool):
    """A function bound to what cannot be sent is refused, and the part is named."""
    bound = functools.partial(workloads.add, workloads.Holder("box"))
    with pytest.raises((TypeError, pickle.PicklingError)) as caught:
        process_pool.map(bound, [1])

    assert "handle" in str(caught.value)
    assert_alive(process_pool)


def test_threads_pass_anything_on(leak_guard):
    """In a thread pool nothing is pickled: objects arrive as they are."""
    item = workloads.Holder("box")
    with motorpool.ThreadPool(2) as pool:
        assert pool.map(workloads.same, [item])[0] is item


# Callbacks


@pytest.mark.quick
@pytest.mark.parametrize("good", [True, False], ids=["callback", "error_callback"])
def test_callback_that_raises_is_logged(pool, caplog, good):
    """A failing callback is logged with its traceback, and the pool goes on."""

    def broken(_result):
        msg = "the callback broke"
        raise RuntimeError(msg)

    with caplog.at_level(logging.ERROR, logger="motorpool"):
        result = pool.apply_async(
            workloads.square if good else workloads.fail,
            (3,),
            callback=broken,
            error_callback=broken,
        )
        result.wait(timeout=DEADLINE)
        records = eventually(lambda: [r for r in caplog.records if r.name.startswith("motorpool")])

    assert result.ready()
    assert result.successful() is good
    assert len(records) == 1
    assert records[0].exc_info[0] is RuntimeError
    assert "the callback broke" in caplog.text
    assert_alive(pool)


def test_callbacks_after_one_that_raised_still_run(pool):
    """One failing callback keeps no other from being called."""
    called = queue.Queue()

    def broken(_result):
        msg = "the callback broke"
        raise RuntimeError(msg)

    pool.apply_async(workloads.square, (1,), callback=broken)
    pool.map_async(workloads.square, [1], callback=broken)
    pool.apply_async(workloads.square, (3,), callback=called.put)

    assert called.get(timeout=DEADLINE) == 9


def test_callback_that_exits_ends_nothing(pool):
    """`sys.exit` in a callback neither ends the program nor the pool."""
    result = pool.apply_async(workloads.square, (3,), callback=lambda _: sys.exit(3))

    assert result.get(timeout=DEADLINE) == 9
    assert_alive(pool)


@pytest.mark.quick
def test_callback_may_use_the_pool(pool):
    """A callback may submit to the pool, and wait for the result."""
    called = queue.Queue()

    def again(value):
        called.put(pool.apply(workloads.square, (value,)))
        called.put(pool.map(workloads.square, [value]))

    result = pool.apply_async(workloads.square, (2,), callback=again)

    assert result.get(timeout=DEADLINE) == 4
    assert called.get(timeout=DEADLINE) == 16
    assert called.get(timeout=DEADLINE) == [16]


def test_slow_callback_holds_up_no_other_call(pool):
    """While a callback waits, the results of other calls arrive."""
    release = threading.Event()
    entered = threading.Event()

    def slow(_result):
        entered.set()
        release.wait(DEADLINE)

    try:
        pool.apply_async(workloads.square, (2,), callback=slow)
        assert entered.wait(DEADLINE)
        other = pool.apply_async(workloads.square, (3,))
        assert other.get(timeout=DEADLINE / 4) == 9
        assert pool.map_async(workloads.square, [4]).get(DEADLINE / 4) == [16]
    finally:
        release.set()


# Input


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_input_that_raises_does_so_at_the_call(pool, method):
    """The error of an iterable that is read whole is raised by the call."""

    def items():
        yield (1,)
        msg = "input broke"
        raise LookupError(msg)

    with pytest.raises(LookupError, match="input broke"):
        getattr(pool, method)(workloads.square, items())
    assert_alive(pool)


# Initializers


@pytest.mark.quick
@pytest.mark.parametrize("call", CALLS)
def test_failing_initializer_is_reported_at_the_first_result(make_pool, tmp_path, call):
    """The initializer's own error is told where a result was asked for."""
    log = tmp_path / "log"
    pool = make_pool(initializer=workloads.note_and_fail, initargs=(str(log),))
    with pytest.raises(motorpool.WorkerStartError) as caught:
        CALLS[call](pool, workloads.square, 2)
    cause = caught.value.__cause__

    assert type(cause) is LookupError
    assert str(cause) == "no licence for this worker"
    shown = "".join(traceback.format_exception(cause))
    assert "in note_and_fail" in shown
    assert "motorpool/" not in shown  # no frames of ours lead to it
    assert len(log.read_text().split()) <= 10


def test_failing_initializer_is_reported_to_later_calls_too(make_pool, tmp_path):
    """A pool that cannot start says so each time, and starts no more workers."""
    log = tmp_path / "log"
    pool = make_pool(initializer=workloads.note_and_fail, initargs=(str(log),))
    for _ in range(5):
        with pytest.raises(motorpool.WorkerStartError):
            pool.map(workloads.square, range(10))
    pool.close()
    pool.join()

    assert len(log.read_text().split()) <= 20


def test_each_call_is_told_by_an_error_of_its_own(make_pool, tmp_path):
    """The same one, raised again and again, would grow and be shared by threads."""
    pool = make_pool(1, initializer=workloads.note_and_fail, initargs=(str(tmp_path / "log"),))
    calls, errors = [], []
    for n in range(3):
        try:
            calls.append(pool.apply_async(workloads.square, (n,)))
        except motorpool.WorkerStartError as error:  # It had failed before the call.
            errors.append(error)
    errors += [outcome(call) for call in calls]
    for _ in range(3):
        with pytest.raises(motorpool.WorkerStartError) as caught:
            pool.map(workloads.square, [1])
        errors.append(caught.value)

    assert len(set(map(id, errors))) == len(errors)
    assert len({repr(error.__cause__) for error in errors}) == 1


def test_initializer_that_ends_the_process_is_reported(make_process_pool, tmp_path):
    """Workers that die while they start are not replaced for ever."""
    log = tmp_path / "log"
    pool = make_process_pool(initializer=workloads.note_and_exit, initargs=(str(log),))
    with pytest.raises(motorpool.WorkerStartError, match="7"):
        pool.map_async(workloads.square, [2]).get(timeout=DEADLINE)

    assert len(log.read_text().split()) <= 20


def test_initializer_argument_that_cannot_be_sent_is_named(make_process_pool):
    """`initargs` that cannot be sent are an error where a worker must load them."""
    unloadable = workloads.FailsToLoad("setting")
    try:
        pool = make_process_pool(initializer=workloads.same, initargs=(unloadable,))
        given = pool.map_async(workloads.square, [2]).get(timeout=DEADLINE)
    except Exception as error:
        assert "refused to load: setting" in "\n".join(map(str, chain_of(error)))  # noqa: PT017
    else:
        assert given == [4], "under fork nothing needs to be loaded"


# The error tree


ERRORS = sorted(
    (
        kind
        for _, kind in inspect.getmembers(motorpool.errors, inspect.isclass)
        if issubclass(kind, BaseException) and kind.__module__ == "motorpool.errors"
    ),
    key=lambda kind: kind.__name__,
)
SAMPLES = {
    "int": 7,
    "float": 1.5,
    "bool": True,
    "str": "some text",
    "range": range(3, 5),
    "tuple": (1, "two"),
    "list": ["one"],
    "dict": {"one": 1},
    "BaseException": ValueError("inner"),
    "Exception": ValueError("inner"),
}


def sample(parameter):
    """Return a value that the annotation of the parameter allows."""
    annotation = parameter.annotation
    name = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return SAMPLES.get(name.split("|")[0].split("[")[0].strip(), "text")


def samples_of(kind):
    """Return instances of the error: with the least arguments, and with all."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except ValueError:
        parameters = ()
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    parameters = [p for p in parameters if p.kind not in variadic]
    if not parameters:
        return [kind("some text")]
    required = [p for p in parameters if p.default is p.empty]
    return [_construct(kind, required), _construct(kind, parameters)]


def _construct(kind, parameters):
    by_name = {p.name: sample(p) for p in parameters if p.kind is p.KEYWORD_ONLY}
    rest = [sample(p) for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return kind(*rest, **by_name)


@pytest.mark.parametrize("kind", ERRORS)
def test_error_class_derives_from_the_root(leak_guard, kind):
    """Every error of motorpool's is caught by `except MotorpoolError`."""
    assert issubclass(kind, motorpool.MotorpoolError)


@pytest.mark.parametrize("clone", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
@pytest.mark.parametrize("kind", ERRORS)
def test_error_class_survives_pickling(leak_guard, kind, clone):
    """Every error keeps its class, its text and its facts through a round trip."""
    for error in samples_of(kind):
        twin = clone(error)

        assert type(twin) is kind
        assert str(twin) == str(error)
        assert twin.__dict__.keys() == error.__dict__.keys()
        assert repr(sorted(twin.__dict__.items())) == repr(sorted(error.__dict__.items()))
        assert repr(twin.args) == repr(error.args)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("TimeoutError", TimeoutError),
        ("TimeoutError", multiprocessing.TimeoutError),
        ("PoolClosedError", ValueError),
        ("ResultNotPicklableError", multiprocessing.pool.MaybeEncodingError),
        ("WorkerLostError", BrokenProcessPool),
        ("WorkerStartError", BrokenProcessPool),
    ],
)
def test_error_class_is_caught_by_code_for_the_standard_library(leak_guard, name, base):
    """What programs catch today, they go on catching."""
    assert issubclass(getattr(motorpool, name), base)


def test_errors_of_executors_can_be_asked_for_at_exit():
    """While a program ends, `concurrent.futures.process` cannot be imported; its errors can."""
    program = (
        "import atexit, motorpool\n"
        "@atexit.register\n"
        "def last():\n"
        "    try:\n"
        "        raise motorpool.WorkerStartError('at last')\n"
        "    except __import__('concurrent.futures').futures.BrokenExecutor as error:\n"
        "        print(type(error).__module__, error)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert finished.stdout == "motorpool.errors at last\n"
    assert finished.stderr == ""


@pytest.mark.quick
def test_function_that_no_task_needs_need_not_be_sendable(start_script, start_method):
    """Of what the script binds anew, workers get what can be sent; the rest concerns no task."""
    script = start_script(
        """
for number in range(2):
    pool = open_pool()
    def run():
        return pool.map(abs, [-1, 2])
    def add(item):
        return item + number
    print(run(), pool.map(add, [1, 2]))
    pool.terminate()
    pool.join()
    del pool
""",
        start_method,
    )
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.stdout.splitlines() == ["[1, 2] [1, 2]", "[1, 2] [2, 3]"]


def test_function_that_cannot_be_sent_any_more_fails_each_item(start_script):
    """A name that it needs was bound to something unsendable amid a stream."""
    script = start_script(
        """
def helper(item):
    return item

def task(item):
    return helper(item)

def items():
    global helper, lock
    yield 0
    lock = threading.Lock()
    def helper(item):
        return lock and item
    pool.apply(abs, (1,))
    yield from range(1, 6)

with open_pool(1) as pool:
    found = list(pool.imap(task, items(), on_error="return"))
print(found[0], {type(error).__name__ for error in found[1:]}, len(found))
""",
        "fork",
    )
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.stdout.strip() == "0 {'NotPicklableError'} 6"
