"""Pools as users of third-party programs make them."""

import multiprocessing
import pathlib
import sys

import pytest

import motorpool

# The tasks of these tests are in modules that workers import by name.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True)
def leak_guard():
    """Allow what the standard library and the programs keep until the end.

    Fork servers, the thread that hands out connections, managers' clients and
    the threads of numerical libraries outlive the pool that caused them.
    """


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def context(request):
    """Give the `multiprocessing` context of each start method."""
    return multiprocessing.get_context(request.param)


@pytest.fixture(params=["default", "spawn"])
def program_pool(request):
    """Give a pool of two workers, started in the default way or by spawn."""
    method = None if request.param == "default" else request.param
    with motorpool.Pool(2, context=multiprocessing.get_context(method)) as pool:
        yield pool
    pool.join()
