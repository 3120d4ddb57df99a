"""Pools on Ray and Dask: every check of an engine, deaths, growth, and what travels."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

import motorpool
import workloads
from chaos.account import faults
from chaos.storm import Storm
from motorpool.testing import CHECKS
from places.tutorial import TUTORIAL

from .conftest import DEADLINE, KINDS, NODES, DaskCluster, eventually

pytestmark = [
    pytest.mark.slow,
    # The first test of a kind waits for its cluster, which takes long on a busy machine.
    pytest.mark.timeout(120),
    # Ray and Dask leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def note_and_nap(path, seconds, item):
    """Note the item and the process, take a while, return the item."""
    with Path(path).open("a") as log:
        log.write(f"{item} {os.getpid()}\n")
    time.sleep(seconds)
    return item


def note_and_grow(path, item):
    """Note the item and the process, and return some 20 KB after a moment."""
    note_and_nap(path, 0.002, item)
    return bytes([item % 256]) * 20_000


def environment(name):
    """Return a variable of the worker's environment."""
    return os.environ.get(name)


def notes_in(path):
    """Return items and process ids as they were noted."""
    text = path.read_text() if path.exists() else ""
    return [tuple(map(int, line.split())) for line in text.splitlines()]


def outcomes_of(iterator, count, halfway=lambda: None):
    """Return the results and the errors of an iterator; call `halfway` in between."""
    results, errors = [], []
    for index in range(count):
        if index == count // 2:
            halfway()
        try:
            results.append(iterator.next(DEADLINE))
        except motorpool.WorkerLostError as error:
            errors.append(error)
    return results, errors


@pytest.mark.parametrize("name", CHECKS)
def test_cluster_passes(make_pool, name):
    """Both pass every check that the other engines pass."""
    CHECKS[name](make_pool)


def test_tutorial_runs_in_a_flat_script(cluster, run_script):
    """The snippets print what the tutorial says, from a script the workers never saw."""
    source = "\n".join(step.source + (step.check or "") for step in TUTORIAL)
    script = run_script(source, cluster.environment)
    out, err = script.communicate(timeout=DEADLINE)

    assert script.returncode == 0, err
    assert out.strip() == "\n".join(step.printed for step in TUTORIAL)


def fail_in_c(kind):
    """Raise an exception that keeps something outside of its `__dict__`."""
    if kind == "exit":
        sys.exit(7)
    if kind == "stop":
        raise StopIteration(kind)
    return b"\xff".decode()


def test_errors_keep_what_they_say(make_pool):
    """What exceptions of C keep to themselves arrives too: Dask pickles them its own way."""
    with make_pool(2) as pool:
        kinds = ["exit", "stop", "decode"]
        over, stopped, undecoded = pool.map(fail_in_c, kinds, on_error="return")

    assert over.code == 7
    assert stopped.value == "stop"
    assert undecoded.object == b"\xff"


def square_in_a_pool(count):
    """Use a pool of processes in a task."""
    with motorpool.Pool(2, engine="processes") as pool:
        return pool.map(workloads.square, range(count))


def test_task_opens_a_pool(make_pool):
    """A task may use processes of its own."""
    with make_pool(1) as pool:
        assert pool.apply(square_in_a_pool, (3,)) == [0, 1, 4]


def test_tasks_open_pools_on_their_own_cluster(cluster, run_script):
    """Tasks that hold all workers get results of a pool that needs one, of the script's classes."""
    source = """
import os, time, motorpool
ENGINE = os.environ["MOTORPOOL_ENGINE"]
class Box:
    opened = {}
    def __init__(self, number):
        self.number = number
def boxes(count):
    Box.opened[os.getpid()] = Box.opened.get(os.getpid(), 0) + 1
    with motorpool.Pool(1, engine=ENGINE) as pool:
        found = pool.map(Box, range(count)) + pool.map(lambda number: Box(count), range(1))
    assert all(type(box) is Box for box in found)
    return found
with motorpool.Pool(2) as pool:
    for found in pool.map(boxes, [1, 2, 3]):
        print([box.number for box in found if type(box) is Box])
    def ask(_):
        time.sleep(0.01)
        return os.getpid(), Box.opened.get(os.getpid())
    opened = pool.map(ask, range(20), chunksize=1)
    print(sum(filter(None, dict(opened).values())))
"""
    script = run_script(source, cluster.environment)
    out, err = script.communicate(timeout=DEADLINE)

    # Where the inner pool shares the workers, it leaves their classes as they are.
    assert out.splitlines() == ["[0, 1]", "[0, 1, 2]", "[0, 1, 2, 3]", "3"], err


