"""What a script has in its globals and classes, in workers that have never seen the script."""

import sys

import pytest

EVERYWHERE = ("fork", "spawn", "forkserver", "executor")

# The executor's processes are spawned, and are not ours.
PREAMBLE = """
def start_pool(processes=2, **options):
    if ENGINE != "executor":
        return open_pool(processes, **options)
    context = multiprocessing.get_context("spawn")
    from concurrent.futures import ProcessPoolExecutor
    return motorpool.Pool(engine=ProcessPoolExecutor(processes, context), **options)
"""


@pytest.fixture(params=EVERYWHERE)
def lines(start_script, request):
    """Give a function that runs a script everywhere and returns what it printed."""

    def run(source):
        guarded = "".join(f"    {line}\n" for line in source.splitlines())
        # A spawned process of an executor imports the script.
        script = start_script(f"{PREAMBLE}\nif __name__ == '__main__':\n{guarded}", request.param)
        finished = script.finish()
        assert finished.stderr == ""
        return finished.stdout.splitlines()

    return run


def test_single_dispatch_crosses(lines):
    """A function that chooses by type has its implementations there, its methods included."""
    printed = lines(
        """
import functools
class Shape:
    def __init__(self, size):
        self.size = size
class Square(Shape):
    pass
def plus_one(number):
    return number + 1
@functools.singledispatch
def area(thing):
    "The area."
    return "none"
@area.register
def _(number: int):
    return plus_one(number)
@area.register
def _(shape: Shape):
    return shape.size
@area.register(list)
def area_of_all(shapes):
    return [area(shape) for shape in shapes]
class Report:
    @functools.singledispatchmethod
    def on(self, thing):
        return "?"
    @on.register
    def _(self, number: int):
        return f"number {number}"
def both(thing):
    return area(thing), Report().on(thing), area.__name__, area.__doc__
things = [1, Square(4), "a", [Shape(2), 7]]
with start_pool() as pool:
    print(pool.map(area, things))
    print(pool.map(both, things[:2]))
    print(pool.map(Report().on, things[:2]))
"""
    )

    assert printed == [
        "[2, 4, 'none', [2, 8]]",
        "[(2, 'number 1', 'area', 'The area.'), (4, '?', 'area', 'The area.')]",
        "['number 1', '?']",
    ]


def test_parts_of_classes_cross(lines):
    """Cached properties, new types, compiled structures and weak registries need no thought."""
    printed = lines(
        """
import functools, struct, typing, weakref
Metres = typing.NewType("Metres", int)
LAYOUT = struct.Struct("<q")
class Missing:
    def __reduce__(self):
        return "MISSING"
MISSING = Missing()
class Track:
    known = weakref.WeakValueDictionary()
    names = weakref.WeakKeyDictionary()
    def __init__(self, laps):
        self.laps = laps
        Track.known[laps] = self
    @functools.cached_property
    def length(self) -> Metres:
        return Metres(self.laps * 400)
def measure(track, default=MISSING):
    return track.length, LAYOUT.pack(track.laps)[0], default is MISSING, track in Track.names
def is_missing(thing):
    return thing is MISSING
Kind = typing.TypeVar("Kind")
class Box(typing.Generic[Kind]):
    def __init__(self, content: Kind):
        self.content = content
class Speaks(typing.Protocol):
    def speak(self): ...
class Dog(Speaks):
    def speak(self):
        return "woof"
with start_pool() as pool:
    print(pool.map(lambda box: (type(box) is Box, Dog().speak()), [Box(1), Box[int](2)]))
    print(pool.map(measure, [Track(1), Track(2)]))
    print(pool.map(is_missing, [MISSING, 1]), pool.apply(lambda: MISSING) is MISSING)
"""
    )

    assert printed == [
        "[(True, 'woof'), (True, 'woof')]",
        "[(400, 1, True, False), (800, 2, True, False)]",
        "[True, False] True",
    ]


def test_subclasses_register_once(lines):
    """What a base noted of its subclasses is sent with it; those made later are noted there."""
    printed = lines(
        """
class Base:
    seen = []
    def __init_subclass__(cls):
        Base.seen.append(cls.__name__)
class First(Base):
    pass
def of_base(_):
    return Base.seen
def of_first(_):
    return First.__name__, Base.seen
with start_pool() as pool:
    print(pool.map(of_base, range(2), chunksize=1))
    print(pool.map(of_first, range(2), chunksize=1))
    class Second(Base):
        pass
    def of_second(_):
        return Second.__name__, Base.seen
    print(pool.map(of_second, range(2), chunksize=1))
"""
    )

    assert printed == [
        "[['First'], ['First']]",
        "[('First', ['First']), ('First', ['First'])]",
        "[('Second', ['First', 'Second']), ('Second', ['First', 'Second'])]",
    ]


