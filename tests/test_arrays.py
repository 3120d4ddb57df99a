"""Large arrays: through shared memory, yet as private and writable as any argument."""

import functools
import gc
import pickle
from pathlib import Path

import pytest

import array_tasks
import motorpool
import workloads
from conftest import DEADLINE, eventually, outcome

np = pytest.importorskip("numpy")

SIZE = 100_000  # of float64: large enough for shared memory
BYTES = 8 * SIZE


def shared_bytes():
    """Return how much shared memory the pools of this process hold."""
    files = {}
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if "motorpool-arena" in str(descriptor.readlink()):
                found = descriptor.stat()
                files[found.st_ino] = found.st_blocks * 512
        except OSError:
            continue
    return sum(files.values())


def numbers(value):
    """Return a large array of one value."""
    return np.full(SIZE, float(value))


SHAPES = {
    "contiguous": lambda: numbers(3),
    "fortran": lambda: np.asfortranarray(np.arange(200_000.0).reshape(400, 500)),
    "sliced": lambda: np.arange(400_000.0).reshape(400, 1000)[::2, 1::3],
    "transposed": lambda: np.arange(200_000.0).reshape(400, 500).T,
    "broadcast": lambda: np.broadcast_to(np.arange(1000.0), (300, 1000)),
    "empty": lambda: np.empty((0, 100)),
    "scalar": lambda: np.array(7.0),
    "small": lambda: np.arange(10),
    "records": lambda: np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8")]),
    "text": lambda: np.array(["word"] * 50_000),
    "dates": lambda: np.arange("2000-01-01", "2300-01-01", dtype="datetime64[D]"),
    "objects": lambda: np.array([1, "two", None], dtype=object),
    "masked": lambda: np.ma.masked_less(np.arange(100_000.0), 5),
    "large-bytes": lambda: bytes(range(256)) * 4000,
    "large-bytearray": lambda: bytearray(range(256)) * 4000,
    "large-text": lambda: "word" * 200_000,
}


def same(one, other):
    """Return whether two objects are of a type and equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        layout = one.flags.f_contiguous == other.flags.f_contiguous or not one.flags.forc
        return one.dtype == other.dtype and layout and bool(np.array_equal(one, other))
    return one == other


@pytest.mark.quick
def test_object_arrives_as_it_was_both_ways(process_pool):
    """Whatever its layout: as an argument, within one, and as a result."""
    for shape, make in SHAPES.items():
        item = make()
        nested = {"inner": [item, ("x", item)], "frame": array_tasks.Frame({"c": numbers(1)})}

        assert same(process_pool.apply(workloads.same, (item,)), item), shape
        [back] = process_pool.map(workloads.same, [nested])
        assert same(back["inner"][0], item), shape
        assert back["inner"][0] is back["inner"][1][1], shape
        assert back["frame"] == nested["frame"], shape


@pytest.mark.parametrize("make", [bytes, bytearray])
def test_buffers_that_are_bytes_arrive_as_such(process_pool, make):
    """As they would from a plain pickle."""
    data = make(range(256)) * 1000

    assert process_pool.map(array_tasks.raw_bytes, [array_tasks.Raw(data)]) == [
        (make.__name__, bytes(data))
    ]


def test_bare_buffer_arrives(process_pool):
    """An object may pickle a view of anything."""
    data = memoryview(numbers(2)).cast("B")

    [(_, contents)] = process_pool.map(array_tasks.raw_bytes, [array_tasks.Raw(data)])
    assert contents == bytes(data)
    [copied] = process_pool.map(bytes, [pickle.PickleBuffer(data)])
    assert copied == bytes(data)


@pytest.mark.quick
def test_arguments_are_private_and_writable(process_pool):
    """A task may write into what it was given; nobody else sees it."""
    array = numbers(3)
    found = process_pool.map(array_tasks.overwrite, [array] * 20, chunksize=1)

    assert found == [3.0] * 20
    assert float(array[0]) == 3.0


READ_ONLY = {
    "small": lambda: np.arange(10),
    "large": lambda: numbers(3),
    "fortran": lambda: np.asfortranarray(np.arange(200_000.0).reshape(400, 500)),
    "of bytes": lambda: np.frombuffer(bytes(1_000_000)),
    "records": lambda: np.zeros(50_000, dtype=[("a", "i4"), ("b", "f8")]),
    "sliced": lambda: np.arange(400_000)[::2],
}


@pytest.mark.parametrize("shape", READ_ONLY)
def test_read_only_array_arrives_writable(process_pool, shape):
    """As it does with the standard library's pool."""
    array = READ_ONLY[shape]()
    array.flags.writeable = False
    arrived, copy = process_pool.apply(array_tasks.writable, (array,))

    assert arrived
    assert np.array_equal(copy, array)
    assert copy.flags.writeable
    assert not array.flags.writeable


