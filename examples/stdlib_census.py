"""Take a census of the standard library, in parallel and from a flat script.

Every Python file of the running interpreter's standard library becomes an object
of a class defined right here. The workers parse and measure the objects, while
the main thread goes on with something else. There is no `__main__` guard, and
none is needed.
"""

import ast
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from time import perf_counter

from motorpool import Pool, cpu_count

STDLIB = Path(sysconfig.get_path("stdlib"))
NOT_STDLIB = {"site-packages", "dist-packages"}
WORKERS = cpu_count()
BRANCHING_NODES = {"If", "For", "AsyncFor", "While", "Try", "TryStar", "BoolOp", "Match"}

ON_A_TERMINAL = sys.stdout.isatty()
TICK = 0.1 if ON_A_TERMINAL else 1.0  # seconds between two looks at the workers
LINE_BATCH = 100  # files whose lines the main thread counts between two looks


@dataclass
class SourceFile:
    """A module's file and, once measured, what is in it."""

    path: Path
    functions: int = 0
    classes: int = 0
    branches: int = 0
    longest_function: str = ""
    longest_lines: int = 0
    parsed: bool = False

    @property
    def module(self) -> str:
        """The name to import it by."""
        parts = self.path.relative_to(STDLIB).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def measure(source: SourceFile) -> SourceFile:
    """Parse the file and fill in what is found; this is the work to be shared."""
    try:
        with warnings.catch_warnings(), tokenize.open(source.path) as file:
            warnings.simplefilter("ignore")  # the tests contain dubious code on purpose
            tree = ast.parse(file.read())
    except (SyntaxError, ValueError):
        return source  # and wrong code, too: it stays marked as not parsed

    source.parsed = True
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            source.functions += 1
            lines = node.end_lineno - node.lineno + 1
            if lines > source.longest_lines:
                source.longest_function, source.longest_lines = node.name, lines
        elif isinstance(node, ast.ClassDef):
            source.classes += 1
        elif type(node).__name__ in BRANCHING_NODES:
            source.branches += 1
    return source


def is_stdlib(path: Path) -> bool:
    """Tell whether a file comes with Python, and was not installed later."""
    return NOT_STDLIB.isdisjoint(path.parts)


def find_sources() -> list[SourceFile]:
    """Return the standard library's files in a fixed order, not yet measured."""
    paths = sorted(STDLIB.rglob("*.py"))
    return [SourceFile(path) for path in paths if is_stdlib(path.relative_to(STDLIB))]


def count_lines(sources: Iterable[SourceFile]) -> int:
    """Return how many lines these files have together."""
    return sum(source.path.read_bytes().count(b"\n") for source in sources)


def announce(measured: list[SourceFile]) -> None:
    """Say that every result is in; the pool calls this with all of them."""
    say(f"callback: all {len(measured):,} files are measured")


def say(line: str, end: str = "\n") -> None:
    """Print a line that stays, over the line of progress if there is one."""
    print(f"\r{line:<78}" if ON_A_TERMINAL else line, end=end, flush=True)


def show(status: str) -> None:
    """Print a line of progress, which the next line replaces on a terminal."""
    say(status, end="" if ON_A_TERMINAL else "\n")


def table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print a title and, under it, rows of a label and a figure."""
    print(f"\n{title}")
    for label, figure in rows:
        print(f"  {label:<60} {figure:>15}")


sources = find_sources()
say(f"{len(sources):,} files in {STDLIB}, {WORKERS} workers")

# The pool goes first, start-up included, so that if reading the files for the
# first time is slow, it is the pool that pays for it.
started = perf_counter()
with Pool(WORKERS) as pool:
    result = pool.map_async(measure, sources, callback=announce)

    uncounted = iter(sources)
    lines = 0
    while not result.ready():
        lines += count_lines(islice(uncounted, LINE_BATCH))
        seconds = perf_counter() - started
        show(f"workers busy for {seconds:4.1f} s; main thread has counted {lines:,} lines")
        result.wait(TICK)

    measured = result.get()
    pool_seconds = perf_counter() - started
lines += count_lines(uncounted)

started = perf_counter()
expected = []
for source in sources:
    if len(expected) % 300 == 0:
        show(f"the same in a plain loop: {len(expected):,} of {len(sources):,} files")
    expected.append(measure(source))
loop_seconds = perf_counter() - started

if measured != expected:
    sys.exit("The pool's findings differ from those of the plain loop.")
say("The pool's findings equal those of the plain loop, object by object.")

table(
    "In all",
    [
        ("files", f"{len(measured):,}"),
        ("files of wrong code, kept as test data", f"{sum(not s.parsed for s in measured):,}"),
        ("lines", f"{lines:,}"),
        ("functions", f"{sum(s.functions for s in measured):,}"),
        ("classes", f"{sum(s.classes for s in measured):,}"),
        ("branches", f"{sum(s.branches for s in measured):,}"),
    ],
)
longest = sorted(measured, key=attrgetter("longest_lines"), reverse=True)[:5]
table(
    "Longest functions, at most one from a module",
    [(f"{s.module}: {s.longest_function}", f"{s.longest_lines:,} lines") for s in longest],
)
branching = sorted(measured, key=attrgetter("branches"), reverse=True)[:5]
table("Most branching modules", [(s.module, f"{s.branches:,} branches") for s in branching])
table(
    "Wall time, in this run",
    [
        ("plain loop", f"{loop_seconds:.2f} s"),
        (f"motorpool, {WORKERS} workers, start-up included", f"{pool_seconds:.2f} s"),
        ("plain loop / motorpool", f"{loop_seconds / pool_seconds:.2f}"),
    ],
)
