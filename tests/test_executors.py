"""Pools on executors of the user's: what crosses, what breaks, and who shuts down."""

import concurrent.futures
import multiprocessing
import os
from multiprocessing import resource_tracker

import pytest

import motorpool
import workloads

KINDS = ("fork", "spawn", "threads")


@pytest.fixture(scope="module", autouse=True)
def helpers():
    """Start what the standard library's executors leave running, so that it is no leak."""
    resource_tracker.ensure_running()


@pytest.fixture(params=KINDS)
def executor(leak_guard, request):
    """Give an executor of two workers."""
    if request.param == "threads":
        made = concurrent.futures.ThreadPoolExecutor(2)
    else:
        context = multiprocessing.get_context(request.param)
        made = concurrent.futures.ProcessPoolExecutor(2, context)
    with made:
        yield made


@pytest.fixture
def processes(leak_guard):
    """Give an executor of two processes."""
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(2, context) as made:
        yield made


@pytest.mark.quick
def test_pool_runs_on_an_executor(executor):
    """The Pool API works on the executor that was passed."""
    with motorpool.Pool(engine=executor) as pool:
        assert pool.map(workloads.square, range(100)) == [i * i for i in range(100)]
        assert pool.apply(workloads.add, (1, 2), {"extra": 3}) == 6
        assert list(pool.imap(workloads.square, iter(range(10)))) == [i * i for i in range(10)]
        with pytest.raises(ZeroDivisionError) as caught:
            pool.map(lambda x: 1 // x, [1, 0])

    assert isinstance(caught.value.__cause__, motorpool.errors.RemoteTraceback)


def test_executor_is_left_alone(executor):
    """A pool that ends leaves the executor of its user open."""
    with motorpool.Pool(engine=executor) as pool:
        pool.map(workloads.square, range(10))

    assert executor.submit(workloads.square, 3).result() == 9


def test_initializer_runs_before_the_first_task(executor):
    """Each process runs the initializer once before it runs tasks of the pool."""
    with motorpool.Pool(
        engine=executor, initializer=workloads.keep_positional, initargs=("where", "here")
    ) as pool:
        assert set(pool.map(workloads.kept_value, ["where"] * 20)) == {"here"}


def test_initializer_that_raises_is_reported(executor):
    """The error of an initializer is the cause of what the first result raises."""
    pool = motorpool.Pool(engine=executor, initializer=lambda: 1 // 0)
    with pool, pytest.raises(motorpool.WorkerStartError) as caught:
        pool.map(workloads.square, range(10))

    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_killed_worker_ends_in_errors(processes):
    """An executor that breaks fails what was running, and then refuses; nothing hangs."""
    with motorpool.Pool(engine=processes) as pool:
        with pytest.raises(motorpool.WorkerLostError) as caught:
            pool.apply(os._exit, (1,))
        with pytest.raises(motorpool.EngineBrokenError):
            pool.map(workloads.square, range(10))

    assert isinstance(caught.value.__cause__, concurrent.futures.BrokenExecutor)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("engine", "error"), [("nonsense", ValueError), ("ftp://x", ValueError), (3, TypeError)]
)
def test_unknown_engine_is_refused(engine, error):
    """What is no engine is refused at the call, and the message names what there is."""
    with pytest.raises(error, match=r"executor"):
        motorpool.Pool(engine=engine)


def test_what_an_executor_cannot_do_is_refused(processes):
    """The call says what this engine cannot do, and which ones can."""
    with pytest.raises(ValueError, match=r"maxtasksperchild.*processes"):
        motorpool.Pool(engine=processes, maxtasksperchild=1)


def test_environment_names_the_engine(monkeypatch):
    """A program runs elsewhere without a change."""
    monkeypatch.setenv("MOTORPOOL_ENGINE", "threads")
    with motorpool.Pool(2) as pool:
        assert set(pool.map(workloads.process_id, range(10))) == {os.getpid()}


def test_missing_package_is_named(monkeypatch):
    """An engine whose package is missing says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "motorpool\[ray\]"') as caught:
        motorpool.Pool(engine="ray")

    assert isinstance(caught.value, motorpool.EngineNotInstalledError)
