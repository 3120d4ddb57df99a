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
        self._thread: threading.Thread | None = None
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
            if self._thread is None and not self._start():
                return
            if not self.is_attending:
                self.is_attending = True
                self._switch(select.EPOLLIN)
            if now:
                self._bell.ring()

    def _start(self) -> bool:
        """Start the thread; if there is no room for it, only those who wait drive."""
        try:
            self._epoll = select.epoll()
            self._epoll.register(self._bell.fd, select.EPOLLIN)
            self._epoll.register(self._fd, 0)
            thread = threading.Thread(target=self._run, name="motorpool-attendant", daemon=True)
            self._thread = thread
            thread.start()
        except (OSError, RuntimeError) as error:
            self._thread = None
            epoll, self._epoll = self._epoll, None
            if epoll is not None:
                epoll.close()
            log().warning("work goes on only while results are waited for: %s", error)
            return False
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
            if self._epoll is None:  # The thread never started, or has left.
                self._bell.close()
            thread, self._thread = self._thread, None
            self._bell.ring()
        # Not alive yet: an interrupt came while it was being started.
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join()

    def _release(self) -> None:
        # Not while another thread rings the bell.
        with self._lock:
            epoll, self._epoll = self._epoll, None
            if epoll is not None:
                epoll.close()
            self._bell.close()
