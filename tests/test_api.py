"""Every method of the pools, its argument forms, and what it refuses."""

import functools
import gc
import multiprocessing
import multiprocessing.pool
import os
import pickle
import queue
import sys
import threading
import types
from collections import deque

import pytest

import motorpool
import workloads
from conftest import DEADLINE, eventually
from motorpool.scheduler.state import Worker

RUNS_ON_EXECUTORS = True

SQUARES = [n * n for n in range(30)]
MAPS = ("map", "map_async", "imap", "imap_unordered")
STARS = ("starmap", "starmap_async")


def results_of(pool, method, *args, **kwargs):
    """Return all results of a map-like method as a list, whatever it gives back."""
    given = getattr(pool, method)(*args, **kwargs)
    if hasattr(given, "get"):
        given = given.get(timeout=DEADLINE)
    return sorted(given) if method == "imap_unordered" else list(given)


# Blocking and asynchronous single calls


@pytest.mark.quick
def test_apply_returns_what_the_function_returns(pool):
    """`apply` calls the function in a worker and gives its result."""
    assert pool.apply(workloads.square, (7,)) == 49


FORMS = [
    ((), {}, ((), {})),
    (((1, 2),), {}, ((1, 2), {})),
    (([1, 2],), {}, ((1, 2), {})),
    (((1,), {"a": 2}), {}, ((1,), {"a": 2})),
    (((1,),), {"kwds": {"a": 2}}, ((1,), {"a": 2})),
    ((), {"args": (1,), "kwds": {"a": 2}}, ((1,), {"a": 2})),
    (("ab",), {}, (("a", "b"), {})),
]


def test_apply_takes_arguments_in_every_form(pool):
    """`args` and `kwds` may be given by position or by name, or left out."""
    for args, kwargs, expected in FORMS:
        later = pool.apply_async(workloads.count_arguments, *args, **kwargs)

        assert pool.apply(workloads.count_arguments, *args, **kwargs) == expected
        assert later.get(timeout=DEADLINE) == expected


def test_apply_runs_in_a_worker_process(process_pool):
    """The work of a process pool is done in another process."""
    assert process_pool.apply(os.getpid) != os.getpid()


def test_threads_run_in_this_process(leak_guard):
    """The work of a thread pool is done in this process, in another thread."""
    with motorpool.ThreadPool(2) as pool:
        assert pool.apply(os.getpid) == os.getpid()
        assert pool.apply(threading.get_ident) != threading.get_ident()


def test_apply_does_not_change_the_arguments_given(pool):
    """The `args` and `kwds` of the caller stay as they are."""
    args, kwds = [1], {"a": 2}

    pool.apply(workloads.count_arguments, args, kwds)

    assert (args, kwds) == ([1], {"a": 2})


# Maps


@pytest.mark.quick
@pytest.mark.parametrize("method", MAPS)
def test_maps_return_all_results(pool, method):
    """Each map gives the result of every item."""
    assert results_of(pool, method, workloads.square, range(30)) == SQUARES


@pytest.mark.parametrize("method", MAPS)
def test_maps_honour_any_chunksize(pool, method):
    """Chunks change how items travel, never what comes back."""
    for chunksize in (1, 2, 7, 29, 30, 31, 1000):
        given = results_of(pool, method, workloads.square, range(30), chunksize=chunksize)

        assert given == SQUARES, chunksize


@pytest.mark.parametrize("method", [*MAPS, *STARS])
def test_maps_take_the_chunksize_by_position(pool, method):
    """The third positional argument is the chunk size, as in the stdlib."""
    function = max if method in STARS else workloads.square
    items = [(n * n, 0) for n in range(30)] if method in STARS else range(30)

    assert results_of(pool, method, function, items, 4) == SQUARES


@pytest.mark.parametrize("kind", [list, tuple, dict.fromkeys, bytes, iter, deque])
@pytest.mark.parametrize("method", ["map", "imap"])
def test_maps_take_any_iterable(leak_guard, method, kind):
    """Lists, tuples, dictionaries, bytes and iterators are all fine as input."""
    with motorpool.ThreadPool(2) as pool:
        given = results_of(pool, method, workloads.square, kind([3, 1, 2]))

    assert given == [9, 1, 4]


