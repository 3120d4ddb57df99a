"""Import, the first result, and the first result after a death."""

import os
import subprocess
import sys
import time
from statistics import median
from time import perf_counter

from benchmarks import floors
from benchmarks.contenders import Contender
from benchmarks.scenario import LOWER, Metric, Metrics, Scenario, Settings, at_most, check
from benchmarks.tasks import increment

MILLISECONDS = (Metric("ms", "ms", LOWER),)
FIRST_AND_NEXT = (Metric("first", "ms", LOWER), Metric("ms", "ms", LOWER))
MOST_SECONDS = 3.0
IMPORTS = {
    "motorpool": "from motorpool import Pool",
    "stdlib": "from multiprocessing.pool import Pool",
    "futures": "from concurrent.futures import ProcessPoolExecutor",
    "joblib": "from joblib import Parallel",
    "loky": "from joblib.externals.loky import ProcessPoolExecutor",
    "mpire": "from mpire import WorkerPool",
    "pebble": "from pebble import ProcessPool",
    "billiard": "from billiard import Pool",
    "ray": "import ray",
    "dask": "from distributed import Client",
}


def _import(contender: Contender, settings: Settings) -> Metrics:
    program = (
        "from time import perf_counter as t; begun = t(); "
        f"{IMPORTS[contender.name]}; print(1000 * (t() - begun))"
    )
    rounds = settings.pick(9, 5) if not contender.is_heavy else 2
    times = [
        float(subprocess.run([sys.executable, "-c", program], check=True, stdout=-1).stdout)
        for _ in range(rounds)
    ]
    return {"ms": median(times)}


def _first_result(contender: Contender, settings: Settings) -> Metrics:
    """Measure pools one after the other; the first also starts what all pools share."""
    exec(IMPORTS[contender.name.partition("-")[0]], {})
    times: list[float] = []
    for number in range(settings.pick(15, 7)):
        if sum(times) > MOST_SECONDS * 1000:
            break
        begun = perf_counter()
        with contender:
            check(contender.apply(increment, number) == number + 1, "first result")
        times.append(1000 * (perf_counter() - begun))
    return {"first": times[0], "ms": median(times[1:])}


def _respawn(contender: Contender, settings: Settings) -> Metrics:
    """Kill the only worker while it is idle, then ask for a result."""
    import signal

    contender.workers = 1
    times = []
    contender.open()
    for _ in range(settings.pick(9, 5)):
        pid = contender.apply(os.getpid)
        begun = perf_counter()
        os.kill(pid, signal.SIGKILL)
        check(contender.apply(os.getpid) != pid, "a new worker")
        times.append(1000 * (perf_counter() - begun))
        time.sleep(0.02)
    contender.kill()
    return {"ms": median(times)}


def _fork(settings: Settings) -> Metrics:
    times = [1000 * floors.fork_and_exit() for _ in range(settings.pick(50, 20))]
    return {"first": times[0], "ms": median(times)}


def _interpreter(settings: Settings) -> Metrics:
    times = [1000 * floors.bare_interpreter() for _ in range(settings.pick(15, 7))]
    return {"first": times[0], "ms": median(times)}


SCENARIOS = [
    Scenario(
        "startup.import",
        "import",
        MILLISECONDS,
        _import,
        None,
        (at_most("ms", 1.5, "stdlib"),),
        peers=tuple(name for name in IMPORTS if name not in ("motorpool", "loky")),
        is_for_heavy=True,
    ),
    Scenario(
        "startup.fork",
        "pool, first result, close: fork",
        FIRST_AND_NEXT,
        _first_result,
        _fork,
        (at_most("ms", 1, "futures"), at_most("first", 1, "futures")),
        ("apply",),
        peers=("stdlib", "futures", "mpire", "pebble", "billiard"),
    ),
    Scenario(
        "startup.spawn",
        "pool, first result, close: spawn",
        FIRST_AND_NEXT,
        _first_result,
        _interpreter,
        (at_most("ms", 1 / 1.5, "stdlib-spawn"),),
        ("apply",),
        ours="motorpool-spawn",
        peers=("stdlib-spawn", "futures-spawn", "loky"),
    ),
    Scenario(
        "startup.forkserver",
        "pool, first result, close: forkserver (first: server included)",
        FIRST_AND_NEXT,
        _first_result,
        _interpreter,
        (
            at_most("ms", 1 / 1.5, "stdlib-forkserver"),
            at_most("first", 1 / 1.5, "stdlib-forkserver"),
        ),
        ("apply",),
        ours="motorpool-forkserver",
        peers=("stdlib-forkserver", "futures-forkserver"),
    ),
    Scenario(
        "startup.respawn",
        "SIGKILL of the only, idle worker to the next result",
        MILLISECONDS,
        _respawn,
        _fork,
        (),
        ("apply",),
        peers=("stdlib", "mpire", "pebble", "billiard"),
        seconds=8.0,
        repetitions=1,
    ),
]
