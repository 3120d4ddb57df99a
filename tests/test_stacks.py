"""Seeing into workers: what each is running, and where, without its help."""

import os
import signal
import time

import psutil
import pytest

import motorpool
import workloads
from conftest import DEADLINE, eventually

STUCK = ("wait_in_python", "compute_in_c", "read_for_ever", "spin_without_signals")


def running(pool, name):
    """Return the stacks once a worker shows a call of `name`."""
    found = []

    def there():
        found[:] = [stack for stack in pool.stacks() if f"in {name}" in stack.stack]
        return found

    assert eventually(there), str(pool.stacks())
    return found


@pytest.mark.quick
@pytest.mark.parametrize("name", STUCK)
def test_stack_is_had_without_the_task_s_help(process_pool, name):
    """A task in C code, in a system call or with signals blocked shows where it is."""
    process_pool.apply_async(getattr(workloads, name), (7,))
    (stack,) = running(process_pool, name)

    assert stack.function == name
    assert stack.index == 0
    assert stack.item == "((7,), {})"
    assert stack.seconds >= 0
    assert stack.pid in {worker.pid for worker in process_pool._pool}
    assert "motorpool/worker" not in stack.stack
    assert "workloads.py" in stack.stack
    text = str(stack)
    for part in (str(stack.pid), "item 0", name, "7"):
        assert part in text


BLOCKED = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
with open_pool(1) as pool:
    result = pool.apply_async(workloads.wait_for, (file("gate"),))
    for _ in range(100):
        (stack,) = pool.stacks()
        if stack.function == "wait_for":
            break
        time.sleep(0.05)
    assert "wait_for" in stack.stack, stack
    open(file("gate"), "w").close()
    result.get(10)
"""


def test_program_that_blocks_signals_sees_stacks_too(start_script, start_method):
    """A worker does not inherit that the signals are blocked that its pool sends."""
    finished = start_script(BLOCKED, start_method).finish()

    assert finished.returncode == 0, finished.stderr


def test_stack_names_the_running_item(make_pool, tmp_path):
    """The item is the one that runs, not the first of its chunk; source lines are shown."""
    pool = make_pool(1)
    gate = tmp_path / "gate"
    result = pool.map_async(workloads.Waits(str(gate), 5), range(10), chunksize=10)
    (stack,) = running(pool, "wait_for")

    assert (stack.index, stack.item) == (5, "5")
    assert "wait_for(gate)" in stack.stack
    gate.touch()
    assert result.get(timeout=DEADLINE) == list(range(10))


def test_idle_workers_are_said_to_be_idle(pool):
    """A worker without a task has no function and no time."""
    assert pool.map(workloads.square, range(4)) == [0, 1, 4, 9]
    stacks = pool.stacks()

    assert len(stacks) == 2
    assert all(stack.function is None and stack.seconds is None for stack in stacks)
    assert str(stacks).count("is not running a task") == 2


def test_stopped_worker_costs_half_a_second_and_is_named(process_pool, tmp_path):
    """A worker under SIGSTOP cannot answer: the others are shown, and it is said why."""
    gate = tmp_path / "gate"
    results = [process_pool.apply_async(workloads.wait_for, (str(gate), n)) for n in range(2)]
    assert eventually(lambda: len(running(process_pool, "wait_for")) == 2)
    victim = process_pool.stacks()[0].pid
    os.kill(victim, signal.SIGSTOP)
    assert eventually(lambda: psutil.Process(victim).status() == psutil.STATUS_STOPPED)
    try:
        begun = time.monotonic()
        stacks = process_pool.stacks()
        took = time.monotonic() - begun
    finally:
        os.kill(victim, signal.SIGCONT)
        gate.touch()

    assert ["stopped" in stack.stack for stack in stacks] == [
        stack.pid == victim for stack in stacks
    ]
    assert took < DEADLINE / 2
    assert [result.get(timeout=DEADLINE) for result in results] == [0, 1]


def test_looking_disturbs_no_task(process_pool):
    """Sleeps last as long as they should and reads come back whole while stacks are taken."""
    looks = 0
    while looks <= 3:  # A look may take longer than the tasks if the machine is busy.
        result = process_pool.map_async(workloads.sleep_and_read, range(4), chunksize=1)
        while not result.ready():
            process_pool.stacks()
            looks += 1

        assert all(result.get(timeout=DEADLINE))


def test_stack_of_python_code_is_not_read_amid_a_call(make_process_pool, tmp_path):
    """A handler in C, which may crash there, is for workers that do not run Python code."""
    pool = make_process_pool(1)
    gate = tmp_path / "gate"
    result = pool.apply_async(workloads.count_signals_until, (str(gate),))
    running(pool, "count_signals_until")
    for _ in range(300):
        pool.stacks()
    gate.touch()

    assert result.get(timeout=DEADLINE) == 0


def test_stacks_can_be_taken_for_ever(process_pool, worker_ids):
    """A thousand looks leave no descriptors behind."""
    pid = min(worker_ids(process_pool))
    process = psutil.Process(pid)
    before = process.num_fds()
    for _ in range(1000):
        stacks = process_pool.stacks()

    assert process.num_fds() == before
    assert all(not stack.stack.startswith("  (") for stack in stacks)


def test_task_that_closed_every_file_is_said_to_have_no_stack(make_process_pool, tmp_path):
    """A daemonizing task closes what is not its own; that costs the stack and nothing else."""
    pool = make_process_pool(1)
    gate = tmp_path / "gate"
    result = pool.apply_async(workloads.close_stack_file, (str(gate),))
    assert eventually(lambda: "no stack" in str(pool.stacks()))
    gate.touch()

    assert result.get(timeout=DEADLINE) is None


def test_pool_within_a_worker_shows_its_own(make_process_pool):
    """Under fork, a worker of a worker answers by a file of its own."""
    pool = make_process_pool(1)

    assert "in wait_in_python" in pool.apply(workloads.stacks_of_an_inner_pool)


def test_ended_pool_has_no_stacks(make_pool):
    """After the end there is nobody to look at."""
    pool = make_pool()
    pool.terminate()

    assert pool.stacks() == ()
    assert isinstance(pool.stacks(), tuple)
    assert motorpool.stacks.Stacks is type(pool.stacks())


def test_task_that_runs_far_longer_than_others_is_named_once(make_pool, caplog, monkeypatch):
    """The log has the item, for how long, and the stack; and no more of it later."""
    monkeypatch.setattr(motorpool.scheduler.state.Lengths, "least_seconds", 0.4)
    caplog.set_level("WARNING", "motorpool")
    pool = make_pool(2)
    assert pool.map(workloads.nap, [0.001] * 20) == [0.001] * 20
    result = pool.map_async(workloads.nap, [0.001, 2.5, 0.001], chunksize=1)

    def named():
        return [record for record in caplog.records if "far longer" in record.message]

    assert eventually(named)
    assert result.get(timeout=DEADLINE) == [0.001, 2.5, 0.001]
    (record,) = named()
    for part in ("item 1, 2.5, of nap", "in nap\n    time.sleep(seconds)"):
        assert part in record.message
