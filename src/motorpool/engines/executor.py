"""Workers of any executor: `concurrent.futures`, mpi4py, loky, executorlib, parsl, and others.

All that is asked of it is `submit`, and futures with `add_done_callback`. It
belongs to the user, who shuts it down, unless it was named: then it is made
here, and shut down at the end.
"""

import importlib
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor

from motorpool.cpus import cpu_count
from motorpool.engines.base import Abilities, Initializer
from motorpool.engines.programs import Program
from motorpool.engines.remote import RemoteEngine, Task
from motorpool.errors import EngineNotInstalledError
from motorpool.reducers import DESCRIPTOR
from motorpool.typed import Any
from motorpool.worker.remote import run_remote_chunk

# A program beyond this size does not go with every chunk.
LARGE = 1 << 16

_OPTIONS = ("max_workers", "message_seconds")


class ExecutorEngine(RemoteEngine):
    """Workers of an executor that the user has made, or named as "module:name"."""

    name = "executor"
    abilities = Abilities(machines=True)

    def __init__(
        self,
        executor: Any,
        initializer: Initializer | None,
        processes: int | None,
        options: Mapping[str, Any],
    ) -> None:
        self._is_ours = isinstance(executor, str)
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown and not self._is_ours:
            msg = f"engine_options of an executor are {', '.join(_OPTIONS)}, not {unknown[0]!r}"
            raise ValueError(msg)
        rest = dict(options)
        self.message_seconds = rest.pop("message_seconds", self.message_seconds)
        self._executor = _make(executor, rest) if self._is_ours else executor
        # The thread that serves executorlib's queue dies of a cancelled future.
        self._can_cancel = not type(self._executor).__module__.startswith("executorlib.")
        try:
            super().__init__(initializer, processes, rest)
        except BaseException:
            self._close(0.0)
            raise

    @property
    def capacity(self) -> int:
        """What the executor says of its size, else the CPUs of this machine."""
        for name in ("max_workers", "_max_workers", "num_workers"):
            size = self.options.get(name) or getattr(self._executor, name, None)
            if isinstance(size, int) and size > 0:
                return size
        return cpu_count()

    def _check_program(self, payload: bytes) -> None:
        if DESCRIPTOR in payload and not isinstance(self._executor, ThreadPoolExecutor):
            msg = (
                "a socket or connection can be sent to one process only, as an item; a function or "
                "an initializer goes to each process of an executor"
            )
            raise TypeError(msg)

    def _submit(self, task: Task) -> None:
        program, setup = self._text(task, task.program), self._text(task, self.setup)
        future = self._executor.submit(
            run_remote_chunk, self.order(task), program, setup, task.items
        )
        task.future = future
        future.add_done_callback(lambda done: self._ended(task, done))

    def _text(self, task: Task, program: Program | None) -> bytes | None:
        """Return a program's text, or None if it is large and was sent to as many as there are.

        Which process runs a task, only the executor knows. One that has not met
        the program says so, and the task is sent again with the text.
        """
        if program is None:
            return None
        program.handle = times = (program.handle or 0) + 1
        if len(program.text) <= LARGE or task.is_whole or times <= self.capacity:
            return program.text
        return None

    def _ended(self, task: Task, future: Any) -> None:
        try:
            self.finished(task, future.result())
        except (Exception, CancelledError) as error:
            # Its frames lead back to whoever cancelled, and would keep what they hold.
            self.failed(task, error.with_traceback(None))

    def _close(self, patience: float) -> None:
        """Let go of the executor; shut it down if it was made here."""
        executor, self._executor = self._executor, None
        if self._is_ours:
            executor.shutdown(wait=patience > 0)

    def _cancel(self, task: Task) -> bool:
        if not self._can_cancel or task.future is None:  # None: an interrupt came as it was made
            return False
        try:
            return bool(task.future.cancel())
        except NotImplementedError:  # parsl's cannot
            return False


def _make(name: str, options: Mapping[str, Any]) -> Any:
    """Return the executor that a call of `name`, as "module:name", gives."""
    module, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        msg = f"engine={name!r} needs the module {error.name!r}, which is not installed here"
        raise EngineNotInstalledError(msg) from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            msg = f"engine={name!r}: {module!r} has no {attributes!r}"
            raise ValueError(msg)
        found = getattr(found, attribute)
    if module.partition(".")[0] == "mpi4py":
        # Else each of its workers runs the script, too.
        options = {"main": False, **options}
    executor = found(**options)
    if not callable(getattr(executor, "submit", None)):
        msg = f"engine={name!r} gave {executor!r}, which has no method `submit`"
        raise TypeError(msg)
    return executor