def test_connection_is_refused_at_the_call(make_pool):
    """What only a child of this process could be handed is refused before it is sent."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer, make_pool(2) as pool:
        with pytest.raises(motorpool.NotPicklableError, match="sockets and connections"):
            pool.map_async(partial(print, writer), [1])
        with pytest.raises(motorpool.NotPicklableError, match="sockets and connections"):
            pool.map(print, [writer])
        with pytest.raises(motorpool.NotPicklableError, match="sockets and connections"):
            make_pool(2, initializer=print, initargs=(writer,))


def keep_square(shared, item):
    """Put the square of an item into a dictionary that a manager keeps."""
    shared[item] = item * item


def keep_squares(shared, items):
    """Put the squares of items into the dictionary, in a pool of processes of its own."""
    with motorpool.Pool(1) as pool:
        pool.map(partial(keep_square, shared), items)
        pool.starmap(keep_square, [(shared, -item) for item in items])


def test_manager_of_the_program_is_found(make_pool):
    """Workers may use what a manager of `multiprocessing` keeps, as far as they reach it."""
    with make_pool(2) as pool:
        pool.map(partial(pow, 2), range(4))  # before the first manager
        with multiprocessing.Manager() as manager:
            shared = manager.dict()
            pool.starmap(keep_square, [(shared, item) for item in range(4)])
            pool.map(partial(keep_square, shared), range(4, 8))
            pool.apply(keep_squares, (shared, [8, 9]))

            assert dict(shared) == {item: item * item for item in [*range(10), -8, -9]}


def test_pools_share_a_cluster(make_pool):
    """Two pools of one program have workers in common, and tell their chunks apart."""
    with make_pool(1) as one, make_pool(1) as other:
        squares = [pool.map_async(workloads.square, range(60), 3) for pool in (one, other)]
        assert [result.get(DEADLINE) for result in squares] == [[n * n for n in range(60)]] * 2


def test_item_that_kills_its_worker_fails_alone(make_pool, tmp_path):
    """Of a chunk of short items, the one that ends the process fails; nothing runs twice."""
    log = tmp_path / "log"

    def run(item):
        with log.open("a") as notes:
            notes.write(f"{item} 0\n")
        if item == 50:
            os._exit(3)
        return item

    with make_pool(2) as pool:
        results, errors = outcomes_of(pool.imap(run, range(300)), 300)

    assert [error.index for error in errors] == [50]
    assert results == [item for item in range(300) if item != 50]
    assert Counter(item for item, _ in notes_in(log)).most_common(1)[0][1] == 1


def test_killed_worker_costs_what_it_ran(make_pool, tmp_path):
    """A worker that is killed in mid-run takes one item along, and the pool goes on."""
    log = tmp_path / "log"

    def kill_one():
        os.kill(notes_in(log)[-1][1], signal.SIGKILL)

    with make_pool(2) as pool:
        stream = pool.imap(partial(note_and_nap, log, 0.05), range(80))
        results, errors = outcomes_of(stream, 80, kill_one)
        again = pool.map(workloads.square, range(5))

    assert len(errors) <= 1
    assert len(results) + len(errors) == 80
    assert max(Counter(item for item, _ in notes_in(log)).values()) == 1
    assert again == [0, 1, 4, 9, 16]


def test_killed_worker_costs_what_it_ran_though_results_are_large(make_pool, tmp_path):
    """What a chunk has finished is there, up to 256 KiB an item, although it was not sent."""
    log = tmp_path / "log"

    def kill_one():
        os.kill(notes_in(log)[-1][1], signal.SIGKILL)

    with make_pool(2) as pool:
        stream = pool.imap_unordered(partial(note_and_grow, log), range(1000))
        results, errors = outcomes_of(stream, 1000, kill_one)

    assert len(errors) <= 1
    assert len(results) + len(errors) == 1000
    assert {len(result) for result in results} == {20_000}


def test_node_that_goes_down_costs_what_it_ran(cluster, make_pool, tmp_path):
    """A node that goes down takes along what was sent to it; nothing runs twice."""
    log = tmp_path / "log"
    with make_pool() as pool:
        stream = pool.imap(partial(note_and_nap, log, 0.05), range(100))
        results, errors = outcomes_of(stream, 100, cluster.kill_node)

    runs = Counter(item for item, _ in notes_in(log))
    assert len(errors) <= 2
    assert len(results) + len(errors) == 100
    assert max(runs.values()) == 1
    assert set(runs) >= set(results)


@pytest.mark.parametrize("kind", KINDS)
def test_account_balances_under_random_faults(kind, request, tmp_path):
    """Each item arrives or fails once, and ran once at the most; each callback is called once."""
    if kind == "ray":
        request.getfixturevalue("ray_session")
    pool = motorpool.Pool(2, engine=kind)

    balance = Storm(seconds=8, seed=1, pause=0.7).rage(pool, tmp_path / "log")

    assert faults(balance) == {}, balance
    assert balance["workers"] > 2  # Some died, killed or by themselves.
    assert balance["delivered"] > 0


def test_node_that_joins_is_used(cluster, make_pool, tmp_path):
    """A pool that was given no number of workers grows with the cluster."""
    log = tmp_path / "log"
    with make_pool() as pool:
        result = pool.map_async(partial(note_and_nap, log, 0.1), range(300))
        eventually(lambda: len({pid for _, pid in notes_in(log)}) == NODES)
        cluster.add_node()
        eventually(lambda: len({pid for _, pid in notes_in(log)}) == NODES + 1)
        assert result.get(DEADLINE) == list(range(300))


class Counted:
    """A constant that counts how often it is pickled."""

    pickled = 0

    def __init__(self, data):
        self.data = data

    def __getstate__(self):
        Counted.pickled += 1
        return self.data

    def __setstate__(self, data):
        self.data = data

    def length(self, item):
        """Return the length of the data and the process."""
        return len(self.data), os.getpid()


def test_constant_is_pickled_once(make_pool):
    """What a function is bound to crosses once, not with every chunk."""
    Counted.pickled = 0
    constant = Counted(os.urandom(4 << 20))
    with make_pool(2) as pool:
        results = pool.map(constant.length, range(40), chunksize=2)

    assert {length for length, _ in results} == {4 << 20}
    assert Counted.pickled <= 2


def test_terminate_ends_soon(make_pool, tmp_path):
    """A pool with tasks that never end can be left."""
    started = tmp_path / "started"
    pool = make_pool(2)
    result = pool.map_async(workloads.nap, [0.0] * 3 + [3.0] * 3)
    pool.apply_async(workloads.note_run, (started, 1))
    pool.terminate()
    pool.join()

    with pytest.raises(motorpool.PoolTerminatedError):
        result.get(DEADLINE)


def test_interrupt_ends_a_map(cluster, run_script):
    """Ctrl-C raises KeyboardInterrupt in the script, once, and it ends."""
    source = """
