"""Pools on Ray and Dask against Ray's own Pool and Dask's own `map`, in turns on one cluster.

A metric that ends in `theirs` is what the cluster's own means took. Where they
are given fewer tasks, because they would take minutes, a rate is a rate all the
same. `halves` is what the cluster makes of two tasks that hold half of the work each:
what its own processes take of the two cores, nobody can use.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.constants import pick
from benchmarks.contenders import Contender, Dask, Ray
from benchmarks.scenario import (
    HIGHER,
    LOWER,
    Metric,
    Metrics,
    Scenario,
    Settings,
    at_least,
    at_most,
    check,
)
from benchmarks.skew import floor, spins
from benchmarks.tasks import same

ROUNDS = 3
NOTHINGS = 200_000
# Dask's `map` makes a task of each item, a few hundred a second.
MOST_NOTHINGS = {"dask": 5_000}
MILLISECONDS = 3_000
CONSTANT_BYTES = 100 << 20
CONSTANT_TASKS = 200
# It sends the constant with each.
MOST_CONSTANT_TASKS = {"dask": 10}

RATE = (Metric("ours", "tasks/s", HIGHER), Metric("theirs", "tasks/s", HIGHER))
EFFICIENCY = tuple(Metric(name, "of 2 cores", HIGHER) for name in ("ours", "theirs", "halves"))
CONSTANTS = (
    Metric("seconds_ours", "s", LOWER),
    Metric("seconds_theirs", "s", LOWER),
    Metric("sent_ours", "MiB a node", LOWER),
    Metric("sent_theirs", "MiB a node", LOWER),
)

Map = Callable[[Any, list[Any]], Any]


def _by_turns(
    contender: Contender,
    measure: Callable[[Contender], float],
    **further: Callable[[Contender], float],
) -> Metrics:
    """Measure ours and theirs on one cluster, further ones of theirs too; return the medians."""
    samples: dict[str, list[float]] = {name: [] for name in ("ours", "theirs", *further)}
    with _one_node(contender) as theirs, contender, theirs:
        for each in (contender, theirs):
            check(each.map(abs, list(range(-64, 0))) == list(range(64, 0, -1)), "warm-up")
        for _ in range(ROUNDS):
            samples["ours"].append(measure(contender))
            samples["theirs"].append(measure(theirs))
            for name, measure_more in further.items():
                samples[name].append(measure_more(theirs))
    return {name: median(values) for name, values in samples.items()}


def _rate(contender: Contender, settings: Settings) -> Metrics:
    def measure(each: Contender) -> float:
        count = MOST_NOTHINGS.get(each.name, NOTHINGS)
        return count / _time(each.map, same, range(count))

    return _by_turns(contender, measure)


def _efficiency(contender: Contender, settings: Settings) -> Metrics:
    loops = [settings.loops(0.001)] * settings.pick(MILLISECONDS, 1_000)

    def measure(each: Contender) -> float:
        return spins(each.map, loops, contender.workers)

    def halves(theirs: Contender) -> float:
        workers = contender.workers
        return spins(theirs.map, [sum(loops) // workers] * workers, workers)

    return _by_turns(contender, measure, halves=halves)


def _floor(settings: Settings) -> Metrics:
    share = floor(settings, [0.001] * MILLISECONDS)
    return {metric.name: share for metric in EFFICIENCY}


def _constant(contender: Contender, settings: Settings) -> Metrics:
    """Measure a large constant on two nodes, and what crosses the network for it."""
    import numpy as np

    constant = np.arange(settings.pick(CONSTANT_BYTES, CONSTANT_BYTES // 4) // 8, dtype=float)
    found = {}
    with _two_nodes(contender) as (theirs, nodes), contender, theirs:
        for name, each in (("ours", contender), ("theirs", theirs)):
            each.map(abs, list(range(-64, 0)))
            constant = constant + 1.0  # another one: nothing of it is there yet
            tasks = MOST_CONSTANT_TASKS.get(each.name, CONSTANT_TASKS)
            expected = [float(constant[index]) for index in range(tasks)]
            before = _loopback_bytes()
            seconds = _time(each.map, partial(pick, constant), range(tasks), expected)
            found[f"seconds_{name}"] = seconds
            found[f"sent_{name}"] = (_loopback_bytes() - before) / nodes / 2**20
    return found


def _time(run: Map, function: Any, items: Any, expected: list[Any] | None = None) -> float:
    items = list(items)
    begun = perf_counter()
    results = run(function, items)
    taken = perf_counter() - begun
    check(list(results) == (items if expected is None else expected), "results")
    return taken


def _loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    return 0


@contextmanager
def _one_node(contender: Contender) -> Iterator[Contender]:
    """Start a cluster here, and give the contender whose own it is."""
    theirs: Contender = Ray(contender.workers)
    if contender.name == "motorpool-dask":
        theirs = Dask(contender.workers)
    theirs.open()
    if contender.name == "motorpool-dask":
        contender.engine = theirs.pool  # type: ignore[attr-defined]
    yield theirs


@contextmanager
def _two_nodes(contender: Contender) -> Iterator[tuple[Contender, int]]:
    """Start a cluster of nodes with one worker each, and give the number of nodes beside ours."""
    if contender.name == "motorpool-dask":
        # Its processes share no memory, so each is a node of its own; what goes
        # to the workers passes through the scheduler, which is one too.
        with _one_node(contender) as theirs:
            yield theirs, contender.workers + 1
        return
    import ray
    from ray.cluster_utils import Cluster

    sizes = {"object_store_memory": 1 << 30, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **sizes})
    for _ in range(contender.workers):
        cluster.add_node(num_cpus=1, object_store_memory=1 << 30)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield Ray(contender.workers), contender.workers
    ray.shutdown()
    cluster.shutdown()


def _scenarios(system: str, own: str, fewer: str = "") -> list[Scenario]:
    shared = Scenario(
        f"clusters.{system}",
        f"no-ops on {system}; theirs is {own}",
        RATE,
        _rate,
        bounds=(at_least("ours", 5, "itself", "theirs"),),
        needs=("map",),
        ours=f"motorpool-{system}",
        peers=(),
        is_for_heavy=True,
        repetitions=1,
        seconds=180.0,
    )
    return [
        shared,
        shared._replace(
            name=f"clusters.{system}-1ms",
            title=f"tasks of 1 ms on {system}",
            metrics=EFFICIENCY,
            run=_efficiency,
            floor=_floor,
            bounds=(
                at_least("ours", 0.9, "one"),
                at_least("ours", 1, "itself", "theirs"),
                at_least("ours", 0.97, "itself", "halves"),
            ),
        ),
        shared._replace(
            name=f"clusters.{system}-constant",
            title=f"{CONSTANT_TASKS} tasks with a bound array of 100 MiB (quick: 25 MiB), "
            f"two nodes of {system}{fewer}",
            metrics=CONSTANTS,
            run=_constant,
            bounds=(
                at_most("seconds_ours", 1, "itself", "seconds_theirs"),
                at_most("sent_ours", 1.1 * CONSTANT_BYTES / 2**20, "one"),
            ),
        ),
    ]


SCENARIOS = [
    *_scenarios("ray", "`ray.util.multiprocessing.Pool`"),
    *_scenarios("dask", "`Client.map` and `gather` (of 5,000)", "; theirs 10 tasks"),
]
