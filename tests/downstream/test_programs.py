"""Third-party programs that take a pool compute the same on motorpool's.

Each is used as its documentation shows, and compared with its own serial run.
"""

import io
import os
import pathlib
import subprocess
import sys

import program_tasks as tasks
import pytest

import motorpool

pytestmark = pytest.mark.downstream


def test_scipy_differential_evolution_with_pool_map(program_pool):
    """SciPy's optimiser takes `pool.map` as its workers."""
    optimize = pytest.importorskip("scipy.optimize")

    def solve(workers):
        return optimize.differential_evolution(
            tasks.bowl,
            [(-5, 5)] * 2,
            maxiter=4,
            popsize=6,
            polish=False,
            rng=1,
            updating="deferred",
            workers=workers,
        )

    parallel, serial = solve(program_pool.map), solve(map)

    assert parallel.x.tolist() == serial.x.tolist()
    assert parallel.fun == serial.fun
    assert parallel.nfev == serial.nfev


def test_emcee_chain_with_pool(program_pool):
    """An emcee sampler takes the pool itself."""
    emcee = pytest.importorskip("emcee")
    numpy = pytest.importorskip("numpy")
    start = numpy.random.default_rng(3).normal(size=(8, 2))

    def chain(pool):
        sampler = emcee.EnsembleSampler(8, 2, tasks.log_likelihood, pool=pool)
        sampler.random_state = numpy.random.RandomState(5).get_state()
        sampler.run_mcmc(start, 10)
        return sampler.get_chain().tolist()

    parallel, serial = chain(program_pool), chain(None)

    assert parallel == serial


class SerialPool:
    """A pool of two that is none, so that only the place of the work differs."""

    _processes = 2

    @staticmethod
    def map(function, iterable):
        """Return what the pool's method returns."""
        return list(map(function, iterable))


def test_dynesty_evidence_with_pool_that_tells_its_size(program_pool):
    """A dynesty sampler learns from the pool how many points to queue."""
    dynesty = pytest.importorskip("dynesty")
    numpy = pytest.importorskip("numpy")

    def samples(pool):
        sampler = dynesty.NestedSampler(
            tasks.log_likelihood,
            tasks.to_prior,
            2,
            nlive=30,
            bound="single",
            sample="unif",
            rstate=numpy.random.default_rng(11),
            pool=pool,
        )
        assert sampler.queue_size == 2
        sampler.run_nested(dlogz=2.0, print_progress=False)
        return sampler.results

    parallel, serial = samples(program_pool), samples(SerialPool())

    assert parallel.samples.tolist() == serial.samples.tolist()
    assert parallel.logz[-1] == serial.logz[-1]


def test_nautilus_evidence_with_pool_that_tells_its_size(program_pool):
    """A nautilus sampler reads the pool's size and maps its likelihood over it."""
    nautilus = pytest.importorskip("nautilus")

    def evidence(pool):
        prior = nautilus.Prior()
        prior.add_parameter("a", dist=(-10, 10))
        prior.add_parameter("b", dist=(-10, 10))
        sampler = nautilus.Sampler(
            prior,
            tasks.log_likelihood_of_named,
            n_live=60,
            n_batch=20,
            n_networks=0,
            seed=1,
            pool=(pool, None),
        )
        sampler.run(n_eff=50, discard_exploration=False)
        return sampler.log_z

    assert evidence(program_pool) == evidence(None)


def test_deap_toolbox_maps_over_pool(program_pool):
    """A DEAP toolbox whose `map` is the pool's evolves the same population."""
    deap_problem = pytest.importorskip("deap_problem", reason="deap is not installed")

    parallel, serial = deap_problem.evolve(program_pool.map), deap_problem.evolve(map)

    assert parallel == serial
    assert [point.fitness.values for point in parallel] == [
        point.fitness.values for point in serial
    ]


GUARDED = """

if __name__ == "__main__":
    import multiprocessing
    import sys

    from motorpool import Pool

    with Pool(2, context=multiprocessing.get_context(sys.argv[1])) as pool:
        print(evolve(pool.map) == evolve(map))
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_deap_script_makes_its_classes_in_main(tmp_path, method):
    """Classes that `__main__` made inside another module are found in workers."""
    pytest.importorskip("deap")
    script = tmp_path / "evolve.py"
    source = pathlib.Path(__file__).with_name("deap_problem.py").read_text()
    script.write_text(source + GUARDED)

    done = run_script(script, method)

    assert done.stdout.split() == ["True"], done.stderr


def run_script(script, *arguments):
    """Run a script in an interpreter that finds motorpool, and return how it ended."""
    installed = pathlib.Path(motorpool.__file__).resolve().parent.parent
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_pymoo_starmap_parallelization(program_pool):
    """Pymoo evaluates a problem through `pool.starmap`."""
    pytest.importorskip("pymoo")
    import pymoo_problem

    parallel = pymoo_problem.minimize(program_pool.starmap)
    serial = pymoo_problem.minimize(None)

    assert parallel.X.tolist() == serial.X.tolist()
    assert parallel.F.tolist() == serial.F.tolist()


def test_tqdm_over_imap_unordered(program_pool):
    """A progress bar around `imap_unordered` counts to the end."""
    tqdm = pytest.importorskip("tqdm")
    screen = io.StringIO()

    found = list(
        tqdm.tqdm(program_pool.imap_unordered(tasks.square, range(50)), total=50, file=screen)
    )

    assert sorted(found) == [n * n for n in range(50)]
    assert "50/50" in screen.getvalue()


def test_dask_processes_scheduler_with_pool_from_config(program_pool):
    """Dask's local scheduler for processes takes the pool from its configuration."""
    dask = pytest.importorskip("dask")
    total = dask.delayed(sum)([dask.delayed(tasks.square)(n) for n in range(20)])

    with dask.config.set(pool=program_pool, scheduler="processes"):
        parallel = total.compute()

    assert parallel == total.compute(scheduler="synchronous")


def test_dask_threads_scheduler_with_thread_pool():
    """Dask's local scheduler for threads takes a pool of threads."""
    dask = pytest.importorskip("dask")
    total = dask.delayed(sum)([dask.delayed(tasks.square)(n) for n in range(20)])

    with motorpool.ThreadPool(2) as pool, dask.config.set(pool=pool, scheduler="threads"):
        parallel = total.compute()

    assert parallel == sum(n * n for n in range(20))


def test_networkx_parallel_betweenness_counts_workers(program_pool):
    """The gallery example of NetworkX divides its nodes by `len(pool._pool)`."""
    networkx = pytest.importorskip("networkx")
    graph = networkx.barbell_graph(6, 4)
    nodes = list(graph)
    size = max(1, len(nodes) // (len(program_pool._pool) * 4))
    groups = [nodes[i : i + size] for i in range(0, len(nodes), size)]

    parts = program_pool.starmap(
        networkx.betweenness_centrality_subset,
        [(graph, group, nodes, True, None) for group in groups],
    )

    total = {node: sum(part[node] for part in parts) for node in nodes}
    assert total == pytest.approx(networkx.betweenness_centrality(graph))
