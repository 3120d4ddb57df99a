"""Who a worker is, for `multiprocessing`: told lazily, since few tasks ask."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType

from motorpool.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

# Descriptors that came with this process, for connections and queues in initargs.
inherited: list[int] = []


class Identity(NamedTuple):
    """What a worker that was not forked from its parent must know of itself."""

    name: str
    numbers: tuple[int, ...]
    authkey: bytes
    parent_name: str
    parent_pid: int
    method: str
    directory: str


class InheritedFd:
    """A descriptor in a pickle for a worker that is being started."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        """Return the descriptor's number here."""
        return inherited[self.index]


def assume(identity: Identity, lifeline: int, tracker: int = -1) -> None:
    """Be who `identity` says, as soon as anybody imports `multiprocessing`."""
    with suppress(OSError):
        os.chdir(identity.directory)
    _after_import(
        "multiprocessing.context", lambda context: _introduce(context, identity, lifeline)
    )
    if tracker >= 0:
        _after_import("multiprocessing.resource_tracker", lambda module: _track(module, tracker))


def _introduce(context: Any, identity: Identity, lifeline: int) -> None:
    """Set the current process, its parent and the start method."""
    process = context.process
    me = _process_class(context)(name=identity.name)
    me._identity = identity.numbers  # noqa: SLF001
    authkey = process.AuthenticationString(identity.authkey)
    me._config = {"authkey": authkey, "semprefix": "/mp"}  # noqa: SLF001
    me._parent_pid = identity.parent_pid  # noqa: SLF001
    process._current_process = me  # noqa: SLF001
    process._parent_process = process._ParentProcess(  # noqa: SLF001
        identity.parent_name, identity.parent_pid, lifeline
    )
    # Others, such as loky's, are known only where a package has brought them.
    if identity.method in context._concrete_contexts:  # noqa: SLF001
        context._default_context.set_start_method(identity.method, force=True)  # noqa: SLF001


def _track(resource_tracker: Any, fd: int) -> None:
    """Use the parent's resource tracker."""
    resource_tracker._resource_tracker._fd = fd  # noqa: SLF001


def _after_import(name: str, action: Callable[[Any], None]) -> None:
    if name in sys.modules:
        action(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Hook(name, action))


class _Hook:
    """Loads one module as ever, then does something with it."""

    def __init__(self, name: str, action: Callable[[Any], None]) -> None:
        self._name = name
        self._action = action
        self._loader: Any = None

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        import importlib.util

        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._loader = spec.loader
            spec.loader = self  # type: ignore[assignment] # see `mirror.py`
        return spec

    def create_module(self, spec: "ModuleSpec") -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._action(module)


def _process_class(context: Any) -> Any:
    class WorkerProcess(context.process.BaseProcess):  # type: ignore[misc]
        """The class of the current process."""

        @staticmethod
        def _Popen(_process: object) -> None:  # noqa: N802 - multiprocessing's name
            msg = "a worker is started already"
            raise AssertionError(msg)

    return WorkerProcess
