"""The same program on a laptop, an executor, MPI, Slurm, Dask and Ray: docs/outgrow-one-machine.md.

It throws darts at a square and counts those in the circle. Where it runs, the
environment variable MOTORPOOL_ENGINE says.
"""

import os
import random
import socket
import sys

from motorpool import Pool

DARTS = 100_000


class Throw:
    """What came of some darts."""

    def __init__(self, inside: int, where: tuple[str, int]) -> None:
        self.inside = inside
        self.where = where


def throw(seed: int) -> Throw:
    """Throw darts, and say in which process."""
    dice = random.Random(seed)  # noqa: S311 - not a secret
    inside = sum(dice.random() ** 2 + dice.random() ** 2 < 1 for _ in range(DARTS))
    return Throw(inside, (socket.gethostname(), os.getpid()))


def main(rounds: int) -> None:
    """Throw, and print what was found."""
    with Pool() as pool:
        throws = pool.map(throw, range(rounds))
    pi = 4 * sum(throw.inside for throw in throws) / (DARTS * rounds)
    print(f"pi is about {pi:.4f}, by {len({throw.where for throw in throws})} processes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
