"""The driver's lock, which closes the books when an exception comes while it is held."""

import threading
from collections.abc import Callable
from types import TracebackType

from motorpool.errors import MotorpoolError


class Books:
    """The driver's lock; an exception while it is held closes the books (see `Driver`)."""

    def __init__(self, reset: Callable[[BaseException], None]) -> None:
        # Reentrant: a signal handler may call the pool in the midst of a step.
        self._lock = threading.RLock()
        self._reset = reset

    def __enter__(self) -> None:
        """Take the lock."""
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Leave the lock."""
        try:
            if error is not None and not isinstance(error, (MotorpoolError, TypeError)):
                self._reset(error)
        finally:
            self._lock.release()
