"""One measurement in a process of its own: `python -m benchmarks.measure REQUEST.json`.

Writes what it measured, or why it could not, into the file that the request names.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.scenario import Scenario, Settings, WrongResultError


class Point:
    """A small object; its class belongs to `__main__`, as the classes of scripts do."""

    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y


def turned(point: Point) -> Point:
    """Return the point opposite."""
    return Point(-point.x, -point.y)


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.catalog import SCENARIOS
    from benchmarks.contenders import CONTENDERS
    from benchmarks.tasks import loops_per_second

    scenario: Scenario = SCENARIOS[request["scenario"]]
    # Calibrated here: a machine that is shared changes its speed in the course of a run.
    settings = Settings(request["is_quick"], loops_per_second())
    try:
        if request["contender"] == "floor":
            assert scenario.floor is not None
            metrics = scenario.floor(settings)
        else:
            contender = CONTENDERS[request["contender"]](scenario.workers)
            metrics = scenario.run(contender, settings)
    except WrongResultError as error:
        return {"status": "wrong", "detail": str(error)}
    except BaseException as error:
        return {"status": "failed", "detail": repr(error), "traceback": traceback.format_exc()}
    return {"status": "measured", "metrics": metrics}


def main() -> None:
    """Measure what the request asks for."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer = _measure(request)
    # Whole or not at all: the runner may look at any moment.
    part = Path(request["answer"] + ".part")
    part.write_text(json.dumps(answer), encoding="utf-8")
    part.rename(request["answer"])


if __name__ == "__main__":
    main()
