"""Objects that do in their special methods what nobody expects."""

import dataclasses
import os
import sys
import threading
import types

import workloads


class Quits(BaseException):
    """An exception that is no Exception."""


def _make(kind, home):
    """Raise `kind`, if this is not the process where it was pickled."""
    if os.getpid() != home:
        raise kind("not here")
    return 0


class LoadsWith:
    """Raises when it is unpickled in another process."""

    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        """Leave it to `_make`."""
        return _make, (self.kind, os.getpid())


class HashedAtHome:
    """Cannot be hashed but in the process in which it was made."""

    def __init__(self):
        self.home = os.getpid()

    def __hash__(self):
        if os.getpid() != self.home:
            msg = "no hash here"
            raise LookupError(msg)
        return 1

    def __eq__(self, other):
        return self is other


class StateRaises:
    """Raises when its state is set."""

    def __getstate__(self):
        return {"a": 1}

    def __setstate__(self, state):
        raise SystemExit(state)


class PicklesWith:
    """Raises when it is pickled."""

    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        raise self.kind("not pickled")


RESULTS = {
    "exit": lambda: LoadsWith(SystemExit),
    "base": lambda: LoadsWith(Quits),
    "memory": lambda: LoadsWith(MemoryError),
    "state": StateRaises,
    "set": lambda: {HashedAtHome()},
    "dict": lambda: {HashedAtHome(): 1},
    "frozenset": lambda: frozenset([HashedAtHome()]),
    "pickle-exit": lambda: PicklesWith(SystemExit),
}


def strange_if(name, bad, item):
    """Return the item, or if it is the bad one a strange result."""
    return RESULTS[name]() if item == bad else item


def shared_if(item):
    """Return a function, or an object that does not load, by turns."""
    return (lambda: item) if item % 2 else LoadsWith(ValueError)


def twins(_item):
    """Return the same broken object as others, which travel in the same chunk."""
    return _TWIN


_TWIN = StateRaises()


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """Lets none of its attributes be set."""

    code: int = 1


class NotesError(Exception):
    """Has notes that are none."""

    __notes__ = 3


class SecretiveError(Exception):
    """Shows nothing of itself."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


class ReprError(Exception):
    """Ends the program when it is shown."""

    def __repr__(self):
        raise SystemExit

    __str__ = __repr__


ERRORS = {
    kind.__name__: kind
    for kind in (FrozenError, NotesError, SecretiveError, ReprError, Quits, GeneratorExit)
}


def raise_if(name, bad, item):
    """Raise a strange error for the bad item."""
    if item == bad:
        raise ERRORS[name]
    return item


def stop_if(bad, item):
    """Raise StopIteration for the bad item."""
    if item == bad:
        raise StopIteration
    return item


class Unhashable:
    """A function that cannot be hashed, nor compared, nor asked for attributes."""

    def __hash__(self):
        msg = "no hash"
        raise ValueError(msg)

    def __eq__(self, other):
        msg = "no comparison"
        raise ValueError(msg)

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __reduce__(self):
        return Unhashable, ()

    def __call__(self, item):
        return item


class Asks:
    """Waits for a pool's result while it is pickled."""

    pool = None

    def __reduce__(self):
        return int, (Asks.pool.apply_async(abs, (-3,)).get(),)


class Submits:
    """Asks a pool for a result while it is pickled, and does not wait."""

    pool = None
    promised = None

    def __reduce__(self):
        Submits.promised = Submits.pool.apply_async(abs, (-3,))
        return int, ()


def endless(leaf):
    """Return a list of two references to such a list, and so on: 2**60 ways to `leaf`."""
    for _ in range(60):
        leaf = [leaf, leaf]
    return leaf


def raise_with_endless(item):
    """Raise an error of a class that asks for arguments, with an endless attribute."""
    error = workloads.NeedsTwo("left", "right")
    error.data = item
    raise error


class ReprRaises:
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no repr")


class AttributesRaise:
    """Tells nobody what it has."""

    def __init__(self):
        self.lock = threading.Lock()

    @property
    def __dict__(self):
        raise RuntimeError("no attributes")


class SlotRaises:
    """Has a slot that raises when it is read."""

    __slots__ = ("lock", "value")

    def __getattribute__(self, name):
        if name == "value":
            raise RuntimeError("no value")
        return object.__getattribute__(self, name)


class NothingWorks:
    """Has nothing at all."""

    def __getattribute__(self, name):
        raise KeyError(name)


class ClassRaises:
    """Does not tell its class."""

    @property
    def __class__(self):
        raise RuntimeError("no class")

    def __reduce__(self):
        raise RuntimeError("no pickle")


class WordlessError(Exception):
    """An error whose message raises, and that cannot be made of a message."""

    def __new__(cls):
        return super().__new__(cls)

    def __str__(self):
        raise RuntimeError("no message")


class RaisesWordless:
    """Refuses to be pickled, and does not say why."""

    def __reduce__(self):
        raise WordlessError


UNSENDABLE = {
    "key without a repr": lambda: {ReprRaises(): threading.Lock()},
    "attributes": AttributesRaise,
    "slot": SlotRaises,
    "nothing": NothingWorks,
    "class": ClassRaises,
    "wordless error": RaisesWordless,
}


def begin_import(name, item):
    """Return `item` by way of a lambda, while a module seems to be in the midst of its import."""
    sys.modules[name] = types.ModuleType(name)
    return lambda: item
