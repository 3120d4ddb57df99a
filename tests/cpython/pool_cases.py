"""CPython's Pool tests as cases for motorpool, for each start method.

A module of its own because workers have to import it: some tests send bound
methods of their class, and the test runner's modules have no importable name.
"""

import functools
import importlib
import multiprocessing

from under_motorpool import START_METHODS, InOtherInterpreters, make_case

import motorpool

suite = importlib.import_module("test._test_multiprocessing")


def cases_of(method):
    """Return CPython's cases of process pools under one start method."""
    context = multiprocessing.get_context(method)
    pool = functools.partial(motorpool.Pool, context=context)
    processes, manager = suite.ProcessesMixin, suite.ManagerMixin
    return [
        make_case("Pool", suite, suite._TestPool, method, processes, pool=pool),
        make_case("PoolOfManager", suite, suite._TestPool, method, manager),
        make_case("PoolWorkerErrors", suite, suite._TestPoolWorkerErrors, method, processes),
        make_case(
            "PoolWorkerLifetime",
            suite,
            suite._TestPoolWorkerLifetime,
            method,
            processes,
            # One of its tests runs a script.
            under=InOtherInterpreters,
        ),
        make_case("PoolNotLeakOnFailure", suite, suite.TestPoolNotLeakOnFailure, method),
        make_case(
            "Initializers", suite, suite.TestInitializers, method, only="test_pool_initializer"
        ),
        make_case("SyncManagerTypes", suite, suite.TestSyncManagerTypes, method, only="test_pool"),
        make_case(
            "PoolInProcess",
            suite,
            suite.TestStdinBadfiledescriptor,
            method,
            only="test_pool_in_process",
            under=InOtherInterpreters,
        ),
    ]


CASES = [case for method in START_METHODS for case in cases_of(method)]
CASES.append(
    # Threads are started the same way whatever the start method is.
    make_case(
        "Pool_threads",
        suite,
        suite._TestPool,
        None,
        suite.ThreadsMixin,
        pool=motorpool.ThreadPool,
    )
)

for case in CASES:
    case.__module__ = __name__
    globals()[case.__name__] = case
