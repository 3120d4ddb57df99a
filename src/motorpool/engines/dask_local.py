"""The Dask cluster of one pool, in processes of its own: the program of the first of them.

Not in the pool's process: a `LocalCluster` there would share the interpreter
with the scheduler, and its workers, being spawned, would run the script again.
It ends when its standard input does, that is, with the process that started it.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from motorpool.typed import IO, Any

# From the call to a scheduler with workers, on a busy machine.
_START_SECONDS = 120
_END_SECONDS = 10


class LocalDask:
    """A local cluster, from the parent's side."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        reader, writer = os.pipe()
        arguments = [json.dumps(dict(options)), str(writer), str(os.getpid())]
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - this very module
            [sys.executable, "-m", __name__, *arguments],
            stdin=subprocess.PIPE,
            pass_fds=[writer],
            # Its logger warns of each task that is given up, on the script's standard error.
            env={"DASK_LOGGING__DISTRIBUTED": "error", **os.environ, "PYTHONPATH": path},
            # Ctrl-C is for the script.
            start_new_session=True,
        )
        os.close(writer)
        with os.fdopen(reader) as pipe:
            self.address = _read_line(pipe)
        if not self.address:
            self.close()
            msg = f"a local Dask cluster did not start; its options were {dict(options)}"
            raise OSError(msg)

    def close(self) -> None:
        """End the cluster."""
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _read_line(pipe: IO[str]) -> str:
    ready, _, _ = select.select([pipe], [], [], _START_SECONDS)
    return pipe.readline().strip() if ready else ""


def _serve(options: dict[str, Any], writer: int, parent: int) -> None:
    from distributed import LocalCluster

    with LocalCluster(**options) as cluster:
        os.write(writer, f"{cluster.scheduler_address}\n".encode())
        os.close(writer)
        # A process that was forked meanwhile may hold the other end, too.
        while os.getppid() == parent and not select.select([sys.stdin], [], [], 1.0)[0]:
            # A cluster looks for a lost worker after a while, gives it up if it is just being
            # started again then, and starts another one only when it is told its size.
            cluster.scale(len(cluster.worker_spec))


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
