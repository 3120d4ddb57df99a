"""Tell what a signal handler raised from what users' code raised by itself.

A pickle, a `__repr__` or the like may raise `SystemExit` or any BaseException;
that is the fault of one item. Ctrl-C, or a handler of SIGTERM that calls
`sys.exit`, may raise the same in the midst of it; that is everybody's business.
"""

import signal
import threading
from contextlib import suppress
from types import CodeType


def pass_on_interrupt(error: BaseException) -> None:
    """Raise `error` if it is a signal handler's, and only happened to come at this moment.

    Handlers run in the main thread only. An `Exception` is never taken for one.
    """
    if isinstance(error, Exception) or threading.current_thread() is not threading.main_thread():
        return
    on_interrupt = signal.getsignal(signal.SIGINT)
    if isinstance(error, KeyboardInterrupt) and on_interrupt is signal.default_int_handler:
        raise error
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            raise error
        traceback = traceback.tb_next


def once(error: BaseException | None) -> suppress:
    """Return a context that drops a Ctrl-C if `error`, which is on its way already, is another."""
    return suppress(*((KeyboardInterrupt,) if isinstance(error, KeyboardInterrupt) else ()))


def _code_of(handler: object) -> CodeType | None:
    while type(handler).__name__ == "partial":
        handler = handler.func  # type: ignore[attr-defined]
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code if isinstance(code, CodeType) else None
