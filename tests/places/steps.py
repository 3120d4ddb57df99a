"""What is run in a place: steps of flat source, each with the output it must print.

A step prints a line before and a line after its own output, so that several steps
can share one process and still be judged one by one.
"""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# The module under test; `PLACES_POOL=multiprocessing` shows what the stdlib does instead.
IMPORT_POOL = f"from {os.environ.get('PLACES_POOL', 'motorpool')} import Pool"


class Step(NamedTuple):
    """A piece of a flat script, and what it prints."""

    name: str
    source: str
    printed: str = ""
    check: str = ""
    """Source run after the step; it prints nothing and raises if something is wrong."""

    @property
    def begin(self) -> str:
        """The line printed before the step."""
        return f"<<{self.name}>>"

    @property
    def end(self) -> str:
        """The line printed after the step, if it did not raise."""
        return f"<</{self.name}>>"

    @property
    def text(self) -> str:
        """The step as part of a script."""
        return f"print({self.begin!r})\n{self.source}\n{self.check}\nprint({self.end!r})\n"

    def output_in(self, stdout: str) -> str:
        """Return what the step printed, with whatever followed if it never ended."""
        began = stdout.count(self.begin)
        if began != 1:
            return f"(the step began {began} times)\n{stdout}"
        pattern = f"{re.escape(self.begin)}\n(.*?)(?:{re.escape(self.end)}|\\Z)"
        found = re.search(pattern, stdout, re.DOTALL)
        return found[1].rstrip("\n") if found else stdout


def start_method(method: str) -> Step:
    """Return the step that chooses a start method; it goes first."""
    return Step(
        "start method",
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r})",
    )


def script(steps: Iterable[Step]) -> str:
    """Return the steps as one flat script."""
    return "\n".join(step.text for step in steps)


def statements(source: str) -> list[str]:
    """Split source into its top-level statements, without blank lines."""
    lines = source.splitlines()
    found = []
    start = 0
    for node in ast.parse(source).body:
        found.append("\n".join(line for line in lines[start : node.end_lineno] if line.strip()))
        start = node.end_lineno or start
    return found


def typed(source: str) -> str:
    """Return source as it is typed at a prompt: an empty line ends each block."""
    return "".join(
        statement + ("\n\n" if "\n " in statement else "\n") for statement in statements(source)
    )
