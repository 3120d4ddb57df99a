"""The fork server: a small process without threads that forks workers on request.

A worker forked from here is as clean as a spawned one, at the price of a fork.
"""

import os
import signal
import socket
import struct

from motorpool.worker import identity
from motorpool.worker.main import work

_NUMBER = struct.Struct("<cq")
# An exit code and a size go home as one number.
CODES = 1 << 16
_MOST_FDS = 253  # the kernel's limit for one message


def main(control_fd: int) -> None:
    """Serve until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    with socket.socket(fileno=control_fd) as control:
        _serve(control)


def _serve(control: socket.socket) -> None:
    while True:
        message, fds, _, _ = socket.recv_fds(control, _NUMBER.size, _MOST_FDS)
        if len(message) < _NUMBER.size:
            return
        kind, number = _NUMBER.unpack(message)
        try:
            answer = _fork(control, fds) if kind == b"s" else _reap(number)
        except OSError as error:
            control.sendall(_NUMBER.pack(b"e", error.errno or 0))
        else:
            control.sendall(_NUMBER.pack(b"o", answer))


def _fork(control: socket.socket, fds: list[int]) -> int:
    pid = os.fork()
    if pid:
        for fd in fds:
            os.close(fd)
        return pid
    code = 1
    try:
        control.close()
        fd, page, arena, lifeline, *identity.inherited[:] = fds
        work(fd, page, arena, lifeline)
        code = 0
    finally:
        _leave(code)
    raise AssertionError


def _leave(code: int) -> None:
    """End this process as an interpreter would, without going back to the server's loop."""
    import atexit
    import sys
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined] # noqa: SLF001 - waits for threads, as at any exit
        atexit._run_exitfuncs()  # noqa: SLF001
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _reap(pid: int) -> int:
    _, status, usage = os.wait4(pid, 0)
    return usage.ru_maxrss * CODES + os.waitstatus_to_exitcode(status) + CODES // 2
