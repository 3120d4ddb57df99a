"""How messages call functions, items and failures; none of it ever raises."""

import sys


def short_repr(value: object, limit: int = 100) -> str:
    """Return `repr(value)`, cut to `limit` characters; never raises."""
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def function_name(func: object) -> str:
    """Return the name a user would call `func` by."""
    inner = getattr(func, "func", None)
    if inner is not None and not hasattr(func, "__qualname__"):
        return f"partial({function_name(inner)})"
    name = getattr(func, "__qualname__", None) or type(func).__qualname__
    return str(name)


def format_traceback(error: BaseException) -> str:
    """Return the traceback of `error` as text, or its `repr` if it cannot be formatted."""
    import traceback

    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return f"{type(error).__name__}: {sys.exc_info()[1]!r} while formatting it\n"
