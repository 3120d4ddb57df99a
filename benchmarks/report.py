"""What a run says: medians, ratios, and which bounds are kept."""

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from benchmarks.catalog import SCENARIOS
from benchmarks.runner import FLOOR
from benchmarks.scenario import Bound, Metric, Scenario

# A bound missed by less is as good as kept: single cells wander from run to run.
CLOSE = 0.1
KEPT, NEARLY, MISSED = "kept", "nearly", "missed"
# The bare floor missed it too: the machine was not able to in this run.
UNSURE = "unsure"
NOTHING = "-"


class Row(NamedTuple):
    """One metric of one scenario."""

    scenario: Scenario
    metric: Metric
    medians: dict[str, float]  # by contender; without those that failed
    problems: dict[str, str]

    @property
    def ours(self) -> float | None:
        """What motorpool measured."""
        return self.medians.get(self.scenario.ours)

    @property
    def floor(self) -> float | None:
        """What the machine allows."""
        return self.medians.get(FLOOR)

    @property
    def best_peer(self) -> str | None:
        """The name of the best of the others."""
        peers = {n: v for n, v in self.medians.items() if n in self.scenario.peers}
        if not peers:
            return None
        best = max if self.metric.better == "higher" else min
        return best(peers, key=lambda name: peers[name])


class Verdict(NamedTuple):
    """Whether a bound is kept."""

    row: Row
    bound: Bound
    ratio: float
    word: str

    def text(self) -> str:
        """Return what was wanted, and what there is."""
        sign = "≤" if self.bound.relation == "at most" else "≥"
        if self.bound.of == "one":
            return f"{sign} {self.bound.factor:.3g}"
        of = self.bound.of_metric or self.bound.of
        return f"{sign} {self.bound.factor:.2g} × {of}: {self.ratio:.3g}"


class Report:
    """The findings of a run, `results` as `Runner.run` gives them, by scenario."""

    def __init__(self, results: dict[str, dict[str, Any]]) -> None:
        self.results = results
        self.rows = [
            self._row(SCENARIOS[name], metric)
            for name in results
            for metric in SCENARIOS[name].metrics
        ]

    def _row(self, scenario: Scenario, metric: Metric) -> Row:
        outcomes = self.results[scenario.name]
        medians = {
            name: median(sample[metric.name] for sample in outcome["samples"])
            for name, outcome in outcomes.items()
            if outcome["status"] == "measured" and outcome["samples"]
        }
        problems = {
            name: outcome["status"]
            for name, outcome in outcomes.items()
            if outcome["status"] != "measured"
        }
        return Row(scenario, metric, medians, problems)

    def ratio(self, row: Row, of: str, of_metric: str = "") -> float | None:
        """Return ours over `of`: the median of the ratios of each round, where both were there."""
        ours = self._samples(row.scenario.name, row.scenario.ours, row.metric.name)
        if of == "one":
            others = [1.0] * len(ours)
        elif of == "itself":
            name, _, metric = of_metric.rpartition(":")
            others = self._samples(name or row.scenario.name, row.scenario.ours, metric)
        else:
            others = self._samples(row.scenario.name, of, row.metric.name)
        if not ours or not others:
            return None
        if len(ours) != len(others):
            return median(ours) / median(others)
        return median(one / other for one, other in zip(ours, others, strict=True))

    def _samples(self, scenario: str, contender: str, metric: str) -> list[float]:
        outcome = self.results.get(scenario, {}).get(contender, {})
        return [sample[metric] for sample in outcome.get("samples", ())]

    def verdicts(self, row: Row) -> Iterator[Verdict]:
        """Yield a verdict on each bound of the row that can be judged."""
        for bound in row.scenario.bounds:
            if bound.metric != row.metric.name:
                continue
            of = (row.best_peer or "") if bound.of == "best peer" else bound.of
            ratio = self.ratio(row, of, bound.of_metric)
            if ratio is not None:
                word = _word(bound, ratio)
                if bound.of == "one" and word != KEPT and self._floor_misses(row, bound):
                    word = UNSURE
                yield Verdict(row, bound, ratio, word)

    @staticmethod
    def _floor_misses(row: Row, bound: Bound) -> bool:
        return row.floor is not None and _word(bound, row.floor) != KEPT

    def others(self) -> float:
        """Return the share of one CPU that other programs used, in the median measurement."""
        shares = [
            share
            for outcomes in self.results.values()
            for outcome in outcomes.values()
            for share in outcome.get("others", ())
        ]
        return median(shares) if shares else 0.0

    def spread(self, row: Row) -> float:
        """Return how far our samples lie apart, as a share of their median."""
        samples = self._samples(row.scenario.name, row.scenario.ours, row.metric.name)
        return (max(samples) - min(samples)) / (median(samples) or 1.0) if samples else 0.0


