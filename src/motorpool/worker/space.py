"""The modules of a remote parent, `__main__` first of all, in a process that is not our worker.

Such a process has a `__main__` of its own, and may serve several programs. So
each parent has a *space* in it: modules of its own under names that no other
has (`alias`). Pickles that come from the parent are read with these in place of
`__main__`. What is defined from them belongs to the alias, and the parent
knows its `__main__` by the alias too, so results are pickled by name, by the C
pickler, and come back as instances of the parent's own classes.
"""

import io
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import FunctionType, ModuleType

from motorpool.mirror import load_with_guesses
from motorpool.reducers import MAIN_MODULES
from motorpool.typed import Any
from motorpool.worker import sources

Name = tuple[str, str]


class Missing(Exception):  # noqa: N818 - not an error: an answer to the parent
    """A name, or a module if `name` is None, that only the parent has."""

    def __init__(self, module: str, name: str | None) -> None:
        super().__init__(module, name)
        self.module = module
        self.name = name


class _Home:
    pid = 0
    token = ""


def home() -> str:
    """Return the token of this process: another one in each process, forked ones included."""
    if _Home.pid != os.getpid():
        _Home.pid, _Home.token = os.getpid(), uuid.uuid4().hex
    return _Home.token


_ALIAS = "__motorpool_"


def alias(token: str, module: str) -> str:
    """Return the name of a parent's module in other processes.

    What is an alias where a task opens a pool stays one: the processes of that
    pool may serve the task's own parent as well, with the same classes.
    """
    if module.startswith(_ALIAS):
        return module
    module = "__main__" if module in MAIN_MODULES else module
    return f"{_ALIAS}{token}_{module.replace('.', '_')}__"


def _has_alias(module: str) -> bool:
    return module in MAIN_MODULES or module.startswith(_ALIAS)


class Space:
    """One parent's modules, as far as they are known here."""

    def __init__(self, token: str) -> None:
        self.token = token
        # Which the parent's managers ask for, of `multiprocessing`.
        self.authkey: bytes | None = None
        self._versions: dict[Name, int] = {}
        # Of what is being defined, and the names in it that tasks assign.
        self._new_versions: Mapping[Name, int] = {}
        self._assigned: frozenset[Name] = frozenset()
        self._redefines = False
        # Names that tasks or an initializer have assigned, perhaps.
        self._rebound: set[Name] = set()
        # What an initializer reads, and may have changed here: a connection is opened.
        self.prepared: set[Name] = set()
        self._names: dict[str, str] = {}  # of the parent's modules, by their aliases

    def module(self, name: str) -> ModuleType:
        """Return what stands for the parent's module."""
        own_name = alias(self.token, name)
        self._names[own_name] = name
        module = sys.modules.get(own_name)
        if module is None:
            module = sys.modules[own_name] = ModuleType(own_name)
        return module

    def globals_of(self, name: str) -> dict[str, Any]:
        """Return the globals of the parent's module; called by definitions."""
        return vars(self.module(name))

    def loads(self, payload: bytes, sent: Container[str] = ()) -> Any:
        """Return what the parent pickled; raises Missing if it refers to something unknown.

        The sources of the modules `sent` have come with the program.
        """
        return _SpaceUnpickler(io.BytesIO(payload), self, sent).load()

    def define(
        self,
        definitions: bytes,
        versions: Mapping[Name, int],
        assigned: Iterable[Name],
        sent: Container[str] = (),
    ) -> None:
        """Set names of the parent's modules, as far as they are not known in that version.

        Of a name that tasks assign, any version will do.
        """
        self._new_versions, self._assigned = versions, frozenset(assigned)
        self._rebound |= self._assigned
        self._redefines = any(
            name not in self._assigned and self._versions.get(name, version) != version
            for name, version in versions.items()
        )
        load_with_guesses(lambda file: _SpaceUnpickler(file, self, sent), definitions)

    def set_name(self, module: str, name: str, value: object) -> None:
        """Set one name; called by definitions, in place of `mirror.define`."""
        from motorpool.names import MIRRORED

        # Functions that go home share the globals of the parent's module again.
        MIRRORED[alias(self.token, module)] = None
        names = self.globals_of(module)
        if not self._has_current(module, name):
            self._adopt(value, module)
            self._versions[module, name] = self._new_versions[module, name]
            names[name] = value

    def _has_current(self, module: str, name: str) -> bool:
        """Tell whether what a name is bound to here is what the parent's is bound to."""
        known = self._versions.get((module, name))
        if known is None:
            # By the parent of the task that is the parent, an alias may have names already.
            return alias(self.token, module) == module and name in self.globals_of(module)
        return known == self._new_versions.get((module, name)) or (module, name) in self._assigned

    def known_as(self, value: object, names: Iterable[Name]) -> object:
        """Return what one of the names is bound to here already, or else `value`, which has come.

        So an object that several names lead to is one, whichever came first. But
        what is defined anew brings copies of what may have been changed in place.
        """
        for module, name in self.prepared.intersection(names) if self._redefines else names:
            if self._has_current(module, name) and (module, name) not in self._rebound:
                return self.globals_of(module).get(name, value)
        return value

    def make_class(self, subclasses: Collection[str], *arguments: Any) -> type:
        """Return a class, perhaps still empty, in place of `cloud.make_class`."""
        from motorpool.cloud import class_of, make_class

        made = class_of(arguments)
        return (
            made if made is not None and self._keeps(made) else make_class(subclasses, *arguments)
        )

    def fill_class(self, cls: type, state: Any) -> None:
        """Give a class its attributes, in place of `cloud.fill_class`."""
        from motorpool.cloud import fill_class

        if not self._keeps(cls):
            fill_class(cls, state)

    def _keeps(self, cls: type) -> bool:
        """Tell whether a class stays what tasks or an initializer may have made of it.

        It does if a name here leads to it that the parent has not bound anew.
        """
        module = self._names.get(cls.__module__)
        if module is None:
            return False
        names = self.globals_of(module)
        return any(
            home == module and self._has_current(home, name) and _leads_to(names.get(name), cls)
            for home, name in self._new_versions
        )

    def _adopt(self, value: Any, module: str) -> None:
        """Make a function or class belong to the alias, so that it is pickled by that name."""
        own_name = alias(self.token, module)
        if not callable(value) or getattr(value, "__module__", None) not in (module, own_name):
            return
        with suppress(AttributeError, TypeError):
            value.__module__ = own_name
        for part in list(vars(value).values()) if isinstance(value, type) else ():
            own = part.__func__ if isinstance(part, staticmethod) else part
            if isinstance(own, (type, FunctionType)) and own.__qualname__.startswith(
                value.__qualname__ + "."
            ):
                self._adopt(own, module)

    def rebuild_proxy(
        self, make: Any, token: Any, serializer: str, options: Mapping[str, Any]
    ) -> Any:
        """Return the proxy of an object that a manager of the parent's keeps.

        Not with this process's own key, as `RebuildProxy` would; and where a task
        sends it to, in a pool of its own say, that key is not known either.
        """
        from multiprocessing.managers import RebuildProxy  # type: ignore[attr-defined]

        arguments = make, token, serializer, {"authkey": self.authkey, **options}
        proxy = RebuildProxy(*arguments)
        proxy.__reduce_ex__ = lambda _protocol: (RebuildProxy, arguments)
        return proxy

    def find(self, module: str, name: str) -> Any:
        """Return what the parent knows by that name."""
        found: Any = self.module(module)
        for part in name.split("."):
            found = getattr(found, part, Missing)
            if found is Missing:
                raise Missing(module, name.split(".", maxsplit=1)[0])
        return found


