"""Turn what a worker sent of a failure into the exception that the caller sees."""

import sys
from collections.abc import Sequence
from contextlib import suppress

from motorpool.describe import format_traceback, short_repr
from motorpool.errors import (
    MotorpoolError,
    RemoteTraceback,
    ResultNotLoadedError,
    ResultNotPicklableError,
)
from motorpool.interrupts import pass_on_interrupt
from motorpool.messages import Failure
from motorpool.serialization import loads, unpack_error
from motorpool.typed import Any
from motorpool.worker.page import entries

_NOTES_ARE_SHOWN = sys.version_info >= (3, 11)
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def rebuild(failure: Failure, index: int | None = None) -> BaseException:
    """Return the task's own exception, with the worker's traceback as its cause and a note."""
    if failure.is_call:
        index = 0
    if failure.kind == "result":
        text, value, function, pid = failure.text, failure.item, failure.function, failure.pid
        return ResultNotPicklableError(text, value, function, pid, index)
    error = _unpack(failure)
    if failure.kind == "load":
        refused = ResultNotLoadedError(
            f"item {index} arrived at worker {failure.pid} and could not be rebuilt there: "
            f"{failure.text}. Often its class, or a module it needs, differs or is missing there."
        )
        refused.__cause__ = error
        return refused
    text = failure.traceback
    if index is not None:
        where = f"item {index}, {failure.item}, of {failure.function} in worker {failure.pid}"
        note(error, where)
        if not _NOTES_ARE_SHOWN:
            text += f"{where}\n"
    _hang_traceback(error, text)
    return error


def _unpack(failure: Failure) -> BaseException:
    if failure.pickled is not None:
        try:
            return unpack_error(failure.pickled)
        except BaseException:  # noqa: S110 - a stand-in then
            pass
    return _stand_in(failure)


def _stand_in(failure: Failure) -> BaseException:
    """Return an exception of the same name and text, for one that cannot travel."""
    kind = type(failure.type_name, (MotorpoolError,), {"__module__": "motorpool.errors"})
    error: BaseException = kind(failure.text)
    return error


def _hang_traceback(error: BaseException, text: str) -> None:
    """Make the worker's traceback the cause, and the task's own cause the context of that."""
    # In the form that `multiprocessing.pool` gives it.
    remote = RemoteTraceback(f'\n"""\n{text}"""')
    # By way of the base class: the error's own may refuse, a frozen dataclass for instance.
    # There to be found, but not shown again: the text has it.
    remote.__context__ = _CAUSE.__get__(error)
    remote.__suppress_context__ = True
    _CAUSE.__set__(error, remote)


def without_frames(error: BaseException) -> BaseException:
    """Return an error that is kept for a caller, with its traceback as text.

    Frames refer to all who led to them. If the caller's own are among them, because
    it was driving, an iterator would never be seen to be dropped.
    """
    text = format_traceback(error)
    has_frames = False
    left: list[Any] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        has_frames = has_frames or _TRACEBACK.__get__(one) is not None
        _TRACEBACK.__set__(one, None)
        left += [_CAUSE.__get__(one), _CONTEXT.__get__(one)]
    if has_frames:
        _hang_traceback(error, text)
    return error


def note(error: BaseException, text: str) -> None:
    """Add a note, which tracebacks show from Python 3.11 on."""
    with suppress(Exception):  # An exception that takes none goes without.
        add_note = getattr(error, "add_note", None)  # Python 3.11
        if add_note is not None:
            add_note(text)
        else:
            error.__notes__ = [*getattr(error, "__notes__", []), text]  # type: ignore[attr-defined]


def load_results(
    payload: bytes, start: int, buffers: Sequence[memoryview] = (), *, mixed: bool
) -> tuple[list[Any], dict[int, BaseException] | None]:
    """Return the values of a results frame, and exceptions by offset."""
    broken: list[BaseException | None] = []
    try:
        loaded = loads(payload, buffers=buffers)
    except BaseException as fault:
        pass_on_interrupt(fault)
        from motorpool.tolerant import load_tolerantly

        loaded, broken = load_tolerantly(payload, buffers)
    if not mixed and not broken:
        return loaded, None
    values, failures = loaded if mixed else (loaded, {})
    errors: dict[int, BaseException] = {
        offset: rebuild(failure, start + offset) for offset, failure in failures.items()
    }
    for offset, error in enumerate(broken):
        if error is not None:
            errors[offset] = _not_loaded(error, start + offset)
    return values, errors


def load_noted(payload: bytes, start: int) -> tuple[list[Any], dict[int, BaseException] | None]:
    """Return what `load_results` returns, of results that were sent as a worker's journal."""
    values: list[Any] = []
    try:
        for _, _, pickled in entries(payload):
            values += loads(pickled)
    except BaseException as fault:
        pass_on_interrupt(fault)
        return _load_noted_tolerantly(payload, start)
    return values, None


def _load_noted_tolerantly(
    payload: bytes, start: int
) -> tuple[list[Any], dict[int, BaseException] | None]:
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    for _, _, pickled in entries(payload):
        at = len(values)
        some, broken = load_results(bytes(pickled), start + at, mixed=False)
        values += some
        if broken:
            errors.update((at + offset, error) for offset, error in broken.items())
    return values, errors or None


def refuse_results(
    error: BaseException, start: int, stop: int
) -> tuple[list[Any], dict[int, BaseException]]:
    """Return what `load_results` returns, of results of which none can be had."""
    errors: dict[int, BaseException] = {
        index - start: _not_loaded(error, index) for index in range(start, stop)
    }
    return [None] * (stop - start), errors


def _not_loaded(error: BaseException, index: int) -> ResultNotLoadedError:
    refused = ResultNotLoadedError(
        f"the result of item {index} arrived and could not be rebuilt here: "
        f"{short_repr(error, 1000)}"
    )
    refused.__cause__ = without_frames(error)
    return refused
