"""The contract of an engine.

An engine starts and ends workers, sends them chunks, and gives back events. It
decides nothing and keeps no job. The driver calls everything but `wait` and
`wake` with its lock held.

Guarantees an engine gives
--------------------------
- A chunk that was sent is answered by exactly one of `ChunkDone`,
  `ChunkRefused`, `ChunkLost`, or the `WorkerLost` of its worker.
- `send_chunk` never blocks.
- After `WorkerLost`, nothing more comes of that worker.
- A worker that `kill_worker` ends for an item is lost at that item, or after it
  if it was over; never at a later one.
"""

from collections.abc import Callable, Sequence

from motorpool.buffers import Packed
from motorpool.messages import CALL_ARGUMENTS, Chunk, Event, WorkerSeen
from motorpool.typed import Any, ClassVar, NamedTuple, Protocol

Initializer = tuple[Callable[..., object], tuple[Any, ...]]


class Abilities(NamedTuple):
    """What an engine can do. The table in docs/engines.md is made from these."""

    kill: bool = False  # end a task in the midst of it
    timeout: bool = False  # give a task up that runs for longer than its `timeout`
    initializer: bool = True
    maxtasksperchild: bool = False
    shared_state: bool = False  # locks, queues and the like of multiprocessing in initargs
    unpicklable: bool = False  # items and results need not be picklable
    blame: bool = False  # a worker's death costs the item that it ran, not its chunk
    machines: bool = False  # workers on more than one machine
    limits: bool = False  # memory_limit and threads_per_worker


class Limits(NamedTuple):
    """What each worker may use; 0 stands for any amount."""

    memory: int = 0  # bytes
    threads: int = 0  # of numerical libraries; less than 0: by default


NO_LIMITS = Limits()


class Function(NamedTuple):
    """A function that jobs call, as an engine prepared it."""

    number: int
    func: Callable[..., Any]
    style: int
    payload: bytes
    roots: tuple[tuple[str, str], ...]
    is_shared: bool  # one entry for all jobs; never forgotten
    packed: Packed | None = None  # instead of the payload, if it is large

    def position(self, index: int) -> int:
        """Return the position of an item as users know it: calls have none, but travel together."""
        return 0 if self.style == CALL_ARGUMENTS else index


class StartFailed(NamedTuple):
    """A worker's initializer raised: no use in trying again."""

    worker: int
    error: BaseException


class WorkerNow(NamedTuple):
    """What a worker is at: the chunk, or `IDLE`, and the item, or `LOADING`."""

    pid: int
    name: str
    number: int
    item: int


class Engine(Protocol):
    """Where workers live."""

    abilities: ClassVar[Abilities]
    # What it costs to send a chunk and take its results, measured.
    message_seconds: float
    # Whether what is started will be there in a moment, and may be sent chunks
    # already; a worker of a cluster may have to wait for a place.
    starts_at_once: bool
    # Whether a chunk that asks for it is run as if each item had been sent by itself.
    keeps_apart: bool

    @property
    def capacity(self) -> int:
        """How many workers to start if the user names no number."""

    @property
    def workers(self) -> Sequence[Any]:
        """The workers, as threads or processes."""

    def numbers(self) -> list[int]:
        """Return the numbers of the workers."""

    def prepare(self, func: Callable[..., Any], style: int) -> Function:
        """Return `func` ready to be sent; raises NotPicklableError if it cannot be."""

    def start_worker(self) -> int:
        """Start a worker and return its number; raises OSError if there can be none."""

    def send_chunk(
        self, worker: int, chunk: Chunk, function: Function, items: Any, budget: float
    ) -> int | None:
        """Send items to a worker; raises NotPicklableError if they cannot be.

        Returns the bytes of data that went with them if they are many.
        """

    def send_call(self, worker: int, number: int, function: Function, items: list[Any]) -> None:
        """Send a chunk of one call to a worker that has nothing else to do."""

    def collect_call(self, signs: list[Any], worker: int, number: int) -> list[Any] | None:
        """Return the list of the one value of a call if that is all the signs stand for.

        Otherwise return None; `collect` gives the events then.
        """

    def forget(self, function: Function) -> None:
        """Take note that no job will call `function` again."""

    def stop_worker(self, worker: int) -> None:
        """Tell a worker to leave when it has done what it was sent."""

    def look(self, worker: int) -> WorkerSeen | None:
        """Return what a worker is at; None if it is gone."""

    def kill_worker(
        self, worker: int, number: int | None = None, item: int | None = None
    ) -> WorkerSeen | None:
        """End a worker now if it is at that chunk and item, None for any.

        Return what it is at if it was spared, else None; its `WorkerLost` comes.
        """

    def recall(self, worker: int) -> None:
        """Ask a worker for what it has not begun; it may be in the midst of a task."""

    def describe(self, worker: int) -> WorkerNow | None:
        """Return what a worker is at; None if it has ended."""

    def ask_stacks(self, workers: Sequence[int]) -> Callable[[], list[tuple[str, ...]]]:
        """Ask workers for their stacks; return a function that waits for them, not for long.

        It gives the stacks of each, one a thread, that of the tasks first. Where
        there is none, the first text is the reason, in parentheses.
        """

    def wait(self, timeout: float | None) -> list[Any]:
        """Wait for signs of life, and return them for `collect`."""

    def collect(self, signs: list[Any]) -> list[Event | StartFailed]:
        """Return the events that the signs stand for."""

    def wake(self) -> None:
        """Make the `wait` of another thread return."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `wait` would return at once."""

    def close(self, patience: float) -> None:
        """End all workers: wait so many seconds for them to leave, then kill. Idempotent."""
