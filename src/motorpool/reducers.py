"""What picklers have to know beforehand: special types, and modules that are never imported."""

import copyreg
import sys
from typing import Any

# Modules that a worker never imports: their names are defined in it on demand.
MAIN_MODULES = ("__main__", "__mp_main__")


class _Reducers:
    """How `multiprocessing` pickles connections, sockets and the like, once it is imported."""

    known: tuple[int, int] = (0, 0)
    table: dict[type, Any] | None = None


def reducers() -> dict[type, Any] | None:
    """Return the reducers of `multiprocessing.reduction` and `copyreg`; None if not imported."""
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is None:
        return None
    extra = reduction.ForkingPickler._extra_reducers  # noqa: SLF001 - registered there by many
    known = len(extra), len(copyreg.dispatch_table)
    if known != _Reducers.known:
        # A plain dict: the C pickler looks into it without a call.
        _Reducers.table = {**copyreg.dispatch_table, **extra}
        _Reducers.known = known
    return _Reducers.table
