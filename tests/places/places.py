"""The places: each a function that runs steps in a process of their own.

To add one, write a function from steps and an empty directory to a `Run`, and put it
in `PLACES`.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

from .steps import script, statements, typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .steps import Step

DEADLINE = 30
DRIVERS = Path(__file__).with_name("drivers")

# A prompt, and a doctest, echo the value of an expression even inside a `with`.
# The tutorial ignores the value that `map_async` returns; so do these.
NO_ECHO = "import sys; sys.displayhook = lambda value: None"


class Run(NamedTuple):
    """How a process ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        """Show all of it, for the message of a failed test."""
        return (
            f"exit code {self.returncode}\n"
            f"--- stdout\n{self.stdout[-3000:]}\n--- stderr\n{self.stderr[-6000:]}"
        )

    @property
    def is_clean(self) -> bool:
        """Whether the process ended well and complained about nothing."""
        complained = any(word in self.stderr for word in ("Traceback", "Warning"))
        return self.returncode == 0 and not complained


class Place(Protocol):
    """Somewhere that Python code is run from."""

    def __call__(self, steps: Sequence[Step], directory: Path, /) -> Run:
        """Run the steps, using an empty directory, and wait for the end."""


def run(*arguments: str | Path, directory: Path, stdin: str = "") -> Run:
    """Run this Python with `arguments`; past the deadline, kill it and its children."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=directory,
        env=_environment(directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        return _finish(process, stdin)
    finally:
        _kill_session(process)


def _environment(directory: Path) -> dict[str, str]:
    """Return this environment, without what is meant for the pytest that runs here."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "IPYTHONDIR": str(directory / "ipython")}


