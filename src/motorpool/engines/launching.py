"""Give a worker process its channel, its page of shared memory and its set-up, and start it."""

# Of C: they close when nobody refers to them, and an interrupt cannot come in between.
from _socket import socket, socketpair
from multiprocessing import process
from multiprocessing.context import BaseContext

from motorpool.typed import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from io import FileIO

    from motorpool.engines.stacks import Target

from motorpool.buffers import Exchange
from motorpool.definitions import Definitions, Known, inherited_by_fork
from motorpool.engines import starting
from motorpool.engines.base import Initializer, Limits
from motorpool.engines.functions import Functions
from motorpool.serialization import dumps, is_main_function
from motorpool.transport import FrameReader, FrameWriter
from motorpool.worker import page as pages
from motorpool.worker.main import Setup


class WorkerProcess:
    """The parent's side of one worker process."""

    def __init__(
        self,
        number: int,
        handle: process.BaseProcess,
        popen: starting.Popen,
        channel: socket,
        page: int,
    ) -> None:
        self.number = number
        self.process = handle
        self.popen = popen
        self.channel = channel
        self.fd = fd = channel.fileno()
        self.page = pages.Page(page)
        self.reader = FrameReader(fd)
        self.writer = FrameWriter(fd)
        self.is_writing = False
        self.is_leaving = False
        self.functions: set[int] = set()
        self.job = -1  # of the last chunk sent
        self.known = Known()
        # Of the memory watch: its gauge, the task it suspects, and the size it killed for.
        self.gauge: Any = None
        self.suspect: tuple[int, int] | None = None
        self.overrun = 0

    def close(self) -> None:
        """Close the channel. Idempotent."""
        self.channel.close()

    def stack_target(self) -> "Target":
        """Return how to ask for its stacks."""
        from motorpool.engines.stacks import Target

        return Target(self.popen.pid, self.page.stack_fd, self.popen.send_signal)


class Launcher:
    """Starts worker processes of one pool."""

    def __init__(
        self,
        context: BaseContext,
        initializer: Initializer | None,
        limits: Limits,
        exchange: Exchange,
        definitions: Definitions,
        functions: Functions,
    ) -> None:
        self._context = context
        self._method = context.get_start_method()
        self._initializer = initializer
        self._limits = limits
        self._exchange = exchange
        self._definitions = definitions
        self._functions = functions
        if self._method == "fork" and initializer is not None and is_main_function(initializer[0]):
            # Else it is sent, and `pack_setup_for` takes note of it.
            definitions.setup = ((initializer[0].__module__, initializer[0].__qualname__),)

    def launch(self, number: int) -> tuple[WorkerProcess, bytes | None]:
        """Start a worker; return it and the set-up to send, None if it has it.

        Raises OSError if there can be none.
        """
        handle = self._context.Process(group=None)  # type: ignore[attr-defined]
        handle.name = handle.name.replace("Process", "PoolWorker")
        handle.daemon = True
        known = Known(inherited_by_fork()) if self._method == "fork" else Known()
        popen = self._new_popen()
        ours, theirs = socketpair()
        page: FileIO | None = None
        try:
            try:
                page = pages.make(*self._limits)
                ours.setblocking(False)
                with self._exchange.pass_on(page.fileno()) as arena:
                    fds = starting.Fds(theirs.fileno(), page.fileno(), arena.fileno())
                    region = self._exchange.region_of(number)
                    payload = self._start(handle, popen, fds, region, known)
                worker = WorkerProcess(number, handle, popen, ours, page.fileno())
            finally:
                theirs.close()
                if page is not None:
                    page.close()
        except BaseException:
            popen.give_up()  # At an interrupt it may have begun.
            ours.close()
            raise
        worker.known = known
        return worker, payload

    def _new_popen(self) -> starting.Popen:
        if self._method == "fork":
            return starting.Popen()
        from motorpool.engines.spawning import ServedPopen, SpawnedPopen

        return SpawnedPopen() if self._method == "spawn" else ServedPopen()

    def _start(
        self, handle: Any, popen: Any, fds: starting.Fds, region: int, known: Known
    ) -> bytes | None:
        """Start the process; return the set-up to send, None if it has it."""
        made: list[Any] = []

        def set_up() -> bytes:
            return self._set_up(handle, region, known)

        def make(_handle: object) -> starting.Popen:
            if self._method == "fork":
                starting.start_by_fork(handle, popen, fds, self._initializer, region)
                made.append(None)
            else:
                from motorpool.engines.spawning import start_by_server, start_by_spawn

                start = start_by_spawn if self._method == "spawn" else start_by_server
                made.append(start(popen, fds, set_up))
            started: starting.Popen = popen
            return started

        handle._Popen = make  # noqa: SLF001 - multiprocessing's own hook for start methods
        starting.start(handle)
        if not made:
            msg = f"{type(handle).__qualname__}.start() of the context started no process"
            raise TypeError(msg)
        payload: bytes | None = made[0]
        return payload

    def _set_up(self, handle: process.BaseProcess, region: int, known: Known) -> bytes:
        from motorpool.engines.spawning import identity_of

        identity = identity_of(handle, self._method)
        definitions = initializer = None
        if self._initializer is not None:
            initializer, roots, _ = self._functions.pickle(self._initializer, "the initializer")
            definitions = self._definitions.pack_setup_for(known, roots)
        return dumps(Setup(identity, definitions, initializer, region))
