"""How many workers there are: who is started, again after a failure, and who leaves."""

from collections import OrderedDict

from motorpool.messages import BreakPool, Command, StartWorker, StopWorker, WorkerLost
from motorpool.scheduler.state import Job, Worker

# So many workers in a row that end by themselves before they are ready, and the
# pool gives up. It does so too if none is ready for so long, because the system
# has no room for them, or others kill them: that may pass.
MOST_FAILED_STARTS = 3
MOST_FAILING_SECONDS = 10.0
MOST_KILLED_SECONDS = 30.0
FIRST_BACKOFF_SECONDS = 0.05
MOST_RESTART_SECONDS = 1.0
# After others killed one: the more there are, the less often it is each one's turn.
KILLED_RESTART_SECONDS = 0.1


class Staff:
    """Keeps `size` workers, and none once the pool is closed and its last job is done.

    Parameters
    ----------
    size
        Number of workers to keep.
    tasks_per_worker
        Items after which a worker is replaced, None for never.
    jobs
        Those that are not finished.
    commands
        Where to put what is to be done.
    """

    def __init__(
        self,
        size: int,
        tasks_per_worker: int | None,
        jobs: dict[int, Job],
        commands: list[Command],
    ) -> None:
        self.size = size
        self.workers: dict[int, Worker] = {}
        self.idle: OrderedDict[int, Worker] = OrderedDict()  # the last goes first
        self.is_closed = False
        self.restart_at: list[float] = []
        self._tasks_per_worker = tasks_per_worker
        self._jobs = jobs
        self._commands = commands
        self._starting = 0
        # Starts that failed since one succeeded: all, those by the workers' own
        # doing, and since when.
        self._failed_starts = self._own_failures = 0
        self._failing_since = 0.0

    # Who starts.

    def start_all(self) -> None:
        """Start the first workers."""
        for _ in range(self.size):
            self._start_one()

    def started(self, number: int) -> Worker:
        """Take note of a worker that was asked for."""
        self._starting -= 1
        worker = self.workers[number] = Worker(number, self._tasks_per_worker)
        return worker

    def ready(self, worker: Worker) -> None:
        """Take note that a worker has started well."""
        self._failed_starts = self._own_failures = 0
        worker.is_ready = True

    def not_started(self, error: BaseException, now: float) -> None:
        """Take note that a worker that was asked for could not be started."""
        self._starting -= 1
        self._retry_start(error, None, now)

    def restart_due(self, now: float) -> None:
        """Start the workers whose pause is over."""
        due = [at for at in self.restart_at if at <= now]
        self.restart_at = [at for at in self.restart_at if at > now]
        for _ in due:
            self._start_one()

    def _start_one(self) -> None:
        if self.is_over() or self._starting >= self.size - self._staying():
            return
        self._starting += 1
        self._commands.append(StartWorker())

    def _retry_start(
        self, error: BaseException | None, lost: WorkerLost | None, now: float
    ) -> None:
        """Start another worker after a pause, or give up."""
        if not self._failed_starts:
            self._failing_since = now
        self._failed_starts += 1
        self._own_failures += lost is not None and lost.is_own_doing
        is_killed = lost is not None and not lost.is_own_doing
        patience = MOST_KILLED_SECONDS if is_killed else MOST_FAILING_SECONDS
        has_failed = (
            self._own_failures >= MOST_FAILED_STARTS or now - self._failing_since >= patience
        )
        # One that works is better than none, whatever becomes of the others.
        if has_failed and not any(worker.is_ready for worker in self.workers.values()):
            self._commands.append(BreakPool(error, lost))
            return
        backoff = FIRST_BACKOFF_SECONDS * 2.0 ** min(self._failed_starts, 10)
        most = KILLED_RESTART_SECONDS if is_killed else MOST_RESTART_SECONDS
        self.restart_at.append(now + min(backoff, most))

    # Who leaves.

    def remove(self, number: int) -> Worker:
        """Take a worker that ended off the books."""
        self.idle.pop(number, None)
        return self.workers.pop(number)

    def replace_lost(self, worker: Worker, event: WorkerLost, now: float) -> None:
        """Have another worker started for one that ended, unless it was told to leave."""
        if worker.is_leaving:
            return
        if not (worker.is_ready or worker.is_killed):
            self._retry_start(None, event, now)
        elif self._missing() > 0:
            self._start_one()

    def replace(self, worker: Worker) -> None:
        """Let a worker go, and start another if one is missing then."""
        self._let_go(worker)
        self._start_one()

    def is_one_too_many(self) -> bool:
        """Tell whether a worker is to leave as soon as it is idle."""
        # The first look is all it costs as long as nothing changes.
        return len(self.workers) > self.size and self._staying() > self.size

    def resize(self, size: int) -> None:
        """Keep so many workers from now on; those too many leave when they have nothing to do."""
        self.size = size
        for _ in range(self._missing()):
            self._start_one()
        for worker in self._dispensable()[: max(self._staying() - size, 0)]:
            self.idle.pop(worker.id, None)
            self._let_go(worker)

    def is_over(self) -> bool:
        """Tell whether no worker is needed any more."""
        return self.is_closed and not self._jobs

    def let_idle_go(self) -> None:
        """Let all go that have nothing to do."""
        for worker in self.idle.values():
            self._let_go(worker)
        self.idle.clear()

    def _let_go(self, worker: Worker) -> None:
        worker.is_leaving = True
        self._commands.append(StopWorker(worker.id))

    def _staying(self) -> int:
        return sum(not worker.is_leaving for worker in self.workers.values())

    def _missing(self) -> int:
        return self.size - self._staying() - self._starting - len(self.restart_at)

    def _dispensable(self) -> list[Worker]:
        """Return the workers without work, first those that are not ready."""
        workers = [
            worker
            for worker in self.workers.values()
            if not worker.chunks and not worker.is_leaving
        ]
        return sorted(workers, key=lambda worker: worker.is_ready)

    def succeed(self, killed: "Staff") -> None:
        """Take over from another staff whose workers have all been killed, and will be lost."""
        self.is_closed = killed.is_closed
        self.restart_at = killed.restart_at
        for number, old in killed.workers.items():
            worker = self.workers[number] = Worker(number, self._tasks_per_worker)
            worker.is_killed = True
            worker.is_leaving = old.is_leaving
