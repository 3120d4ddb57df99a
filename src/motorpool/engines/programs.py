"""What a process that has never seen the script must be told to run a function of it.

There is no way for it to ask in the midst of a chunk. So a *program* holds the
function and the definitions of all names that it leads to (`definitions.py`).
If a chunk's items turn out to need a name beyond these, nothing of it is run:
the name is added, and the chunk sent again.
"""

import os
import sys
import weakref
from collections.abc import Callable, Collection, Iterable
from itertools import count
from multiprocessing.process import current_process

from motorpool.definitions import Bindings, Closure, Name, closure, pack, pack_guessed, remember
from motorpool.engines.base import Function
from motorpool.engines.sources import sources_of
from motorpool.explain import not_picklable
from motorpool.reducers import MAIN_MODULES
from motorpool.serialization import dumps, is_main_function
from motorpool.typed import Any
from motorpool.worker.remote import Key
from motorpool.worker.remote import Program as Text
from motorpool.worker.space import alias, home

_numbers = count(1)


class Versions:
    """Numbers the bindings of each name, so that a process knows which it has.

    What tasks or an initializer make of a name stays until the parent binds it anew.
    """

    def __init__(self) -> None:
        self._bound: dict[Name, tuple[Any, int]] = {}
        self._last = 0

    def of(self, name: Name, value: Any) -> int:
        """Return the number of this binding, a new one if `name` was bound otherwise before."""
        known, version = self._bound.get(name, (None, 0))
        if version and (known() if type(known) is weakref.ref else known) is value:
            return version
        self._last += 1
        self._bound[name] = remember(value), self._last
        return self._last

    def are_current(self, versions: dict[Name, int]) -> bool:
        """Tell whether these are the numbers given out last."""
        return all(self._bound[name][1] == version for name, version in versions.items())


# One for all pools: they share the processes of a cluster.
_versions = Versions()


class Program:
    """A function with what it needs, as of now.

    Parameters
    ----------
    func, style, payload
        The function, how it is called, and its pickle.
    roots
        The names that the pickle refers to.
    tops
        Top-level modules that have to be sent too.
    set_up
        Names that the initializer binds before.
    check
        Raises for a pickle that would not arrive.
    """

    def __init__(
        self,
        func: Any,
        style: int,
        payload: bytes,
        roots: Iterable[Name],
        tops: frozenset[str] = frozenset(),
        set_up: Collection[Name] = (),
        *,
        check: Callable[[bytes], None],
    ) -> None:
        self.key: Key = (home(), next(_numbers))
        self.roots = frozenset(roots)
        self.tops = tops
        self.handle: Any = None  # of the text, where the engine has put it
        self._call = func, style, payload
        self._check = check
        self.needed, bound, definitions = _definitions(func, self.roots, set_up, check)
        self.versions = {name: _versions.of(name, value) for name, value in bound.items()}
        assigned = tuple(self.needed.assigned)
        self._authkey = _authkey()
        sources = sources_of(tops)
        self.text = dumps(
            Text(sources, definitions, self.versions, assigned, style, payload, self._authkey)
        )

    def is_current(self) -> bool:
        """Tell whether the names are bound as they were, and have not been otherwise in between."""
        return (
            self.needed.bindings.are_current()
            and _versions.are_current(self.versions)
            and self._authkey == _authkey()
        )

    def extended(self, names: Iterable[Name], tops: Iterable[str] = ()) -> "Program":
        """Return the program with further names and modules, all as of now."""
        roots = self.roots.union(names)
        return Program(*self._call, roots, self.tops.union(tops), check=self._check)


def _authkey() -> bytes | None:
    """Return what processes must know that use our managers; None if there are none."""
    if "multiprocessing.managers" not in sys.modules:
        return None
    return bytes(current_process().authkey)


def pickle_function(
    func: Any, what: str, check: Callable[[bytes], None]
) -> tuple[bytes, tuple[Name, ...]]:
    """Return `func` pickled, and the names of `__main__` and its like that the pickle refers to.

    `check` raises for a pickle that would not arrive.
    """
    if is_main_function(func):
        return dumps(func), ((func.__module__, func.__qualname__),)
    try:
        payload = dumps(func)
        check(payload)
        if not any(name.encode() in payload for name in MAIN_MODULES):
            return payload, ()
        from motorpool.cloud import dump_and_collect

        payload, roots = dump_and_collect(func)
    except Exception as error:
        raise not_picklable(what, func, error) from error
    return payload, tuple(sorted(roots))


def names_needed_by(item: object) -> set[Name]:
    """Return the names of `__main__` and its like that the pickle of `item` refers to."""
    from motorpool.cloud import dump_and_collect

    return dump_and_collect(item)[1]


def refers_to_main(payload: bytes) -> bool:
    """Tell whether a pickle may refer to something in `__main__`."""
    return b"__main__" in payload or b"__mp_main__" in payload


class Programs:
    """The programs of one engine, which raises in `check` for a pickle that would not arrive."""

    def __init__(self, check: Callable[[bytes], None]) -> None:
        self._check = check
        self._programs: dict[int, Program] = {}
        self.set_up: Collection[Name] = ()  # names that the initializer binds
        # Modules that a worker was seen to lack go with all programs made since.
        self.tops: frozenset[str] = frozenset()

    def latest(self, function: Function) -> Program | None:
        """Return the program of `function` as it was made last, None if it has none."""
        return self._programs.get(function.number)

    def current(self, function: Function) -> Program | None:
        """Return the program of `function`, None if names are bound anew or it has none yet."""
        program = self._programs.get(function.number)
        return program if program is not None and program.is_current() else None

    def make(self, function: Function, names: Iterable[Name] = ()) -> Program:
        """Return the program of `function`, which needs `names` beyond what it leads to.

        Raises NotPicklableError if a definition cannot be sent.
        """
        old = self._programs.get(function.number)
        roots = {*function.roots, *names, *(old.roots if old is not None else ())}
        call = function.func, function.style, function.payload
        program = Program(*call, roots, self.tops, self.set_up, check=self._check)
        self._programs[function.number] = program
        return program

    def forget(self, function: Function) -> None:
        """Drop the program of a function that is not used again."""
        self._programs.pop(function.number, None)


def _definitions(
    func: Any, roots: frozenset[Name], set_up: Collection[Name], check: Callable[[bytes], None]
) -> tuple[Closure, dict[Name, Any], bytes | None]:
    """Return what `func` needs, what the definitions of that refer to, and these."""
    if not roots:
        return Closure({}, set(), Bindings({})), {}, None
    needed = closure(roots, guess=True)
    while True:
        bound = needed.bound()
        for module, _ in bound:
            know_by_alias(module)
        try:
            definitions, referred = pack(bound, needed.assigned, set_up, None, check)
        except Exception as error:
            refused = not_picklable("the function", func, error)
            raise refused from error
        further = needed.lacking(referred)
        if not further:
            guessed, named = pack_guessed(needed.guessed or {}, None, check)
            bound |= closure(named).bound() | (needed.guessed or {})
            return needed, bound, definitions + guessed if bound else None
        needed = needed.with_more(further)


def know_by_alias(module: str) -> None:
    """Let results that name the alias of a module find the module itself."""
    name = alias(home(), module)
    if name != module:  # Else it is one already.
        sys.modules[name] = sys.modules[module]
        _aliases.add(name)


def _forget_aliases() -> None:
    """In a forked child: the alias is to stand for what it is sent, as in any other process."""
    for name in _aliases:
        sys.modules.pop(name, None)
    _aliases.clear()


_aliases: set[str] = set()
os.register_at_fork(after_in_child=_forget_aliases)
