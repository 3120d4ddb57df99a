"""Every peer behind one small interface, with the arguments that its documentation shows first.

A method that a contender does not have is None. Peers are imported when they
are opened, so that a missing one is missing and nothing else.
"""

import concurrent.futures
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

Function = Callable[..., Any]


class Contender:
    """A pool of workers; subclasses say whose.

    Use as a context manager, several times if need be: leaving it waits for
    the workers to end.
    """

    name: ClassVar[str]
    module: ClassVar[str] = ""  # that has to be there; the standard library if empty
    is_heavy: ClassVar[bool] = False

    apply: Any = None
    submit: Any = None
    map: Any = None
    imap: Any = None
    imap_unordered: Any = None

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers
        self.pool: Any = None

    def open(self) -> None:
        """Start."""
        raise NotImplementedError

    def close(self) -> None:
        """Wait for all work and end."""
        raise NotImplementedError

    def kill(self) -> None:
        """End without waiting for what was not begun."""
        self.close()

    def __enter__(self) -> "Self":
        """Open."""
        self.open()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close, or after an exception kill."""
        if kind is None:
            self.close()
        else:
            self.kill()

    @classmethod
    def version(cls) -> str | None:
        """Return the version, None if it is not installed."""
        if not cls.module:
            return "stdlib"
        if importlib.util.find_spec(cls.module) is None:
            return None
        try:
            return metadata.version(cls.module)
        except metadata.PackageNotFoundError:
            return "from source"


class PoolLike(Contender):
    """What has the interface of `multiprocessing.Pool`."""

    def close(self) -> None:
        """Close and join."""
        self.pool.close()
        self.pool.join()

    def kill(self) -> None:
        """Terminate and join."""
        self.pool.terminate()
        self.pool.join()

    def apply(self, function: Function, *arguments: Any) -> Any:
        """Call and wait."""
        return self.pool.apply(function, arguments)

    def submit(self, function: Function, *arguments: Any) -> Callable[[], Any]:
        """Call; return what waits for the result."""
        get: Callable[[], Any] = self.pool.apply_async(function, arguments).get
        return get

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        return self.pool.map(function, items, chunksize)

    def imap(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come, in order."""
        results: Iterator[Any] = self.pool.imap(function, items)
        return results

    def imap_unordered(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come."""
        results: Iterator[Any] = self.pool.imap_unordered(function, items)
        return results


class Motorpool(PoolLike):
    """motorpool.Pool under fork."""

    name = "motorpool"
    module = "motorpool"
    method = "fork"

    def open(self) -> None:
        """Start."""
        from motorpool import Pool

        self.pool = Pool(self.workers, context=multiprocessing.get_context(self.method))


class MotorpoolSpawn(Motorpool):
    """motorpool.Pool under spawn."""

    name = "motorpool-spawn"
    method = "spawn"


class MotorpoolForkserver(Motorpool):
    """motorpool.Pool under forkserver."""

    name = "motorpool-forkserver"
    method = "forkserver"


class MotorpoolThreads(PoolLike):
    """motorpool.ThreadPool."""

    name = "motorpool-threads"
    module = "motorpool"

    def open(self) -> None:
        """Start."""
        from motorpool import ThreadPool

        self.pool = ThreadPool(self.workers)


class Stdlib(PoolLike):
    """multiprocessing.Pool under fork."""

    name = "stdlib"
    method = "fork"

    def open(self) -> None:
        """Start."""
        self.pool = multiprocessing.get_context(self.method).Pool(self.workers)


class StdlibSpawn(Stdlib):
    """multiprocessing.Pool under spawn."""

    name = "stdlib-spawn"
    method = "spawn"


class StdlibForkserver(Stdlib):
    """multiprocessing.Pool under forkserver."""

    name = "stdlib-forkserver"
    method = "forkserver"


class StdlibThreads(PoolLike):
    """multiprocessing.pool.ThreadPool."""

    name = "stdlib-threads"

    def open(self) -> None:
        """Start."""
        from multiprocessing.pool import ThreadPool

        self.pool = ThreadPool(self.workers)


class Billiard(PoolLike):
    """Celery's fork of multiprocessing."""

    name = "billiard"
    module = "billiard"

    def open(self) -> None:
        """Start."""
        import billiard

        self.pool = billiard.get_context("fork").Pool(self.workers)


class ExecutorLike(Contender):
    """What has the interface of `concurrent.futures.Executor`."""

    def close(self) -> None:
        """Wait for all work and end."""
        self.pool.shutdown(wait=True)

    def kill(self) -> None:
        """End without waiting for what was not begun."""
        self.pool.shutdown(wait=True, cancel_futures=True)

    def apply(self, function: Function, *arguments: Any) -> Any:
        """Call and wait."""
        return self.pool.submit(function, *arguments).result()

    def submit(self, function: Function, *arguments: Any) -> Callable[[], Any]:
        """Call; return what waits for the result."""
        result: Callable[[], Any] = self.pool.submit(function, *arguments).result
        return result

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        return list(self.pool.map(function, items, chunksize=chunksize or 1))

    def imap(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come, in order."""
        results: Iterator[Any] = self.pool.map(function, items)
        return results


class Futures(ExecutorLike):
    """ProcessPoolExecutor under fork."""

    name = "futures"
    method = "fork"

    def open(self) -> None:
        """Start."""
        self.pool = concurrent.futures.ProcessPoolExecutor(
            self.workers, mp_context=multiprocessing.get_context(self.method)
        )


class FuturesSpawn(Futures):
    """ProcessPoolExecutor under spawn."""

    name = "futures-spawn"
    method = "spawn"


class FuturesForkserver(Futures):
    """ProcessPoolExecutor under forkserver."""

    name = "futures-forkserver"
    method = "forkserver"


class FuturesThreads(ExecutorLike):
    """ThreadPoolExecutor."""

    name = "futures-threads"

    def open(self) -> None:
        """Start."""
        self.pool = concurrent.futures.ThreadPoolExecutor(self.workers)


class MotorpoolExecutor(ExecutorLike):
    """motorpool's executor, under fork, once there is one."""

    name = "motorpool-executor"
    module = "motorpool"

    def open(self) -> None:
        """Start."""
        self.pool = _motorpool_executor()(
            self.workers, mp_context=multiprocessing.get_context("fork")
        )

    @classmethod
    def version(cls) -> str | None:
        """Return the version, None while there is no executor."""
        return super().version() if _motorpool_executor() else None


def _motorpool_executor() -> Any:
    import motorpool

    return getattr(motorpool, "ProcessPoolExecutor", getattr(motorpool, "Executor", None))


class Loky(ExecutorLike):
    """The executor beneath joblib."""

    name = "loky"
    module = "joblib"

    def open(self) -> None:
        """Start."""
        from joblib.externals.loky import ProcessPoolExecutor

        self.pool = ProcessPoolExecutor(self.workers)

    def kill(self) -> None:
        """End without waiting for what was not begun."""
        self.pool.shutdown(wait=True, kill_workers=True)


class Joblib(Contender):
    """joblib.Parallel with its default backend; it has no call of one task."""

    name = "joblib"
    module = "joblib"

    def open(self) -> None:
        """Start."""
        from joblib import Parallel, delayed

        self._delayed = delayed
        self.pool = Parallel(n_jobs=self.workers)
        self.pool.__enter__()

    def close(self) -> None:
        """End."""
        from joblib.externals.loky import get_reusable_executor

        self.pool.__exit__(None, None, None)
        get_reusable_executor().shutdown(wait=True)

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        parallel = self.pool
        if chunksize is not None:
            from joblib import Parallel

            parallel = Parallel(n_jobs=self.workers, batch_size=chunksize)
        return parallel(self._calls(function, items))

    def imap(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come, in order."""
        return self._stream(function, items, "generator")

    def imap_unordered(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come."""
        return self._stream(function, items, "generator_unordered")

    def _calls(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        delayed = self._delayed(function)
        return (delayed(item) for item in items)

    def _stream(self, function: Function, items: Iterable[Any], kind: str) -> Iterator[Any]:
        from joblib import Parallel

        results: Iterator[Any] = Parallel(n_jobs=self.workers, return_as=kind)(
            self._calls(function, items)
        )
        return results


class Mpire(Contender):
    """mpire.WorkerPool under fork, workers kept between calls."""

    name = "mpire"
    module = "mpire"

    def open(self) -> None:
        """Start."""
        from mpire import WorkerPool

        self.pool = WorkerPool(n_jobs=self.workers, start_method="fork", keep_alive=True)

    def close(self) -> None:
        """Wait for all work and end."""
        self.pool.stop_and_join()

    def kill(self) -> None:
        """Terminate."""
        self.pool.terminate()

    def apply(self, function: Function, *arguments: Any) -> Any:
        """Call and wait."""
        return self.pool.apply(function, arguments)

    def submit(self, function: Function, *arguments: Any) -> Callable[[], Any]:
        """Call; return what waits for the result."""
        get: Callable[[], Any] = self.pool.apply_async(function, arguments).get
        return get

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        return self.pool.map(function, items, chunk_size=chunksize, concatenate_numpy_output=False)

    def imap(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come, in order."""
        results: Iterator[Any] = self.pool.imap(function, items)
        return results

    def imap_unordered(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come."""
        results: Iterator[Any] = self.pool.imap_unordered(function, items)
        return results


class Pebble(Contender):
    """pebble.ProcessPool under fork."""

    name = "pebble"
    module = "pebble"

    def open(self) -> None:
        """Start."""
        from pebble import ProcessPool

        context = multiprocessing.get_context("fork")
        self.pool = ProcessPool(max_workers=self.workers, context=context)

    def close(self) -> None:
        """Wait for all work and end."""
        self.pool.close()
        self.pool.join()

    def kill(self) -> None:
        """Stop."""
        self.pool.stop()
        self.pool.join()

    def apply(self, function: Function, *arguments: Any) -> Any:
        """Call and wait."""
        return self.pool.schedule(function, args=arguments).result()

    def submit(self, function: Function, *arguments: Any) -> Callable[[], Any]:
        """Call; return what waits for the result."""
        result: Callable[[], Any] = self.pool.schedule(function, args=arguments).result
        return result

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        return list(self.pool.map(function, items, chunksize=chunksize or 1).result())

    def imap(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come, in order."""
        results: Iterator[Any] = self.pool.map(function, items).result()
        return results


class Ray(Contender):
    """Ray on this machine: remote functions, and its own drop-in Pool for the map family."""

    name = "ray"
    module = "ray"
    is_heavy = True

    def open(self) -> None:
        """Start once; a cluster is not for a moment."""
        import ray

        self._ray = ray
        self._remote: dict[int, Any] = {}
        if not ray.is_initialized():
            os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
            ray.init(
                num_cpus=self.workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=1 << 30,
            )

    def close(self) -> None:
        """Leave it running; it ends with the process."""
        self.pool = None

    def apply(self, function: Function, *arguments: Any) -> Any:
        """Call and wait."""
        return self.submit(function, *arguments)()

    def submit(self, function: Function, *arguments: Any) -> Callable[[], Any]:
        """Call; return what waits for the result."""
        remote = self._remote.get(id(function))
        if remote is None:
            remote = self._remote[id(function)] = self._ray.remote(function)
        get, reference = self._ray.get, remote.remote(*arguments)
        return lambda: get(reference)

    def _its_pool(self) -> Any:
        if self.pool is None:
            from ray.util.multiprocessing import Pool

            self.pool = Pool(self.workers)
        return self.pool

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        return self._its_pool().map(function, items, chunksize)

    def imap(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come, in order."""
        results: Iterator[Any] = self._its_pool().imap(function, items)
        return results

    def imap_unordered(self, function: Function, items: Iterable[Any]) -> Iterator[Any]:
        """Call for each item; results as they come."""
        results: Iterator[Any] = self._its_pool().imap_unordered(function, items)
        return results


class Dask(Contender):
    """Dask's distributed scheduler on this machine."""

    name = "dask"
    module = "distributed"
    is_heavy = True

    def open(self) -> None:
        """Start once; a cluster is not for a moment."""
        from distributed import Client

        if self.pool is None:
            self.pool = Client(
                n_workers=self.workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
            )

    def close(self) -> None:
        """Leave it running; it ends with the process."""

    def apply(self, function: Function, *arguments: Any) -> Any:
        """Call and wait."""
        return self.pool.submit(function, *arguments, pure=False).result()

    def submit(self, function: Function, *arguments: Any) -> Callable[[], Any]:
        """Call; return what waits for the result."""
        result: Callable[[], Any] = self.pool.submit(function, *arguments, pure=False).result
        return result

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None = None) -> Any:
        """Call for each item and wait."""
        batches = {"batch_size": chunksize} if chunksize else {}
        return self.pool.gather(self.pool.map(function, list(items), pure=False, **batches))


class MotorpoolOnRay(PoolLike):
    """motorpool.Pool on a Ray that is there already."""

    name = "motorpool-ray"
    module = "ray"
    is_heavy = True
    engine: Any = "ray"

    def open(self) -> None:
        """Start."""
        from motorpool import Pool

        self.pool = Pool(self.workers, engine=self.engine)


class MotorpoolOnDask(MotorpoolOnRay):
    """motorpool.Pool on a Dask cluster, the `Client` in `engine`."""

    name = "motorpool-dask"
    module = "distributed"


_ALL: tuple[type[Contender], ...] = (
    Motorpool,
    MotorpoolSpawn,
    MotorpoolForkserver,
    MotorpoolThreads,
    MotorpoolExecutor,
    Stdlib,
    StdlibSpawn,
    StdlibForkserver,
    StdlibThreads,
    Futures,
    FuturesSpawn,
    FuturesForkserver,
    FuturesThreads,
    Loky,
    Joblib,
    Mpire,
    Pebble,
    Billiard,
    Ray,
    Dask,
    MotorpoolOnRay,
    MotorpoolOnDask,
)
CONTENDERS = {kind.name: kind for kind in _ALL}
