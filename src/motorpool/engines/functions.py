"""Functions made ready for our own worker processes: pickled, and checked, once for all workers."""

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType

from motorpool.buffers import LARGE_PICKLE, Exchange, taker
from motorpool.definitions import Definitions, Known
from motorpool.engines.base import Function
from motorpool.errors import MotorpoolError
from motorpool.mirror import module_in_import
from motorpool.reducers import MAIN_MODULES
from motorpool.serialization import dumps, is_main_function
from motorpool.typed import Any

Roots = tuple[tuple[str, str], ...]  # names of `__main__` that a pickle refers to


# What is pickled by name, unless it is longer than a name.
_NAMED_KINDS = (FunctionType, BuiltinFunctionType, type)
_MOST_NAME_BYTES = 1000


class Functions:
    """Prepares functions, each that has a name once.

    Parameters
    ----------
    definitions
        What workers have to be told of `__main__`.
    exchange
        The shared memory for what is large.
    known_at_first
        Returns what a worker knows of `__main__` without being told.
    is_import_repeated
        Whether workers import modules anew; under fork they have them.
    """

    def __init__(
        self,
        definitions: Definitions,
        exchange: Exchange,
        known_at_first: Callable[[], Known],
        *,
        is_import_repeated: bool,
    ) -> None:
        self._definitions = definitions
        self._exchange = exchange
        self._known_at_first = known_at_first
        self._is_import_repeated = is_import_repeated
        self._count = 0
        self._named: dict[tuple[int, int], Function] = {}

    def prepare(self, func: Callable[..., Any], style: int) -> Function:
        """Return `func` ready to be sent; raises NotPicklableError if it cannot be."""
        known = self._named.get((id(func), style))
        if known is not None and known.func is func:
            return known
        if self._is_import_repeated:
            _refuse_in_import()
        found: list[memoryview] = []
        payload, roots, by_name = self.pickle(func, "the function", found)
        self._count += 1
        function = Function(self._count, func, style, payload, roots, by_name)
        if roots:
            self._check_definitions(function)
        if found or len(payload) >= LARGE_PICKLE:
            function = self._pack(function, found)
        if by_name:
            self._named[id(func), style] = function
        return function

    def pickle(
        self, func: Any, what: str, found: list[memoryview] | None = None
    ) -> tuple[bytes, Roots, bool]:
        """Return the pickle of a function, the names that it refers to, and whether it is one.

        Large buffers are left out and put into `found`, if that is given.
        """
        if is_main_function(func):
            return dumps(func), ((func.__module__, func.__qualname__),), True
        take = None if found is None else taker(found)
        try:
            payload = dumps(func, found, take)
        except Exception as error:
            raise not_picklable(what, func, error) from error
        if not any(name.encode() in payload for name in MAIN_MODULES):
            return payload, (), type(func) in _NAMED_KINDS and len(payload) < _MOST_NAME_BYTES
        from motorpool.cloud import dump_and_collect

        if found:
            found.clear()
        try:
            payload, roots = dump_and_collect(func, take=take)
        except Exception as error:
            raise not_picklable(what, func, error) from error
        return payload, tuple(sorted(roots)), False

    def _pack(self, function: Function, found: list[memoryview]) -> Function:
        """Put what is large of a function into shared memory, once for all workers."""
        packed = self._exchange.sender.pack(function.payload, found)
        if packed is not None:
            return function._replace(packed=packed, payload=b"")
        if not found:
            return function
        payload, _, _ = self.pickle(function.func, "the function")
        return function._replace(payload=payload)

    def _check_definitions(self, function: Function) -> None:
        """Refuse at the call what a worker could not be told."""
        try:
            self._definitions.pack_for(self._known_at_first(), function.roots, learn=False)
        except Exception as error:
            refused = not_picklable("the function", function.func, error)
            raise refused from error


def _refuse_in_import() -> None:
    """Refuse a pool to a module that a worker imports: its workers would import it, and so on."""
    module = module_in_import()
    if module is not None:
        msg = (
            f"the module {module!r} uses a pool while it is imported, and a worker has imported "
            f"it, as would the workers of that pool, without end. Put that into a function, and "
            f"call it from the script"
        )
        raise MotorpoolError(msg)


def not_picklable(what: str, obj: object, error: BaseException) -> BaseException:
    """Return the error that tells which part of `obj` cannot be pickled."""
    from motorpool import explain

    return explain.not_picklable(what, obj, error)
