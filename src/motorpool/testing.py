"""Checks that every engine has to pass, for the authors of engines and executors.

Each check is a function of `make_pool`, which is called as `Pool` and returns a
pool on the engine at hand. No check waits longer than `DEADLINE` for anything.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from motorpool.engines.base import Abilities
from motorpool.errors import (
    EngineBrokenError,
    NotPicklableError,
    PoolClosedError,
    PoolTerminatedError,
    TimeoutError,  # noqa: A004 - the stdlib's name
    WorkerLostError,
    WorkerStartError,
)
from motorpool.typed import Any

DEADLINE = 60.0

MakePool = Callable[..., Any]
Check = Callable[[MakePool], None]

CHECKS: dict[str, Check] = {}


def check_engine(make_pool: MakePool, *, leave_out: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Run all checks, and return their names.

    Parameters
    ----------
    make_pool
        Returns a new pool on the engine to be checked. It takes `processes`,
        `initializer`, `initargs` and `maxtasksperchild`, as `Pool` does.
    leave_out
        Names of checks not to run.

    Raises
    ------
    AssertionError
        If checks failed. It names them all; the first one's error is its cause.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from functools import partial
    >>> from motorpool import Pool
    >>> from motorpool.testing import check_engine
    >>> with ThreadPoolExecutor(2) as executor:
    ...     names = check_engine(partial(Pool, engine=executor))
    >>> "results come in order" in names
    True
    """
    failures: dict[str, BaseException] = {}
    names = tuple(name for name in CHECKS if name not in leave_out)
    for name in names:
        try:
            CHECKS[name](make_pool)
        except Exception as error:
            failures[name] = error
    if failures:
        lines = [f"{name}: {type(error).__name__}: {error}" for name, error in failures.items()]
        msg = f"{len(failures)} of {len(names)} checks failed:\n" + "\n".join(lines)
        raise AssertionError(msg) from next(iter(failures.values()))
    return names


def _check(function: Check) -> Check:
    name = function.__name__.removeprefix("_check_").replace("_", " ")
    CHECKS[name] = function
    return function


