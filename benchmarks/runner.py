"""Runs measurements: each in a fresh process with a time limit, contenders taken in turns."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.machine import busy_seconds
from benchmarks.scenario import Scenario, Settings

ROOT = Path(__file__).parents[1]
QUICK_SECONDS = 8.0
# What a process may take to end after it has given its answer.
ENDING_SECONDS = 3.0
FLOOR = "floor"
# Who takes longer takes part in the first round only.
SLOW_SECONDS = 3.0
# Others that use more than this share of a CPU disturb a measurement.
DISTURBED = 0.15
# A quick run is without those of which a relative takes part.
NOT_QUICK = ("loky", "billiard")


class Runner:
    """Measures scenarios.

    Parameters
    ----------
    settings
        Sizes and calibration, the same for all.
    only
        Names of the contenders to measure; empty for all.
    with_heavy
        Whether Ray and Dask, which take seconds to start, take part.
    repetitions
        Rounds of each scenario, in place of its own number.
    patience
        Seconds to spend, in all, on waiting for other programs to calm down
        and on taking again what they disturbed.
    tell
        Called with a line about each thing that is being done.
    """

    def __init__(
        self,
        settings: Settings,
        only: Sequence[str] = (),
        *,
        with_heavy: bool = True,
        repetitions: int | None = None,
        patience: float = 0.0,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._only = only
        self._with_heavy = with_heavy
        self._repetitions = repetitions
        self._patience = patience
        self._tell = tell

    def run(self, scenario: Scenario) -> dict[str, Any]:
        """Return what every contender and the floor measured, by contender."""
        names = self.contenders(scenario)
        outcomes: dict[str, dict[str, Any]] = {
            name: {"status": "measured", "samples": []} for name in names
        }
        repetitions = self._repetitions or (1 if self._settings.is_quick else scenario.repetitions)
        for repetition in range(repetitions):
            # Each starts at another place of the round.
            shift = repetition * (len(names) // 2 + 1) % len(names)
            for name in names[shift:] + names[:shift]:
                self._measure(scenario, name, outcomes[name], is_first=not repetition)
        return outcomes

    def contenders(self, scenario: Scenario) -> list[str]:
        """Return who takes part."""
        names = [scenario.ours, *scenario.peers]
        if self._only:
            names = [name for name in names if name in self._only]
        elif self._settings.is_quick:
            names = [name for name in names if name not in NOT_QUICK]
        if not (self._with_heavy and scenario.is_for_heavy):
            names = [name for name in names if not CONTENDERS[name].is_heavy]
        names = [name for name in names if _can(name, scenario)]
        return [*names, FLOOR] if scenario.floor is not None else names

    def _measure(
        self, scenario: Scenario, name: str, outcome: dict[str, Any], *, is_first: bool
    ) -> None:
        if outcome["status"] != "measured":
            return
        if name != FLOOR:
            if CONTENDERS[name].version() is None:
                outcome["status"] = "missing"
                return
            if outcome.get("is_slow") or (CONTENDERS[name].is_heavy and not is_first):
                return
        # Ray's and Dask's own daemons look like other programs.
        tries = 1 if name != FLOOR and CONTENDERS[name].is_heavy else 3
        answer, taken, others = self._ask_and_watch(scenario, name)
        while others > DISTURBED and self._patience > 0 and (tries := tries - 1):
            self._patience -= taken
            answer, taken, others = self._ask_and_watch(scenario, name)
        self._tell(
            f"{scenario.name:26} {name:22} {taken:6.1f} s  {answer['status']}, others {others:.0%}"
        )
        if answer["status"] != "measured":
            outcome.update(answer)
            return
        outcome["is_slow"] = taken > SLOW_SECONDS and name not in (scenario.ours, FLOOR)
        outcome["samples"].append(answer["metrics"])
        outcome.setdefault("others", []).append(round(others, 3))

    def _wait_for_quiet(self) -> None:
        while self._patience > 0:
            busy = busy_seconds()
            time.sleep(0.2)
            if busy_seconds() - busy <= DISTURBED * 0.2:
                return
            time.sleep(1.0)
            self._patience -= 1.2

    def _ask_and_watch(self, scenario: Scenario, name: str) -> tuple[dict[str, Any], float, float]:
        """Return the answer, the seconds, and what others used meanwhile, in CPUs."""
        self._wait_for_quiet()
        begun, busy, own = time.monotonic(), busy_seconds(), _own_seconds()
        answer = self._ask(scenario, name)
        taken = time.monotonic() - begun
        others = busy_seconds() - busy - (_own_seconds() - own)
        # Clock ticks are coarse, so a short measurement may seem to have less than none.
        return answer, taken, max(0.0, others / taken)

    def _ask(self, scenario: Scenario, name: str) -> dict[str, Any]:
        limit = (
            min(scenario.seconds, QUICK_SECONDS) if self._settings.is_quick else scenario.seconds
        )
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            answer = Path(folder, "answer.json")
            request = Path(folder, "request.json")
            request.write_text(
                json.dumps(
                    {
                        "scenario": scenario.name,
                        "contender": name,
                        "answer": str(answer),
                        **self._settings._asdict(),
                    }
                ),
                encoding="utf-8",
            )
            with open(Path(folder, "output"), "w+b") as output:
                _run_child(request, answer, output, limit)
                if answer.exists():
                    return dict(json.loads(answer.read_text(encoding="utf-8")))
                output.seek(0)
                return {"status": f"no answer in {limit:.0f} s", "detail": _tail(output.read())}


def _can(name: str, scenario: Scenario) -> bool:
    return all(getattr(CONTENDERS[name], need) is not None for need in scenario.needs)


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tail(output: bytes) -> str:
    return output.decode(errors="replace")[-2000:]


def _run_child(request: Path, answer: Path, output: Any, limit: float) -> None:
    """Run one measurement; leave nothing of it behind."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # Imports are compared as they are on a second run.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.measure", request],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    deadline = time.monotonic() + limit
    try:
        while time.monotonic() < deadline:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout=0.5 if deadline - time.monotonic() > 1 else 0.1)
                break
            if answer.exists():
                deadline = min(deadline, time.monotonic() + ENDING_SECONDS)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        _end_orphans()


def adopt_orphans() -> None:
    """Become the parent of whatever a measurement leaves behind when it ends."""
    import ctypes

    set_child_subreaper = 36
    ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)


def _end_orphans() -> None:
    """Kill all our children; what those started becomes ours then, until there is none."""
    while True:
        with suppress(ProcessLookupError):
            for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
