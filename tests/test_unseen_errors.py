"""Errors of calls whose result nobody asks for: logged, with their traceback."""

import gc
import logging

import pytest

import workloads
from conftest import DEADLINE, eventually

TEXT = "a very particular failure"


@pytest.fixture
def told(caplog):
    """Give a function that returns the records of errors that nobody asked for."""
    caplog.set_level(logging.ERROR, "motorpool")

    def records():
        gc.collect()
        return [record for record in caplog.records if "nobody asked" in record.message]

    return records


@pytest.mark.quick
@pytest.mark.parametrize("method", ["apply_async", "map_async", "starmap_async"])
def test_error_of_a_dropped_result_is_logged(pool, told, caplog, method):
    """Fire and forget: the log has the error, its traceback in the worker, and the item."""
    arguments = (ValueError, TEXT)
    items = {"apply_async": arguments, "map_async": [TEXT], "starmap_async": [arguments]}
    function = workloads.fail if method == "map_async" else workloads.fail_with
    getattr(pool, method)(function, items[method])

    assert eventually(told)
    (record,) = told()
    assert record.name == "motorpool"
    assert record.levelno == logging.ERROR
    assert "item 0" in record.message
    assert TEXT in str(record.exc_info[1])
    assert "in fail" in caplog.text


def test_error_of_a_kept_result_is_logged_when_it_is_collected(pool, told):
    """As long as somebody may still ask, nothing is said; `wait` and `ready` do not ask."""
    result = pool.apply_async(workloads.fail_with, (ValueError, TEXT))
    result.wait(DEADLINE)
    assert result.ready()
    assert not told()
    del result

    assert len(told()) == 1


@pytest.mark.parametrize("ask", ["get", "successful", "error_callback"])
def test_error_that_somebody_saw_is_not_logged(pool, told, ask):
    """Who was told once is not told again."""
    seen = []
    options = {"error_callback": seen.append} if ask == "error_callback" else {}
    result = pool.apply_async(workloads.fail_with, (ValueError, TEXT), **options)
    result.wait(DEADLINE)
    if ask == "get":
        with pytest.raises(ValueError):
            result.get()
    elif ask == "successful":
        assert not result.successful()
    else:
        assert len(seen) == 1
    del result

    assert not told()


def test_blocking_calls_log_nothing(pool, told):
    """What is raised in the caller is seen."""
    for call in (lambda: pool.map(workloads.fail, [1]), lambda: pool.apply(workloads.fail, (1,))):
        with pytest.raises(Exception, match="1"):
            call()

    assert not told()


def test_results_lost_by_terminate_log_nothing(make_pool, told, tmp_path):
    """What we cancelled is not an error of the program's."""
    pool = make_pool()
    results = [pool.apply_async(workloads.wait_for, (str(tmp_path / "gate"),)) for _ in range(4)]
    (tmp_path / "gate").touch()
    pool.terminate()
    del results

    assert not told()


def test_lost_worker_of_a_dropped_result_is_logged(process_pool, told, tmp_path):
    """A crash is an error like any other."""
    process_pool.apply_async(workloads.die, ("sigkill", str(tmp_path / "trace")))

    assert eventually(told)
    assert "SIGKILL" in str(told()[0].exc_info[1])


def test_error_unseen_at_exit_is_told_then(start_script, engine):
    """A program that keeps a result for ever, and never asks, hears of it at its end."""
    script = start_script(
        f"""
pool = open_pool()
result = pool.apply_async(workloads.fail_with, (ValueError, {TEXT!r}))
result.wait()
pool.terminate()
""",
        engine,
    )
    ended = script.finish()

    assert ended.returncode == 0
    assert ended.stderr.count("nobody asked") == 1
    assert TEXT in ended.stderr


def test_forked_child_tells_nothing(pool, told, start_script):
    """A child that was forked while a result waited to be asked for leaves it to the parent."""
    script = start_script(
        """
pool = open_pool()
result = pool.apply_async(workloads.fail_with, (ValueError, "x"))
result.wait()
pid = os.fork()
if not pid:
    del result, pool
    import gc; gc.collect()
    sys.exit(0)
os.waitpid(pid, 0)
try:
    result.get()
except ValueError:
    pass
pool.terminate()
""",
        "fork",
    )
    ended = script.finish()

    assert ended.returncode == 0
    assert "nobody asked" not in ended.stderr
