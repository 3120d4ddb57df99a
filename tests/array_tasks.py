"""Tasks that take, change, keep and give large arrays."""

import os
import pickle
import signal
import sys
from pathlib import Path

import numpy as np

import workloads

KEPT = []


def total(array):
    """Return the sum."""
    return float(array.sum())


def first(array):
    """Return the first element."""
    return float(array[0])


def writable(array):
    """Return whether the array may be written to, and the array, read-only."""
    found = bool(array.flags.writeable)
    array.flags.writeable = False
    return found, array


def fill(number, size=100_000):
    """Return a large array of `number`."""
    return np.full(size, float(number))


def overwrite(array):
    """Write into the array in place, and return what was in it."""
    before = float(array[0])
    array[:] = -1.0
    return before


def keep(array):
    """Keep the array in a global, and return the process id."""
    KEPT.append(array)
    return os.getpid()


def kept_sums(_item=None):
    """Return the sums of what this worker keeps."""
    return os.getpid(), [float(array.sum()) for array in KEPT]


def drop_kept(_item=None):
    """Let go of what was kept."""
    KEPT.clear()


def add_first(constant, number):
    """Return a sum with an element of a bound constant."""
    return float(constant[0]) + number


def scribble(constant, number):
    """Write into a bound constant, and return what was there."""
    found = float(constant[number])
    constant[number] = -7.0
    return found


def keep_and_die(array):
    """Keep a view of the array, and end the process."""
    KEPT.append(array)
    os.kill(os.getpid(), signal.SIGKILL)


class KillerOnPickle:
    """Ends the worker while it is being pickled as part of a result."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def result_that_kills(_item=None):
    """Return arrays and, after them, something that ends the process when it is pickled."""
    return [fill(1), KillerOnPickle()]


def is_imported(name):
    """Return whether the worker has imported a module."""
    return name in sys.modules


def keep_in_child(array, ready, gate):
    """Fork a child that holds the array until `gate` exists; it then writes what it sees."""
    if os.fork() == 0:
        try:
            Path(ready).touch()
            workloads.wait_until(Path(gate).exists)
            Path(gate + ".sum").write_text(repr(float(array.sum())))
        finally:
            os._exit(0)
    workloads.wait_until(Path(ready).exists)
    return os.getpid()


def write_after_fork(array, ready, gate):
    """Fork a child, write into the array, and return what the child then sees."""
    array[:] = 1.0
    child = os.fork()
    if child == 0:
        try:
            workloads.wait_until(Path(ready).exists)
            array[:10] = 5.0
            Path(gate).write_text(repr(float(array.sum())))
        finally:
            os._exit(0)
    array[:] = 2.0
    Path(ready).touch()
    os.waitpid(child, 0)
    return Path(gate).read_text(), float(array.sum())


class Frame:
    """A class of the user's with arrays inside."""

    def __init__(self, columns):
        self.columns = columns

    def __eq__(self, other):
        return self.columns.keys() == other.columns.keys() and all(
            np.array_equal(self.columns[name], other.columns[name]) for name in self.columns
        )

    __hash__ = None


class Raw:
    """Pickles a buffer as such."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return _raw, (pickle.PickleBuffer(self.data),)


def _raw(data):
    return Raw(data)


def raw_bytes(raw):
    """Return the kind of buffer that arrived, and its contents."""
    return type(raw.data).__name__, bytes(raw.data)
