"""How long one process takes to wake another, by mechanism: what a faster wire could gain.

Each mechanism makes the same round trip as a call, with 100 bytes each way and
nothing else: no pickle, no frames, no pool. Run by `benchmarks.breakdown`.
"""

import mmap
import os
import select
import socket
from collections.abc import Callable
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import NamedTuple

from benchmarks.floors import run_in_fork

MESSAGE = b"x" * 100
TRIPS = 3000
# How often a spinning reader looks before it sleeps.
LOOKS = 200


class End(NamedTuple):
    """One side of a connection."""

    send: Callable[[], object]
    receive: Callable[[], object]


def _over(read_fd: int, write_fd: int) -> End:
    return End(lambda: os.write(write_fd, MESSAGE), lambda: os.read(read_fd, 4096))


def pipes() -> tuple[End, End]:
    """Connect by two pipes, blocking reads."""
    here, there = os.pipe(), os.pipe()
    return _over(there[0], here[1]), _over(here[0], there[1])


def sockets() -> tuple[End, End]:
    """Connect by a socket pair, blocking reads."""
    ours, theirs = (end.detach() for end in socket.socketpair())
    return _over(ours, ours), _over(theirs, theirs)


def sockets_with_epoll() -> tuple[End, End]:
    """Connect by a socket pair; the parent waits in epoll, as with several workers it must."""
    ours, theirs = (end.detach() for end in socket.socketpair())
    epoll = select.epoll()
    epoll.register(ours, select.EPOLLIN)

    def receive() -> None:
        epoll.poll()
        os.read(ours, 4096)

    return End(lambda: os.write(ours, MESSAGE), receive), _over(theirs, theirs)


def semaphores() -> tuple[End, End]:
    """Connect by shared memory and two POSIX semaphores, which are futexes."""
    context = get_context("fork")
    memory = mmap.mmap(-1, 4096)
    there, back = context.Semaphore(0), context.Semaphore(0)

    def sender(semaphore: object) -> Callable[[], None]:
        def send() -> None:
            memory[:100] = MESSAGE
            semaphore.release()  # type: ignore[attr-defined]

        return send

    return End(sender(there), back.acquire), End(sender(back), there.acquire)


def spinning() -> tuple[End, End]:
    """Connect by a socket pair; both readers look again and again before they sleep."""
    ours, theirs = (end.detach() for end in socket.socketpair())
    for fd in (ours, theirs):
        os.set_blocking(fd, False)

    def receiver(fd: int) -> Callable[[], None]:
        poll = select.poll()
        poll.register(fd, select.POLLIN)

        def receive() -> None:
            while True:
                for _ in range(LOOKS):
                    try:
                        os.read(fd, 4096)
                    except BlockingIOError:
                        continue
                    return
                poll.poll()

        return receive

    return (
        End(lambda: os.write(ours, MESSAGE), receiver(ours)),
        End(lambda: os.write(theirs, MESSAGE), receiver(theirs)),
    )


MECHANISMS = {
    "two pipes": pipes,
    "socket pair": sockets,
    "socket pair, the parent in epoll": sockets_with_epoll,
    "shared memory and semaphores": semaphores,
    f"socket pair, {LOOKS} looks before sleeping": spinning,
}


def round_trip(make: Callable[[], tuple[End, End]], *, on_one_core: bool) -> float:
    """Return the median seconds of a round trip."""
    before = os.sched_getaffinity(0)
    ours, theirs = make()

    def answer() -> None:
        os.sched_setaffinity(0, {min(before)})
        for _ in range(TRIPS):
            theirs.receive()
            theirs.send()

    pid = run_in_fork(answer)
    os.sched_setaffinity(0, {min(before) if on_one_core else max(before)})
    times = []
    for _ in range(TRIPS):
        begun = perf_counter()
        ours.send()
        ours.receive()
        times.append(perf_counter() - begun)
    os.waitpid(pid, 0)
    os.sched_setaffinity(0, before)
    return median(times)


def as_markdown() -> str:
    """Measure, and return the table."""
    lines = ["| µs, round trip | one core | two cores |", "| --- | ---: | ---: |"]
    for name, make in MECHANISMS.items():
        one, two = (
            min(round_trip(make, on_one_core=one) for _ in range(3)) for one in (True, False)
        )
        lines.append(f"| {name} | {1e6 * one:.1f} | {1e6 * two:.1f} |")
    return "\n".join(lines)
