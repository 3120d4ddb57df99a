"""The life of a pool: close, terminate, join, `with`, and what befalls a pool that is dropped."""

import multiprocessing.pool
import sys
import warnings
import weakref
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.context import BaseContext
from multiprocessing.pool import CLOSE, RUN
from types import TracebackType

from motorpool.driver import Driver
from motorpool.engines.base import Abilities
from motorpool.interrupts import once
from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from motorpool.inside import TaskQueue
    from motorpool.stacks import Stacks

TERMINATE = "TERMINATE"


class Lifecycle(multiprocessing.pool.Pool):
    """A pool without anything to submit; of the stdlib's pool only the type is wanted."""

    _state = TERMINATE  # until it has begun
    _driver: Driver

    def _begin(self) -> None:
        """Be open from now on."""
        self._state = RUN
        # As the stdlib's pool: before multiprocessing ends what is left of its children.
        driver = weakref.ref(self._driver)
        self._at_exit = util.Finalize(None, _terminate_at_exit, (driver,), exitpriority=15)

    @staticmethod
    def Process(ctx: BaseContext, *args: Any, **kwds: Any) -> Any:  # noqa: N802 - the stdlib's name
        """Return a process of `ctx`, as `multiprocessing.pool.Pool.Process`."""
        return ctx.Process(*args, **kwds)  # type: ignore[attr-defined]

    @property
    def _pool(self) -> list[Any]:
        """The workers; programs written for the stdlib read its length."""
        return list(self._driver.engine.workers)

    @property
    def _cache(self) -> dict[int, Any]:
        """The results that are not there yet; such programs wait until there is none."""
        return dict(enumerate(self._driver.outstanding()[0]))

    @property
    def _taskqueue(self) -> "TaskQueue":
        """The tasks that wait for a worker; such programs read their number, or add some."""
        from motorpool.inside import TaskQueue

        return TaskQueue(self._driver, self.apply_async)

    @property
    def abilities(self) -> Abilities:
        """What the engine of this pool can do.

        Examples
        --------
        >>> from motorpool import Pool
        >>> with Pool(1) as pool:
        ...     pool.abilities.kill
        True
        """
        return self._driver.engine.abilities

    def stacks(self) -> "Stacks":
        """Return what each worker is running, and the Python stack of it, right now.

        The tasks need not cooperate: they may compute in C or sit in a system
        call. A worker that cannot answer, because it is stopped for instance,
        costs half a second. Only processes and threads can be looked into; of
        other engines' workers, nothing is told.

        Examples
        --------
        >>> import time
        >>> from motorpool import Pool
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(time.sleep, (0.5,))
        ...     print(pool.stacks())  # doctest: +SKIP
        PoolWorker-1 (pid 4711) has been running item 0, ((0.5,), {}), of sleep for 0.0 s:
        """
        return self._driver.stacks()

    def close(self) -> None:
        """Take no more work; the workers leave when what was submitted is done.

        Examples
        --------
        >>> pool = Pool(1)
        >>> result = pool.apply_async(abs, (-1,))
        >>> pool.close()
        >>> pool.join()
        >>> result.get()
        1
        """
        if self._state == RUN:
            self._state = CLOSE
            self._driver.close()

    def terminate(self) -> None:
        """End the workers now; what was outstanding raises `PoolTerminatedError`.

        Examples
        --------
        >>> import time
        >>> from motorpool import PoolTerminatedError
        >>> pool = Pool(1)
        >>> result = pool.apply_async(time.sleep, (60,))
        >>> pool.terminate()
        >>> try:
        ...     result.get()
        ... except PoolTerminatedError:
        ...     print("terminated")
        terminated
        """
        self._state = TERMINATE
        self._driver.terminate()
        self._forget()

    def join(self) -> None:
        """Wait until the work is done and the workers are gone.

        Raises
        ------
        ValueError
            If neither `close` nor `terminate` was called before.

        Examples
        --------
        >>> pool = Pool(1)
        >>> pool.terminate()
        >>> pool.join()
        """
        if self._state == RUN:
            msg = "Pool is still running: call close() or terminate() before join()"
            raise ValueError(msg)
        self._driver.join()
        self._state = TERMINATE if self._driver.is_mine() else self._state
        self._forget()

    def _forget(self) -> None:
        if self._driver.is_mine():
            self._at_exit.cancel()

    def __enter__(self) -> "Self":
        """Return the pool."""
        self._driver.check_open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """Finish what was submitted; after an exception, cancel it."""
        if exc_type is not None or self._state == TERMINATE:
            with once(exc_val):
                self.terminate()
            return
        try:
            self._driver.finish()
            self.close()
            self.join()
        except BaseException as error:
            with once(error):
                self.terminate()
            raise

    def __del__(
        self, _warn: Any = warnings.warn, _is_ending: Callable[[], bool] = sys.is_finalizing
    ) -> None:
        """Warn of a pool that was neither closed nor terminated, and end its workers."""
        if _is_ending():
            # Threads do not run any more, and may hold locks. This comes only if the
            # pool's end at exit was interrupted; the workers end with this process.
            return
        if self._state == TERMINATE or not self._driver.is_mine():
            return
        if self._state == RUN:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)
        self.terminate()

    def __repr__(self) -> str:
        """Tell the state and the number of workers."""
        kind = type(self)
        workers = len(self._pool) if hasattr(self, "_driver") else 0
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={workers}>"


def _terminate_at_exit(driver: "weakref.ref[Driver]") -> None:
    living = driver()
    if living is not None:
        living.terminate()
