"""How many threads numerical libraries start in a worker.

By themselves they take one per CPU in every worker. In a bare interpreter the
environment tells them; those that a forked worker inherited have read it
already and are told by a call.
"""

import os
import sys

from motorpool.kernel import read
from motorpool.typed import Any

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def limit_threads(threads: int, *, is_bare: bool = False) -> None:
    """Have numerical libraries use so many threads; leave them alone if that is 0.

    `is_bare`: none is loaded yet.
    """
    if threads:
        for name in THREAD_VARIABLES:
            os.environ[name] = str(threads)
        if not is_bare:
            _limit_loaded(threads)


class _Look:
    """The last look for libraries that were loaded: how many modules there were, the finding."""

    modules = 0
    is_bare = False


def is_bare() -> bool:
    """Tell, without looking again if nothing was imported, whether no such library is loaded.

    To look takes longer than anything else that a worker does as it starts.
    """
    if "ctypes" in sys.modules or "_cffi_backend" in sys.modules:
        return False  # They load libraries that are no modules.
    if _Look.modules != len(sys.modules):
        _Look.modules = len(sys.modules)
        _Look.is_bare = not _has_libraries(_maps())
    return _Look.is_bare


# Functions that set the number of threads, by what the library's file is called.
_SETTERS = {
    "openblas": (
        "scipy_openblas_set_num_threads64_",
        "scipy_openblas_set_num_threads",
        "openblas_set_num_threads64_",
        "openblas_set_num_threads",
    ),
    "mkl_rt": ("MKL_Set_Num_Threads",),
    "blis": ("bli_thread_set_num_threads",),
    "gomp": ("omp_set_num_threads",),
    "iomp": ("omp_set_num_threads",),
    "libomp": ("omp_set_num_threads",),
}


def _limit_loaded(threads: int) -> None:
    """Tell the libraries that a forked worker inherited; they have read the environment."""
    maps = _maps()
    if not _has_libraries(maps):
        return
    files = {line.rpartition(" ")[2] for line in maps.split("\n") if ".so" in line}
    for file in sorted(files):
        name = file.rpartition("/")[2]
        for part, setters in _SETTERS.items():
            if part in name:
                _call_first(file, setters, threads)


def _maps() -> str:
    try:
        return os.fsdecode(read("/proc/self/maps"))
    except OSError:  # Nothing is mounted there.
        return ""


def _has_libraries(maps: str) -> bool:
    return any(part in maps for part in _SETTERS)


def _call_first(file: str, setters: tuple[str, ...], threads: int) -> None:
    import ctypes

    try:
        library: Any = ctypes.CDLL(file, mode=os.RTLD_NOLOAD | ctypes.DEFAULT_MODE)
    except OSError:
        return
    for setter in setters:
        function = getattr(library, setter, None)
        if function is not None:
            function(ctypes.c_int(threads))
            return
