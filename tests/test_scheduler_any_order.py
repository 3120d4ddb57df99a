"""The scheduler under events in any order: Hypothesis seeks one that loses or doubles an item."""

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from motorpool.messages import (
    ChunkDone,
    ChunkRefused,
    Closed,
    Consumed,
    InputArrived,
    ItemsHandedBack,
    JobCancelled,
    JobSubmitted,
    KillWorker,
    LookAtWorker,
    MemoryNews,
    RecallChunks,
    SendChunk,
    StartWorker,
    StopWorker,
    Tick,
    WorkerLost,
    WorkerNotStarted,
    WorkerReady,
    WorkerStarted,
)
from motorpool.scheduler import Cost, Scheduler
from motorpool.scheduler.chunking import RECALL_SECONDS
from simulator import (
    HELD,
    LONG,
    PENDING,
    Ledger,
    SimulatedWorker,
    control,
)


class AnyOrder(RuleBasedStateMachine):
    """Jobs, workers, deaths and the clock in any order; the ledger objects to what must not be.

    Messages between the scheduler and a worker stay on their way until a rule
    moves them, so that anything may happen in between.
    """

    @initialize(
        size=st.integers(1, 4),
        tasks_per_worker=st.sampled_from([None, None, 1, 3]),
        is_started=st.booleans(),
        keeps_apart=st.booleans(),
    )
    def open(self, size, tasks_per_worker, is_started, keeps_apart):
        """Open a pool."""
        self.scheduler = Scheduler(size, tasks_per_worker, keeps_apart=keeps_apart)
        self.ledger = Ledger(self.scheduler, tasks_per_worker, keeps_apart=keeps_apart)
        self.restless = 0
        self.now = 0.0
        self.starts = 0
        self.workers = {}
        self.signals = set()
        self.history = []
        self.jobs = 0
        self.cost = Cost()
        self.refuse_next = 0
        self.started = 0
        self.settled_values = {}
        self.execute(self.scheduler.start())
        if is_started:
            while self.starts:
                self.start(succeeds=1)
            for worker in self.workers.values():
                self.step(worker)
                self.hear_one(worker)

    def feed(self, event):
        """Have the scheduler handle an event, and carry out what it says."""
        self.ledger.note(event, self.now)
        commands = self.scheduler.handle(event, self.now)
        self.ledger.check(event, commands)
        self.execute(commands)

    def execute(self, commands):
        for command in commands:
            kind = type(command)
            if kind is StartWorker:
                self.starts += 1
            elif kind is SendChunk:
                self.send(command)
            elif kind is RecallChunks:
                self.signals.add(command.worker)
            elif kind is LookAtWorker or kind is KillWorker:
                self.look(command)
            elif kind is StopWorker and command.worker in self.workers:
                self.workers[command.worker].is_told = True

    def look(self, command):
        """Look at a worker, which may go on meanwhile; kill it if it is at what it was."""
        worker = self.workers.get(command.worker)
        for _ in range(self.restless):
            if worker is not None and not worker.is_dead:
                self.step(worker)
        if worker is None or worker.is_dead:
            return
        if type(command) is LookAtWorker:
            self.feed(worker.look())
        elif worker.is_at(command.number, command.item):
            self.bury(worker)
        else:
            self.feed(worker.look(is_spared=True))

    def send(self, command):
        if self.refuse_next:
            self.refuse_next -= 1
            self.feed(ChunkRefused(command.worker, command.chunk.number, TypeError("unpicklable")))
            return
        worker = self.workers.get(command.worker)
        if worker is not None and not worker.is_dead:
            worker.inbox.append((command.chunk, command.budget))

    def pick(self, data, what):
        """Choose one of several, the same ones first."""
        return data.draw(st.sampled_from(sorted(what)))

    def living(self):
        return [number for number, worker in self.workers.items() if not worker.is_dead]

    def is_over(self):
        return self.ledger.is_broken

    # Jobs.

    def may_submit(self):
        return not self.ledger.is_closed and not self.is_over() and len(self.ledger.jobs) < 5

    @precondition(may_submit)
    @rule(
        size=st.integers(0, 40),
        chunksize=st.sampled_from([None, None, 1, 3]),
        is_open=st.booleans(),
        is_windowed=st.booleans(),
        seconds=st.sampled_from([None, 0.0, 1e-6, 1e-3]),
        granted=st.sampled_from(
            [
                None,
                None,
                control(timeout=0.02),
                control(retries=2, backoff=0.01),
                control(timeout=0.02, retries=1, late=False),
                control(timeout=1.0, retries=1, backoff=0.0, lost=False),
            ]
        ),
    )
    def submit(self, size, chunksize, is_open, is_windowed, seconds, granted):
        """Submit a job, its cost known or not, with timeout and retries or without."""
        job, self.jobs = self.jobs, self.jobs + 1
        if seconds is not None:
            self.cost = Cost()
            self.cost.seconds = seconds
        window = 0 if is_windowed else None
        is_prompt = window is not None
        event = JobSubmitted(job, size, chunksize, self.cost, is_open, window, is_prompt, granted)
        self.feed(event)

    def open_jobs(self):
        return [job for job, account in self.ledger.jobs.items() if account.is_open]

    @precondition(lambda self: not self.is_over() and self.open_jobs())
    @rule(data=st.data(), count=st.integers(0, 10), is_open=st.booleans())
    def arrive(self, data, count, is_open):
        """Items arrive at an open job, within its room or not."""
        self.feed(InputArrived(self.pick(data, self.open_jobs()), count, is_open))

    def takable(self):
        return {
            job: account.settled - account.consumed
            for job, account in self.ledger.jobs.items()
            if account.is_windowed and account.settled > account.consumed
        }

    @precondition(lambda self: not self.is_over() and self.takable())
    @rule(data=st.data(), starved=st.booleans())
    def consume(self, data, starved):
        """The consumer of a stream takes some of what is there."""
        takable = self.takable()
        job = self.pick(data, takable)
        self.feed(Consumed(job, data.draw(st.integers(1, takable[job])), starved))

    @precondition(lambda self: not self.is_over() and self.jobs)
    @rule(data=st.data(), kill=st.booleans(), really=st.integers(0, 2))
    def cancel(self, data, kill, really):
        """Cancel a job, perhaps one that is gone."""
        if not really:
            self.feed(JobCancelled(data.draw(st.integers(0, self.jobs - 1)), kill))

    def cancellable(self):
        return [
            (job, item)
            for job, account in self.ledger.jobs.items()
            if account.control is None and not account.is_windowed
            for item in range(account.size)
            if account.state[item] in (PENDING, HELD) and item not in account.dropped
        ]

    @precondition(lambda self: not self.is_over() and self.cancellable())
    @rule(data=st.data())
    def cancel_item(self, data):
        """Cancel one item of a job, wherever it is."""
        job, item = self.pick(data, self.cancellable())
        self.feed(JobCancelled(job, kill=True, item=item))

    @precondition(lambda self: not self.ledger.is_closed and not self.is_over())
    @rule(really=st.integers(0, 3))
    def close(self, really):
        """Close the pool, in some of the runs."""
        if not really:
            self.feed(Closed())

    # Workers.

    @precondition(lambda self: self.starts and not self.is_over())
    @rule(succeeds=st.integers(0, 4))
    def start(self, succeeds):
        """A worker starts, or cannot be started."""
        self.starts -= 1
        if not succeeds:
            self.feed(WorkerNotStarted(OSError("no more processes")))
            return
        self.started += 1
        worker = self.workers[self.started] = SimulatedWorker(self.started)
        worker.is_ready = worker.is_told = False
        self.feed(WorkerStarted(worker.number))

    @precondition(lambda self: self.living() and not self.is_over())
    @rule(
        data=st.data(),
        steps=st.integers(1, 12),
        seconds=st.sampled_from([1e-6, 1e-3, 0.006, 0.02]),
        bulk=st.sampled_from([None, None, 3]),
        odd=st.sampled_from(["", "", "", "refuse", "full", "ValueError", "KeyError"]),
    )
    def work(self, data, steps, seconds, bulk, odd):
        """A worker takes some steps."""
        worker = self.workers[self.pick(data, self.living())]
        for _ in range(steps):
            self.step(worker, seconds, bulk, odd)
            odd = ""

    def step(self, worker, seconds=1e-3, bulk=None, odd=""):
        """Take the next step there is: get ready, read, begin, end, answer, be done, leave."""
        running = worker.running
        if not worker.is_ready:
            worker.is_ready = True
            worker.outbox.append(WorkerReady(worker.number))
        elif running is None:
            if worker.inbox:
                worker.read(self.now)
                worker.is_begun = worker.is_full = False
            elif worker.is_told:
                self.bury(worker)
        elif worker.is_answered:
            worker.clear()
        elif worker.is_begun:
            worker.is_begun = False
            error = {"ValueError": ValueError(), "KeyError": KeyError()}.get(odd)
            worker.is_full = not worker.ran(seconds, odd == "full", error)
        elif odd == "refuse" and running.index == worker.chunk.start:
            worker.refuse(TypeError("cannot be loaded"))
        elif not worker.is_full and (size := worker.claim(bulk, self.now)):
            begin, end = running.index, running.index + size
            self.ledger.begin(worker.number, worker.chunk.job, begin, end, self.now)
            worker.is_begun = True
        else:
            worker.answer()
            worker.is_full = False

    def bury(self, worker):
        """End a worker; what it has sent is still read."""
        if not worker.is_dead:
            worker.is_dead = True
            worker.inbox.clear()
            self.signals.discard(worker.number)
            worker.outbox.append(worker.lost())

    @precondition(lambda self: self.living() and not self.is_over())
    @rule(data=st.data(), really=st.integers(0, 2))
    def die(self, data, really):
        """A worker dies, wherever it is."""
        if not really:
            self.bury(self.workers[self.pick(data, self.living())])

    @precondition(lambda self: self.signals and not self.is_over())
    @rule(data=st.data())
    def notice_recall(self, data):
        """A worker's signal handler runs."""
        number = self.pick(data, self.signals)
        self.signals.discard(number)
        worker = self.workers.get(number)
        if worker is not None and worker.is_ready and not worker.is_dead:
            worker.recall()

    @precondition(lambda self: self.living() and not self.is_over())
    @rule(rounds=st.integers(1, 8), seconds=st.sampled_from([1e-6, 1e-3, 0.02]))
    def go_round(self, rounds, seconds):
        """All workers go on at the same pace, and are heard."""
        for _ in range(rounds):
            for number in self.living():
                self.step(self.workers[number], seconds)
            for number in list(self.workers):
                self.hear_one(self.workers[number])

    @precondition(lambda self: self.living() and not self.is_over())
    @rule(data=st.data(), waits=st.booleans())
    def leave_one_behind(self, data, waits):
        """All workers but one run dry, and perhaps the one is asked for what it has not begun."""
        last = self.pick(data, self.living())
        for _ in range(60):
            for number in self.living():
                if number != last and not self.is_over():
                    self.step(self.workers[number], 1e-6)
                    self.hear_one(self.workers[number])
        if waits and self.scheduler.wake_at is not None and not self.is_over():
            self.tick(is_due=True)
        if last in self.signals:
            self.signals.discard(last)
            self.workers[last].recall()
            self.hear_one(self.workers[last])

    def speaking(self):
        return [number for number, worker in self.workers.items() if worker.outbox]

    @precondition(lambda self: self.speaking() and not self.is_over())
    @rule(data=st.data(), events=st.integers(1, 4))
    def hear(self, data, events):
        """Events of a worker reach the driver, in their order."""
        worker = self.workers[self.pick(data, self.speaking())]
        for _ in range(events):
            self.hear_one(worker)

    def hear_one(self, worker):
        if not worker.outbox or self.is_over():
            return
        event = worker.outbox.popleft()
        if type(event) is WorkerLost:
            del self.workers[worker.number]
        elif type(event) is not WorkerReady:
            self.history.append(event)
        self.feed(event)

    @precondition(lambda self: not self.is_over())
    @rule(times=st.integers(-4, 2))
    def spoil(self, times):
        """The next items to be sent turn out to be unpicklable."""
        self.refuse_next = max(times, 0)

    @precondition(lambda self: not self.is_over())
    @rule(steps=st.integers(-4, 3))
    def hurry(self, steps):
        """Workers take some steps while they are looked at."""
        self.restless = max(steps, 0)

    # What an engine never does, and the books survive.

    @precondition(lambda self: self.history and not self.is_over())
    @rule(data=st.data())
    def repeat(self, data):
        """An answer that was given comes again, from its worker or another."""
        event = data.draw(st.sampled_from(self.history))
        if event.number in self.ledger.chunks:
            return  # handed back in part; the rest is still on the books
        if self.workers:
            self.feed(event._replace(worker=self.pick(data, self.workers)))

    @precondition(lambda self: self.workers and not self.is_over())
    @rule(data=st.data())
    def make_up(self, data):
        """An answer to a chunk that was never sent."""
        number = self.pick(data, self.workers)
        self.feed(ChunkDone(number, 10**9, 0, 1, LONG, [0], None))
        self.feed(ItemsHandedBack(number, 10**9, 0, 1))
        self.feed(ChunkRefused(number, 10**9, TypeError()))

    # Memory.

    @precondition(lambda self: not self.is_over())
    @rule(is_short=st.booleans())
    def look_at_memory(self, is_short):
        """Memory runs short, or no longer does; at the end, it may still be."""
        self.feed(MemoryNews(is_short))

    # Time.

    @rule(seconds=st.sampled_from([0.0, 1e-3, 0.021, 1.0]))
    def wait(self, seconds):
        """Time passes."""
        self.now += seconds

    @precondition(lambda self: not self.is_over())
    @rule(is_due=st.booleans())
    def tick(self, is_due):
        """The driver wakes: when it was to, or for no reason."""
        if is_due and self.scheduler.wake_at is not None:
            self.now = max(self.now, self.scheduler.wake_at)
        self.feed(Tick())
        wake = self.scheduler.wake_at
        assert wake is None or wake > self.now, "the driver would spin"

    @invariant()
    def somebody_asks_for_unbegun_items(self):
        """While a worker is idle, what a busy one has not begun is asked for in time."""
        if hasattr(self, "ledger"):
            self.ledger.check_recalls(self.now, RECALL_SECONDS)

    @invariant()
    def somebody_looks_at_late_items(self):
        """A worker whose task is late, or unwanted, is seen in time."""
        if hasattr(self, "ledger"):
            self.ledger.check_looks(self.now, self.workers.values())

    @invariant()
    def books_agree(self):
        """The scheduler and the ledger count the same."""
        if hasattr(self, "ledger") and not self.is_over():
            # Without a job, a worker may be due to start.
            assert self.scheduler.has_work or not self.ledger.jobs
            assert self.ledger.jobs or (not self.scheduler.has_work) or self.scheduler.wake_at
            assert self.scheduler.has_idle == (self.ledger.free() is not None)
            assert set(self.scheduler.workers) == set(self.ledger.holding)

    def teardown(self):
        """When all input has come and all workers answer, every job finishes."""
        if not hasattr(self, "ledger"):
            return
        self.refuse_next = self.restless = 0
        for job in self.open_jobs():
            self.feed(InputArrived(job, 0, is_open=False))
        for _ in range(20_000):
            if self.is_over():
                return
            if not self.ledger.jobs and self.ledger.is_closed:
                break
            if not self.ledger.jobs:
                self.feed(Closed())
            self.go_on()
        assert not self.ledger.jobs, f"jobs {list(self.ledger.jobs)} never finish"
        assert self.ledger.free() is None

    def go_on(self):
        """Do a little of everything but accidents."""
        while self.starts:
            self.start(succeeds=1)
        for number in self.living():
            self.step(self.workers[number])
        for number in list(self.workers):
            self.hear_one(self.workers[number])
        for job, count in self.takable().items():
            if not self.is_over():
                self.feed(Consumed(job, count, starved=True))
        if self.scheduler.wake_at is not None and not self.is_over():
            self.now = max(self.now, self.scheduler.wake_at)
            self.feed(Tick())


AnyOrder.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # To shrink a failure takes minutes; add `Phase.shrink` to study one.
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
test_scheduler_in_any_order = AnyOrder.TestCase
