"""How many items to send next, and how far ahead."""

from motorpool.typed import NamedTuple

# A chunk aims at this much work: long enough that the 0.1 ms it costs to send
# one is lost in it, short enough for results to flow and for a fair end.
TARGET_SECONDS = 0.008
# Where a message costs more, a chunk is so many times as long.
TARGET_MESSAGES = 20
# All messages go through one thread. With many workers chunks are so long that
# it has this many times the time it needs.
DRIVER_SLACK = 2
# What a message to a worker process costs, there and back.
MESSAGE_SECONDS = 0.0001
# A chunk with less work than so many messages cost is not worth being split.
WORTH_MESSAGES = 2
# A worker gives back the rest of a chunk that has run this long.
BUDGET_SECONDS = 0.020
# Work sent to a worker beyond the chunk it runs, so that it need not wait.
AHEAD_SECONDS = 0.008
AHEAD_CHUNKS = 16
# A single chunk may be so long and have another behind it, as long as there is one
# for every worker: to wait for the next takes a worker a millisecond or more where
# cores are slow to wake (benchmarks/efficiency.py).
ONE_AHEAD_SECONDS = 0.1
# Of items with large arguments, so many chunks at most are in a worker's hands:
# one is copied while the other runs.
HEAVY_CHUNKS = 2
# The most that a chunk holds.
MOST_ITEMS = 32768
# A worker with work it has not begun, beside idle workers, is asked for it
# after this long without news.
RECALL_SECONDS = 0.020
# A windowed job starts with this many items per worker between the input and
# the consumer; the window doubles when the consumer has to wait, up to so many
# items, or so much work or data per worker.
FIRST_WINDOW = 4
MOST_WINDOW = 1 << 15
WINDOW_SECONDS = 0.03
WINDOW_BYTES = 4 << 20
CONSUMER_SECONDS = 0.01


class Timing(NamedTuple):
    """How long chunks are, in seconds."""

    least: float = WORTH_MESSAGES * MESSAGE_SECONDS
    target: float = TARGET_SECONDS
    budget: float = BUDGET_SECONDS
    ahead: float = AHEAD_SECONDS
    recall: float = RECALL_SECONDS
    window: float = WINDOW_SECONDS
    consumer: float = CONSUMER_SECONDS


DEFAULT_TIMING = Timing()


def timing(workers: int, message_seconds: float = MESSAGE_SECONDS) -> Timing:
    """Return how long chunks are for so many workers, if sending one costs `message_seconds`."""
    least = max(1.0, TARGET_MESSAGES * message_seconds / TARGET_SECONDS)
    longer = max(least, DRIVER_SLACK * workers * message_seconds / TARGET_SECONDS)
    return Timing(
        # Towards the end chunks shrink for all workers at once: less than what the thread
        # needs to hand one to every other worker would have them wait for it.
        least=max(WORTH_MESSAGES, workers / 2) * message_seconds,
        target=TARGET_SECONDS * longer,
        budget=BUDGET_SECONDS * longer,
        # These bridge the time that a message takes, however many workers there are.
        ahead=AHEAD_SECONDS * least,
        recall=RECALL_SECONDS * least,
        window=WINDOW_SECONDS * longer,
        consumer=CONSUMER_SECONDS * least,
    )


def chunk_size(
    remaining: int,
    workers: int,
    seconds: float,
    target: float = TARGET_SECONDS,
    least: float = WORTH_MESSAGES * MESSAGE_SECONDS,
) -> int:
    """Return how many of `remaining` items to send next, at least 1.

    Never more than half an even share of what is left, so that the workers
    finish together; but no less than `least` seconds of work, unless there are
    but two items for each worker.
    """
    if not seconds:
        return 1
    share = -(-remaining // (2 * workers))
    if share > 1:
        share = min(max(share, int(least / seconds)), remaining)
    return max(1, min(share, int(target / seconds), MOST_ITEMS))


def grown_window(
    window: int,
    workers: int,
    seconds: float,
    took: float,
    timing: Timing = DEFAULT_TIMING,
    size: float = 0.0,
) -> int:
    """Return the next window of a job whose consumer had to wait.

    It grows neither beyond a while's work for each worker, or so much data of
    `size` bytes an item, nor beyond what the consumer takes in a while: it last
    took a window's worth in `took` seconds, those included that the workers
    needed for it.
    """
    work = seconds * window / workers
    if size * window >= WINDOW_BYTES * workers:
        return window
    if work > timing.window or took - work > timing.consumer:
        return window
    return min(2 * window, MOST_WINDOW)
