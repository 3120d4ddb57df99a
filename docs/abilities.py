"""Write the table of engines and abilities into docs/engines.md, from the engines' declarations.

Run it as `python docs/abilities.py`, or `make docs`; a test sees to it that the page is current.
"""

import importlib
import importlib.util
from pathlib import Path

from motorpool.engines.base import Abilities
from motorpool.engines.choose import HOMES

PAGE = Path(__file__).parent / "engines.md"
BEGIN = "<!-- made by docs/abilities.py -->\n"
END = "<!-- end -->\n"

MEANINGS = {
    "machines": "workers on several machines",
    "initializer": "`initializer=`",
    "maxtasksperchild": "`maxtasksperchild=`",
    "limits": "`memory_limit=`, `threads_per_worker=`",
    "timeout": "`timeout=` of a task",
    "kill": "a task can be ended while it runs",
    "blame": "a worker's death costs only the item that it ran, not its chunk",
    "shared_state": "locks, queues, values and connections of `multiprocessing` in `initargs`",
    "unpicklable": "items and results need not be picklable",
}


def declared() -> dict[str, Abilities]:
    """Return what each engine that is there says of itself."""
    found = {}
    for kind, (module, name, _) in HOMES.items():
        if importlib.util.find_spec(f"motorpool.engines.{module}") is not None:
            engine = getattr(importlib.import_module(f"motorpool.engines.{module}"), name)
            found[kind] = engine.abilities
    return found


def table() -> str:
    """Return the table as Markdown."""
    engines = declared()
    lines = [
        "| | " + " | ".join(engines) + " |",
        "| --- |" + " :-: |" * len(engines),
    ]
    for ability, meaning in MEANINGS.items():
        marks = ("yes" if getattr(has, ability) else "no" for has in engines.values())
        lines.append(f"| {meaning} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def renewed(page: str) -> str:
    """Return the page with a table that is current."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n" + table() + "\n" + END + after


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text()))
    print(f"{PAGE} is current")
