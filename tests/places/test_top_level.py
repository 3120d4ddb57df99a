"""The top level of a script: run once, in the parent, and known to the workers."""

from __future__ import annotations

import multiprocessing
import textwrap
from typing import TYPE_CHECKING

import pytest

from .places import PLACES, script_file
from .steps import IMPORT_POOL, Step, start_method

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import RunOnce
    from .places import Run

METHODS = multiprocessing.get_all_start_methods()

# The pool is older than all that is sent to it: nothing comes by inheritance.
POOL = Step("pool", f"import traceback\n{IMPORT_POOL}\npool = Pool(2)")

DEFINITIONS = (
    Step(
        "helper function",
        """\
def double(n):
    return 2 * n

def quadruple(n):
    return double(double(n))

print(pool.map(quadruple, [1, 2]))
""",
        printed="[4, 8]",
    ),
    Step(
        "other class",
        """\
class Engine:
    def __init__(self, power):
        self.power = power

class Car:
    def __init__(self, engine):
        self.engine = engine

def build(power):
    return Car(Engine(power))

cars = pool.map(build, [70, 90])
print([car.engine.power for car in cars])
""",
        printed="[70, 90]",
        check="assert all(type(car) is Car and type(car.engine) is Engine for car in cars)",
    ),
    Step(
        "recursion",
        """\
def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

print(pool.map(factorial, [3, 5]))
""",
        printed="[6, 120]",
    ),
    Step(
        "mutual recursion",
        """\
def is_even(n):
    return n == 0 or is_odd(n - 1)

def is_odd(n):
    return n != 0 and is_even(n - 1)

print(pool.map(is_even, [7, 8]))
""",
        printed="[False, True]",
    ),
    Step(
        "memoised function",
        """\
import functools

@functools.lru_cache(maxsize=None)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

print(pool.map(fibonacci, [10, 50]))
""",
        printed="[55, 12586269025]",
    ),
    Step(
        "modules",
        """\
import math
import os.path as p

def path(n):
    return p.join("a", str(math.factorial(n)))

print(pool.map(path, [3, 4]))
""",
        printed="['a/6', 'a/24']",
    ),
    Step(
        "constants",
        """\
import re
RATE = 3
LIMITS = {"low": 1, "high": 100}
WORD = re.compile("[a-z]+")

def priced(text):
    return min(RATE * len(WORD.findall(text)), LIMITS["high"])

print(pool.map(priced, ["a b", "a b c"]))
""",
        printed="[6, 9]",
    ),
    Step(
        "decorator",
        """\
import functools

def twice(function):
    @functools.wraps(function)
    def wrapper(n):
        return function(function(n))
    return wrapper

@twice
def add_three(n):
    return n + 3

print(pool.map(add_three, [0, 1]), add_three.__name__)
""",
        printed="[6, 7] add_three",
    ),
    Step(
        "dataclass",
        """\
from dataclasses import dataclass, field, replace

@dataclass(frozen=True, order=True)
class Point:
    x: int
    y: int = 0
    tags: list = field(default_factory=list)

def mirror(point):
    return replace(point, x=-point.x)

points = pool.map(mirror, [Point(1), Point(2, 3)])
print(points)
""",
        printed="[Point(x=-1, y=0, tags=[]), Point(x=-2, y=3, tags=[])]",
        check="assert type(points[0]) is Point and points[0] == Point(-1)",
    ),
    Step(
        "enum",
        """\
import enum

class Light(enum.Enum):
    RED = 1
    GREEN = 2

def switch(light):
    return Light.GREEN if light is Light.RED else Light.RED

lights = pool.map(switch, [Light.RED, Light.GREEN])
print(lights)
""",
        printed="[<Light.GREEN: 2>, <Light.RED: 1>]",
        check="assert lights[0] is Light.GREEN",
    ),
    Step(
        "named tuples",
        """\
import collections
from typing import NamedTuple

Pair = collections.namedtuple("Pair", "left right")

class Span(NamedTuple):
    start: int
    stop: int = 9

def spans(pair):
    return Span(pair.right), pair._replace(left=0)

span, pair = pool.map(spans, [Pair(1, 2)])[0]
print(span, pair)
""",
        printed="Span(start=2, stop=9) Pair(left=0, right=2)",
        check="assert type(span) is Span and type(pair) is Pair",
    ),
    Step(
        "inheritance and super",
        """\
import abc

class Shape(abc.ABC):
    def __init__(self, name):
        self.name = name
    @abc.abstractmethod
    def area(self): ...
    def describe(self):
        return f"{self.name} {self.area()}"

class Square(Shape):
    def __init__(self, side):
        super().__init__("square")
        self.side = side
    def area(self):
        return self.side ** 2
    def describe(self):
        return super().describe() + "!"

def describe(shape):
    return shape.describe(), isinstance(shape, Shape), shape

[(text, is_shape, shape)] = pool.map(describe, [Square(3)])
print(text, is_shape)
""",
        printed="square 9! True",
        check="assert type(shape) is Square and isinstance(shape, Shape)",
    ),
    Step(
        "slots",
        """\
class Slotted:
    __slots__ = ("value",)
    def __init__(self, value):
        self.value = value

def increment(slotted):
    slotted.value += 1
    return slotted

slotted = pool.map(increment, [Slotted(1), Slotted(2)])
print([one.value for one in slotted])
""",
        printed="[2, 3]",
        check="assert all(type(one) is Slotted for one in slotted)",
    ),
    Step(
        "classes that register themselves",
        """\
LOADED = []

class Plugin:
    kinds = {}
    def __init_subclass__(cls, *, kind):
        LOADED.append(kind)
        Plugin.kinds[kind] = cls

class Json(Plugin, kind="json"):
    def describe(self):
        return Plugin.kinds["json"] is type(self), sorted(Plugin.kinds), LOADED

class Csv(Plugin, kind="csv"):
    pass

print(pool.map(Json.describe, [Json()]))
""",
        printed="[(True, ['csv', 'json'], ['json', 'csv'])]",
    ),
    Step(
        "local classes that register themselves",
        """\
def registering():
    seen = []
    class Base:
        def __init_subclass__(cls, tag):
            seen.append(tag)
    class Derived(Base, tag="d"):
        def tags(self):
            return seen
    return Derived

Derived = registering()
print([pool.map(Derived.tags, [Derived()]) for _ in range(2)])
""",
        printed="[[['d']], [['d']]]",
    ),
    Step(
        "a global that needs a helper to be rebuilt",
        """\
def with_defaults(state):
    return {"depth": 1, **state}

class Settings:
    def __init__(self):
        self.width = 2
    def __setstate__(self, state):
        self.__dict__.update(with_defaults(state))

SETTINGS = Settings()
SETTINGS.depth = 3

def size(n):
    return n * SETTINGS.width * SETTINGS.depth

print(pool.map(size, [1, 2]))
""",
        printed="[6, 12]",
    ),
    Step(
        "metaclass",
        """\
class Meta(type):
    names = []
    def __new__(meta, name, bases, namespace):
        meta.names.append(name)
        return super().__new__(meta, name, bases, namespace)

class Made(metaclass=Meta):
    def meta(self):
        return type(type(self)).__name__

print(pool.map(Made.meta, [Made()]))
""",
        printed="['Meta']",
    ),
    Step(
        "exception",
        """\
class Refused(Exception):
    def __init__(self, code, *, reason):
        super().__init__(code, reason)
        self.code, self.reason = code, reason

def refuse(n):
    raise Refused(n, reason="because")

try:
    pool.map(refuse, [7])
except Refused as refused:
    print("caught", refused.args)
""",
        printed="caught (7, 'because')",
    ),
    Step("lambda", "print(pool.map(lambda n: n + 1, [1, 2]))", printed="[2, 3]"),
    Step(
        "closure",
        """\
def adder(amount):
    def add(n):
        return n + amount
    return add

print(pool.map(adder(10), [1, 2]))
""",
        printed="[11, 12]",
    ),
    Step(
        "local class",
        """\
def local():
    class Local:
        def __init__(self, n):
            self.n = n
    def make(n):
        return Local(n)
    return Local, pool.map(make, [1, 2])

Local, made = local()
print([one.n for one in made])
""",
        printed="[1, 2]",
        check="assert all(type(one) is Local for one in made)",
    ),
    Step(
        "bound method",
        """\
class Scale:
    unit = 10
    def __init__(self, factor):
        self.factor = factor
    def apply(self, n):
        return self.factor * n
    @classmethod
    def units(cls, n):
        return cls.unit * n
    @staticmethod
    def negative(n):
        return -n

print(pool.map(Scale(3).apply, [1, 2]))
print(pool.map(Scale.units, [1, 2]), pool.map(Scale.negative, [1, 2]))
""",
        printed="[3, 6]\n[10, 20] [-1, -2]",
    ),
    Step(
        "callable object",
        """\
class Power:
    def __init__(self, exponent):
        self.exponent = exponent
    def __call__(self, n):
        return n ** self.exponent

print(pool.map(Power(3), [1, 2]))
""",
        printed="[1, 8]",
    ),
    Step(
        "partial",
        """\
import functools

def power(base, exponent):
    return base ** exponent

print(pool.map(functools.partial(power, exponent=2), [3, 4]))
print(pool.map(functools.partial(lambda a, b: a - b, 10), [3, 4]))
""",
        printed="[9, 16]\n[7, 6]",
    ),
    Step("close", "pool.close()\npool.join()"),
)