@pytest.mark.parametrize("method", MAPS)
@pytest.mark.parametrize("empty", [tuple, list, dict, str, lambda: iter(())])
def test_maps_of_nothing_give_nothing(leak_guard, method, empty):
    """An empty input gives an empty result and calls nothing."""
    with motorpool.ThreadPool(2) as pool:
        assert results_of(pool, method, workloads.fail, empty()) == []


@pytest.mark.quick
@pytest.mark.parametrize("method", [*MAPS, *STARS])
def test_maps_of_nothing_give_nothing_on_every_engine(pool, method):
    """An empty list gives an empty result on every engine."""
    assert results_of(pool, method, workloads.fail, []) == []


@pytest.mark.quick
@pytest.mark.parametrize("method", STARS)
def test_starmaps_spread_the_arguments(pool, method):
    """Each item of a starmap is an iterable of arguments."""
    items = [(1,), (1, 2), [3, 4], range(5, 7)]

    assert results_of(pool, method, workloads.add, items) == [1, 3, 7, 11]


def test_map_keeps_the_order_when_the_first_item_is_the_last_done(pool, tmp_path):
    """Results stand in the order of the input, not of completion."""
    gate = tmp_path / "gate"
    waiting = functools.partial(workloads.wait_if_first, str(gate))
    result = pool.map_async(waiting, range(5), chunksize=1)
    others = pool.map(workloads.same, range(3))
    gate.touch()

    assert others == [0, 1, 2]
    assert result.get(timeout=DEADLINE) == [0, 1, 2, 3, 4]


def test_imap_keeps_the_order_and_unordered_does_not_wait(pool, tmp_path):
    """`imap_unordered` gives what is done; `imap` waits for its turn."""
    gate = tmp_path / "gate"
    waiting = functools.partial(workloads.wait_if_first, str(gate))
    unordered = pool.imap_unordered(waiting, range(4))
    early = [unordered.next(timeout=DEADLINE) for _ in range(3)]
    gate.touch()

    assert sorted(early) == [1, 2, 3]
    assert list(unordered) == [0]
    assert list(pool.imap(waiting, range(4))) == [0, 1, 2, 3]


def test_work_is_spread_over_all_workers(pool, worker_ids, engine):
    """Two calls that wait for each other both run at once."""
    assert len(worker_ids(pool)) == (1 if engine == "threads" else 2)


def test_lambdas_and_closures_can_be_sent(pool):
    """Functions that no module can be asked for travel all the same."""
    factor = 3

    def times(number):
        return number * factor

    assert pool.map(lambda n: n + 1, [1, 2]) == [2, 3]
    assert pool.map(times, [1, 2]) == [3, 6]


def test_pool_within_a_task_works(process_pool):
    """A task may open a pool of its own."""
    result = process_pool.apply_async(workloads.squares_in_a_pool, (3,))

    assert result.get(timeout=DEADLINE) == [0, 1, 4]


# Results


@pytest.mark.quick
@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_results_say_when_they_are_ready(pool, method, tmp_path):
    """`ready`, `successful`, `wait` and `get` agree before and after the end."""
    gate = str(tmp_path / "gate")
    args = {
        "apply_async": (workloads.wait_for, (gate, 5)),
        "map_async": (functools.partial(workloads.wait_for, value=5), [gate]),
        "starmap_async": (workloads.wait_for, [(gate, 5)]),
    }[method]
    expected = 5 if method == "apply_async" else [5]
    result = getattr(pool, method)(*args)

    assert not result.ready()
    assert result.wait(timeout=0.01) is None
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(TimeoutError):
        result.get(timeout=0.01)

    (tmp_path / "gate").touch()
    assert result.wait(timeout=DEADLINE) is None
    assert result.ready()
    assert result.successful()
    assert result.get() == result.get(0) == result.get(timeout=1) == expected


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_failed_results_are_ready_and_not_successful(pool, method):
    """A failed result raises each time it is asked, and says it failed."""
    args = ("x",) if method == "apply_async" else [("x",)]
    result = getattr(pool, method)(workloads.fail, args)
    result.wait(DEADLINE)

    assert result.ready()
    assert not result.successful()
    for _ in range(2):
        with pytest.raises(ValueError, match="cannot do"):
            result.get()


