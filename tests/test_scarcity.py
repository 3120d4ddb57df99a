"""A system that has no room left: for descriptors, processes, threads or shared memory."""

import os
import subprocess

import psutil
import pytest

import array_tasks
import workloads
from conftest import DEADLINE, START_METHODS, build_pool, eventually

DESCRIPTORS = """
import gc, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))
pool = open_pool(12)
assert pool.map(abs, range(50)) == list(range(50))
assert 1 <= len(pool._pool) <= 12
pool.terminate()
pool.join()
del pool
gc.collect()
children = open(f"/proc/self/task/{os.getpid()}/children").read()
assert ENGINE == "forkserver" or not children, children
"""

PROCESSES = """
import errno
fork, refusals = os.fork, 5

def refusing_fork():
    global refusals
    if refusals:
        refusals -= 1
        raise BlockingIOError(errno.EAGAIN, "no room")
    return fork()

os.fork = refusing_fork
with open_pool(2) as pool:
    assert pool.map(abs, range(50)) == list(range(50))
    refusals = 5
    for worker in pool._pool:
        worker.kill()
    assert pool.map_async(abs, range(50)).get(10) == list(range(50))
assert not refusals
"""

# Root may have as many processes as it likes, unless its real user is another
# one and it has lost two capabilities, which takes a program of its own.
USER_LIMIT = """
import ctypes, logging, resource
logging.getLogger("motorpool").disabled = True  # It tells that there is no room for threads.
if "LIMITED" not in os.environ:
    PR_CAPBSET_DROP, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 24, 21, 24
    for capability in (CAP_SYS_ADMIN, CAP_SYS_RESOURCE):
        assert not ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setresuid(30_000 + os.getpid() % 30_000, 0, 0)
    os.environ["LIMITED"] = "1"
    resource.setrlimit(resource.RLIMIT_NPROC, (6, 6))
    os.execv(sys.executable, [sys.executable, *sys.argv])
with open_pool(12) as pool:
    assert pool.map_async(abs, range(50)).get(10) == list(range(50))
    assert 1 <= len(pool._pool) < 6
    for worker in pool._pool:
        worker.kill()
    assert pool.map_async(abs, range(50)).get(10) == list(range(50))
"""

THREADS = """
import logging
logging.getLogger("motorpool").disabled = True
start = threading.Thread.start

def refusing_start(thread):
    if "Worker" in thread.name:
        return start(thread)
    raise RuntimeError("can't start new thread")

told = []
threading.Thread.start = refusing_start
with open_pool(2) as pool:
    assert pool.map_async(abs, range(50), callback=told.append).get(10) == list(range(50))
    assert [pool.apply_async(abs, (n,)) for n in range(9)][-1].get(10) == 8
    try:
        pool.imap(abs, iter(range(9)))
    except RuntimeError:
        pass
    else:
        raise AssertionError("an iterator was read without a thread")
assert told == [list(range(50))]
"""

STACK_FILE = """
def refuse(name, flags=0):
    if name == "motorpool-stack":
        raise OSError("no more")
    return memfd_create(name, flags)

memfd_create, os.memfd_create = os.memfd_create, refuse
with open_pool(2) as pool:
    assert pool.map(abs, range(50)) == list(range(50))
"""


SHARED_MEMORY = """
import array_tasks, logging, resource

def refuse(name, flags=0):
    raise OSError(38, "there is no such call")

def limit_files(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

told = []
handler = logging.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logging.getLogger("motorpool").addHandler(handler)
large = array_tasks.fill(1, 1 << 17)
BEFORE
with open_pool(2) as pool:
    assert pool.map(abs, range(50)) == list(range(50))
    assert not told
    AFTER
    for _ in range(2):
        assert pool.map(len, [large] * 4) == [1 << 17] * 4
        found = pool.starmap(array_tasks.fill, [(n, 1 << 17) for n in range(4)])
        assert [array[-1] for array in found] == [0, 1, 2, 3]
        assert pool.apply(workloads.same, (b"x" * 1_000_000,)) == b"x" * 1_000_000
    assert pool.map(abs, range(20_000)) == list(range(20_000))
assert len(told) == TOLD, told
assert all("no shared memory" in text for text in told)
"""

LITTLE_MEMORY = {
    "files may be no larger than 2 MiB": ("limit_files(2 << 20)", "pass"),
    "files may be no larger than a page": ("limit_files(4096)", "pass"),
    "there are no memory files": ("os.memfd_create = refuse", "pass"),
    "none is left": ("pass", "limit_files(4096)"),
}

# Mounts of its own, as they are seen by this program and its children.
NEW_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
DEV_SHM = {
    "full": "mount -t tmpfs -o size=4k tmpfs /dev/shm && echo full > /dev/shm/file",
    "not writable": "mount -t tmpfs -o ro tmpfs /dev/shm",
    "missing": "mount -t tmpfs tmpfs /dev",
}

NO_PROC = """
def work(number):
    return workloads.kill_itself() if number == 2 else number

with open_pool(2) as pool:
    found = pool.map(work, range(4), on_error="return")
    assert found.pop(2).signal_name == "SIGKILL"
    assert found == [0, 1, 3]
"""


def mounting(command, source):
    """Return a script that runs `source` after a mount of its own, or skip the test."""
    new = [*NEW_MOUNTS, command]
    if subprocess.run(new, check=False, capture_output=True, timeout=DEADLINE).returncode:
        pytest.skip("this user may not mount anything")
    prelude = """
if "MOUNTED" not in os.environ:
    os.environ["MOUNTED"] = "1"
    script = COMMAND + ' && exec "$0" "$@"'
    os.execvp(NEW[0], [*NEW, script, sys.executable, *sys.argv])
"""
    return f"NEW, COMMAND = {NEW_MOUNTS!r}, {command!r}" + prelude + source


