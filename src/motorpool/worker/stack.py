"""Lets the parent see this process's stacks without the help of what it runs.

The handler is C code that writes to a file of its own: it also answers while
a task holds the GIL, computes in C or sits in a system call. System calls are
restarted afterwards.
"""

import faulthandler
import os
import signal

# A real-time signal: of the others, each has users.
STACK_SIGNAL = signal.SIGRTMAX - 5
NAME = "motorpool-stack"

_fd = -1


def listen() -> int:
    """Answer `STACK_SIGNAL` from now on; return the descriptor of the file that is written."""
    global _fd
    inherited, _fd = _fd, os.memfd_create(NAME)
    # Not of all threads: others run meanwhile, and may be gone while they are looked at.
    faulthandler.register(STACK_SIGNAL, file=_fd, all_threads=False)
    if inherited >= 0:  # This is a pool within a forked worker.
        os.close(inherited)
    return _fd
