"""Worker processes that end in the middle of work: real ones, in every call."""

import contextlib
import functools
import os
import pickle
import signal
import subprocess

import pytest

import motorpool
import workloads
from conftest import DEADLINE, eventually, outcome, outcomes
from motorpool.engines import server
from motorpool.worker.run import BULK_ITEMS

DEATHS = {
    "sigkill": (-signal.SIGKILL, "SIGKILL"),
    "exit": (5, "5"),
    "segfault": (-signal.SIGSEGV, "SIGSEGV"),
    "abort": (-signal.SIGABRT, "SIGABRT"),
}
BAD = 50
SQUARES = [n * n for n in range(100)]
OTHERS = [n * n for n in range(100) if n != BAD]


@pytest.fixture
def trace(tmp_path):
    """Name the file in which a task writes its process id before it dies."""
    return tmp_path / "trace"


def deadly(trace, how="sigkill", bad=BAD):
    """Return a function that ends its process at the `bad` item."""
    return functools.partial(workloads.die_on, how, str(trace), bad)


def finished(given):
    """Return what a map gave, or what it promised."""
    return given.get(timeout=DEADLINE) if hasattr(given, "get") else given


def assert_lost(error, trace, how="sigkill", index=BAD, item=BAD):
    """Assert that the error tells what happened, where and to which item."""
    exitcode, name = DEATHS[how]
    assert type(error) is motorpool.WorkerLostError, repr(error)
    assert error.exitcode == exitcode
    assert error.pid == int(trace.read_text())
    assert error.index == index
    text = str(error)
    assert name in text
    assert repr(item) in text
    assert str(error.pid) in text


def assert_full_width(pool, worker_ids, width=2):
    """Assert that all workers are at work, and that results are right."""
    assert len(worker_ids(pool, width)) == width
    squares = pool.map_async(workloads.square, range(100))
    assert squares.get(timeout=DEADLINE) == SQUARES
    assert pool._processes == width
    assert eventually(lambda: len(pool._pool) == width)


# Every way to die, in calls that tell item from item


@pytest.mark.quick
@pytest.mark.parametrize("how", DEATHS)
def test_item_that_ends_its_worker_fails_alone(process_pool, worker_ids, trace, how):
    """One lost item is one error; every other result of the stream arrives."""
    found = outcomes(process_pool.imap_unordered(deadly(trace, how), range(100)))
    errors = [value for value in found if isinstance(value, Exception)]

    assert len(errors) == 1, errors
    assert_lost(errors[0], trace, how)
    assert sorted(v for v in found if not isinstance(v, Exception)) == OTHERS
    assert_full_width(process_pool, worker_ids)


@pytest.mark.parametrize("how", DEATHS)
def test_call_that_ends_its_worker_fails_alone(process_pool, worker_ids, trace, how):
    """Of a hundred calls, only the one that was running is lost."""
    function = deadly(trace, how)
    calls = [process_pool.apply_async(function, (n,)) for n in range(100)]
    found = [outcome(call) for call in calls]
    error = found.pop(BAD)

    assert found == OTHERS
    assert_lost(error, trace, how, index=error.index)
    assert_full_width(process_pool, worker_ids)


# Every call


@pytest.mark.parametrize("how", ["sigkill", "exit"])
def test_apply_of_a_deadly_task_raises(process_pool, worker_ids, trace, how):
    """`apply` raises instead of waiting for ever."""
    with pytest.raises(motorpool.WorkerLostError) as caught:
        process_pool.apply(deadly(trace, how), (BAD,))

    assert_lost(caught.value, trace, how, index=caught.value.index)
    assert_full_width(process_pool, worker_ids)


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [None, 1, 7, 100])
@pytest.mark.parametrize("method", ["map", "map_async"])
def test_map_over_a_deadly_item_raises(process_pool, worker_ids, trace, method, chunksize):
    """A map raises for the item that was running, whatever the chunks."""
    call = getattr(process_pool, method)
    with pytest.raises(motorpool.WorkerLostError) as caught:
        finished(call(deadly(trace), range(100), chunksize))

    assert_lost(caught.value, trace)
    assert_full_width(process_pool, worker_ids)