def _leads_to(found: Any, cls: type) -> bool:
    """Tell whether `cls` is `found`, or a class in its body."""
    if found is not cls and isinstance(found, type):
        inside = cls.__qualname__.removeprefix(found.__qualname__ + ".")
        for part in inside.split("."):
            found = getattr(found, part, None)
    return found is cls


class HomeSpace(Space):
    """The parent itself: the executor runs chunks in threads."""

    def loads(self, payload: bytes, sent: Container[str] = ()) -> Any:
        """Return what was pickled."""
        del sent
        return pickle.loads(payload)

    def define(
        self,
        definitions: bytes,
        versions: Mapping[Name, int],
        assigned: Iterable[Name],
        sent: Container[str] = (),
    ) -> None:
        """Define nothing: it is all here."""


class _SpaceUnpickler(pickle.Unpickler):
    """The C unpickler; `find_class` is called once per class and pickle, not per object."""

    def __init__(self, file: io.BytesIO, space: Space, sent: Container[str]) -> None:
        super().__init__(file)
        self._space = space
        self._sent = sent

    def persistent_load(self, named: tuple[object, tuple[Name, ...]]) -> Any:
        """Return an object that has names."""
        return self._space.known_as(*named)

    def find_class(self, module: str, name: str) -> Any:
        """Return a function or class by its name."""
        if _has_alias(module):
            return self._space.find(module, name)
        own = _OWN.get((module, name))
        if own is not None and (own is not Space.rebuild_proxy or self._space.authkey):
            return partial(own, self._space)
        if name == "subimport" and module == "cloudpickle.cloudpickle":
            return self._import
        self._import(module)
        return super().find_class(module, name)

    def _import(self, name: str) -> ModuleType:
        if _has_alias(name):
            return self._space.module(name)
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            raise Missing(error.name or name, None) from error
        module = sys.modules[name]
        if name not in self._sent and sources.has_brought(module):
            # With another program, and perhaps in an older version.
            raise Missing(name, None)
        return module


# What a space has in place of functions that pickles call.
_OWN: dict[Name, Callable[..., Any]] = {
    ("motorpool.mirror", "module_globals"): Space.globals_of,
    ("motorpool.mirror", "define"): Space.set_name,
    ("motorpool.cloud", "make_class"): Space.make_class,
    ("motorpool.cloud", "fill_class"): Space.fill_class,
    ("multiprocessing.managers", "RebuildProxy"): Space.rebuild_proxy,
}

_spaces: dict[str, Space] = {}


def space_of(token: str) -> Space:
    """Return the space of the parent with that token."""
    if token == home():
        return HomeSpace(token)
    space = _spaces.get(token)
    if space is None:
        space = _spaces[token] = Space(token)
    return space
