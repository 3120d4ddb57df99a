"""motorpool's log, imported when there is something to tell."""

from motorpool.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger


def log() -> "Logger":
    """Return the logger."""
    import logging

    return logging.getLogger("motorpool")
