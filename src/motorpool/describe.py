"""How messages call functions, items and failures; none of it ever raises."""

from collections.abc import Iterator

from motorpool.interrupts import pass_on_interrupt
from motorpool.typed import Any

_ALIAS = "__motorpool_"  # begins the names of a parent's modules, see `worker/space.py`


def short_repr(value: object, limit: int = 100) -> str:
    """Return `repr(value)`, cut to `limit` characters; never raises.

    Of containers no more is looked at than is shown: they may be of any size, and
    a list of two references to another such list, and so on, has an endless `repr`.
    """
    text = ""
    try:
        for piece in _pieces(value, limit, ()):
            text += piece
            if len(text) > limit:
                break
    except BaseException as error:
        pass_on_interrupt(error)
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


_STRINGS = (str, bytes, bytearray)
_BRACKETS: dict[Any, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    dict: ("{", "}"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def _pieces(value: Any, limit: int, around: tuple[int, ...]) -> Iterator[str]:
    """Yield `repr(value)` piece by piece; `around` are the ids of what it is in."""
    kind = type(value)
    if kind in _STRINGS:
        yield repr(value[: limit + 1])
    elif kind not in _BRACKETS or not value:
        yield repr(value)
    elif id(value) in around:
        yield "...".join(_BRACKETS[kind])
    else:
        opening, closing = _BRACKETS[kind]
        around = (*around, id(value))
        yield opening
        for number, part in enumerate(value):
            if number:
                yield ", "
            yield from _pieces(part, limit, around)
            if kind is dict:
                yield ": "
                yield from _pieces(value[part], limit, around)
        yield "," + closing if kind is tuple and len(value) == 1 else closing


def error_text(error: BaseException) -> str:
    """Return the class and the message of `error`."""
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except BaseException as second:
        pass_on_interrupt(second)
        return f"{name} whose str raised {type(second).__name__}"


def function_name(func: object) -> str:
    """Return the name a user would call `func` by."""
    name = _attribute(func, "__qualname__")
    inner = _attribute(func, "func")
    if inner is not None and name is None:
        return f"partial({function_name(inner)})"
    return name if isinstance(name, str) else type(func).__qualname__


def _attribute(obj: object, name: str) -> object:
    try:
        return getattr(obj, name, None)
    except BaseException as error:
        pass_on_interrupt(error)
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
