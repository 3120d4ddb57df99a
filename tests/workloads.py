"""Importable functions and classes for the tests to send to workers."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import motorpool
from motorpool.worker.signals import STUCK_SIGNAL

PATIENCE = 15.0
"""Seconds that a task waits for something before it gives up."""


def wait_until(condition):
    """Return once `condition()` is true; raise after `PATIENCE`."""
    limit = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > limit:
            msg = "the awaited thing did not happen"
            raise AssertionError(msg)
        time.sleep(0.002)


# Plain work


def square(number):
    """Return the square of `number`."""
    return number * number


def add(left, right=0, *, extra=0):
    """Return the sum of all arguments."""
    return left + right + extra


def add_length(data, number):
    """Return `number` and the length of `data` added up."""
    return len(data) + number


def thread_name(_item):
    """Return the name of the thread."""
    return threading.current_thread().name


def same(item):
    """Return `item`."""
    return item


def process_id(_item=None):
    """Return the id of the worker's process."""
    return os.getpid()


def count_arguments(*args, **kwargs):
    """Return the arguments as they came."""
    return args, kwargs


# Meeting and waiting


def meet(folder, count):
    """Return the process id once `count` workers are in this call at a time."""
    folder = Path(folder)
    (folder / f"{os.getpid()}-{threading.get_ident()}").touch()
    wait_until(lambda: len(list(folder.iterdir())) >= count)
    return os.getpid()


def wait_for(path, value=None):
    """Return `value` once the file at `path` exists."""
    wait_until(Path(path).exists)
    return value


def touch_then_wait(path, gate):
    """Make the file `path`, then wait for the file `gate`."""
    Path(path).touch()
    wait_until(Path(gate).exists)
    return path


def write_pid_then_wait(path, gate):
    """Write the process id to the file `path`, then wait for the file `gate`."""
    Path(path).write_text(str(os.getpid()))
    wait_until(Path(gate).exists)


def mark_and_sleep(path):
    """Make the file `path`, then sleep for longer than any test lasts."""
    Path(path).touch()
    time.sleep(60)


def mark_and_spin(path):
    """Make the file `path`, then keep the interpreter busy."""
    Path(path).touch()
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        pass


def mark_and_hold_the_lock(path):
    """Make the file `path`, then stay in C code that lets no other thread run."""
    Path(path).touch()
    sum(range(6 * 10**9))


def wait_or_fail(path, error):
    """Raise an `error` if one is given, else wait for the file at `path`."""
    if error is not None:
        raise error(path)
    wait_until(Path(path).exists)


def wait_if_asked(path):
    """Return `path` at once if it is None, else once the file there exists."""
    if path is not None:
        wait_until(Path(path).exists)
    return path


def wait_if_first(gate, item):
    """Return `item`; the item 0 waits for the file `gate` first."""
    if item == 0:
        wait_until(Path(gate).exists)
    return item


def note_run(path, item):
    """Append one line to the file at `path` and return `item`."""
    with Path(path).open("a") as log:
        log.write(f"{item}\n")
    return item


def square_or_wait(gate, slow, item):
    """Return the square of `item`; the `slow` ones wait for the file `gate` first."""
    if item in slow:
        wait_until(Path(gate).exists)
    return item * item


def square_pair_or_wait(gate, slow, item, factor):
    """Return `item` times `factor`; the `slow` ones wait for the file `gate` first."""
    return square_or_wait(gate, slow, item) * factor


def note_run_then_wait(path, gate, slow, item):
    """Append one line to the file at `path`, then do as `square_or_wait`."""
    note_run(path, item)
    return square_or_wait(gate, slow, item)


def note_run_and_fail(path, times, bad, item):
    """Append one line to the file at `path`; fail for the first `times` of a `bad` item."""
    note_run(path, item)
    runs = Path(path).read_text().split().count(str(item))
    if item in bad and runs <= times:
        msg = f"run {runs} of {item}"
        raise ValueError(msg)
    return item * item


