"""A DEAP problem as its tutorial has it: classes are made at the module's top."""

import random

from deap import algorithms, base, creator, tools

creator.create("Smallest", base.Fitness, weights=(-1.0,))
creator.create("Point", list, fitness=creator.Smallest)


def evaluate(individual):
    """Return the squared distance from the origin, as DEAP wants it: a tuple."""
    return (sum(x * x for x in individual),)


def evolve(mapper):
    """Return the population after three generations from a fixed seed."""
    random.seed(7)
    toolbox = base.Toolbox()
    toolbox.register("map", mapper)
    toolbox.register("gene", random.uniform, -5.0, 5.0)
    toolbox.register("individual", tools.initRepeat, creator.Point, toolbox.gene, n=3)
    toolbox.register("population", tools.initRepeat, list, toolbox.individual)
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", tools.mutGaussian, mu=0.0, sigma=1.0, indpb=0.3)
    toolbox.register("select", tools.selTournament, tournsize=3)
    toolbox.register("evaluate", evaluate)
    population = toolbox.population(n=12)
    population, _ = algorithms.eaSimple(
        population, toolbox, cxpb=0.5, mutpb=0.3, ngen=3, verbose=False
    )
    return population