def test_what_an_initializer_prepared_is_one_object(lines):
    """Classes and defaults that share it with a global name share it in a worker, too."""
    printed = lines(
        """
class Database:
    state = "closed"
    def open(self):
        self.state = "open"
database, TABLE = Database(), {}
class Store:
    database = database
def prepare():
    database.open()
    TABLE["rows"] = 3
def work(_, table=TABLE):
    return Store.database.state, Store.database is database, table["rows"]
with start_pool(initializer=prepare) as pool:
    print(pool.map(work, range(2), chunksize=1))
    def work(_, table=TABLE):
        return table
    print(pool.map(work, range(2)))
    database = Database()
    class Store:
        database = database
    print(pool.map(lambda _: Store.database.state, range(2)))
"""
    )

    assert printed == [
        "[('open', True, 3), ('open', True, 3)]",
        "[{'rows': 3}, {'rows': 3}]",
        "['closed', 'closed']",
    ]


def test_names_that_code_looks_up_as_it_runs_are_there(lines):
    """By `globals()`, `eval`, annotations that are strings, and as subclasses."""
    printed = lines(
        """
import threading, typing
FACTOR = 2
LOCK = threading.Lock()
def double(number):
    return number * FACTOR
def locked():
    with LOCK:
        return 1
def call(number):
    return globals()["dou" + "ble"](number), eval("double(number) + 1")
class Leaf:
    pass
class Tree:
    leaf: "Leaf"
    trees: typing.List["Other"]
class Other:
    pass
def hints(_):
    return [kind.__name__ for kind in typing.get_type_hints(Tree).values() if kind is Leaf]
class Base:
    pass
class First(Base):
    pass
class Second(Base):
    pass
def kinds(_):
    return [kind.__name__ for kind in Base.__subclasses__()]
with start_pool() as pool:
    print(pool.map(call, [1, 2]))
    print(pool.map(hints, [1]), pool.map(kinds, [1]))
    try:
        pool.map(locked, [1])
    except motorpool.NotPicklableError:
        print("refused")
    except TypeError:
        print("refused" if ENGINE == "fork" else "lost")
"""
    )

    assert printed == ["[(2, 3), (4, 5)]", "[['Leaf']] [['First', 'Second']]", "refused"]


def test_what_cannot_be_looked_up_costs_nobody_else(start_script, start_method):
    """What was sent in case it is looked up is sent again, alone, when it is needed."""
    finished = start_script(
        """
class Meta(type):
    def __setattr__(cls, name, value):
        if os.getpid() != HOME:
            raise ValueError("not here")
HOME = os.getpid()
class Broken(metaclass=Meta):
    value = 1
def look_up(name):
    return globals()[name](3)
class Later:
    value = 2
with open_pool(1) as pool:
    pool.map(look_up, ["Later"], on_error="skip")
    print(pool.map(lambda _: Later.value, [1]))
""",
        start_method,
    ).finish()

    assert finished.stderr == ""
    assert finished.stdout == "[2]\n"


def test_main_can_be_imported_in_a_task(start_script, start_method):
    """A task finds in `__main__` what the script defines."""
    finished = start_script(
        """
def double(number):
    return number * 2
def imported(number):
    from __main__ import double
    return double(number)
def named(number):
    return getattr(sys.modules["__main__"], "double")(number)
def timed(number):
    import timeit
    return timeit.timeit("double(1)", "from __main__ import double", number=1) > 0
with open_pool() as pool:
    print(pool.map(imported, [1]), pool.map(named, [2]), pool.map(timed, [3]))
""",
        start_method,
    ).finish()

    assert finished.stderr == ""
    assert finished.stdout == "[2] [4] [True]\n"


def test_object_of_several_names_is_one_in_a_worker(lines):
    """Whatever goes there first, a class, a default and a table refer to the worker's own."""
    printed = lines(
        """
TABLE = {}
NAMES = (TABLE,)
class Store:
    table = TABLE
def by_name(item):
    TABLE[item] = 1
    return len(TABLE)
def by_class(item):
    Store.table[item] = 1
    return len(Store.table), Store.table is TABLE
def by_default(item, table=TABLE):
    table[item] = 1
    return len(table), NAMES[0] is table
with start_pool(1) as pool:
    print(pool.map(by_name, "a"), pool.map(by_class, "b"), pool.map(by_default, "c"))
    TABLE["here"] = 1
    def by_default(item, table=TABLE):
        return sorted(table)
    print(pool.map(by_default, "d"))
"""
    )

    assert printed == ["[1] [(2, True)] [(3, True)]", "[['here']]"]


