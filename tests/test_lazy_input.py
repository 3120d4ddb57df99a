"""Streams: `imap` and `imap_unordered` pull their input as it is needed."""

import functools
import gc
import itertools
import threading
import time

import pytest

import motorpool
import workloads
from conftest import DEADLINE, eventually, outcomes

RUNS_ON_EXECUTORS = True

STREAMS = ("imap", "imap_unordered")
LOOK_AHEAD = 200
"""More than this ahead of the reader, for two workers, counts as swallowing."""


class Counted:
    """An endless input that knows how many of its items were pulled."""

    def __init__(self):
        self.pulled = 0

    def __iter__(self):
        for number in itertools.count():
            self.pulled += 1
            yield number


@pytest.mark.quick
@pytest.mark.parametrize("method", STREAMS)
def test_endless_input_gives_results(pool, method):
    """An endless generator is no obstacle to the first results."""
    stream = getattr(pool, method)(workloads.square, itertools.count())
    first = list(itertools.islice(stream, 50))

    assert len(set(first)) == 50
    if method == "imap":
        assert first == [n * n for n in range(50)]


@pytest.mark.quick
@pytest.mark.parametrize("method", STREAMS)
def test_input_is_pulled_little_ahead_of_the_reader(pool, method):
    """A slow reader keeps the input from being swallowed."""
    items = Counted()
    stream = getattr(pool, method)(workloads.square, items)
    ahead = []
    for read, _ in enumerate(itertools.islice(stream, 1000), start=1):
        # A round trip on the same pool: time enough to pull much more.
        pool.apply(workloads.square, (read,))
        ahead.append(items.pulled - read)

    assert max(ahead) < LOOK_AHEAD


@pytest.mark.parametrize("method", STREAMS)
def test_result_makes_room_when_a_slow_reader_gets_it(pool, method):
    """What is ready and not read yet counts as ahead: four for each of two workers, and one."""
    items = Counted()
    stream = getattr(pool, method)(workloads.square, items)
    ahead = []
    for read, _ in enumerate(itertools.islice(stream, 60), start=1):
        time.sleep(0.01)
        ahead.append(items.pulled - read)

    assert max(ahead) <= 2 * 4 + 1


@pytest.mark.parametrize("chunksize", [2, 16])
@pytest.mark.parametrize("method", STREAMS)
def test_chunks_are_pulled_little_ahead_of_the_reader(pool, method, chunksize):
    """The bound counts chunks where the caller asked for chunks."""
    items = Counted()
    stream = getattr(pool, method)(workloads.square, items, chunksize)
    ahead = []
    for read, _ in enumerate(itertools.islice(stream, 1000), start=1):
        pool.apply(workloads.square, (read,))
        ahead.append(items.pulled - read)

    assert max(ahead) < LOOK_AHEAD * chunksize


def test_nothing_more_is_pulled_while_nobody_reads(pool):
    """A stream that is not read comes to rest."""
    items = Counted()
    stream = pool.imap(workloads.square, items)
    next(stream)
    for _ in range(5):
        pool.map(workloads.square, range(2000), chunksize=1)

    assert items.pulled < LOOK_AHEAD


def test_two_endless_streams_share_the_pool(pool):
    """Two endless inputs are read in turns without starving each other."""
    left = pool.imap(workloads.square, itertools.count())
    right = pool.imap(workloads.same, itertools.count(1000))
    pairs = list(itertools.islice(zip(left, right, strict=True), 100))

    assert pairs == [(n * n, n + 1000) for n in range(100)]


def test_map_works_beside_an_endless_stream(pool):
    """Other calls get their turn while an endless stream is open."""
    stream = pool.imap_unordered(workloads.square, itertools.count())
    next(stream)

    assert pool.map(workloads.square, range(100)) == [n * n for n in range(100)]
    assert next(stream) is not None


@pytest.mark.parametrize("method", STREAMS)
def test_memory_stays_flat_over_a_long_input(start_script, method, engine):
    """A long stream of large items needs the memory of a few of them."""
    script = start_script(
        f"""
import resource
def items(count):
    for number in range(count):
        yield number.to_bytes(4, "big") * 2500

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

with open_pool() as pool:
    for _ in pool.{method}(workloads.same, items(500)):
        pass
    before = peak()
    count = sum(1 for _ in pool.{method}(workloads.same, items(24_000)))
    print(count, (peak() - before) // 1024)
""",
        engine,
    )
    finished = script.finish()

    assert finished.stderr == ""
    count, megabytes = map(int, finished.stdout.split())
    assert count == 24_000
    # A window is so much data, and there are copies of it on their way.
    assert megabytes < 60, "the items alone are 240 MB, and so are the results"