def test_get_with_no_time_at_all_gives_a_ready_result(pool):
    """`get(0)` of a finished result returns it."""
    result = pool.apply_async(workloads.square, (2,))
    result.wait(DEADLINE)

    assert result.get(0) == 4


@pytest.mark.quick
@pytest.mark.parametrize(
    "caught",
    [TimeoutError, multiprocessing.TimeoutError, motorpool.TimeoutError],
    ids=["builtin", "multiprocessing", "motorpool"],
)
def test_timeout_is_caught_by_every_name(pool, tmp_path, caught):
    """A timeout of `get` and of `next` is the builtin one and the stdlib's."""
    gate = tmp_path / "gate"
    result = pool.apply_async(workloads.wait_for, (str(gate),))
    iterator = pool.imap(workloads.wait_for, [str(gate)])
    unordered = pool.imap_unordered(workloads.wait_for, [str(gate)])

    try:
        with pytest.raises(caught):
            result.get(timeout=0.01)
        with pytest.raises(caught):
            iterator.next(timeout=0.01)
        with pytest.raises(caught):
            unordered.next(timeout=0.01)
    finally:
        gate.touch()


def test_timeout_error_of_the_task_is_not_the_pools(pool):
    """A TimeoutError that the task raised arrives as its own."""
    result = pool.apply_async(functools.partial(workloads.fail_with, TimeoutError, "x"))

    with pytest.raises(TimeoutError) as caught:
        result.get(timeout=DEADLINE)
    assert str(caught.value) == "x"
    assert type(caught.value) is TimeoutError


def test_result_survives_its_pool(make_pool):
    """Results that are there can be asked for after the pool is gone."""
    pool = make_pool()
    result = pool.map_async(workloads.square, range(4))
    pool.close()
    pool.join()

    assert result.get(timeout=DEADLINE) == [0, 1, 4, 9]


def test_empty_map_async_is_ready_at_once(pool):
    """The result of nothing need not be waited for."""
    result = pool.map_async(workloads.square, [])

    assert result.ready()
    assert result.successful()
    assert result.get(0) == []


def test_types_are_those_of_the_standard_library(pool, engine):
    """Programs that check for the stdlib's classes accept the pool."""
    kind = multiprocessing.pool.ThreadPool if engine == "threads" else multiprocessing.pool.Pool

    assert isinstance(pool, kind)
    assert isinstance(pool, motorpool.ThreadPool if engine == "threads" else motorpool.Pool)
    assert isinstance(pool.apply_async(workloads.square, (1,)), multiprocessing.pool.AsyncResult)
    assert isinstance(pool.map_async(workloads.square, [1]), multiprocessing.pool.MapResult)
    assert isinstance(pool.imap(workloads.square, [1]), multiprocessing.pool.IMapIterator)


# Iterators


@pytest.mark.quick
@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterators_give_the_next_result_in_time(pool, method, tmp_path):
    """`next(timeout)` raises if nothing is there yet and loses no result."""
    gate = tmp_path / "gate"
    waiting = functools.partial(workloads.wait_for, value=5)
    iterator = getattr(pool, method)(waiting, [str(gate)])

    assert iter(iterator) is iterator
    with pytest.raises(TimeoutError):
        iterator.next(0.01)
    with pytest.raises(TimeoutError):
        iterator.next(timeout=0)
    gate.touch()
    assert iterator.next(timeout=DEADLINE) == 5
    for _ in range(2):
        with pytest.raises(StopIteration):
            iterator.next(timeout=DEADLINE)
    with pytest.raises(StopIteration):
        next(iterator)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_iterators_go_on_after_a_failed_item(pool, method):
    """An error of one item is raised in its place; the rest follows."""
    iterator = getattr(pool, method)(functools.partial(workloads.fail_on, {1}), range(4))
    values, errors = [], []
    for _ in range(4):
        try:
            values.append(next(iterator))
        except ValueError as error:
            errors.append(str(error))

    assert sorted(values) == [0, 4, 9]
    assert errors == ["bad 1"]
    assert next(iterator, "end") == "end"


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_many_iterators_at_once_do_not_mix(pool, method):
    """Two streams of one pool, read in turns, keep their results apart."""
    left = getattr(pool, method)(workloads.same, range(100))
    right = getattr(pool, method)(workloads.same, range(1000, 1100))
    pairs = list(zip(left, right, strict=True))

    assert sorted(a for a, _ in pairs) == list(range(100))
    assert sorted(b for _, b in pairs) == list(range(1000, 1100))


