"""A system that has no room left: for descriptors, processes or threads."""

import pytest

from conftest import DEADLINE

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
