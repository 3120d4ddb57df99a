"""Modules that a worker cannot import, `__main__` first of all, as mirrors of the parent's.

A mirror is a module whose missing names are asked of the parent, while
something is being unpickled: `pickle` looks a name up, the mirror's
`__getattr__` sends NEED, and the parent answers with definitions
(`definitions.py`). A name that was defined stays until the parent defines it
anew. Under fork the inherited `__main__` becomes the mirror, with all that it
holds.

The script itself is never run again in a worker.
"""

import copyreg
import importlib
import importlib.machinery
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType

from motorpool.reducers import MAIN_MODULES
from motorpool.typed import Any, ClassVar

Ask = Callable[[str, str | None], bool]


class Mirrors:
    """The mirrors of one worker. `loading` is true while something is being unpickled."""

    installed: "ClassVar[Mirrors | None]" = None

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.loading = False

    def install(self) -> None:
        """Make `__main__` a mirror, and find unknown modules at the parent's."""
        # Objects of a program that is itself a spawned process use the second name.
        sys.modules["__mp_main__"] = self.adopt("__main__")
        Mirrors.installed = self
        copyreg.pickle(Mirror, _name_mirror)
        sys.meta_path.append(_AskingFinder(self))

    def adopt(self, name: str) -> ModuleType:
        """Return module `name` as a mirror; an existing one keeps what it holds."""
        module = sys.modules.setdefault(name, Mirror(name))
        module.__class__ = Mirror
        module.__motorpool_mirrors__ = self  # type: ignore[attr-defined]
        return module


class Mirror(ModuleType):
    """A module that asks the parent for names it lacks."""

    __motorpool_mirrors__: Mirrors

    def __getattr__(self, name: str) -> Any:
        """Return what the parent defines, or raise AttributeError as any module."""
        mirrors = self.__dict__.get("__motorpool_mirrors__")
        dunder = name.startswith("__") and name.endswith("__")
        if mirrors is not None and mirrors.loading and not dunder:
            mirrors.ask(self.__name__, name)
            if name in self.__dict__:
                return self.__dict__[name]
        msg = f"module {self.__name__!r} has no attribute {name!r}"
        raise AttributeError(msg, name=name, obj=self)


# Without the base classes in `importlib.abc`, which is slow to import.
class _AskingFinder:
    """Finds, last of all finders, modules that only the parent has."""

    def __init__(self, mirrors: Mirrors) -> None:
        self._mirrors = mirrors

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not self._mirrors.loading or not self._mirrors.ask(name, None):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = Mirror(spec.name)
        module.__motorpool_mirrors__ = self._mirrors
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty: its names come on demand."""


def module_in_import() -> str | None:
    """Return the module whose import by a worker leads to this call, None if there is none."""
    frame = sys._getframe() if Mirrors.installed is not None else None  # noqa: SLF001
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if frame.f_code.co_name == "<module>" and name not in MAIN_MODULES:
            return str(name)
        frame = frame.f_back
    return None


def _name_mirror(mirror: Mirror) -> tuple[Any, ...]:
    return importlib.import_module, (mirror.__name__,)


def module_globals(name: str) -> dict[str, Any]:
    """Return the globals of module `name`, mirrored if need be; called by definitions."""
    module = sys.modules.get(name)
    if module is None and Mirrors.installed is not None:
        module = Mirrors.installed.adopt(name)
    elif module is None:
        module = sys.modules[name] = Mirror(name)
    return vars(module)


def define(module: str, name: str, value: object) -> None:
    """Set a name of a mirrored module; called by definitions."""
    module_globals(module)[name] = value


class _Unpickler(pickle.Unpickler):
    """Understands names in place of objects that are here already."""

    def persistent_load(self, name: tuple[str, str]) -> Any:
        """Return what a name of a mirrored module is bound to."""
        return module_globals(name[0])[name[1]]


def load_definitions(payload: bytes) -> None:
    """Set the names that `payload` defines, and may define besides."""
    load_with_guesses(_Unpickler, payload)


def load_with_guesses(unpickler: Callable[..., pickle.Unpickler], payload: bytes) -> None:
    """Load a pickle of what is needed, and one of guesses, if any, whether it succeeds or not."""
    file = io.BytesIO(payload)
    unpickler(file).load()
    if file.tell() < len(payload):
        with suppress(Exception):
            unpickler(file).load()
