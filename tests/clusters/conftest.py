"""Real clusters on this machine, of several nodes, one of each kind for all tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

import motorpool

DEADLINE = 40.0
NODES = 2


def eventually(condition, seconds=DEADLINE):
    """Return once `condition()` is true; raise after so many seconds."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            msg = f"not so within {seconds} s"
            raise AssertionError(msg)
        time.sleep(0.02)


class RayCluster:
    """A head without CPUs, and nodes of one CPU."""

    kind = "ray"
    engine = "ray"

    def __init__(self):
        import ray
        from ray.cluster_utils import Cluster

        self._ray = ray
        self._store = 100 * 2**20  # bytes, the least that Ray takes is some 75 MiB
        head = {
            "num_cpus": 0,
            "object_store_memory": self._store,
            "include_dashboard": False,
            # By default a node is missed after a quarter of a minute.
            "_system_config": {
                "health_check_initial_delay_ms": 0,
                "health_check_period_ms": 1000,
                "health_check_failure_threshold": 3,
            },
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = []
        self.heal()
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level="error")
        self.environment = {"MOTORPOOL_ENGINE": "ray", "RAY_ADDRESS": self._cluster.address}

    def cpus(self):
        """Return how many CPUs the cluster says it has."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def add_node(self):
        """Start a node of one CPU."""
        self._nodes.append(self._cluster.add_node(num_cpus=1, object_store_memory=self._store))

    def kill_node(self):
        """End a node without warning, and what runs on it."""
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def heal(self):
        """Bring the cluster back to its size."""
        while len(self._nodes) > NODES:
            self.kill_node()
        while len(self._nodes) < NODES:
            self.add_node()

    def close(self):
        """End it all."""
        self._ray.shutdown()
        self._cluster.shutdown()


class DaskCluster:
    """A scheduler, and workers of one thread, each a process of its own."""

    kind = "dask"

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.engine = f"tcp://127.0.0.1:{port}"
        self._nodes = []
        self._scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"
        )
        from distributed import Client

        self.client = Client(self.engine, set_as_default=False, timeout=DEADLINE)
        self.heal()
        self.environment = {"MOTORPOOL_ENGINE": self.engine}

    @staticmethod
    def _start(what, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{what}", *arguments],
            stderr=subprocess.DEVNULL,
        )

    def cpus(self):
        """Return how many threads the cluster says it has."""
        return sum(self.client.nthreads().values())

    def add_node(self):
        """Start a worker."""
        self._nodes.append(
            self._start("worker", self.engine, "--nthreads", "1", "--no-nanny", "--no-dashboard")
        )

    def kill_node(self):
        """End a worker without warning."""
        node = self._nodes.pop(0)
        node.kill()
        node.wait()

    def stop_node(self, seconds):
        """Have the last worker stand still for a while."""
        node = self._nodes[-1]
        node.send_signal(signal.SIGSTOP)
        threading.Timer(seconds, node.send_signal, [signal.SIGCONT]).start()

    def kill_scheduler(self):
        """End the scheduler without warning."""
        self._scheduler.kill()
        self._scheduler.wait()

    def heal(self):
        """Bring the cluster back to its size."""
        self._nodes = [node for node in self._nodes if node.poll() is None]
        while len(self._nodes) > NODES:
            self.kill_node()
        while len(self._nodes) < NODES:
            self.add_node()
        eventually(lambda: self.cpus() == NODES)

    def close(self):
        """End it all."""
        self.client.close()
        for process in (*self._nodes, self._scheduler):
            process.kill()
        for process in (*self._nodes, self._scheduler):
            process.wait()


def _cluster(kind, package, make):
    @pytest.fixture(scope="session", name=f"{kind}_session")
    def session():
        pytest.importorskip(package)
        made = make()
        yield made
        made.close()

    return session


ray_session = _cluster("ray", "ray", RayCluster)
dask_session = _cluster("dask", "distributed", DaskCluster)

KINDS = [pytest.param("ray", marks=pytest.mark.ray), pytest.param("dask", marks=pytest.mark.dask)]


@pytest.fixture(autouse=True)
def leak_guard():
    """Leave clusters their processes and threads: they outlive a test."""


@pytest.fixture(params=KINDS)
def cluster(request):
    """Give a cluster of two nodes of one CPU each."""
    made = request.getfixturevalue(f"{request.param}_session")
    made.heal()
    eventually(lambda: made.cpus() == NODES)
    return made


@pytest.fixture
def ray_cluster(ray_session):
    """Give the Ray cluster."""
    ray_session.heal()
    return ray_session


@pytest.fixture
def dask_cluster(dask_session):
    """Give the Dask cluster."""
    dask_session.heal()
    return dask_session


@pytest.fixture
def make_pool(cluster):
    """Give a function that opens a pool on the cluster."""
    return partial(motorpool.Pool, engine=cluster.engine)


@pytest.fixture
def run_script(tmp_path):
    """Give a function that starts a script which nothing else on the cluster has seen."""
    started = []

    def start(source, environment, **options):
        script = tmp_path / "script.py"
        script.write_text(source)
        paths = str(Path(motorpool.__file__).parents[1])
        process = subprocess.Popen(
            [sys.executable, script],
            cwd=tmp_path,
            env={**os.environ, **environment, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
