"""Objects to bytes and back.

The C pickler goes first, because it is many times faster; cloudpickle takes
what it refuses: lambdas, closures, local classes. Functions and classes of
`__main__` are always named, never copied, except in a *definition* (see
`definitions.py`), so that both sides mean the same class by the same name.
"""

import builtins
import copyreg
import io
import os
import pickle
import sys
import types
from collections.abc import Callable, Iterable

from motorpool.describe import format_traceback, function_name, short_repr
from motorpool.interrupts import pass_on_interrupt
from motorpool.messages import Failure
from motorpool.reducers import reducers
from motorpool.typed import Any, NamedTuple

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

        payload = dumps((_dump_parts(values, refused), failures))
    return bool(failures), payload


def _dump_parts(values: Iterable[Any], refused: Callable[[int, Exception], None]) -> list[Any]:
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


# Exceptions


def pickle_error(error: BaseException) -> bytes | None:
    """Return `error` pickled in a form that was seen to load again, None if there is none.

    Its cause, context and notes travel with it, which plain pickling drops:
    as a list of exceptions, each pickled once however many of the others
    refer to it, and of the links between them, which may go round in circles.
    """
    packed = _Packed()
    place = packed.place(error)
    if place is None:
        return None
    # The list grows while it is walked: by what is only reached through a link.
    links = [packed.links(one) for one in packed.errors]
    return pickle.dumps((place, packed.pickles, links), PROTOCOL)


def unpack_error(pickled: bytes) -> BaseException:
    """Return the exception that `pickle_error` packed."""
    place, pickles, links = loads(pickled)
    errors: list[BaseException] = []
    for one in pickles:
        errors.append(_make(one, errors))
    for error, (cause, context, suppress) in zip(errors, links, strict=True):
        if cause is not None:
            _SLOTS["__cause__"].__set__(error, errors[cause])
        if context is not None:
            _SLOTS["__context__"].__set__(error, errors[context])
        _SLOTS["__suppress_context__"].__set__(error, suppress)
    packed: BaseException = errors[place]
    return packed


# Attributes of exceptions, whatever a class of them does when they are set.
_SLOTS: Any = BaseException.__dict__
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())


class _State(NamedTuple):
    """An exception to be made without a call of its `__init__`."""

    kind: Any
    args: Any
    attributes: dict[str, Any]


class _Place(NamedTuple):
    """Stands for an exception among the arguments or attributes of another."""

    place: int


class _Packed:
    """Exceptions, pickled one by one: what one is made of comes before it."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self.pickles: list[bytes] = []
        self._places: dict[int, int | None] = {}
        self._met: list[BaseException] = []  # So that no two have the same id.

    def place(self, error: BaseException) -> int | None:
        """Return where `error` is in the list, None if it cannot be pickled."""
        if id(error) not in self._places:
            self._met.append(error)
            # Until it is there, nothing that it is made of can refer to it.
            self._places[id(error)] = None
            if (pickled := self._pickle(error)) is not None:
                self._places[id(error)] = len(self.errors)
                self.errors.append(error)
                self.pickles.append(pickled)
        return self._places[id(error)]

    def links(self, error: BaseException) -> tuple[int | None, int | None, bool]:
        """Return the places of its cause and context, and whether the context is not shown."""
        cause, context, suppress = (
            _SLOTS[name].__get__(error)
            for name in ("__cause__", "__context__", "__suppress_context__")
        )
        return (
            None if cause is None else self.place(cause),
            None if context is None else self.place(context),
            suppress,
        )

    def _pickle(self, error: BaseException) -> bytes | None:
        kind: Any = type(error)
        forms = [_whole, self._state]
        if isinstance(error, _GROUP) and kind.__reduce__ is BaseException.__reduce__:
            forms.reverse()  # As a whole its members would lose their causes.
        for form in forms:
            try:
                pickled = dumps(form(error))
                _make(pickled, self.errors)
            except BaseException:  # noqa: S112 - the next form, or none
                continue
            return pickled
        return None

    def _state(self, error: BaseException) -> _State:
        """Return `error` as it is rebuilt if its class cannot be called with `args`.

        That is how `BaseException.__reduce__` has it, which fails for a class
        whose `__init__` asks for something else (python/cpython#103061).
        """
        attributes = {}
        for name, value in vars(error).items():
            try:
                part = _exchanged(value, self._refer)
                dumps(part)
            except Exception:  # noqa: S112 - that attribute stays behind
                continue
            attributes[name] = part
        try:
            args = _exchanged(tuple(error.args), self._refer)
            dumps(args)
        except Exception:
            args = tuple(short_repr(arg, 1000) for arg in error.args)
        return _State(type(error), args, attributes)

    def _refer(self, part: Any) -> Any:
        """Return the place of an exception, which travels by itself; of anything else, itself."""
        place = self.place(part) if isinstance(part, BaseException) else None
        return part if place is None else _Place(place)


def _make(pickled: bytes, errors: list[BaseException]) -> BaseException:
    """Return the exception of one pickle, made of `errors` perhaps."""

    def resolve(part: Any) -> Any:
        return errors[part.place] if type(part) is _Place else part

    error: Any = loads(pickled)
    if type(error) is _State:
        kind, args = error.kind, _exchanged(error.args, resolve)
        attributes = {name: _exchanged(one, resolve) for name, one in error.attributes.items()}
        error = kind.__new__(kind, *args)
        _SLOTS["args"].__set__(error, args)
        error.__dict__.update(attributes)
    if not isinstance(error, BaseException):
        msg = f"an exception came back as {type(error).__name__}"
        raise TypeError(msg)
    return error


def _exchanged(
    part: Any, exchange: Callable[[Any], Any], seen: dict[int, Any] | None = None
) -> Any:
    """Return `part`, or of lists and tuples a copy, with all in it as `exchange` returns it."""
    if type(part) not in (list, tuple):
        return exchange(part)
    # Each is copied once: there may be endless ways to it.
    seen = {} if seen is None else seen
    if id(part) not in seen:
        seen[id(part)] = part
        seen[id(part)] = type(part)(_exchanged(one, exchange, seen) for one in part)
    return seen[id(part)]


def _whole(error: BaseException) -> Any:
    reducer = copyreg.dispatch_table.get(type(error))
    if getattr(reducer, "__module__", None) == "tblib.pickling_support":
        # Dask has it installed. Of an exception whose class has an `__init__`
        # in C it loses what is not in its `__dict__`, the code of SystemExit say.
        return _ByItself(error)
    return error


class _ByItself:
    """Stands in a pickle for an exception that is reduced by its own class."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> Any:
        return self._error.__reduce_ex__(PROTOCOL)


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
    "Pickled",
    "describe_failure",
    "dump_result",
    "dump_results",
    "dumps",
    "dumps_call",
    "is_main_function",
    "loads",
    "pickle_error",
    "unpack_error",
]