@pytest.mark.parametrize("method", ["starmap", "starmap_async"])
def test_starmap_over_a_deadly_item_raises(process_pool, worker_ids, trace, method):
    """A starmap raises for the item that was running."""
    function = functools.partial(workloads.die_on_pair, "sigkill", str(trace), BAD)
    pairs = [(n, 1) for n in range(100)]
    call = getattr(process_pool, method)
    with pytest.raises(motorpool.WorkerLostError) as caught:
        finished(call(function, pairs))

    assert_lost(caught.value, trace, item=(BAD, 1))
    assert_full_width(process_pool, worker_ids)


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [1, 7])
def test_imap_over_a_deadly_item_raises_in_its_place(process_pool, worker_ids, trace, chunksize):
    """`imap` gives the results before the lost item, the error, and those after."""
    found = outcomes(process_pool.imap(deadly(trace), range(100), chunksize))
    error = found.pop(BAD)

    assert found == OTHERS
    assert_lost(error, trace)
    assert_full_width(process_pool, worker_ids)


@pytest.mark.parametrize("chunksize", [7, 100])
def test_imap_unordered_in_chunks_loses_one_item(process_pool, trace, chunksize):
    """The other items of the lost item's chunk are done all the same."""
    found = outcomes(process_pool.imap_unordered(deadly(trace), range(100), chunksize))
    errors = [value for value in found if isinstance(value, Exception)]

    assert len(errors) == 1
    assert_lost(errors[0], trace)
    assert sorted(v for v in found if not isinstance(v, Exception)) == OTHERS


def test_items_are_not_run_twice(process_pool, tmp_path):
    """No item that was done before a death is done again after it."""
    log = tmp_path / "log"
    log.touch()
    noting = functools.partial(workloads.note_run_and_die_on, str(log), 20)
    found = outcomes(process_pool.imap_unordered(noting, range(40), 10))
    runs = [int(line) for line in log.read_text().split()]

    assert sum(isinstance(value, Exception) for value in found) == 1
    assert sorted(runs) == list(range(40))


def test_error_callback_is_told_of_the_loss(process_pool, trace):
    """The error callback of a lost call gets the error."""
    told = []
    result = process_pool.apply_async(
        deadly(trace), (BAD,), callback=told.append, error_callback=told.append
    )
    error = outcome(result)

    assert eventually(lambda: told) == [error]


def test_lost_error_survives_pickling(process_pool, trace):
    """The error can be sent on, with all its facts."""
    error = outcome(process_pool.apply_async(deadly(trace), (BAD,)))
    twin = pickle.loads(pickle.dumps(error))

    assert type(twin) is motorpool.WorkerLostError
    assert str(twin) == str(error)
    assert (twin.exitcode, twin.pid, twin.index) == (
        error.exitcode,
        error.pid,
        error.index,
    )


# Killed from outside


@pytest.mark.quick
def test_idle_worker_that_is_killed_is_replaced(process_pool, worker_ids):
    """A worker killed while it has nothing to do costs no result."""
    for _ in range(3):
        os.kill(min(worker_ids(process_pool)), signal.SIGKILL)

        squares = process_pool.map_async(workloads.square, range(100))
        assert squares.get(timeout=DEADLINE) == SQUARES
    assert_full_width(process_pool, worker_ids)


def test_only_worker_killed_while_idle_is_replaced(make_process_pool, worker_ids):
    """A pool of one works on after its idle worker was killed."""
    pool = make_process_pool(1)
    for _ in range(3):
        os.kill(*worker_ids(pool, 1), signal.SIGKILL)
        assert outcome(pool.apply_async(workloads.square, (3,))) == 9


def test_all_idle_workers_killed_at_once_are_replaced(process_pool, worker_ids):
    """All workers may be killed; the next call finds new ones."""
    for pid in worker_ids(process_pool):
        os.kill(pid, signal.SIGKILL)

    squares = process_pool.map_async(workloads.square, range(100), chunksize=1)
    assert squares.get(timeout=DEADLINE) == SQUARES
    assert_full_width(process_pool, worker_ids)


@pytest.mark.quick
def test_all_busy_workers_killed_at_once_lose_what_they_ran(process_pool, worker_ids, tmp_path):
    """Two running calls are lost with their workers; those that wait are done."""
    pids = worker_ids(process_pool)
    gate = str(tmp_path / "gate")
    marks = [tmp_path / "first", tmp_path / "second"]
    running = [
        process_pool.apply_async(workloads.touch_then_wait, (str(mark), gate)) for mark in marks
    ]
    assert eventually(lambda: all(mark.exists() for mark in marks))
    waiting = [process_pool.apply_async(workloads.square, (n,)) for n in range(20)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)

    lost = [outcome(call) for call in running]
    assert [type(error) for error in lost] == [motorpool.WorkerLostError] * 2
    assert {error.pid for error in lost} == pids
    assert [outcome(call) for call in waiting] == SQUARES[:20]
    assert_full_width(process_pool, worker_ids)


