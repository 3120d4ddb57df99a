"""A descriptor that one thread makes readable to wake another from its epoll."""

import os
from contextlib import suppress


class _Descriptor:
    """An eventfd, closed when nobody refers to it any more."""

    def __init__(self) -> None:
        self.number = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.number)


class Bell:
    """An eventfd. `fd` goes into an epoll; ringing a closed bell does nothing.

    There is no lock: a thread that is interrupted by a signal handler here
    holds up nobody. Who rings refers to the descriptor, so that its number is
    nobody else's before the ringing is over.
    """

    def __init__(self) -> None:
        self._descriptor: _Descriptor | None = _Descriptor()

    @property
    def fd(self) -> int:
        """The descriptor's number, -1 once the bell is closed."""
        descriptor = self._descriptor
        return -1 if descriptor is None else descriptor.number

    def ring(self) -> None:
        """Make the descriptor readable."""
        descriptor = self._descriptor
        if descriptor is not None:
            os.eventfd_write(descriptor.number, 1)

    def silence(self) -> None:
        """Make the descriptor not readable."""
        descriptor = self._descriptor
        if descriptor is not None:
            with suppress(BlockingIOError):
                os.eventfd_read(descriptor.number)

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self._descriptor = None
