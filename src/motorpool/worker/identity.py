"""Who a worker is, for `multiprocessing`: told lazily, since few tasks ask."""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

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
    try:
        os.chdir(identity.directory)
    except OSError:
        pass
    tell = _Teller(identity, lifeline, tracker)
    if "multiprocessing.context" in sys.modules:
        tell.tell(sys.modules["multiprocessing.context"])
    else:
        sys.meta_path.insert(0, tell)


class _Teller(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads `multiprocessing.context` as ever, then tells it who this process is."""

    def __init__(self, identity: Identity, lifeline: int, tracker: int) -> None:
        self._identity = identity
        self._lifeline = lifeline
        self._tracker = tracker
        self._loader: Any = None

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "multiprocessing.context":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._loader = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self.tell(module)

    def tell(self, context: Any) -> None:
        """Set the current process, its parent and the start method."""
        identity = self._identity
        process = context.process
        me = process._MainProcess()  # noqa: SLF001
        me._name = identity.name  # noqa: SLF001
        me._identity = identity.numbers  # noqa: SLF001
        me._config = {"authkey": process.AuthenticationString(identity.authkey), "semprefix": "/mp"}  # noqa: SLF001
        me._parent_pid = identity.parent_pid  # noqa: SLF001
        process._current_process = me  # noqa: SLF001
        process._parent_process = process._ParentProcess(  # noqa: SLF001
            identity.parent_name, identity.parent_pid, self._lifeline
        )
        if identity.method:
            context._default_context.set_start_method(identity.method, force=True)  # noqa: SLF001
        if self._tracker >= 0:
            from multiprocessing import resource_tracker  # noqa: PLC0415

            resource_tracker._resource_tracker._fd = self._tracker  # type: ignore[attr-defined] # noqa: SLF001
