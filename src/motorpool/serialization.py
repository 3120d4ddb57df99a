"""Objects to bytes and back.

The C pickler goes first, because it is many times faster; cloudpickle takes
what it refuses: lambdas, closures, local classes. Functions and classes of
`__main__` are always named, never copied, except in a *definition* (see
`definitions.py`), so that both sides mean the same class by the same name.
"""

import copyreg
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable, Sequence

from motorpool.describe import format_traceback, function_name, short_repr
from motorpool.interrupts import pass_on_interrupt
from motorpool.messages import Failure
from motorpool.reducers import reducers
from motorpool.typed import Any, ClassVar, cast

PROTOCOL = 5

loads = pickle.loads

BufferCallback = Callable[[pickle.PickleBuffer], object]
Dumps = Callable[[Any], bytes]


def dumps(
    obj: object, found: list[memoryview] | None = None, take: BufferCallback | None = None
) -> bytes:
    """Return `obj` pickled; raises what the pickler raised if it cannot be.

    `take` is the pickler's `buffer_callback`, and `found` where it puts what it takes.
    """
    try:
        table = reducers()
        if table is None:
            return pickle.dumps(obj, PROTOCOL, buffer_callback=take)
        file = io.BytesIO()
        pickler = pickle.Pickler(file, PROTOCOL, buffer_callback=take)
        pickler.dispatch_table = table
        pickler.dump(obj)
        return file.getvalue()
    except BaseException as error:
        pass_on_interrupt(error)
    # Not while that is handled: what the first pickler refuses is no news if the second does.
    from motorpool.cloud import dumps_by_value

    if found:
        found.clear()
    try:
        return dumps_by_value(obj, take)
    except Exception:
        raise
    except BaseException as error:
        pass_on_interrupt(error)
        msg = f"pickling it raised {short_repr(error)}"
        raise pickle.PicklingError(msg) from error


# A pickle of at least this size is worth a block of shared memory (`buffers.py`).
LARGE_PICKLE = 1 << 18
# What no reducer has a say in.
PLAIN = frozenset({int, float, str, bytes, bool, type(None)})


def dumps_call(items: Any) -> bytes | None:
    """Return a small `[(args, kwds)]` of numbers and the like pickled: quicker than `dumps`."""
    args, kwds = items[0]
    if kwds or len(args) > 4 or not PLAIN.issuperset(map(type, args)):  # noqa: PLR2004
        return None
    payload = pickle.dumps(items, PROTOCOL)
    return payload if len(payload) < LARGE_PICKLE else None


class Pickled:
    """Stands in a list that is pickled for an object that was pickled by itself.

    So it comes out as it was then, and shares nothing with the rest of the list.
    `shown` is what stands for it in messages: it is not loaded for that, since
    loading is what may be wrong with it.
    """

    __slots__ = ("_data", "_shown")

    def __init__(self, data: bytes, shown: object = None) -> None:
        self._data = data
        self._shown = shown

    def __reduce__(self) -> tuple[Any, ...]:
        """Come out as the object."""
        return loads, (self._data,)

    def __repr__(self) -> str:
        """Look like the object."""
        return repr(self._shown)


def dump_parts(values: Iterable[Any], refused: Callable[[int, Exception], None]) -> list[Any]:
    """Return `values`, with None and a call of `refused` for each that cannot be pickled."""
    kept: list[Any] = []
    for offset, value in enumerate(values):
        try:
            dumps(value)
        except Exception as error:
            refused(offset, error)
            kept.append(None)
        else:
            kept.append(value)
    return kept


def describe_failure(
    error: BaseException, pid: int, item: str, function: str, kind: str = "task"
) -> Failure:
    """Return `error` in a form that always arrives."""
    return Failure(
        pickle_error(error),
        type(error).__qualname__,
        short_repr(error, 1000),
        format_traceback(error),
        pid,
        item,
        function,
        kind,
    )


def pickle_error(error: BaseException) -> bytes | None:
    """Return `error` pickled in a form that was seen to load again, None if there is none.

    `BaseException.__reduce__` calls the class with `args`, which fails for a
    class whose `__init__` asks for something else, so such an exception is
    rebuilt without calling `__init__` (python/cpython#103061). Its cause,
    context and notes travel with it, which plain pickling drops.
    """
    for pack in (_pack_whole, _pack_state):
        try:
            pickled = dumps(pack(error))
            unpack_error(pickled)
        except BaseException:  # noqa: S112 - the next form, or none
            continue
        return pickled
    return None


# Attributes of exceptions, whatever a class of them does when they are set.
_CHAIN: Any = BaseException.__dict__


