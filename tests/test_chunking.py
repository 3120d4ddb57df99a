"""How many items are sent next, and how far a stream runs ahead: tables and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motorpool.scheduler import Cost
from motorpool.scheduler.chunking import (
    CONSUMER_SECONDS,
    MESSAGE_SECONDS,
    MOST_ITEMS,
    MOST_WINDOW,
    TARGET_SECONDS,
    WINDOW_BYTES,
    WINDOW_SECONDS,
    WORTH_MESSAGES,
    chunk_size,
    grown_window,
)

COUNTS = st.integers(1, 10**7)
WORKERS = st.integers(1, 5000)
SECONDS = st.floats(1e-9, 1e4)
LEAST = WORTH_MESSAGES * MESSAGE_SECONDS


@pytest.mark.quick
@pytest.mark.parametrize(
    ("remaining", "workers", "seconds", "expected"),
    [
        pytest.param(1000, 2, 0.0, 1, id="cost unknown"),
        pytest.param(1, 8, 1e-6, 1, id="the last item"),
        pytest.param(1000, 2, 1.0, 1, id="items longer than the target"),
        pytest.param(10**6, 2, TARGET_SECONDS / 100, 100, id="as many as make the target"),
        pytest.param(40, 2, LEAST / 10, 10, id="half an even share"),
        pytest.param(41, 2, LEAST / 10, 11, id="half an even share, rounded up"),
        pytest.param(41, 2, LEAST / 20, 20, id="what is worth sending"),
        pytest.param(41, 2, LEAST / 200, 41, id="all that is left is not worth being split"),
        pytest.param(4, 2, LEAST / 200, 1, id="few items, each of which may be waiting for others"),
        pytest.param(3, 100, 1e-6, 1, id="more workers than items"),
        pytest.param(10**9, 2, 1e-9, MOST_ITEMS, id="the most"),
    ],
)
def test_chunk_size_follows_cost_and_share(remaining, workers, seconds, expected):
    """A chunk is short in time, and small beside what is left."""
    assert chunk_size(remaining, workers, seconds) == expected


@given(COUNTS, WORKERS, SECONDS)
def test_chunk_size_keeps_its_bounds(remaining, workers, seconds):
    """A chunk holds at least one item, and at most half an even share or little work."""
    size = chunk_size(remaining, workers, seconds)

    assert 1 <= size <= min(remaining, MOST_ITEMS)
    assert size <= -(-remaining // (2 * workers)) or size * seconds <= LEAST * (1 + 1e-9)
    assert size == 1 or size * seconds <= TARGET_SECONDS * (1 + 1e-9)


@given(COUNTS, WORKERS, SECONDS)
def test_chunk_sizes_shrink_towards_the_end(remaining, workers, seconds):
    """The fewer items are left, the smaller is a chunk, and the last one is always reached."""
    sizes = []
    while remaining and len(sizes) < 50:
        sizes.append(chunk_size(remaining, workers, seconds))
        remaining -= sizes[-1]

    assert sizes == sorted(sizes, reverse=True)
    assert remaining >= 0


def test_cost_is_unknown_at_first():
    """A function that never ran has no cost."""
    assert Cost().seconds == 0.0


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        pytest.param([(10, 1.0)], 0.1, id="a mean"),
        pytest.param([(10, 1.0), (1, 0.3)], 0.2, id="half of the weight to the latest"),
        pytest.param([(5, 0.0)], 1e-9, id="too short to measure, yet known"),
        pytest.param([(1, 0.0), (1, 0.0)], 1e-9, id="never falls back to unknown"),
    ],
)
def test_cost_learns_from_what_was_measured(measured, expected):
    """The cost of an item is a mean in which the latest chunk counts for half."""
    cost = Cost()
    for items, seconds in measured:
        cost.add(items, seconds)

    assert cost.seconds == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0.0, 1e3)), min_size=1))
def test_cost_stays_between_the_extremes(measured):
    """No sequence of measurements makes a cost that lies outside of them."""
    cost = Cost()
    for items, seconds in measured:
        cost.add(items, seconds)

    means = [max(seconds / items, 1e-9) for items, seconds in measured]
    assert min(means) * (1 - 1e-9) <= cost.seconds <= max(means) * (1 + 1e-9)


def test_cost_follows_a_change_in_a_few_chunks():
    """A function whose items turn long is known as long after ten chunks."""
    cost = Cost()
    cost.add(1000, 0.001)
    for _ in range(10):
        cost.add(1, 1.0)

    assert cost.seconds == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    ("window", "seconds", "took", "expected"),
    [
        pytest.param(8, 0.0, 0.0, 16, id="cost unknown"),
        pytest.param(8, 1e-6, 0.0, 16, id="little work"),
        pytest.param(8, WINDOW_SECONDS, 0.0, 8, id="work enough for each worker"),
        pytest.param(8, 1e-6, 2 * CONSUMER_SECONDS, 8, id="a slow consumer"),
        pytest.param(8, CONSUMER_SECONDS / 2, 2 * CONSUMER_SECONDS, 16, id="slow workers"),
        pytest.param(MOST_WINDOW, 1e-9, 0.0, MOST_WINDOW, id="the most"),
        pytest.param(MOST_WINDOW - 1, 1e-9, 0.0, MOST_WINDOW, id="to the most"),
    ],
)
def test_window_grows_while_it_is_needed(window, seconds, took, expected):
    """A window doubles unless there is work enough, or the consumer is the slow part."""
    assert grown_window(window, 2, seconds, took) == expected


@pytest.mark.parametrize(("window", "expected"), [(31, 62), (32, 32), (64, 64)])
def test_window_does_not_grow_beyond_so_much_data(window, expected):
    """Items of 256 KiB: 8 MiB for two workers."""
    assert grown_window(window, 2, 1e-6, 0.0, size=WINDOW_BYTES / 16) == expected


@given(st.integers(1, MOST_WINDOW), WORKERS, SECONDS, st.floats(0.0, 10.0))
def test_window_never_shrinks_and_never_leaps(window, workers, seconds, took):
    """A window stays or grows to at most its double, up to the most there is."""
    assert window <= grown_window(window, workers, seconds, took) <= min(2 * window, MOST_WINDOW)
