"""Words shared by both halves: the frame header, its kinds, and what a failed task sends back."""

import struct

from motorpool.typed import Any, NamedTuple

# size of the payload, kind, number, start, stop, extra, seconds
HEADER = struct.Struct("<QBqqqqd")

# From the parent to a worker; `number` is a function's or a chunk's.
SETUP = 1  # payload: the worker's identity and initializer
FUNCTION = 2  # start: call style; payload: the function
RUN = 3  # start, stop; extra: function number; seconds: budget; payload: the items
# A worker that has spent the budget gives the rest back, or, if the budget is
# negative, sends what it has and goes on.
DEFINE = 4  # payload: definitions of names of modules a worker cannot import
ANSWER = 5  # in reply to NEED; payload: (whether it was found, definitions or None)
FORGET = 6  # the function will not be used again
STOP = 7
CALL = 8  # as RUN, for one item of a worker that has nothing else to do
RUN_EXACTLY = 9  # as RUN, and never in bulk: each item is noted before it is called
RUN_APART = 10  # as RUN_EXACTLY, and no two items or results share an object

# From a worker to the parent.
READY = 16
START_FAILED = 17  # payload: Failure
RESULTS = 18  # start, stop; seconds; payload: list of values
MIXED_RESULTS = 19  # the same, but payload: (values, {offset: Failure})
HANDED_BACK = 20  # start, stop: not begun, no longer part of the chunk
NOT_LOADED = 21  # start, stop: no item was run; payload: Failure
NOTED_RESULTS = 26  # as RESULTS, but payload: a journal (`worker/page.py`)
PROGRESS = 23  # as the kind that `extra` is; the chunk goes on; 0 s: unknown
NEED = 22  # payload: (module, name or None)

# Of a `Reply` only: no worker of ours sends these.
NOT_STARTED = 24  # payload: Failure of the initializer
UNKNOWN = 25  # payload: the key of a program that came without its text, and is not known here

# The file of a pool's arenas, sparse: tables of slots, then the regions.
ARENA_FILE = 1 << 62
ARENA_REGION = 1 << 40  # of the parent, number 0, and of each worker
ARENA_SLOTS = 1 << 16  # in a region's table, one byte each
ARENA_MOST_REGIONS = 1 << 21

# How a worker calls the function with an item.
CALL_ITEM = 0  # func(item)
CALL_STAR = 1  # func(*item)
CALL_ARGUMENTS = 2  # func(*item[0], **item[1])

# In a worker's page of shared memory, instead of a chunk's number: it runs none.
IDLE = -1

# There, instead of an item's index: the chunk is being unpickled.
LOADING = -1


class Failure(NamedTuple):
    """An exception on its way home, with what is left if it cannot be rebuilt there."""

    pickled: bytes | None
    type_name: str
    text: str
    traceback: str
    pid: int
    item: str
    function: str
    kind: str = "task"  # or "result", "load": which step failed
    is_call: bool = False  # of `apply`, and no item of a map


class Order(NamedTuple):
    """What a process that is not our worker is to run: which items, and by which program."""

    program: tuple[str, int]  # the parent's token, a number
    setup: tuple[str, int] | None  # the same, of the initializer
    start: int
    stop: int
    budget: float
    is_exact: bool = False  # as of the chunk


class Reply(NamedTuple):
    """The answer to an `Order`: a kind as of a frame, where the items that ran end, a payload."""

    kind: int
    pid: int
    stop: int
    seconds: float
    payload: bytes


class Chunk(NamedTuple):
    """Items `start` to `stop` of a job, sent to a worker together."""

    number: int
    job: int
    start: int
    stop: int
    is_exact: bool = False  # never run in bulk: each item is noted before it is called
    is_apart: bool = False  # as if each item had been sent by itself


class Control(NamedTuple):
    """What a job grants each of its items: so many seconds, so many attempts more."""

    timeout: float  # infinity for no limit
    retries: int
    backoff: float  # seconds before the second attempt; doubles with each that follows
    retry_on: tuple[type[BaseException], ...]
    retries_lost: bool  # whether the loss of its worker is among them
    retries_late: bool  # whether its timeout is
    retries_overrun: bool = False  # whether the loss of its worker to the memory limit is


# Events: what happened, told to the scheduler.


class JobSubmitted(NamedTuple):
    """A job of `size` items, with more to come if `is_open`; its function's jobs share `cost`.

    `is_prompt`: somebody may wait for each single result.
    """

    job: int
    size: int
    chunksize: int | None
    cost: Any
    is_open: bool = False
    window: int | None = None
    is_prompt: bool = False
    control: Control | None = None


class InputArrived(NamedTuple):
    """An open job has `items` more items, and perhaps no more to come."""

    job: int
    items: int
    is_open: bool


class Consumed(NamedTuple):
    """The consumer of a windowed job took `items` results; `starved`: it found none ready."""

    job: int
    items: int
    starved: bool


class JobCancelled(NamedTuple):
    """Nobody wants the rest of a job, or one `item`; `kill`: not even what is being run."""

    job: int
    kill: bool
    item: int | None = None


