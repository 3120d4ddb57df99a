"""The checks of `motorpool.testing` on other projects' executors, each in a program of its own."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import motorpool

SECONDS = 55

PROGRAM = """
import os
import sys
from functools import partial
from motorpool import Pool
from motorpool.testing import check_engine

def check(executor, *leave_out, **options):
    passed = check_engine(partial(Pool, engine=executor, **options), leave_out=leave_out)
    print(len(passed), "passed")

def parent():
    import multiprocessing
    return multiprocessing.parent_process().pid

def nest(_):
    with Pool(1) as pool:
        return pool.apply(parent) == os.getpid()

if __name__ == "__main__":
"""

# What makes the executor, in a program whose last check may break it.
MAKERS = {
    "loky": """
    import loky
    with Pool(engine=loky.get_reusable_executor(2)) as pool:
        assert pool.map(nest, [0]) == [True]
    check(loky.get_reusable_executor(2))
    loky.get_reusable_executor().shutdown(kill_workers=True)
""",
    "executorlib": """
    from executorlib import SingleNodeExecutor
    with SingleNodeExecutor(max_workers=2, block_allocation=True) as executor:
        check(executor)
""",
    "parsl": """
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    local = HighThroughputExecutor(max_workers_per_node=2, address="127.0.0.1")
    with ParslPoolExecutor(Config(executors=[local], run_dir=sys.argv[1])) as executor:
        check(executor)
""",
    # MPI ends the program when a process of it dies.
    "mpi4py": """
    from mpi4py.futures import MPIPoolExecutor
    with MPIPoolExecutor() as executor:
        check(executor, "a lost worker ends in an error")
""",
}


def command_for(package):
    """Return how to run a program with the executor of a package."""
    if package != "mpi4py":
        return [sys.executable]
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if mpiexec is None:
        pytest.skip("mpi4py is here, but no mpiexec")
    return [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures"]


@pytest.mark.slow
@pytest.mark.parametrize("package", MAKERS)
def test_executor_passes(package, tmp_path):
    """The executors that people have on clusters pass what the standard library's pass."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM + MAKERS[package])
    source = str(Path(motorpool.__file__).parents[1])
    ended = subprocess.run(
        [*command_for(package), program, tmp_path / "runs"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": source,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert "passed" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.slow
def test_flat_script_under_mpi_runs_once(tmp_path):
    """The workers of MPI get what they need of the script; they do not run it."""
    pytest.importorskip("mpi4py")
    program = tmp_path / "program.py"
    program.write_text("""
from motorpool import Pool
def square(n):
    return n * n
with Pool(2) as pool:
    print(pool.map(square, range(4)))
""")
    ended = subprocess.run(
        [*command_for("mpi4py"), program],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(motorpool.__file__).parents[1]),
            "MOTORPOOL_ENGINE": "mpi4py.futures:MPIPoolExecutor",
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert ended.stdout == "[0, 1, 4, 9]\n", ended.stdout + ended.stderr
