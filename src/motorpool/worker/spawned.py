"""The life of a worker that was started from a bare interpreter."""

from motorpool.worker import identity
from motorpool.worker.main import work


def main(fd: int, page: int, arena: int, lifeline: int, tracker: int, inherited: list[int]) -> None:
    """Be a worker."""
    identity.inherited[:] = inherited
    work(fd, page, arena, lifeline, tracker)