# Callbacks


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "args", "expected"),
    [
        ("apply_async", (3,), 9),
        ("map_async", [2, 3], [4, 9]),
        ("starmap_async", [(2,), (3,)], [4, 9]),
    ],
)
def test_callback_gets_the_result_once(pool, method, args, expected):
    """A callback is called once, with what `get` returns."""
    good, bad = queue.Queue(), queue.Queue()
    result = getattr(pool, method)(
        workloads.square, args, callback=good.put, error_callback=bad.put
    )

    assert result.get(timeout=DEADLINE) == expected
    assert good.get(timeout=DEADLINE) == expected
    pool.apply(workloads.square, (1,))
    assert good.empty()
    assert bad.empty()


@pytest.mark.quick
@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_error_callback_gets_the_error_once(pool, method):
    """An error callback is called once, with what `get` raises."""
    good, bad = queue.Queue(), queue.Queue()
    args = ("x",) if method == "apply_async" else [("x",)]
    result = getattr(pool, method)(workloads.fail, args, callback=good.put, error_callback=bad.put)

    with pytest.raises(ValueError, match="cannot do") as caught:
        result.get(timeout=DEADLINE)
    assert bad.get(timeout=DEADLINE) is caught.value
    pool.apply(workloads.square, (1,))
    assert good.empty()
    assert bad.empty()


@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_callbacks_can_be_given_by_position(pool, method):
    """Callbacks stand where the stdlib has them: after `kwds` or `chunksize`."""
    good, bad = queue.Queue(), queue.Queue()
    call = getattr(pool, method)
    if method == "apply_async":
        call(workloads.square, (3,), {}, good.put, bad.put)
        call(workloads.fail, (3,), {}, good.put, bad.put)
    else:
        call(workloads.square, [(3,)] if "star" in method else [3], 1, good.put, bad.put)
        call(workloads.fail, [(3,)], 1, good.put, bad.put)

    assert good.get(timeout=DEADLINE) in (9, [9])
    assert isinstance(bad.get(timeout=DEADLINE), ValueError)


def test_callbacks_run_without_anybody_waiting(pool):
    """Callbacks come though nobody asks for the result."""
    called = queue.Queue()
    for number in range(20):
        pool.apply_async(workloads.square, (number,), callback=called.put)

    found = [called.get(timeout=DEADLINE) for _ in range(20)]
    assert sorted(found) == [n * n for n in range(20)]


def test_no_callback_is_late_when_workers_finish_all_the_time(pool):
    """While nobody waits, a result that comes as the last one is being fetched is seen too."""
    called = queue.SimpleQueue()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads come between each other's lines more often
    try:
        for _ in range(2000):
            for number in range(4):
                pool.apply_async(workloads.same, (number,), callback=called.put)
            assert {called.get(timeout=DEADLINE) for _ in range(4)} == set(range(4))
    finally:
        sys.setswitchinterval(interval)


def test_callbacks_see_every_call_once_under_load(pool):
    """Of a thousand calls, each calls back once."""
    called = queue.Queue()
    results = [
        pool.apply_async(workloads.same, (number,), callback=called.put) for number in range(1000)
    ]
    pool.close()
    pool.join()

    assert [result.get(timeout=DEADLINE) for result in results] == list(range(1000))
    assert sorted(called.get(timeout=DEADLINE) for _ in range(1000)) == list(range(1000))
    assert called.empty()


# What travels together


def one_by_one(pool, how, function, items):
    """Return results of single tasks, asked for so fast that they travel together."""
    if how == "map":
        return pool.map(function, items, chunksize=1)
    results = [pool.apply_async(function, (item,)) for item in items]
    return [result.get(timeout=DEADLINE) for result in results]


@pytest.mark.parametrize("how", ["map", "calls"])
def test_single_tasks_share_no_argument(make_process_pool, how):
    """What one task does to its argument, no other sees, though both were given the same one."""
    pool = make_process_pool(1)
    for _ in range(2):  # The second time it is known how short they are.
        assert one_by_one(pool, how, workloads.lengthen, [[]] * 300) == [1] * 300