def _pack_chain(error: BaseException) -> tuple[bytes | None, bytes | None, bool]:
    cause = _CHAIN["__cause__"].__get__(error)
    context = _CHAIN["__context__"].__get__(error)
    return (
        pickle_error(cause) if cause is not None else None,
        pickle_error(context) if context is not None and context is not cause else None,
        error.__suppress_context__,
    )


def _pack_whole(error: BaseException) -> tuple[Any, ...]:
    reducer = copyreg.dispatch_table.get(type(error))
    if getattr(reducer, "__module__", None) == "tblib.pickling_support":
        # Dask has it installed. Of an exception whose class has an `__init__`
        # in C it loses what is not in its `__dict__`, the code of SystemExit say.
        return _ByItself(error), _pack_chain(error)
    return error, _pack_chain(error)


class _ByItself:
    """Stands in a pickle for an exception that is reduced by its own class."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return self._error.__reduce_ex__(PROTOCOL)


def _pack_state(error: BaseException) -> tuple[Any, ...]:
    state = {}
    for name, value in vars(error).items():
        part = _with_errors_apart(value)
        try:
            dumps(part)
        except Exception:  # noqa: S112 - that attribute stays behind
            continue
        state[name] = part
    args = _with_errors_apart(tuple(error.args))
    try:
        dumps(args)
    except Exception:
        args = tuple(short_repr(arg, 1000) for arg in error.args)
    return type(error), args, state, _pack_chain(error)


def _with_errors_apart(part: Any) -> Any:
    """Return a part of an exception with those in it, of a group say, in a form that arrives."""
    if isinstance(part, BaseException):
        pickled = pickle_error(part)
        return part if pickled is None else _Packed(pickled)
    if type(part) in (list, tuple):
        return type(part)(map(_with_errors_apart, part))
    return part


class _Packed:
    """Stands in a pickle for an exception that was packed by itself."""

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return unpack_error, (self._pickled,)


def unpack_error(pickled: bytes) -> BaseException:
    """Return the exception that `pickle_error` packed."""
    packed = loads(pickled)
    if len(packed) == 4:  # noqa: PLR2004 - the form of _pack_state
        kind, args, state, chain = packed
        error = kind.__new__(kind, *args)
        _CHAIN["args"].__set__(error, args)
        error.__dict__.update(state)
    else:
        error, chain = packed
    if not isinstance(error, BaseException):
        msg = f"an exception came back as {type(error).__name__}"
        raise TypeError(msg)
    cause, context, suppress = chain
    if cause is not None:
        _CHAIN["__cause__"].__set__(error, unpack_error(cause))
    if context is not None:
        _CHAIN["__context__"].__set__(error, unpack_error(context))
    _CHAIN["__suppress_context__"].__set__(error, suppress)
    return error


def dump_results(
    values: list[Any],
    errors: dict[int, BaseException],
    func: object,
    pid: int,
    items: list[Any],
    dumps: Dumps = dumps,
    *,
    are_calls: bool = False,
) -> tuple[bool, bytes]:
    """Return whether there are failures, and the frame's payload.

    A value that cannot be pickled becomes a failure of its own item.
    """
    if not errors:
        try:
            return False, dumps(values)
        except Exception:  # noqa: S110 - some value does not pickle: see below which
            pass

    def failure(offset: int, error: BaseException, kind: str) -> Failure:
        item, name = short_repr(items[offset]), function_name(func)
        return describe_failure(error, pid, item, name, kind)._replace(is_call=are_calls)

    failures = {offset: failure(offset, error, "task") for offset, error in errors.items()}
    try:
        payload = dumps((values, failures) if failures else values)
    except Exception:

        def refused(offset: int, error: Exception) -> None:
            failures[offset] = failure(offset, error, "result")._replace(
                item=short_repr(values[offset])
            )

        payload = dumps((dump_parts(values, refused), failures))
    return bool(failures), payload


def dump_result(
    value: object,
    error: BaseException | None,
    func: object,
    item: object,
    dumps: Dumps = dumps,
) -> tuple[bool, bytes]:
    """Return what `dump_results` returns of one item; quicker if it is a number or the like."""
    if error is None and type(value) in PLAIN:
        payload = pickle.dumps([value], PROTOCOL)
        if len(payload) < LARGE_PICKLE:
            return False, payload
    errors = {} if error is None else {0: error}
    return dump_results([value], errors, func, os.getpid(), [item], dumps)


class LoadedBroken:
    """Stands where a part of a result could not be rebuilt."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __setstate__(self, _state: object) -> None:
        """Take nothing of what was to be there."""


def load_tolerantly(
    payload: bytes, buffers: Sequence[memoryview] = ()
) -> tuple[Any, list[BaseException | None]]:
    """Return a list of values of which some do not unpickle, and the error of each, or None.

    The slow way, taken only after the fast one has failed, to spare the items
    that travelled in the same frame as a broken one.
    """
    value = cast("Any", _TolerantUnpickler(io.BytesIO(payload), buffers=buffers).load())
    values = value[0] if isinstance(value, tuple) else value
    return value, [_find_broken(part) for part in values]


