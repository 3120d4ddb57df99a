"""Answer a worker that met a module or a name that it cannot find."""

import sys
from types import ModuleType

from motorpool.definitions import Definitions, Known
from motorpool.names import MIRRORED

Answer = tuple[bool, bytes | None]


def answer(definitions: Definitions, known: Known, module: str, name: str | None) -> Answer:
    """Return whether the parent has it, and definitions of it if it is a name.

    A module is given as a mirror: its functions and classes follow by value,
    one by one, when they are asked for. A module written in C cannot be given.
    """
    found = sys.modules.get(module)
    if not isinstance(found, ModuleType):
        return False, None
    if name is None:
        if not hasattr(found, "__dict__") or getattr(found, "__file__", "").endswith(".so"):
            return False, None
        MIRRORED[module] = None
        return True, None
    if name not in vars(found):
        return False, None
    try:
        return True, definitions.pack_for(known, [(module, name)])
    except Exception:
        return False, None
