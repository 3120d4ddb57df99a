"""What a worker may use: memory, and threads of numerical libraries."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import uuid
from multiprocessing import get_context
from pathlib import Path

import pytest

import motorpool
import workloads
from conftest import DEADLINE, START_METHODS, eventually, outcome, outcomes
from motorpool.sizes import format_size, parse_size

MB = 10**6
LIMIT = 200 * MB

# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        ("1", 1),
        ("500MB", 500 * MB),
        ("500 mb", 500 * MB),
        ("2GiB", 2 << 30),
        ("1.5G", 1_500_000_000),
        ("64k", 64_000),
        (" 3 TiB ", 3 << 40),
    ],
)
def test_size_is_read_as_people_write_it(text, size):
    """Powers of ten with a letter, of two with an `i`."""
    assert parse_size(text, "memory_limit") == size


@pytest.mark.parametrize("size", [0, -1, "", "lots", "2 GiBs", "-1GB", "0.1B", "1e9", "MB"])
def test_what_is_no_size_is_refused_at_the_call(size):
    """A limit that nobody can mean raises before any worker starts."""
    with pytest.raises(ValueError, match="memory_limit"):
        motorpool.Pool(1, memory_limit=size)


@pytest.mark.parametrize("size", [1.5, True, b"2GiB", [1]])
def test_what_cannot_be_a_size_is_refused_at_the_call(size):
    """A limit of another type raises before any worker starts."""
    with pytest.raises(TypeError, match="memory_limit"):
        motorpool.Pool(1, memory_limit=size)


def test_sizes_are_shown_as_people_read_them():
    """A size in a message has three figures or so and a unit."""
    assert [format_size(n) for n in (12, 3 << 19, 5 << 30)] == ["12 B", "1.5 MiB", "5.0 GiB"]


# Memory in the midst of a task


@pytest.mark.quick
@pytest.mark.parametrize("how", ["grow", "grow_in_c"])
def test_task_that_outgrows_the_limit_fails_alone(make_process_pool, worker_ids, how):
    """The item's error says who used how much, for what; every other result arrives."""
    pool = make_process_pool(memory_limit=LIMIT)
    sizes = [10, 20, 3000, 30, 40, 10]
    found = outcomes(pool.imap(getattr(workloads, how), sizes, chunksize=3))
    error = found.pop(2)

    assert found == [10, 20, 30, 40, 10]
    assert type(error) is motorpool.MemoryLimitError
    assert isinstance(error, MemoryError)
    assert isinstance(error, motorpool.WorkerLostError)
    assert (error.index, error.item, error.function) == (2, "3000", how)
    assert error.limit == LIMIT < error.size < 3000 * MB
    for part in (str(error.pid), "item 2", how, "190.7 MiB", format_size(error.size)):
        assert part in str(error)
    assert len(worker_ids(pool)) == 2


def test_item_that_is_too_large_to_unpickle_fails_alone(make_process_pool):
    """Loading an item counts as running it."""
    pool = make_process_pool(memory_limit=LIMIT)
    results = [pool.apply_async(workloads.same, (item,)) for item in (1, workloads.Swells(3000))]

    assert outcome(results[0]) == 1
    error = outcome(results[1])
    assert type(error) is motorpool.MemoryLimitError
    assert "while it unpickled" in str(error)
    assert pool.map(workloads.square, range(10)) == [n * n for n in range(10)]


def test_one_giant_allocation_is_refused_in_the_task(make_process_pool):
    """What no watch could be in time for, the kernel refuses; the error says why."""
    pool = make_process_pool(memory_limit=LIMIT)
    error = outcome(pool.apply_async(bytes, (20 << 30,)))

    assert type(error) is MemoryError
    assert any("memory_limit=190.7 MiB" in note for note in error.__notes__)
    assert pool.apply(workloads.square, (3,)) == 9


def test_numpy_works_under_a_tight_limit(make_process_pool):
    """Libraries map much more than they use."""
    pool = make_process_pool(memory_limit=LIMIT, threads_per_worker=2)

    assert pool.map(workloads.multiply_matrices, [100, 200]) == [100.0, 200.0]


