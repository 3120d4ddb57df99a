"""What a process of a cluster was at when it ended, for whoever looks afterwards.

A process that Ray or Dask has started keeps a *logbook* for each pool that it
serves: a folder in the machine's temporary one, with a list of the chunks that
were begun, a page per thread for the chunk that it is at (`worker/page.py`), and the
last replies, which may be still on their way. When the process has died,
another one on that machine reads the logbook (`read_logbook`). So the death
costs the item that was run, and not its chunk, as long as the machine lives.

A chunk that is on the list is never begun again, whatever the cluster does.
"""

import mmap
import os
import pickle
import shutil
import signal
import struct
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from motorpool.messages import IDLE, LOADING, MIXED_RESULTS, RESULTS, Order, Reply
from motorpool.typed import Any, NamedTuple
from motorpool.worker import page as pages
from motorpool.worker.remote import run_remote_chunk

# So many of the chunks that were begun last are remembered.
_RING = 1024
_NUMBER = struct.Struct("<q")
# Of the replies that were sent last, so many are kept, in so many bytes. The
# scheduler sends a worker no more than 16 chunks ahead.
_REPLIES = 64
_REPLY_BYTES = 8 << 20
# The results of a chunk are noted as far as they take no more than this, each and in all.
_LARGE = 1 << 18
_PAGE_BYTES = 8 << 20
_PLACE = struct.Struct("<qqq")  # number, begin, end
_PREFIX = "motorpool-"
# A logbook whose process is gone may still be read for so long.
_STALE_SECONDS = 60
# A process that does not stand still by then is in the kernel, and begins nothing.
_STOP_SECONDS = 0.05


class AlreadyBegunError(Exception):
    """The cluster sent a chunk a second time, or for nobody; nothing of it was run this time."""


class Record(NamedTuple):
    """A logbook as read afterwards: chunks begun, the page of each thread, replies."""

    begun: frozenset[int]
    pages: tuple[bytes, ...]
    replies: dict[int, Reply]

    def at(self, number: int, loads: Any) -> tuple[int, int, dict[int, Any]] | None:
        """Return what chunk `number` was at: item, end of what was begun, results so far."""
        for content in self.pages:
            page = pages.Page.of(content)
            found, item, upto, finished = page.read(loads)
            page.close()
            if found == number:
                return item, upto, finished
        return None


class _LogPage(pages.Page):
    """A page that never asks for results to be sent; what does not fit is not noted."""

    large = _LARGE
    refuse = staticmethod(pages.refuse_above(_LARGE))

    @property
    def full(self) -> bool:
        """Never: the results of a chunk go together."""
        return False

    @full.setter
    def full(self, _value: bool) -> None:
        pass

    def load(self, chunk: int, stop: int) -> None:
        """Note that a chunk is about to be unpickled."""
        super().load(chunk, stop)
        self.expects_large = False


