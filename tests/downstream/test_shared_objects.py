"""What `multiprocessing` shares through `initargs` works in motorpool's workers."""

import contextlib
import multiprocessing

import pytest
import shared_tasks as tasks

import motorpool

DEADLINE = 20.0


@contextlib.contextmanager
def pool_sharing(thing, context, processes=2):
    """Give a pool whose workers keep `thing` for their tasks."""
    with motorpool.Pool(processes, tasks.keep, (thing,), context=context) as pool:
        yield pool
    pool.join()


@pytest.fixture
def number(tmp_path):
    """Give a file with the number zero."""
    path = tmp_path / "number"
    path.write_text("0\n")
    return path


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("Lock", tasks.count_under_lock),
        ("RLock", tasks.count_under_lock_taken_twice),
        ("Condition", tasks.count_under_lock),
        ("Semaphore", tasks.count_under_lock),
        ("BoundedSemaphore", tasks.count_under_lock),
    ],
)
def test_lock_in_initargs_excludes_workers(context, number, kind, task):
    """No increment is lost when each is made under the shared lock."""
    with pool_sharing(getattr(context, kind)(), context) as pool:
        pool.map(task, [number] * 60, chunksize=1)

    assert int(number.read_text()) == 60


def test_semaphore_in_initargs_counts_across_workers(context):
    """As many tasks as the semaphore allows get it, wherever they run."""
    with pool_sharing(context.Semaphore(3), context) as pool:
        taken = pool.map(tasks.try_to_acquire, range(10), chunksize=1)

    assert sum(taken) == 3


def test_event_in_initargs_releases_workers(context):
    """An event set in the parent wakes tasks that wait for it."""
    event = context.Event()

    with pool_sharing(event, context) as pool:
        waiting = pool.map_async(tasks.wait_for_event, range(2), chunksize=1)
        event.set()
        woken = waiting.get(DEADLINE)

    assert woken == [True, True]


def test_condition_in_initargs_wakes_parent(context):
    """A task can notify the parent, which waits for the condition."""
    condition = context.Condition()

    with pool_sharing(condition, context) as pool:
        with condition:
            notified = pool.apply_async(tasks.notify, (None,))
            woken = condition.wait(DEADLINE)
        notified.get(DEADLINE)

    assert woken


def test_queue_in_initargs_carries_items_to_parent(context):
    """What tasks put in a queue arrives in the parent while the map runs."""
    queue = context.Queue()

    with pool_sharing(queue, context) as pool:
        mapped = pool.map_async(tasks.put, range(30), chunksize=1)
        arrived = [queue.get(timeout=DEADLINE) for _ in range(30)]
        mapped.get(DEADLINE)
    queue.close()
    queue.join_thread()

    assert sorted(item for item, _ in arrived) == list(range(30))


def test_queue_put_last_in_worker_is_not_lost(context):
    """What a task put in a queue is flushed before its worker ends."""
    queue = context.Queue()
    with pool_sharing(queue, context) as pool:
        pool.map(tasks.put, range(8), chunksize=1)
        pool.close()
        pool.join()

    arrived = sorted(queue.get(timeout=DEADLINE)[0] for _ in range(8))
    queue.close()
    queue.join_thread()

    assert arrived == list(range(8))


def test_simple_queue_in_initargs_carries_items_to_parent(context):
    """`SimpleQueue` works as well."""
    queue = context.SimpleQueue()

    with pool_sharing(queue, context) as pool:
        pool.map(tasks.put, range(10), chunksize=1)
        arrived = sorted(queue.get()[0] for _ in range(10))
    queue.close()

    assert arrived == list(range(10))


def test_joinable_queue_in_initargs_carries_items_to_parent(context):
    """`JoinableQueue` works as well."""
    queue = context.JoinableQueue()

    with pool_sharing(queue, context) as pool:
        pool.map(tasks.put, range(10), chunksize=1)
        arrived = sorted(queue.get(timeout=DEADLINE)[0] for _ in range(10))
    queue.close()
    queue.join_thread()

    assert arrived == list(range(10))


def test_connection_in_initargs_carries_items_to_parent(context):
    """One end of a `Pipe` can be given to a worker."""
    ours, theirs = context.Pipe()

    with ours, theirs, pool_sharing(theirs, context, processes=1) as pool:
        mapped = pool.map_async(tasks.send, range(10))
        arrived = [ours.recv() for _ in range(10) if ours.poll(DEADLINE)]
        mapped.get(DEADLINE)

    assert arrived == list(range(10))