def test_killed_worker_is_noticed_while_nobody_waits(process_pool, tmp_path):
    """A lost call is reported to its callback though nobody asks for the result."""
    told = []
    mark, gate = tmp_path / "mark", tmp_path / "gate"
    process_pool.apply_async(
        workloads.write_pid_then_wait, (str(mark), str(gate)), error_callback=told.append
    )
    assert eventually(lambda: mark.exists() and mark.read_text())
    os.kill(int(mark.read_text()), signal.SIGKILL)

    assert eventually(lambda: told)
    assert type(told[0]) is motorpool.WorkerLostError


@pytest.mark.quick
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_workers_that_are_killed_while_they_start_are_replaced(process_pool, worker_ids, kind):
    """Whoever kills workers before they are ready does not break the pool."""
    killed = set()

    def kill_all():
        for worker in process_pool._pool:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, kind)
                killed.add(worker.pid)
        return len(killed) >= 12

    found = process_pool.map_async(workloads.square, range(100), on_error="skip")
    assert eventually(kill_all)
    assert set(found.get(timeout=DEADLINE)) <= set(SQUARES)
    assert_full_width(process_pool, worker_ids)


def test_initializer_that_kills_its_worker_is_told_at_once(make_process_pool):
    """A signal that a worker sends to itself is its own doing: no use in trying for long."""
    pool = make_process_pool(2, initializer=workloads.kill_itself)
    error = outcome(pool.map_async(workloads.square, range(3)))

    assert type(error) is motorpool.WorkerStartError
    assert "The initializer" in str(error)


def test_worker_asked_to_end_is_replaced(process_pool, worker_ids):
    """SIGTERM from outside is one more way for a worker to be lost."""
    os.kill(min(worker_ids(process_pool)), signal.SIGTERM)

    squares = process_pool.map_async(workloads.square, range(100))
    assert squares.get(timeout=DEADLINE) == SQUARES
    assert_full_width(process_pool, worker_ids)


# At bad moments


@pytest.mark.parametrize("delay", [0.0, 0.002, 0.01, 0.03, 0.06])
def test_half_sent_result_is_a_lost_item(process_pool, worker_ids, delay):
    """A worker killed around the sending of a large result harms nobody else."""
    size = 32 * 2**20
    calls = [
        process_pool.apply_async(workloads.big_result_and_death, (size, delay)),
        process_pool.apply_async(workloads.square, (3,)),
    ]
    big, small = map(outcome, calls)

    assert small == 9 or type(small) is motorpool.WorkerLostError
    assert type(big) in (bytes, motorpool.WorkerLostError), repr(big)[:200]
    if type(big) is bytes:
        assert big == b"x" * size
    assert eventually(lambda: outcome(process_pool.apply_async(workloads.square, (2,))) == 4)
    eventually(lambda: len(process_pool._pool) == 2)
    with contextlib.suppress(motorpool.WorkerLostError):
        worker_ids(process_pool)  # the delayed death may strike this call instead
    assert_full_width(process_pool, worker_ids)