class _Replies:
    """The last replies, in a file: a table of places, then the replies, round and round."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, _REPLY_BYTES)
            self._map = mmap.mmap(fd, _REPLY_BYTES)
        finally:
            os.close(fd)
        self._places = [(0, 0, 0)] * _REPLIES
        self._count = 0
        self._begin = _REPLIES * _PLACE.size
        self._at = self._begin

    def keep(self, number: int, reply: Reply) -> None:
        """Keep a reply, unless it is too large, in place of the oldest ones."""
        data = pickle.dumps(tuple(reply), 5)
        if len(data) > _REPLY_BYTES - self._begin:
            return
        if self._at + len(data) > _REPLY_BYTES:
            self._at = self._begin
        begin, end = self._at, self._at + len(data)
        for index, (_, other, its_end) in enumerate(self._places):
            if other < end and begin < its_end:
                self._set(index, 0, 0, 0)
        self._map[begin:end] = data
        self._set(self._count % _REPLIES, number, begin, end)
        self._count += 1
        self._at = end

    def _set(self, index: int, *place: int) -> None:
        number, begin, end = place
        self._places[index] = number, begin, end
        _PLACE.pack_into(self._map, index * _PLACE.size, number, begin, end)

    @staticmethod
    def read(data: bytes) -> dict[int, Reply]:
        """Return what a file of replies holds, by number."""
        places = _PLACE.iter_unpack(data[: _REPLIES * _PLACE.size])
        return {
            number: Reply(*pickle.loads(data[begin:end])) for number, begin, end in places if end
        }


class Logbook:
    """The logbook of this process for one pool."""

    def __init__(self, name: str) -> None:
        _sweep()
        self._folder = folder = _folder(name)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "pid").write_text(str(os.getpid()))
        self._begun = os.open(folder / "begun", os.O_RDWR | os.O_CREAT, 0o600)
        # More than none if an earlier process had the same place.
        self._numbers = dict.fromkeys(_numbers(os.pread(self._begun, _RING * _NUMBER.size, 0)))
        self._count = len(self._numbers)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._replies = _Replies(folder / "replies")

    def begin(self, number: int) -> None:
        """Put chunk `number` on the list; raises AlreadyBegunError if it is there."""
        with self._lock:
            if number in self._numbers:
                msg = f"chunk {number} was sent twice"
                raise AlreadyBegunError(msg)
            self._numbers[number] = None
            offset = self._count % _RING * _NUMBER.size
            self._count += 1
            if len(self._numbers) > _RING:
                del self._numbers[next(iter(self._numbers))]
            os.pwrite(self._begun, _NUMBER.pack(number), offset)

    def undo(self, number: int) -> None:
        """Take chunk `number` off the list: nothing of it was run, and it may come again."""
        with self._lock:
            self._numbers.pop(number, None)
            kept = list(self._numbers)
            os.pwrite(self._begun, b"".join(map(_NUMBER.pack, kept)), 0)
            os.ftruncate(self._begun, len(kept) * _NUMBER.size)
            self._count = len(kept)

    def keep(self, number: int, reply: Reply) -> None:
        """Keep a reply that is about to be sent."""
        with self._lock:
            self._replies.keep(number, reply)

    @property
    def page(self) -> _LogPage:
        """The page of this thread."""
        page: _LogPage | None = getattr(self._local, "page", None)
        if page is None:
            path = self._folder / f"{threading.get_ident()}.page"
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.ftruncate(fd, _PAGE_BYTES)
                page = self._local.page = _LogPage(fd)
            finally:
                os.close(fd)
        return page


_logbooks: dict[str, Logbook] = {}
# Names whose pool is gone: what it sent may still be in a queue.
_dropped: dict[str, None] = {}
_MOST_DROPPED = 1000
_lock = threading.Lock()


def run_logged_chunk(
    logbook: str,
    number: int,
    order: Order,
    program: bytes | None,
    setup: bytes | None,
    items: bytes,
) -> Reply:
    """Run a chunk as `run_remote_chunk`, and keep the logbook of that name."""
    with _lock:
        book = _logbooks.get(logbook)
        if logbook in _dropped:
            msg = f"chunk {number} was sent by a pool that has ended"
            raise AlreadyBegunError(msg)
        if book is None:
            book = _logbooks[logbook] = Logbook(logbook)
    book.begin(number)
    page = book.page
    page.load(number, order.stop)
    reply = run_remote_chunk(order, program, setup, items, page)
    if reply.kind in (RESULTS, MIXED_RESULTS):
        book.keep(number, reply)
    else:
        book.undo(number)
    page.clear()
    return reply


def look_in_logbook(name: str) -> tuple[int, int, float]:
    """Return the chunk and item that the process is at that keeps it, and for how many seconds."""
    for path in _folder(name).glob("*.page"):
        with path.open("rb") as file:
            number, item, since = pages.peek(file.read(4096))
        if number != IDLE:
            return number, item, time.perf_counter() - since
    return IDLE, LOADING, 0.0


def kill_at(name: str, pid: int, number: int, item: int | None) -> tuple[int, int, float] | None:
    """Kill a process if it is at that chunk and item, None for any; else return what it is at.

    It stands still meanwhile, or it might go on to the next item after the look.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        _await_stop(pid)
        at = look_in_logbook(name)
        if at[0] != number or item not in (None, at[1]):
            return at
        os.kill(pid, signal.SIGKILL)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return None


def _await_stop(pid: int) -> None:
    end = time.monotonic() + _STOP_SECONDS
    threads = Path(f"/proc/{pid}/task")
    while time.monotonic() < end:
        states = [(path / "stat").read_text().rpartition(")")[2][1] for path in threads.iterdir()]
        if all(state in "TtZX" for state in states):
            return
        time.sleep(0.001)


def read_logbook(name: str) -> Record | None:
    """Return what the process noted that kept the logbook, and remove it; None if there is none."""
    folder = _folder(name)
    try:
        begun = (folder / "begun").read_bytes()
        replies = (folder / "replies").read_bytes()
    except OSError:
        return None
    found = tuple(pages.used_part(path.read_bytes()) for path in folder.glob("*.page"))
    drop_logbook(name)
    return Record(frozenset(_numbers(begun)), found, _Replies.read(replies))


def _numbers(ring: bytes) -> list[int]:
    return [number for (number,) in _NUMBER.iter_unpack(ring)]


def drop_logbook(name: str) -> None:
    """Remove a logbook that nobody will read."""
    with _lock:
        _logbooks.pop(name, None)
        _dropped[name] = None
        while len(_dropped) > _MOST_DROPPED:
            del _dropped[next(iter(_dropped))]
    shutil.rmtree(_folder(name), ignore_errors=True)


def _folder(name: str) -> Path:
    return Path(tempfile.gettempdir()) / (_PREFIX + name)


def _sweep() -> None:
    """Remove what processes have left behind that were killed with nobody to look after them."""
    for folder in Path(tempfile.gettempdir()).glob(_PREFIX + "*"):
        with suppress(OSError, ValueError):
            is_old = time.time() - (folder / "begun").stat().st_mtime > _STALE_SECONDS
            if is_old and not Path(f"/proc/{int((folder / 'pid').read_text())}").exists():
                shutil.rmtree(folder, ignore_errors=True)