def test_array_that_is_in_an_item_twice_arrives_as_one(process_pool):
    """As with any pickle."""
    array = numbers(3)
    [(one, other)] = process_pool.map(workloads.same, [(array, array)])

    assert one is other
    one[0] = 5.0
    assert array[0] == 3.0


@pytest.mark.quick
def test_results_stay_while_they_are_held(make_process_pool):
    """Later results, and the end of the pool, leave them as they were; they are writable."""
    pool = make_process_pool()
    held = pool.map(array_tasks.fill, range(30))
    for result in pool.imap_unordered(array_tasks.fill, range(100, 200)):
        assert result[0] == result[-1]
    held[7][0] = 70.0
    pool.close()
    pool.join()
    more = make_process_pool().map(array_tasks.fill, range(300, 330))

    assert held[7][0] == 70.0
    assert [float(array[1]) for array in held] == list(range(30))
    assert [float(array[1]) for array in more] == list(range(300, 330))


def test_result_outlives_its_worker_and_its_pool(make_process_pool):
    """A worker that was replaced takes nothing with it."""
    pool = make_process_pool(1, maxtasksperchild=2)
    held = pool.map(array_tasks.fill, range(12), chunksize=1)
    pool.close()
    pool.join()

    assert [float(array.sum()) for array in held] == [float(n) * SIZE for n in range(12)]


@pytest.mark.quick
def test_argument_that_a_task_keeps_stays(make_process_pool):
    """A global of the worker's holds it as long as it likes."""
    pool = make_process_pool(1)
    pool.map(array_tasks.keep, [numbers(n) for n in range(5)])
    pool.map(array_tasks.overwrite, [numbers(n) for n in range(100, 150)])

    _, sums = pool.apply(array_tasks.kept_sums)
    assert sums == [float(n) * SIZE for n in range(5)]


def test_memory_of_arguments_returns(make_process_pool):
    """What is kept for the next job is bounded, however much went through."""
    pool = make_process_pool()
    many = [np.zeros(4 << 20)] * 12  # 384 MiB
    pool.map(array_tasks.total, many, chunksize=6)
    pool.map(array_tasks.total, many[:1])

    assert shared_bytes() <= 160 << 20


def test_large_arguments_travel_a_few_at_a_time(make_process_pool):
    """However short the tasks are, and however many."""
    pool = make_process_pool()
    many = [np.zeros(1 << 17)] * 300  # 300 MiB
    pool.map(array_tasks.first, many)

    assert shared_bytes() <= 60 << 20


def test_memory_of_kept_arguments_returns_when_they_are_dropped(make_process_pool):
    """And not before."""
    pool = make_process_pool(1)
    large = np.zeros(24 << 20)  # 192 MiB
    pool.map(array_tasks.keep, [large])
    held = shared_bytes()
    pool.apply(array_tasks.drop_kept)
    pool.map(abs, [1, 2])

    assert held >= large.nbytes
    assert shared_bytes() < large.nbytes


@pytest.mark.slow
def test_memory_of_results_returns_when_the_last_view_dies(make_process_pool):
    """An idle worker gives it back by itself."""
    pool = make_process_pool()
    held = pool.map(array_tasks.fill, range(40))
    views = [array[10:20] for array in held[:2]]
    full = shared_bytes()
    del held
    gc.collect()

    assert full >= 40 * BYTES
    assert eventually(lambda: shared_bytes() < 4 * BYTES)
    assert [float(view[0]) for view in views] == [0.0, 1.0]
    del views
    assert eventually(lambda: shared_bytes() < BYTES)


def test_memory_of_results_returns_after_their_workers_end(make_process_pool):
    """Of one array that is held, only that array's memory stays."""
    pool = make_process_pool(2, maxtasksperchild=1)
    held = pool.map(array_tasks.fill, range(30), chunksize=1)
    held = held[13]
    gc.collect()

    assert eventually(lambda: shared_bytes() < 6 * BYTES)
    assert float(held.sum()) == 13.0 * SIZE


# Bound constants


@pytest.mark.quick
def test_constant_is_copied_once_for_all_workers(make_process_pool):
    """However many tasks and workers there are."""
    pool = make_process_pool(3)
    constant = np.full(4 << 20, 2.0)  # 32 MiB
    function = functools.partial(array_tasks.add_first, constant)
    job = pool.map_async(function, range(300))

    assert job.get(timeout=DEADLINE) == [2.0 + n for n in range(300)]
    assert shared_bytes() < 2 * constant.nbytes


