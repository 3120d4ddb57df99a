"""Programs that look inside of the stdlib's pool find in this one what they look for."""

import multiprocessing.pool
import time

import pytest

import workloads
from conftest import DEADLINE, eventually


def istarmap(self, func, iterable, chunksize=1):
    """As the recipe that users copy, to have `starmap` with a progress bar."""
    self._check_running()
    batches = multiprocessing.pool.Pool._get_tasks(func, iterable, chunksize)
    result = multiprocessing.pool.IMapIterator(self)
    star = multiprocessing.pool.starmapstar
    tasks = self._guarded_task_generation(result._job, star, batches)
    self._taskqueue.put((tasks, result._set_length))
    return (item for chunk in result for item in chunk)


def test_cache_is_empty_when_all_is_done(make_process_pool):
    """`while pool._cache` counts down the results that are not there yet, and ends."""
    pool = make_process_pool(2)
    calls = [pool.apply_async(time.sleep, (0.01,)) for _ in range(20)]
    calls.append(pool.map_async(workloads.square, range(10)))
    seen = []
    deadline = time.monotonic() + DEADLINE
    while pool._cache and time.monotonic() < deadline:
        seen.append(len(pool._cache))
        time.sleep(0.005)

    assert seen[0] > 10
    assert seen == sorted(seen, reverse=True)
    assert all(call.ready() for call in calls)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_index_of_a_stream_counts_up_to_its_end(make_pool, method):
    """Who polls `_index` for the progress of an `imap`, and reads nothing yet, sees it all done."""
    pool = make_pool(2)
    stream = getattr(pool, method)(workloads.same, iter(range(300)))
    pool.close()

    assert eventually(lambda: stream._index == 300)
    assert sorted(stream) == list(range(300))


def test_taskqueue_tells_what_waits(make_process_pool, tmp_path):
    """`pool._taskqueue.qsize()` grows with what is submitted, and gets to zero."""
    pool = make_process_pool(2)
    gate = tmp_path / "gate"
    calls = [pool.apply_async(workloads.wait_for, (str(gate),)) for _ in range(50)]
    waiting = pool._taskqueue.qsize()
    gate.touch()
    for call in calls:
        call.get(DEADLINE)

    assert 25 <= waiting <= 50
    assert eventually(pool._taskqueue.empty)


def test_recipe_that_adds_tasks_to_the_queue_works(pool, monkeypatch):
    """`istarmap`, put on the stdlib's class, runs on this pool in order, errors included."""
    monkeypatch.setattr(multiprocessing.pool.Pool, "istarmap", istarmap, raising=False)

    assert list(pool.istarmap(pow, [(n, 2) for n in range(10)], 3)) == [n * n for n in range(10)]
    assert list(pool.istarmap(pow, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(pool.istarmap(divmod, [(1, 1), (1, 0)]))