@pytest.mark.parametrize("how", ["map", "calls"])
def test_result_of_a_single_task_is_what_it_was_at_its_end(make_process_pool, how):
    """A task may change an object that another has returned."""
    pool = make_process_pool(1)
    one_by_one(pool, how, workloads.lengthen, [[]] * 100)
    seen = one_by_one(pool, how, workloads.see, range(100))
    again = one_by_one(pool, how, workloads.see, range(100, 200))

    assert seen + again == [list(range(n + 1)) for n in range(200)]


# Initializers


@pytest.mark.quick
def test_initializer_runs_in_every_worker_before_any_task(make_pool, worker_ids):
    """What the initializer kept is there for each task, in every worker."""
    pool = make_pool(initializer=workloads.keep_positional, initargs=("name", 42))

    worker_ids(pool)
    assert pool.map(workloads.kept_value, ["name"] * 10, chunksize=1) == [42] * 10


def test_initializer_can_be_given_by_position(leak_guard):
    """`Pool(processes, initializer, initargs)` works as in the stdlib."""
    with motorpool.Pool(1, workloads.keep_positional, ("name", 1)) as pool:
        assert pool.apply(workloads.kept_value, ("name",)) == 1
    with motorpool.ThreadPool(1, workloads.keep_positional, ("name", 2)) as pool:
        assert pool.apply(workloads.kept_value, ("name",)) == 2


def test_initargs_may_be_shared_objects(make_process_pool, start_method):
    """A Value with its lock in `initargs` is one and the same in all workers."""
    counter = multiprocessing.get_context(start_method).Value("i", 0)
    pool = make_process_pool(initializer=workloads.keep_positional, initargs=("counter", counter))
    pool.map(workloads.count_up, range(50), chunksize=1)

    assert counter.value == 50


def test_initargs_may_be_any_iterable(make_pool):
    """A list does as well as a tuple."""
    pool = make_pool(1, initializer=workloads.keep_positional, initargs=["name", 3])

    assert pool.apply(workloads.kept_value, ("name",)) == 3


def test_items_that_are_slow_to_load_come_to_an_end(make_process_pool):
    """An idle worker asks for them while another loads them: each load leads to a result."""
    pool = make_process_pool(2)
    items = [workloads.SlowToLoad(number) for number in range(3)]

    assert pool.map_async(workloads.number_of, items, 3).get(timeout=DEADLINE) == [0, 1, 2]


def test_items_that_are_slow_to_load_are_loaded_few_times(make_process_pool, tmp_path):
    """Idle workers may take them over, but not one by one, with all others loaded in vain."""
    pool = make_process_pool(2)
    trace = tmp_path / "trace"
    items = [workloads.CountedLoads(str(trace), number) for number in range(20)]

    got = pool.map_async(workloads.number_of, items, 20).get(timeout=DEADLINE)

    assert got == list(range(20))
    assert len(trace.read_text().split()) <= 3 * 20


# Recycling


@pytest.mark.quick
def test_maxtasksperchild_replaces_the_worker(make_process_pool):
    """A worker does so many tasks and no more; none is lost on the way."""
    pool = make_process_pool(1, maxtasksperchild=2)
    seen = [pool.apply(workloads.process_id) for _ in range(6)]

    assert [seen.count(pid) for pid in dict.fromkeys(seen)] == [2, 2, 2]


def test_maxtasksperchild_counts_chunks_and_loses_no_item(make_process_pool):
    """A map over recycled workers gives every result, in order."""
    pool = make_process_pool(2, maxtasksperchild=1)
    seen = pool.map(workloads.process_id, range(12), chunksize=3)

    assert len(set(seen)) == 4
    assert pool.map(workloads.square, range(10), chunksize=2) == SQUARES[:10]


@pytest.mark.parametrize("engine", ["processes", "threads"])
def test_recycled_workers_are_forgotten(leak_guard, engine):
    """A pool of many short-lived workers does not grow with those that are gone."""
    with motorpool.Pool(2, maxtasksperchild=1, engine=engine) as pool:
        pool.map(workloads.square, range(100), chunksize=1)
        gc.collect()
        known = [one for one in gc.get_objects() if isinstance(one, Worker)]

    assert len(known) < 10


