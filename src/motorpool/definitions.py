"""What the workers know of `__main__`, and what they have to be told.

A worker refers to `__main__` through a mirror (`mirror.py`). Before a
job's first chunk goes to a worker, the names that the job's function needs and
the worker lacks, or knows in an older version, are sent to it by value.

Guarantees
----------
- A definition crosses once per worker, and again only after the name was bound
  to something else in the parent.
- A name that workers bind themselves (`global name`) is given once, as a start
  value, and is theirs from then on.
- What two names lead to is one object there if it is one here, whichever came
  first; a class is what tasks and an initializer have made of it.
- Under fork, what the parent had at that moment is known already.
"""

import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from itertools import repeat
from operator import is_

from motorpool.reducers import DESCRIPTOR, MAIN_MODULES
from motorpool.typed import Any, NamedTuple

Name = tuple[str, str]

_MISSING = object()
_MOST_CLOSURES = 100
_NOTHING = b"N."  # a pickle
# Objects of users' are asked for no more than their `type`: `isinstance` may call code of theirs.
_CODE = (type, types.FunctionType)
# Of these a fork remembers the object itself; of others a weak reference if
# there can be one, so that a large array that was deleted is not kept alive.
_KEPT = (type, types.FunctionType, types.ModuleType, int, float, str, bytes, bool, type(None))
# Nobody can tell two of these apart, or they are never copied.
_COPIED = (*(kind for kind in _KEPT if kind is not types.FunctionType), tuple, frozenset)


class Bindings:
    """Names of modules, and what they were bound to at one moment."""

    def __init__(self, names: dict[Name, Any]) -> None:
        modules: dict[str, tuple[list[str], list[Any]]] = {}
        for (module, name), value in names.items():
            its_names, values = modules.setdefault(module, ([], []))
            its_names.append(name)
            values.append(value)
        self._modules = [(module, *lists) for module, lists in modules.items()]

    def are_current(self) -> bool:
        """Tell whether the names are bound as they were; asked at every call, so done in C."""
        for module, names, values in self._modules:
            current = map(_names_of(module).get, names, repeat(_MISSING))
            if not all(map(is_, current, values)):
                return False
        return True

    def changed(self) -> list[tuple[Name, Any]]:
        """Return the names that are bound to something else now, and to what."""
        return [
            ((module, name), current)
            for module, names, values in self._modules
            for name, value in zip(names, values, strict=True)
            if (current := _names_of(module).get(name, _MISSING)) is not value
        ]


class Known:
    """The names of mirrored modules that one worker has, and the objects they were bound to."""

    def __init__(self, inherited: dict[Name, Any] | None = None) -> None:
        self._objects: dict[Name, Any] = dict(inherited or {})
        self._code: Bindings | None = None
        self._unsendable: dict[Name, Any] = {}
        # What was sent in case it is looked up. If it is needed, it is sent again: who knows
        # whether it could be loaded.
        self.guessed: dict[Name, Any] = {}
        # What the worker was last seen to have all of.
        self.complete: Closure | None = None

    def has_current(self, name: Name, value: object) -> bool:
        """Tell whether the worker knows `name` as `value`."""
        known = self._objects.get(name, _MISSING)
        if type(known) is weakref.ref:
            known = known()
        return known is value

    def has(self, name: Name) -> bool:
        """Tell whether the worker knows `name` in any version."""
        return name in self._objects

    def names(self) -> set[Name]:
        """Return all names that the worker has in any version."""
        return set(self._objects)

    def learn(self, names: dict[Name, Any]) -> None:
        """Note what was sent."""
        self._objects.update(names)
        self._code = None

    def outdated(self) -> list[Name]:
        """Return the functions and classes that the parent has bound anew since, and can send."""
        if self._code is None:
            code = {
                n: known for n, known in self._objects.items() if issubclass(type(known), _CODE)
            }
            self._code = Bindings(code)
        if self._code.are_current():
            return []
        return [
            name
            for name, current in self._code.changed()
            if issubclass(type(current), _CODE) and self._unsendable.get(name) is not current
        ]

    def keep_old(self, name: Name) -> None:
        """Take note that what the parent has bound `name` to cannot be sent: it is outdated."""
        self._unsendable[name] = _names_of(name[0]).get(name[1])