def note_run_and_die(path, times, bad, item):
    """Append one line to the file at `path`; die in the first `times` of a `bad` item."""
    note_run(path, item)
    if item in bad and Path(path).read_text().split().count(str(item)) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def note_run_and_sleep(path, seconds, item):
    """Append one line to the file at `path`, and return `item` after so many seconds."""
    note_run(path, item)
    time.sleep(seconds)
    return item


class NeverLoaded:
    """An object whose unpickling does not end in time."""

    def __repr__(self):
        return "<NeverLoaded>"

    def __reduce__(self):
        return time.sleep, (60,)


def _ignore_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


STUBBORN = {
    "ignores SIGTERM": _ignore_sigterm,
    "keeps the interpreter busy": lambda: mark_and_spin(os.devnull),
    "holds the interpreter's lock": lambda: sum(range(6 * 10**9)),
    "is stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "blocks all signals": lambda: (
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()) and time.sleep(60)
    ),
}


def write_pid_and_be_stubborn(path, how):
    """Write the process id to the file `path`, then do not end."""
    Path(path).write_text(str(os.getpid()))
    STUBBORN[how]()
    time.sleep(60)


# Initializers

_shared = {}


def keep(**values):
    """Keep the values for `kept_value` and `count_up`."""
    _shared.update(values)


def keep_positional(name, value):
    """Keep one value."""
    _shared[name] = value


SEEN = []


def see(item):
    """Return all items that this worker has seen; a list that the next call changes."""
    SEEN.append(item)
    return SEEN


def lengthen(items):
    """Add to what was given, and return its length."""
    items.append(None)
    return len(items)


def kept_value(name):
    """Return what the initializer kept."""
    return _shared[name]


def count_up(_item):
    """Raise the shared counter by one."""
    with _shared["counter"].get_lock():
        _shared["counter"].value += 1


def note_and_fail(path):
    """Append a line to the file at `path`, then fail."""
    with Path(path).open("a") as log:
        log.write("started\n")
    msg = "no licence for this worker"
    raise LookupError(msg)


def note_and_exit(path):
    """Append a line to the file at `path`, then end the process."""
    with Path(path).open("a") as log:
        log.write("started\n")
    os._exit(7)


# Failing


def fail(item):
    """Raise an error that names the item."""
    msg = f"cannot do {item!r}"
    raise ValueError(msg)


def fail_with(kind, *args):
    """Raise an error of the class `kind`."""
    raise kind(*args)


def fail_on(bad, item):
    """Return the square of `item`, or fail if it is among the `bad`."""
    if item in bad:
        msg = f"bad {item}"
        raise ValueError(msg)
    return item * item


class NeedsTwo(Exception):
    """An error whose constructor wants two arguments and passes one on."""

    def __init__(self, left, right):
        super().__init__(f"{left}-{right}")
        self.left = left
        self.right = right


class NeedsKeyword(Exception):
    """An error whose constructor wants a keyword."""

    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code


class HoldsLock(Exception):
    """An error that cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class FailsToLoadError(Exception):
    """An error that pickles and then cannot be loaded."""

    def __reduce__(self):
        return refuse_to_load, (str(self),)


class OwnBaseException(BaseException):
    """An exception outside of the Exception tree."""


class EmptyError(Exception):
    """An error that is an empty container, and so false."""

    def __len__(self):
        return 0


def raise_empty_error_if(bad, item):
    """Return `item`, or for the `bad` one raise an error that is false."""
    if item == bad:
        raise EmptyError(item)
    return item


def raise_needs_two(_item):
    """Raise an error that takes two arguments."""
    raise NeedsTwo(1, 2)


def raise_needs_keyword(_item):
    """Raise an error that takes a keyword."""
    raise NeedsKeyword(code=12)


def raise_with_lock(_item):
    """Raise an error that cannot be pickled."""
    msg = "locked in"
    raise HoldsLock(msg)


def raise_fails_to_load(_item):
    """Raise an error that cannot be unpickled."""
    msg = "not to be loaded"
    raise FailsToLoadError(msg)


def raise_group(_item):
    """Raise a group of two errors, one in a group of its own."""
    deep = KeyError("deep")
    deep.__cause__ = KeyError("deepest")
    inner = ExceptionGroup("inner", [deep])  # noqa: F821 - 3.11 on
    raise ExceptionGroup("outer", [ValueError("flat"), inner])  # noqa: F821


def raise_with_note(_item):
    """Raise an error with a note of the task's own."""
    error = ValueError("noted")
    error.add_note("a note of the task")
    raise error


