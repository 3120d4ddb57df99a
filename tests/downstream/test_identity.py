"""Workers and parent tell the truth about who they are; pools can be nested."""

import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.pool
import os

import pytest
import shared_tasks as tasks

import motorpool


@contextlib.contextmanager
def joined(pool):
    """Leave the pool's block and wait for its workers."""
    with pool:
        yield pool
    pool.join()


@pytest.fixture
def pool(context):
    """Give a pool of two processes, under each start method."""
    with joined(motorpool.Pool(2, context=context)) as pool:
        yield pool


def test_current_process_in_worker_is_the_worker(pool):
    """`current_process()` has the worker's process id and a name of its own."""
    found = pool.map(tasks.identity, range(40), chunksize=1)

    assert all(known == real for real, _, known, *_ in found)
    assert os.getpid() not in {pid for pid, *_ in found}
    assert "MainProcess" not in {name for _, _, _, name, *_ in found}
    assert len({(pid, name) for pid, _, _, name, *_ in found}) == len({pid for pid, *_ in found})


def test_parent_process_in_worker_is_the_pool_owner(pool):
    """`parent_process()` is who made the pool, even if a fork server forked."""
    found = pool.map(tasks.identity, range(10), chunksize=1)

    assert {parent for *_, parent, _ in found} == {os.getpid()}


def test_active_children_in_worker_are_its_own(pool):
    """A worker has no children, whatever its parent has."""
    found = pool.map(tasks.identity, range(10), chunksize=1)

    assert [children for *_, children in found] == [[]] * 10


def test_active_children_in_parent_are_the_workers(context):
    """`active_children()` has the workers while they live and not afterwards."""
    before = {child.pid for child in multiprocessing.active_children()}

    with joined(motorpool.Pool(2, context=context)) as pool:
        workers = {pid for pid, *_ in pool.map(tasks.identity, range(40), chunksize=1)}
        during = {child.pid for child in multiprocessing.active_children()} - before
    after = {child.pid for child in multiprocessing.active_children()} - before

    assert workers <= during
    assert len(during) == 2
    assert after == set()


def test_current_process_in_parent_is_unchanged(pool):
    """A pool leaves the parent's own identity alone."""
    pool.map(tasks.square, range(4))

    assert multiprocessing.current_process().name == "MainProcess"
    assert multiprocessing.parent_process() is None


def test_start_method_in_worker_is_that_of_the_pool(context):
    """Under each start method, the worker's own default is the same."""
    with joined(motorpool.Pool(1, context=context)) as pool:
        inherited = pool.apply(tasks.start_method, (None,))

    method = context.get_start_method()
    # A forked worker has the parent's default; others are told the pool's.
    assert inherited == (multiprocessing.get_start_method() if method == "fork" else method)


def test_task_starts_a_process(pool):
    """A task may start a process, which the stdlib's daemonic workers may not."""
    found = pool.map(tasks.run_child, [3, 4], chunksize=1)

    assert found == [(1, 3), (1, 4)]


def test_task_makes_a_pool(pool):
    """A task may make a pool of its own and map over it."""
    found = pool.map(tasks.squares_in_pool, [[1, 2], [3, 4, 5]], chunksize=1)

    assert found == [[1, 4], [9, 16, 25]]


def test_thread_pool_task_makes_a_pool():
    """A task in a thread may make a pool of processes."""
    with joined(motorpool.ThreadPool(2)) as pool:
        found = pool.map(tasks.squares_in_pool, [[1, 2], [3]], chunksize=1)

    assert found == [[1, 4], [9]]


def worker_class(method):
    """Return the process class of a start method that is never daemonic.

    This is the recipe that users of the stdlib's pool copy to nest pools.
    """
    context = multiprocessing.get_context(method)

    class NoDaemonProcess(context.Process):
        """A process that says it is not daemonic, whatever it is told."""

        @property
        def daemon(self):
            return False

        @daemon.setter
        def daemon(self, value):
            pass

    return NoDaemonProcess


class NoDaemonForkProcess(worker_class("fork")):
    """The recipe's process class for fork."""


class NoDaemonForkServerProcess(worker_class("forkserver")):
    """The recipe's process class for forkserver."""


class NoDaemonSpawnProcess(worker_class("spawn")):
    """The recipe's process class for spawn."""


class NoDaemonForkContext(type(multiprocessing.get_context("fork"))):
    """The recipe's context for fork."""

    Process = NoDaemonForkProcess


class NoDaemonForkServerContext(type(multiprocessing.get_context("forkserver"))):
    """The recipe's context for forkserver."""

    Process = NoDaemonForkServerProcess


class NoDaemonSpawnContext(type(multiprocessing.get_context("spawn"))):
    """The recipe's context for spawn."""

    Process = NoDaemonSpawnProcess


CONTEXTS = [NoDaemonForkContext, NoDaemonForkServerContext, NoDaemonSpawnContext]


@pytest.mark.parametrize("custom", CONTEXTS)
def test_custom_context_makes_nested_pools(custom):
    """The recipe for nested pools that users copy goes on working."""
    with joined(motorpool.Pool(2, context=custom())) as pool:
        found = pool.map(tasks.squares_in_pool, [[1, 2], [3]], chunksize=1)

    assert found == [[1, 4], [9]]


def test_custom_context_with_shared_lock(tmp_path):
    """A subclass of a context shares locks as the context does."""
    context = NoDaemonSpawnContext()
    number = tmp_path / "number"
    number.write_text("0\n")

    with joined(motorpool.Pool(2, tasks.keep, (context.Lock(),), context=context)) as pool:
        pool.map(tasks.count_under_lock, [number] * 20, chunksize=1)

    assert int(number.read_text()) == 20