def test_closed_over_constant_is_shared_too(make_process_pool):
    """By a lambda, say."""
    pool = make_process_pool()
    constant = numbers(2)
    result = pool.map(lambda n: float(constant[n]) + n, range(100))

    assert result == [2.0 + n for n in range(100)]


@pytest.mark.quick
def test_worker_may_write_into_a_constant_and_nobody_else_sees(make_process_pool):
    """Neither the parent nor another worker."""
    pool = make_process_pool(2)
    constant = numbers(5)
    function = functools.partial(array_tasks.scribble, constant)
    first = pool.map(function, range(100), chunksize=1)
    again = pool.map(function, range(100), chunksize=1)

    assert first == again == [5.0] * 100
    assert float(constant.sum()) == 5.0 * SIZE


def test_memory_of_constants_returns_after_their_job(make_process_pool):
    """One job after another, each with a constant of its own."""
    pool = make_process_pool()
    for n in range(12):
        constant = np.full(4 << 20, float(n))
        function = functools.partial(array_tasks.add_first, constant)
        assert pool.map(function, range(8)) == [float(n) + i for i in range(8)]

    assert shared_bytes() <= 160 << 20


# Faults


@pytest.mark.quick
def test_memory_of_a_killed_worker_returns(make_process_pool):
    """What it held of others, and what it had of its own."""
    pool = make_process_pool(2)
    large = np.zeros(4 << 20)  # 32 MiB
    for _ in range(8):
        lost = pool.apply_async(array_tasks.keep_and_die, (large,))
        assert isinstance(outcome(lost), motorpool.WorkerLostError)
    assert pool.map(array_tasks.total, [numbers(1)] * 4) == [SIZE] * 4

    assert shared_bytes() <= 160 << 20


def test_worker_killed_while_it_writes_a_result(make_process_pool):
    """The next results are right, and nothing is left behind."""
    pool = make_process_pool(1)
    for _ in range(5):
        lost = pool.apply_async(array_tasks.result_that_kills)
        assert isinstance(outcome(lost), motorpool.WorkerLostError)
    assert float(pool.apply(array_tasks.fill, (3,)).sum()) == 3.0 * SIZE

    assert shared_bytes() <= 4 * BYTES


def test_items_of_a_lost_chunk_are_sent_again_whole(make_process_pool):
    """Those that had not begun, from the parent's own objects."""
    pool = make_process_pool(1)
    items = [numbers(n) for n in range(6)]
    found = list(range(6))
    job = [pool.apply_async(array_tasks.total, (item,)) for item in items[:3]]
    job.append(pool.apply_async(array_tasks.keep_and_die, (items[3],)))
    job += [pool.apply_async(array_tasks.total, (item,)) for item in items[4:]]
    found = [outcome(result) for result in job]

    assert isinstance(found.pop(3), motorpool.WorkerLostError)
    assert found == [float(n) * SIZE for n in (0, 1, 2, 4, 5)]


def test_pool_works_where_files_may_not_be_large(start_script, start_method):
    """Without shared memory, everything takes the channel."""
    script = start_script(LIMITED, start_method)
    finished = script.finish()

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["6.0", "True"]


LIMITED = """
if __name__ == "__main__":
    import resource, functools, array_tasks
    import numpy as np
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 24, 1 << 24))
    with open_pool() as pool:
        constant = np.full(100_000, 6.0)
        print(pool.map(functools.partial(array_tasks.add_first, constant), range(3))[0])
        results = pool.map(array_tasks.fill, range(10))
        print([float(r[5]) for r in results] == list(range(10)))
"""


# Who does without pays nothing


@pytest.mark.quick
@pytest.mark.parametrize("module", ["motorpool.arena", "motorpool.views"])
def test_nothing_is_imported_for_objects_without_large_buffers(start_script, start_method, module):
    """Neither in the parent nor in a worker."""
    script = start_script(PLAIN.format(module=module), start_method)
    finished = script.finish()

    assert finished.stdout.split() == ["False", "False"], finished.stderr


PLAIN = """
if __name__ == "__main__":
    with open_pool() as pool:
        assert pool.map(abs, range(1000)) == list(range(1000))
        print({module!r} in sys.modules)
        print(pool.apply(sys.modules.__contains__, ({module!r},)))
"""


def test_reused_array_is_sent_as_it_was(process_pool):
    """So may arrays, views of them, and what holds them."""

    def reusing():
        array = np.zeros(20_000)
        for number in range(20):
            array[:] = number
            yield array
            yield array[:]
            yield {"deep": [array]}

    got = list(process_pool.imap(workloads.same, reusing()))

    assert [item[0] for item in got[::3]] == list(range(20))
    assert [item[0] for item in got[1::3]] == list(range(20))
    assert [item["deep"][0][0] for item in got[2::3]] == list(range(20))
