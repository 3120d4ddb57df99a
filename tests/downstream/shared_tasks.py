"""Tasks and initializers that use what `multiprocessing` shares."""

import multiprocessing
import os

TIMEOUT = 15.0
"""Seconds that a worker waits for another before it gives up."""

shared = None


def keep(thing):
    """Make `thing` the one that the tasks of this worker use."""
    global shared  # noqa: PLW0603 - it is how initializers hand things to tasks
    shared = thing


def count_under_lock(path):
    """Read a number, add one and write it back, holding the shared lock."""
    with shared, path.open("r+") as file:
        number = int(file.read())
        file.seek(0)
        file.write(f"{number + 1}\n")


def count_under_lock_taken_twice(path):
    """Do the same holding the lock twice, which needs one for re-entry."""
    with shared:
        count_under_lock(path)


def try_to_acquire(_item):
    """Return whether the shared semaphore had one left."""
    return shared.acquire(block=False)


def wait_for_event(_item):
    """Return whether the shared event was set in time."""
    return shared.wait(TIMEOUT)


def put(item):
    """Put the item and this worker's id in the shared queue."""
    shared.put((item, os.getpid()))


def send(item):
    """Send the item through the shared connection."""
    shared.send(item)


def add_to_value(number):
    """Add a number to the shared value, holding its lock."""
    with shared.get_lock():
        shared.value += number


def set_in_array(index):
    """Write to the shared array at `index`."""
    shared[index] = index * index


def meet(_item):
    """Return this worker's place at the shared barrier."""
    return shared.wait(TIMEOUT)


def notify(_item):
    """Wake whoever waits for the shared condition."""
    with shared:
        shared.notify_all()


def store(item):
    """Store the item in the shared dictionary of a manager."""
    shared[item] = item * item


def append(item):
    """Append the item to the shared list of a manager."""
    shared.append(item)


def identity(_item):
    """Return what a worker sees of itself and of its parent."""
    return (
        os.getpid(),
        os.getppid(),
        multiprocessing.current_process().pid,
        multiprocessing.current_process().name,
        multiprocessing.parent_process().pid,
        [child.pid for child in multiprocessing.active_children()],
    )


def start_method(_item):
    """Return the default start method in a worker."""
    return multiprocessing.get_start_method()


def exit_when_told(told, code):
    """Wait for the event and end the process with `code`."""
    told.wait(TIMEOUT)
    os._exit(code)


def run_child(code):
    """Return how many children this task sees while it has one, and its exit code."""
    told = multiprocessing.Event()
    child = multiprocessing.Process(target=exit_when_told, args=(told, code))
    child.start()
    living = len(multiprocessing.active_children())
    told.set()
    child.join()
    return living, child.exitcode


def square(number):
    """Return the square of a number."""
    return number * number


def squares_in_pool(numbers):
    """Return the squares of some numbers, from a pool that this task makes."""
    import motorpool

    with motorpool.Pool(2) as pool:
        return pool.map(square, numbers)