def test_recycled_workers_run_the_initializer_again(make_process_pool, tmp_path):
    """Each worker's replacement is initialised before its first task."""
    log = tmp_path / "log"
    pool = make_process_pool(
        1,
        maxtasksperchild=1,
        initializer=workloads.note_run,
        initargs=(str(log), "start"),
    )
    seen = {pool.apply(workloads.process_id) for _ in range(3)}

    assert len(seen) == 3
    assert len(log.read_text().split()) >= 3


# What other programs read


def test_number_of_workers_can_be_read(make_pool):
    """`_processes` and `len(_pool)` tell the truth to those who read them."""
    pool = make_pool(3)
    pool.map(workloads.square, range(10))

    assert pool._processes == 3
    assert eventually(lambda: len(pool._pool) == 3)


def test_workers_of_a_process_pool_have_process_ids(process_pool, worker_ids):
    """The objects in `_pool` are the workers: they know their process ids."""
    seen = worker_ids(process_pool)

    assert {worker.pid for worker in process_pool._pool} == seen
    assert all(worker.is_alive() for worker in process_pool._pool)


def test_default_number_of_workers_is_what_this_process_may_use(leak_guard):
    """Without a number, the pool has a worker for each CPU it is allowed to use."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count()
    with motorpool.Pool() as pool:
        assert 1 <= pool._processes <= allowed
        assert pool.map(workloads.square, [1, 2]) == [1, 4]
    assert motorpool.cpu_count() >= 1


def test_repr_tells_state_and_size(make_pool):
    """The representation names the class, whether it is open, and its size."""
    pool = make_pool(2)
    open_text = repr(pool)
    pool.close()
    closed_text = repr(pool)
    pool.join()

    assert "Pool" in open_text
    assert "2" in open_text
    assert open_text != closed_text
    assert "clos" in closed_text.lower()


def test_pool_and_its_results_cannot_be_pickled(pool):
    """What only this process can use is not sent by mistake; as in the standard library."""
    for mine in (pool, pool.apply_async(workloads.square, (1,)), pool.imap(workloads.square, [1])):
        with pytest.raises(NotImplementedError, match=r"pool.* cannot be p"):
            pickle.dumps(mine)


def test_pool_in_a_task_is_named_without_a_look_inside(process_pool):
    """A method of an object that holds the pool fails by that; what is in the pool is secret."""
    bound = types.MethodType(workloads.add, types.SimpleNamespace(pool=process_pool))
    with pytest.raises(NotImplementedError, match=r"\.__self__\.pool \(<motorpool") as caught:
        process_pool.map(bound, [1])

    assert "authkey" not in str(caught.value)


def test_with_gives_the_pool_itself(make_pool):
    """`with Pool() as pool` binds the pool."""
    pool = make_pool()
    with pool as entered:
        assert entered is pool


def test_progress_bars_for_the_stdlib_read_what_is_left(leak_guard, tmp_path):
    """`_number_left` counts chunks of the size given, items by default; parmap reads it."""
    gate = tmp_path / "gate"
    with motorpool.ThreadPool(1) as pool:
        items = [str(gate)] * 10
        by_chunk = pool.map_async(workloads.wait_for, items, 4)
        by_item = pool.map_async(workloads.wait_for, items)
        assert [by_chunk._number_left, by_chunk._chunksize] == [3, 4]
        assert [by_item._number_left, by_item._chunksize] == [10, 1]
        gate.touch()
        by_chunk.wait(DEADLINE)
        by_item.wait(DEADLINE)
        assert [by_chunk._number_left, by_item._number_left] == [0, 0]


# Refusals


@pytest.mark.quick
@pytest.mark.parametrize("processes", [0, -1])
@pytest.mark.parametrize("kind", ["Pool", "ThreadPool"])
def test_pool_without_workers_is_refused(leak_guard, kind, processes):
    """Fewer than one worker is a mistake that is told at once."""
    with pytest.raises(ValueError, match=str(processes) + "|at least 1"):
        getattr(motorpool, kind)(processes)


@pytest.mark.parametrize("processes", ["2", 1.5])
@pytest.mark.parametrize("kind", ["Pool", "ThreadPool"])
def test_number_of_workers_that_is_no_integer_is_refused(leak_guard, kind, processes):
    """A number of workers must be a whole number."""
    with pytest.raises((TypeError, ValueError)):
        getattr(motorpool, kind)(processes)


@pytest.mark.parametrize("kind", ["Pool", "ThreadPool"])
def test_initializer_that_cannot_be_called_is_refused(leak_guard, kind):
    """An initializer must be callable, and that is checked before workers start."""
    with pytest.raises(TypeError, match="callable"):
        getattr(motorpool, kind)(1, initializer=5)


@pytest.mark.parametrize("number", [0, -3, 1.5, "2"])
def test_senseless_maxtasksperchild_is_refused(leak_guard, number):
    """A worker has to do at least one task."""
    with pytest.raises((TypeError, ValueError), match="maxtasksperchild"):
        motorpool.Pool(1, maxtasksperchild=number)


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunksize_below_one_is_refused_at_the_call(pool, chunksize):
    """A chunk holds at least one item; the mistake is told at the call."""
    for method in (*MAPS, *STARS):
        with pytest.raises(ValueError, match=r"(?i)chunksize"):
            getattr(pool, method)(workloads.square, [1, 2], chunksize=chunksize)


@pytest.mark.parametrize("name", ["processes", "threads_per_worker"])
def test_number_that_is_no_int_is_named(name):
    """`Pool(os.cpu_count() / 2)` is told what is wrong with which argument."""
    with pytest.raises(TypeError, match=rf"{name} must be an int, not 2\.0"):
        motorpool.Pool(**{name: 2.0})


@pytest.mark.parametrize("chunksize", [1.5, 2.0, float("nan"), float("inf"), "2", [1]])
@pytest.mark.parametrize("method", [*MAPS, *STARS])
def test_chunksize_that_is_no_integer_is_refused_at_the_call(leak_guard, method, chunksize):
    """A chunk size is a whole number, whatever the input."""
    with motorpool.ThreadPool(1) as pool:
        for items in ([(1,)], iter([(1,)])):
            with pytest.raises(TypeError, match="chunksize must be an int"):
                getattr(pool, method)(workloads.same, items, chunksize)


def test_numbers_may_be_of_any_integer_type(leak_guard):
    """What counts as an index, such as NumPy's integers, counts here."""

    class Two:
        def __index__(self):
            return 2

    with motorpool.ThreadPool(Two()) as pool:
        assert pool.map(workloads.square, range(5), Two()) == SQUARES[:5]
        assert list(pool.imap(workloads.square, iter(range(5)), Two())) == SQUARES[:5]


