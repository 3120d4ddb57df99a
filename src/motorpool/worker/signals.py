"""The signals of a worker process: the user's, its parent's end, and a question for its stack."""

import faulthandler
import os
import select
import signal
import sys
from _signal import SIG_DFL, SIG_UNBLOCK, pthread_sigmask  # type: ignore[import-not-found]
from _signal import signal as set_handler
from contextlib import suppress

# Asks a worker for the items that it has not begun. By default a process
# ignores it, so it harms nobody who replaced the handler.
RECALL_SIGNAL = signal.SIGURG

# Asks it for its stack: the one is answered between two bytecodes, the other by C
# code at any moment. Real-time signals: of the others, each has users.
STACK_SIGNAL = signal.SIGRTMAX - 5
STUCK_SIGNAL = signal.SIGRTMAX - 6
NAME = "motorpool-stack"  # of the file that it is written to
END = b"\x00"  # of an answer to STACK_SIGNAL

_fd = -1


def become_worker() -> None:
    """Set the process's signals as a worker's; Ctrl-C is the parent's business."""
    signal.set_wakeup_fd(-1)
    # A handler rather than SIG_IGN, which programs started by a task would inherit.
    # And without the module's names for what these return, which take as long again.
    set_handler(signal.SIGINT, _ignore)
    for number in (signal.SIGTERM, signal.SIGHUP):
        set_handler(number, SIG_DFL)
    # Ours too: a program that waits for its signals in a thread blocks all of them.
    ours = {signal.SIGINT, signal.SIGTERM, RECALL_SIGNAL, STACK_SIGNAL, STUCK_SIGNAL}
    pthread_sigmask(SIG_UNBLOCK, ours)


def _ignore(_signal: int, _frame: object) -> None:
    """Do nothing."""


def die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process as soon as the parent's end of `lifeline` closes.

    The parent holds the only other end of that pipe. A signal on its closing
    reaches a worker also in the midst of a task that never returns to Python.
    """
    import fcntl

    # Not every build of Python names it.
    set_signal = getattr(fcntl, "F_SETSIG", 10 if sys.platform == "linux" else None)
    if set_signal is None:
        return
    # An open file of our own: the owner of its signals is not shared with siblings.
    try:
        fd = os.open(f"/proc/self/fd/{lifeline}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        # A program that has dropped its privileges may not look into /proc.
        import threading

        threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
        return
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, set_signal, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if poll.poll(0):  # The parent died before the signal was set.
        os._exit(1)


def _die_with(lifeline: int) -> None:
    """End this process when `lifeline` closes, unless a task holds the GIL for ever."""
    poll = select.poll()
    poll.register(lifeline, select.POLLHUP)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def listen() -> int:
    """Answer both questions for the stack; return the descriptor of the file it is written to.

    `STUCK_SIGNAL` is answered by C code, without the help of what the worker runs:
    also while a task holds the GIL, computes in C or sits in a system call. But it
    can crash a worker that is amid a call or a return in Python at that moment
    (python/cpython#116008), so it is for one that does not answer `STACK_SIGNAL`.
    System calls are restarted after either.
    """
    global _fd
    inherited, _fd = _fd, os.memfd_create(NAME)
    set_handler(STACK_SIGNAL, _tell_stack)
    signal.siginterrupt(STACK_SIGNAL, False)
    # Not of all threads: others run meanwhile, and may be gone while they are looked at.
    faulthandler.register(STUCK_SIGNAL, file=_fd, all_threads=False)
    if inherited >= 0:  # This is a pool within a forked worker.
        os.close(inherited)
    return _fd


def _tell_stack(_signal: int, _frame: object) -> None:
    with suppress(OSError):  # The task has closed it.
        faulthandler.dump_traceback(_fd, all_threads=False)
        os.write(_fd, END)
