"""Objects whose special methods raise: each costs its own item, and nobody else's."""

import functools
import threading
import traceback

import pytest

import motorpool
import strange
import workloads
from conftest import DEADLINE, eventually, outcome, outcomes

BAD = 5
OTHERS = [n for n in range(12) if n != BAD]


def assert_alive(pool, others=None):
    """Assert that the pool works, and that nobody else was disturbed."""
    assert outcome(pool.map_async(workloads.square, range(9))) == [n * n for n in range(9)]
    if others is not None:
        assert outcome(others) == [0.3] * 2


def assert_fails_alone(pool, function, kinds):
    """Assert that in each call the bad item fails, and no other."""
    others = pool.map_async(workloads.nap, [0.3] * 2, chunksize=1)
    for chunksize in (None, 12):
        found = pool.map_async(function, range(12), chunksize, on_error="return").get(DEADLINE)
        assert issubclass(type(found.pop(BAD)), kinds)
        assert found == OTHERS
    calls = [pool.apply_async(function, (n,)) for n in range(12)]
    with pytest.raises(kinds):
        calls.pop(BAD).get(DEADLINE)
    assert [outcome(call) for call in calls] == OTHERS
    assert_alive(pool, others)


@pytest.mark.parametrize("name", strange.RESULTS)
def test_strange_result_fails_alone(make_process_pool, name):
    """A result that raises whatever it likes when it is loaded costs its own item."""
    kinds = (motorpool.ResultNotLoadedError, motorpool.ResultNotPicklableError, SystemExit)
    assert_fails_alone(make_process_pool(), functools.partial(strange.strange_if, name, BAD), kinds)


@pytest.mark.quick
def test_strange_result_is_told_while_nobody_waits(process_pool):
    """The thread that attends to the pool outlives what it loads."""
    told = []
    for name in ("exit", "base", "set"):
        process_pool.apply_async(
            strange.strange_if, (name, 1, 1), callback=told.append, error_callback=told.append
        )
        assert eventually(lambda name=name: told), name
        assert type(told.pop()) is motorpool.ResultNotLoadedError
    process_pool.apply_async(workloads.square, (3,), callback=told.append)
    assert eventually(lambda: told) == [9]


def test_result_that_could_not_be_pickled_again_is_none_of_the_broken(process_pool):
    """What came by value arrives although its neighbour is broken."""
    found = process_pool.map_async(strange.shared_if, range(4), 4, on_error="return").get(DEADLINE)

    assert [type(value) for value in found[::2]] == [motorpool.ResultNotLoadedError] * 2
    assert [value() for value in found[1::2]] == [1, 3]


def test_broken_result_is_given_to_nobody_half_made(process_pool):
    """An object that several items return, and that cannot be loaded, fails all of them."""
    found = process_pool.map_async(strange.twins, range(3), 3, on_error="return").get(DEADLINE)

    assert [type(value) for value in found] == [motorpool.ResultNotLoadedError] * 3


@pytest.mark.parametrize("name", strange.ERRORS)
def test_strange_error_fails_alone(make_pool, name):
    """An exception that cannot be changed, shown or sent costs its own item."""
    kinds = (strange.ERRORS[name], motorpool.MotorpoolError)
    assert_fails_alone(make_pool(), functools.partial(strange.raise_if, name, BAD), kinds)


@pytest.mark.parametrize("kind", [SystemExit, strange.Quits, ValueError])
@pytest.mark.parametrize("strange_item", [strange.PicklesWith, strange.LoadsWith])
def test_strange_item_fails_alone(process_pool, strange_item, kind):
    """An item that raises when it is pickled or loaded costs itself."""
    others = process_pool.map_async(workloads.nap, [0.3] * 2, chunksize=1)
    items = [strange_item(kind) if n == BAD else n for n in range(12)]
    found = process_pool.map_async(workloads.same, items, on_error="return").get(DEADLINE)

    assert isinstance(found.pop(BAD), (motorpool.NotPicklableError, motorpool.ResultNotLoadedError))
    assert found == OTHERS
    assert_alive(process_pool, others)


