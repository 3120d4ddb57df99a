"""Import modules that only the parent has, from their source, which came with a program.

A module that was edited since another program brought it is imported anew.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from motorpool.typed import Any, NamedTuple


class Source(NamedTuple):
    """A module's source."""

    file: str
    text: str
    is_package: bool


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds, last of all finders, the modules that came."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        source = self.sources.get(name)
        if source is None:
            return None
        return importlib.machinery.ModuleSpec(
            name, self, origin=source.file, is_package=source.is_package
        )

    def get_source(self, fullname: str) -> str:
        """Return the source, also for tracebacks."""
        return self.sources[fullname].text

    def get_code(self, fullname: str) -> Any:
        """Compile the source."""
        source = self.sources[fullname]
        return compile(source.text, source.file, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, which is told the name of its file."""
        module.__file__ = self.sources[module.__name__].file
        super().exec_module(module)


_finder = _Finder()


def has_brought(module: ModuleType) -> bool:
    """Tell whether a module was imported from a source that came with a program."""
    return getattr(module, "__loader__", None) is _finder


def install(sources: Mapping[str, Source]) -> None:
    """Have modules found by their sources, unless they are found without."""
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)
    stale = {
        name for name, source in sources.items() if _finder.sources.get(name, source) != source
    }
    _finder.sources.update(sources)
    if stale:
        # With the ones that import it; which these are, nobody knows.
        for name, module in list(sys.modules.items()):
            if has_brought(module):
                del sys.modules[name]
