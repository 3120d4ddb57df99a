"""The parent's half of the fork server: ask it for workers, and for their exit codes."""

import os
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing import util

from motorpool.worker.forkserver import CODES

_NUMBER = struct.Struct("<cq")


class ForkServer:
    """A helper process that forks workers; started on first use, one per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pid = 0

    def start(self, fds: list[int], launch: Callable[[int], int]) -> int:
        """Fork a worker that inherits `fds`, and return its pid."""
        with self._lock:
            for attempt in (1, 2):
                if self._control is None:
                    self._launch(launch)
                assert self._control is not None  # noqa: S101 - for the type checker
                try:
                    message = _NUMBER.pack(b"s", len(fds))
                    socket.send_fds(self._control, [message], fds)
                    return self._answer()
                except (OSError, EOFError) as error:
                    # Somebody killed the server; its workers live on. Start another.
                    self._close()
                    if attempt == 2:  # noqa: PLR2004
                        msg = f"the fork server does not start workers: {error}"
                        raise OSError(msg) from error
        raise AssertionError

    def reap(self, pid: int) -> tuple[int, int]:
        """Return the exit code of a worker that has ended, and its peak in kilobytes."""
        with self._lock:
            if self._control is None:
                return 255, 0
            try:
                self._control.sendall(_NUMBER.pack(b"r", pid))
                peak, code = divmod(self._answer(), CODES)
            except (OSError, EOFError):
                return 255, 0
        return code - CODES // 2, peak

    def _launch(self, launch: Callable[[int], int]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._pid = launch(theirs.fileno())
        self._control = ours
        util.Finalize(None, self._close, exitpriority=0)

    def _answer(self) -> int:
        assert self._control is not None  # noqa: S101 - for the type checker
        data = b""
        while len(data) < _NUMBER.size:
            more = self._control.recv(_NUMBER.size - len(data))
            if not more:
                raise EOFError
            data += more
        kind, number = _NUMBER.unpack(data)
        if kind == b"e":
            raise OSError(number, os.strerror(number))
        return int(number)

    def _close(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()
            try:
                os.waitpid(self._pid, 0)
            except ChildProcessError:
                return

    def forget(self) -> None:
        """In a forked child: the server is the parent's."""
        self._lock = threading.Lock()
        control, self._control = self._control, None
        if control is not None:
            control.close()
