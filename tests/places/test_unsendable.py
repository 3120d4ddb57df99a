"""What cannot be sent to a worker is refused at the call, by name."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import re
import threading
import traceback
from typing import TYPE_CHECKING

import pytest

import motorpool

from .places import script_file
from .steps import IMPORT_POOL, Step, start_method

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE = 30

METHODS = multiprocessing.get_all_start_methods()


class Connection:
    """Holds a lock, which belongs to one process."""

    def __init__(self) -> None:
        """Make the lock."""
        self.gate = threading.Lock()


class Client:
    """A callable that cannot leave its process."""

    def __init__(self) -> None:
        """Connect."""
        self.conn = Connection()

    def __call__(self, n: int) -> int:
        """Return `n`."""
        return n

    def fetch(self, n: int) -> int:
        """Return `n`."""
        return n


def guarded() -> Callable[[int], int]:
    """Return a closure over a lock."""
    gate = threading.Lock()

    def enter(n: int) -> int:
        with gate:
            return n

    return enter


def calls_guarded() -> Callable[[int], int]:
    """Return a closure over a closure over a lock."""
    inner = guarded()
    return lambda n: -inner(n)


def with_option(n: int, option: object = None) -> int:
    """Return `n`, whatever the option."""
    return n if option is None else -n


def defaults_to_gate() -> Callable[[int], int]:
    """Return a function with a lock for a default."""
    lock = threading.Lock()
    return lambda n, gate=lock: with_option(n, gate)


class Secretive:
    """Refuses to be pickled, from a function of its own."""

    def __getstate__(self) -> object:
        """Refuse."""
        msg = "what is mine stays mine"
        raise TypeError(msg)


# How to make it, and the names that lead from it to what fails, in order.
CULPRITS: dict[str, tuple[Callable[[], Callable[[int], int]], list[str]]] = {
    "closure": (guarded, ["enter", "gate"]),
    "nested closure": (calls_guarded, ["inner", "gate"]),
    "callable object": (Client, ["Client", "conn", "gate"]),
    "bound method": (lambda: Client().fetch, ["Client", "conn", "gate"]),
    "partial": (
        lambda: functools.partial(with_option, option=threading.Lock()),
        ["with_option|partial", "option"],
    ),
    "default": (defaults_to_gate, ["default", "gate"]),
}

CALLS: dict[str, Callable[[motorpool.Pool, Callable[[int], int]], object]] = {
    "apply": lambda pool, function: pool.apply(function, (1,)),
    "apply_async": lambda pool, function: pool.apply_async(function, (1,)),
    "map": lambda pool, function: pool.map(function, [1, 2]),
    "map_async": lambda pool, function: pool.map_async(function, [1, 2]),
    "starmap": lambda pool, function: pool.starmap(function, [(1,), (2,)]),
    "starmap_async": lambda pool, function: pool.starmap_async(function, [(1,), (2,)]),
    "imap": lambda pool, function: pool.imap(function, [1, 2]),
    "imap_unordered": lambda pool, function: pool.imap_unordered(function, [1, 2]),
}


def names_in_order(names: list[str]) -> re.Pattern[str]:
    """Return a pattern for a text that has these words, in this order."""
    return re.compile(".*".join(rf"\b({name})\b" for name in names), re.DOTALL)


def test_error_is_what_old_code_catches() -> None:
    """`except pickle.PicklingError` catches it, and so does motorpool's own root."""
    assert issubclass(motorpool.NotPicklableError, pickle.PicklingError)
    assert issubclass(motorpool.NotPicklableError, motorpool.MotorpoolError)


def test_unsendable_function_is_refused_with_the_path(process_pool: motorpool.Pool) -> None:
    """The message leads from the function to the part that cannot be sent."""
    for make, path in CULPRITS.values():
        with pytest.raises(motorpool.NotPicklableError) as caught:
            process_pool.map_async(make(), [1, 2, 3])

        assert names_in_order(path).search(str(caught.value)), str(caught.value)


