"""One program, two pools: `multiprocessing.Pool` and motorpool's must agree.

A program is a function of a pool. It is run with the standard library's pool and
with motorpool's, on the same start method, and both outcomes must be equal: the
value, or the class and text of the error. What motorpool does differently on
purpose is not here.
"""

import functools
import multiprocessing
import multiprocessing.pool
import queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

import workloads
from conftest import DEADLINE, ENGINES, build_pool


class Pair:
    """Two pools of the same kind, and the same program for both."""

    def __init__(self, engine, processes=2, **options):
        self.stdlib = stdlib_pool(engine, processes, **options)
        self.motorpool = build_pool(engine, processes, **options)

    def agreed(self, program, *args):
        """Run the program with both pools; return the outcome they agree on."""
        expected = observed(program, self.stdlib, *args)
        given = observed(program, self.motorpool, *args)
        assert given == expected, "motorpool's outcome, then the stdlib's"
        return given

    def end(self):
        """End both pools and let go of them."""
        for pool in (self.motorpool, self.stdlib):
            pool.terminate()
            pool.join()
        # The stdlib's pool keeps its descriptors for as long as it is referred to.
        del self.motorpool, self.stdlib


def stdlib_pool(engine, processes, **options):
    """Return a pool of the standard library's."""
    if engine == "threads":
        return multiprocessing.pool.ThreadPool(processes, **options)
    return multiprocessing.get_context(engine).Pool(processes, **options)


def observed(program, pool, *args):
    """Return the value of the program, or the class and text of its error."""
    try:
        return "value", program(pool, *args)
    except Exception as error:
        return "error", described(error)


def described(error):
    """Return what two equal errors have in common.

    A class of motorpool's counts as the stdlib class that it stands for.
    """
    kind = type(error)
    if kind.__module__.startswith("motorpool"):
        stdlib = (multiprocessing.TimeoutError, ValueError, AssertionError)
        return next((base for base in stdlib if issubclass(kind, base)), kind), ""
    text = "" if isinstance(error, multiprocessing.TimeoutError) else str(error)
    return kind, text


@pytest.fixture
def pair(leak_guard, engine):
    """Give two pools of two workers each."""
    pair = Pair(engine)
    yield pair
    pair.end()


@pytest.fixture
def single_pair(leak_guard, engine):
    """Give two pools of one worker each, so that the order of work is fixed."""
    pair = Pair(engine, 1)
    yield pair
    pair.end()


# Programs


def maps(pool):
    """Use each blocking call once."""
    return [
        pool.apply(workloads.add, (1, 2), {"extra": 3}),
        pool.map(workloads.square, range(10)),
        pool.map(workloads.square, range(10), 3),
        pool.starmap(workloads.add, [(1, 2), (3,)]),
        list(pool.imap(workloads.square, range(10))),
        list(pool.imap(workloads.square, range(10), 4)),
        sorted(pool.imap_unordered(workloads.square, range(10))),
        pool.map(workloads.square, ()),
        pool.starmap(workloads.add, zip(range(3), range(3), strict=True)),
    ]


def asynchronous(pool):
    """Use each asynchronous call, with callbacks."""
    called = queue.Queue()
    results = [
        pool.apply_async(workloads.square, (3,), callback=called.put),
        pool.map_async(workloads.square, [1, 2], callback=called.put),
        pool.starmap_async(workloads.add, [(1, 2)], callback=called.put),
    ]
    values = [result.get(timeout=DEADLINE) for result in results]
    called_back = sorted((called.get(timeout=DEADLINE) for _ in values), key=repr)
    return values, called_back, [result.successful() for result in results]


def callback_is_over_when_wait_returns(pool):
    """Look at what the callback did, right after `wait`."""
    seen = []
    for number in range(20):
        pool.apply_async(workloads.square, (number,), callback=seen.append).wait()
    pool.map_async(workloads.square, [1, 2], callback=seen.append).wait()
    pool.map_async(workloads.fail, [1], 1, seen.append, seen.append).wait()
    return [described(s) if isinstance(s, Exception) else s for s in seen]


def failing_calls(pool):
    """Fail in each call and go on."""
    calls = [
        lambda pool: pool.apply(workloads.fail, ("x",)),
        lambda pool: pool.map(workloads.fail, [1]),
        lambda pool: pool.starmap(workloads.fail, [(1,)]),
        lambda pool: list(pool.imap(workloads.fail, [1])),
        lambda pool: list(pool.imap_unordered(workloads.fail, [1])),
        lambda pool: pool.apply_async(workloads.fail, (1,)).get(DEADLINE),
        lambda pool: pool.apply(workloads.square),
        lambda pool: pool.apply(workloads.square, ("x",)),
        lambda pool: pool.starmap(workloads.square, [5]),
    ]
    return [observed(call, pool) for call in calls], pool.map(workloads.square, [3])


