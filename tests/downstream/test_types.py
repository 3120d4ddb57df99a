"""What programs ask about a pool's type and size is answered as they expect."""

import multiprocessing
import multiprocessing.pool
import pickle
import threading
import types

import pytest
import shared_tasks as tasks

import motorpool


@pytest.fixture
def pool(context):
    """Give a pool of two processes, under each start method."""
    with motorpool.Pool(2, context=context) as pool:
        yield pool
    pool.join()


@pytest.fixture
def thread_pool():
    """Give a pool of two threads."""
    with motorpool.ThreadPool(2) as pool:
        yield pool
    pool.join()


@pytest.fixture(params=["fork", "forkserver", "spawn", "threads"])
def any_pool(request):
    """Give a pool of two, of processes or of threads."""
    if request.param == "threads":
        opened = motorpool.ThreadPool(2)
    else:
        opened = motorpool.Pool(2, context=multiprocessing.get_context(request.param))
    with opened as pool:
        yield pool
    pool.join()


def test_pool_is_instance_of_stdlib_pool(pool):
    """`isinstance(pool, multiprocessing.pool.Pool)` holds."""
    assert isinstance(pool, multiprocessing.pool.Pool)
    assert not isinstance(pool, multiprocessing.pool.ThreadPool)


def test_thread_pool_is_instance_of_stdlib_thread_pool(thread_pool):
    """A pool of threads is both a `ThreadPool` and a `Pool`, as the stdlib's is."""
    assert isinstance(thread_pool, multiprocessing.pool.ThreadPool)
    assert isinstance(thread_pool, multiprocessing.pool.Pool)


def test_results_are_instances_of_stdlib_results(any_pool):
    """Results and iterators pass for those of `multiprocessing.pool`."""
    pool = any_pool
    stdlib = multiprocessing.pool

    applied = pool.apply_async(tasks.square, (2,))
    mapped = pool.map_async(tasks.square, [1, 2])
    starmapped = pool.starmap_async(tasks.square, [(1,), (2,)])
    ordered = pool.imap(tasks.square, [1, 2])
    unordered = pool.imap_unordered(tasks.square, [1, 2])

    assert isinstance(applied, stdlib.AsyncResult)
    assert isinstance(applied, stdlib.ApplyResult)
    assert isinstance(mapped, stdlib.MapResult)
    assert isinstance(mapped, stdlib.AsyncResult)
    assert isinstance(starmapped, stdlib.MapResult)
    assert isinstance(ordered, stdlib.IMapIterator)
    assert isinstance(unordered, stdlib.IMapUnorderedIterator)
    assert [applied.get(), mapped.get(), starmapped.get()] == [4, [1, 4], [1, 4]]
    assert list(ordered) == [1, 4]
    assert sorted(unordered) == [1, 4]


def test_exported_result_types_pass_for_those_of_stdlib():
    """`issubclass` agrees with `isinstance`."""
    assert issubclass(motorpool.Pool, multiprocessing.pool.Pool)
    assert issubclass(motorpool.ThreadPool, multiprocessing.pool.ThreadPool)
    assert issubclass(motorpool.AsyncResult, multiprocessing.pool.AsyncResult)
    assert issubclass(motorpool.MapResult, multiprocessing.pool.MapResult)


def test_async_result_takes_a_type_argument():
    """`AsyncResult[int]` is an annotation that can be evaluated, as in the stdlib."""
    alias = motorpool.AsyncResult[int]

    assert isinstance(alias, types.GenericAlias)
    assert alias.__args__ == (int,)


def test_pool_tells_its_size(any_pool):
    """`_processes` and `len(pool._pool)` are the number of workers."""
    assert any_pool._processes == 2
    assert len(any_pool._pool) == 2


def test_pool_lists_its_workers_as_processes(pool):
    """Each of `pool._pool` has the process id of a worker, and is alive."""
    pool.map(tasks.square, range(10))

    workers = pool._pool

    assert all(worker.is_alive() for worker in workers)
    assert {found[0] for found in pool.map(tasks.identity, range(50), 1)} <= {
        worker.pid for worker in workers
    }


def test_pool_refuses_to_be_pickled(pool):
    """A pool cannot be sent to a worker, and says so as the stdlib's does."""
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(pool)


def test_timeout_error_is_caught_either_way(thread_pool):
    """A late result raises what `multiprocessing` and built-in names catch."""
    gate = threading.Event()
    late = thread_pool.apply_async(gate.wait)

    with pytest.raises(motorpool.TimeoutError) as caught:
        late.get(timeout=0.01)
    gate.set()

    assert isinstance(caught.value, multiprocessing.TimeoutError)
    assert isinstance(caught.value, TimeoutError)
    assert late.get() is True
