"""The names of modules that code uses, and those under which functions and classes are found."""

import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FunctionType

from motorpool.reducers import MAIN_MODULES
from motorpool.typed import Any

Name = tuple[str, str]  # of a module, and a top-level name in it

# Modules that others know only as mirrors, in the order in which they became so.
MIRRORED: dict[str, None] = dict.fromkeys(MAIN_MODULES)


def home_of(obj: Any) -> Name | None:
    """Return the module and top-level name under which `obj` is found again, None if it is not."""
    module_name = getattr(obj, "__module__", None)
    qualname = getattr(obj, "__qualname__", None)
    module = sys.modules.get(module_name) if isinstance(module_name, str) else None
    if module is None or not isinstance(module_name, str) or not isinstance(qualname, str):
        return None
    if module is sys.modules.get("__main__"):  # multiprocessing gives it a second name
        module_name = "__main__"
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return (module_name, qualname.split(".")[0]) if found is obj else None


def names_in(obj: object) -> Iterator[tuple[str, bool]]:
    """Yield the global names that a function or class uses, and whether it sets them."""
    for code in _codes(obj, set()):
        yield from _names_in_code(code)


def _codes(obj: object, seen: set[int]) -> Iterator[CodeType]:
    if id(obj) in seen:
        return
    seen.add(id(obj))
    if type(obj) is FunctionType:
        yield obj.__code__
    for part in _parts_with_code(obj):
        yield from _codes(part, seen)


def _parts_with_code(obj: Any) -> Iterator[object]:
    # By its `type`: `isinstance` and `hasattr` may call code of the object's own.
    kind = type(obj)
    if kind is FunctionType:
        for cell in obj.__closure__ or ():
            with suppress(ValueError):  # empty so far
                yield cell.cell_contents
    elif issubclass(kind, (classmethod, staticmethod, types.MethodType)):
        yield obj.__func__
    elif issubclass(kind, property):
        yield from (obj.fget, obj.fset, obj.fdel)
    elif issubclass(kind, type):
        yield from vars(obj).values()
    elif _has_wrapped(obj):
        with suppress(Exception):
            yield obj.__wrapped__


def _has_wrapped(obj: object) -> bool:
    """Tell whether `obj` has a `__wrapped__`, be there a `__getattr__` or not that makes it up."""
    places = [vars(kind) for kind in type(obj).__mro__]
    with suppress(Exception):
        places.append(object.__getattribute__(obj, "__dict__"))
    return any("__wrapped__" in place for place in places)


def _names_in_code(code: CodeType) -> Iterator[tuple[str, bool]]:
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval, False
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            yield instruction.argval, True
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in_code(constant)
