"""Pools on executors of the user's: what crosses, what breaks, and who shuts down."""

import concurrent.futures
import functools
import importlib
import linecache
import multiprocessing
import os
import threading
from multiprocessing import resource_sharer, resource_tracker

import pytest

import motorpool
import workloads
from conftest import DEADLINE, eventually, outcome

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


def send(sink, item):
    """Send an item through a connection."""
    sink.send(item)


@pytest.fixture
def sharer(leak_guard):
    """End, when the test is over, what hands connections out."""
    yield
    resource_sharer.stop(DEADLINE)


def test_connection_goes_to_one_process_only(sharer, executor):
    """It can be an item; what goes to each process is refused at the call, but for threads."""
    source, sink = multiprocessing.Pipe(duplex=False)
    with source, sink:
        with motorpool.Pool(engine=executor) as pool:
            pool.apply(send, (sink, 1))
            assert source.recv() == 1
        if isinstance(executor, concurrent.futures.ThreadPoolExecutor):
            with motorpool.Pool(engine=executor, initializer=send, initargs=(sink, 2)) as pool:
                pool.apply(abs, (3,))
            assert source.recv() == 2
        else:
            with pytest.raises(motorpool.NotPicklableError, match="to one process only"):
                motorpool.Pool(engine=executor, initializer=send, initargs=(sink, 2))
            pool = motorpool.Pool(engine=executor)
            with pool, pytest.raises(motorpool.NotPicklableError, match="to one process only"):
                pool.map_async(functools.partial(send, sink), [3])


def test_connection_in_globals_is_refused_unless_bound_in_the_worker(start_script):
    """Workers of an executor may have a connection of their own under that name."""
    script = start_script(CONNECTED, "spawn")
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.stdout == "NotPicklableError\n['StringIO', 'StringIO']\n"


CONNECTED = """
import concurrent.futures, io

os.environ.pop("TMPDIR", None)  # whose path is too long for a socket
SOURCE, SINK = multiprocessing.Pipe(duplex=False)

def send(item):
    SINK.send(item)

def connect():
    global SINK
    SINK = io.StringIO()

def kind(_):
    return type(SINK).__name__

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        with motorpool.Pool(engine=executor) as pool:
            try:
                pool.map_async(send, [1])
            except motorpool.NotPicklableError as error:
                print(type(error).__name__)
        with motorpool.Pool(engine=executor, initializer=connect) as pool:
            print(pool.map(kind, range(2)))
"""


def test_call_behind_one_that_is_cancelled_goes_on(leak_guard, tmp_path):
    """Cancelling what runs costs nothing that an executor has queued behind it."""
    quick, reached, gate = (tmp_path / name for name in ("quick", "reached", "gate"))
    quick.touch()
    many = [(str(quick), str(quick))] * 3000
    with (
        concurrent.futures.ProcessPoolExecutor(1) as executor,
        motorpool.Pool(engine=executor) as pool,
    ):
        pool.starmap(workloads.touch_then_wait, many)
        cancelled = pool.starmap_async(
            workloads.touch_then_wait, [*many, (str(reached), str(gate))]
        )
        behind = pool.starmap_async(workloads.touch_then_wait, many)
        assert eventually(reached.exists)
        cancelled.cancel()
        gate.touch()

        assert behind.get(DEADLINE) == [str(quick)] * 3000
        assert type(outcome(cancelled)) is motorpool.TaskCancelledError


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


def test_environment_names_an_executor(monkeypatch):
    """A program needs no change to run on an executor: it is made by name, and shut down."""
    monkeypatch.setenv("MOTORPOOL_ENGINE", "concurrent.futures:ThreadPoolExecutor")
    before = threading.active_count()
    with motorpool.Pool(2, engine_options={"thread_name_prefix": "ours"}) as pool:
        names = set(pool.map(workloads.thread_name, range(10)))

    assert all(name.startswith("ours") for name in names)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("engine", "error"),
    [
        ("no_such_module:Executor", motorpool.EngineNotInstalledError),
        ("concurrent.futures:Nothing", ValueError),
        ("builtins:dict", TypeError),
    ],
)
def test_named_executor_that_is_none_is_refused(engine, error):
    """A name that leads to no executor is refused at the call."""
    with pytest.raises(error, match=engine):
        motorpool.Pool(engine=engine)


def test_missing_package_is_named(monkeypatch):
    """An engine whose package is missing says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "motorpool\[ray\]"') as caught:
        motorpool.Pool(engine="ray")

    assert isinstance(caught.value, motorpool.EngineNotInstalledError)


def import_elsewhere(monkeypatch, folder, **sources):
    """Make modules that this process can import, and processes started before cannot."""
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    return [importlib.import_module(name) for name in sources]


@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_modules_beside_the_script_are_sent(leak_guard, kind, tmp_path, monkeypatch):
    """A worker that cannot import a module gets its source, and that of what it imports."""
    context = multiprocessing.get_context(kind)
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        executor.submit(workloads.square, 1).result()
        near, _ = import_elsewhere(
            monkeypatch,
            tmp_path,
            near_by="import further_off\nclass Box:\n    def __init__(self, x): self.x = x\n"
            "def box(x): return Box(further_off.double(x))\n",
            further_off="def double(x): return 2 * x\n",
        )
        with motorpool.Pool(engine=executor) as pool:
            boxes = pool.map(near.box, range(50))

    assert [box.x for box in boxes] == [2 * i for i in range(50)]
    assert {type(box) for box in boxes} == {near.Box}


def test_edited_module_is_sent_anew(leak_guard, tmp_path, monkeypatch):
    """A process that has an older version of a module's source takes the newer one."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        executor.submit(workloads.square, 1).result()
        (module,) = import_elsewhere(monkeypatch, tmp_path, edited="def answer(_): return 1\n")
        with motorpool.Pool(engine=executor) as pool:
            assert set(pool.map(module.answer, range(20))) == {1}
        (tmp_path / "edited.py").write_text("def answer(_): return 'two'\n")
        linecache.checkcache()
        importlib.reload(module)
        with motorpool.Pool(engine=executor) as pool:
            assert set(pool.map(module.answer, range(20))) == {"two"}


