"""The scheduler in virtual time: items that survive their workers, and how well these are used."""

import random

import pytest

import motorpool.worker.run
from motorpool.messages import (
    Chunk,
    ChunkDone,
    StartWorker,
    WorkerLost,
)
from motorpool.scheduler import Cost
from motorpool.scheduler.chunking import BUDGET_SECONDS
from motorpool.worker.run import NoJournal, Pace, Running, run_chunk
from simulator import (
    LONG,
    SHORT,
    Fate,
    SimulatedWorker,
    Simulation,
    ideal,
    in_order,
    makespan,
)


@pytest.mark.parametrize("moment", ["reading", "loading", "running", "sending"])
def test_every_item_is_settled_though_workers_die(moment):
    """Wherever workers die, every item is delivered or fails, and few fail."""
    generator = random.Random(moment)

    def fate(_worker, _chunk):
        return Fate(moment, generator.randrange(4)) if generator.random() < 0.05 else None

    simulation = Simulation(4, lambda _job, index: 0.0002 * (index % 7), fate=fate)
    jobs = [simulation.submit(500), simulation.submit(500, chunksize=7)]
    jobs.append(simulation.submit_stream(500))
    simulation.run()

    assert sorted(simulation.finished_at) == jobs
    deaths = simulation.counts[WorkerLost]
    assert deaths > 5
    assert simulation.ledger.failed.total() <= deaths * (64 if moment == "sending" else 1)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(lambda n: "fails" if n % 3 == 1 else "ready", id="some cannot be started"),
        pytest.param(lambda n: "dies" if n % 3 == 1 else "ready", id="some die before ready"),
    ],
)
def test_pool_works_though_some_starts_fail(start):
    """Failed starts are made up for, and cost no item."""
    simulation = Simulation(8, lambda _job, _index: 0.01, start=start)
    job = simulation.submit(500)
    simulation.run()

    assert list(simulation.finished_at) == [job]
    assert not simulation.ledger.failed
    assert len(simulation.ledger.ready) == 8


def test_workers_that_are_replaced_lose_nothing():
    """`maxtasksperchild` costs starts and no item."""
    simulation = Simulation(4, lambda _job, _index: 0.001, tasks_per_worker=10)
    simulation.submit(200)
    simulation.close()
    simulation.run()

    assert list(simulation.finished_at) == [0]
    assert simulation.counts[StartWorker] >= 20
    assert not simulation.ledger.failed


@pytest.mark.parametrize("take_seconds", [0.0, 1e-3])
def test_stream_is_read_no_further_than_its_consumer_needs(take_seconds):
    """A slow consumer has little lying before it, a fast one keeps the workers busy."""
    simulation = Simulation(4, lambda _job, _index: 1e-4, take_seconds=take_seconds)
    furthest = 0
    job = simulation.submit_stream(2000)
    while job not in simulation.finished_at and simulation.now < 60.0:
        simulation.run(simulation.now + 0.005)
        account = simulation.ledger.jobs.get(job)
        furthest = max(furthest, account.size - account.consumed if account else 0)

    assert job in simulation.finished_at
    assert furthest <= (100 if take_seconds else 2000)


@pytest.mark.parametrize("chunksize", [1, 7])
@pytest.mark.parametrize("chunks", ["first", "last"])
def test_chunks_that_turn_out_long_are_shared_out(chunksize, chunks):
    """Chunks that travel together go to whoever is idle, when they take longer than expected."""
    long = range(20 * chunksize) if chunks == "first" else range(980, 1000)
    cost = Cost()
    cost.seconds = SHORT
    simulation = Simulation(2, lambda _job, item: 0.1 if item in long else SHORT)
    simulation.submit(1000, chunksize, cost)
    simulation.run()

    assert simulation.now <= 0.1 * (len(long) / 2 + chunksize) + 0.1


def test_thousands_of_workers_finish():
    """Two thousand workers share a job evenly."""
    seconds, simulation = makespan(2000, [0.1] * 6000)

    assert ideal(2000, [0.1] * 6000) / seconds >= 0.9
    assert simulation.counts[ChunkDone] == 6000