def error_is_raised_from_remote_text(pool):
    """Look at the cause of an error."""
    try:
        pool.map(workloads.fail, [1])
    except ValueError as error:
        remote = error.__cause__
        return error.args, remote is None or "in fail" in str(remote)


def exhausted_iterators(pool):
    """Read iterators beyond their end."""
    found = []
    for method in (pool.imap, pool.imap_unordered):
        iterator = method(workloads.square, [2])
        found += [next(iterator), next(iterator, "end"), next(iterator, "end")]
        found += [iter(iterator) is iterator]
    return found


def imap_after_an_error(pool):
    """Go on reading after an item that failed."""
    iterator = pool.imap(functools.partial(workloads.fail_on, {2}), range(5))
    return [observed(lambda _: next(iterator), None) for _ in range(7)]


def imap_of_a_failing_generator(pool):
    """Read a stream whose input fails midway."""

    def items():
        yield from range(3)
        raise LookupError("no more")

    iterator = pool.imap(workloads.square, items())
    return [observed(lambda _: next(iterator), None) for _ in range(5)]


def map_of_a_failing_generator(pool):
    """Map over an input that fails midway."""

    def items():
        yield 1
        raise LookupError("no more")

    return [
        observed(lambda pool: pool.map(workloads.square, items()), pool),
        observed(lambda pool: pool.map_async(workloads.square, items()), pool),
        pool.map(workloads.square, [2]),
    ]


def refused_arguments(pool):
    """Make mistakes in the call."""
    return [
        observed(lambda pool: pool.map(workloads.square, 5), pool)[0],
        observed(lambda pool: pool.map(workloads.square), pool)[0],
        observed(lambda pool: pool.apply(), pool)[0],
        observed(lambda pool: pool.imap(workloads.square, [1], 0), pool)[1][0],
        observed(lambda pool: pool.imap_unordered(workloads.square, [1], 0), pool)[1][0],
    ]


def unready_results(pool, gate):
    """Look at results before they are there, then let the tasks end."""
    result = pool.apply_async(workloads.wait_for, (str(gate), 5))
    stream = pool.imap(workloads.wait_for, [str(gate)])
    seen = [
        result.ready(),
        result.wait(0.01),
        observed(lambda _: result.get(0.01), None)[1][0],
        observed(lambda _: result.get(timeout=0), None)[1][0],
        observed(lambda _: stream.next(0.01), None)[1][0],
        observed(lambda _: result.successful(), None)[1][0],
    ]
    gate.touch()
    seen += [result.get(DEADLINE), stream.next(DEADLINE), result.ready()]
    return seen


def map_is_ready_when_all_chunks_are(pool, gate):
    """See that one failed chunk does not make the result ready."""
    calls = [("x", ValueError), (str(gate), None)]
    result = pool.starmap_async(workloads.wait_or_fail, calls, chunksize=1)
    early = observed(lambda _: result.get(0.2), None)[1][0]
    gate.touch()
    return early, observed(lambda _: result.get(DEADLINE), None)


def closed(pool):
    """Use a pool that was closed."""
    result = pool.map_async(workloads.square, range(20))
    pool.close()
    refused = [
        observed(call, pool)[1][0]
        for call in (
            lambda pool: pool.map(workloads.square, [1]),
            lambda pool: pool.apply(workloads.square, (1,)),
            lambda pool: pool.apply_async(workloads.square, (1,)),
            lambda pool: pool.imap(workloads.square, [1]),
            lambda pool: pool.imap_unordered(workloads.square, [1]),
            lambda pool: pool.starmap(workloads.square, [(1,)]),
            lambda pool: pool.__enter__(),
        )
    ]
    pool.close()
    pool.join()
    pool.join()
    return refused, result.get(0), result.successful()


def ended(pool):
    """Use a pool that was terminated."""
    pool.terminate()
    pool.terminate()
    pool.join()
    return observed(lambda pool: pool.map(workloads.square, [1]), pool)[1][0]


def joined_too_early(pool):
    """Join a pool that is open."""
    return observed(lambda pool: pool.join(), pool)[1][0]


PROGRAMS = [
    maps,
    asynchronous,
    callback_is_over_when_wait_returns,
    failing_calls,
    error_is_raised_from_remote_text,
    exhausted_iterators,
    imap_after_an_error,
    imap_of_a_failing_generator,
    map_of_a_failing_generator,
    refused_arguments,
    closed,
    ended,
    joined_too_early,
]
GATED_PROGRAMS = [unready_results, map_is_ready_when_all_chunks_are]


@pytest.mark.quick
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_program_has_the_same_outcome(pair, program):
    """A program written for the standard library's pool behaves the same."""
    kind, value = pair.agreed(program)

    assert kind == "value", value


