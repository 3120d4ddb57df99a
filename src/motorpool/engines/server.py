"""The parent's half of the fork server: ask it for workers, and for their exit codes."""

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from multiprocessing import util

from motorpool.worker.forkserver import CODES

_NUMBER = struct.Struct("<cq")
# The pool stands still while the server is asked. One that has not answered after
# so long may have been stopped, and is made to go on.
CONTINUE_SECONDS = 0.2
# After so much longer it is given up, whatever the reason.
PATIENCE_SECONDS = 10.0


class ForkServer:
    """A helper process that forks workers; started on first use, one per process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._pid = 0

    def start(self, fds: list[int], launch: Callable[[int], int]) -> int:
        """Fork a worker that inherits `fds`, and return its pid."""
        with self._lock:
            try:
                kind, number = self._ask_for_worker(fds, launch)
            except (OSError, EOFError):
                # Somebody killed the server; its workers live on. Start another.
                try:
                    kind, number = self._ask_for_worker(fds, launch)
                except (OSError, EOFError) as error:
                    msg = f"the fork server does not start workers: {error}"
                    raise OSError(msg) from error
        if kind == b"e":
            raise OSError(number, os.strerror(number))
        return number

    def _ask_for_worker(self, fds: list[int], launch: Callable[[int], int]) -> tuple[bytes, int]:
        if self._control is None:
            self._launch(launch)
        return self._ask(b"s", len(fds), fds)

    def reap(self, pid: int) -> tuple[int | None, int]:
        """Return the exit code of a worker that has ended, if known, and its peak in kilobytes."""
        with self._lock:
            if self._control is None:
                return None, 0
            try:
                kind, number = self._ask(b"r", pid)
            except (OSError, EOFError):
                return None, 0
        if kind == b"e":  # It is a child of an earlier server.
            return None, 0
        peak, code = divmod(number, CODES)
        return code - CODES // 2, peak

    def _launch(self, launch: Callable[[int], int]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._pid = launch(theirs.fileno())
        self._control = ours
        util.Finalize(None, self._close, exitpriority=0)

    def _ask(self, kind: bytes, number: int, fds: Sequence[int] = ()) -> tuple[bytes, int]:
        """Return the server's answer; one that fails to answer is not asked again."""
        assert self._control is not None  # noqa: S101 - for the type checker
        try:
            socket.send_fds(self._control, [_NUMBER.pack(kind, number)], fds)
            data = b""
            while len(data) < _NUMBER.size:
                data += self._receive(self._control, _NUMBER.size - len(data))
        except BaseException:  # The answer would be taken for that to the next question.
            self._close()
            raise
        answer: tuple[bytes, int] = _NUMBER.unpack(data)
        return answer

    def _receive(self, control: socket.socket, size: int) -> bytes:
        control.settimeout(CONTINUE_SECONDS)
        try:
            data = control.recv(size)
        except TimeoutError:
            os.kill(self._pid, signal.SIGCONT)
            control.settimeout(PATIENCE_SECONDS)
            data = control.recv(size)
        if not data:
            raise EOFError
        return data

    def _close(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()
            try:
                if os.waitpid(self._pid, os.WNOHANG)[0] == 0:
                    # One that is stopped would not see that it is to leave.
                    os.kill(self._pid, signal.SIGKILL)
                    os.waitpid(self._pid, 0)
            except ChildProcessError:
                return

    def forget(self) -> None:
        """In a forked child: the server is the parent's."""
        self._lock = threading.Lock()
        control, self._control = self._control, None
        if control is not None:
            control.close()