INITIALIZERS = (
    Step(
        "with a placeholder",
        f"""\
{IMPORT_POOL}

shared = None

def init(x):
    global shared
    shared = x

def f(i):
    return shared[i]

with Pool(2, initializer=init, initargs=([10, 20, 30],)) as pool:
    print(pool.map(f, range(3)), shared)
""",
        printed="[10, 20, 30] None",
    ),
    Step(
        "without a placeholder",
        """\
def init_bare(x):
    global bare
    bare = x

def f_bare(i):
    return bare[i]

with Pool(2, initializer=init_bare, initargs=([10, 20, 30],)) as pool:
    print(pool.map(f_bare, range(3)), "bare" in globals())
""",
        printed="[10, 20, 30] False",
    ),
    Step(
        "changed by every task",
        """\
count = 0

def tick(_):
    global count
    count += 1
    return count

with Pool(1) as pool:
    print(pool.map(tick, range(4)), pool.map(tick, range(2)), count)
""",
        printed="[1, 2, 3, 4] [5, 6] 0",
    ),
)


def guarded(step: Step) -> Step:
    """Let the steps after this one run even if it raises."""
    body = textwrap.indent(f"{step.source}\n{step.check}", "    ")
    source = f"try:\n{body}\nexcept Exception:\n    traceback.print_exc()"
    return step._replace(source=source, check="")


