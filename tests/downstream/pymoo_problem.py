"""A pymoo problem that is evaluated one solution at a time."""

from pymoo.algorithms.soo.nonconvex.ga import GA
from pymoo.core.problem import ElementwiseProblem
from pymoo.optimize import minimize as pymoo_minimize
from pymoo.parallelization.starmap import StarmapParallelization


class Bowl(ElementwiseProblem):
    """The squared distance from the origin."""

    def __init__(self, **options):
        super().__init__(n_var=3, n_obj=1, xl=-5.0, xu=5.0, **options)

    def _evaluate(self, x, out, *_args, **_options):
        out["F"] = float((x**2).sum())


def minimize(starmap):
    """Return pymoo's result after three generations from a fixed seed."""
    options = {} if starmap is None else {"elementwise_runner": StarmapParallelization(starmap)}
    return pymoo_minimize(Bowl(**options), GA(pop_size=8), ("n_gen", 3), seed=1)