def test_object_that_came_within_another_is_found_by_its_name(lines):
    """Tables, lists and functions under two names are one, whichever call brought them."""
    printed = lines(
        """
import functools
def decorate(function):
    def call(_):
        call.calls += 1
        return function()
    call.calls = 0
    return call
@decorate
def first():
    return "first"
def second():
    return "second"
second.calls = 0
@functools.singledispatch
def kind(thing):
    return "any"
kind.calls = 0
ROWS = [1]
BOX = {"rows": ROWS, "first": first, "second": second}
alias = second
class Node:
    pass
left, right = Node(), Node()
left.other, right.other = right, left
NODES = [left, right]
NODES.append(NODES)
def by_box(_):
    return sorted(BOX)
def by_name(_):
    ROWS.append(2)
    left.seen = True
    return second() + alias(), right.other is left
def by_both(_):
    second.calls += 1
    kind.calls += 1
    return BOX["rows"] is ROWS, len(ROWS), BOX["first"] is first, BOX["second"] is second is alias
def by_nodes(_):
    return NODES[0].seen, NODES[1].other is NODES[0], NODES[2] is NODES, alias.calls + kind.calls
def by_default(rows=ROWS):
    return rows is ROWS
def looked_up(_):
    return eval("by_default")()
LAST = 0
def count(_):
    global LAST
    LAST += 1
with start_pool(1) as pool:
    print(pool.map(by_box, [0]), pool.map(by_name, [0]))
    print(pool.map(by_both, [0]), pool.map(by_nodes, [0]), pool.map(looked_up, [0]))
    pool.map(count, [0])
    LAST = 5
    def count_more(_, rows=ROWS):
        count(_)
        return LAST, rows is ROWS or ENGINE == "fork"  # where it is a copy
    print(pool.map(count_more, [0]))
"""
    )

    assert printed == [
        "[['first', 'rows', 'second']] [('secondsecond', True)]",
        "[(True, 2, True, True)] [(True, True, True, 2)] [True]",
        "[(2, True)]",
    ]


def test_class_stays_what_a_worker_has_made_of_it(lines):
    """An initializer may keep something in a class, and tasks may count there."""
    printed = lines(
        """
import enum
class Model:
    weights = None
    class Layer:
        calls = 0
class Colour(enum.Enum):
    RED = 1
def make_class():
    class Made:
        state = "empty"
    return Made
Ready = make_class()
def prepare():
    Model.weights = [1, 2, 3]
    Ready.state = "full"
    Colour.default = Colour.RED
def work(_):
    Model.Layer.calls += 1
    return Model.weights, Model.Layer.calls
def read_ready(_):
    return Ready.state
def work_more(_):
    Model.Layer.calls += 1
    return Model.weights, Model.Layer.calls, Colour.default is Colour.RED
with start_pool(1, initializer=prepare) as pool:
    print(pool.map(work, [0]), pool.map(work_more, [0]))
    print(pool.map(lambda layer: layer.__class__.__qualname__, [Model.Layer()]))
    print(pool.map(read_ready, [0]))
    class Model(Model):
        weights = "new"
    print(pool.map(work, [0]))
"""
    )

    assert printed == [
        "[([1, 2, 3], 1)] [([1, 2, 3], 2, True)]",
        "['Model.Layer']",
        "['full']",
        "[('new', 1)]",
    ]


def test_default_is_the_scripts_own_where_a_task_bound_the_name_anew(lines):
    """It does not matter whether what binds the name is reached by name or through a table."""
    printed = lines(
        """
LIMITS = [1]
def replace():
    global LIMITS
    LIMITS = [2]
STEPS = {"replace": replace}
def run(_):
    STEPS["replace"]()
    return LIMITS[0]
def read(_, limits=LIMITS):
    return limits[0]
with start_pool(1) as pool:
    print(pool.map(run, [0]), pool.map(read, [0]))
"""
    )

    assert printed == ["[2] [1]"]


def test_connection_in_globals_reaches_each_worker(start_script, start_method):
    """What can be handed over once only is handed over to one worker after the other."""
    script = start_script(
        """
del os.environ["TMPDIR"]  # whose path is too long for a socket
def send(item):
    SINK.send(item)
    return item
with open_pool(1, maxtasksperchild=1) as pool:
    SOURCE, SINK = multiprocessing.Pipe(duplex=False)
    print(pool.map(send, range(3), chunksize=1), [SOURCE.recv() for _ in range(3)])
""",
        start_method,
    )
    finished = script.finish()

    assert finished.stderr == ""
    assert finished.stdout == "[0, 1, 2] [0, 1, 2]\n"