def _finish(process: subprocess.Popen[str], stdin: str) -> Run:
    """Wait until the process and all who share its output have gone."""
    try:
        stdout, stderr = process.communicate(stdin, timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        _kill_session(process)
        stdout, stderr = process.communicate(timeout=DEADLINE / 3)
        stderr += f"\nTimeoutError: the process, or a child of it, was alive after {DEADLINE} s."
    return Run(process.returncode, stdout, stderr)


def _kill_session(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def written(path: Path, content: str) -> Path:
    """Write a file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def script_file(steps: Sequence[Step], directory: Path) -> Run:
    """`python script.py`."""
    return run(written(directory / "script.py", script(steps)), directory=directory)


def command(steps: Sequence[Step], directory: Path) -> Run:
    """`python -c '...'`."""
    return run("-c", script(steps), directory=directory)


def stdin(steps: Sequence[Step], directory: Path) -> Run:
    """`python - < script.py`."""
    return run("-", stdin=script(steps), directory=directory)


def package(steps: Sequence[Step], directory: Path) -> Run:
    """`python -m package`."""
    written(directory / "package" / "__init__.py", "")
    written(directory / "package" / "__main__.py", script(steps))
    return run("-m", "package", directory=directory)


def zip_application(steps: Sequence[Step], directory: Path) -> Run:
    """`python application.pyz`."""
    written(directory / "application" / "__main__.py", script(steps))
    archive = directory / "application.pyz"
    zipapp.create_archive(directory / "application", archive)
    return run(archive, directory=directory)


def exec_as_main(steps: Sequence[Step], directory: Path) -> Run:
    """`exec` of a string that calls itself `__main__`, as launchers and graders do."""
    return _exec(steps, directory, "{'__name__': '__main__'}")


def exec_nameless(steps: Sequence[Step], directory: Path) -> Run:
    """`exec` of a string in an empty namespace, whose module has no name at all."""
    return _exec(steps, directory, "{}")


def _exec(steps: Sequence[Step], directory: Path, namespace: str) -> Run:
    written(directory / "source.txt", script(steps))
    return run("-c", f"exec(open('source.txt').read(), {namespace})", directory=directory)


def prompt(steps: Sequence[Step], directory: Path) -> Run:
    """`python -i`, typed line by line."""
    return run("-i", "-q", stdin=typed(f"{NO_ECHO}\n{script(steps)}"), directory=directory)


def exec_cells(steps: Sequence[Step], directory: Path) -> Run:
    """`exec` of one string after the other in the `__main__` that runs them."""
    source = f"for cell in {[step.text for step in steps]!r}:\n    exec(cell, globals())\n"
    return run(written(directory / "cells.py", source), directory=directory)


def ipython(steps: Sequence[Step], directory: Path) -> Run:
    """An IPython shell, one cell a step."""
    pytest.importorskip("IPython")
    return _cells("ipython_cells.py", steps, directory)


def jupyter(steps: Sequence[Step], directory: Path) -> Run:
    """A Jupyter kernel, one cell a step."""
    pytest.importorskip("jupyter_client")
    pytest.importorskip("ipykernel")
    return _cells("jupyter_cells.py", steps, directory)


def _cells(driver: str, steps: Sequence[Step], directory: Path) -> Run:
    cells = written(directory / "cells.json", json.dumps([step.text for step in steps]))
    return run(DRIVERS / driver, cells, directory=directory)


def docstring(steps: Sequence[Step], directory: Path) -> Run:
    """`python -m doctest module.py`, where a copy of the module's names is in force."""
    source = f"r'''\n{_doctest(steps)}'''\n"
    return run("-m", "doctest", written(directory / "module.py", source), directory=directory)


def doctest_text(steps: Sequence[Step], directory: Path) -> Run:
    """`python -m doctest text.txt`, where names claim a `__main__` that lacks them."""
    source = _doctest(steps)
    return run("-m", "doctest", written(directory / "text.txt", source), directory=directory)


def _doctest(steps: Sequence[Step]) -> str:
    """Return the steps as a session with its expected output.

    Doctest itself compares, and reports a difference on the real stdout. The lines
    around a step go there too, with the output it must have had: what `Step` then
    finds is the expected output alone, or that and the report.
    """

    def aside(line: str) -> str:
        return f">>> print({line!r}, file=sys.__stdout__)\n"

    def examples(source: str) -> str:
        return "".join(
            f">>> {statement}\n".replace("\n", "\n... ").removesuffix("... ")
            for statement in statements(source)
        )

    return examples(NO_ECHO) + "".join(
        f"{aside(step.begin)}{examples(step.source)}{step.printed}\n\n"
        f"{examples(step.check)}{aside(step.printed)}{aside(step.end)}"
        for step in steps
    )


def pytest_default(steps: Sequence[Step], directory: Path) -> Run:
    """Pytest, on a test module whose directory is put on `sys.path`."""
    return _pytest(directory, _test_module(steps))


def pytest_importlib(steps: Sequence[Step], directory: Path) -> Run:
    """Pytest, on a test module that no path leads to."""
    return _pytest(directory, _test_module(steps), "--import-mode=importlib")


def pytest_local(steps: Sequence[Step], directory: Path) -> Run:
    """Pytest, on one function that holds everything, its classes included."""
    return _pytest(directory, f"def test_all():\n{textwrap.indent(script(steps), '    ')}")


def _pytest(directory: Path, source: str, *options: str) -> Run:
    written(directory / "pytest.ini", "[pytest]\n")
    test = written(directory / "test_steps.py", source)
    return run("-m", "pytest", "-q", "-s", *options, test, directory=directory)


def _test_module(steps: Sequence[Step]) -> str:
    """Return a module of imports and definitions, with a test for what each step does."""
    above = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    definitions, tests = [], []
    for step in steps:
        body = []
        for statement in statements(step.text):
            is_above = isinstance(ast.parse(statement).body[0], above)
            (definitions if is_above else body).append(statement)
        name = step.name.replace(" ", "_")
        tests.append(f"def test_{name}():\n{textwrap.indent(chr(10).join(body), '    ')}")
    return "\n\n".join([*definitions, *tests, ""])


PLACES: dict[str, Place] = {
    "script": script_file,
    "command": command,
    "stdin": stdin,
    "prompt": prompt,
    "package": package,
    "ipython": ipython,
    "jupyter": jupyter,
    "docstring": docstring,
    "doctest_text": doctest_text,
    "pytest_default": pytest_default,
    "pytest_importlib": pytest_importlib,
    "pytest_local": pytest_local,
    "exec_as_main": exec_as_main,
    "exec_nameless": exec_nameless,
    "exec_cells": exec_cells,
    "zipapp": zip_application,
}