class Counting(concurrent.futures.ThreadPoolExecutor):
    """An executor that adds up the bytes it is given."""

    taken = 0

    def submit(self, function, /, *args):
        """Count, then submit."""
        self.taken += sum(len(arg) for arg in args if isinstance(arg, bytes))
        return super().submit(function, *args)


def test_large_constant_does_not_go_with_every_chunk(leak_guard):
    """A function's large constant is sent about once per process."""
    constant = bytes(1 << 20)
    with Counting(2) as executor, motorpool.Pool(engine=executor) as pool:
        lengths = pool.map(functools.partial(workloads.add_length, constant), range(200), 1)

    assert lengths == [i + (1 << 20) for i in range(200)]
    assert executor.taken < 4 << 20


@pytest.mark.quick
def test_script_runs_on_an_executor(start_script):
    """What a script defines crosses to processes that never saw it, and comes back as its own."""
    script = start_script(SCRIPT, "executor")

    assert script.finish().stdout.splitlines() == ["done"], script.finish().stderr


SCRIPT = """
import concurrent.futures

class Person:
    class Pet:
        pass
    def __init__(self, age):
        self.age = age

class Sick(Exception):
    pass

STEP = 1
times = 0

def grow(person):
    person.age += STEP
    return person

def count(_):
    global times
    times += 1
    return times

def start():
    global times
    times = 100

def fail(person):
    raise Sick(person.age)

def mixed(thing):
    return type(thing).__name__, thing

class Plugin:
    kinds = {}
    def __init_subclass__(cls, *, kind):
        Plugin.kinds[kind] = cls

class Json(Plugin, kind="json"):
    def describe(self):
        return Plugin.kinds["json"] is type(self), SETTINGS.depth

def with_defaults(state):
    return {"depth": 1, **state}

class Settings:
    def __setstate__(self, state):
        self.__dict__.update(with_defaults(state))

SETTINGS = Settings()
SETTINGS.depth = 3

def main():
    global STEP, grow
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        with motorpool.Pool(engine=executor) as pool:
            grown = pool.map(grow, [Person(age) for age in range(1000)])
            assert [person.age for person in grown] == list(range(1, 1001))
            assert {type(person) for person in grown} == {Person}
            STEP = 5
            assert pool.apply(grow, (Person(1),)).age == 6
            def grow(person):
                return "new"
            assert pool.map(grow, [1]) == ["new"]
            things = [1, "a", Person(2), Person.Pet(), Sick(3)] * 10
            for (name, back), thing in zip(pool.map(mixed, things, 5), things):
                assert name == type(thing).__name__ and type(back) is type(thing)
            try:
                pool.map(fail, [Person(7)])
            except Sick as error:
                assert error.args == (7,)
            assert pool.apply(Json.describe, (Json(),)) == (True, 3)
            class Local:
                pass
            assert type(pool.apply(lambda: Local())) is Local
            assert pool.apply(lambda: lambda: STEP)() == 5
        with motorpool.Pool(engine=executor, initializer=start) as pool:
            counted = pool.map(count, range(100), 1)
            assert min(counted) == 101 and len(set(counted)) >= 50
    print("done")

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("inner", ["fork", "spawn"])
@pytest.mark.parametrize("outer", ["fork", "spawn"])
def test_task_opens_a_pool(start_script, outer, inner):
    """A task on an executor maps functions and classes of the script on processes of its own."""
    script = start_script(f"OUTER, INNER = {outer!r}, {inner!r}\n{NESTED}", f"{outer}-{inner}")

    assert script.finish().stdout.splitlines() == ["[0, 1, 4] [1, 4]"], script.finish().stderr


NESTED = """
import concurrent.futures

class Person:
    def __init__(self, age):
        self.age = age
    @staticmethod
    def older(age):
        return age + 1

def square(number):
    return number * number

def grow(person):
    return Person(square(Person.older(person.age) - 1))

def nest(count):
    with motorpool.Pool(2, context=multiprocessing.get_context(INNER)) as pool:
        squares = pool.map(square, range(count))
        people = pool.map(grow, [Person(1), Person(2)])
    assert {type(person) for person in people} == {Person}
    return f"{squares} {[person.age for person in people]}"

if __name__ == "__main__":
    context = multiprocessing.get_context(OUTER)
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        with motorpool.Pool(engine=executor) as pool:
            print(pool.apply(nest, (3,)))
"""


def map_in_a_pool(queue):
    """Use a pool, and tell what came of it."""
    with motorpool.Pool(2) as pool:
        queue.put(pool.map(workloads.square, range(3)))


def test_daemonic_process_opens_a_pool(leak_guard):
    """A pool's workers end with the process that made it, so a daemonic one may have them."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=map_in_a_pool, args=(queue,), daemon=True)
    process.start()

    assert queue.get() == [0, 1, 4]
    process.join(10)
    assert process.exitcode == 0