def raise_from_cause(_item):
    """Raise an error that has a cause."""
    try:
        {}["inner key"]
    except KeyError as error:
        msg = "outer"
        raise ValueError(msg) from error


def raise_in_context(_item):
    """Raise an error while another is being handled."""
    try:
        {}["inner key"]
    except KeyError:
        msg = "outer"
        raise ValueError(msg)  # noqa: B904 - the context is the point


def raise_cycle(_item):
    """Raise two errors, each of which is the cause of the other."""
    error, other = NeedsTwo("first", 1), NeedsTwo("second", 2)
    error.__cause__, other.__cause__ = other, error
    raise error


def raise_after_many(_item):
    """Raise an error in the handler of one that was raised in the handler of one, 30 deep."""
    error = None
    for number in range(30):
        later = NeedsTwo("try", number)
        later.__context__ = error
        error = later
    raise error


def raise_unwrapped(_item):
    """Raise the one member of a group while that is being handled."""
    member = NeedsTwo("member", 1)
    member.__cause__ = KeyError("inner key")
    try:
        raise ExceptionGroup("around", [member])  # noqa: F821
    except ExceptionGroup as group:  # noqa: F821
        raise group.exceptions[0]  # noqa: B904 - the context is the point


def leave(code):
    """Leave as scripts do."""
    sys.exit(code)


def interrupt(_item):
    """Raise what Ctrl-C raises."""
    raise KeyboardInterrupt


def raise_own_base_exception(_item):
    """Raise an exception outside of the Exception tree."""
    msg = "based"
    raise OwnBaseException(msg)


# What does not travel


def refuse_to_load(text):
    """Fail; this is called where the object is unpickled."""
    msg = f"refused to load: {text}"
    raise RuntimeError(msg)


class FailsToLoad:
    """An object that pickles and then cannot be loaded."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return f"<FailsToLoad {self.name}>"

    def __reduce__(self):
        return refuse_to_load, (self.name,)


class CountedLoads:
    """An object that is slow to load, and notes each load in a file."""

    def __init__(self, path, number):
        self.path = path
        self.number = number

    def __setstate__(self, state):
        self.__dict__.update(state)
        note_run(self.path, self.number)
        time.sleep(0.02)


class Backfires:
    """An object that becomes one that cannot be loaded when it is."""

    def __reduce__(self):
        return FailsToLoad, ("here",)


class KillsWhenLoaded:
    """An object that ends the process in which it is unpickled."""

    def __reduce__(self):
        return os._exit, (5,)


class SlowToLoad:
    """An object that takes longer to load than a worker is left alone."""

    def __init__(self, number):
        self.number = number

    def __setstate__(self, state):
        time.sleep(0.05)
        self.__dict__.update(state)


def number_of(item):
    """Return what identifies a `SlowToLoad`."""
    return item.number


class Holder:
    """An object with a part that cannot be pickled."""

    def __init__(self, name):
        self.name = name
        self.handle = threading.Lock()

    def __repr__(self):
        return f"<Holder {self.name}>"


def lock_if(bad, item):
    """Return `item`, or a lock in place of the `bad` one."""
    return threading.Lock() if item == bad else item


def unloadable_if(bad, item):
    """Return `item`, or in place of the `bad` one what cannot be unpickled."""
    return FailsToLoad(str(item)) if item == bad else item


def raise_or_unloadable(item):
    """Return `item`; the result of 1 cannot be unpickled, and 2 raises."""
    if item == 2:
        raise ValueError(item)
    return unloadable_if(1, item)


# Dying


def _segfault():
    ctypes.string_at(0)


DEATHS = {
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda: os._exit(5),
    "segfault": _segfault,
    "abort": os.abort,
}


def die(how, trace):
    """Write the process id to the file `trace`, then end the process."""
    Path(trace).write_text(str(os.getpid()))
    with contextlib.suppress(Exception):
        import faulthandler

        faulthandler.disable()
    DEATHS[how]()
    time.sleep(PATIENCE)


def map_within(function, items):
    """Map in a pool of this process's own."""
    with motorpool.Pool(1) as pool:
        return pool.map(function, items)