def test_function_without_hash_disturbs_nobody(pool):
    """A function that cannot be hashed, compared or looked at is a function."""
    others = pool.map_async(workloads.nap, [0.3] * 2, chunksize=1)

    assert outcome(pool.map_async(strange.Unhashable(), range(5))) == list(range(5))
    assert outcome(pool.apply_async(strange.Unhashable(), (3,))) == 3
    assert_alive(pool, others)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_stop_iteration_of_a_task_ends_no_loop(pool, method):
    """Else a loop over the results would end too soon, in silence."""
    found = outcomes(getattr(pool, method)(functools.partial(strange.stop_if, 3), range(12)))
    errors = [value for value in found if not isinstance(value, int)]

    assert [type(error) for error in errors] == [RuntimeError]
    assert isinstance(errors[0].__cause__, StopIteration)
    assert sorted(value for value in found if isinstance(value, int)) == [0, 1, 2, *range(4, 12)]


# The pool itself, in the midst of its own step


@pytest.mark.quick
def test_pickling_that_waits_for_the_pool_is_refused(process_pool):
    """It would wait for itself; the item fails, and says why."""
    strange.Asks.pool = process_pool
    found = outcome(process_pool.apply_async(workloads.same, (strange.Asks(),)))

    assert "in the midst of a step" in str(found)
    assert_alive(process_pool)


def test_pickling_may_ask_the_pool_for_more(process_pool):
    """What is asked for is done after the step."""
    strange.Submits.pool = process_pool
    assert outcome(process_pool.apply_async(workloads.same, (strange.Submits(),))) == 0
    assert outcome(strange.Submits.promised) == 3


def test_object_without_an_end_is_told_of_at_once(pool):
    """Of a container no more is looked at than is shown: it may have an endless `repr`."""
    item = strange.endless(5)
    with pytest.raises(workloads.NeedsTwo, match="left-right") as caught:
        pool.map(strange.raise_with_endless, [item])

    assert caught.value.data[0][1] is caught.value.data[1][1]
    assert_alive(pool)


def test_endless_object_that_cannot_be_sent_is_refused_at_once(process_pool):
    """The path to the part that fails is found, whatever else leads there."""
    item = strange.endless(threading.Lock())
    with pytest.raises(motorpool.NotPicklableError, match=r"item 0 \[\[\[.*because of \[0\]\[0\]"):
        process_pool.map(workloads.square, [item])
    assert_alive(process_pool)


def test_items_are_named_as_their_repr_begins(pool):
    """Errors name an item as `repr` does, cut to 100 characters, one within itself too."""
    items = [[], [1], [1, "a'b"], (), (1,), (1, b"2"), {}, {1: (2,), "3": [4]}, set(), {1}]
    items += [frozenset(), frozenset({1}), bytearray(b"1"), None, 1.5, list(range(100)), "x" * 200]
    items += [[1], {}]
    items[-2].append(items[-2])
    items[-1][1] = items[-1]
    errors = pool.map(workloads.fail, items, on_error="return")

    for number, (item, error) in enumerate(zip(items, errors, strict=True)):
        shown = repr(item) if len(repr(item)) <= 100 else f"{repr(item)[:97]}..."
        assert f"item {number}, {shown}, of fail" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("name", strange.UNSENDABLE)
def test_item_that_refuses_to_be_looked_at_is_refused_alone(process_pool, name):
    """Whatever it raises while the part is looked for that cannot be sent."""
    others = process_pool.map_async(workloads.nap, [0.3] * 2, chunksize=1)
    item = strange.UNSENDABLE[name]()
    with pytest.raises(motorpool.NotPicklableError, match="item 1 "):
        process_pool.map(workloads.same, [0, item, 2], chunksize=3)
    with pytest.raises(motorpool.NotPicklableError, match="item 0 "):
        process_pool.apply(workloads.same, (item,))
    assert_alive(process_pool, others)


@pytest.mark.parametrize("name", ["multiprocessing.reduction", "numpy", "wrapt"])
def test_module_in_the_midst_of_its_import_is_no_hindrance(process_pool, name):
    """A signal may have a worker pickle something then; what the module will bring is not used."""
    begin = functools.partial(strange.begin_import, name)

    assert [give() for give in process_pool.map(begin, range(4))] == [0, 1, 2, 3]
