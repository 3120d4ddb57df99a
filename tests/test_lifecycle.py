"""How a pool ends: by `with`, by hand, by garbage, by exit, by signals, by fork."""

import atexit
import contextlib
import gc
import os
import queue
import signal
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest

import motorpool
import workloads
from conftest import DEADLINE, SETTLING, Footprint, build_pool, eventually, outcome

PROMPT = 3.0
"""Seconds within which a program with work pending has to be gone."""

INTERRUPTED = 2.0
"""Seconds within which Ctrl-C has to have ended everything."""


# Leaving `with`


@pytest.mark.quick
def test_leaving_with_finishes_what_was_submitted(make_pool):
    """Results and callbacks of asynchronous work are all there after `with`."""
    called = queue.Queue()
    with make_pool() as pool:
        one = pool.apply_async(workloads.square, (3,), callback=called.put)
        many = pool.map_async(workloads.square, range(500), 1, callback=called.put)
        bad = pool.apply_async(workloads.fail, ("x",), error_callback=called.put)

    assert one.get(0) == 9
    assert many.get(0) == [n * n for n in range(500)]
    assert bad.ready()
    assert not bad.successful()
    assert called.qsize() == 3


def test_leaving_with_waits_for_what_callbacks_submit(make_pool):
    """Work that a callback hands in while `with` is being left is done, or refused."""
    told = []

    def again(value):
        try:
            told.append(pool.apply(workloads.square, (value,)))
        except motorpool.PoolClosedError:
            told.append("closed")

    with make_pool() as pool:
        pool.apply_async(workloads.square, (3,), callback=again)

    assert told in ([81], ["closed"])


@pytest.mark.quick
def test_leaving_with_by_an_exception_cancels(make_pool, tmp_path):
    """An exception leaves `with` at once; what runs and waits is given up."""
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    pool = make_pool(2)
    with pytest.raises(KeyError, match="mine"), pool:  # noqa: PT012 - the whole block is left
        running = pool.apply_async(workloads.touch_then_wait, (str(mark), str(gate)))
        waiting = pool.map_async(workloads.wait_for, [str(gate)] * 10, chunksize=1)
        assert eventually(mark.exists)
        begun = time.monotonic()
        raise KeyError("mine")
    seconds = time.monotonic() - begun
    gate.touch()

    assert seconds < PROMPT
    for result in (running, waiting):
        with pytest.raises(motorpool.MotorpoolError):
            result.get(timeout=DEADLINE)


def test_leaving_with_leaves_the_pool_closed(make_pool):
    """After `with`, the pool takes no more work and has no workers."""
    with make_pool() as pool:
        pool.map(workloads.square, [1])

    with pytest.raises(ValueError, match=r"(?i)pool|closed"):
        pool.map(workloads.square, [1])


def test_with_around_a_closed_pool_is_left_in_peace(make_pool):
    """`close` and `join` inside of `with` are fine."""
    with make_pool() as pool:
        result = pool.map_async(workloads.square, range(5))
        pool.close()
        pool.join()

    assert result.get(0) == [0, 1, 4, 9, 16]


def test_leaving_with_cancels_what_timed_out(make_pool, tmp_path):
    """A call whose `get` timed out does not keep `with` from being left."""
    with make_pool() as pool:
        mark, gate = tmp_path / "mark", tmp_path / "gate"
        result = pool.apply_async(workloads.touch_then_wait, (str(mark), str(gate)))
        assert eventually(mark.exists)
        with pytest.raises(TimeoutError):
            result.get(timeout=0.01)
        begun = time.monotonic()
    seconds = time.monotonic() - begun
    gate.touch()

    assert seconds < PROMPT


# close, join, terminate