def kill_itself():
    """End this process as others would."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_on(how, trace, bad, item):
    """Return the square of `item`; at the `bad` one the process ends."""
    if item == bad:
        die(how, trace)
    return item * item


def die_on_pair(how, trace, bad, item, other):
    """Return the sum; at the `bad` item the process ends."""
    if item == bad:
        die(how, trace)
    return item + other


def note_run_and_die_on(path, bad, item):
    """Append a line to the file at `path`; at the `bad` item the process ends."""
    note_run(path, item)
    if item == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def fork_on(path, bad, item):
    """Append a line to the file at `path` and return `item`, at the `bad` one in a child too."""
    note_run(path, item)
    if item == bad:
        os.fork()
    return item


def signal_itself_and_die_on(path, bad, item):
    """Note the last 50 items before the `bad` one, which ends the process; at the first, signal."""
    if item >= bad - 50:
        note_run(path, item)
    if item == bad - 50:
        os.kill(os.getpid(), 0)
    if item == bad:
        signal.setitimer(signal.ITIMER_REAL, 1e-6)
        time.sleep(1)
    return item


def close_descriptors_on(bad, number, item):
    """Return `item`; at the `bad` one, close descriptors, then get a signal if it is not 0."""
    if item == bad:
        os.closerange(3, 4096)
        if number:
            os.kill(os.getpid(), number)
    return item


def die_on_multiples(divisor, item):
    """Return the square of `item`; multiples of `divisor` end the process."""
    if item % divisor == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def big_result_and_death(size, delay):
    """Return `size` bytes; the process is killed `delay` seconds from now."""

    def kill():
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    data = b"x" * size
    threading.Thread(target=kill, daemon=True).start()
    return data


# Pools within tasks


def squares_in_a_pool(count):
    """Return squares that a pool within the worker made."""
    from motorpool import Pool

    with Pool(2) as pool:
        return pool.map(square, range(count))


# Stuck in various ways


def wait_in_python(_item):
    """Sleep until killed."""
    while True:
        time.sleep(1)


def compute_in_c(_item):
    """Hold the GIL in C code, for hours."""
    return sum(range(10**13))


def read_for_ever(_item):
    """Wait for what nobody writes."""
    reading, _writing = os.pipe()
    return os.read(reading, 1)


def count_signals_until(gate):
    """Run Python code until `gate` is there; return how many `STUCK_SIGNAL` came."""
    came = []
    signal.signal(STUCK_SIGNAL, lambda *_: came.append(1))
    while not Path(gate).exists():
        pass
    return len(came)


def spin_without_signals(_item):
    """Run with all signals blocked but the real-time ones."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))
    while True:
        pass


class Waits:
    """A function that waits for a file at one item, and returns the item."""

    def __init__(self, gate, at):
        self.gate = gate
        self.at = at

    def __call__(self, item):
        gate = self.gate
        if item == self.at:
            wait_for(gate)
        return item