def test_worker_killed_while_a_large_argument_is_sent(process_pool, worker_ids):
    """A worker killed under a large argument is replaced; nobody waits for ever."""
    data = b"x" * (16 * 2**20)
    pids = worker_ids(process_pool)
    calls = [process_pool.apply_async(len, (data,)) for _ in range(6)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    found = [outcome(call) for call in calls]

    lost = [value for value in found if value != len(data)]
    assert len(lost) <= 2, "only what ran can be lost"
    assert {type(error) for error in lost} <= {motorpool.WorkerLostError}
    assert_full_width(process_pool, worker_ids)


@pytest.mark.quick
def test_items_that_always_kill_fail_alone(process_pool, worker_ids):
    """Many poison items in a row do not use up the pool."""
    function = functools.partial(workloads.die_on_multiples, 5)
    calls = [process_pool.apply_async(function, (n,)) for n in range(40)]
    found = [outcome(call) for call in calls]

    for number, value in enumerate(found):
        if number % 5 == 0:
            assert type(value) is motorpool.WorkerLostError, repr(value)
        else:
            assert value == number * number
    assert_full_width(process_pool, worker_ids)


def test_nothing_but_poison_ends_with_an_error_for_each(process_pool, worker_ids):
    """A stream of poison alone gives as many errors as it has items."""
    function = functools.partial(workloads.die_on_multiples, 1)
    found = outcomes(process_pool.imap_unordered(function, range(12)))

    assert [type(error) for error in found] == [motorpool.WorkerLostError] * 12
    assert sorted(error.index for error in found) == list(range(12))
    assert_full_width(process_pool, worker_ids)


def test_deaths_among_recycled_workers_lose_one_item_each(make_process_pool):
    """Recycling and dying at the same time loses only what died."""
    pool = make_process_pool(2, maxtasksperchild=3)
    function = functools.partial(workloads.die_on_multiples, 10)
    found = outcomes(pool.imap(function, range(50)))

    for number, value in enumerate(found):
        if number % 10 == 0:
            assert type(value) is motorpool.WorkerLostError, repr(value)
        else:
            assert value == number * number
    assert len(found) == 50


SERVER = """
import psutil, signal

def trouble_the_server():
    server = psutil.Process(pool._pool[0].pid).ppid()
    assert server != os.getpid()
    os.kill(server, signal.TROUBLE)
"""


@pytest.mark.parametrize("trouble", ["SIGSTOP", "SIGKILL"])
def test_fork_server_in_trouble_goes_on_or_is_replaced(start_script, trouble):
    """A server that is stopped or killed holds up neither new workers nor the end."""
    script = start_script(
        SERVER.replace("TROUBLE", trouble)
        + """
with open_pool() as pool:
    for _ in range(2):
        pool.map(abs, range(9))
        trouble_the_server()
        for worker in list(pool._pool):
            worker.kill()
        assert pool.map_async(abs, range(100)).get(10) == list(range(100))
    trouble_the_server()
""",
        "forkserver",
    )
    finished = script.finish()

    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    assert eventually(lambda: not script.processes(), 5.0)


def test_fork_server_that_never_answers_is_given_up(leak_guard, monkeypatch):
    """Whoever asks for a worker gets an error in time, and the server is ended."""
    monkeypatch.setattr(server, "CONTINUE_SECONDS", 0.05)
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.2)
    launched = []

    def launch(_control):
        launched.append(subprocess.Popen(["sleep", "60"]))
        return launched[-1].pid

    with pytest.raises(OSError, match="does not start workers"):
        server.ForkServer().start([], launch)

    assert [silent.wait(DEADLINE) for silent in launched] == [0, 0], "reaped by the server's half"


def test_loss_that_a_task_passes_on_is_told_without_its_traceback(process_pool, trace):
    """The error of a pool within a task says what it said there; the traceback is its cause."""
    with pytest.raises(motorpool.WorkerLostError) as caught:
        process_pool.apply(workloads.map_within, (deadly(trace, bad=1), range(3)))

    assert "on item 1 (1)" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "map_within" in str(caught.value.__cause__)


COLLECTED = """
import signal

def collect(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

def fail(how):
    time.sleep(60) if how == "late" else workloads.kill_itself()

for handler in signal.SIG_IGN, collect:
    signal.signal(signal.SIGCHLD, handler)
    with open_pool(1) as pool:
        (lost,) = pool.map(fail, ["lost"], on_error="return")
        (late,) = pool.map(fail, ["late"], on_error="return", timeout=0.2)
        assert type(lost) is motorpool.WorkerLostError and type(late) is motorpool.TaskTimeoutError
        if ENGINE != "forkserver":  # That collects them itself.
            assert lost.exitcode is None and "SIGCHLD" in str(lost), lost
        assert "thread" not in str(late), late
        assert pool.map(abs, range(3)) == [0, 1, 2]
"""


def test_program_that_collects_exit_codes_is_told_that_they_are_unknown(start_script, start_method):
    """No exit code is made up where the program has taken it, or has the kernel drop it."""
    finished = start_script(COLLECTED, start_method).finish()

    assert finished.returncode == 0, finished.stderr


def test_pool_can_be_closed_right_after_a_death(make_process_pool, trace):
    """`close` and `join` come back though a worker has just died."""
    pool = make_process_pool()
    result = pool.map_async(deadly(trace, bad=0), range(10), chunksize=1)
    pool.close()
    pool.join()

    assert type(outcome(result)) is motorpool.WorkerLostError


# Among items so short that they run in bulk


MANY = 20_000
LATE = 15_003  # by then every worker runs in bulk


@pytest.mark.parametrize("how", ["sigkill", "exit"])
@pytest.mark.parametrize("chunksize", [1, 500])
def test_short_item_that_ends_its_worker_fails_alone(make_process_pool, trace, how, chunksize):
    """However short the items are, those that are finished are not lost with their worker."""
    pool = make_process_pool()
    found = outcomes(pool.imap(deadly(trace, how, LATE), range(MANY), chunksize))
    error = found.pop(LATE)

    assert_lost(error, trace, how, LATE, LATE)
    assert found == [n * n for n in range(MANY) if n != LATE]


