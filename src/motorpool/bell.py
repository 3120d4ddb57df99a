"""A descriptor that one thread makes readable to wake another from its epoll."""

import os
import threading
from contextlib import suppress


class Bell:
    """An eventfd. `fd` goes into an epoll; ringing a closed bell does nothing."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # A ring between the closing and the look would hit somebody else's file.
        # Reentrant: a garbage collection in between may ring again.
        self._lock = threading.RLock()

    def ring(self) -> None:
        """Make the descriptor readable."""
        with self._lock:
            if self.fd >= 0:
                os.eventfd_write(self.fd, 1)

    def silence(self) -> None:
        """Make the descriptor not readable."""
        with self._lock, suppress(BlockingIOError):
            if self.fd >= 0:
                os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        with self._lock:
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def forget(self) -> None:
        """In a forked child, where another thread may have held the lock: close."""
        self._lock = threading.RLock()
        self.close()