class WorkerStarted(NamedTuple):
    """A worker exists and may be sent a chunk."""

    worker: int


class WorkerReady(NamedTuple):
    """A worker has run its initializer."""

    worker: int


class WorkerNotStarted(NamedTuple):
    """No worker could be started."""

    error: BaseException


class ChunkDone(NamedTuple):
    """A chunk ended at `stop`; the rest of it comes back unrun."""

    worker: int
    number: int
    start: int
    stop: int
    seconds: float
    values: Any
    errors: dict[int, BaseException] | None


class ChunkProgressed(NamedTuple):
    """The results of a running chunk up to `stop`."""

    worker: int
    number: int
    start: int
    stop: int
    seconds: float
    values: Any
    errors: dict[int, BaseException] | None


class ItemsHandedBack(NamedTuple):
    """A running chunk now ends at `start`; what lies between there and `stop` comes back."""

    worker: int
    number: int
    start: int
    stop: int


class ChunkRefused(NamedTuple):
    """A chunk could not be sent or unpickled; none of its items was run."""

    worker: int
    number: int
    error: BaseException


class Memory(NamedTuple):
    """What is known of the memory of a worker that ended, in bytes."""

    peak: int | None = None  # resident at the most, as the kernel counts
    overrun: int = 0  # its own when it was killed for it; 0 if it was not
    limit: int = 0
    killed_by_kernel: bool | None = None  # as its counters say


class WorkerLost(NamedTuple):
    """A worker ended. What it was at, if anything, and the results it had noted."""

    worker: int
    pid: int
    exitcode: int | None
    number: int = IDLE
    at: int = LOADING
    upto: int = 0
    finished: dict[int, Any] = {}  # noqa: RUF012 - never changed
    cause: BaseException | None = None
    memory: Memory = Memory()
    is_own_doing: bool = True  # False: somebody else killed it, as far as is known


class ChunkLost(NamedTuple):
    """A process that is not the worker itself ended with a chunk; the worker goes on."""

    worker: int
    number: int
    lost: WorkerLost


class CapacityChanged(NamedTuple):
    """There is room for so many workers from now on."""

    workers: int


class MemoryNews(NamedTuple):
    """The machine's memory runs short, or no longer does."""

    is_short: bool


class WorkerSeen(NamedTuple):
    """What a worker is at: an item of a chunk, and since when.

    `is_spared`: it was to be killed, and was no longer at what it was to be
    killed for. `is_stopped`: it does nothing, because somebody stopped it.
    """

    worker: int
    number: int
    at: int
    since: float
    is_spared: bool = False
    is_stopped: bool = False


class Closed(NamedTuple):
    """No more jobs will come; workers may leave when the last is done."""


class Tick(NamedTuple):
    """Time has passed."""


Event = (
    JobSubmitted
    | InputArrived
    | Consumed
    | JobCancelled
    | WorkerStarted
    | WorkerReady
    | WorkerNotStarted
    | ChunkDone
    | ChunkProgressed
    | ItemsHandedBack
    | ChunkRefused
    | WorkerLost
    | ChunkLost
    | CapacityChanged
    | MemoryNews
    | WorkerSeen
    | Closed
    | Tick
)


# Commands: what to do, told by the scheduler.


class SendChunk(NamedTuple):
    """Send a chunk.

    After `budget` seconds the worker gives the rest back; if that is negative,
    it sends the results so far and goes on.
    """

    worker: int
    chunk: Chunk
    budget: float


class StartWorker(NamedTuple):
    """Start one worker more."""


class StopWorker(NamedTuple):
    """Tell a worker without work to leave."""

    worker: int


class LookAtWorker(NamedTuple):
    """Tell what a worker is at, by a `WorkerSeen`."""

    worker: int


class NameSlow(NamedTuple):
    """Say what a worker has been running for so long."""

    worker: int


class KillWorker(NamedTuple):
    """End a worker if it is at a chunk and an item of it; None for any."""

    worker: int
    number: int | None = None
    item: int | None = None


class RecallChunks(NamedTuple):
    """Ask a worker for what it has not begun."""

    worker: int


class Deliver(NamedTuple):
    """Values of a job from `start` on, and exceptions by offset."""

    job: int
    start: int
    values: Any
    errors: dict[int, BaseException] | None


class FailItem(NamedTuple):
    """An item fails: with `error`, or because the worker `lost` ran it.

    `seconds`: the timeout for which that worker was killed.
    """

    job: int
    item: int
    error: BaseException | None
    lost: WorkerLost | None
    seconds: float | None = None
    attempts: int = 1


class FinishJob(NamedTuple):
    """All of a job is delivered."""

    job: int


class BreakPool(NamedTuple):
    """Workers cannot be started: no job will ever end."""

    error: BaseException | None
    lost: WorkerLost | None


Command = (
    SendChunk
    | StartWorker
    | StopWorker
    | LookAtWorker
    | KillWorker
    | NameSlow
    | RecallChunks
    | Deliver
    | FailItem
    | FinishJob
    | BreakPool
)