@pytest.mark.parametrize("program", GATED_PROGRAMS, ids=lambda p: p.__name__)
def test_program_with_waiting_tasks_has_the_same_outcome(pair, program, tmp_path):
    """What a program sees of unfinished work is the same."""
    seen = []
    for number, pool in enumerate((pair.stdlib, pair.motorpool)):
        seen.append(observed(program, pool, tmp_path / f"gate{number}"))

    assert seen[1] == seen[0]
    assert seen[0][0] == "value", seen[0]


# Properties

numbers = st.lists(st.integers(-1000, 1000), max_size=60)
chunksizes = st.none() | st.integers(1, 70)


@pytest.mark.quick
def test_map_agrees_on_any_list_and_chunksize(pair):
    """Whatever the list and the chunk size, `map` gives the same list."""

    @given(numbers, chunksizes)
    def agree(items, chunksize):
        given = pair.agreed(lambda pool: pool.map(workloads.square, items, chunksize))
        assert given == ("value", [n * n for n in items])

    agree()


def test_imap_agrees_on_any_list_and_chunksize(pair):
    """Whatever the list and the chunk size, `imap` gives the same stream."""

    @given(numbers, st.integers(1, 70))
    def agree(items, chunksize):
        pair.agreed(lambda pool: list(pool.imap(workloads.same, items, chunksize)))

    agree()


def test_imap_unordered_agrees_on_any_list_and_chunksize(pair):
    """Whatever the list and the chunk size, nothing is lost or doubled."""

    @given(numbers, st.integers(1, 70))
    def agree(items, chunksize):
        pair.agreed(lambda pool: sorted(pool.imap_unordered(workloads.same, items, chunksize)))

    agree()


def test_starmap_agrees_on_any_arguments(pair):
    """Whatever the number of arguments, `starmap` spreads them the same way."""
    arguments = st.lists(st.lists(st.integers(), min_size=0, max_size=3), max_size=20)

    @given(arguments, chunksizes)
    def agree(items, chunksize):
        one_bad = [item for item in items if len(item) not in {1, 2}][:1]
        items = [item for item in items if len(item) in {1, 2}] + one_bad
        pair.agreed(lambda pool: pool.starmap(workloads.add, items, chunksize))

    agree()


def test_apply_agrees_on_any_arguments(pair):
    """Whatever the arguments, `apply` passes them on the same way."""
    values = st.none() | st.booleans() | st.text(max_size=5) | st.binary(max_size=5)
    nested = st.recursive(values, lambda inner: st.lists(inner, max_size=3))

    @given(
        st.lists(nested, max_size=3),
        st.dictionaries(st.sampled_from("abc"), nested, max_size=2),
    )
    def agree(args, kwds):
        pair.agreed(lambda pool: pool.apply(workloads.count_arguments, args, kwds))

    agree()


def test_failing_position_agrees(pair):
    """Wherever one item fails, its error is what `map` raises."""

    @given(st.integers(1, 40), st.data(), chunksizes)
    def agree(length, data, chunksize):
        bad = data.draw(st.integers(0, length - 1))
        function = functools.partial(workloads.fail_on, {bad})
        kind, _ = pair.agreed(lambda pool: pool.map(function, range(length), chunksize))
        assert kind == "error"

    agree()


def test_first_of_many_failing_positions_agrees(single_pair):
    """Where several items fail, the first by position is what `map` raises."""

    @given(st.integers(1, 40), st.sets(st.integers(0, 39)), chunksizes)
    def agree(length, bad, chunksize):
        function = functools.partial(workloads.fail_on, bad)
        single_pair.agreed(lambda pool: pool.map(function, range(length), chunksize))

    agree()


def test_failing_positions_in_a_stream_agree(pair):
    """Each failing item raises in its place in `imap`, and the rest follows."""

    @given(st.integers(0, 30), st.sets(st.integers(0, 29)))
    def agree(length, bad):
        function = functools.partial(workloads.fail_on, bad)

        def read(pool):
            iterator = pool.imap(function, range(length))
            return [observed(lambda _: next(iterator), None) for _ in range(length + 1)]

        pair.agreed(read)

    agree()


@pytest.mark.parametrize("engine", ENGINES)
def test_recycling_and_initializers_agree(leak_guard, engine):
    """The stdlib's options have the same effect."""
    options = {"initializer": workloads.keep_positional, "initargs": ("name", 7)}
    if engine != "threads":
        options["maxtasksperchild"] = 2
    pair = Pair(engine, 2, **options)
    try:
        given = pair.agreed(lambda pool: pool.map(workloads.kept_value, ["name"] * 9, 1))
    finally:
        pair.end()

    assert given == ("value", [7] * 9)
