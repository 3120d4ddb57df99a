"""How messages call functions, items and failures; none of it ever raises."""

from contextlib import suppress

from motorpool.interrupts import pass_on_interrupt

_ALIAS = "__motorpool_"  # begins the names of a parent's modules, see `worker/space.py`


def short_repr(value: object, limit: int = 100) -> str:
    """Return `repr(value)`, cut to `limit` characters; never raises."""
    try:
        text = repr(value)
    except BaseException as error:
        pass_on_interrupt(error)
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def function_name(func: object) -> str:
    """Return the name a user would call `func` by."""
    name = _attribute(func, "__qualname__")
    inner = _attribute(func, "func")
    if inner is not None and name is None:
        return f"partial({function_name(inner)})"
    return name if isinstance(name, str) else type(func).__qualname__


def _attribute(obj: object, name: str) -> object:
    with suppress(Exception):
        return getattr(obj, name, None)
    return None


def format_traceback(error: BaseException) -> str:
    """Return the traceback of `error` as text, or its `repr` if it cannot be formatted."""
    import traceback

    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as second:
        pass_on_interrupt(second)
        return f"{type(error).__name__}: {short_repr(second)} while formatting it\n"
    if _ALIAS in text:
        import re

        # Of classes of `__main__`, tracebacks show the bare name.
        text = re.sub(rf"\b{_ALIAS}[0-9a-f]+___main____\.", "", text)
    return text
