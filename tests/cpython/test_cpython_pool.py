"""CPython's own tests of Pool, from the running interpreter, pass on motorpool."""

import pytest

pytest.importorskip(
    "test._test_multiprocessing", reason="this interpreter ships without the tests of CPython"
)

import pool_cases
from under_motorpool import EXCLUDED, STAND_INS

# What `make quick` runs of them, on every interpreter.
QUICK = {"Pool_fork", "Pool_threads", "PoolWorkerErrors_fork", "PoolWorkerErrors_spawn"}

for case in pool_cases.CASES:
    globals()[case.__name__] = pytest.mark.quick(case) if case.__name__ in QUICK else case
del case


@pytest.mark.quick
@pytest.mark.parametrize("test", EXCLUDED)
def test_excluded_test_exists(test):
    """What is left out is still a test of this interpreter."""
    base, name = test.split(".")
    # A class of CPython's, or one that was made of it here.
    found = getattr(pool_cases.suite, base, None) or globals()[base]

    assert callable(getattr(found, name))


@pytest.mark.quick
@pytest.mark.parametrize("name", STAND_INS)
def test_replaced_function_exists(name):
    """What is replaced is still a function of this interpreter's tests."""
    assert callable(getattr(pool_cases.suite, name))
