"""What the tests of CPython need around them."""

import pathlib
import sys

import pytest

# CPython's tests send bound methods of their own classes, which a worker has to
# find by module and name; workers get the parent's `sys.path`.
sys.path.insert(0, str(pathlib.Path(__file__).parent))


@pytest.fixture(autouse=True)
def leak_guard():
    """Leave the search for what is left to `UnderMotorpool`, as CPython does it.

    A single one of these tests may leave a fork server or a manager's process;
    what counts is that the pools of a class are gone with it.
    """
