"""A cell is changed and run again: a pool made before that follows."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from .steps import IMPORT_POOL, Step, start_method

if TYPE_CHECKING:
    from .conftest import RunOnce
    from .places import Run

STEPS = (
    Step("pool", f"{IMPORT_POOL}\npool = Pool(2)"),
    Step(
        "function",
        """\
def f(n):
    return n + 1

print(pool.map(f, [1, 2, 3]))
""",
        printed="[2, 3, 4]",
    ),
    Step(
        "function again",
        """\
def f(n):
    return n * 10

print(pool.map(f, [1, 2, 3]))
""",
        printed="[10, 20, 30]",
    ),
    Step(
        "class",
        """\
class Guest:
    def __init__(self, name):
        self.name = name
    def greet(self):
        return "hello " + self.name

def shout(guest):
    guest.name = guest.name.upper()
    return guest

def greeting(guest):
    return guest.greet()

early = Guest("eve")
print([guest.greet() for guest in pool.map(shout, [Guest("ann"), Guest("bob")])])
print(pool.map(greeting, [Guest("ann"), Guest("bob")]))
""",
        printed="['hello ANN', 'hello BOB']\n['hello ann', 'hello bob']",
    ),
    Step(
        "class again",
        """\
class Guest:
    def __init__(self, name):
        self.name = name
    def greet(self):
        return "goodbye " + self.name

back = pool.map(shout, [Guest("ann"), Guest("bob")])
print([guest.greet() for guest in back])
print(pool.map(greeting, [Guest("ann"), Guest("bob")]))
""",
        printed="['goodbye ANN', 'goodbye BOB']\n['goodbye ann', 'goodbye bob']",
        check="assert all(type(guest) is Guest for guest in back)",
    ),
    Step(
        "object of the former class",
        "print(early.greet(), pool.map(greeting, [early]))",
        printed="hello eve ['hello eve']",
    ),
    Step(
        "class made in the worker",
        """\
def invite(name):
    return Guest(name)

print([type(guest) is Guest for guest in pool.map(invite, ["ann", "bob"])])
""",
        printed="[True, True]",
    ),
    Step(
        "constant",
        """\
FACTOR = 2

def scale(n):
    return n * FACTOR

print(pool.map(scale, [1, 2, 3]))
""",
        printed="[2, 4, 6]",
    ),
    Step(
        "constant again",
        """\
FACTOR = 3

def scale(n):
    return n * FACTOR

print(pool.map(scale, [1, 2, 3]))
""",
        printed="[3, 6, 9]",
    ),
    Step(
        "new constant of a changed function",
        """\
OFFSET = 100

def scale(n):
    return n * FACTOR + OFFSET

print(pool.map(scale, [1, 2, 3]))
""",
        printed="[103, 106, 109]",
    ),
    Step(
        "helper",
        """\
def helper(n):
    return n + 1

def caller(n):
    return helper(n)

print(pool.map(caller, [1, 2, 3]))
""",
        printed="[2, 3, 4]",
    ),
    Step(
        "helper again",
        """\
def helper(n):
    return n - 1

print(pool.map(caller, [1, 2, 3]))
""",
        printed="[0, 1, 2]",
    ),
    Step("close", "pool.close()\npool.join()"),
)


@pytest.fixture(scope="session", params=multiprocessing.get_all_start_methods())
def method(request: pytest.FixtureRequest) -> str:
    """Each start method."""
    return request.param


@pytest.fixture(scope="session", params=["prompt", "exec_cells", "ipython", "jupyter"])
def finished(request: pytest.FixtureRequest, method: str, run_once: RunOnce) -> Run:
    """All the cells, run one by one in a place that keeps its names."""
    return run_once(request.param, (start_method(method), *STEPS))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_cell_sees_current_definitions(finished: Run, step: Step) -> None:
    """A cell gives what it would give without a pool, whatever was defined before."""
    assert step.output_in(finished.stdout) == step.printed, str(finished)


def test_session_ends_cleanly(finished: Run) -> None:
    """The session ends by itself and complains about nothing."""
    assert finished.is_clean, str(finished)
