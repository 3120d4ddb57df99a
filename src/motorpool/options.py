"""What a caller may ask of tasks: time limits, further attempts, what an error does to a map."""

import math
import operator
from collections.abc import Callable

from motorpool import errors
from motorpool.messages import Control
from motorpool.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from motorpool.keywords import MapOptions, OnError, TaskOptions

ON_ERROR = ("raise", "stop", "return", "skip")
DEFAULT_BACKOFF = 0.1


class Options(NamedTuple):
    """Options with the pool's defaults filled in."""

    timeout: float = math.inf
    retries: int = 0
    backoff: float = DEFAULT_BACKOFF
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    on_error: "OnError" = "raise"
    control: Control | None = None

    def updated(
        self, given: "MapOptions | TaskOptions", caller: Callable[..., object]
    ) -> "Options":
        """Return these options with those `given` to `caller` in their place."""
        found: dict[str, Any] = {}
        for name, value in given.items():
            check = _CHECKS.get(name)
            if check is None or (name == "on_error" and _is_of_one_task(caller)):
                raise _unexpected(caller, name)
            if value is not None:
                found[name] = check(value)
        if not found:
            return self
        options = self._replace(**found)
        return options._replace(control=_control(options))


def _is_of_one_task(caller: Callable[..., object]) -> bool:
    return caller.__name__.startswith("apply")


def _unexpected(caller: Callable[..., object], name: str) -> TypeError:
    """Return the error for a keyword that `caller` does not take."""
    import difflib
    import inspect

    names = [*inspect.signature(caller).parameters, *_CHECKS]
    if _is_of_one_task(caller):
        names.remove("on_error")
    hint = "".join(
        f". Did you mean {close!r}?" for close in difflib.get_close_matches(name, names, 1)
    )
    return TypeError(f"{caller.__qualname__}() got an unexpected keyword argument {name!r}{hint}")


def _control(options: Options) -> Control | None:
    if options.timeout == math.inf and not options.retries and options.on_error != "stop":
        return None
    return Control(
        timeout=options.timeout,
        retries=options.retries,
        backoff=options.backoff,
        retry_on=options.retry_on,
        retries_lost=issubclass(errors.WorkerLostError, options.retry_on),
        retries_late=issubclass(errors.TaskTimeoutError, options.retry_on),
        retries_overrun=issubclass(errors.MemoryLimitError, options.retry_on),
    )


def _check_timeout(value: Any) -> float:
    seconds = _number("timeout", value)
    if not seconds > 0:
        msg = (
            f"timeout is {value!r}; it is the seconds that a task may run, so it must be above 0. "
            f"Leave it out for no limit."
        )
        raise ValueError(msg)
    return seconds


def _check_retries(value: Any) -> int:
    try:
        retries = operator.index(value)
    except TypeError:
        msg = f"retries must be an int, the number of further attempts, not {value!r}"
        raise TypeError(msg) from None
    if retries < 0:
        msg = f"retries is {value!r}; it counts further attempts, so the least is 0"
        raise ValueError(msg)
    return retries


def _check_backoff(value: Any) -> float:
    seconds = _number("backoff", value)
    if not 0 <= seconds < math.inf:
        msg = f"backoff is {value!r}; it is the seconds before the second attempt, 0 or more"
        raise ValueError(msg)
    return seconds


def _check_retry_on(value: Any) -> tuple[type[BaseException], ...]:
    kinds = value if isinstance(value, tuple) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            msg = f"retry_on must be an exception type or a tuple of them, not {value!r}"
            raise TypeError(msg)
    return kinds


def _check_on_error(value: Any) -> "OnError":
    if value not in ON_ERROR:
        msg = f"on_error must be one of {', '.join(map(repr, ON_ERROR))}, not {value!r}"
        raise ValueError(msg)
    found: OnError = value
    return found


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number of seconds, not {value!r}"
        raise TypeError(msg)
    return float(value)


_CHECKS: dict[str, Any] = {
    "timeout": _check_timeout,
    "retries": _check_retries,
    "backoff": _check_backoff,
    "retry_on": _check_retry_on,
    "on_error": _check_on_error,
}

DEFAULT = Options()
