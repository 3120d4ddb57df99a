"""The driver's lock, which closes the books when an exception comes while it is held."""

from collections.abc import Callable
from types import TracebackType

from motorpool.errors import MotorpoolError
from motorpool.typed import Any


class BooksLock:
    """The driver's lock; an exception while it is held closes the books (see `Driver`)."""

    def __init__(
        self, lock: Any, reset: Callable[[BaseException], None], complete: Callable[[], None]
    ) -> None:
        self._lock = lock
        self._reset = reset
        self._complete = complete

    def __enter__(self) -> None:
        """Take the lock, and put the direct call, if there is one, on the books."""
        self._lock.acquire()
        self._complete()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Leave the lock."""
        try:
            if error is not None:
                self.close(error)
        finally:
            self._lock.release()

    def close(self, error: BaseException) -> None:
        """Close the books because of `error`, if it is not one that is raised on purpose."""
        if not isinstance(error, (MotorpoolError, TypeError)):
            self._reset(error)
