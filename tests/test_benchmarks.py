"""The benchmark judges as it says, starts nothing that it does not end, and measures us."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import contenders, page, report
from benchmarks.catalog import SCENARIOS, chosen
from benchmarks.scenario import Settings, at_least, at_most

ROOT = Path(__file__).parents[1]
SETTINGS = Settings(is_quick=True, loops_per_second=5e7)


def report_of(bounds, **samples):
    """Return a report on `latency.apply` with these bounds and samples of p50."""
    outcomes = {
        name: {"status": "measured", "samples": [{"p50": value, "p99": 1.0} for value in values]}
        for name, values in samples.items()
    }
    changed = SCENARIOS["latency.apply"]._replace(bounds=bounds)
    made = report.Report({"latency.apply": outcomes})
    return made, made.rows[0]._replace(scenario=changed)


def words(bounds, **samples):
    """Return the verdicts on these bounds."""
    made, row = report_of(bounds, **samples)
    return [verdict.word for verdict in made.verdicts(row)]


def test_scenarios_name_contenders_and_metrics_that_exist():
    """No scenario names a peer or bounds a metric that there is not."""
    for scenario in SCENARIOS.values():
        names = {metric.name for metric in scenario.metrics}

        assert {scenario.ours, *scenario.peers} <= set(contenders.CONTENDERS), scenario.name
        assert {bound.metric for bound in scenario.bounds} <= names, scenario.name


def test_group_stands_for_its_scenarios():
    """ONLY=latency means all of the group; a name that is not there is refused."""
    assert {scenario.group for scenario in chosen(["latency"])} == {"latency"}
    with pytest.raises(SystemExit, match="no scenario or group 'latencies'"):
        chosen(["latencies"])


@pytest.mark.parametrize(
    ("bound", "word"),
    [
        (at_most("p50", 2, "floor"), report.KEPT),
        (at_most("p50", 1.9, "floor"), report.NEARLY),
        (at_most("p50", 1.5, "floor"), report.MISSED),
        (at_most("p50", 1 / 3, "best peer"), report.KEPT),
        (at_most("p50", 1 / 4, "best peer"), report.MISSED),
        (at_least("p50", 20, "one"), report.KEPT),
        # Two bare processes did not get there either.
        (at_least("p50", 30, "one"), report.UNSURE),
        (at_most("p99", 1, "itself", "p50"), None),
    ],
)
def test_bound_is_judged_by_its_ratio(bound, word):
    """A bound is kept, nearly kept, or missed; or there is nothing to judge it by."""
    found = words((bound,), motorpool=[20.0], floor=[10.0], stdlib=[60.0], pebble=[80.0])

    assert found == ([word] if word else [])


def test_ratio_is_of_rounds_not_of_medians():
    """A round that was slow for everybody changes no ratio."""
    made, row = report_of((), motorpool=[10.0, 100.0, 11.0], stdlib=[20.0, 200.0, 22.0])

    assert made.ratio(row, "stdlib") == 0.5


def test_peer_that_is_not_installed_is_missing():
    """It is said to be missing, and nothing fails."""
    # In a process of its own, because a runner ends all children it finds after a measurement.
    program = (
        "from benchmarks import contenders\n"
        "from benchmarks.catalog import SCENARIOS\n"
        "from benchmarks.runner import Runner\n"
        "from benchmarks.scenario import Settings\n"
        "contenders.Pebble.module = 'no_such_module'\n"
        "runner = Runner(Settings(True, 5e7), ['pebble'])\n"
        "print(runner.run(SCENARIOS['latency.apply'])['pebble']['status'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.stdout == "missing\n", ended.stderr


def test_measurement_that_takes_too_long_is_ended():
    """It is reported, and the others go on."""
    program = (
        "from benchmarks.catalog import SCENARIOS\n"
        "from benchmarks.runner import Runner, adopt_orphans\n"
        "from benchmarks.scenario import Settings\n"
        "adopt_orphans()\n"
        "scenario = SCENARIOS['startup.fork']._replace(seconds=0.001, floor=None)\n"
        "print(Runner(Settings(True, 5e7), ['stdlib']).run(scenario)['stdlib']['status'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = ended.stdout.splitlines()

    assert lines == ["no answer in 0 s"], ended.stderr


@pytest.mark.slow
def test_quick_run_measures_and_writes_what_it_found(tmp_path):
    """A run of one scenario prints the table and writes JSON; every result was right."""
    program = [sys.executable, "-m", "benchmarks", "--quick", "--out", tmp_path]
    program += ["--only", "startup.fork,threads.naps", "--contenders"]
    program += ["motorpool,stdlib,motorpool-threads,stdlib-threads"]
    environment = {**os.environ, "MPLCONFIGDIR": str(tmp_path)}
    ended = subprocess.run(
        program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    run = json.loads((tmp_path / "performance.json").read_text(encoding="utf-8"))
    statuses = {
        (scenario, name): outcome["status"]
        for scenario, outcomes in run["results"].items()
        for name, outcome in outcomes.items()
    }

    assert set(statuses.values()) == {"measured"}, (statuses, run)
    assert ("startup.fork", "floor") in statuses
    assert "pool, first result, close: fork" in ended.stdout


def test_tables_of_the_performance_page_are_what_the_run_wrote():
    """No figure of the page was put there by hand, and its plots are there."""
    text = page.PAGE.read_text(encoding="utf-8")
    run = json.loads((page.PAGE.parent / "performance" / "performance.json").read_text("utf-8"))
    named = re.findall(r"\]\((performance/[^)]+)\)", text)

    assert page.read_section("measured") == report.as_markdown(
        report.Report(run["results"]), run["machine"]
    )
    assert named
    assert all((page.PAGE.parent / name).exists() for name in named)
