"""Stands in for `typing`, whose import takes a third of the time of ours.

Type checkers see the real one. At run time annotations mean nothing here, and
what remains of a protocol or a generic class is a class. No module of a plain
pool imports `typing`; `tests/test_speed_guard.py` sees to it.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import IO, Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, cast
else:
    from motorpool.records import NamedTuple

    class Generic:
        """A class that may be followed by brackets."""

        __slots__ = ()

        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    class Protocol:
        """A class to derive from."""

        __slots__ = ()

    Any = object
    ClassVar = IO = Literal = Generic

    def TypeVar(_name: str) -> type:  # noqa: N802 - the name in `typing`
        """Return a type."""
        return object

    def cast(_kind: object, value: object) -> object:
        """Return `value`."""
        return value


__all__ = [
    "IO",
    "TYPE_CHECKING",
    "Any",
    "ClassVar",
    "Generic",
    "Literal",
    "NamedTuple",
    "Protocol",
    "TypeVar",
    "cast",
]
