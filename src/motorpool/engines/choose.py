"""Which engine a pool runs on, by name, address or object; each is imported when asked for.

::

    None, "processes"                 processes of this machine
    "threads"                         threads of this process
    "ray", "ray://head:10001"         Ray: found or started here, or at an address
    "dask", "tcp://scheduler:8786"    Dask: a cluster started here, or at an address
    a Client or Cluster of Dask       that one
    an object with `submit`           any executor, as of `concurrent.futures`
    "module:name"                     the executor that a call of that gives
"""

import importlib
import os
from collections.abc import Mapping
from multiprocessing.context import BaseContext

from motorpool.engines.base import NO_LIMITS, Abilities, Engine, Initializer, Limits
from motorpool.errors import EngineNotInstalledError
from motorpool.typed import Any, NamedTuple

ENVIRONMENT = "MOTORPOOL_ENGINE"

# kind: module, class, package that has to be there
HOMES = {
    "processes": ("processes", "ProcessEngine", None),
    "threads": ("threads", "ThreadEngine", None),
    "executor": ("executor", "ExecutorEngine", None),
    "ray": ("ray", "RayEngine", "ray"),
    "dask": ("dask", "DaskEngine", "distributed"),
}
_LOCAL = ("processes", "threads")
_SCHEMES = {"ray": "ray", "tcp": "dask", "tls": "dask", "ws": "dask", "wss": "dask"}


class Choice(NamedTuple):
    """An engine's kind, and where: an address, an executor, a client; None for here."""

    kind: str
    where: Any = None


class Request(NamedTuple):
    """What a user asks of a pool."""

    context: BaseContext | None = None
    processes: int | None = None
    initializer: Initializer | None = None
    maxtasksperchild: int | None = None
    options: Mapping[str, Any] | None = None
    limits: Limits = NO_LIMITS


def choose(engine: object) -> Choice:
    """Return what `engine` stands for; None stands for what the environment says.

    Raises
    ------
    ValueError
        For a name that stands for none.
    TypeError
        For an object that cannot run tasks.
    """
    if engine is None:
        engine = os.environ.get(ENVIRONMENT) or "processes"
    if isinstance(engine, str):
        return _named(engine)
    names = {
        kind.__name__ for kind in type(engine).__mro__ if kind.__module__.startswith("distributed.")
    }
    if names & {"Client", "Cluster"}:
        return Choice("dask", engine)
    if callable(getattr(engine, "submit", None)):
        return Choice("executor", engine)
    msg = (
        f"engine={engine!r} cannot run tasks: it is neither a name, nor an address, nor a Client "
        f"or Cluster of Dask, nor an executor with a method `submit`"
    )
    raise TypeError(msg)


def _named(name: str) -> Choice:
    scheme, separator, _ = name.partition("://")
    if separator and scheme in _SCHEMES:
        return Choice(_SCHEMES[scheme], name)
    if name in HOMES and name != "executor":
        return Choice(name)
    if all(part.isidentifier() for part in name.replace(":", ".", 1).split(".")) and ":" in name:
        return Choice("executor", name)
    msg = (
        f"unknown engine {name!r}: pass 'processes', 'threads', 'ray', 'ray://head:10001', 'dask', "
        f"'tcp://scheduler:8786', a Client or Cluster of Dask, an executor, or 'module:name' of "
        f"what makes one"
    )
    raise ValueError(msg)


def engine_class(kind: str) -> Any:
    """Return the class of an engine; raises EngineNotInstalledError if a package is missing."""
    module, name, package = HOMES[kind]
    if package is not None and not _is_installed(package):
        msg = (
            f"engine={kind!r} needs the package {package!r}, which is not installed here: "
            f'pip install "motorpool[{kind}]"'
        )
        raise EngineNotInstalledError(msg)
    return getattr(importlib.import_module(f"motorpool.engines.{module}"), name)


def _is_installed(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def make_engine(choice: Choice, request: Request) -> Engine:
    """Return a new engine.

    Raises
    ------
    ValueError
        If it cannot do what is asked.
    """
    kind = engine_class(choice.kind)
    check(choice.kind, kind.abilities, request)
    initializer = request.initializer
    if choice.kind not in _LOCAL:
        options = request.options or {}
        engine: Engine = kind(choice.where, initializer, request.processes, options)
        return engine
    function, arguments = initializer or (None, ())
    if choice.kind == "threads":
        return kind(function, arguments)  # type: ignore[no-any-return]
    return kind(request.context, function, arguments, request.limits)  # type: ignore[no-any-return]


def check(kind: str, abilities: Abilities, request: Request) -> None:
    """Raise ValueError for what an engine cannot do."""
    if request.initializer is not None and not abilities.initializer:
        _refuse("initializer", kind, "initializer")
    if request.maxtasksperchild is not None and not abilities.maxtasksperchild:
        _refuse("maxtasksperchild", kind, "maxtasksperchild")
    if not abilities.limits:
        if request.limits.memory:
            _refuse("memory_limit", kind, "limits")
        if request.limits.threads > 0:
            _refuse("threads_per_worker", kind, "limits")
    if request.options and kind in _LOCAL:
        msg = f"engine_options are for other engines; engine={kind!r} has none"
        raise ValueError(msg)


def check_timeout(kind: str) -> None:
    """Raise ValueError if an engine cannot keep tasks within their time."""
    if not engine_class(kind).abilities.timeout:
        _refuse("timeout", kind, "timeout")


def _refuse(what: str, kind: str, ability: str) -> None:
    able = [name for name in HOMES if _has(name, ability)]
    msg = (
        f"engine={kind!r} cannot do {what}=...; engines that can: {', '.join(able)}. "
        f"Leave it out, or choose another engine."
    )
    raise ValueError(msg)


def _has(kind: str, ability: str) -> bool:
    try:
        return bool(getattr(engine_class(kind).abilities, ability))
    except ImportError:
        return False


__all__ = [
    "ENVIRONMENT",
    "Choice",
    "Request",
    "check_timeout",
    "choose",
    "engine_class",
    "make_engine",
]