import time, motorpool
def nap(item):
    print("began", flush=True) if item == 0 else None
    time.sleep(0.2)
with motorpool.Pool(2) as pool:
    print("here", pool.map(nap, range(2)), flush=True)
    pool.map(nap, range(1, 10_000))
"""
    script = run_script(source, cluster.environment)
    while "here" not in script.stdout.readline():
        assert script.poll() is None
    time.sleep(0.5)
    script.send_signal(signal.SIGINT)
    _, err = script.communicate(timeout=DEADLINE)

    assert script.returncode != 0
    assert err.count("KeyboardInterrupt") == 1, err


@pytest.mark.parametrize("kind", KINDS)
def test_cluster_is_started_here_and_ended(kind, run_script):
    """Where there is none, a flat script gets a cluster of its own, gone when it ends."""
    pytest.importorskip({"ray": "ray", "dask": "distributed"}[kind])
    source = """
import os, motorpool
def where(item):
    return os.getpid()
with motorpool.Pool(2) as pool:
    print(*set(pool.map(where, range(20))))
"""
    script = run_script(source, {"MOTORPOOL_ENGINE": kind, "RAY_ADDRESS": "local"})
    out, err = script.communicate(timeout=DEADLINE)

    assert script.returncode == 0, err
    assert not err
    pids = [int(word) for word in out.splitlines()[-1].split()]
    assert pids
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10)


# Ray only.


@pytest.mark.ray
def test_ray_that_is_started_here_serves_pools_on_several_threads(run_script):
    """Pools that begin at the same time start one Ray, which ends with the last of them."""
    pytest.importorskip("ray")
    source = """