def inherited_by_fork() -> dict[Name, Any]:
    """Return what a worker forked now knows."""
    names: dict[Name, Any] = {}
    for module_name in MAIN_MODULES:
        module = sys.modules.get(module_name)
        if module is None or (names and module is sys.modules["__main__"]):
            continue
        for name, value in list(vars(module).items()):
            names[module_name, name] = remember(value)
    return names


def remember(value: Any) -> Any:
    """Return `value`, or a weak reference to it if it may be large."""
    if issubclass(type(value), _KEPT):
        return value
    try:
        return weakref.ref(value)
    except TypeError:
        return value


def _names_of(module: str) -> dict[str, Any]:
    found = sys.modules.get(module)
    return vars(found) if found is not None else {}


class Closure(NamedTuple):
    """The names that some code needs, directly or not; those not bound are _MISSING."""

    names: dict[Name, Any]
    assigned: set[Name]  # of them, those that the code binds itself
    bindings: Bindings
    roots: tuple[Name, ...] = ()
    guessed: dict[Name, Any] | None = None  # what it may look up besides; None if unasked

    def bound(self) -> dict[Name, Any]:
        """Return the names that are bound to something."""
        return {name: value for name, value in self.names.items() if value is not _MISSING}

    def lacking(self, referred: Iterable[Name]) -> list[Name]:
        """Return the names that definitions refer to by values, such as a registry's classes."""
        return [name for name in referred if name not in self.names and not _is_machinery(name[1])]

    def with_more(self, names: Iterable[Name]) -> "Closure":
        """Return what the code needs that needs `names` as well."""
        return closure((*self.roots, *names), guess=self.guessed is not None)


def closure(roots: Iterable[Name], *, guess: bool = False) -> Closure:
    """Return what the code that `roots` lead to needs; `guess` what it may look up besides."""
    roots = tuple(roots)
    found: dict[Name, Any] = {}
    assigned: set[Name] = set()
    _follow(roots, found, assigned)
    everything = dict(found)
    if guess:
        for name, value in found.items():
            _follow(_guesses(name, value), everything, set(), _can_be_guessed)
    guessed = {name: value for name, value in everything.items() if name not in found}
    return Closure(found, assigned, Bindings(everything), roots, guessed if guess else None)


def _follow(
    roots: Iterable[Name],
    found: dict[Name, Any],
    assigned: set[Name],
    condition: Callable[[Name, Any], bool] | None = None,
) -> None:
    """Add to `found` what `roots` lead to, as far as it meets the `condition`."""
    from motorpool.names import names_in

    todo = list(roots)
    for name in todo:  # which grows
        if name in found or _is_machinery(name[1]):
            continue
        value = _names_of(name[0]).get(name[1], _MISSING)
        if condition is not None and not condition(name, value):
            continue
        found[name] = value
        if value is _MISSING:
            continue
        for used, is_set in names_in(value):
            if is_set:
                assigned.add((name[0], used))
            todo.append((name[0], used))
        todo.extend(_homes_of_parts(value))
        if condition is not None:
            todo.extend(_guesses(name, value))


def _guesses(name: Name, value: object) -> list[Name]:
    """Return the names that `value` may look up in ways that its code does not show."""
    from motorpool.names import guesses_in

    if not issubclass(type(value), _CODE):
        return []
    return [(name[0], guessed) for guessed in guesses_in(value, _names_of(name[0]))]


def _can_be_guessed(name: Name, value: object) -> bool:
    """Tell whether it costs little to send `value` in case it is looked up."""
    return issubclass(type(value), _KEPT) and _can_dump(_dump, {name: value})


def _homes_of_parts(value: Any) -> list[Name]:
    from motorpool.names import MIRRORED, home_of

    parts = [*(value.__mro__[1:] if issubclass(type(value), type) else ()), type(value)]
    homes = (home_of(part) for part in parts)
    return [home for home in homes if home is not None and home[0] in MIRRORED]


