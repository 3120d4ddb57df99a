"""Programs whose signal handlers use the pool that they interrupt."""

import pytest

from conftest import DEADLINE

WAITS = """
import signal, time

def handle(*_):
    found.append(pool.map(abs, range(5)))

found = []
pool = open_pool()
pool.map(abs, range(3))
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.2)
assert pool.map(time.sleep, [0.2] * 4) == [None] * 4
signal.setitimer(signal.ITIMER_REAL, 0.2)
assert pool.apply(time.sleep, (0.5,)) is None
signal.setitimer(signal.ITIMER_REAL, 0.2)
assert list(pool.imap(time.sleep, iter([0.2] * 4))) == [None] * 4
assert found == [[0, 1, 2, 3, 4]] * 3, found
pool.close()
pool.join()
"""

SUBMITS = """
import signal, time

def handle(*_):
    number = len(promised)
    promised.append(pool.apply_async(abs, (number,)) if number % 2 else
                    pool.map_async(abs, [number]))
    if len(promised) < 500:
        signal.setitimer(signal.ITIMER_REAL, 0.001)

promised = []
pool = open_pool()
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.001)
while len(promised) < 500:
    assert pool.map(abs, range(50)) == list(range(50))
    assert pool.apply(abs, (-3,)) == 3
    assert list(pool.imap(abs, iter(range(9)))) == list(range(9))
for number, result in enumerate(promised):
    assert result.get(10) == (number if number % 2 else [number])
pool.close()
pool.join()
"""

TERMINATES = """
import random, signal
from motorpool import PoolClosedError

def handle(*_):
    pool.terminate()

signal.signal(signal.SIGALRM, handle)
for seed in range(25):
    pool = open_pool()
    signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.05 * random.Random(seed).random())
    try:
        while True:
            pool.map(abs, range(50))
            pool.apply(abs, (-3,))
            list(pool.imap(abs, iter(range(9))))
    except PoolClosedError:
        pass
    pool.join()
"""


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(WAITS, id="waits", marks=pytest.mark.quick),
        pytest.param(SUBMITS, id="submits"),
        pytest.param(TERMINATES, id="terminates"),
    ],
)
@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_handler_may_use_the_pool_that_it_interrupts(start_script, engine, source):
    """Whatever the pool is at in that moment, nothing is lost and nobody waits for ever."""
    finished = start_script(source, engine).finish(2 * DEADLINE)

    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
