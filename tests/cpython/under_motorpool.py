"""Turn test cases of CPython's `test` package into tests of motorpool.

Nothing is copied: each case is a subclass of one that the running interpreter
ships, run while motorpool's pools stand where the tests look for the standard
library's. The rest of `multiprocessing` (queues, locks, managers) is as it was.
"""

import contextlib
import functools
import importlib
import multiprocessing
import multiprocessing.context
import multiprocessing.forkserver
import multiprocessing.managers
import multiprocessing.pool
import os
import pathlib
import sys
import threading
import unittest
from unittest import mock

import motorpool

START_METHODS = ("fork", "forkserver", "spawn")

SITE = pathlib.Path(__file__).parent / "site"

# Tests that handle what only the standard library's pool has, and why each does
# not apply. Every other test of a pool is run.
EXCLUDED = {
    "TestPoolNotLeakOnFailure.test_release_unused_processes": (
        "its context makes fakes of processes that start nothing; a worker has to be one"
    ),
}
if sys.version_info < (3, 13):  # From then on they sleep for a second.
    EXCLUDED["Pool_threads.test_terminate"] = (
        "its tasks sleep for minutes and cannot be killed in a thread; it passes on the standard "
        "library only because a task handed in a moment ago has not reached a worker there"
    )


def result_that_cannot_travel():
    """Return what no pickler can send; CPython's own example, a lambda, travels."""
    return threading.Lock()


STAND_INS = {"unpickleable_result": result_that_cannot_travel}


class UnderMotorpool:
    """One class of CPython's tests, on motorpool, under one start method.

    Fails also for what CPython's `regrtest` calls an altered environment:
    threads, processes or managed objects that the tests leave behind.
    """

    default_method = None
    cpython_module = None

    @classmethod
    def setUpClass(cls):
        """Put motorpool in place before the pools of the class are made."""
        cls.left_over = []
        with contextlib.ExitStack() as undo:
            for patch in cls.patches():
                undo.enter_context(patch)
            cls.addClassCleanup(undo.pop_all().close)
        cls.addClassCleanup(cls.shut_down_manager)
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        """Check that nothing of the class is left."""
        forget_threads_of_runner()
        super().tearDownClass()
        if cls.left_over:
            raise AssertionError("\n".join(cls.left_over))

    @classmethod
    def shut_down_manager(cls):
        """End the manager that a failed set-up leaves, and with it its process."""
        manager = vars(cls).get("manager")
        if manager is not None:
            manager.shutdown()

    @classmethod
    def patches(cls):
        """Return the contexts in which the tests run, outermost first."""
        support = importlib.import_module("test.support")
        registry = multiprocessing.managers.SyncManager._registry
        stand_ins = {
            name: new for name, new in STAND_INS.items() if hasattr(cls.cpython_module, name)
        }
        return [
            default_start_method(cls.default_method),
            mock.patch.object(multiprocessing, "Pool", motorpool.Pool),
            mock.patch.object(multiprocessing.pool, "Pool", motorpool.Pool),
            mock.patch.object(multiprocessing.context.BaseContext, "Pool", pool_of_context),
            # A test calls this to have leavers replaced, which motorpool does by itself.
            mock.patch.object(motorpool.Pool, "_repopulate_pool"),
            mock.patch.dict(registry, Pool=(motorpool.Pool, *registry["Pool"][1:])),
            mock.patch.multiple(cls.cpython_module, **stand_ins)
            if stand_ins
            else contextlib.nullcontext(),
            mock.patch.object(support, "print_warning", cls.left_over.append),
        ]


class InOtherInterpreters(UnderMotorpool):
    """The same for tests that start interpreters, which then make pools."""

    @classmethod
    def patches(cls):
        """Return also what puts motorpool in place over there."""
        helper = importlib.import_module("test.support.script_helper")
        path = python_path()
        # Without a variable of its own, the helper would start `python -E`.
        environment = {"__isolated": False, "PYTHONPATH": path}
        run = functools.partial(helper.assert_python_ok, **environment)
        holders = [m for m in (helper, cls.cpython_module) if hasattr(m, "assert_python_ok")]
        return [
            *super().patches(),
            mock.patch.dict(os.environ, PYTHONPATH=path),
            fresh_forkserver(),
            importlib.import_module("test.support.os_helper").temp_cwd(name=None),
            *(mock.patch.object(holder, "assert_python_ok", run) for holder in holders),
        ]


def forget_threads_of_runner():
    """Keep the timers that limit each test out of CPython's search for threads."""
    for thread in set(threading._dangling):
        if thread.name.startswith("pytest_timeout "):
            threading._dangling.discard(thread)


def pool_of_context(context, *args):
    """Do what `Pool` of a `multiprocessing` context does, with motorpool's."""
    return motorpool.Pool(*args, context=context.get_context())


def python_path():
    """Return a `PYTHONPATH` on which other interpreters find motorpool."""
    installed = pathlib.Path(motorpool.__file__).resolve().parent.parent
    inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    parts = [SITE.resolve(), installed, *map(os.path.abspath, inherited)]
    return os.pathsep.join(map(str, parts))


@contextlib.contextmanager
def default_start_method(method):
    """Make `method` the default, as CPython's test modules do in their set-up."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(method, force=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(before, force=True)


@contextlib.contextmanager
def fresh_forkserver():
    """Have the fork server inherit the environment of now, and nobody later."""
    multiprocessing.forkserver._forkserver._stop()
    try:
        yield
    finally:
        multiprocessing.forkserver._forkserver._stop()


def make_case(name, module, base, method, *mixins, only=None, under=UnderMotorpool, pool=None):
    """Return `base` of CPython's `module` as a test case of motorpool.

    With `only`, its other tests are left out; those in `EXCLUDED` are skipped.
    `pool` is what the tests reach as `self.Pool`, unless a mixin gives that.
    """
    body = {"default_method": method, "cpython_module": module}
    if pool is not None:
        body["Pool"] = staticmethod(pool)
    for test in unittest.TestLoader().getTestCaseNames(base):
        reason = EXCLUDED.get(f"{base.__name__}.{test}") or EXCLUDED.get(f"{name}.{test}")
        if reason is not None:
            body[test] = unittest.skip(reason)(getattr(base, test))
        elif only not in (None, test):
            body[test] = None
    last = () if issubclass(base, unittest.TestCase) else (unittest.TestCase,)
    return type(f"{name}_{method}" if method else name, (under, base, *mixins, *last), body)
