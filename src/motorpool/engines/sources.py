"""The sources of modules that workers cannot import: what is beside the script, mostly."""

import inspect
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from motorpool.worker.sources import Source

_INSTALLED = tuple(
    Path(sysconfig.get_path(kind)).resolve()
    for kind in ("stdlib", "platstdlib", "purelib", "platlib")
)


def sources_of(tops: Iterable[str]) -> dict[str, Source]:
    """Return the sources of top-level modules, and of what else was imported from beside them."""
    found: dict[str, Source] = {}
    for top in tops:
        folder = _folder(sys.modules.get(top))
        for name, module in list(sys.modules.items()):
            first = name.partition(".")[0]
            is_beside = folder is not None and _folder(sys.modules.get(first)) == folder
            if name not in found and (first == top or is_beside):
                source = _source(module)
                if source is not None:
                    found[name] = source
    return found


def can_be_sent(top: str) -> bool:
    """Tell whether a top-level module is of Python source, all of it that is imported."""
    return sys.modules.get(top) is not None and all(
        _source(module) is not None
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == top
    )


def _folder(module: ModuleType | None) -> Path | None:
    """Return where a top-level module lies; None for an installed one, which goes alone."""
    file = getattr(module, "__file__", None)
    if module is None or not isinstance(file, str) or module.__name__ in sys.builtin_module_names:
        return None
    folder = Path(file).resolve().parent
    if hasattr(module, "__path__"):
        folder = folder.parent
    return None if any(folder.is_relative_to(place) for place in _INSTALLED) else folder


def _source(module: ModuleType) -> Source | None:
    is_package = hasattr(module, "__path__")
    if is_package and getattr(module, "__file__", None) is None:  # a namespace package
        return Source("", "", is_package)
    try:
        text = inspect.getsource(module)
    except OSError:
        # An empty file has no source, says inspect.
        file = Path(getattr(module, "__file__", None) or "")
        is_empty = file.suffix == ".py" and file.exists() and not file.stat().st_size
        return Source(str(file), "", is_package) if is_empty else None
    except TypeError:
        return None
    return Source(str(module.__file__), text, is_package)
