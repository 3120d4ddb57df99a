"""Have something done before Python code ends this process.

A bulk run keeps the results it has finished in its own memory for a moment. A
task that ends the process by one of these calls shall take none of them along.
"""

import os
import signal
from collections.abc import Callable

from motorpool.typed import Any

_ENDINGS = (
    (os, "_exit"),
    (os, "abort"),
    (os, "kill"),
    (os, "killpg"),
    (signal, "pthread_kill"),
    (signal, "raise_signal"),
)


def before_the_end(note: Callable[[], None], go_on: Callable[[], None]) -> None:
    """Call `note` from now on before each call that may be the last, `go_on` if it was not."""
    for module, name in _ENDINGS:
        setattr(module, name, _between(note, go_on, getattr(module, name), module.__name__))


def _between(
    note: Callable[[], None], go_on: Callable[[], None], function: Any, module: str
) -> Any:
    def noting(*args: Any, **kwargs: Any) -> Any:
        note()
        try:
            return function(*args, **kwargs)
        finally:
            go_on()

    # As `functools.wraps`, of which half a dozen calls are a good part of a start.
    noting.__name__ = noting.__qualname__ = function.__name__
    noting.__module__ = module  # where pickle finds it
    noting.__doc__ = function.__doc__
    noting.__wrapped__ = function  # type: ignore[attr-defined]
    return noting
