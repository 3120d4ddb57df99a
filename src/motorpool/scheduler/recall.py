"""Which workers are asked for what they have not begun.

There are two reasons to ask: another worker is idle and nothing is pending, or
somebody waits for results that a long chunk holds back. Either way a worker is
asked only after a while without news, and once until there is news.
"""

import math

from motorpool.messages import Command, RecallChunks
from motorpool.scheduler.state import HeldChunk, Job, Worker


class Recalls:
    """Finds the workers that are to give back what they have not begun.

    Parameters
    ----------
    jobs
        Those that are not finished, by number.
    workers
        All of them, by number.
    patience
        How long a worker may be without news, in seconds.
    commands
        Where to put what is to be done.
    """

    def __init__(
        self,
        jobs: dict[int, Job],
        workers: dict[int, Worker],
        patience: float,
        commands: list[Command],
    ) -> None:
        self._jobs = jobs
        self._workers = workers
        self.patience = patience
        self._commands = commands
        self.unbegun: set[Worker] = set()  # all that are stuck, and others
        self.for_results_at = math.inf  # when to look for results that are held back
        self._for_idle_at = -math.inf  # when to look for items for an idle worker, if known

    def sent(self, worker: Worker, job: Job, items: int, now: float) -> None:
        """Take note that a worker was sent a chunk of so many items."""
        is_alone = len(worker.chunks) == 1
        if is_alone:
            worker.news = worker.since = now
            worker.recalled = False
        if items > 1 or not is_alone:
            self.unbegun.add(worker)
            self._for_idle_at = -math.inf
            if job.is_prompt and items > 1 and self.for_results_at == math.inf:
                self.for_results_at = now + self.patience

    def heard(self, worker: Worker, now: float) -> None:
        """Take note of news of a worker."""
        worker.news = worker.since = now
        worker.recalled = False
        if worker.has_unbegun():
            self.unbegun.add(worker)

    def lost(self, worker: Worker) -> None:
        """Forget a worker."""
        self.unbegun.discard(worker)

    def ask_due(self, now: float, *, is_dry: bool) -> None:
        """Ask the workers whose time it is; `is_dry`: one is idle, and nothing is pending."""
        if self.for_results_at <= now:
            self.for_results_at = math.inf
        elif not is_dry and self.for_results_at < math.inf:
            return
        for worker in self._workers.values():
            if not _is_stuck(worker):
                continue
            is_due = now >= worker.news + self.patience
            if is_due and (is_dry or self._is_awaited(worker.chunks[0])):
                worker.recalled = True
                self._commands.append(RecallChunks(worker.id))
            elif any(self._is_awaited(chunk) for chunk in worker.chunks):
                self.for_results_at = now + self.patience

    def for_idle_at(self, now: float) -> float:
        """Return when to look for items for a worker that is idle."""
        if self._for_idle_at <= now:
            # Looked for once in a while, not at each event: news only put it off.
            self.unbegun = {worker for worker in self.unbegun if _is_stuck(worker)}
            if not self.unbegun:
                return math.inf
            self._for_idle_at = min(worker.news for worker in self.unbegun) + self.patience
        return self._for_idle_at

    def _is_awaited(self, chunk: HeldChunk) -> bool:
        """Tell whether results of a chunk are awaited before its end."""
        job = self._jobs.get(chunk.job)
        is_prompt = job is not None and job.is_prompt
        return is_prompt and not chunk.is_users and chunk.stop - chunk.start > 1


def _is_stuck(worker: Worker) -> bool:
    """Tell whether a worker may be asked."""
    return (
        worker.is_ready and not worker.recalled and worker.has_unbegun() and not worker.is_whole()
    )