@pytest.mark.parametrize("timeout", ["1", [1], object()])
def test_timeout_that_is_no_number_is_refused(leak_guard, tmp_path, timeout):
    """Waiting takes seconds, and the message says so."""
    gate = tmp_path / "gate"
    with motorpool.ThreadPool(1) as pool:
        result = pool.apply_async(workloads.wait_for, (str(gate),))
        stream = pool.imap(workloads.square, [1])
        for wait in (result.get, result.wait, stream.next):
            with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
                wait(timeout)
        gate.touch()


def test_timeout_that_is_not_a_number_at_all_is_over_at_once(leak_guard, tmp_path):
    """NaN seconds are no time, as in the standard library: they are not for ever."""
    gate = tmp_path / "gate"
    with motorpool.ThreadPool(1) as pool:
        result = pool.apply_async(workloads.wait_for, (str(gate),))
        with pytest.raises(motorpool.TimeoutError):
            result.get(float("nan"))
        gate.touch()


@pytest.mark.parametrize("context", ["spawn", 5])
def test_context_that_is_none_is_refused(context):
    """The name of a start method is no context; the message says what to pass."""
    with pytest.raises(TypeError, match=r"multiprocessing\.get_context\('spawn'\)"):
        motorpool.Pool(1, context=context)


@pytest.mark.parametrize("kind", ["Pool", "ThreadPool"])
def test_initargs_that_are_none_are_refused(kind):
    """The initializer's arguments come in a tuple; one alone is a mistake told at once."""
    with pytest.raises(TypeError, match="initargs must be a tuple of arguments, not 5"):
        getattr(motorpool, kind)(1, print, 5)