def test_other_modules_are_set_up_by_the_initializer(start_script, start_method):
    """The script is not run again where workers are not forked."""
    finished = start_script(
        """
import logging
log = logging.getLogger("app")
log.setLevel("INFO")
def set_up():
    log.setLevel("ERROR")
def level(_):
    return logging.getLevelName(log.level)
for options in ({}, {"initializer": set_up}):
    with open_pool(1, **options) as pool:
        print(pool.map(level, [0]))
""",
        start_method,
    ).finish()

    untouched = "INFO" if start_method == "fork" else "NOTSET"
    assert finished.stdout.splitlines() == [f"['{untouched}']", "['ERROR']"]


def test_lambdas_in_globals_find_what_they_need(lines):
    """A function that is reached by way of a table has its own globals there."""
    printed = lines(
        """
def add_offset(number):
    return number + OFFSET
OFFSET = 100
HANDLERS = {"add": lambda number: add_offset(number)}
def work(number):
    return HANDLERS["add"](number)
with start_pool() as pool:
    print(pool.map(work, range(3)))
"""
    )

    assert printed == ["[100, 101, 102]"]


def test_decorators_of_wrapt_are_kept(lines):
    """What they make of functions and methods cannot be pickled by itself."""
    printed = lines(
        """
import wrapt
OFFSET = 10
def add_offset(number):
    return number + OFFSET
@wrapt.decorator
def marked(wrapped, instance, args, kwargs):
    return "marked", wrapped(*args, **kwargs)
@marked
def shift(number):
    return add_offset(number)
class Shifter:
    @marked
    def shift(self, number):
        return add_offset(number)
def each(number):
    return shift(number), Shifter().shift(number)
with start_pool() as pool:
    print(pool.map(each, [1]))
    print(pool.map(shift, [1]), pool.map(Shifter().shift, [2]))
"""
    )

    assert printed == [
        "[(('marked', 11), ('marked', 11))]",
        "[('marked', 11)] [('marked', 12)]",
    ]


def test_objects_that_make_up_attributes_are_no_functions(lines):
    """A proxy or a client of a database has any attribute that it is asked for."""
    printed = lines(
        """
class Proxy:
    def __getattr__(self, name):
        if name.startswith("__") and name != "__wrapped__":
            raise AttributeError(name)
        return Proxy()
    def __call__(self, *args):
        return args
class Opaque:
    @property
    def __class__(self):
        raise RuntimeError("not yet")
proxy, opaque = Proxy(), Opaque()
def call(number):
    return proxy.some.thing(number)
with start_pool() as pool:
    print(pool.map(call, [1, 2]), pool.map(proxy, [3]))
"""
    )

    assert printed == ["[(1,), (2,)] [(3,)]"]


def test_what_tasks_bind_themselves_need_not_be_sendable(lines):
    """A connection that an initializer or a task opens may be open here, too."""
    printed = lines(
        """
connection = cache = None
def connect():
    global connection
    connection = open(os.devnull, "w")
def get_cache():
    global cache
    if cache is None:
        cache = open(os.devnull, "w")
    return cache
def work(number):
    connection.write("x")
    get_cache().write("x")
    return number
connect()
get_cache()
with start_pool(initializer=connect) as pool:
    print(pool.map(work, range(3)))
    connect()
    print(pool.map(work, range(3)))
"""
    )

    assert printed == ["[0, 1, 2]", "[0, 1, 2]"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="from Python 3.11 on")
def test_group_of_errors_that_need_keywords_arrives(lines):
    """Members of a group arrive as themselves, however they are made."""
    printed = lines(
        """
class Refused(Exception):
    def __init__(self, *, code):
        super().__init__(f"code {code}")
        self.code = code
def fail(code):
    raise ExceptionGroup("several", [Refused(code=code), ExceptionGroup("in", [ValueError(1)])])
with start_pool() as pool:
    try:
        pool.apply(fail, (3,))
    except ExceptionGroup as group:
        first, second = group.exceptions
        print(type(first) is Refused, first.code, repr(second.exceptions[0]))
"""
    )

    assert printed == ["True 3 ValueError(1)"]


def test_traceback_of_a_worker_names_the_file(lines):
    """The traceback tells of the script as it does at home."""
    printed = lines(
        """
class Refused(Exception):
    pass
def fail(code):
    raise Refused(code)
with start_pool() as pool:
    try:
        pool.apply(fail, (3,))
    except Refused as error:
        print(str(error.__cause__).replace(__file__, "FILE"))
"""
    )

    assert any('"FILE"' in line and line.endswith("in fail") for line in printed)
    assert "raise Refused(code)" in [line.strip() for line in printed]
    assert "Refused: 3" in printed