@pytest.mark.quick
@pytest.mark.parametrize(
    "submit",
    [
        lambda pool: pool.apply(workloads.square, (1,)),
        lambda pool: pool.apply_async(workloads.square, (1,)),
        lambda pool: pool.map(workloads.square, [1]),
        lambda pool: pool.map_async(workloads.square, [1]),
        lambda pool: pool.starmap(workloads.square, [(1,)]),
        lambda pool: pool.starmap_async(workloads.square, [(1,)]),
        lambda pool: pool.imap(workloads.square, [1]),
        lambda pool: pool.imap_unordered(workloads.square, [1]),
        lambda pool: pool.__enter__(),
    ],
    ids=[
        "apply",
        "apply_async",
        "map",
        "map_async",
        "starmap",
        "starmap_async",
        "imap",
        "imap_unordered",
        "enter",
    ],
)
@pytest.mark.parametrize("end", ["close", "terminate"])
def test_ended_pool_takes_no_more_work(leak_guard, submit, end):
    """Submitting to a closed or terminated pool is a ValueError."""
    pool = motorpool.ThreadPool(1)
    getattr(pool, end)()
    with pytest.raises(ValueError, match=r"(?i)pool") as caught:
        submit(pool)
    pool.join()

    assert isinstance(caught.value, motorpool.PoolClosedError)


@pytest.mark.quick
def test_join_waits_for_the_workers_to_end(leak_guard, engine):
    """After `close` and `join` no worker is left, not even for a moment."""
    before = set(threading.enumerate())
    for _ in range(5):
        pool = build_pool(engine)
        pool.map(workloads.square, range(4))
        workers = list(pool._pool)
        pool.close()
        pool.join()

        assert not set(threading.enumerate()) - before
        assert not any(worker.is_alive() for worker in workers)


@pytest.mark.quick
def test_close_and_join_finish_the_work(make_pool):
    """After `close` and `join`, all results are there."""
    pool = make_pool()
    results = [pool.apply_async(workloads.square, (n,)) for n in range(200)]
    many = pool.map_async(workloads.square, range(200), chunksize=1)
    pool.close()
    pool.join()

    assert [result.get(0) for result in results] == many.get(0)


def test_stream_can_be_read_after_close(make_pool):
    """`close` cuts no stream short, though its input is pulled as it is read."""
    pool = make_pool()
    stream = pool.imap(workloads.square, (n for n in range(1000)))
    next(stream)
    pool.close()

    assert len(list(stream)) == 999
    pool.join()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_ending_twice_is_harmless(make_pool, end):
    """`close`, `terminate` and `join` may be called again and again."""
    pool = make_pool()
    pool.map(workloads.square, [1])
    for _ in range(2):
        getattr(pool, end)()
        pool.join()
    pool.terminate()
    pool.join()


def test_join_of_an_open_pool_is_refused(pool):
    """`join` before `close` would wait for ever, and raises instead."""
    with pytest.raises(ValueError, match=r"(?i)pool|running|close"):
        pool.join()
    assert pool.map(workloads.square, [2]) == [4]


@pytest.mark.quick
def test_terminate_gives_up_what_is_pending(make_pool, tmp_path):
    """`get` after `terminate` raises for what was not done, and never waits."""
    pool = make_pool()
    gate = tmp_path / "gate"
    done = pool.map_async(workloads.square, range(3))
    done.wait(DEADLINE)
    marks = [tmp_path / "one", tmp_path / "two"]
    running = [
        pool.apply_async(workloads.touch_then_wait, (str(mark), str(gate))) for mark in marks
    ]
    waiting = pool.map_async(workloads.wait_for, [str(gate)] * 10)
    stream = pool.imap(workloads.wait_for, [str(gate)] * 10)
    assert eventually(lambda: all(mark.exists() for mark in marks))
    pool.terminate()
    gate.touch()
    pool.join()

    assert done.get() == [0, 1, 4]
    for result in (*running, waiting):
        with pytest.raises(motorpool.MotorpoolError):
            result.get()
        assert result.ready()
        assert not result.successful()
    with pytest.raises(motorpool.MotorpoolError):
        next(stream)