@pytest.mark.quick
@pytest.mark.parametrize("method", STREAMS)
def test_results_come_before_the_error_of_the_input(pool, method):
    """What the input gave before it failed is computed; then its error is raised."""

    def items():
        yield from range(5)
        msg = "input broke"
        raise LookupError(msg)

    stream = getattr(pool, method)(workloads.square, items())
    *values, error = outcomes(stream)

    assert sorted(values) == [0, 1, 4, 9, 16]
    assert type(error) is LookupError
    assert str(error) == "input broke"
    assert pool.apply(workloads.square, (3,)) == 9


@pytest.mark.parametrize("chunksize", [2, 3, 50])
def test_whole_chunks_before_an_input_error_are_computed(pool, chunksize):
    """An input that fails within a chunk loses that chunk, and none before, as in the stdlib."""

    def items():
        yield from range(5)
        msg = "input broke"
        raise LookupError(msg)

    *values, error = outcomes(pool.imap(workloads.square, items(), chunksize))

    assert values == [n * n for n in range(5 - 5 % chunksize)]
    assert type(error) is LookupError


@pytest.mark.parametrize("method", STREAMS)
def test_input_that_fails_at_once_fails_at_the_first_result(pool, method):
    """The error of an input that gives nothing is raised by `next`, not before."""

    def items():
        msg = "input broke"
        raise LookupError(msg)
        yield

    stream = getattr(pool, method)(workloads.square, items())

    with pytest.raises(LookupError, match="input broke"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize("method", STREAMS)
def test_input_may_use_the_pool(pool, method):
    """A generator may ask the very pool that it feeds."""

    def items():
        for number in range(20):
            yield pool.apply(workloads.square, (number,))

    stream = getattr(pool, method)(workloads.same, items())

    assert sorted(stream) == [n * n for n in range(20)]


def test_stream_may_feed_a_stream(pool):
    """The results of one `imap` may be the input of another, on one pool."""
    squares = pool.imap(workloads.square, range(50))
    fourth_powers = pool.imap(workloads.square, squares)

    assert list(fourth_powers) == [n**4 for n in range(50)]


@pytest.mark.quick
@pytest.mark.parametrize("method", STREAMS)
def test_ready_results_come_out_while_the_input_blocks(pool, method):
    """An input that waits does not hold back results that are there."""
    release = threading.Event()

    def items():
        yield from range(3)
        assert release.wait(DEADLINE), "nobody read the results"
        yield 3

    stream = getattr(pool, method)(workloads.square, items())
    try:
        early = [stream.next(timeout=DEADLINE / 4) for _ in range(3)]
        with pytest.raises(TimeoutError):
            stream.next(timeout=0.01)
    finally:
        release.set()

    assert sorted(early) == [0, 1, 4]
    assert list(stream) == [9]


def test_other_calls_go_on_while_the_input_blocks(pool):
    """An input that waits holds up no other call on the pool."""
    release = threading.Event()

    def items():
        yield 0
        assert release.wait(DEADLINE), "nobody released the input"
        yield 1

    stream = pool.imap(workloads.square, items())
    try:
        given = pool.map_async(workloads.square, range(10)).get(timeout=DEADLINE / 4)
    finally:
        release.set()

    assert given == [n * n for n in range(10)]
    assert list(stream) == [0, 1]


@pytest.mark.parametrize("method", STREAMS)
def test_stream_that_is_not_read_to_its_end_holds_up_nobody(make_pool, method):
    """Leaving the pool while an endless stream is open ends the stream."""
    items = Counted()
    with make_pool() as pool:
        stream = getattr(pool, method)(workloads.square, items)
        next(stream)
    pulled = items.pulled

    assert pulled < LOOK_AHEAD
    assert not eventually(lambda: items.pulled > pulled, timeout=0.1)


def test_dropped_stream_stops_pulling(make_pool):
    """A stream that nobody refers to pulls nothing and holds up nobody."""
    items = Counted()
    with make_pool() as pool:
        next(pool.imap(workloads.square, items))
        assert pool.map(workloads.square, range(100)) == [n * n for n in range(100)]

    assert items.pulled < LOOK_AHEAD


@pytest.mark.quick
@pytest.mark.parametrize("give", [list, iter], ids=["sequence", "iterator"])
@pytest.mark.parametrize("method", STREAMS)
def test_join_waits_for_a_stream_that_is_read_afterwards(make_pool, method, give):
    """Who closes and joins first, and reads then, finds all results, as in the stdlib."""
    pool = make_pool(2)
    stream = getattr(pool, method)(workloads.same, give(range(500)))
    pool.close()
    pool.join()

    assert sorted(stream) == list(range(500))


@pytest.mark.quick
@pytest.mark.parametrize("method", STREAMS)
def test_stream_that_nobody_ever_reads_is_run(make_pool, tmp_path, method):
    """`imap` for the sake of what the tasks do runs them all, as in the stdlib."""
    log = tmp_path / "log"
    pool = make_pool(2)
    getattr(pool, method)(functools.partial(workloads.append_line, str(log)), iter(range(200)))
    pool.close()
    pool.join()

    assert sorted(map(int, log.read_text().split())) == list(range(200))


def test_stream_that_was_begun_and_joined_is_complete(make_pool):
    """What was not read before `join` is there afterwards."""
    pool = make_pool(2)
    stream = pool.imap(workloads.same, iter(range(300)))
    first = next(stream)
    pool.close()
    pool.join()

    assert [first, *stream] == list(range(300))


def test_long_input_arrives_whole(pool):
    """A generator of a hundred thousand items loses and doubles none."""
    stream = pool.imap_unordered(workloads.same, (n for n in range(100_000)), 500)

    assert sum(stream) == sum(range(100_000))


def test_stream_can_be_read_by_many_threads(pool):
    """Threads that read one stream get each result once between them."""
    stream = pool.imap(workloads.same, (n for n in range(400)))
    found = []

    def read():
        found.extend(stream)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(DEADLINE)

    assert sorted(found) == list(range(400))


@pytest.mark.quick
@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("method", STREAMS)
def test_reused_item_is_sent_as_it_was(process_pool, method, chunksize):
    """An iterator may give the same object again and again, and change it in between."""

    def reusing():
        frame, pair = [0], [0]
        for number in range(200):
            frame[0] = pair[0] = number
            yield frame
            yield number, pair
            yield {"deep": ({"in": pair},)}

    got = getattr(process_pool, method)(workloads.same, reusing(), chunksize)

    expected = [item for n in range(200) for item in ([n], (n, [n]), {"deep": ({"in": [n]},)})]
    assert sorted(map(str, got)) == sorted(map(str, expected))


@pytest.mark.parametrize("chunksize", [1, 2, 50])
@pytest.mark.parametrize("make_item", [threading.Lock, workloads.Backfires])
def test_stream_dropped_after_an_error_holds_up_nobody(make_process_pool, make_item, chunksize):
    """However its items failed, nothing of the pool's refers to an iterator."""
    pool = make_process_pool(1)

    def read_one():
        stream = pool.imap(workloads.same, (make_item() for _ in itertools.count()), chunksize)
        with pytest.raises(motorpool.MotorpoolError):
            next(stream)

    gc.disable()
    try:
        read_one()
        pool.close()
        ending = threading.Thread(target=pool.join, daemon=True)
        ending.start()
        ending.join(DEADLINE)
    finally:
        gc.enable()

    assert not ending.is_alive()


@pytest.mark.parametrize("method", STREAMS)
def test_kept_item_that_kills_whoever_loads_it_kills_a_worker_only(process_pool, method):
    """The parent loads it for no purpose, not even to name it."""
    kept = workloads.KillsWhenLoaded()

    got = outcomes(getattr(process_pool, method)(workloads.same, iter([1, kept, 2]), 3))

    (error,) = [value for value in got if not isinstance(value, int)]
    assert type(error) is motorpool.WorkerLostError
    assert "KillsWhenLoaded" in str(error)
    assert error.index == 1
    assert sum(value for value in got if isinstance(value, int)) == 3