def test_value_in_initargs_sums_over_workers(context):
    """A `Value` adds up what all workers add to it."""
    value = context.Value("q", 0)

    with pool_sharing(value, context) as pool:
        pool.map(tasks.add_to_value, range(100), chunksize=1)

    assert value.value == sum(range(100))


def test_array_in_initargs_is_written_by_workers(context):
    """What tasks write in an `Array` is there for the parent."""
    array = context.Array("i", 20)

    with pool_sharing(array, context) as pool:
        pool.map(tasks.set_in_array, range(20), chunksize=1)

    assert array[:] == [n * n for n in range(20)]


def test_raw_array_in_initargs_is_written_by_workers(context):
    """An array without a lock works as well."""
    array = context.RawArray("i", 20)

    with pool_sharing(array, context) as pool:
        pool.map(tasks.set_in_array, range(20), chunksize=1)

    assert array[:] == [n * n for n in range(20)]


def test_barrier_in_initargs_is_met_by_all_workers(context):
    """Two tasks that wait for each other run in two workers at once."""
    with pool_sharing(context.Barrier(2), context) as pool:
        places = pool.map(tasks.meet, range(2), chunksize=1)

    assert sorted(places) == [0, 1]


def test_manager_dict_in_initargs_is_filled_by_workers(context):
    """A manager's dictionary has what the tasks stored."""
    with context.Manager() as manager:
        found = manager.dict()
        with pool_sharing(found, context) as pool:
            pool.map(tasks.store, range(20), chunksize=1)

        assert dict(found) == {n: n * n for n in range(20)}


def test_manager_list_in_initargs_is_filled_by_workers(context):
    """A manager's list has what the tasks appended."""
    with context.Manager() as manager:
        found = manager.list()
        with pool_sharing(found, context) as pool:
            pool.map(tasks.append, range(20), chunksize=1)

        assert sorted(found) == list(range(20))


def test_manager_queue_as_argument_of_a_task(context):
    """A proxy travels as a task's argument, too."""
    with context.Manager() as manager:
        queue = manager.Queue()
        with motorpool.Pool(2, context=context) as pool:
            pool.map(queue.put, range(10))
        pool.join()

        assert sorted(queue.get(timeout=DEADLINE) for _ in range(10)) == list(range(10))


@pytest.mark.parametrize("kind", ["Lock", "Queue", "Event"])
def test_shared_object_as_argument_of_a_task_is_refused(context, kind):
    """Outside `initargs` such an object raises `RuntimeError`, and nothing hangs."""
    thing = getattr(context, kind)()

    with motorpool.Pool(1, context=context) as pool:
        with pytest.raises(RuntimeError, match="inheritance"):
            pool.apply(tasks.square, (thing,))
        after = pool.apply(tasks.square, (3,))
    pool.join()
    if kind == "Queue":
        thing.close()
        thing.join_thread()

    assert after == 9


def test_default_start_method_makes_shared_objects_that_fit():
    """Without any context, `multiprocessing.Lock()` fits a `Pool()`."""
    value = multiprocessing.Value("q", 0)

    with motorpool.Pool(2, tasks.keep, (value,)) as pool:
        pool.map(tasks.add_to_value, range(10))
    pool.join()

    assert value.value == 45


@pytest.mark.parametrize(
    "kind", ["Lock", "Event", "Queue", "SimpleQueue", "Pipe", "Value", "Array"]
)
def test_initializer_that_goes_by_value_gets_shared_object(context, kind):
    """A closure, or a function of a script, is given the same things as any other."""
    arguments = {"Value": ("q", 0), "Array": ("q", 3)}.get(kind, ())
    thing = getattr(context, kind)(*arguments)
    ready = context.Semaphore(0)

    def initialize(given, counter):
        assert given is not None
        counter.release()

    with motorpool.Pool(1, initialize, (thing, ready), context=context) as pool:
        assert pool.apply(tasks.square, (3,)) == 9
    pool.join()
    for part in thing if kind == "Pipe" else (thing,):
        if hasattr(part, "close"):
            part.close()

    assert ready.acquire(timeout=0)