def test_terminate_wakes_those_who_wait(make_pool, tmp_path):
    """A thread that waits in `get` or `next` is woken by `terminate`."""
    pool = make_pool()
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    result = pool.apply_async(workloads.touch_then_wait, (str(mark), str(gate)))
    stream = pool.imap(workloads.wait_for, [str(gate)])
    assert eventually(mark.exists)
    told = queue.Queue()

    def wait_for(ask):
        try:
            told.put(ask())
        except Exception as error:
            told.put(error)

    waiting = [
        threading.Thread(target=wait_for, args=(ask,))
        for ask in (result.get, stream.next, result.wait)
    ]
    for thread in waiting:
        thread.start()
    pool.terminate()
    gate.touch()
    found = [told.get(timeout=DEADLINE) for _ in waiting]
    for thread in waiting:
        thread.join(DEADLINE)
    pool.join()

    # `wait` returns None however the result came about.
    assert found.count(None) == 1
    assert sum(isinstance(error, motorpool.MotorpoolError) for error in found) == 2


def test_terminate_at_any_moment_comes_back(leak_guard, start_method):
    """Terminating in the midst of much traffic never hangs."""
    for number in range(8):
        pool = build_pool(start_method)
        result = pool.map_async(workloads.square, range(200), chunksize=1)
        stream = pool.imap(workloads.same, range(200))
        for _ in range(number * 5):
            next(stream)
        pool.terminate()
        pool.join()
        value = outcome(result)

        assert value == [n * n for n in range(200)] or isinstance(value, motorpool.MotorpoolError)


def test_terminate_from_a_callback_comes_back(make_pool):
    """A callback may end the pool that called it."""
    pool = make_pool()
    ended = threading.Event()

    def end(_result):
        pool.terminate()
        ended.set()

    pool.apply_async(workloads.square, (1,), callback=end)

    assert ended.wait(DEADLINE)
    pool.join()


# Garbage


@pytest.mark.quick
def test_dropped_pool_warns_and_ends(leak_guard, engine):
    """A pool that is dropped while open warns, and its workers end."""
    pool = build_pool(engine)
    pool.map(workloads.square, range(10))
    witness = weakref.ref(pool)
    with pytest.warns(ResourceWarning, match=r"(?i)pool"):  # noqa: PT031 - `del` may be enough
        del pool
        gc.collect()

    assert witness() is None


@pytest.mark.parametrize("method", ["map_async", "imap"])
def test_dropped_pool_with_pending_work_ends(leak_guard, engine, tmp_path, method):
    """A dropped pool does the work it was given, as the stdlib's does, and then ends."""
    gate = tmp_path / "gate"
    pool = build_pool(engine)
    getattr(pool, method)(workloads.wait_for, [str(gate)] * 4, chunksize=1)
    witness = weakref.ref(pool)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
        gc.collect()
        assert witness() is not None
        gate.touch()
        eventually(lambda: any("pool" in str(w.message) for w in caught))

    assert [w.category for w in caught if "pool" in str(w.message)] == [ResourceWarning]


def test_closed_pool_is_dropped_in_silence(leak_guard, engine, recwarn):
    """A pool that was ended properly gives no warning."""
    pool = build_pool(engine)
    pool.map(workloads.square, range(10))
    pool.close()
    pool.join()
    del pool
    gc.collect()

    assert [w for w in recwarn if w.category is ResourceWarning] == []


def test_hundred_pools_in_a_row_leave_no_growth(leak_guard, engine):
    """Opening and closing many pools costs no process, thread or descriptor."""

    def use_one():
        with build_pool(engine, 1) as pool:
            assert pool.map(workloads.square, range(4)) == [0, 1, 4, 9]

    use_one()
    before = Footprint.take()
    for _ in range(100):
        use_one()
    gc.collect()
    eventually(lambda: not Footprint.take().growth_since(before), SETTLING)

    assert Footprint.take().growth_since(before) == []


# Many threads


