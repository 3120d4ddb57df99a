"""Errors that nobody asks for: logged when their result is collected."""

import atexit
import os
import sys
import weakref
from contextlib import suppress

from motorpool.log import log

_KEPT: "weakref.WeakSet[Unseen]" = weakref.WeakSet()


class Unseen:
    """An error that is logged when this is collected, unless somebody asks for it before.

    At the interpreter's exit, what is left is logged while logging still works.
    """

    __slots__ = ("__weakref__", "_error", "_pid")

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error
        self._pid = os.getpid()
        if not _KEPT:
            # At exit, before those of `logging`, which are registered now at the latest.
            log()
            atexit.register(_tell_all)
        _KEPT.add(self)

    def is_asked_for(self) -> None:
        """Somebody asks for the error: there is nothing to log."""
        self._error = None

    def tell(self) -> None:
        """Log the error, once; not in a forked child, which was never meant to ask."""
        error, self._error = self._error, None
        if error is None or self._pid != os.getpid() or sys.is_finalizing():
            return
        notes = "; ".join(map(str, getattr(error, "__notes__", ())))
        log().error(
            "nobody asked for the result of a call that failed%s. Call get() on the result, or "
            "pass an error_callback.",
            f" ({notes})" if notes else "",
            exc_info=error,
        )

    def __del__(self) -> None:
        """Log the error if it is still unseen."""
        with suppress(Exception):
            self.tell()


def _tell_all() -> None:
    for unseen in list(_KEPT):
        unseen.tell()