@pytest.mark.parametrize("how", ["segfault", "abort"])
def test_crash_among_short_items_costs_one_bulk_run(make_process_pool, trace, how):
    """A crash in C code takes no more along than the bulk run that it happens in."""
    pool = make_process_pool()
    found = outcomes(pool.imap(deadly(trace, how, LATE), range(MANY), 500))
    lost = [n for n, value in enumerate(found) if value != n * n]

    assert LATE in lost
    assert len(found) == MANY
    assert all(type(found[n]) is motorpool.WorkerLostError for n in lost)
    assert lost == list(range(lost[0], lost[-1] + 1))
    assert len(lost) <= BULK_ITEMS
    if len(lost) > 1:
        assert all(found[n].bulk == range(lost[0], lost[-1] + 1) for n in lost)
        assert f"items {lost[0]} to {lost[-1]}" in str(found[LATE])
        assert "chunksize=1" in str(found[LATE])


@pytest.mark.parametrize("how", ["segfault", "abort"])
def test_crash_costs_one_item_if_chunks_are_single_items(make_process_pool, trace, how):
    """Who asks for chunks of one item loses one item, though they travel together."""
    pool = make_process_pool()
    found = outcomes(pool.imap(deadly(trace, how, LATE), range(MANY), 1))
    error = found.pop(LATE)

    assert type(error) is motorpool.WorkerLostError
    assert found == [n * n for n in range(MANY) if n != LATE]


def test_short_items_are_not_run_twice_after_a_harmless_signal(make_process_pool, tmp_path):
    """A task that sends a signal and lives has not ended the bulk run that it is in."""
    pool = make_process_pool(1)
    log = tmp_path / "log"
    log.touch()
    function = functools.partial(workloads.signal_itself_and_die_on, str(log), LATE)
    found = outcomes(pool.imap(function, range(MANY), MANY))
    runs = [int(line) for line in log.read_text().split()]

    assert type(found[LATE]) is motorpool.WorkerLostError
    assert sorted(runs) == sorted(set(runs))


# Tasks that interfere with their worker


def test_child_that_comes_back_from_a_task_ends(process_pool, worker_ids, tmp_path):
    """A task that forks and returns twice gives one result, and the child runs nothing else."""
    log = tmp_path / "log"
    log.touch()
    forking = functools.partial(workloads.fork_on, str(log), BAD)

    assert finished(process_pool.map_async(forking, range(100), 100)) == list(range(100))
    assert sorted(map(int, log.read_text().split())) == list(range(100))
    assert_full_width(process_pool, worker_ids)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chunksize", [1, 100])
# By SIGURG a worker is asked for what it has not begun; it cannot answer then.
@pytest.mark.parametrize("number", [0, signal.SIGURG])
def test_task_that_closes_all_descriptors_loses_nothing(
    process_pool, worker_ids, number, chunksize
):
    """A worker that cannot send any more leaves its results to the parent, and is replaced."""
    closing = functools.partial(workloads.close_descriptors_on, BAD, number)

    assert finished(process_pool.map_async(closing, range(100), chunksize)) == list(range(100))
    assert_full_width(process_pool, worker_ids)


def test_task_that_closes_all_descriptors_is_told_of_in_one_line(start_script, start_method):
    """What a worker prints that can send nothing any more is no traceback of ours."""
    script = start_script(
        """
import os

def close(item):
    if item == 3:
        os.closerange(3, 4096)
    return item

with open_pool() as pool:
    print(pool.map(close, range(10), chunksize=5))
    pool.close()
    pool.join()
""",
        start_method,
    )
    finished = script.finish()

    assert finished.stdout == f"{list(range(10))}\n"
    (said,) = finished.stderr.splitlines()
    assert "a task has closed its channel to the pool" in said


def test_worker_killed_while_it_starts_is_replaced_though_nobody_waits(process_pool):
    """Its successor starts after a pause, when all calls may be over."""
    process_pool.map(abs, range(4))
    for _ in range(2):
        # The first call finds it dead and starts another, which is killed before it is ready.
        os.kill(process_pool._pool[-1].pid, signal.SIGKILL)
        assert process_pool.map(abs, range(-9, 9)) == list(map(abs, range(-9, 9)))

    def is_whole():
        return sum(worker.is_alive() for worker in process_pool._pool) == 2

    assert eventually(is_whole)
