"""Run a chunk in a process that is not our worker: of an executor, of Ray, of Dask.

The process is never told to start or to leave; `run_remote_chunk` is all that
is called in it. A *program* is what has to be known to run a chunk: a function
and the definitions that it needs, in one pickle. It is unpickled once per
process. An initializer is a program too, and is run once per process and pool.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from math import inf
from time import perf_counter

from motorpool.messages import (
    CALL_ARGUMENTS,
    MIXED_RESULTS,
    NEED,
    NOT_LOADED,
    NOT_STARTED,
    RESULTS,
    UNKNOWN,
    Failure,
    Order,
    Reply,
)
from motorpool.serialization import describe_failure, dump_results, dumps, loads
from motorpool.typed import Any, NamedTuple
from motorpool.worker.run import (
    EXACT,
    Journal,
    NoJournal,
    Pace,
    Running,
    caller,
    run_call,
    run_chunk,
)
from motorpool.worker.sources import Source, install
from motorpool.worker.space import HomeSpace, Missing, Space, space_of

# A process forgets programs beyond so many; they come again when they are needed.
MOST_PROGRAMS = 100

Key = tuple[str, int]


class Program(NamedTuple):
    """What a program's pickle holds."""

    sources: dict[str, Source]
    definitions: bytes | None
    versions: dict[tuple[str, str], int]
    assigned: tuple[tuple[str, str], ...]
    style: int
    function: bytes
    authkey: bytes | None


class _Loaded(NamedTuple):
    space: Space
    sent: Mapping[str, Source]
    call: Any
    func: Any
    pace: Pace
    style: int


class Unknown(Exception):  # noqa: N818 - not an error: an answer to the parent
    """A program came without its text, and is not known here."""


class _NotStarted(Exception):  # noqa: N818 - carries the initializer's failure
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


_programs: "OrderedDict[Key, _Loaded]" = OrderedDict()
_setups: dict[Key, Failure | None] = {}
# Reentrant: an initializer may use a pool on threads of this very process.
_lock = threading.RLock()


def _forget() -> None:
    """In a forked child: what the parent's threads have loaded and set up is not ours."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.RLock()
    _programs.clear()
    _setups.clear()


os.register_at_fork(after_in_child=_forget)


def run_remote_chunk(
    order: Order,
    program: bytes | None,
    setup: bytes | None,
    items: bytes,
    journal: Journal | None = None,
) -> Reply:
    """Run a chunk and return what came of it; raises only what ends the process.

    Parameters
    ----------
    order
        What to run.
    program, setup
        Pickles of the `Program` of the function, and of the initializer if there
        is one. None if this process is expected to know it.
    items
        The pickled items.
    journal
        Where to note what is being run, if anywhere.
    """
    began = perf_counter()
    pid = os.getpid()
    key = order.setup
    try:
        with _lock:
            if key is not None:
                _set_up(key, setup)
            key = order.program
            loaded = _load(key, program)
        arguments = loaded.space.loads(items, loaded.sent)
    except Missing as missing:
        return _reply(NEED, order, dumps((key, missing.module, missing.name)))
    except Unknown as unknown:
        return _reply(UNKNOWN, order, dumps(unknown.args[0]))
    except _NotStarted as error:
        return _reply(NOT_STARTED, order, dumps(error.failure))
    except BaseException as error:
        return _reply(NOT_LOADED, order, dumps(describe_failure(error, pid, "", "", "load")))
    running = Running(order.start, order.stop)
    budget = order.budget if order.budget >= 0 else inf
    pace = EXACT if order.is_exact else loaded.pace
    run_chunk(loaded.call, iter(arguments), running, budget, pace, journal or NoJournal())
    values, errors = running.values, running.errors
    are_calls = loaded.style == CALL_ARGUMENTS
    mixed, payload = dump_results(values, errors, loaded.func, pid, arguments, are_calls=are_calls)
    kind = MIXED_RESULTS if mixed else RESULTS
    return Reply(kind, pid, order.start + len(values), perf_counter() - began, payload)


def _reply(kind: int, order: Order, payload: bytes) -> Reply:
    return Reply(kind, os.getpid(), order.start, 0.0, payload)


def _load(key: Key, pickled: bytes | None, *, is_setup: bool = False) -> _Loaded:
    loaded = _programs.get(key)
    if loaded is not None:
        _programs.move_to_end(key)
        return loaded
    if pickled is None:
        raise Unknown(key)
    program: Program = loads(pickled)
    space = space_of(key[0])
    if program.sources and not isinstance(space, HomeSpace):
        install(program.sources)
    space.authkey = program.authkey or space.authkey
    if program.definitions is not None:
        space.define(program.definitions, program.versions, program.assigned, program.sources)
        if is_setup:
            space.prepared |= program.versions.keys() - program.assigned
    func = space.loads(program.function, program.sources)
    loaded = _programs[key] = _Loaded(
        space, program.sources, caller(func, program.style), func, Pace(), program.style
    )
    while len(_programs) > MOST_PROGRAMS:
        _programs.popitem(last=False)
    return loaded


def _set_up(key: Key, pickled: bytes | None) -> None:
    """Run an initializer, unless it was run here before; one that failed fails for good."""
    if key not in _setups:
        try:
            function, arguments = _load(key, pickled, is_setup=True).func
            _, raised = run_call(function, arguments, {})
        except BaseException as error:
            raised = error
        if isinstance(raised, (Missing, Unknown)):
            raise raised
        _setups[key] = None
        if raised is not None:
            failure = describe_failure(raised, os.getpid(), "", "the initializer", "start")
            _setups[key] = failure
        _programs.pop(key, None)
    failed = _setups[key]
    if failed is not None:
        raise _NotStarted(failed)