def test_unsendable_function_is_refused_at_the_call(process_pool: motorpool.Pool) -> None:
    """No method waits for `get`, or for the first `next`, to refuse a function."""
    for call in CALLS.values():
        with pytest.raises(motorpool.NotPicklableError):
            call(process_pool, guarded())


def test_pool_goes_on_after_a_refusal(process_pool: motorpool.Pool) -> None:
    """A refused call leaves nothing behind in the pool."""
    with pytest.raises(motorpool.NotPicklableError):
        process_pool.map_async(guarded(), [1, 2, 3])

    assert process_pool.map_async(abs, [-1, 2, -3]).get(DEADLINE) == [1, 2, 3]


def test_unsendable_item_is_refused_by_its_result(process_pool: motorpool.Pool) -> None:
    """An item that cannot be sent fails its own call, with the path to the part."""
    with pytest.raises(motorpool.NotPicklableError) as caught:
        process_pool.map_async(id, [Connection()]).get(DEADLINE)

    assert names_in_order(["Connection", "gate"]).search(str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
    "send",
    [
        lambda pool: pool.map_async(id, [Connection()]).get(DEADLINE),
        lambda pool: pool.apply(id, (Connection(),)),
        lambda pool: pool.map(guarded(), [1]),
    ],
    ids=["item", "argument", "function"],
)
def test_refusal_says_no_more_than_it_has_to(
    process_pool: motorpool.Pool, send: Callable[[motorpool.Pool], object]
) -> None:
    """The pickler's error is its cause, without the frames of picklers, and it has one name."""
    with pytest.raises(motorpool.NotPicklableError) as caught:
        send(process_pool)
    shown = "".join(traceback.format_exception(caught.value))

    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__traceback__ is None
    assert caught.value.__cause__.__cause__ is None
    # Once by the cause, once by the error itself.
    assert shown.count("cannot pickle '_thread.lock' object") == 2
    assert type(caught.value).__module__ == "motorpool.errors"


def test_refusal_of_a_class_shows_where_it_refuses(process_pool: motorpool.Pool) -> None:
    """A `__getstate__` that raises is in the traceback, and nothing that led to it."""
    with pytest.raises(motorpool.NotPicklableError) as caught:
        process_pool.map(id, [Secretive()])
    shown = "".join(traceback.format_exception(caught.value.__cause__))

    assert shown.count("in __getstate__") == 1
    assert "cloudpickle" not in shown
    assert "serialization" not in shown


@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
def test_unsendable_global_is_named(tmp_path: Path, method: str) -> None:
    """A function of a script that needs a global lock learns which one stays behind."""
    step = Step(
        "global",
        f"""\
import pickle
import threading
{IMPORT_POOL}

GATE = threading.Lock()

def enter(n):
    with GATE:
        return n

with Pool(1) as pool:
    try:
        print(pool.map_async(enter, [1]).get({DEADLINE}))
    except pickle.PicklingError as error:
        print("GATE" in str(error), type(error).__name__)
""",
        printed="True NotPicklableError",
    )

    finished = script_file((start_method(method), step), tmp_path)

    assert step.output_in(finished.stdout) == step.printed, str(finished)
    assert finished.is_clean, str(finished)


@pytest.mark.parametrize("method", METHODS)
def test_socket_is_sent_as_multiprocessing_sends_it(tmp_path: Path, method: str) -> None:
    """A socket is not among the unsendable: the stdlib's pool hands it over, so does ours."""
    step = Step(
        "socket",
        f"""\
import socket
{IMPORT_POOL}

def name(server):
    return server.getsockname()

with socket.create_server(("127.0.0.1", 0)) as server:
    with Pool(1) as pool:
        print(pool.map_async(name, [server]).get({DEADLINE}) == [server.getsockname()])
""",
        printed="True",
    )

    finished = script_file((start_method(method), step), tmp_path)

    assert step.output_in(finished.stdout) == step.printed, str(finished)
    assert finished.is_clean, str(finished)