_Unpickler: Any = pickle._Unpickler  # noqa: SLF001 - the one in Python


class _TolerantUnpickler(_Unpickler):  # type: ignore[misc]
    """The pure-Python unpickler, with a stand-in for each object that raises while it is made."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def _make(self, load: Callable[[Any], None], drop: int) -> None:
        """Make an object of the topmost `drop` entries of the stack."""
        stack = list(self.stack)
        parts = stack[len(stack) - drop :]
        try:
            load(self)
        except BaseException as error:
            pass_on_interrupt(error)
            self.stack[:] = stack[: len(stack) - drop]
            # One that lacks a broken part is broken by that.
            first = next((part for part in parts if type(part) is LoadedBroken), None)
            self.append(first or LoadedBroken(error))

    def _fill(self, load: Callable[[Any], None]) -> None:
        """Fill the object below what it is to be filled with."""
        try:
            load(self)
        except BaseException as error:
            pass_on_interrupt(error)
            half_made = self.stack[-1]
            if type(half_made) is not LoadedBroken:
                self.stack[-1] = broken = LoadedBroken(error)
                # Nobody else who refers to it is to get it half made.
                for number, known in self.memo.items():
                    if known is half_made:
                        self.memo[number] = broken

    def _gather(self, load: Callable[[Any], None]) -> None:
        """Make an object of all above the last mark."""
        try:
            load(self)
        except BaseException as error:
            pass_on_interrupt(error)
            self.append(LoadedBroken(error))


def _tolerant(way: Callable[..., None], opcode: bytes, *drop: int) -> None:
    load = _TolerantUnpickler.dispatch[opcode[0]]
    _TolerantUnpickler.dispatch[opcode[0]] = lambda self: way(self, load, *drop)


# How many entries each opcode takes off the stack before it pushes one.
_tolerant(_TolerantUnpickler._make, pickle.REDUCE, 2)
_tolerant(_TolerantUnpickler._make, pickle.NEWOBJ, 2)
_tolerant(_TolerantUnpickler._make, pickle.NEWOBJ_EX, 3)
_tolerant(_TolerantUnpickler._make, pickle.STACK_GLOBAL, 2)
# An `append`, `__setitem__` or `__hash__` of users' may raise just as well.
for _opcode in (
    pickle.BUILD,
    pickle.APPEND,
    pickle.APPENDS,
    pickle.SETITEM,
    pickle.SETITEMS,
    pickle.ADDITEMS,
):
    _tolerant(_TolerantUnpickler._fill, _opcode)  # noqa: SLF001
_tolerant(_TolerantUnpickler._gather, pickle.FROZENSET)  # noqa: SLF001


def _find_broken(value: object) -> BaseException | None:
    found: list[BaseException] = []

    class Finder(pickle.Pickler):
        def persistent_id(self, obj: object) -> str | None:
            if isinstance(obj, LoadedBroken):
                found.append(obj.error)
                return "broken"
            return None

    try:
        Finder(io.BytesIO(), PROTOCOL).dump(value)
    except BaseException as error:
        pass_on_interrupt(error)
        # It came by value perhaps, and would go so: that does not make it broken.
        found += _broken_within(value)
    return found[0] if found else None


def _broken_within(value: object) -> list[BaseException]:
    """Return the errors of what is broken in a value that cannot be pickled again."""
    import gc

    found: list[BaseException] = []
    seen: set[int] = set()
    left = [value]
    while left:
        part = left.pop()
        if id(part) in seen or isinstance(part, (type, types.ModuleType)):
            continue
        seen.add(id(part))
        if type(part) is LoadedBroken:
            found.append(part.error)
        elif isinstance(part, types.FunctionType):  # not its globals
            left += [part.__closure__, part.__defaults__, part.__dict__]
        else:
            left += gc.get_referents(part)
    return found


def is_main_function(func: object) -> bool:
    """Tell whether `func` is a plain function that `__main__` knows by its name."""
    return (
        type(func) is types.FunctionType
        and func.__module__ == "__main__"
        and vars(sys.modules["__main__"]).get(func.__qualname__) is func
    )


__all__ = [
    "LARGE_PICKLE",
    "PLAIN",
    "PROTOCOL",
    "LoadedBroken",
    "Pickled",
    "describe_failure",
    "dump_parts",
    "dump_result",
    "dump_results",
    "dumps",
    "dumps_call",
    "is_main_function",
    "load_tolerantly",
    "loads",
    "pickle_error",
    "unpack_error",
]