@pytest.mark.parametrize("method", ["apply", "apply_async"])
@pytest.mark.parametrize(
    ("args", "kwds", "text"),
    [
        (5, {}, r"args must be a tuple of the function's arguments, as in \(5,\), not 5"),
        (None, {}, "args must be a tuple"),
        ((), 5, "kwds must be a dict .*, not 5"),
        ((), "ab", "kwds must be a dict .*, not 'ab'"),
        ((), [1], r"kwds must be a dict .*, not \[1\]"),
    ],
)
def test_arguments_that_are_none_are_refused_at_the_call(leak_guard, method, args, kwds, text):
    """An argument without its tuple is the mistake of many; the message says what to pass."""
    with motorpool.ThreadPool(1) as pool, pytest.raises(TypeError, match=text):
        getattr(pool, method)(workloads.square, args, kwds)


def test_error_of_an_argument_is_its_own(leak_guard):
    """Arguments that raise while they are read are not taken for another mistake."""

    def arguments():
        yield 1
        raise TypeError("my own")

    with motorpool.ThreadPool(1) as pool, pytest.raises(TypeError, match="my own"):
        pool.apply(workloads.square, arguments())


@pytest.mark.parametrize("name", ["callback", "error_callback"])
@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_callback_that_cannot_be_called_is_refused_at_the_call(leak_guard, method, name):
    """It would fail where nobody sees it."""
    with motorpool.ThreadPool(1) as pool, pytest.raises(TypeError, match=r"callback .* not 5"):
        getattr(pool, method)(workloads.square, [], **{name: 5})


def test_false_callback_is_none_unless_it_can_be_called(leak_guard):
    """`verbose and print` may be False; an empty collector is called though it is false."""

    class Collector(list):
        __call__ = list.append

    collector = Collector()
    with motorpool.ThreadPool(1) as pool:
        assert pool.apply_async(workloads.square, (2,), callback=False).get(DEADLINE) == 4
        pool.map_async(workloads.square, [3], callback=collector).wait(DEADLINE)
    assert collector == [[9]]


def test_input_that_is_not_iterable_is_refused_at_the_call(pool):
    """What cannot be iterated is refused before anything starts."""
    for method in (*MAPS, *STARS):
        with pytest.raises(TypeError):
            getattr(pool, method)(workloads.square, 5)
        assert pool.map(workloads.square, [2]) == [4]


def test_unknown_keywords_are_refused(pool):
    """A misspelt keyword is an error, not a wish granted silently."""
    for method in ("apply", "apply_async", *MAPS, *STARS):
        with pytest.raises(TypeError, match=rf"{method}\(\) got .* keyword argument 'time_out'"):
            getattr(pool, method)(workloads.square, [1], time_out=1)


def test_misspelt_keywords_are_told_what_was_meant(pool):
    """The nearest keyword that the method has is suggested; others are not."""
    with pytest.raises(TypeError, match=r"'chunk_size'\. Did you mean 'chunksize'\?"):
        pool.map(workloads.square, [1], chunk_size=1)
    with pytest.raises(TypeError, match=r"'on_error'$"):
        pool.apply(workloads.square, (1,), on_error="skip")
    with pytest.raises(TypeError, match=r"Pool\(\) .* 'process'\. Did you mean 'processes'\?"):
        motorpool.Pool(process=1)


@pytest.mark.parametrize("name", ["context", "maxtasksperchild", "memory_limit", "engine"])
def test_thread_pool_refuses_what_is_for_processes(name):
    """A `ThreadPool` has no use for them, and does not pretend."""
    with pytest.raises(TypeError, match=rf"ThreadPool\(\) got .* keyword argument '{name}'"):
        motorpool.ThreadPool(1, **{name: None})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["Pool", "ThreadPool"])
def test_refused_pool_leaves_no_noise(kind):
    """A call that cannot be right raises, and the pool that never was says nothing more."""
    with pytest.raises(TypeError):
        getattr(motorpool, kind)(1, None, (), None, None, 6)
    gc.collect()


def test_what_is_not_callable_is_refused(pool):
    """Calling what cannot be called is a TypeError, and harms nobody."""
    with pytest.raises(TypeError, match="5 is not callable: pass the function itself"):
        pool.map(5, [1])
    assert pool.map(workloads.square, [2]) == [4]


def test_starmap_item_that_is_not_iterable_is_a_type_error(pool):
    """An item of a starmap that holds no arguments fails; the pool goes on."""
    with pytest.raises(TypeError):
        pool.starmap(workloads.square, [(1,), 5])
    assert pool.starmap(workloads.square, [(2,)]) == [4]
