"""Pickling by value, on cloudpickle: what the C pickler refuses, and definitions of `__main__`.

A function made by value in a worker shares its globals with the mirror of the
module it came from, so that `global` statements, initializers and helpers of
one module see each other there as they do at home.
"""

import functools
import io
import pickle
import sys
from collections.abc import Callable
from types import FunctionType

import cloudpickle

from motorpool.mirror import define, make_class, module_globals
from motorpool.names import MIRRORED, Name, home_of
from motorpool.reducers import reducers
from motorpool.typed import Any

BufferCallback = Callable[[pickle.PickleBuffer], object]


class MirrorGlobals(dict[str, Any]):
    """Stands, in a pickle, for the globals of a mirrored module in the worker."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the module instead of sending its contents."""
        return module_globals, (self.module,)


class Definition:
    """A name of a mirrored module; is set there when this is unpickled."""

    def __init__(self, module: str, name: str, value: object) -> None:
        self._definition = module, name, value

    def __reduce__(self) -> tuple[Any, ...]:
        """Set the name at once, because what follows may use it while it is unpickled."""
        return define, self._definition


class CloudPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles functions and classes by name where the name leads back to them, else by value.

    `by_value` are top-level names to define although they could be named;
    `needed` collects the names of mirrored modules that the pickle refers to.
    """

    def __init__(
        self,
        file: io.BytesIO,
        by_value: frozenset[Name] = frozenset(),
        take: BufferCallback | None = None,
    ) -> None:
        table = reducers()
        if table is not None:
            # Before __init__, which looks the table up once and for all.
            self.dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(table)
        super().__init__(file, protocol=5, buffer_callback=take)
        self.by_value = by_value
        self.needed: set[Name] = set()
        self._mirror_ids: dict[int, str] = {}
        for name in MIRRORED:
            module = sys.modules.get(name)
            if module is not None and id(vars(module)) not in self.globals_ref:
                self.globals_ref[id(vars(module))] = MirrorGlobals(name)
                self._mirror_ids[id(vars(module))] = name

    def reducer_override(self, obj: Any) -> Any:
        """Choose between name and value for a function or class."""
        if not isinstance(obj, _NAMED):
            return NotImplemented
        home = home_of(obj)
        if home is not None and home[0] in MIRRORED:
            self.needed.add(home)
        if home is not None and home not in self.by_value:
            return NotImplemented
        if isinstance(obj, functools._lru_cache_wrapper):  # noqa: SLF001 - it has no public name
            return _rebuild_cached, (obj.__wrapped__, obj.cache_parameters())
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and home is not None:
            # It can be imported here, but not where it goes.
            if isinstance(obj, type):
                reduced = _class_by_value(obj)
            else:
                reduced = self._dynamic_function_reduce(obj)
        if isinstance(obj, type) and vars(obj).get("__slots__") and reduced is not NotImplemented:
            # Slots must be there when a class is made; cloudpickle sets them afterwards.
            reduced[1][3]["__slots__"] = vars(obj)["__slots__"]
        if isinstance(obj, type) and isinstance(reduced, tuple):
            reduced = self._without_hooks(obj, reduced)
        return reduced

    def _without_hooks(self, cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
        """Have a class made without the hooks that its class statement has called."""
        bases = [base for base in cls.__mro__[1:-1] if "__init_subclass__" in vars(base)]
        if not bases or reduced[0].__name__ != "_make_skeleton_class":
            return reduced
        homes = {base: home_of(base) for base in bases}
        sent = [base for base in bases if homes[base] is None or homes[base] in self.by_value]
        return make_class, (sent, *reduced[1]), *reduced[2:]

    def _dynamic_function_reduce(self, func: FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        module = self._mirror_ids.get(id(func.__globals__))
        if module is not None:
            slots = reduced[2][1]
            self.needed.update((module, name) for name in slots["__globals__"])
            slots["__globals__"] = {}
        return reduced


def _class_by_value(kind: type) -> Any:
    return cloudpickle.cloudpickle._dynamic_class_reduce(kind)  # noqa: SLF001


_NAMED = (type, FunctionType, functools._lru_cache_wrapper)  # noqa: SLF001


def _rebuild_cached(func: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(func)


def dumps_by_value(obj: object, take: BufferCallback | None = None) -> bytes:
    """Return `obj` pickled, its nameless functions and classes by value."""
    return dump_and_collect(obj, take=take)[0]


def dump_and_collect(
    obj: object, by_value: frozenset[Name] = frozenset(), take: BufferCallback | None = None
) -> tuple[bytes, set[Name]]:
    """Return `obj` pickled, and the names of mirrored modules that the pickle refers to.

    `take` is the pickler's `buffer_callback`.
    """
    file = io.BytesIO()
    pickler = CloudPickler(file, by_value, take)
    pickler.dump(obj)
    return file.getvalue(), pickler.needed
