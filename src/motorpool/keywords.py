"""The keywords that methods take, for type checkers and for whoever asks."""

from typing import Literal, TypedDict

OnError = Literal["raise", "stop", "return", "skip"]
ErrorTypes = type[BaseException] | tuple[type[BaseException], ...]


class TaskOptions(TypedDict, total=False):
    """Keywords of every method that submits tasks, and of `Pool`, where they set the default.

    Attributes
    ----------
    timeout
        Seconds that a task may run; one that runs longer fails with
        `TaskTimeoutError`, and its worker is killed. Time in the queue does not
        count, loading its item and sending its result does. None for the
        pool's default, `math.inf` for no limit.
    retries
        How many more times a task is run if it fails. The last error has a note
        that tells the number of attempts.
    backoff
        Seconds before the second attempt, 0.1 by default; doubled before each
        one that follows, up to a minute. Meanwhile the worker does other work.
    retry_on
        Exception types after which a task is run again, one or a tuple; by
        default `Exception`, which covers `WorkerLostError` and
        `TaskTimeoutError`. An item that could not be sent or loaded was not
        run, and fails at once.
    """

    timeout: float | None
    retries: int | None
    backoff: float | None
    retry_on: ErrorTypes | None


class MapOptions(TaskOptions, total=False):
    """Keywords of methods that take many items: those of `TaskOptions`, and one more.

    Attributes
    ----------
    on_error
        What an item that fails does to the others. ``"raise"``, the default:
        nothing; all are run, then the first error by position is raised.
        ``"stop"``: the rest is cancelled, and the first error to come is raised
        at once. ``"return"``: the exception stands among the results, in its
        place. ``"skip"``: the item is left out. An iterator raises an error in
        its place; it then goes on, or with ``"stop"`` cancels the rest.
    """

    on_error: OnError | None
