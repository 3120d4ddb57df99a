"""Named tuples that are made in a tenth of the time.

Every message is one, and `typing.NamedTuple` compiles a constructor for each
as it is defined: that was a quarter of the time to import motorpool. Here all
constructors with as many fields share one compiled body, in which only the
names of the arguments are exchanged. They are called as fast.
"""

import sys
from collections import _tuplegetter  # type: ignore[attr-defined]
from collections.abc import Iterable
from types import FunctionType

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

_new = tuple.__new__

# The constructor, by the number of fields.
_TEMPLATES = (
    lambda _cls: _new(_cls, ()),
    lambda _cls, a: _new(_cls, (a,)),
    lambda _cls, a, b: _new(_cls, (a, b)),
    lambda _cls, a, b, c: _new(_cls, (a, b, c)),
    lambda _cls, a, b, c, d: _new(_cls, (a, b, c, d)),
    lambda _cls, a, b, c, d, e: _new(_cls, (a, b, c, d, e)),
    lambda _cls, a, b, c, d, e, f: _new(_cls, (a, b, c, d, e, f)),
    lambda _cls, a, b, c, d, e, f, g: _new(_cls, (a, b, c, d, e, f, g)),
    lambda _cls, a, b, c, d, e, f, g, h: _new(_cls, (a, b, c, d, e, f, g, h)),
    lambda _cls, a, b, c, d, e, f, g, h, i: _new(_cls, (a, b, c, d, e, f, g, h, i)),
    lambda _cls, a, b, c, d, e, f, g, h, i, j: _new(_cls, (a, b, c, d, e, f, g, h, i, j)),
)


class Record(tuple):  # type: ignore[type-arg]
    """What all of them can do, as any named tuple."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()
    _field_defaults: dict[str, object] = {}  # noqa: RUF012 - never changed

    @classmethod
    def _make(cls, values: Iterable[object]) -> "Record":
        return _new(cls, values)

    def _replace(self, /, **changes: object) -> "Record":
        values = [changes.pop(name, value) for name, value in zip(self._fields, self, strict=True)]
        if changes:
            msg = f"{type(self).__name__} has no fields {list(changes)!r}"
            raise ValueError(msg)
        return _new(type(self), values)

    def _asdict(self) -> dict[str, object]:
        return dict(zip(self._fields, self, strict=True))

    def __getnewargs__(self) -> tuple[object, ...]:
        """Pickle as a call with all values."""
        return tuple(self)

    def __repr__(self) -> str:
        """Name the fields."""
        values = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({values})"


class _Maker(type):
    """Makes the class that a class statement describes."""

    def __new__(cls, name: str, _bases: object, body: "dict[str, Any]") -> type:
        fields: tuple[str, ...] = tuple(body.get("__annotations__", ()))
        defaults = {field: body.pop(field) for field in fields if field in body}
        code = _TEMPLATES[len(fields)].__code__.replace(
            co_name="__new__", co_varnames=("_cls", *fields)
        )
        body["__new__"] = FunctionType(code, globals(), "__new__", tuple(defaults.values()))
        body |= {field: _tuplegetter(index, None) for index, field in enumerate(fields)}
        body |= {"_fields": fields, "_field_defaults": defaults, "__match_args__": fields}
        return type(name, (Record,), {**body, "__slots__": ()})


if sys.version_info < (3, 14):
    NamedTuple = type.__new__(_Maker, "NamedTuple", (), {})
else:  # A class body does not hold its annotations there.
    from typing import NamedTuple

__all__ = ["NamedTuple"]