def sleep_and_read(_item):
    """Return whether a sleep was long enough and a slow read complete."""
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (time.sleep(0.1), os.write(writing, b"done")))
    writer.start()
    begun = time.monotonic()
    time.sleep(0.2)
    slept = time.monotonic() - begun >= 0.2
    whole = os.read(reading, 4) == b"done"
    writer.join()
    os.close(reading)
    os.close(writing)
    return slept and whole


def close_stack_file(gate):
    """Close the file that stacks are written to, and wait."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "motorpool-stack" in str(entry.readlink()):
                os.close(int(entry.name))
    wait_for(gate)


def stacks_of_an_inner_pool():
    """Return the stacks of a pool made here, as text, once its worker is at work."""
    import motorpool

    with motorpool.Pool(1) as pool:
        result = pool.apply_async(wait_in_python, (0,))
        wait_until(lambda: "wait_in_python" in str(pool.stacks()))
        text = str(pool.stacks())
        pool.terminate()
        del result
    return text


# What a call costs: functions called, of Python's and of C


class CallCounter:
    """Counts the functions that one thread calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, _frame, event, _argument):
        if event in {"call", "c_call"}:
            self.calls += 1

    def of(self, action):
        """Return how many functions `action()` calls, itself included."""
        before = self.calls
        sys.setprofile(self)
        try:
            action()
        finally:
            sys.setprofile(None)
        return self.calls - before


_COUNTER = CallCounter()


def begin_counting():
    """Count from now on what this worker calls."""
    sys.setprofile(_COUNTER)


def end_counting():
    """Stop, and return how many it called since then."""
    sys.setprofile(None)
    calls, _COUNTER.calls = _COUNTER.calls, 0
    return calls


# Using memory and threads

LEAKED = []


def grow(megabytes):
    """Use so much memory, bit by bit, and return how much."""
    return len([b"x" * 10**6 for _ in range(megabytes)])


def grow_in_c(megabytes):
    """Do the same in one call of C code that never lets go of the GIL."""
    if megabytes >= 100:
        list(iter(int, 1))  # has no end
    return len(bytes(megabytes * 10**6)) // 10**6


def leak(item, megabytes=30):
    """Leave memory behind; return the item and the process id."""
    LEAKED.extend(bytes([item]) * 10**6 for _ in range(megabytes))
    time.sleep(0.1)  # A worker does not look at its memory after each of many short tasks.
    return item, os.getpid()


class Swells:
    """An item that is small on the way and large when it is loaded."""

    def __init__(self, megabytes):
        self.megabytes = megabytes

    def __reduce__(self):
        return grow, (self.megabytes,)


def grow_in_group(group, megabytes):
    """Join a cgroup, and use so much memory."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    return grow(megabytes)


def multiply_matrices(size):
    """Have a library for numbers do something."""
    import numpy as np

    return float((np.ones((size, size)) @ np.ones((size, size)))[0, 0])


def blas_threads():
    """Return the number of threads that numpy's OpenBLAS uses, by its own account."""
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    maps = Path("/proc/self/maps").read_text().splitlines()
    (file,) = {line.split()[-1] for line in maps if "openblas" in line}
    library = ctypes.CDLL(file)
    for prefix in ("scipy_", ""):
        for suffix in ("64_", ""):
            with contextlib.suppress(AttributeError):
                return getattr(library, f"{prefix}openblas_get_num_threads{suffix}")()
    msg = "no OpenBLAS in numpy"
    raise AssertionError(msg)


def nap(seconds):
    """Sleep, and return for how long."""
    time.sleep(seconds)
    return seconds


def company(folder, item):
    """Return how many tasks are in this call at some time while this one is."""
    here = Path(folder) / f"here-{item}"
    here.touch()
    most = 0
    for _ in range(20):
        most = max(most, len(list(Path(folder).iterdir())))
        time.sleep(0.005)
    here.unlink()
    return most


def append_line(path, item):
    """Add a line with `item` to a file."""
    with Path(path).open("a") as file:
        file.write(f"{item}\n")
