"""Loading what is broken in parts.

The slow way, taken only after the fast one has failed, to spare the items that
travelled in the same frame as a broken one.
"""

import gc
import io
import pickle
import types
from collections.abc import Callable, Sequence

from motorpool.interrupts import pass_on_interrupt
from motorpool.serialization import PROTOCOL
from motorpool.typed import Any, ClassVar, cast


class LoadedBroken:
    """Stands where a part of a result could not be rebuilt."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __setstate__(self, _state: object) -> None:
        """Take nothing of what was to be there."""


def load_tolerantly(
    payload: bytes, buffers: Sequence[memoryview] = ()
) -> tuple[Any, list[BaseException | None]]:
    """Return a list of values of which some do not unpickle, and the error of each, or None."""
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
