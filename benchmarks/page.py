"""The page of the docs: what lies between its markers is written by runs."""

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def _split(text: str, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    section, found_too, after = rest.partition(end)
    if not (found and found_too):
        msg = f"{PAGE.name} has no section {name!r} between markers"
        raise ValueError(msg)
    return before + begin, section, end + after


def read_section(name: str) -> str:
    """Return what a run wrote last."""
    return _split(PAGE.read_text(encoding="utf-8"), name)[1].strip() + "\n"


def write_section(name: str, content: str) -> None:
    """Put what a run found in the place of what was there."""
    before, _, after = _split(PAGE.read_text(encoding="utf-8"), name)
    PAGE.write_text(f"{before}\n{content}\n{after}", encoding="utf-8")
