"""The public names: complete, documented, and their examples run."""

import doctest
import inspect
import types

import pytest

import motorpool

PUBLIC = sorted(motorpool.__all__)
METHODS = sorted(
    f"{kind}.{name}"
    for kind in ("Pool", "ThreadPool")
    for name, member in inspect.getmembers(getattr(motorpool, kind))
    if not name.startswith("_")
    and getattr(member, "fget", member).__module__.startswith("motorpool")
)


@pytest.mark.quick
def test_all_is_what_can_be_imported():
    """`__all__` names each public attribute of the package, once, and no other."""
    for name in PUBLIC:
        getattr(motorpool, name)
    found = {
        name
        for name in dir(motorpool)
        if not name.startswith("_") and not isinstance(getattr(motorpool, name), types.ModuleType)
    }

    assert len(set(PUBLIC)) == len(motorpool.__all__)
    assert found == {n for n in PUBLIC if not n.startswith("_")}


@pytest.mark.quick
def test_star_import_gives_the_public_names():
    """`from motorpool import *` binds what `__all__` lists."""
    names = {}
    exec("from motorpool import *", names)

    assert set(PUBLIC) <= names.keys()


def test_what_the_standard_library_offers_is_there():
    """The names that programs import from `multiprocessing` are exported."""
    assert {"Pool", "ThreadPool", "TimeoutError", "cpu_count"} <= set(PUBLIC)


def test_unknown_name_is_an_attribute_error():
    """A misspelt name is reported as for any module."""
    with pytest.raises(AttributeError, match="Poool"):
        motorpool.Poool  # noqa: B018 - the access is the point


@pytest.mark.quick
@pytest.mark.parametrize("name", [n for n in PUBLIC if not n.startswith("_")])
def test_public_name_has_a_docstring(name):
    """Every public class and function says what it is."""
    thing = getattr(motorpool, name)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__

        assert own
        assert own.strip().splitlines()[0].rstrip().endswith(".")


@pytest.mark.parametrize("path", METHODS)
def test_public_method_has_a_docstring(path):
    """Every public method of a pool says what it does."""
    kind, name = path.split(".")

    assert inspect.getdoc(getattr(getattr(motorpool, kind), name))


def examples():
    """Return the doctests of all public names, methods included."""
    finder = doctest.DocTestFinder()
    globs = {name: getattr(motorpool, name) for name in PUBLIC}
    found = {}
    for name in PUBLIC:
        thing = getattr(motorpool, name)
        if not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        for home in inspect.getmro(thing) if inspect.isclass(thing) else (thing,):
            if home.__module__.partition(".")[0] != "motorpool":
                continue
            module = inspect.getmodule(home)
            for test in finder.find(home, home.__name__, module=module, globs=dict(globs)):
                if test.examples:
                    found[test.name] = test
    return found


EXAMPLES = examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_in_a_docstring_runs(name):
    """The examples that users read give what they say."""
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(EXAMPLES[name], out=report.append)

    assert runner.summarize(verbose=False).failed == 0, "".join(report)


CALLED = {
    "Lifecycle": "abilities stacks close terminate join",  # of every pool
    "Pool": "apply apply_async map map_async starmap starmap_async imap imap_unordered",
    "AsyncResult": "ready successful wait get cancel cancelled",
    "IMapIterator": "next cancel",
}


@pytest.mark.quick
@pytest.mark.parametrize("kind", CALLED)
def test_method_that_users_call_has_an_example(kind):
    """Whoever looks a method up finds a line to copy."""
    assert {f"{kind}.{name}" for name in CALLED[kind].split()} <= EXAMPLES.keys()
