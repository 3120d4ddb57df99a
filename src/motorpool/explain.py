"""Find the part of an object that cannot be pickled, for the error that names it."""

import functools
import pickle
import types
from collections.abc import Iterator
from contextlib import suppress

from motorpool.describe import error_text, function_name, short_repr
from motorpool.errors import NotPicklableError
from motorpool.interrupts import pass_on_interrupt
from motorpool.serialization import dumps
from motorpool.typed import Any

_DEPTH = 12
_WIDTH = 1000
_PICKLERS = ("motorpool", "cloudpickle")
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def not_picklable(what: str, obj: object, error: BaseException) -> NotPicklableError:
    """Return the error for `obj`, with the path to the part that fails.

    Its cause is `error`, with a traceback that begins in the user's code, if any
    of that was called.
    """
    path, part = find_unpicklable(obj)
    refused = _refusal(error, f"{what} {_name(obj)}", path, short_repr(part), error_text(error))
    refused.__cause__ = _without_picklers(error)
    return refused


def _without_picklers(error: BaseException) -> BaseException:
    """Drop the frames that lead to the user's own, to a `__getstate__` for instance."""
    traceback = _TRACEBACK.__get__(error)
    while traceback is not None and _is_of_picklers(traceback.tb_frame):
        traceback = traceback.tb_next
    _TRACEBACK.__set__(error, traceback)
    return error


def _is_of_picklers(frame: types.FrameType) -> bool:
    module: str = frame.f_globals.get("__name__") or ""
    return module.partition(".")[0] in _PICKLERS


def _refusal(error: BaseException, *told: str) -> NotPicklableError:
    """Return a NotPicklableError that `except` clauses for the pickler's own error catch too."""
    if not isinstance(error, pickle.PicklingError):
        # Not all classes can be combined, or made of these arguments.
        with suppress(Exception):
            named = {"__module__": NotPicklableError.__module__}
            kind = type("NotPicklableError", (NotPicklableError, type(error)), named)
            refused: NotPicklableError = kind(*told)
            return refused
    return NotPicklableError(*told)


def _name(obj: object) -> str:
    return function_name(obj) if callable(obj) else short_repr(obj)


def find_unpicklable(obj: object) -> tuple[str, object]:
    """Return the path to the innermost part that fails, and that part."""
    path = ""
    seen = {id(obj)}
    try:
        for _ in range(_DEPTH):
            if _refuses(obj):
                break
            for step, part in _parts(obj):
                if id(part) not in seen and not _can_be_sent(part):
                    seen.add(id(part))
                    path, obj = path + step, part
                    break
            else:
                break
    except BaseException as error:  # An object may refuse to be looked at.
        pass_on_interrupt(error)
    return path, obj


def _refuses(obj: Any) -> bool:
    """Tell whether it is `obj` itself that raises, so that none of its parts is to blame."""
    if isinstance(obj, (type, types.FunctionType)):  # cloudpickle has its own ways with them
        return False
    try:
        obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        pass_on_interrupt(error)
        return True
    return False


def _can_be_sent(part: object) -> bool:
    try:
        dumps(part)
    except BaseException as error:
        pass_on_interrupt(error)
        return False
    return True


def _parts(obj: Any) -> Iterator[tuple[str, object]]:
    if isinstance(obj, functools.partial):
        yield ".func", obj.func
        yield from ((f".args[{i}]", part) for i, part in enumerate(obj.args))
        yield from ((f".keywords[{key!r}]", part) for key, part in obj.keywords.items())
    elif isinstance(obj, types.MethodType):
        yield ".__self__", obj.__self__
    elif isinstance(obj, types.FunctionType):
        yield from _parts_of_function(obj)
    elif isinstance(obj, dict):
        yield from ((f"[{short_repr(key)}]", part) for key, part in list(obj.items())[:_WIDTH])
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{i}]", part) for i, part in enumerate(obj[:_WIDTH]))
    elif isinstance(obj, (set, frozenset)):
        yield from (("{...}", part) for part in obj)
    try:
        state = dict(vars(obj)) if not isinstance(obj, (type, types.FunctionType)) else {}
    except TypeError:
        state = {}
    for slot in getattr(type(obj), "__slots__", ()) or ():
        if isinstance(slot, str) and hasattr(obj, slot):
            state[slot] = getattr(obj, slot)
    yield from ((f".{name}", part) for name, part in state.items())


def _parts_of_function(func: types.FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=False):
        try:
            yield f" its closure variable {name!r}", cell.cell_contents
        except ValueError:
            continue
    defaults = func.__defaults__ or ()
    code = func.__code__
    named = zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False)
    yield from ((f" the default of {name!r}", part) for name, part in named)
    yield from (
        (f" the default of {name!r}", part) for name, part in (func.__kwdefaults__ or {}).items()
    )
    names = code.co_names
    yield from (
        (f" the global {name!r}", func.__globals__[name])
        for name in names
        if name in func.__globals__
    )
