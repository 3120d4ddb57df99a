"""Which process this is, known without a system call."""

import os


class _Process:
    """`number` is that of the process, also after a fork."""

    def __init__(self) -> None:
        self.number = os.getpid()

    def forked(self) -> None:
        self.number = os.getpid()


PROCESS = _Process()
os.register_at_fork(after_in_child=PROCESS.forked)