def _is_machinery(name: str) -> bool:
    # The module's own attributes; `__file__` and `__name__` are read by scripts.
    return name in {"__builtins__", "__loader__", "__spec__", "__builtin__", "__cached__"}


class Definitions:
    """Packs definitions for workers, each set of them once.

    With `guess`, workers were not forked: they need what tasks may look up in ways
    that their code does not show.
    """

    def __init__(self, *, guess: bool) -> None:
        self._guess = guess
        self._packed: tuple[dict[Name, Any], set[Name], tuple[bytes, set[Name]]] | None = None
        self._closures: dict[tuple[Name, ...], Closure] = {}
        # What the initializer refers to, which runs in each worker before anything else.
        self.setup: tuple[Name, ...] = ()
        # What some code binds.
        self._assigned: set[Name] = set()

    def pack_setup_for(self, known: Known, roots: tuple[Name, ...]) -> bytes | None:
        """Return what `pack_for` returns, for an initializer."""
        packed = self.pack_for(known, roots)
        self.setup = roots
        return packed

    def pack_for(self, known: Known, roots: Iterable[Name], *, learn: bool = True) -> bytes | None:
        """Return what a worker needs to run code that refers to `roots`; None if it has it.

        Raises what the pickler raised if a name it has no version of cannot be sent.
        """
        outdated = known.outdated()
        for name in outdated:
            # It is sent in case a task needs it. If one does that leads to it, it is told below.
            try:
                self._pack_for(known, (name,), learn=False)
            except Exception:
                known.keep_old(name)
        if outdated:
            outdated = known.outdated()
        return self._pack_for(known, (*outdated, *roots), learn=learn)

    def _pack_for(self, known: Known, roots: tuple[Name, ...], *, learn: bool) -> bytes | None:
        if not roots:
            return None
        needs = self._closure_of(roots)
        if needs is known.complete:
            return None
        pickled = _NOTHING
        while missing := _missing(needs, known):
            self._assigned |= needs.assigned
            pickled, referred = self._pack(missing, needs.assigned, known)
            further = needs.lacking(referred)
            if not further:
                break
            needs = self._closures[roots] = needs.with_more(further)
        guessed = {
            name: value
            for name, value in (needs.guessed or {}).items()
            if known.guessed.get(name, _MISSING) is not value and not known.has_current(name, value)
        }
        if not missing and not guessed:
            known.complete = needs
            return None
        pickled += pack_guessed(guessed, self._shared(guessed, known).union(missing))[0]
        if learn:
            known.learn(missing)
            known.guessed.update(guessed)
        return pickled

    def _closure_of(self, roots: tuple[Name, ...]) -> Closure:
        found = self._closures.get(roots)
        if found is None or not found.bindings.are_current():
            if len(self._closures) >= _MOST_CLOSURES:
                self._closures.clear()
            found = self._closures[roots] = closure(roots, guess=self._guess)
        return found

    def _pack(
        self, missing: dict[Name, Any], assigned: set[Name], known: Known
    ) -> tuple[bytes, set[Name]]:
        """Return definitions pickled, and the names that they refer to."""
        shared = self._shared(missing, known)
        if self._packed is not None:
            its_missing, its_shared, pickled = self._packed
            if its_shared == shared and _same(its_missing, missing):
                return pickled
        set_up = self._closure_of(self.setup).assigned
        spared = {name for name in missing if name in set_up or known.has(name)}
        pickled = pack(missing, assigned, spared, shared)
        # A connection is handed over to each worker anew.
        self._packed = (missing, shared, pickled) if DESCRIPTOR not in pickled[0] else None
        return pickled

    def _shared(self, missing: dict[Name, Any], known: Known) -> set[Name]:
        """Return the names whose objects the worker has, for definitions to refer to.

        What is defined anew brings copies of what may have been changed in place here.
        """
        is_news = not any(map(known.has, missing))
        if is_news and self._guess:
            candidates = known.names()
        else:
            # The initializer may have changed what it reads: a connection is opened.
            needs = self._closure_of(self.setup)
            candidates = {*needs.bound()} - needs.assigned
        return {
            name
            for name in candidates - missing.keys() - self._assigned
            if known.has_current(name, _names_of(name[0]).get(name[1], _MISSING))
        }


