"""The life of a worker that was started from a bare interpreter."""

from motorpool.worker import identity
from motorpool.worker.main import work


def main(  # noqa: PLR0913, PLR0917 - what the command line says
    fd: int, page: int, lifeline: int, tracker: int, inherited: list[int]
) -> None:
    """Be a worker."""
    identity.inherited[:] = inherited
    work(fd, page, lifeline, tracker)