def _word(bound: Bound, ratio: float) -> str:
    if bound.relation == "at most":
        excess = ratio / bound.factor
    else:
        excess = bound.factor / ratio if ratio else float("inf")
    if excess <= 1:
        return KEPT
    return NEARLY if excess <= 1 + CLOSE else MISSED


def number(value: float | None, metric: Metric) -> str:
    """Return a number as people write it."""
    if value is None:
        return NOTHING
    if metric.unit == "tasks/s":
        return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


HEADER = ("scenario", "", "motorpool", "stdlib", "best peer", "floor", "bounds")


def summary(report: Report) -> list[tuple[str, ...]]:
    """Return the cells of the main table, one row for each metric."""
    table: list[tuple[str, ...]] = []
    for row in report.rows:
        unit = row.metric.unit if len(row.scenario.metrics) == 1 else _label(row)
        best = row.best_peer
        stdlib = next((name for name in row.scenario.peers if name.startswith("stdlib")), "")
        verdicts = [f"{verdict.text()} {verdict.word}" for verdict in report.verdicts(row)]
        table.append(
            (
                row.scenario.title,
                unit,
                number(row.ours, row.metric)
                if row.ours is not None
                else _problem(row, row.scenario.ours),
                number(row.medians.get(stdlib), row.metric)
                if stdlib in row.medians
                else _problem(row, stdlib),
                f"{number(row.medians[best], row.metric)} ({best})" if best else NOTHING,
                number(row.floor, row.metric),
                "; ".join(verdicts) or NOTHING,
            )
        )
    return table


def _label(row: Row) -> str:
    return f"{row.metric.name.replace('_', ' ')} {row.metric.unit}".strip()


def _problem(row: Row, name: str) -> str:
    return row.problems.get(name, NOTHING)


def everybody(report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield scenario, metric and everybody's value, as text."""
    for row in report.rows:
        values = [f"{name} {number(value, row.metric)}" for name, value in row.medians.items()]
        values += [f"{name} {problem}" for name, problem in row.problems.items()]
        yield row.scenario.name, _label(row), ", ".join(values)


def as_text(report: Report) -> str:
    """Return the tables for a terminal."""
    rows = summary(report)
    widths = [max(len(row[column]) for row in [HEADER, *rows]) for column in range(6)]
    lines = []
    last = ""
    for row in [HEADER, *rows]:
        first = "" if row[0] == last else row[0]
        last = row[0]
        cells = [first, *row[1:6]]
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([*padded, row[6]]).rstrip())
    lines.insert(1, "-" * 100)
    lines += ["", "everybody:"]
    lines += [f"  {name} [{metric}]: {values}" for name, metric, values in everybody(report)]
    counts = counted(report)
    lines += ["", f"bounds: {', '.join(f'{count} {word}' for word, count in counts.items())}"]
    return "\n".join(lines)


def counted(report: Report) -> dict[str, int]:
    """Return how many bounds are kept, nearly kept, missed, and not to be judged."""
    counts = dict.fromkeys((KEPT, NEARLY, MISSED, UNSURE), 0)
    for row in report.rows:
        for verdict in report.verdicts(row):
            counts[verdict.word] += 1
    return counts


def as_markdown(report: Report, machine: dict[str, Any]) -> str:
    """Return the tables for the docs."""
    lines = [_preface(report, machine), ""]
    lines += ["| " + " | ".join(HEADER) + " |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    last = ""
    for row in summary(report):
        first = "" if row[0] == last else row[0]
        last = row[0]
        lines.append("| " + " | ".join([first, *row[1:]]) + " |")
    counts = ", ".join(f"{count} {word}" for word, count in counted(report).items())
    lines += ["", f"Bounds: {counts}.", "", "Everybody's medians:", ""]
    lines += ["| scenario | | |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {metric} | {values} |" for name, metric, values in everybody(report)]
    return "\n".join(lines) + "\n"


def _preface(report: Report, machine: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items() if version
    )
    missing = [name for name, version in machine["versions"].items() if not version]
    measured = (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['cpus']} CPUs, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"{versions}."
    )
    sentences = [
        measured,
        f"Other programs used {report.others():.0%} of a CPU in the median measurement.",
    ]
    if missing:
        sentences.append(f"Not installed: {', '.join(missing)}.")
    if machine.get("is_quick"):
        sentences.append("A quick run, with small sizes.")
    return " ".join(sentences)
