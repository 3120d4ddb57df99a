"""The names of modules that code uses, and those under which functions and classes are found."""

import re
import sys
import types
from collections.abc import Iterator, Mapping
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
    for part in _parts(obj, set()):
        if type(part) is FunctionType:
            yield from _names_in_code(part.__code__)


def guesses_in(obj: object, names: Mapping[str, object]) -> Iterator[str]:
    """Yield those of its module's `names` that a function or class may look up as it runs.

    `globals()["name"]`, `eval` and `from __main__ import name` may lead to all
    of them, `__subclasses__` to all subclasses, and `typing.get_type_hints` to
    what annotations name that are strings.
    """
    annotated: set[str] = set()
    used: set[str] = set()
    for part in _parts(obj, set()):
        annotated |= _words_of_annotations(part)
        if type(part) is FunctionType:
            used |= _words_of_code(part.__code__)
    looks_up_all = not used.isdisjoint(_LOOKUPS)
    looks_up_classes = "__subclasses__" in used
    for name, value in list(names.items()):
        if looks_up_all or (looks_up_classes and _is_subclass(value)) or name in annotated:
            yield name


def _is_subclass(value: Any) -> bool:
    return issubclass(type(value), type) and value.__mro__[1:] != (object,)


_LOOKUPS = ("globals", "eval", "exec", "__main__")


def _words_of_annotations(part: object) -> set[str]:
    annotations: object = None
    if type(part) is FunctionType:
        annotations = part.__annotations__
    elif issubclass(type(part), type):
        annotations = vars(part).get("__annotations__")
    return {
        word
        for one in (annotations.values() if isinstance(annotations, dict) else ())
        if type(one) is str or type(one).__module__ == "typing"
        for word in re.findall(r"\w+", str(one))
    }


def _words_of_code(code: CodeType) -> set[str]:
    words = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            words |= _words_of_code(constant)
        elif isinstance(constant, str) and "__main__" in constant:
            words.add("__main__")
    return words


def _parts(obj: object, seen: set[int]) -> Iterator[object]:
    if id(obj) in seen:
        return
    seen.add(id(obj))
    yield obj
    for part in _parts_with_code(obj):
        yield from _parts(part, seen)


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
    if code.co_names:
        yield from _names_in_instructions(code.co_code, code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in_code(constant)


def _names_in_instructions(
    instructions: bytes, names: tuple[str, ...]
) -> Iterator[tuple[str, bool]]:
    # Not by `dis`, whose import takes milliseconds of the first call.
    from opcode import EXTENDED_ARG, opmap

    loads = {opmap[name] for name in _LOADS if name in opmap}
    stores = {opmap[name] for name in _STORES}
    shifted = opmap["LOAD_GLOBAL"] if sys.version_info >= (3, 11) else None
    more = 0
    for operation, argument in zip(instructions[::2], instructions[1::2], strict=True):
        index = more | argument
        more = index << 8 if operation == EXTENDED_ARG else 0
        if operation in loads:
            # Its lowest bit tells of a call since 3.11.
            yield names[index >> 1 if operation == shifted else index], False
        elif operation in stores:
            yield names[index], True


_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_STORES = ("STORE_GLOBAL", "DELETE_GLOBAL")