def test_memory_of_the_parent_is_not_the_worker_s():
    """Under fork, what a worker has from its parent, and only reads, is not counted."""
    ballast = b"x" * (3 * LIMIT)
    with motorpool.Pool(1, context=get_context("fork"), memory_limit=LIMIT) as pool:
        assert pool.map(workloads.grow, [10, 20]) == [10, 20]
        with pytest.raises(motorpool.MemoryLimitError):
            pool.apply(workloads.grow_in_c, (1000,))
    assert len(ballast) == 3 * LIMIT


# Memory between tasks


@pytest.mark.quick
@pytest.mark.parametrize(("width", "chunksize"), [(2, None), (2, 1), (1, 30)])
def test_worker_that_leaks_is_replaced_and_no_result_is_lost(make_process_pool, width, chunksize):
    """Tasks that leave memory behind all succeed, one generation of workers after the other."""
    pool = make_process_pool(width, memory_limit=LIMIT)
    found = pool.map_async(workloads.leak, range(30), chunksize).get(timeout=DEADLINE)

    assert [item for item, _ in found] == list(range(30))
    assert len({pid for _, pid in found}) >= 4
    assert len(pool._pool) == width


def test_calls_one_by_one_that_leak_are_kept(make_process_pool, caplog):
    """The same with `apply`; the log tells of each replacement."""
    caplog.set_level("INFO", "motorpool")
    pool = make_process_pool(1, memory_limit=LIMIT)
    found = [pool.apply(workloads.leak, (n,)) for n in range(20)]

    assert [item for item, _ in found] == list(range(20))
    pids = list(dict.fromkeys(pid for _, pid in found))
    assert len(pids) >= 4
    assert eventually(lambda: all(str(pid) in caplog.text for pid in pids[:-1]))


def test_initializer_above_the_limit_is_said_to_be(make_process_pool):
    """A pool whose workers could do nothing says so instead of failing every task."""
    pool = make_process_pool(memory_limit=LIMIT, initializer=workloads.leak, initargs=(0, 400))
    with pytest.raises(motorpool.WorkerStartError) as caught:
        pool.apply(workloads.square, (1,))

    assert "before its first task" in str(caught.value.__cause__)


# What it costs


def watches():
    return [thread for thread in threading.enumerate() if thread.name == "motorpool-memory"]


def test_memory_is_watched_only_under_a_limit_and_while_there_is_work(make_process_pool, tmp_path):
    """No thread without a limit, none before the first task, none a while after the last."""
    plain = make_process_pool()
    assert plain.map(workloads.square, [1, 2]) == [1, 4]
    pool = make_process_pool(memory_limit="1GiB")
    assert not watches()
    result = pool.apply_async(workloads.wait_for, (str(tmp_path / "gate"),))
    assert eventually(watches)
    (tmp_path / "gate").touch()
    result.get(timeout=DEADLINE)

    assert eventually(lambda: not watches())
    assert pool.apply(workloads.square, (2,)) == 4
    assert watches()


@pytest.mark.parametrize("option", ["memory_limit", "threads_per_worker"])
def test_threads_cannot_be_limited(option):
    """An engine without processes refuses at the call."""
    with pytest.raises(ValueError, match=f"threads.*cannot do {option}.*processes"):
        motorpool.Pool(1, engine="threads", **{option: 1 << 30})


# A kill for want of memory, told from others


