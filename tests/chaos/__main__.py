"""`make soak`: storm after storm for as long as asked, and the account of them all."""

import argparse
import collections
import faulthandler
import gc
import itertools
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

import conftest

from .account import faults
from .storm import HARMLESS, PATIENCE, Storm
from .tasks import ERRORS

STORM_SECONDS = 5


def main():
    """Print a line for each storm, then the sums; fail if an account does not balance."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("motorpool").setLevel(logging.CRITICAL)
    until = time.monotonic() + options.seconds
    sums, wrong = collections.Counter(), []
    for seed in itertools.count(options.seed):
        left = until - time.monotonic()
        if left <= 0 or wrong:
            break
        balance = storm(min(left, STORM_SECONDS), seed)
        wrong += [f"seed {seed}: {name}: {what}" for name, what in faults(balance).items()]
        for name, figure in balance.items():
            sums[name] += figure if isinstance(figure, int) else len(figure)
    for name, figure in sums.items():
        print(f"{name:10} {figure:8}")
    print(*wrong, sep="\n")
    sys.exit(bool(wrong))


def storm(seconds, seed):
    """Let one storm loose on a pool of its own, chosen by the seed, and return its balance."""
    chance = random.Random(seed)
    engines = (*conftest.START_METHODS, "threads")
    method = engines[seed % len(engines)]
    workers = chance.choice((1, 2, 4))
    limit = chance.choice((None, None, 500))
    options, errors = {"maxtasksperchild": limit}, tuple(ERRORS)
    if method == "threads":
        options, errors = {}, HARMLESS
    print(f"seed {seed}: {method}, {workers} workers, {options}", flush=True)
    faulthandler.dump_traceback_later(seconds + 4 * PATIENCE, exit=True)
    conftest._warm_up(method)
    before = conftest.Footprint.take()
    with tempfile.TemporaryDirectory() as folder:
        pool = conftest.build_pool(method, workers, **options)
        balance = Storm(seconds, seed, errors=errors).rage(pool, Path(folder) / "log")
    del pool
    gc.collect()

    def left():
        return conftest.Footprint.take().growth_since(before)

    conftest.eventually(lambda: not left(), conftest.SETTLING)
    balance["left over"] = left()
    faulthandler.cancel_dump_traceback_later()
    return balance


if __name__ == "__main__":
    main()
