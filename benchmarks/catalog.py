"""All scenarios, in the order in which they are run and shown."""

from benchmarks import (
    arrays,
    clusters,
    constants,
    efficiency,
    latency,
    memory,
    skew,
    startup,
    threads,
    throughput,
)
from benchmarks.scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for group in (
        latency,
        throughput,
        skew,
        efficiency,
        arrays,
        constants,
        startup,
        memory,
        threads,
        clusters,
    )
    for scenario in group.SCENARIOS
}


def chosen(names: list[str]) -> list[Scenario]:
    """Return the scenarios that are named, or whose group is; all if none is named."""
    known = {scenario.group for scenario in SCENARIOS.values()} | set(SCENARIOS)
    for name in names:
        if name not in known:
            msg = f"there is no scenario or group {name!r}; there are: {', '.join(sorted(known))}"
            raise SystemExit(msg)
    return [
        scenario
        for scenario in SCENARIOS.values()
        if not names or scenario.group in names or scenario.name in names
    ]