def assert_goes_well(start_script, source, engine):
    """Assert that a program comes to its end, without a word."""
    finished = start_script(source, engine).finish(2 * DEADLINE)

    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr


@pytest.mark.parametrize("most", [24, 40])
@pytest.mark.parametrize("engine", ["fork", "spawn", "forkserver"])
def test_few_descriptors_make_a_small_pool(start_script, engine, most):
    """There are as many workers as there is room for, and nobody is left behind."""
    assert_goes_well(start_script, DESCRIPTORS.replace("MOST", str(most)), engine)


@pytest.mark.quick
def test_fork_that_fails_is_tried_again(start_script):
    """A moment without room for another process costs nothing but time."""
    assert_goes_well(start_script, PROCESSES, "fork")


@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_pool_works_without_threads_of_its_own(start_script, engine):
    """Whoever waits does all himself, callbacks included."""
    assert_goes_well(start_script, THREADS, engine)


def test_worker_does_without_stacks(start_script):
    """A worker that cannot open the file for its stacks is a worker nevertheless."""
    assert_goes_well(start_script, STACK_FILE, "fork")


@pytest.mark.skipif(os.getuid() != 0, reason="others share the limit with all that they run")
@pytest.mark.parametrize("engine", ["fork", "spawn", "forkserver"])
def test_limit_on_processes_makes_a_small_pool(start_script, engine):
    """There are as many workers as the limit allows, and as many again when they are killed."""
    assert_goes_well(start_script, USER_LIMIT, engine)


@pytest.mark.parametrize("lack", LITTLE_MEMORY)
@pytest.mark.parametrize("engine", ["fork", "spawn", "forkserver"])
def test_large_objects_go_without_shared_memory(start_script, engine, lack):
    """They take the channel, whole, and the log says so once."""
    before, after = LITTLE_MEMORY[lack]
    source = SHARED_MEMORY.replace("BEFORE", before).replace("AFTER", after)
    assert_goes_well(start_script, source.replace("TOLD", "1"), engine)


@pytest.mark.parametrize("state", DEV_SHM)
def test_pool_does_without_dev_shm(start_script, state):
    """Nothing of a pool is in /dev/shm: whether it is full, or there, is no matter."""
    source = SHARED_MEMORY.replace("BEFORE", "pass").replace("AFTER", "pass")
    source = mounting(DEV_SHM[state], source.replace("TOLD", "0"))
    assert_goes_well(start_script, source, "fork")


@pytest.mark.parametrize("engine", ["fork", "spawn", "forkserver"])
def test_pool_does_without_proc(start_script, engine):
    """A program that was moved to another root may find no /proc there."""
    assert_goes_well(start_script, mounting("mount -t tmpfs tmpfs /proc", NO_PROC), engine)


# Much of everything


@pytest.mark.parametrize(
    "lack", ["del sys.argv", "time.monotonic = time.perf_counter = lambda: 5.0"]
)
def test_pool_does_without_arguments_and_clocks(start_script, start_method, lack):
    """A program that embeds Python has no `sys.argv`; tests stop the clocks that Python reads."""
    script = start_script(
        f"""
import time
{lack}
with open_pool() as pool:
    print(pool.map(abs, range(-2, 3)))
    try:
        pool.map(workloads.fail, [1])
    except ValueError as error:
        print("failed")
    pool.close()
    pool.join()
""",
        start_method,
    )
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.stdout.splitlines() == ["[2, 1, 0, 1, 2]", "failed"]


@pytest.mark.parametrize("start_method", sorted({"spawn", "forkserver"} & {*START_METHODS}))
def test_program_without_an_interpreter_is_told_so(start_script, start_method):
    """Where Python is embedded, `sys.executable` may be None."""
    finished = start_script(
        """
sys.executable = None
multiprocessing.set_executable(None)
with open_pool() as pool:
    try:
        pool.map(abs, [1])
    except motorpool.WorkerStartError as error:
        print(error)
""",
        start_method,
    ).finish()

    assert finished.stdout.startswith("no worker can be started: ")
    assert finished.stdout.endswith(
        "sys.executable names no interpreter: see multiprocessing.set_executable\n"
    )


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.skipif(psutil.virtual_memory().total < 12 << 30, reason="takes 8 GiB of memory")
def test_more_than_two_gibibytes_travel_both_ways():
    """Neither an argument nor a result is too large for 31 bits."""
    count = (1 << 28) + 1

    with build_pool("fork") as pool:
        assert pool.apply(len, (array_tasks.fill(1, count),)) == count
        result = pool.apply(array_tasks.fill, (1, count))
        assert result.nbytes > 2 << 30
        assert len(result) == count
        assert pool.map(abs, range(9)) == list(range(9))


@pytest.mark.parametrize("engine", ["fork", "forkserver"])
def test_two_hundred_workers_work_and_leave(leak_guard, engine):
    """A pool far wider than the machine works, and all of it ends."""
    with build_pool(engine, 200) as pool:
        workers = list(pool._pool)
        assert len(workers) == 200
        assert pool.map(workloads.square, range(5000)) == [n * n for n in range(5000)]

    assert eventually(lambda: not any(worker.is_alive() for worker in workers))