@pytest.fixture(scope="session", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """Each start method."""
    return request.param


@pytest.fixture(scope="session")
def definitions(method: str, run_once: RunOnce) -> Run:
    """A script with everything a script may define."""
    steps = (start_method(method), POOL, *map(guarded, DEFINITIONS))
    return run_once("script", steps)


@pytest.mark.parametrize("step", DEFINITIONS, ids=lambda step: step.name)
def test_workers_know_what_a_script_defines(definitions: Run, step: Step) -> None:
    """What a script defines reaches workers that were there before, and comes back."""
    assert step.output_in(definitions.stdout) == step.printed, str(definitions)


@pytest.mark.parametrize("step", INITIALIZERS, ids=lambda step: step.name)
def test_globals_of_a_worker_are_its_own(method: str, run_once: RunOnce, step: Step) -> None:
    """What an initializer or a task puts in a global stays there, in that worker."""
    finished = run_once("script", (start_method(method), *INITIALIZERS))

    assert step.output_in(finished.stdout) == step.printed, str(finished)


def test_scripts_end_cleanly(definitions: Run, method: str, run_once: RunOnce) -> None:
    """The scripts end by themselves and complain about nothing."""
    assert definitions.is_clean, str(definitions)

    finished = run_once("script", (start_method(method), *INITIALIZERS))

    assert finished.is_clean, str(finished)


@pytest.mark.parametrize("place", ["script", "package", "zipapp"])
def test_top_level_runs_once(place: str, method: str, tmp_path: Path) -> None:
    """The top level of a script runs once, in the parent, and never in a worker."""
    log = tmp_path / "log"
    step = Step(
        "script",
        f"""\
import os
{IMPORT_POOL}

with open({str(log)!r}, "a") as log:
    log.write(f"{{os.getpid()}} {{__name__}}\\n")

def square(n):
    return n * n

with Pool(2) as pool:
    print(pool.map(square, range(4)))
print(os.getpid())
""",
        printed="[0, 1, 4, 9]",
    )

    finished = PLACES[place]((start_method(method), step), tmp_path)

    printed, _, pid = step.output_in(finished.stdout).rpartition("\n")
    assert printed == step.printed, str(finished)
    assert log.read_text() == f"{pid} __main__\n"
    assert finished.is_clean, str(finished)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
def test_imported_module_that_maps_at_its_top_level_is_named(method: str, tmp_path: Path) -> None:
    """Its workers would import it, and map, and so would theirs: it is refused at once instead."""
    log = tmp_path / "log"
    (tmp_path / "flat.py").write_text(
        f"""\
import multiprocessing
import os
{IMPORT_POOL}

with open({str(log)!r}, "a") as log:
    log.write(f"{{os.getpid()}}\\n")
if os.path.getsize(log.name) > 1000:
    os._exit(3)  # Else a failure would fill the machine.

def square(n):
    return n * n

with Pool(2, context=multiprocessing.get_context({method!r})) as pool:
    pool.map(square, range(4))
"""
    )
    step = Step(
        "script",
        f"""\
import sys
sys.path.insert(0, {str(tmp_path)!r})
from motorpool import MotorpoolError
try:
    import flat
except MotorpoolError as error:
    print("the module 'flat' uses a pool while it is imported" in str(error))
""",
        printed="True",
    )

    finished = script_file((step,), tmp_path)

    assert step.output_in(finished.stdout) == step.printed, str(finished)
    assert len(set(log.read_text().split())) <= 3


@pytest.mark.skipif("fork" not in METHODS, reason="this platform cannot fork")
def test_forked_worker_inherits_what_cannot_be_sent(tmp_path: Path) -> None:
    """Under fork, a global that was there before the pool is simply there."""
    step = Step(
        "global",
        f"""\
import threading
{IMPORT_POOL}

GATE = threading.Lock()
LINES = (line for line in ["first", "second"])
big = list(range(1000))

def work(n):
    with GATE:
        return next(LINES), len(big), n

with Pool(1) as pool:
    print(pool.map(work, [1]))
""",
        printed="[('first', 1000, 1)]",
    )

    finished = script_file((start_method("fork"), step), tmp_path)

    assert step.output_in(finished.stdout) == step.printed, str(finished)
    assert finished.is_clean, str(finished)
