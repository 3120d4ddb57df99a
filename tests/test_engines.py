"""The checks of `motorpool.testing` on every engine that is here, and on a broken one."""

import concurrent.futures
import functools
import gc
import weakref

import pytest

import motorpool
from conftest import ENGINES, EXECUTORS, build_pool
from motorpool.testing import CHECKS, check_engine

KINDS = (*ENGINES, *EXECUTORS, "executor of threads")


@pytest.fixture
def make_any(leak_guard, engine):
    """Give a function that opens pools of a kind."""
    if engine == "executor of threads":
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            yield functools.partial(motorpool.Pool, engine=executor)
    elif engine == "threads":
        yield lambda processes, *, maxtasksperchild=None, **options: motorpool.Pool(
            processes, maxtasksperchild=maxtasksperchild, engine="threads", **options
        )
    else:
        yield functools.partial(build_pool, engine)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("engine", KINDS)
def test_engine_passes(make_any, name):
    """Every engine passes every check."""
    CHECKS[name](make_any)


class Refusing:
    """An executor that takes nothing."""

    def submit(self, function, /, *args):
        """Refuse."""
        raise RuntimeError("not today")


def test_broken_engine_is_found_out():
    """The suite names the checks that an engine fails, and why."""
    pools = []

    def make_pool(*args, **options):
        pool = motorpool.Pool(*args, engine=Refusing(), **options)
        pools.append(weakref.ref(pool))
        return pool

    with pytest.raises(AssertionError, match=r"(?s)failed:\n.*results come in.*today") as caught:
        check_engine(make_pool)

    assert isinstance(caught.value.__cause__, motorpool.EngineBrokenError)
    # Errors hold no frames that would keep pools for ever.
    del caught
    gc.collect()
    assert [pool() for pool in pools if pool() is not None] == []


def test_checks_can_be_left_out():
    """What an engine is not meant to do need not be checked."""
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        names = check_engine(
            functools.partial(motorpool.Pool, engine=executor),
            leave_out=tuple(CHECKS)[1:],
        )

    assert names == tuple(CHECKS)[:1]