@pytest.mark.quick
def test_sixteen_threads_submit_at_once(pool):
    """Threads that use one pool at a time get their own results, all of them."""
    start = threading.Barrier(16)
    found = queue.Queue()

    def use(number):
        try:
            start.wait(DEADLINE)
            for step in range(5):
                items = range(number * 1000 + step, number * 1000 + step + 50)
                expected = [n * n for n in items]
                assert pool.map(workloads.square, items) == expected
                assert pool.apply(workloads.square, (number,)) == number**2
                assert list(pool.imap(workloads.square, items)) == expected
                later = pool.map_async(workloads.square, items, 1)
                assert later.get(timeout=DEADLINE) == expected
            found.put(number)
        except BaseException as error:
            found.put(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * DEADLINE)

    assert {found.get(timeout=DEADLINE) for _ in threads} == set(range(16))


def test_many_threads_wait_for_one_result(pool, tmp_path):
    """Every thread that waits for a result gets it."""
    gate = tmp_path / "gate"
    result = pool.apply_async(workloads.wait_for, (str(gate), 5))
    found = queue.Queue()
    threads = [
        threading.Thread(target=lambda: found.put(result.get(timeout=DEADLINE))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    gate.touch()

    assert [found.get(timeout=DEADLINE) for _ in threads] == [5] * 8
    for thread in threads:
        thread.join(DEADLINE)


# Programs of their own


PENDING = {
    "map_async": "pool.map_async(time.sleep, [60] * 4)",
    "apply_async with a callback": "pool.apply_async(time.sleep, (60,), callback=print)",
    "stream": "stream = pool.imap(time.sleep, [0] + [60] * 4); next(stream)",
    "result kept": "result = pool.map_async(time.sleep, [60] * 4)",
    "cycle": "pool.me = pool; pool.map_async(time.sleep, [60] * 4)",
    "waiting thread": (
        "result = pool.map_async(time.sleep, [60] * 4)\n"
        "threading.Thread(target=lambda: result.wait(), daemon=True).start()"
    ),
    "nothing": "pass",
    "used": "pool.map(abs, [-1])",
    "closed": "pool.map_async(time.sleep, [60] * 4); pool.close()",
}


@pytest.mark.quick
@pytest.mark.parametrize("pending", PENDING)
def test_program_ends_with_work_pending(start_script, engine, pending):
    """A program that reaches its end with an open pool ends, promptly and silently."""
    script = start_script(
        f"pool = open_pool()\npool.apply(abs, (1,))\n{PENDING[pending]}\n"
        "open(file('end'), 'w').close()\n",
        engine,
    )
    assert script.reached("end"), script.finish()
    finished = script.finish()

    assert finished.seconds < PROMPT
    assert finished.stderr == ""
    assert finished.returncode == 0
    assert eventually(lambda: not script.processes(), SETTLING)


@pytest.mark.parametrize(
    ("leaving", "returncode", "stderr"),
    [
        ("sys.exit(5)", 5, ""),
        ("raise LookupError('mine')", 1, "LookupError: mine"),
        ("os.kill(os.getpid(), 15); time.sleep(9)", -15, ""),
        ("os.kill(os.getpid(), 1); time.sleep(9)", -1, ""),
    ],
    ids=["sys.exit", "exception", "SIGTERM", "SIGHUP"],
)
def test_program_leaves_with_by_force(start_script, engine, leaving, returncode, stderr):
    """A program that is left in the midst of `with` ends, and its workers too."""
    script = start_script(
        f"""
with open_pool() as pool:
    pool.map_async(time.sleep, [60] * 4, chunksize=1)
    pool.imap(time.sleep, [60] * 4)
    open(file('end'), 'w').close()
    {leaving}
""",
        engine,
    )
    assert script.reached("end"), script.finish()
    finished = script.finish()

    assert finished.seconds < PROMPT
    assert finished.returncode == returncode
    assert finished.stderr.count("Traceback") == (1 if stderr else 0)
    assert stderr in finished.stderr
    assert eventually(lambda: not script.processes(), SETTLING)


INTERRUPTIBLE = {
    "map": "pool.map(workloads.mark_and_sleep, marks, 1)",
    "get": "pool.map_async(workloads.mark_and_sleep, marks, 1).get()",
    "get with a timeout": "pool.map_async(workloads.mark_and_sleep, marks, 1).get(50)",
    "wait": "pool.map_async(workloads.mark_and_sleep, marks, 1).wait()",
    "imap": "list(pool.imap(workloads.mark_and_sleep, marks))",
    "apply": (
        "pool.apply_async(workloads.mark_and_sleep, marks[:1])\n"
        "    pool.apply(workloads.mark_and_sleep, marks[1:])"
    ),
    "leaving with": "pool.map_async(workloads.mark_and_sleep, marks, 1)",
}


@pytest.mark.quick
@pytest.mark.parametrize("waiting", INTERRUPTIBLE)
def test_interrupt_ends_the_program_at_once(start_script, engine, waiting):
    """Ctrl-C ends the program and its workers, with one traceback: the caller's."""
    script = start_script(
        f"""
marks = [file('one'), file('two')]
with open_pool() as pool:
    {INTERRUPTIBLE[waiting]}
""",
        engine,
    )
    assert script.reached("one", "two"), script.finish()
    os.killpg(script.process.pid, signal.SIGINT)
    finished = script.finish()

    assert finished.seconds < INTERRUPTED
    assert finished.returncode == -signal.SIGINT
    assert finished.stderr.count("Traceback") == 1
    assert finished.stderr.rstrip().endswith("KeyboardInterrupt")
    assert eventually(lambda: not script.processes(), SETTLING)


def test_interrupt_without_with_ends_the_program_too(start_script, engine):
    """Ctrl-C ends a program that never closes its pool."""
    script = start_script(
        """
pool = open_pool()
pool.map(workloads.mark_and_sleep, [file('one'), file('two')], 1)
""",
        engine,
    )
    assert script.reached("one", "two"), script.finish()
    os.killpg(script.process.pid, signal.SIGINT)
    finished = script.finish()

    assert finished.seconds < INTERRUPTED
    assert finished.returncode == -signal.SIGINT
    assert finished.stderr.count("Traceback") == 1
    assert eventually(lambda: not script.processes(), SETTLING)


STUBBORN_WORKERS = """
with open_pool() as pool:
    for number in (1, 2):
        task = file(str(number)), "ignores SIGTERM"
        pool.apply_async(workloads.write_pid_and_be_stubborn, task)
    pool.apply(abs, (1,))
"""


def test_impatient_interrupts_end_the_program_too(start_script, start_method):
    """Ctrl-C again and again, while stubborn workers are ended, leaves nothing behind."""
    script = start_script(STUBBORN_WORKERS, start_method)
    assert script.reached("1", "2"), script.finish()

    def has_ended():
        os.killpg(script.process.pid, signal.SIGINT)
        return script.process.poll() is not None

    assert eventually(has_ended, INTERRUPTED)
    assert script.finish().returncode == -signal.SIGINT
    assert eventually(lambda: not script.processes(), SETTLING)


def test_impatient_interrupts_leave_one_traceback(start_script, start_method):
    """Ctrl-C while workers are being ended because of Ctrl-C kills them, and says no more."""
    script = start_script(STUBBORN_WORKERS, start_method)
    assert script.reached("1", "2"), script.finish()
    for _ in range(3):
        os.killpg(script.process.pid, signal.SIGINT)
        time.sleep(0.1)
    finished = script.finish()

    assert finished.returncode == -signal.SIGINT
    assert finished.stderr.count("Traceback") == 1
    assert eventually(lambda: not script.processes(), SETTLING)


INTERRUPTED_OFTEN = """
# Python itself does not bear an interrupt in the midst of an import: what the pool
# imports in such times is to be there.
import concurrent.futures, faulthandler, logging, random, signal
motorpool.PoolTerminatedError

faulthandler.dump_traceback_later(30, exit=True)
main, is_over, is_armed = threading.main_thread().ident, threading.Event(), False

def raise_once(*_):
    global is_armed
    if is_armed:
        is_armed = False
        raise KeyboardInterrupt

def interrupt():
    moments = random.Random(1)
    while not is_over.is_set():
        time.sleep(0.0002 + 0.004 * moments.random())
        signal.pthread_kill(main, signal.SIGINT)

signal.signal(signal.SIGINT, raise_once)
with open_pool() as pool:
    assert pool.map(abs, range(50)) == list(range(50))
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    promised, caught, end = [], 0, time.monotonic() + 3
    while not is_over.is_set():
        try:
            while time.monotonic() < end:
                is_armed = True
                promised.append(pool.map_async(abs, range(-50, 0)))
                promised.append(pool.apply_async(abs, (-1,), callback=str))
                assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
                assert pool.apply(abs, (-1,)) == 1
                assert list(pool.imap(abs, iter(range(9)))) == list(range(9))
                assert [pool.apply_async(abs, (-n,)).get() for n in range(9)] == list(range(9))
            is_armed = False
            is_over.set()
        except (KeyboardInterrupt, motorpool.InternalError):
            caught += 1
    interrupter.join()
    assert caught > 20
    for result in promised:
        try:
            result.get(10)
        except motorpool.InternalError:
            pass
    assert pool.map_async(abs, range(9)).get(10) == list(range(9))
    called = threading.Event()
    pool.apply_async(abs, (1,), callback=lambda _: called.set())
    assert called.wait(10)  # though nobody waits for a result
    limit = time.monotonic() + 10
    while len(pool._pool) != 2 and time.monotonic() < limit:
        pool.apply_async(abs, (1,)).get(10)
    assert len(pool._pool) == 2, pool._pool
assert not multiprocessing.active_children()
"""


def test_interrupts_that_come_at_any_moment_leave_no_lock_taken(start_script, engine):
    """A program that catches Ctrl-C hundreds of times, amid everything, has its pool still."""
    finished = start_script(INTERRUPTED_OFTEN, engine).finish(2 * DEADLINE)

    assert finished.returncode == 0, finished.stderr


def test_pool_outlives_an_interrupt_that_was_caught(start_script, start_method):
    """A program that catches KeyboardInterrupt goes on with the same pool."""
    script = start_script(
        """
with open_pool() as pool:
    try:
        pool.apply_async(workloads.write_pid_then_wait, (file('busy'), file('gate')))
        pool.map(workloads.wait_for, [file('gate'), file('gate')], 1)
    except KeyboardInterrupt:
        open(file('caught'), 'w').close()
    open(file('gate'), 'w').close()
    print(pool.map(abs, [-1, -2]))
""",
        start_method,
    )
    assert script.reached("busy"), script.finish()
    os.killpg(script.process.pid, signal.SIGINT)
    assert script.reached("caught"), script.finish()
    finished = script.finish()

    assert finished.stdout.strip() == "[1, 2]"
    assert finished.stderr == ""


@pytest.mark.quick
@pytest.mark.parametrize("task", ["mark_and_sleep", "mark_and_spin", "mark_and_hold_the_lock"])
def test_workers_do_not_outlive_a_killed_parent(start_script, start_method, task):
    """When the program is killed, its workers end, whatever they are doing."""
    script = start_script(
        f"""
pool = open_pool()
pool.map(workloads.{task}, [file('one'), file('two')], 1)
""",
        start_method,
    )
    assert script.reached("one", "two"), script.finish()
    assert len(script.processes()) >= 3
    os.kill(script.process.pid, signal.SIGKILL)

    assert eventually(lambda: not script.processes(), 5.0)


def test_idle_workers_do_not_outlive_a_killed_parent(start_script, start_method):
    """Workers with nothing to do end with their parent, too."""
    script = start_script(
        """
pool = open_pool()
pool.map(abs, range(10), 1)
open(file('idle'), 'w').close()
time.sleep(60)
""",
        start_method,
    )
    assert script.reached("idle"), script.finish()
    os.kill(script.process.pid, signal.SIGKILL)

    assert eventually(lambda: not script.processes(), 5.0)


def test_pool_that_is_collected_as_the_program_ends_is_left_alone(make_pool):
    """Threads run no more then, and may hold locks: a second Ctrl-C at exit leads there."""
    pool = make_pool()
    pool.__del__(_is_ending=lambda: True)

    assert pool.map(abs, [-1, 2]) == [1, 2]


def test_exit_in_a_callback_does_not_hang_the_program(start_script, engine):
    """`sys.exit` in a callback leaves the pool usable and the program whole."""
    script = start_script(
        """
with open_pool() as pool:
    result = pool.apply_async(abs, (-1,), callback=lambda _: sys.exit(3))
    print(result.get(), pool.map(abs, [-2]))
""",
        engine,
    )
    finished = script.finish()

    assert finished.returncode == 0
    assert finished.stdout.strip() == "1 [2]"


@pytest.mark.quick
def test_program_gives_no_warning_at_all(start_script, engine):
    """With warnings as errors, a program that ends its pools properly is silent."""
    script = start_script(
        """
import gc
for _ in range(3):
    with open_pool() as pool:
        pool.map(abs, range(-50, 0))
        list(pool.imap(abs, range(-50, 0)))
        pool.map_async(abs, range(-50, 0))
pool = open_pool()
pool.apply(abs, (-1,))
pool.close(); pool.join()
pool = open_pool()
pool.apply_async(time.sleep, (60,))
pool.terminate(); pool.join()
del pool
gc.collect()
""",
        engine,
        options=(
            "-W",
            "error",
            # At any fork of a process with threads, from Python 3.12 on.
            "-W",
            "ignore:This process:DeprecationWarning",
        ),
    )
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.returncode == 0


@pytest.mark.alone
def test_nothing_is_left_in_shared_memory_or_temporary_files(start_script, engine):
    """Neither /dev/shm nor the temporary folder keeps anything of a program's."""
    before = shared_memory()
    script = start_script(
        """
big = b'x' * 5_000_000
with open_pool() as pool:
    assert pool.map(len, [big] * 4) == [5_000_000] * 4
    assert pool.apply(workloads.same, (big,)) == big
pool = open_pool()
pool.map_async(workloads.same, [big] * 50, 1)
if ENGINE != 'threads':
    pool.apply_async(os.abort)
""",
        engine,
    )
    finished = script.finish()

    assert finished.stderr.count("Traceback") == 0, finished.stderr
    assert eventually(lambda: not script.processes(), SETTLING)
    assert list((script.folder / "tmp").iterdir()) == []
    assert eventually(lambda: not shared_memory() - before)


@pytest.mark.alone
def test_nothing_is_left_by_a_killed_program(start_script, start_method):
    """A program that is killed amid large transfers leaves no shared memory."""
    before = shared_memory()
    script = start_script(
        """
big = b'x' * 5_000_000
pool = open_pool()
stream = pool.imap(workloads.same, [big] * 10)
next(stream)
pool.map_async(workloads.same, [big] * 500, 1)
open(file('busy'), 'w').close()
time.sleep(60)
""",
        start_method,
    )
    assert script.reached("busy"), script.finish()
    os.kill(script.process.pid, signal.SIGKILL)

    assert eventually(lambda: not script.processes(), 5.0)
    assert eventually(lambda: not shared_memory() - before)


def shared_memory():
    """Return the names in /dev/shm."""
    with contextlib.suppress(FileNotFoundError):
        return {path.name for path in Path("/dev/shm").iterdir()}
    return set()


# A fork of the parent


FORKED = """
import warnings
warnings.simplefilter('ignore', DeprecationWarning)
pool = open_pool()
pool.map(abs, [-1])
pending = pool.map_async(workloads.wait_for, [file('gate'), file('gate')], 1)
child = os.fork()
if child == 0:
    try:
        {use}
        print('no error', flush=True)
    except motorpool.MotorpoolError as error:
        print(error, flush=True)
    {leave}
_, status = os.waitpid(child, 0)
open(file('gate'), 'w').close()
print(os.waitstatus_to_exitcode(status), pending.get(15), pool.map(abs, [-1, -2]))
pool.close(); pool.join()
"""


@pytest.mark.quick
@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)"])
@pytest.mark.parametrize(
    "use",
    [
        "pool.map(abs, [-1])",
        "pool.apply_async(abs, (-1,))",
        "next(pool.imap(abs, [-1]))",
        "pending.get()",
    ],
)
def test_forked_child_is_told_that_the_pool_is_not_its_own(start_script, engine, use, leave):
    """In a forked child the pool refuses with a clear error; the parent's works on."""
    script = start_script(FORKED.format(use=use, leave=leave), engine)
    finished = script.finish()
    told, after = finished.stdout.strip().splitlines()

    assert "fork" in told
    assert after == "0 [None, None] [1, 2]"
    assert finished.stderr == ""


@pytest.mark.parametrize("use", ["pool.terminate()", "pool.close()", "del pool"])
def test_forked_child_cannot_end_the_parents_pool(start_script, engine, use):
    """What a forked child does to the pool, or its exit, does not reach the parent."""
    script = start_script(FORKED.format(use=use, leave="sys.exit(0)"), engine)
    finished = script.finish()

    assert finished.stdout.strip().splitlines()[-1] == "0 [None, None] [1, 2]"
    assert "Traceback" not in finished.stderr


def test_forked_child_may_open_a_pool_of_its_own(start_script, engine):
    """A forked child makes a new pool and uses it."""
    use = "print('forked', open_pool(1).map(abs, [-7]))"
    script = start_script(FORKED.format(use=use, leave="sys.exit(0)"), engine)
    finished = script.finish()

    assert "forked [7]" in finished.stdout
    assert finished.stdout.strip().splitlines()[-1] == "0 [None, None] [1, 2]"


@pytest.mark.quick
def test_program_whose_directory_is_gone_may_open_a_pool(start_script, engine):
    """Workers need no working directory to start."""
    script = start_script(
        """
import tempfile
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
with open_pool() as pool:
    print(pool.map(abs, [-1, 2]))
""",
        engine,
    )
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.stdout.strip() == "[1, 2]"


def test_fork_while_another_thread_looks_at_the_workers_comes_back(start_script, start_method):
    """What a thread of the parent held at the fork, nobody in the child waits for."""
    script = start_script(
        """
import warnings
warnings.simplefilter('ignore', DeprecationWarning)
pool = open_pool()
pool.map(abs, [-1])
over = threading.Event()

def look():
    while not over.is_set():
        [worker.exitcode for worker in pool._pool]

looking = threading.Thread(target=look)
looking.start()
for _ in range(300):
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
over.set()
looking.join()
print(pool.map(abs, [-1, -2]))
pool.close(); pool.join()
""",
        start_method,
    )
    finished = script.finish()

    assert finished.stdout == "[1, 2]\n", finished.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts in /proc")
def test_spare_descriptors_are_not_inherited_by_other_programs(leak_guard, engine):
    """A program started while a pool is open gets none of its descriptors."""
    import subprocess

    count = [sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"]
    plain = subprocess.run(count, capture_output=True, check=True, close_fds=False)
    with build_pool(engine) as pool:
        pool.map(workloads.square, [1, 2])
        beside = subprocess.run(count, capture_output=True, check=True, close_fds=False)

    assert beside.stdout == plain.stdout


def test_worker_runs_what_it_registered_for_its_exit(make_process_pool, start_method, tmp_path):
    """`atexit.register` in a task works as it does in the stdlib's workers."""
    if start_method == "fork" and sys.version_info < (3, 13):
        pytest.skip("a forked process runs these since Python 3.13")
    note = tmp_path / "note"
    pool = make_process_pool(1)
    pool.apply(atexit.register, (workloads.append_line, str(note), "left"))
    pool.close()
    pool.join()

    assert note.read_text() == "left\n"
