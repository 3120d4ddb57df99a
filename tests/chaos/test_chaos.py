"""A short storm in every test run; `make soak` is the long one."""

import random
import sys

import pytest

import motorpool

from .account import faults
from .storm import HARMLESS, Storm


@pytest.mark.slow
def test_account_balances_under_random_faults(make_process_pool, start_method, tmp_path):
    """Each item arrives or fails once, and ran once at the most; each callback is called once."""
    pool = make_process_pool(2, maxtasksperchild=random.Random(start_method).choice((None, 500)))

    balance = Storm(seconds=5 / 3, seed=1).rage(pool, tmp_path / "log")

    assert faults(balance) == {}, balance
    assert balance["kills"] > 0
    assert balance["delivered"] > 0


@pytest.mark.slow
def test_account_balances_on_threads(leak_guard, tmp_path):
    """The same for threads, which nobody can kill, with switches at awkward moments."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with motorpool.ThreadPool(2) as pool:
            storm = Storm(seconds=5 / 3, seed=1, errors=HARMLESS)
            balance = storm.rage(pool, tmp_path / "log")
    finally:
        sys.setswitchinterval(interval)

    assert faults(balance) == {}, balance
    assert balance["delivered"] > 0