def _expect(*, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _same(got: object, wanted: object) -> None:
    _expect(holds=got == wanted, otherwise=f"expected {wanted!r:.200}, got {got!r:.200}")


def _raised(kind: type[BaseException], call: Callable[[], object]) -> BaseException:
    try:
        got = call()
    except kind as error:
        return error
    msg = f"expected {kind.__name__}, got {got!r:.200}"
    raise AssertionError(msg)


def _abilities(pool: Any) -> Abilities:
    abilities: Abilities = pool.abilities
    return abilities


# Tasks. Workers import them from here.


def _square(number: int) -> int:
    return number * number


def _add(left: int, right: int = 0, *, extra: int = 0) -> int:
    return left + right + extra


def _fail_at_three(number: int) -> int:
    if number == 3:  # noqa: PLR2004
        msg = f"no {number}"
        raise KeyError(msg)
    return number


def _sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def _same_object(item: Any) -> Any:
    return item


def _return_lock(_item: object) -> Any:
    return threading.Lock()


def _process(_item: object) -> tuple[str, int]:
    return os.uname().nodename, os.getpid()


_kept: dict[str, Any] = {}


def _keep(name: str, value: Any) -> None:
    _kept[name] = value


def _kept_value(name: str) -> Any:
    return _kept.get(name)


# Checks.


@_check
def _check_results_come_in_order(make_pool: MakePool) -> None:
    squares = [number * number for number in range(200)]
    with make_pool(2) as pool:
        _same(pool.map_async(_square, range(200)).get(DEADLINE), squares)
        _same(pool.map_async(_square, range(200), 7).get(DEADLINE), squares)
        _same(pool.starmap_async(_add, [(1, 2), (3, 4)]).get(DEADLINE), [3, 7])
        _same(list(pool.imap(_square, iter(range(200)))), squares)
        _same(sorted(pool.imap_unordered(_square, range(200))), squares)
        _same(pool.apply_async(_add, (1,), {"right": 2, "extra": 3}).get(DEADLINE), 6)
        _same(pool.map_async(_square, []).get(DEADLINE), [])


@_check
def _check_uneven_tasks_are_all_done(make_pool: MakePool) -> None:
    lengths = [0.0] * 300 + [0.1] + [0.0] * 300 + [0.01] * 20
    with make_pool(2) as pool:
        _same(pool.map_async(_sleep, lengths).get(DEADLINE), lengths)


@_check
def _check_an_error_is_its_own_and_the_others_go_on(make_pool: MakePool) -> None:
    with make_pool(2) as pool:
        error = _raised(KeyError, lambda: pool.map_async(_fail_at_three, range(9)).get(DEADLINE))
        _same(error.args, ("no 3",))
        results = pool.imap(_fail_at_three, range(6))
        _same([next(results) for _ in range(3)], [0, 1, 2])
        _raised(KeyError, lambda: results.next(DEADLINE))
        _same(list(results), [4, 5])


@_check
def _check_what_cannot_be_pickled_fails_alone(make_pool: MakePool) -> None:
    with make_pool(2) as pool:
        if _abilities(pool).unpicklable:
            return
        result = pool.map_async(_same_object, [1, threading.Lock(), 3])
        _raised(NotPicklableError, lambda: result.get(DEADLINE))
        _raised(Exception, lambda: pool.apply_async(_return_lock, (0,)).get(DEADLINE))
        _same(pool.apply_async(_square, (3,)).get(DEADLINE), 9)


@_check
def _check_closures_and_local_classes_travel(make_pool: MakePool) -> None:
    class Local:
        def __init__(self, number: int) -> None:
            self.number = number

    def grown(item: Local) -> Local:
        item.number += offset
        return item

    offset = 5
    with make_pool(2) as pool:
        items = pool.map_async(grown, [Local(number) for number in range(100)]).get(DEADLINE)
    _same({type(item) for item in items}, {Local})
    _same([item.number for item in items], list(range(5, 105)))


@_check
def _check_large_items_travel(make_pool: MakePool) -> None:
    data = bytes(5_000_000)
    with make_pool(2) as pool:
        sizes = [len(back) for back in pool.imap(_same_object, [data] * 4)]
    _same(sizes, [len(data)] * 4)


@_check
def _check_an_endless_input_is_read_as_needed(make_pool: MakePool) -> None:
    with make_pool(2) as pool:
        results = pool.imap(_square, itertools.count())
        _same([results.next(DEADLINE) for _ in range(50)], [n * n for n in range(50)])


@_check
def _check_callbacks_are_called(make_pool: MakePool) -> None:
    values: list[Any] = []
    errors: list[BaseException] = []
    with make_pool(2) as pool:
        pool.map_async(_square, range(4), callback=values.append)
        pool.map_async(_fail_at_three, range(4), error_callback=errors.append)
    _same(values, [[0, 1, 4, 9]])
    _same([type(error) for error in errors], [KeyError])


@_check
def _check_an_initializer_runs_first(make_pool: MakePool) -> None:
    with make_pool(2, initializer=_keep, initargs=("motorpool", 42)) as pool:
        _same(set(pool.map_async(_kept_value, ["motorpool"] * 40, 1).get(DEADLINE)), {42})


@_check
def _check_an_initializer_that_raises_is_told(make_pool: MakePool) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with make_pool(2, initializer=fail) as pool:
        error = _raised(WorkerStartError, lambda: pool.map_async(_square, range(9)).get(DEADLINE))
    _expect(
        holds=isinstance(error.__cause__, ZeroDivisionError),
        otherwise=f"the cause is {error.__cause__!r}",
    )


@_check
def _check_recycling_is_done_or_refused(make_pool: MakePool) -> None:
    with make_pool(1) as pool:
        can_recycle = _abilities(pool).maxtasksperchild
        is_here = pool.apply_async(_process, (0,)).get(DEADLINE) == _process(0)
    if not can_recycle:
        _raised(ValueError, lambda: make_pool(1, maxtasksperchild=1))
        return
    with make_pool(1, maxtasksperchild=1) as pool:
        workers = [pool.apply_async(_process, (0,)).get(DEADLINE) for _ in range(3)]
    _expect(holds=is_here or len(set(workers)) > 1, otherwise="one process ran all tasks")


@_check
def _check_a_wait_can_time_out(make_pool: MakePool) -> None:
    with make_pool(1) as pool:
        result = pool.apply_async(_sleep, (0.5,))
        _raised(TimeoutError, lambda: result.get(0.01))
        _same(result.get(DEADLINE), 0.5)


@_check
def _check_a_closed_pool_takes_no_more(make_pool: MakePool) -> None:
    with make_pool(2) as pool:
        result = pool.map_async(_square, range(10))
        pool.close()
        pool.join()
        _same(result.get(0), [number * number for number in range(10)])
        _raised(PoolClosedError, lambda: pool.apply_async(_square, (1,)))


@_check
def _check_terminate_gives_up_what_is_pending(make_pool: MakePool) -> None:
    with make_pool(1) as pool:
        result = pool.map_async(_sleep, [1.0] * 100)
        pool.terminate()
        pool.join()
    _raised(PoolTerminatedError, lambda: result.get(DEADLINE))


@_check
def _check_several_threads_share_a_pool(make_pool: MakePool) -> None:
    with make_pool(2) as pool, ThreadPoolExecutor(4) as threads:

        def use(number: int) -> int:
            return sum(pool.map_async(_square, range(number)).get(DEADLINE))

        results = list(threads.map(use, [100] * 4))
    _same(results, [sum(number * number for number in range(100))] * 4)


@_check
def _check_a_lost_worker_ends_in_an_error(make_pool: MakePool) -> None:
    # The last one: it may cost an executor its life.
    with make_pool(2) as pool:
        if pool.apply_async(_process, (0,)).get(DEADLINE) == _process(0):
            return
        result = pool.apply_async(os._exit, (7,))
        _raised((WorkerLostError, EngineBrokenError), lambda: result.get(DEADLINE))  # type: ignore[arg-type]
        after = pool.map_async(_square, range(4))
        with suppress(WorkerLostError, EngineBrokenError):
            _same(after.get(DEADLINE), [0, 1, 4, 9])


__all__ = ["CHECKS", "DEADLINE", "check_engine"]
