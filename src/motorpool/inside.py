"""What programs written for the stdlib's pool look for inside of it.

Progress bars count `pool._cache`, producers wait while `pool._taskqueue` is
long, and recipes that add a method to the stdlib's `Pool`, `istarmap` for
instance, put tasks there.
"""

from collections.abc import Callable, Iterable
from functools import partial

from motorpool.driver import Driver
from motorpool.typed import Any

# As the stdlib's pool has them: a result's number, the position in it, what to call.
Task = tuple[int, int, Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class TaskQueue:
    """Stands for the queue of tasks of a pool, of which `submit` is `apply_async`."""

    def __init__(self, driver: Driver, submit: Callable[..., object]) -> None:
        self._driver = driver
        self._submit = submit

    def qsize(self) -> int:
        """Return how many items wait for a worker."""
        return self._driver.outstanding()[1]

    def empty(self) -> bool:
        """Tell whether none does."""
        return not self.qsize()

    def put(self, entry: tuple[Iterable[Task], Any]) -> None:
        """Run tasks whose results go to a result of the stdlib's own kind.

        `set_length` is a method of it, to be told how many there were.
        """
        tasks, set_length = entry
        count = 0
        for _, index, func, args, kwds in tasks:
            settle = partial(_settle, set_length.__self__, index)
            self._submit(func, args, kwds, partial(settle, True), partial(settle, False))
            count = index + 1
        set_length(count)


def _settle(result: Any, index: int, is_success: bool, value: object) -> None:
    result._set(index, (is_success, value))  # noqa: SLF001 - how the stdlib's pool does it


__all__ = ["TaskQueue"]
