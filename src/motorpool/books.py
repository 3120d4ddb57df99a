"""The driver's lock, which closes the books when an exception comes while it is held."""

from collections.abc import Callable
from types import TracebackType
from typing import Any

from motorpool.errors import MotorpoolError


class Books:
    """The driver's lock; an exception while it is held closes the books (see `Driver`)."""

    def __init__(self, lock: Any, reset: Callable[[BaseException], None]) -> None:
        self._lock = lock
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


class CompleteBooks(Books):
    """The same, with the direct call, if there is one, on the books."""

    def __init__(
        self, lock: Any, reset: Callable[[BaseException], None], complete: Callable[[], None]
    ) -> None:
        super().__init__(lock, reset)
        self._complete = complete

    def __enter__(self) -> None:
        """Take the lock, and enter the direct call."""
        self._lock.acquire()
        self._complete()
