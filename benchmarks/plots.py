"""Plots of a run, as SVG."""

from pathlib import Path
from typing import Any

from benchmarks.efficiency import LENGTHS
from benchmarks.report import Report

_STYLES: dict[str, dict[str, Any]] = {
    "motorpool": {"color": "#d1495b", "linewidth": 3.0, "zorder": 5},
    "floor": {"color": "#888888", "linestyle": ":", "label": "two bare processes"},
}


def draw(report: Report, folder: Path) -> list[Path]:
    """Write the plots that the report has data for; return their paths."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "motorpool", "svg.fonttype": "none", "font.size": 10})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if "efficiency.list" in report.results:
        written.append(_efficiency(report, folder / "efficiency.svg"))
    ratios = _ratios(report)
    if ratios:
        written.append(_against_peers(ratios, folder / "ratios.svg"))
    return written


def _efficiency(report: Report, path: Path) -> Path:
    from matplotlib import pyplot as plt

    names = [name for name in ("efficiency.list", "efficiency.iterator") if name in report.results]
    figure, axes = plt.subplots(
        1, len(names), figsize=(5 * len(names), 3.8), sharey=True, squeeze=False
    )
    lengths = [length for length, _ in LENGTHS.values()]
    for axis, name in zip(axes[0], names, strict=True):
        rows = [row for row in report.rows if row.scenario.name == name]
        for contender in rows[0].medians:
            style: dict[str, Any] = {"label": contender, **_STYLES.get(contender, {})}
            values = [100 * row.medians.get(contender, float("nan")) for row in rows]
            axis.plot(lengths, values, marker="o", markersize=4, **style)
        axis.set_xscale("log")
        axis.set_xticks(lengths, ["10 µs", "100 µs", "1 ms", "10 ms"])
        axis.set_ylim(0, 105)
        axis.set_xlabel("length of a task")
        axis.set_title("map of a list" if name.endswith("list") else "imap of a generator")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("% of two cores")
    axes[0][-1].legend(fontsize=8, loc="lower right")
    return _save(figure, path)


def _ratios(report: Report) -> list[tuple[str, float, str]]:
    """Return name, factor over the best peer, and that peer, where peers were measured."""
    ratios = []
    for row in report.rows:
        best = row.best_peer
        if best is None or row.metric is not row.scenario.metrics[0]:
            continue
        ratio = report.ratio(row, best)
        if ratio:
            factor = ratio if row.metric.better == "higher" else 1 / ratio
            ratios.append((row.scenario.name, factor, best))
    return ratios


def _against_peers(ratios: list[tuple[str, float, str]], path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 0.28 * len(ratios) + 1.2))
    places = range(len(ratios), 0, -1)
    colors = ["#d1495b" if factor >= 1 else "#888888" for _, factor, _ in ratios]
    widths = [factor - 1 for _, factor, _ in ratios]
    axis.barh(list(places), widths, left=1, color=colors)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_yticks(list(places), [f"{name} (vs {best})" for name, _, best in ratios], fontsize=8)
    axis.set_xlabel("times as good as the best peer, whoever that is in each row")
    axis.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    return path
