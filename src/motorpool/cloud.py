"""Pickling by value, on cloudpickle: what the C pickler refuses, and definitions of `__main__`.

A function made by value in a worker shares its globals with the mirror of the
module it came from, so that `global` statements, initializers and helpers of
one module see each other there as they do at home.
"""

import copyreg
import functools
import io
import pickle
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import CodeType, FunctionType, resolve_bases

import cloudpickle

from motorpool.mirror import define, module_globals
from motorpool.names import MIRRORED, Name, home_of
from motorpool.reducers import reducers
from motorpool.typed import Any, NamedTuple

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
        # Before __init__, which looks the table up once and for all.
        self.dispatch_table = _REDUCERS.new_child(reducers() or {})
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
        if not issubclass(type(obj), _NAMED):  # `isinstance` may call code of the object's own
            return self._reduce_instance(obj)
        home = home_of(obj)
        if home is not None and home[0] in MIRRORED:
            self.needed.add(home)
        if home is not None and home not in self.by_value:
            return NotImplemented
        if isinstance(obj, _CACHED):
            return _rebuild_cached, (obj.__wrapped__, obj.cache_parameters())
        if isinstance(obj, FunctionType) and obj.__code__ is _DISPATCHER:
            return _reduce_dispatcher(obj)
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
            reduced = _filled_once(obj, _made_once(obj, reduced))
        return reduced

    def _reduce_instance(self, obj: Any) -> Any:
        wrapt = sys.modules.get("wrapt")  # which has neither while it is being imported
        plain = getattr(wrapt, "FunctionWrapper", None)
        if plain is not None and issubclass(type(obj), plain):
            return self._reduce_wrapper(obj, plain)
        if issubclass(type(obj), getattr(wrapt, "BoundFunctionWrapper", ())):
            return _reduce_bound_wrapper(obj)
        return self._reduce_singleton(obj)

    def _reduce_wrapper(self, obj: Any, plain: type) -> Any:
        """Send what a decorator of wrapt's has made of a function: it refuses by itself."""
        home = home_of(obj)
        if home is not None and home[0] in MIRRORED:
            self.needed.add(home)
        if home is not None and home not in self.by_value:
            return obj.__qualname__
        kind = type(obj)
        if kind is not plain and not kind.__module__.startswith("wrapt."):
            return NotImplemented  # Of a class of somebody's own, which may need more than this.
        return _rewrap, (obj.__wrapped__, obj._self_wrapper, obj._self_enabled)  # noqa: SLF001

    def _reduce_singleton(self, obj: Any) -> Any:
        """Send what pickles itself as a name, of a class of the script's say, where it is defined.

        By that name it would be looked for where it is to be made.
        """
        kind: Any = type(obj)
        if kind.__module__ not in MIRRORED and kind.__name__ != "NewType":
            return NotImplemented
        if kind.__reduce__ is object.__reduce__:
            return NotImplemented
        reduced = obj.__reduce_ex__(5)
        if not isinstance(reduced, str):
            return reduced
        home = getattr(obj, "__module__", None), reduced.split(".")[0]
        if home not in self.by_value:
            return NotImplemented
        return copyreg.__newobj__, (kind,), vars(obj)  # type: ignore[attr-defined]

    def _dynamic_function_reduce(self, func: FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        module = self._mirror_ids.get(id(func.__globals__))
        if module is not None:
            slots = reduced[2][1]
            self.needed.update((module, name) for name in slots["__globals__"])
            slots["__globals__"] = {}
        return reduced


class Named(NamedTuple):
    """What names of mirrored modules are bound to, for definitions to refer to.

    Attributes
    ----------
    names
        The names of each object, by its id.
    known
        Those that are known where the pickle goes, None if it may go anywhere.
    """

    names: Mapping[int, tuple[Name, ...]]
    known: Collection[Name] | None


class _NamingPickler(CloudPickler):
    """A pickler that is asked for each object: that takes its time."""

    def __init__(self, file: io.BytesIO, by_value: frozenset[Name], named: Named) -> None:
        super().__init__(file, by_value)
        self._names, self._known = named
        self._as_itself = False

    def persistent_id(self, obj: Any) -> Any:
        """Return the name of an object that is known where the pickle goes.

        If nobody knows whether it is, return the object and its names.
        """
        names = self._names.get(id(obj))
        if names is None:
            # What a filler is called with next is what has come, not what may be there already.
            if type(obj) is not str:  # of the filler's own name
                self._as_itself = type(obj) is FunctionType and obj in _FILLERS
            return None
        self.needed.update(names)
        if self._known is not None:
            return next((name for name in names if name in self._known), None)
        self._as_itself = not self._as_itself
        return (obj, names) if self._as_itself else None


def _rewrap(*arguments: Any) -> Any:
    import wrapt

    return wrapt.FunctionWrapper(*arguments)


def _reduce_bound_wrapper(obj: Any) -> Any:
    instance = obj._self_instance  # noqa: SLF001 - wrapt has no public name for it
    return NotImplemented if instance is None else (getattr, (instance, obj.__name__))


def _made_once(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have a class made by `make_class`."""
    if reduced[0] is not _make_skeleton_class:
        return reduced
    is_hooked = "__init_subclass__" in vars(cls)
    subclasses = tuple(map(_id_of_class, _subclasses(cls))) if is_hooked else ()
    return make_class, (subclasses, *reduced[1]), *reduced[2:]


def _filled_once(cls: type, reduced: tuple[Any, ...]) -> tuple[Any, ...]:
    """Have a class filled by `fill_class`, and called as it is called here."""
    if reduced[-1] is not _class_setstate:
        return reduced
    attributes, slots = reduced[2]
    return (
        *reduced[:2],
        ({**attributes, "__qualname__": cls.__qualname__}, slots),
        *reduced[3:-1],
        fill_class,
    )


def fill_class(cls: type, state: tuple[dict[str, Any], Any]) -> None:
    """Give a class its attributes; `worker.space` has another way."""
    _class_setstate(cls, state)


def make_class(subclasses: Collection[str], *arguments: Any) -> type:
    """Return a class that is made here, still empty, if it was not before.

    `subclasses` are the ids of those that it had when it was sent: what its
    `__init_subclass__` did for them is part of what is sent, and must not be
    done twice. For others it is called; if it wants keywords of the class
    statement, which are not known any more, it is left out.
    """
    _, _, its_bases, _, number, _ = arguments
    made = class_of(arguments)
    if made is None:
        bases = [base for one in resolve_bases(its_bases) for base in one.__mro__]
        try:
            with _quiet([base for base in bases if number in _SUBCLASSES.get(base, ())]):
                made = _make_skeleton_class(*arguments)
        except TypeError:
            with _quiet(bases):
                made = _make_skeleton_class(*arguments)
    if subclasses:
        _SUBCLASSES[made] = subclasses
    return made


def class_of(arguments: Sequence[Any]) -> type | None:
    """Return the class that is here already of those that `make_class` is given the like of."""
    made: type | None = _CLASSES_BY_ID.get(arguments[-2])
    return made


# By class that was made here, the ids of the subclasses that it had where it comes from.
_SUBCLASSES: "weakref.WeakKeyDictionary[type, Collection[str]]" = weakref.WeakKeyDictionary()


@contextmanager
def _quiet(bases: Sequence[type]) -> Iterator[None]:
    hooks: dict[type, Any] = {}
    try:
        for base in bases:
            hook = vars(base).get("__init_subclass__")
            if hook is not None:
                with suppress(TypeError):  # written in C
                    type.__delattr__(base, "__init_subclass__")
                    hooks[base] = hook
        yield
    finally:
        for base, hook in hooks.items():
            type.__setattr__(base, "__init_subclass__", hook)


def _subclasses(cls: type) -> Iterator[type]:
    direct: list[type] = type.__subclasses__(cls)
    for one in direct:
        yield one
        yield from _subclasses(one)


def _class_by_value(kind: type) -> Any:
    return cloudpickle.cloudpickle._dynamic_class_reduce(kind)  # noqa: SLF001


_CLASSES_BY_ID: Any = cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID  # noqa: SLF001
_function_setstate: Any = cloudpickle.cloudpickle._function_setstate  # noqa: SLF001
_class_setstate: Any = cloudpickle.cloudpickle._class_setstate  # noqa: SLF001
_make_skeleton_class: Any = cloudpickle.cloudpickle._make_skeleton_class  # noqa: SLF001
_id_of_class: Any = cloudpickle.cloudpickle._get_or_create_tracker_id  # noqa: SLF001
_CACHED: Any = functools._lru_cache_wrapper  # noqa: SLF001 - it has no public name
_NAMED = (type, FunctionType, _CACHED)


def _rebuild_cached(func: Any, parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(func)


# The code of what `functools.singledispatch` returns. It holds weak references.
_DISPATCHER = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


def _reduce_dispatcher(func: Any) -> tuple[Any, ...]:
    # Made before its implementations, which may refer to it.
    attributes = {
        name: getattr(func, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(func, name)
    }
    own = {"register", "dispatch", "registry", "_clear_cache"}
    attributes |= {name: value for name, value in vars(func).items() if name not in own}
    state = dict(func.registry), attributes
    return _new_dispatcher, (func.__name__,), state, None, None, _fill_dispatcher


def _new_dispatcher(name: str) -> Any:
    def placeholder(_: object) -> None: ...

    placeholder.__name__ = name
    return functools.singledispatch(placeholder)


def _fill_dispatcher(func: Any, state: tuple[dict[Any, Any], dict[str, Any]]) -> None:
    registry, attributes = state
    for kind, implementation in registry.items():
        func.register(kind, implementation)
    for name, value in attributes.items():
        setattr(func, name, value)


# What a pickle calls with an object and its state, one right after the other.
_FILLERS = (_function_setstate, fill_class, _fill_dispatcher)


def _reduce_cached_property(cached: Any) -> tuple[Any, ...]:
    state = vars(cached).copy()
    has_lock = state.pop("lock", None) is not None  # until Python 3.11
    return _new_cached_property, (has_lock,), state


def _new_cached_property(has_lock: bool) -> Any:
    made: Any = functools.cached_property.__new__(functools.cached_property)
    if has_lock:
        made.lock = threading.RLock()
    return made


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
    # Cloudpickle hides the file's name from version 3.1 on; tracebacks need it.
    return make, tuple(
        code.co_filename if type(argument) is str and argument == "<dynamic-code>" else argument
        for argument in arguments
    )


def _reduce_weak(weak: Any) -> tuple[Any, ...]:
    return type(weak), (dict(weak),)


# What scripts have in their globals and classes, and neither pickler takes.
_REDUCERS: Any = cloudpickle.Pickler.dispatch_table.new_child(
    {
        CodeType: _reduce_code,
        functools.cached_property: _reduce_cached_property,
        struct.Struct: lambda one: (struct.Struct, (one.format,)),
        weakref.WeakKeyDictionary: _reduce_weak,
        weakref.WeakValueDictionary: _reduce_weak,
    }
)


def dumps_by_value(obj: object, take: BufferCallback | None = None) -> bytes:
    """Return `obj` pickled, its nameless functions and classes by value."""
    return dump_and_collect(obj, take=take)[0]


def dump_and_collect(
    obj: object,
    by_value: frozenset[Name] = frozenset(),
    take: BufferCallback | None = None,
    named: Named | None = None,
) -> tuple[bytes, set[Name]]:
    """Return `obj` pickled, and the names of mirrored modules that the pickle refers to.

    `take` is the pickler's `buffer_callback`. Objects that are `named` are
    referred to as `mirror.load_definitions` or `worker.space` understand it.
    """
    file = io.BytesIO()
    if named is not None:
        pickler: CloudPickler = _NamingPickler(file, by_value, named)
    else:
        pickler = CloudPickler(file, by_value, take)
    pickler.dump(obj)
    return file.getvalue(), pickler.needed