def _missing(needs: Closure, known: Known) -> dict[Name, Any]:
    """Return what a worker lacks, or knows in an older version."""
    return {
        name: value
        for name, value in needs.bound().items()
        if not (known.has(name) if name in needs.assigned else known.has_current(name, value))
    }


def in_order(names: dict[Name, Any]) -> list[tuple[Name, Any]]:
    """Return functions, then classes, bases first, then what may call them when it is unpickled."""

    def rank(entry: tuple[Name, Any]) -> tuple[int, int]:
        value = entry[1]
        kind = type(value)
        if issubclass(kind, type):
            return 1, len(value.__mro__)
        return (0 if kind is types.FunctionType else 2), 0

    return sorted(names.items(), key=rank)


def _same(one: dict[Name, Any], other: dict[Name, Any]) -> bool:
    return one.keys() == other.keys() and all(one[name] is other[name] for name in one)


def _accept(pickled: bytes) -> None:
    """Find nothing wrong with a pickle."""


def pack(
    names: dict[Name, Any],
    assigned: Collection[Name] = (),
    spared: Collection[Name] = (),
    shared: Collection[Name] | None = (),
    check: Callable[[bytes], None] = _accept,
) -> tuple[bytes, set[Name]]:
    """Return definitions pickled, and the names that they refer to.

    Objects of the names `shared` are referred to by these: the worker has them,
    and may have changed its own. If that is None, it may be any worker: each
    object comes along with its names. Of what cannot be sent, names in `spared` are
    left out, because a worker has them in some version, and those in `assigned`
    begin as None, because tasks bind them: to a connection or a file, say, of
    which the parent has its own. `check` raises for a pickle that would not arrive.
    """

    def dump(some: dict[Name, Any]) -> tuple[bytes, set[Name]]:
        return _dump(some, shared, check)

    try:
        return dump(names)
    except Exception:
        sendable = dict(names)
        for name, value in names.items():
            if (name in spared or name in assigned) and not _can_dump(dump, {name: value}):
                if name in assigned:
                    sendable[name] = None
                else:
                    del sendable[name]
        if sendable == names:
            raise
        return dump(sendable)


def pack_guessed(
    names: dict[Name, Any],
    shared: Collection[Name] | None = (),
    check: Callable[[bytes], None] = _accept,
) -> tuple[bytes, set[Name]]:
    """Return what `pack` does of what code may look up, to follow what it needs.

    Nobody minds if they cannot be pickled, or not be loaded.
    """
    if names:
        with suppress(Exception):
            return pack(names, shared=shared, check=check)
    return b"", set()


def _dump(
    some: dict[Name, Any],
    shared: Collection[Name] | None = (),
    check: Callable[[bytes], None] = _accept,
) -> tuple[bytes, set[Name]]:
    from motorpool.cloud import Definition, Named, dump_and_collect

    definitions = [Definition(*name, value) for name, value in in_order(some)]
    pickled = dump_and_collect(definitions, frozenset(some), named=Named(_names_by_id(), shared))
    check(pickled[0])
    return pickled


def _names_by_id() -> dict[int, tuple[Name, ...]]:
    """Return the names of what must stay one object, by its id."""
    from motorpool.names import MIRRORED

    names: dict[int, tuple[Name, ...]] = {}
    modules = {
        id(vars(sys.modules[name])): name for name in reversed(MIRRORED) if name in sys.modules
    }
    for module in modules.values():
        for name, value in list(_names_of(module).items()):
            if _is_one(value) and not _is_machinery(name):
                names[id(value)] = (*names.get(id(value), ()), (module, name))
    return names


def _is_one(value: object) -> bool:
    """Tell whether a copy of `value` would not do in its place; a class is not copied."""
    return not issubclass(type(value), _COPIED)


def _can_dump(dump: Callable[[dict[Name, Any]], object], names: dict[Name, Any]) -> bool:
    try:
        dump(names)
    except Exception:
        return False
    return True
