"""`python -m benchmarks`: run scenarios, print the table, write JSON, plots and docs."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.catalog import chosen
from benchmarks.contenders import CONTENDERS
from benchmarks.page import PAGE, write_section
from benchmarks.report import Report, as_markdown, as_text
from benchmarks.runner import ROOT, Runner, adopt_orphans
from benchmarks.scenario import Settings
from benchmarks.tasks import loops_per_second


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="groups or scenarios, with commas")
    parser.add_argument("--contenders", default="", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, without Ray and Dask")
    parser.add_argument("--heavy", action="store_true", help="with Ray and Dask also if quick")
    parser.add_argument("--repetitions", type=int, help="rounds of each scenario")
    parser.add_argument(
        "--patience",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="spend so long at most on waiting for others and repeating what they disturbed",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--docs", action="store_true", help="write the results into docs/ as well")
    parser.add_argument("--again", type=Path, metavar="JSON", help="report an earlier run")
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    return parser.parse_args()


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    settings = Settings(arguments.quick, loops_per_second())
    runner = Runner(
        settings,
        _words(arguments.contenders),
        with_heavy=arguments.heavy or not arguments.quick,
        repetitions=arguments.repetitions,
        patience=60 * arguments.patience,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
    )
    adopt_orphans()
    begun = time.monotonic()
    results: dict[str, Any] = {}
    facts = {
        **machine.describe(),
        "is_quick": settings.is_quick,
        "loops_per_second": round(settings.loops_per_second),
    }
    run = {"machine": facts, "results": results}
    for scenario in chosen(_words(arguments.only)):
        if not runner.contenders(scenario):
            continue
        results[scenario.name] = runner.run(scenario)
        facts["seconds"] = round(time.monotonic() - begun)
        # A run that is cut off can be shown with `--again`.
        _save(run, arguments.out)
    return run


def _save(run: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(run, indent=1, ensure_ascii=False)
    (folder / "performance.json").write_text(text + "\n", encoding="utf-8")


def _write(run: dict[str, Any], report: Report, folder: Path) -> None:
    _save(run, folder)
    try:
        from benchmarks.plots import draw

        draw(report, folder)
    except ImportError:
        print("no plots: matplotlib is not installed", file=sys.stderr)


def _drop_tracebacks(results: dict[str, Any]) -> None:
    """Drop what names the folders of this machine."""
    for outcomes in results.values():
        for outcome in outcomes.values():
            outcome.pop("traceback", None)


def main() -> None:
    """Do what the command line asks for."""
    arguments = _arguments()
    if arguments.list:
        for scenario in chosen([]):
            print(f"{scenario.name:26} {scenario.title}")
        return
    if arguments.again:
        run = json.loads(arguments.again.read_text(encoding="utf-8"))
    else:
        run = _run(arguments)
    report = Report(run["results"])
    _write(run, report, arguments.out)
    if arguments.docs:
        _drop_tracebacks(run["results"])
        _write(run, report, PAGE.parent / "performance")
        write_section("measured", as_markdown(report, run["machine"]))
    print(as_text(report))
    took = run["machine"]["seconds"]
    print(
        f"others used {report.others():.0%} of a CPU; the run took {took} s; "
        f"JSON and plots are in {arguments.out}"
    )


if __name__ == "__main__":
    main()