@pytest.fixture
def tiny_group():
    """Give a cgroup of 64 MiB, if there can be one."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"motorpool-test-{uuid.uuid4().hex}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(64 << 20))
        except OSError:
            group.rmdir()
            continue
        yield group
        assert eventually(lambda group=group: remove(group))
        return
    pytest.skip("cgroups cannot be made here")


def remove(group):
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


@pytest.mark.alone
def test_kill_for_want_of_memory_is_told_from_others(process_pool, tiny_group, tmp_path):
    """The kernel's counters say which SIGKILL was its own; the error has the worker's memory."""
    error = outcome(process_pool.apply_async(workloads.grow_in_group, (str(tiny_group), 500)))

    assert type(error) is motorpool.WorkerLostError
    assert error.exitcode == -signal.SIGKILL
    assert error.is_out_of_memory is True
    assert "Likely out of memory" in str(error)
    assert error.memory is None or error.memory > 20 << 20


def test_kill_by_somebody_else_is_not_said_to_be_for_memory(make_process_pool, tmp_path):
    """No guess where the counters say otherwise."""
    pool = make_process_pool()
    error = outcome(pool.apply_async(workloads.die, ("sigkill", str(tmp_path / "trace"))))

    assert not error.is_out_of_memory
    assert "Likely out of memory" not in str(error)


# Threads of numerical libraries

COUNT = "OMP_NUM_THREADS"
COUNTS = (COUNT, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@pytest.fixture
def no_counts(monkeypatch):
    """Have an environment in which nobody chose a number of threads."""
    for name in COUNTS:
        monkeypatch.delenv(name, raising=False)


def test_cpus_are_shared_out_by_default(make_process_pool, no_counts):
    """Workers' threads are together as many as the CPUs, not that many times the workers."""
    cpus = motorpool.cpu_count()
    wide = make_process_pool(cpus)
    narrow = make_process_pool(1)

    assert wide.apply(os.getenv, (COUNT,)) == "1"
    assert narrow.apply(os.getenv, (COUNT,)) == str(cpus)
    assert COUNT not in os.environ


def test_default_leaves_the_user_s_choice_alone(make_process_pool, monkeypatch):
    """Who set a variable meant it; who passed a number meant that."""
    monkeypatch.setenv(COUNT, "7")

    # A fork server that runs already has the environment of its start.
    assert make_process_pool().apply(os.getenv, (COUNT,)) in {"7", None}
    assert make_process_pool(threads_per_worker=3).apply(os.getenv, (COUNT,)) == "3"


@pytest.mark.parametrize("threads", [0, -1])
def test_number_of_threads_is_checked_at_the_call(threads):
    """There is at least one thread."""
    with pytest.raises(ValueError, match="threads_per_worker"):
        motorpool.Pool(1, threads_per_worker=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_openblas_starts_so_many_threads(make_process_pool, no_counts, threads):
    """Not only the environment is set: the library keeps to it (it takes no more than CPUs)."""
    threads = min(threads, os.cpu_count())
    pool = make_process_pool(1, threads_per_worker=threads)
    found = pool.apply(workloads.blas_threads)

    assert found == threads


@pytest.mark.parametrize("method", START_METHODS)
def test_openblas_that_the_parent_has_loaded_keeps_to_it(no_counts, method):
    """Under fork the library is there already, and has its threads; it is told."""
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import multiprocessing, numpy, motorpool, workloads
numpy.ones((300, 300)) @ numpy.ones((300, 300))
before = workloads.blas_threads()
context = multiprocessing.get_context({method!r})
with motorpool.Pool(1, context=context, threads_per_worker=1) as pool:
    print(pool.apply(workloads.blas_threads), before == workloads.blas_threads())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(motorpool.__file__).parents[1])}
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ended.stdout, ended.stderr) == ("1 True\n", "")


# Little memory left


class Readings:
    """What the kernel says of memory, by our choice."""

    available = 8 << 30

    def read(self):
        return [motorpool.memory.Space(self.available, 16 << 30, "the machine")]


@pytest.fixture
def readings(monkeypatch):
    found = Readings()
    monkeypatch.setattr(motorpool.memory.Room, "read", found.read)
    return found


def test_tasks_run_one_at_a_time_while_memory_is_short(make_pool, readings, caplog, tmp_path):
    """Nothing new is sent beside a task that runs; all is done in the end; the log says why."""
    caplog.set_level("WARNING", "motorpool")
    pool = make_pool(2)
    assert pool.map(workloads.square, range(4)) == [0, 1, 4, 9]
    readings.available = 100 << 20
    folder = str(tmp_path)
    result = pool.map_async(functools.partial(workloads.company, folder), range(30), chunksize=1)

    assert eventually(lambda: "memory runs short: 100.0 MiB of 16.0 GiB" in caplog.text)
    alone = result.get(timeout=DEADLINE)
    assert alone[-8:] == [1] * 8
    readings.available = 8 << 30
    result = pool.map_async(functools.partial(workloads.company, folder), range(30), chunksize=1)
    assert max(result.get(timeout=DEADLINE)) == 2
    assert "no longer runs short" in caplog.text
