"""Fixtures: every engine under one name, scripts of their own, and a leak guard.

`engine` runs over the three start methods and threads, and in modules that say
`RUNS_ON_EXECUTORS = True` over executors too; `start_method` over the start
methods alone. `make_pool` and `make_process_pool` open pools of that kind
and see to it that each is ended. The leak guard watches every test.
"""

import concurrent.futures
import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import hypothesis
import psutil
import pytest

import motorpool
import workloads

DEADLINE = 20.0
"""Seconds after which a wait counts as a hang."""

SETTLING = 5.0
"""Seconds in which what an ended pool used has to be gone."""

START_METHODS = tuple(
    method
    for method in ("fork", "forkserver", "spawn")
    if method in multiprocessing.get_all_start_methods()
)
ENGINES = (*START_METHODS, "threads")
EXECUTORS = ("executor",)

hypothesis.settings.register_profile("pools", deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("pools")


def pytest_configure(config):
    """Make the marker known, let a crashing worker leave no core file, and heed Ctrl-C.

    What a shell starts in the background ignores SIGINT, and so do the programs
    that it starts in turn.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "quick: a representative test for other interpreters")
    with contextlib.suppress(ImportError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep each quick test on one engine only, the engines taking turns."""
    turns = Counter()
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        engines = engines_for(item.module)
        for name, values in (("engine", engines), ("start_method", START_METHODS)):
            if name in parameters and item.get_closest_marker("quick"):
                variant = (item.function, parameters[name])
                number = sum(map(ord, item.originalname)) + turns[variant]
                turns[variant] += 1
                if values[number % len(values)] != parameters[name]:
                    item.own_markers = [m for m in item.own_markers if m.name != "quick"]


def pytest_collection_finish():
    """Let the leak guard collect the garbage of tests only.

    The runner's own hundred thousand objects would take longer to search, twice
    for every test, than most tests take.
    """
    gc.collect()
    gc.freeze()


def eventually(condition, timeout=DEADLINE):
    """Return the first true value of `condition()`, or its last false one."""
    limit = time.monotonic() + timeout
    while not (value := condition()) and time.monotonic() < limit:
        time.sleep(0.005)
    return value


def outcomes(iterator):
    """Return what the rest of `iterator` gives: values, and errors in their place."""
    found = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except Exception as error:
            found.append(error)


def outcome(result):
    """Return the value of an asynchronous result, or its error."""
    try:
        return result.get(timeout=DEADLINE)
    except Exception as error:
        return error


class ExecutorPool(motorpool.Pool):
    """A pool on an executor of its own, which ends with the pool."""

    def __init__(self, processes=2, **options):
        self._executor = concurrent.futures.ProcessPoolExecutor(
            processes, multiprocessing.get_context("fork")
        )
        super().__init__(processes, engine=self._executor, **options)

    def terminate(self):
        """Kill the processes too, which the engine may not."""
        super().terminate()
        for process in list((getattr(self._executor, "_processes", None) or {}).values()):
            process.kill()

    def join(self):
        """Shut the executor down too."""
        super().join()
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None


def build_pool(engine, processes=2, **options):
    """Return a new pool of the named kind; the caller ends it."""
    if engine == "threads":
        return motorpool.ThreadPool(processes, **options)
    if engine == "executor":
        return ExecutorPool(processes, **options)
    context = multiprocessing.get_context(engine)
    return motorpool.Pool(processes, context=context, **options)


class Footprint(NamedTuple):
    """What this process holds that a pool could leave behind."""

    children: Counter
    threads: Counter
    descriptors: Counter

    @classmethod
    def take(cls):
        """Return what is held now."""
        return cls(_children(), _threads(), _descriptors())

    def growth_since(self, before):
        """Return what is held now and was not held `before`, one line each."""
        return [
            f"{kind}: {thing}"
            for kind, now, then in zip(self._fields, self, before, strict=True)
            for thing in (now - then).elements()
        ]


def _children():
    """Return all living descendants and zombies of this process."""
    found = Counter()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[child.pid, child.create_time(), child.status()] += 1
    return Counter({(pid, born): n for (pid, born, _), n in found.items()})


def _threads():
    """Return the Python threads by name, and how many native ones there are."""
    found = Counter((thread.name, thread.ident or 0) for thread in threading.enumerate())
    natives = psutil.Process().num_threads() - threading.active_count()
    if natives > 0:
        found["native threads", 0] = natives
    return found


def _descriptors():
    """Return what the open descriptors stand for."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return Counter({"descriptors": psutil.Process().num_fds()})
    found = Counter()
    for descriptor in folder.iterdir():
        with contextlib.suppress(OSError):
            found[descriptor.readlink().as_posix()] += 1
    return found


@functools.cache
def _warm_up(engine):
    """Use `engine` once, so that helpers that live on are there to be counted."""
    if engine in {"forkserver", "spawn"}:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()
    if engine == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()
    # The memory that multiprocessing.Value draws on is kept for the next one.
    multiprocessing.Value("i", 0)
    pool = build_pool(engine)
    try:
        assert pool.map(workloads.square, [1, 2]) == [1, 4]
        pool.close()
    finally:
        pool.terminate()
        pool.join()
    gc.collect()
    now = [Footprint.take()]
    # A helper may still be starting its own part: take it once it is steady.
    eventually(lambda: now.append(Footprint.take()) or now[-1] == now[-2], SETTLING)


@pytest.fixture(autouse=True)
def leak_guard(request):
    """Fail a test that leaves processes, threads or descriptors behind."""
    parameters = getattr(request.node, "callspec", None)
    names = parameters.params if parameters else {}
    for engine in {"fork", names.get("engine"), names.get("start_method")}:
        if engine in ENGINES + EXECUTORS:
            _warm_up(engine)
    gc.collect()
    before = Footprint.take()
    yield
    gc.collect()
    eventually(lambda: not Footprint.take().growth_since(before), SETTLING)
    left = Footprint.take().growth_since(before)
    assert not left, "left behind:\n" + "\n".join(left)


def engines_for(module):
    """Return the names of the engines that the tests of a module run on."""
    return ENGINES + EXECUTORS * getattr(module, "RUNS_ON_EXECUTORS", False)


def pytest_generate_tests(metafunc):
    """Run a test on every engine."""
    marks = metafunc.definition.iter_markers("parametrize")
    is_given = any("engine" in mark.args[0] for mark in marks)
    if "engine" in metafunc.fixturenames and not is_given:
        # How a program ends with an executor in it is the executor's business.
        is_script = "start_script" in metafunc.fixturenames
        engines = ENGINES if is_script else engines_for(metafunc.module)
        metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture
def engine(request):
    """Name an engine: a start method, threads, or an executor."""
    return request.param


@pytest.fixture(params=START_METHODS)
def start_method(request):
    """Name a way to start processes."""
    return request.param


@contextlib.contextmanager
def _pools(kind):
    """Give a function that opens pools of a kind; end them all afterwards."""
    opened = []

    def make(processes=2, **options):
        opened.append(build_pool(kind, processes, **options))
        return opened[-1]

    try:
        yield make
    finally:
        for pool in opened:
            pool.terminate()
        for pool in opened:
            pool.join()


@pytest.fixture
def make_pool(leak_guard, engine):
    """Give a function that opens a pool on the engine at hand."""
    with _pools(engine) as make:
        yield make


@pytest.fixture
def pool(make_pool):
    """Give a pool of two workers on the engine at hand."""
    return make_pool()


@pytest.fixture
def make_process_pool(leak_guard, start_method):
    """Give a function that opens a pool of processes."""
    with _pools(start_method) as make:
        yield make


@pytest.fixture
def process_pool(make_process_pool):
    """Give a pool of two processes."""
    return make_process_pool()


@pytest.fixture
def worker_ids(tmp_path):
    """Give a function that returns the process ids of all workers of a pool."""

    def ids(pool, width=2):
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        calls = [pool.apply_async(workloads.meet, (str(folder), width)) for _ in range(width)]
        return {call.get(timeout=DEADLINE) for call in calls}

    return ids


class Finished(NamedTuple):
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class Script:
    """A Python script in a process group of its own, known by a token.

    Every process it starts inherits the token in its environment, so that even
    orphans are found.
    """

    def __init__(self, source, engine, folder, options=()):
        self.folder = folder
        self.token = uuid.uuid4().hex
        path = folder / "script.py"
        path.write_text(PREAMBLE + source)
        self._stdout = folder / "stdout"
        self._stderr = folder / "stderr"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *options, str(path), engine, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**_environment(folder), "MOTORPOOL_TEST_TOKEN": self.token},
                start_new_session=True,
            )

    def processes(self):
        """Return the process ids of all that descends from the script and lives."""
        entry = ("MOTORPOOL_TEST_TOKEN", self.token)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if entry in process.environ().items():
                    found.append(process.pid)
        return found

    def reached(self, *names):
        """Return whether all files of these names came to be in the folder."""

        def there():
            return all((self.folder / name).exists() for name in names)

        return eventually(lambda: there() or self.process.poll() is not None) and (there())

    def finish(self, timeout=DEADLINE):
        """Wait for the script's own process and return how it ended."""
        begun = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        seconds = time.monotonic() - begun
        stderr = self._stderr.read_text()
        assert self.process.poll() is not None, f"still running; stderr:\n{stderr}"
        return Finished(self.process.returncode, self._stdout.read_text(), stderr, seconds)

    def sweep(self):
        """End whatever is left of the script."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(DEADLINE)


PREAMBLE = """\
import multiprocessing, os, sys, threading, time
import motorpool, workloads

ENGINE, FOLDER = sys.argv[1:3]

def open_pool(processes=2, **options):
    if ENGINE == "threads":
        return motorpool.ThreadPool(processes, **options)
    context = multiprocessing.get_context(ENGINE)
    return motorpool.Pool(processes, context=context, **options)

def file(name):
    return os.path.join(FOLDER, name)

"""


def _environment(folder):
    """Return an environment in which the pool and the workloads are importable."""
    package = Path(motorpool.__file__).parent.parent
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(package)]),
        "TMPDIR": str(temporary),
    }


@pytest.fixture
def start_script(leak_guard, tmp_path):
    """Give a function that starts a script; end what is left of it afterwards."""
    started = []

    def start(source, engine, options=()):
        folder = tmp_path / f"script{len(started)}"
        folder.mkdir()
        started.append(Script(source, engine, folder, options))
        return started[-1]

    yield start
    for script in started:
        script.sweep()
