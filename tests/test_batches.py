"""Calls that travel together stay separate; results do not wait for what runs after them."""

import re
import threading

import pytest

import motorpool
import workloads
from conftest import DEADLINE

CALLS = 3000
WARM = 3000


def test_many_calls_at_once_give_each_its_own_result(pool):
    """Asked for one by one, they come back to those who asked."""
    results = [pool.apply_async(workloads.square, (n,)) for n in range(CALLS)]

    assert [result.get(DEADLINE) for result in results] == [n * n for n in range(CALLS)]
    assert all(result.successful() for result in results)


def test_many_calls_at_once_keep_their_callbacks_and_errors(pool):
    """A call that fails fails alone, and each callback is called once."""
    values, errors = [], []
    results = [
        pool.apply_async(divmod, (n, n % 3), callback=values.append, error_callback=errors.append)
        for n in range(CALLS)
    ]
    for result in results:
        result.wait(DEADLINE)

    assert sorted(values) == sorted(divmod(n, n % 3) for n in range(CALLS) if n % 3)
    assert len(errors) == CALLS // 3
    assert {type(error) for error in errors} == {ZeroDivisionError}
    for n, result in enumerate(results):
        assert result.successful() == bool(n % 3)


def test_error_of_a_call_tells_of_no_position_among_others(pool):
    """Which calls travelled together is nobody's business: each has but one item."""
    results = [pool.apply_async(divmod, (1, n % 2)) for n in range(CALLS)]

    for result in results[::2]:
        with pytest.raises(ZeroDivisionError) as caught:
            result.get(DEADLINE)
        told = [*getattr(caught.value, "__notes__", ()), str(caught.value.__cause__)]
        assert not any(re.search("item [1-9]", text) for text in told), told


def test_calls_of_several_functions_mix_with_maps(pool):
    """Whatever is asked for in between comes between."""
    results = []
    for n in range(300):
        results.append((pool.apply_async(workloads.square, (n,)), n * n))
        if n % 50 == 0:
            results.append((pool.apply_async(abs, (-n,)), n))
            results.append((pool.map_async(abs, [n, -n]), [n, n]))
            assert pool.apply(abs, (-n,)) == n

    assert [result.get(DEADLINE) for result, _ in results] == [value for _, value in results]


class Adder:
    """A callable whose state the caller changes between two calls."""

    def __init__(self):
        self.term = 0

    def __call__(self, number):
        return number + self.term


def test_each_call_sees_the_callable_as_it_was(process_pool):
    """A callable object is sent as it is at the call, not as it was at the first."""
    adder = Adder()
    results = []
    for term in range(50):
        adder.term = term
        results.append(process_pool.apply_async(adder, (100,)))

    assert [result.get(DEADLINE) for result in results] == [100 + term for term in range(50)]


def test_argument_that_cannot_be_sent_fails_its_own_call(process_pool):
    """The calls that would have travelled with it succeed."""
    results = [
        process_pool.apply_async(workloads.same, (n if n != 500 else threading.Lock(),))
        for n in range(1000)
    ]

    for n, result in enumerate(results):
        if n == 500:
            with pytest.raises(motorpool.NotPicklableError):
                result.get(DEADLINE)
        else:
            assert result.get(DEADLINE) == n


def test_worker_that_dies_takes_one_call_along(process_pool, tmp_path):
    """The calls before and after the fatal one have their results."""
    trace = str(tmp_path / "trace")
    results = [
        process_pool.apply_async(workloads.die_on, ("sigkill", trace, 700, n)) for n in range(1000)
    ]

    for n, result in enumerate(results):
        if n == 700:
            with pytest.raises(motorpool.WorkerLostError) as caught:
                result.get(DEADLINE)
            assert caught.value.index == 0
        else:
            assert result.get(DEADLINE) == n * n


@pytest.mark.parametrize("method", ["apply_async", "imap", "imap_unordered"])
def test_results_do_not_wait_for_a_long_item_after_them(make_pool, tmp_path, method):
    """What a worker has done comes out while it runs a long item of the same chunk."""
    pool = make_pool(1)
    gate = tmp_path / "gate"
    pool.map(workloads.wait_if_asked, [None] * WARM)  # now many of them go into a chunk
    items = [None] * 20 + [str(gate)] + [None] * 20
    if method == "apply_async":
        results = [pool.apply_async(workloads.wait_if_asked, (item,)) for item in items]
        early = [result.get(DEADLINE) for result in results[:20]]
        gate.touch()
        late = [result.get(DEADLINE) for result in results[20:]]
    else:
        iterator = getattr(pool, method)(workloads.wait_if_asked, items)
        early = [iterator.next(DEADLINE) for _ in range(20)]
        gate.touch()
        late = list(iterator)

    assert early == [None] * 20
    assert len(late) == 21
    assert str(gate) in late


def test_calls_that_nobody_waits_for_do_not_hold_up_the_end(make_process_pool, tmp_path):
    """Of calls that travel together, those whose `get` timed out are cancelled at the end."""
    gate = str(tmp_path / "gate")
    with make_process_pool(2) as pool:
        never = [pool.apply_async(workloads.wait_if_asked, (gate,)) for _ in range(4)]
        for result in never:
            with pytest.raises(motorpool.TimeoutError):
                result.get(0.05)

    with pytest.raises(motorpool.MotorpoolError):
        never[-1].get(0)
