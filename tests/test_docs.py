"""The README's scripts print what it says, and the files and tests that pages name exist."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from motorpool.engines.base import Abilities
from motorpool.scheduler.chunking import MESSAGE_SECONDS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "motorpool"
DEADLINE = 30

# A Python block directly followed by the block of its output.
SCRIPT = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"[\w./-]+\.(?:py|toml|md)\b|tests/\w+")

METHODS = {
    "default": "",
    "spawn": "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n",
}


def read(name):
    """Return the text of a page at the root of the project."""
    return (ROOT / name).read_text(encoding="utf-8")


def without_pids(text):
    """Return `text` with the numbers of workers, which differ in each run, replaced."""
    return re.sub(r"\bWorker \d+ ", "Worker N ", text)


def heading_above(page, position):
    """Return the heading under which `position` lies, as the name of a test."""
    headings = re.findall(r"^#+ (.+)$", page[:position], re.MULTILINE)
    return re.sub(r"\W+", "-", headings[-1].lower())


PAGES = ("README.md", "docs/control.md", "docs/engines.md", "docs/limits.md")


def scripts(name):
    """Return each script of a page with its output."""
    page = read(name)
    return [
        pytest.param(*match.groups(), id=heading_above(page, match.start()))
        for match in SCRIPT.finditer(page)
    ]


SCRIPTS = [script for name in PAGES for script in scripts(name)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("script", "output"), SCRIPTS)
def test_script_of_a_page_prints_what_stands_under_it(tmp_path, script, output, method):
    """A script copied from the README or the docs prints what it says there, and nothing else."""
    file = tmp_path / "script.py"
    file.write_text(METHODS[method] + script, encoding="utf-8")

    ended = subprocess.run(
        [sys.executable, file],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ended.stderr, ended.returncode) == ("", 0)
    assert without_pids(ended.stdout) == without_pids(output)


@pytest.mark.parametrize("name", PAGES)
def test_every_script_of_a_page_has_its_output_under_it(name):
    """No Python block of the README or the docs goes unchecked."""
    assert len(scripts(name)) == read(name).count("```python\n") > 0


def load(name):
    """Return a script of the docs as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_of_abilities_is_what_the_engines_declare():
    """The table in the docs is made from the engines' own words, all of them."""
    script = load("abilities")

    assert tuple(sorted(script.MEANINGS)) == tuple(sorted(Abilities._fields))
    assert script.renewed(page := read("docs/engines.md")) == page, "run `make docs`"


def test_files_that_the_architecture_names_exist():
    """A file that was moved or renamed is moved in ARCHITECTURE.md too."""
    named = set(FILE_NAME.findall(read("ARCHITECTURE.md")))
    missing = {name for name in named if not any((at / name).exists() for at in (PACKAGE, ROOT))}

    assert named
    assert missing == set()


def test_architecture_names_every_file():
    """A newcomer finds each module of the package in ARCHITECTURE.md."""
    page = read("ARCHITECTURE.md")
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    unnamed = {name for name in files if not name.endswith("/__init__.py") and name not in page}

    assert unnamed == set()


ROW = re.compile(r"^\| (?!what happens|---)(.*)\|$", re.MULTILINE)
TEST_NAME = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


@pytest.mark.quick
def test_every_row_of_what_happens_when_names_a_test_that_exists():
    """No row of the page goes without a test, and none names one that was renamed."""
    rows = ROW.findall(read("docs/what-happens-when.md"))
    assert rows
    for row in rows:
        named = TEST_NAME.findall(row)
        assert named, row
        for file, name in named:
            assert f"\ndef {name}(" in read(f"tests/{file}"), row


@pytest.mark.parametrize("workers", [10, 100, 1000])
def test_chunks_that_the_scheduler_finds_keep_many_workers_busy(workers):
    """What the page says of thousands of workers holds for the scheduler as it is."""
    _, run = load("growth").adaptive(workers, 40e-6, MESSAGE_SECONDS)

    assert run.efficiency >= 0.97
    assert run.saturation <= 0.5


def test_short_chunks_saturate_the_driver():
    """The simulation shows what the longer chunks are for."""
    run = load("growth").fixed(1000, 20e-6, 0.001)

    assert run.efficiency < 0.5
    assert run.saturation > 0.9
