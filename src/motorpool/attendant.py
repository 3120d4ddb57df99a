"""The thread that attends to a pool while nobody waits for it.

It sleeps in an epoll of its own, in which the engine's epoll is one entry. A
thread that waits for a result switches that entry off, so that the attendant
is not woken for nothing, and on again when it leaves.
"""

import select
import threading
from collections.abc import Callable

from motorpool.bell import Bell
from motorpool.log import log
from motorpool.typed import Any

_THREAD = 0  # the one key of `_running`


class Attendant:
    """Calls `visit` whenever `fd` is readable, while it is asked to attend.

    `visit` returns in how many seconds to come again even so, None to rest.
    """

    def __init__(
        self, fd: int, visit: Callable[[], float | None], recheck: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._visit = visit
        self._recheck = recheck
        # Reentrant: a garbage collection inside may drop an iterator, which attends.
        self._lock: Any = threading.RLock()
        # Tells whether this thread is here in the midst of something.
        self.is_switching: Callable[[], bool] = self._lock._is_owned  # type: ignore[attr-defined] # noqa: SLF001 - as Condition does
        # The thread, entered by whoever is first: itself, or its starter, to whom an
        # interrupt may come meanwhile. One that finds another here leaves; None: there
        # is to be none.
        self._running: dict[int, threading.Thread | None] = {}
        self.is_attending = False
        self._is_closed = False
        self._epoll: select.epoll | None = None
        self._bell = Bell()

    def attend(self, *, now: bool) -> None:
        """Attend from now on; `now`: do not wait for an event first."""
        if self.is_attending and not now:
            return
        with self._lock:
            if self._is_closed:
                return
            if not self._running and not self._start():
                return
            if not self.is_attending:
                self._switch(select.EPOLLIN)
                self.is_attending = True
            if now:
                self._bell.ring()

    def _start(self) -> bool:
        """Start the thread; if there is no room for it, only those who wait drive."""
        try:
            if self._epoll is None:
                epoll = select.epoll()
                epoll.register(self._bell.fd, select.EPOLLIN)
                epoll.register(self._fd, 0)
                self._epoll = epoll
            thread = threading.Thread(target=self._run, name="motorpool-attendant", daemon=True)
            thread.start()
        except (OSError, RuntimeError) as error:
            self._epoll = None
            log().warning("work goes on only while results are waited for: %s", error)
            return False
        self._running.setdefault(_THREAD, thread)
        return True

    def rest(self) -> None:
        """Leave the pool to somebody else."""
        if not self.is_attending:
            return
        with self._lock:
            self.is_attending = False
            if not self._is_closed:
                self._switch(0)

    def _switch(self, mask: int) -> None:
        assert self._epoll is not None  # noqa: S101 - for the type checker
        self._epoll.modify(self._fd, mask)

    def _run(self) -> None:
        me = threading.current_thread()
        if self._running.setdefault(_THREAD, me) is not me:
            return
        epoll = self._epoll
        assert epoll is not None  # noqa: S101 - for the type checker
        timeout: float | None = None
        while not self._is_closed:
            for fd, _ in epoll.poll(timeout):
                if fd == self._bell.fd:
                    self._bell.silence()
            if self._is_closed:
                break
            timeout = self._call() if self.is_attending else None
            if timeout is None:
                self.rest()
                # Work may have come between the visit and the rest.
                self._recheck()
        self._release()

    def _call(self) -> float | None:
        try:
            return self._visit()
        except BaseException:
            # Whose results it cost is told there. This thread has to go on for the others.
            log().exception("a fault while the pool was attended to")
            return 0.0

    def close(self) -> None:
        """End the thread, and wait for it unless it is this one."""
        with self._lock:
            self._is_closed = True
            thread = self._running.setdefault(_THREAD, None)
            if thread is None:
                self._release()
            self._bell.ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _release(self) -> None:
        # Not while another thread rings the bell.
        with self._lock:
            epoll, self._epoll = self._epoll, None
            if epoll is not None:
                epoll.close()
            self._bell.close()
