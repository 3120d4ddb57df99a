"""A blocking call on an idle pool: straight to a worker, past the job queue.

Such a call is most of what `apply` is used for, and putting a job on the books
and taking it off again would be most of its cost. So the driver keeps at most
one call beside the books. As soon as anything else is to be done, whatever it
is, the call is *entered*: put on the books as if it had gone by them from the
beginning. So nothing else in the pool knows of direct calls.
"""

from motorpool.messages import ChunkDone
from motorpool.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from motorpool.engines.base import Function
    from motorpool.results import AsyncResult


class DirectCall(NamedTuple):
    """A call that a worker was sent and that is not on the books."""

    result: "AsyncResult[Any]"
    function: "Function"
    items: list[Any]
    worker: int
    number: int
    began: float

    def values_in(self, events: list[Any]) -> list[Any] | None:
        """Return the list of the one value of this call if that is all that `events` tell."""
        if len(events) != 1:
            return None
        event = events[0]
        if type(event) is not ChunkDone or event.number != self.number or event.errors:
            return None
        values: list[Any] = event.values
        return values
