"""What picklers have to know beforehand: special types, and modules that are never imported."""

import copyreg
import pickle
import sys

from motorpool.typed import Any

# Modules that a worker never imports: their names are defined in it on demand.
MAIN_MODULES = ("__main__", "__mp_main__")

# In a pickle, a socket or connection that `multiprocessing` hands over to whoever loads it first.
DESCRIPTOR = b"resource_sharer\x94\x8c\x05DupFd"


class _Reducers:
    """How `multiprocessing` pickles connections and the like, and we arrays, once imported."""

    known: tuple[int, int, bool] = (0, 0, False)
    table: dict[type, Any] | None = None


def reducers() -> dict[type, Any] | None:
    """Return `copyreg`'s reducers and those of modules that are imported; None if none is."""
    reduction = sys.modules.get("multiprocessing.reduction")
    numpy = sys.modules.get("numpy")
    if reduction is None and numpy is None:
        return None
    # Registered there by many. A signal handler may come in the midst of its import.
    extra = getattr(getattr(reduction, "ForkingPickler", None), "_extra_reducers", {})
    known = len(extra), len(copyreg.dispatch_table), hasattr(numpy, "ndarray")
    if known != _Reducers.known:
        # A plain dict: the C pickler looks into it without a call.
        _Reducers.table = {**copyreg.dispatch_table, **extra}
        if numpy is not None and known[2]:
            _Reducers.table.setdefault(numpy.ndarray, reduce_array)
        _Reducers.known = known
    return _Reducers.table


def reduce_array(array: Any) -> Any:
    """Pickle a NumPy array so that it arrives writable, as it does by older protocols.

    Protocol 5 would have what is read-only here arrive read-only.
    """
    reduced = array.__reduce_ex__(5)
    if array.flags.writeable or type(reduced[1][0]) is not pickle.PickleBuffer:
        return reduced
    data = sys.modules["numpy"].asarray(_Unlocked(array))
    return reduced[0], (pickle.PickleBuffer(data), *reduced[1][1:])


class _Unlocked:
    """The bytes of an array, for a buffer that does not say it is read-only; only read."""

    def __init__(self, array: Any) -> None:
        self._array = array  # keeps it
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {
            "version": 3,
            "data": (address, False),
            "shape": (array.nbytes,),
            "typestr": "|u1",
        }