import threading, motorpool, ray
together, sums = threading.Barrier(3), []
def run():
    together.wait()
    with motorpool.Pool(1) as pool:
        sums.append(sum(pool.map(abs, range(-9, 0))))
threads = [threading.Thread(target=run) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(sums, ray.is_initialized())
"""
    script = run_script(source, {"MOTORPOOL_ENGINE": "ray", "RAY_ADDRESS": "local"})
    out, err = script.communicate(timeout=2 * DEADLINE)

    assert out.splitlines() == ["[45, 45, 45] False"], err
    assert not err


@pytest.mark.ray
def test_ray_that_was_shut_down_is_an_error(run_script):
    """Nobody waits for a Ray that is gone, and none is started in its place, at exit neither."""
    pytest.importorskip("ray")
    source = """
import time, motorpool, ray
pool = motorpool.Pool(2)
print(pool.map(abs, [-2]))
result = pool.map_async(time.sleep, [0.05] * 2000, 1)
ray.shutdown()
try:
    result.get(20)
except motorpool.EngineBrokenError as error:
    print("shut down" in str(error), ray.is_initialized())
pool.terminate()
other = motorpool.Pool(2)
print(other.map(abs, [-1]), ray.is_initialized())
"""
    script = run_script(source, {"MOTORPOOL_ENGINE": "ray", "RAY_ADDRESS": "local"})
    out, err = script.communicate(timeout=2 * DEADLINE)

    assert out.splitlines() == ["[2]", "True False", "[1] True"], err
    assert "Ray" not in err


@pytest.mark.ray
def test_ray_that_was_there_is_left_alone(ray_cluster):
    """A Ray that somebody else initialised is used, and is there afterwards."""
    import ray

    with motorpool.Pool(2, engine="ray") as pool:
        pool.map(workloads.square, range(5))

    assert ray.is_initialized()


@pytest.mark.ray
def test_ray_options_reach_the_workers(ray_cluster):
    """What `ray.remote` takes goes through in one keyword."""
    options = {"num_cpus": 0.5, "runtime_env": {"env_vars": {"MOTORPOOL_TEST": "here"}}}
    with motorpool.Pool(engine="ray", engine_options=options) as pool:
        seen = pool.map(environment, ["MOTORPOOL_TEST"] * 4)
        size = pool._processes

    assert set(seen) == {"here"}
    assert size == 2 * NODES


@pytest.mark.ray
def test_ray_with_all_cpus_taken_gets_on(ray_cluster):
    """A pool beside one that holds all CPUs has one worker nevertheless."""
    with motorpool.Pool(engine="ray") as first:
        first.map(workloads.square, range(5))
        with motorpool.Pool(engine="ray") as second:
            assert second.map_async(workloads.square, range(5)).get(DEADLINE) == [0, 1, 4, 9, 16]


@pytest.mark.ray
def test_ray_with_all_cpus_asked_for_just_now_gets_on_at_once(ray_cluster):
    """What another pool here has asked for counts as taken, be it there yet or not."""
    for _ in range(3):
        with motorpool.Pool(engine="ray") as first, motorpool.Pool(engine="ray") as second:
            assert first.imap(workloads.square, range(5)).next(DEADLINE) == 0
            asked = time.monotonic()
            assert second.map_async(workloads.square, range(5)).get(DEADLINE) == [0, 1, 4, 9, 16]
            assert time.monotonic() - asked < 5


@pytest.mark.ray
def test_ray_whose_cpus_are_taken_meanwhile_gets_on(ray_cluster, monkeypatch):
    """A pool that waits for CPUs which another program took has one worker nevertheless."""
    monkeypatch.setattr("motorpool.engines.ray.RayEngine._has_free_cpus", lambda _self: True)
    with motorpool.Pool(engine="ray") as first, motorpool.Pool(engine="ray") as second:
        first.map(workloads.square, range(5))
        waiting = second.map_async(workloads.square, range(5))
        monkeypatch.undo()
        assert waiting.get(DEADLINE) == [0, 1, 4, 9, 16]


@pytest.mark.ray
def test_ray_replaces_workers_after_so_many_tasks(ray_cluster):
    """`maxtasksperchild` is kept on Ray."""
    with motorpool.Pool(2, maxtasksperchild=5, engine="ray") as pool:
        pids = pool.map(workloads.process_id, range(20))
        pids += pool.map(workloads.process_id, range(20), chunksize=1)

    assert max(Counter(pids).values()) <= 5


def nap_or_hang(item):
    """Sleep for a moment, or for long; for `None`, compute without ever looking up."""
    if item is None:
        sum(range(10**12))
    time.sleep(item)
    return item


@pytest.mark.ray
@pytest.mark.parametrize("late", [DEADLINE, None])
def test_ray_keeps_tasks_within_their_time(ray_cluster, late):
    """The late item fails, not the ones before and after it, and its actor ends."""
    items = [0.01] * 10 + [late] + [0.01] * 10
    with motorpool.Pool(2, engine="ray") as pool:
        found = pool.map(nap_or_hang, items, timeout=1.0, on_error="return")

    error = found.pop(10)
    assert isinstance(error, motorpool.TaskTimeoutError)
    assert (error.index, error.seconds) == (10, 1.0)
    assert "killed" in str(error)
    assert found == [0.01] * 20


@pytest.mark.ray
def test_ray_spares_tasks_that_wait(ray_cluster):
    """What waits behind others has all of its time, and so has what is in time."""
    with motorpool.Pool(1, engine="ray") as pool:
        calls = [pool.apply_async(time.sleep, (0.4,), timeout=0.8) for _ in range(6)]
        assert [call.get(DEADLINE) for call in calls] == [None] * 6


@pytest.mark.ray
def test_ray_tries_late_tasks_again(ray_cluster, tmp_path):
    """A timeout is a failure like any other: `retries` give the item another attempt."""
    log = tmp_path / "log"

    def hang_once(item):
        if item == 3 and not log.exists():
            log.touch()
            time.sleep(DEADLINE)
        return item

    with motorpool.Pool(2, engine="ray") as pool:
        assert pool.map(hang_once, range(6), timeout=1.0, retries=1) == list(range(6))


@pytest.mark.ray
def test_cancel_on_ray_spares_other_jobs(ray_cluster):
    """An actor that holds tasks of two jobs is not ended for one that it does not run."""
    with motorpool.Pool(1, engine="ray") as pool:
        pool.map(time.sleep, [0.001] * 20)
        wanted = pool.map_async(nap_or_hang, [0.5, 0.01, 0.01])
        unwanted = pool.map_async(time.sleep, [0.001] * 20)
        assert unwanted.cancel()
        assert wanted.get(DEADLINE) == [0.5, 0.01, 0.01]


# Dask only.


@pytest.mark.dask
def test_dask_shows_the_name_of_the_function(dask_cluster):
    """On the dashboard, tasks stand under the name of what they call."""

    def names(dask_scheduler):
        return list(dask_scheduler.task_prefixes)

    with motorpool.Pool(engine=dask_cluster.engine) as pool:
        pool.map(workloads.note_run, [], 1)
        pool.map(workloads.square, range(5))

    assert "square" in dask_cluster.client.run_on_scheduler(names)


def begun_without_workers(pool, dask_cluster):
    """Use the pool, end all workers, and return the result of squares of 50 numbers."""
    assert pool.map(workloads.square, range(5)) == [0, 1, 4, 9, 16]
    for _ in range(NODES):
        dask_cluster.kill_node()
    eventually(lambda: dask_cluster.cpus() == 0)
    return pool.map_async(workloads.square, range(50), 5)


@pytest.mark.dask
def test_dask_that_lost_all_its_workers_is_waited_for(dask_cluster):
    """Work goes on when the first worker is back, and nothing is lost."""
    with motorpool.Pool(engine=dask_cluster.engine) as pool:
        result = begun_without_workers(pool, dask_cluster)
        dask_cluster.add_node()

        assert result.get(DEADLINE) == [item * item for item in range(50)]


@pytest.mark.dask
def test_dask_worker_that_dies_beside_one_that_is_stuck_costs_what_it_ran(dask_cluster, tmp_path):
    """What the dead worker had not begun goes on, although no other can tell of it."""
    log = tmp_path / "log"

    def kill_one_and_stop_the_other():
        dask_cluster.stop_node(seconds=8)
        dask_cluster.kill_node()

    with motorpool.Pool(engine=dask_cluster.engine) as pool:
        stream = pool.imap_unordered(partial(note_and_nap, log, 0.002), range(400))
        results, errors = outcomes_of(stream, 400, kill_one_and_stop_the_other)

    assert len(errors) <= 1
    assert len(results) + len(errors) == 400


@pytest.mark.dask
def test_dask_that_lost_its_scheduler_is_an_error():
    """Nobody waits for a cluster that is gone: neither who does already, nor who comes later."""
    pytest.importorskip("distributed")
    doomed = DaskCluster()
    try:
        with motorpool.Pool(engine=doomed.engine) as pool:
            pool.map(workloads.square, range(5))
            running = pool.map_async(workloads.nap, [0.1] * 1000)
            doomed.kill_scheduler()
            with pytest.raises(motorpool.EngineBrokenError):
                running.get(DEADLINE)
            with pytest.raises(motorpool.EngineBrokenError):
                pool.map_async(workloads.square, range(5)).get(DEADLINE)
    finally:
        doomed.close()


@pytest.mark.dask
def test_dask_client_is_left_alone(dask_cluster):
    """A client that is passed stays the user's."""
    with motorpool.Pool(engine=dask_cluster.client) as pool:
        assert pool.map(workloads.square, range(5)) == [0, 1, 4, 9, 16]

    assert dask_cluster.client.submit(abs, -3).result(DEADLINE) == 3


@pytest.mark.dask
def test_dask_cluster_in_this_process_is_left_alone():
    """A `LocalCluster` that is passed stays the user's, one of threads too."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as local:
        with motorpool.Pool(engine=local) as pool:
            assert pool.map(workloads.square, range(5)) == [0, 1, 4, 9, 16]
        with distributed.Client(local, set_as_default=False) as client:
            assert client.submit(abs, -3).result(DEADLINE) == 3


@pytest.mark.dask
def test_dask_worker_that_a_nanny_restarts_is_used(run_script):
    """On a cluster of one worker, the pool goes on with the one that comes after it."""
    pytest.importorskip("distributed")
    source = """
import os, motorpool
def die(item):
    if item == 1:
        os._exit(3)
    return item
with motorpool.Pool(1) as pool:
    results = pool.imap(die, range(5))
    got = []
    for _ in range(5):
        try:
            got.append(next(results))
        except motorpool.WorkerLostError as error:
            got.append(f"lost {error.index}")
    print(got)
"""
    script = run_script(source, {"MOTORPOOL_ENGINE": "dask"})
    out, err = script.communicate(timeout=DEADLINE)

    assert out.splitlines()[-1] == "[0, 'lost 1', 2, 3, 4]", err


@pytest.mark.dask
def test_dask_worker_that_its_cluster_gave_up_is_replaced(run_script):
    """A cluster of the pool's own gets another, in time.

    A worker that was lost is looked for after a while. If its successor has been
    lost just then, a `LocalCluster` gives it up and starts no other by itself.
    """
    pytest.importorskip("distributed")
    source = """
import os, signal, time, motorpool

def end(pool):
    os.kill(pool.map(eval, ["__import__('os').getpid()"])[0], signal.SIGKILL)
    return time.monotonic()

with motorpool.Pool(1, engine="dask") as pool:
    ended = end(pool)
    pool.map(abs, [-1])
    time.sleep(max(ended + 4.7 - time.monotonic(), 0))
    end(pool)
    print(pool.map_async(abs, [-1, -2]).get(30))
"""
    # Comes while the second one is being started again; 15 s by default.
    waits = {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "5s"}
    script = run_script(source, waits)
    out, err = script.communicate(timeout=DEADLINE)

    assert out.splitlines()[-1:] == ["[1, 2]"], err


@pytest.mark.dask
def test_pool_that_dask_has_no_worker_for_says_so(dask_cluster, monkeypatch, caplog):
    """Who waits for a cluster without workers learns why, and goes on as soon as it has one."""
    monkeypatch.setattr("motorpool.engines.cluster.PATIENCE_SECONDS", 0.5)
    with motorpool.Pool(engine=dask_cluster.engine) as pool:
        result = begun_without_workers(pool, dask_cluster)
        eventually(lambda: "the dask cluster has had no worker for this pool" in caplog.text)
        dask_cluster.add_node()

        assert result.get(DEADLINE) == [item * item for item in range(50)]
    assert caplog.text.count("add workers to the cluster") == 1


@pytest.mark.ray
def test_pool_that_ray_has_no_worker_for_says_so(ray_cluster, monkeypatch, caplog):
    """Who asks for what no node has learns that the tasks wait."""
    monkeypatch.setattr("motorpool.engines.cluster.PATIENCE_SECONDS", 0.5)
    with motorpool.Pool(
        engine=ray_cluster.engine, engine_options={"resources": {"nowhere": 1}}
    ) as pool:
        pool.map_async(workloads.square, range(5))
        eventually(lambda: "the ray cluster has had no worker for this pool" in caplog.text)
        pool.terminate()


# The docs.

PAGE = Path(__file__).parents[2] / "docs" / "outgrow-one-machine.md"
# A command of the page for a cluster, and what it says that it prints.
COMMAND = re.compile(
    r"^\$ (?P<command>(?:RAY_ADDRESS=\S+ )?MOTORPOOL_ENGINE=(?P<kind>ray|dask|tcp)\S* python \S+)\n"
    r"(?P<output>.*)$",
    re.MULTILINE,
)
COMMANDS = [
    pytest.param(
        *found.group("command", "output"),
        marks=getattr(pytest.mark, found["kind"].replace("tcp", "dask")),
        id=found["command"].rpartition(" python")[0],
    )
    for found in COMMAND.finditer(PAGE.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("command", "output"), COMMANDS)
def test_command_of_the_page_prints_what_stands_under_it(request, command, output):
    """The page's commands work; where one names a cluster's address, with that of one here."""
    pytest.importorskip("ray" if "=ray" in command else "distributed")
    environment = {"RAY_ADDRESS": "local"}
    if "127.0.0.1" in command and "ray://" not in command:
        kind = "ray" if "=ray" in command else "dask"
        environment = request.getfixturevalue(f"{kind}_cluster").environment
        command = re.sub(r"^(\w+=\S+ )+", "", command)
    elif "ray://" in command:
        pytest.skip("needs a head with a server for clients")
    ended = subprocess.run(
        ["/bin/sh", "-c", command.replace("python", sys.executable)],
        cwd=PAGE.parents[1],
        env={**os.environ, "PYTHONPATH": str(PAGE.parents[1] / "src"), **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{output}\n", "", 0)


@pytest.mark.ray
def test_ray_that_is_named_and_not_there_is_no_reason_to_start_one(run_script):
    """A wrong address is an error, and soon; not a cluster of one machine."""
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    source = "import motorpool\nmotorpool.Pool(2)"
    script = run_script(source, {"MOTORPOOL_ENGINE": "ray", "RAY_ADDRESS": address})
    _, err = script.communicate(timeout=DEADLINE)

    assert script.returncode == 1
    assert f"ConnectionError: no Ray can be reached at {address}" in err