@pytest.mark.parametrize("seed", range(10))
def test_simulated_worker_splits_as_the_real_one_does(seed, monkeypatch):
    """The simulator's worker and `run_chunk` agree on what a chunk's budget leaves."""
    generator = random.Random(seed)
    lengths = [generator.choice([2**-18, 2**-12, 2**-9]) for _ in range(20_000)]
    if seed % 2:
        lengths[:2500] = [2**-18] * 2500
    clock = [0.0]
    monkeypatch.setattr(motorpool.worker.run, "perf_counter", lambda: clock[0])

    def call(index):
        clock[0] += lengths[index]
        return index

    worker, pace, start = SimulatedWorker(1), Pace(), 0
    for number, size in enumerate([1, 5, 1500, 200, 700, 594]):
        stop = start + size
        running = Running(start, stop)
        run_chunk(call, iter(range(start, stop)), running, BUDGET_SECONDS, pace, NoJournal())
        worker.inbox.append((Chunk(number, 0, start, stop), BUDGET_SECONDS))
        worker.read()
        while worker.claim():
            at = worker.running
            if not worker.ran(sum(lengths[at.index : at.upto])):
                break
        worker.answer()
        worker.clear()

        done = worker.outbox.pop()
        assert done.values == running.values
        assert done.stop == start + len(running.values)
        start = stop


# How well the workers are used


def long_ones(at):
    """Return 400 tasks of which 20 are 50 times longer than the rest."""
    short, long = [0.01] * 380, [0.5] * 20
    return long + short if at == "first" else short + long


def one_long(position):
    """Return 10,000 tasks of 10 us, one of them of 1 s."""
    lengths = [SHORT] * 10_000
    lengths[position] = LONG
    return lengths


WORK = {2: 4.0, 16: 2.0, 128: 1.0, 1000: 1.0}
"""Seconds of work for each worker; the longest task is a tenth of it."""


def heavy_tail(workers, kind):
    """Return tasks whose lengths have a heavy tail."""
    generator = random.Random(f"{workers} {kind}")
    scale = 4 if workers == 1000 else 1
    draw = {
        "lognormal": lambda: generator.lognormvariate(-6.0, 1.5),
        "pareto": lambda: 0.001 * generator.paretovariate(1.2),
    }[kind]
    lengths = []
    total = 0.0
    while total < WORK[workers] * workers:
        lengths.append(min(scale * draw(), WORK[workers] / 10))
        total += lengths[-1]
    return lengths


WORKLOADS = {
    "20 long of 400, first": lambda workers: long_ones("first"),
    "20 long of 400, last": lambda workers: long_ones("last"),
    "one long of 10000, first": lambda workers: one_long(0),
    "one long of 10000, second": lambda workers: one_long(1),
    "one long of 10000, at 1000": lambda workers: one_long(1000),
    "one long of 10000, in the middle": lambda workers: one_long(5000),
    "one long of 10000, at 9900": lambda workers: one_long(9900),
    "one long of 10000, last": lambda workers: one_long(9999),
    "lognormal": lambda workers: heavy_tail(workers, "lognormal"),
    "pareto": lambda workers: heavy_tail(workers, "pareto"),
}
# 20 long tasks on 16 workers take two rounds, whoever schedules them; and nobody
# knows that the last ones are long.
TWO_ROUNDS = {("20 long of 400, first", 16), ("20 long of 400, last", 16)}


@pytest.mark.parametrize("workers", [2, 16, 128, 1000])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_workers_are_used_nine_tenths_of_the_time(workload, workers, record_property):
    """A job takes little longer than it must, however its long tasks lie."""
    lengths = WORKLOADS[workload](workers)
    seconds, _ = makespan(workers, lengths)
    record_property("ratio to the ideal", ideal(workers, lengths) / seconds)
    record_property("ratio to tasks in order", in_order(workers, lengths) / seconds)

    reference = in_order if (workload, workers) in TWO_ROUNDS else ideal
    assert reference(workers, lengths) / seconds >= 0.9
