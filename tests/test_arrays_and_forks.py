"""Large arrays that a process holds when it forks: parent and child each have their own."""

import functools
import gc
import os
from pathlib import Path

import pytest

import array_tasks
from conftest import DEADLINE, eventually

np = pytest.importorskip("numpy")

SIZE = 100_000  # of float64: large enough for shared memory


class Child:
    """A forked child that calls `look` when it is told to, and sends what that returns."""

    def __init__(self, look):
        begin, self._begin = os.pipe()
        self._found, found = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.read(begin, 1)
                os.write(found, repr(look()).encode())
            finally:
                os._exit(0)
        os.close(begin)
        os.close(found)

    def look(self):
        """Return what the child found."""
        os.write(self._begin, b"x")
        found = os.read(self._found, 1000).decode()
        os.waitpid(self._pid, 0)
        os.close(self._begin)
        os.close(self._found)
        return found


def ends(array):
    """Return the first and last element."""
    return float(array[0]), float(array[-1])


@pytest.mark.quick
def test_result_in_a_forked_child_stays_when_the_parent_drops_it(make_process_pool):
    """Though the worker uses the memory for its next result."""
    pool = make_process_pool(1)
    held = [pool.apply(array_tasks.fill, (3,))]
    child = Child(lambda: ends(held[0]))
    held.clear()
    gc.collect()
    for number in range(4, 9):
        pool.apply(array_tasks.fill, (number,))

    assert child.look() == "(3.0, 3.0)"


def test_result_in_a_forked_child_stays_after_the_end_of_the_pool(make_process_pool):
    """The parent gives back its own memory only."""
    pool = make_process_pool(1)
    held = [pool.apply(array_tasks.fill, (3,))]
    pool.terminate()
    pool.join()
    child = Child(lambda: ends(held[0]))
    held.clear()
    gc.collect()

    assert child.look() == "(3.0, 3.0)"


@pytest.mark.quick
def test_parent_and_forked_child_write_into_arrays_of_their_own(make_process_pool):
    """As into any other memory."""
    pool = make_process_pool(1)
    array = pool.apply(array_tasks.fill, (3,))
    array[1] = 4.0

    def write():
        array[0] = -1.0
        return float(array[1]), float(array[2])

    child = Child(write)
    array[2] = 5.0

    assert child.look() == "(4.0, 3.0)"
    assert array[:3].tolist() == [3.0, 4.0, 5.0]


def test_results_before_and_after_a_fork_differ(make_process_pool):
    """What was made private is not written to by the worker, nor the other way round."""
    pool = make_process_pool(1)
    arrays = []
    for number in range(5):
        arrays.append(pool.apply(array_tasks.fill, (number,)))
        Child(bool).look()
    arrays += pool.map(array_tasks.fill, range(5, 10), chunksize=1)

    assert [ends(array) for array in arrays] == [(float(n), float(n)) for n in range(10)]


def look_from_child(constant, array):
    """Write into both, fork, and return what the child finds when they are gone here."""
    held = [constant, array]
    constant[0], array[0] = -7.0, -8.0
    child = Child(lambda: [ends(each) for each in held])
    constant[0] = array[0] = 0.0
    return child.look()


def test_arguments_and_constants_of_a_task_that_forks(make_process_pool):
    """The child has what the task wrote before, and nothing of what it writes afterwards."""
    pool = make_process_pool(1)
    constant = np.full(SIZE, 1.0)
    task = functools.partial(look_from_child, constant)

    assert pool.apply_async(task, (np.full(SIZE, 2.0),)).get(DEADLINE) == (
        "[(-7.0, 1.0), (-8.0, 2.0)]"
    )
    assert ends(constant) == (1.0, 1.0)


def descriptors():
    """Return how many descriptors of shared memory this process holds."""
    links = []
    for name in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(name.readlink()))
        except OSError:
            continue
    return sum("motorpool-arena" in link for link in links)


def test_descriptor_is_closed_with_the_last_array(make_process_pool):
    """One is held for all arrays that outlive their pool."""
    pool = make_process_pool()
    held = pool.map(array_tasks.fill, range(8))
    pool.terminate()
    pool.join()

    assert descriptors() == 1
    assert [float(array[0]) for array in held] == list(range(8))

    held.clear()

    assert eventually(lambda: gc.collect() + 1 and descriptors() == 0)


def leave_room(size):
    """Have the kernel refuse more data than this process has, and `size`."""
    import resource

    mapped = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (mapped + size, hard))


def test_constant_beyond_the_limit_of_data(make_process_pool):
    """It takes no memory of the worker's."""
    pool = make_process_pool(initializer=leave_room, initargs=(64 << 20,))
    task = functools.partial(array_tasks.add_first, np.full(16 << 20, 2.0))  # 128 MiB

    assert pool.map(task, range(4), chunksize=1) == [2.0, 3.0, 4.0, 5.0]


def test_large_constant_under_a_memory_limit(make_process_pool):
    """It is shared, and counts only as far as a worker writes into it."""
    pool = make_process_pool(memory_limit="150MiB")
    constant = np.full(25 << 20, 2.0)  # 200 MiB
    task = functools.partial(array_tasks.add_first, constant)

    assert pool.map(task, range(4), chunksize=1) == [2.0, 3.0, 4.0, 5.0]
