"""`Pool` and `ThreadPool`: what users hold."""

import math
import multiprocessing.pool
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import get_context
from multiprocessing.context import BaseContext

from motorpool.checks import (
    check_arguments,
    check_callable,
    check_callback,
    check_chunksize,
    check_context,
    check_initargs,
    check_initializer,
    check_limits,
    check_processes,
    check_tasks,
)
from motorpool.driver import Driver
from motorpool.engines.choose import Request, check_timeout, choose, make_engine
from motorpool.interrupts import once
from motorpool.iterators import IMapIterator, IMapUnorderedIterator
from motorpool.lifecycle import Lifecycle
from motorpool.messages import CALL_ARGUMENTS, CALL_ITEM, CALL_STAR, Control
from motorpool.options import DEFAULT, Options
from motorpool.results import AsyncResult, Callback, MapResult
from motorpool.typed import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from motorpool.keywords import MapOptions, TaskOptions

T = TypeVar("T")
R = TypeVar("R")


class Pool(Lifecycle):
    """A pool of worker processes, as `multiprocessing.pool.Pool`, without its traps.

    Parameters
    ----------
    processes
        Number of workers; by default `motorpool.cpu_count()`.
    initializer, initargs
        Each worker calls ``initializer(*initargs)`` before its first task.
    maxtasksperchild
        Items after which a worker is replaced by a new one; None for never.
    context
        A `multiprocessing` context, which says how workers start; by default
        that of `multiprocessing.set_start_method`, or the platform's.
    engine
        Where the workers are: ``"processes"``, ``"threads"``, ``"ray"``,
        ``"ray://head:10001"``, ``"dask"``, ``"tcp://scheduler:8786"``, a
        `distributed.Client` or `Cluster`, any executor with a method `submit`,
        or ``"module:name"`` of what makes one. By default what the environment
        variable `MOTORPOOL_ENGINE` names, else processes of this machine.
    engine_options
        For engines other than processes and threads: passed on to the engine.
    memory_limit
        What each worker may use, in bytes or as ``"500MB"`` or ``"2GiB"``; None
        for any amount. A task that uses more is killed and fails with
        `MemoryLimitError`. A worker that uses more after a task is replaced.
        Counted is the memory that is the worker's alone: not what it shares
        with its parent since a fork or maps of files, nor what programs use
        that a task starts.
    threads_per_worker
        Threads that OpenMP, OpenBLAS, MKL and the like may use in each worker.
        By default the CPUs are shared out evenly, unless the environment sets
        `OMP_NUM_THREADS` or one of its kin.
    timeout, retries, backoff, retry_on, on_error
        What the methods below take when they are not told otherwise; see
        `TaskOptions` and `MapOptions`.

    Raises
    ------
    ValueError
        If a number is less than 1, if `memory_limit` is no size, if `engine` names
        none, or if it cannot do what is asked.
    TypeError
        If `initializer` cannot be called, or `engine` cannot run tasks.
    EngineNotInstalledError
        If the engine needs a package that is missing.

    Examples
    --------
    >>> from motorpool import Pool
    >>> with Pool(processes=2) as pool:
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init__(  # noqa: PLR0913 - beyond the first five, by keyword only
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: BaseContext | None = None,
        *,
        engine: object = None,
        engine_options: Mapping[str, Any] | None = None,
        memory_limit: int | str | None = None,
        threads_per_worker: int | None = None,
        **options: "Unpack[MapOptions]",
    ) -> None:
        # Not the inherited __init__: of the stdlib's pool only the type is wanted.
        self._ctx = context or get_context()
        check_context(self._ctx)
        processes = check_processes(processes)
        check_initializer(initializer)
        check_tasks(maxtasksperchild)
        self._maxtasksperchild = maxtasksperchild
        self._options = DEFAULT.updated(options, type(self))
        setup = (initializer, check_initargs(initargs)) if initializer is not None else None
        limits = check_limits(memory_limit, threads_per_worker, processes)
        request = Request(self._ctx, processes, setup, maxtasksperchild, engine_options, limits)
        chosen = choose(engine)
        if self._options.timeout < math.inf:
            check_timeout(chosen.kind)
        self._engine_kind = chosen.kind
        made = make_engine(chosen, request)
        self._processes = processes or made.capacity
        self._driver = Driver(made, self._processes, maxtasksperchild)
        self._begin()

    def _choose(
        self, method: Callable[..., object], options: "MapOptions | TaskOptions"
    ) -> Options:
        chosen = self._options.updated(options, method)
        if chosen.timeout < math.inf:
            check_timeout(self._engine_kind)
        return chosen

    # One call.

    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        **options: "Unpack[TaskOptions]",
    ) -> R:
        """Return ``func(*args, **kwds)``, called in a worker.

        Parameters
        ----------
        func, args, kwds
            What to call, and with what.
        timeout, retries, backoff, retry_on
            How long the call may run, and how often; see `TaskOptions`.

        Raises
        ------
        TaskTimeoutError
            If the call ran for longer than `timeout` seconds.
        Exception
            What `func` raised, with the worker's traceback as its cause.
        PoolClosedError
            If the pool was closed or terminated.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     pool.apply(int, ("ff",), {"base": 16})
        255
        """
        chosen = self._choose(self.apply, options) if options else self._options
        return self._apply(func, args, kwds, None, None, chosen, is_awaited=True).get()

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        error_callback: Callback | None = None,
        **options: "Unpack[TaskOptions]",
    ) -> AsyncResult[R]:
        """Call ``func(*args, **kwds)`` in a worker, and do not wait.

        Parameters and exceptions as in `apply`; callbacks as in `map_async`.

        Examples
        --------
        >>> with Pool(1) as pool:
        ...     pool.apply_async(divmod, (7, 2)).get()
        (3, 1)
        """
        chosen = self._choose(self.apply_async, options) if options else self._options
        return self._apply(func, args, kwds, callback, error_callback, chosen, is_awaited=False)

    def _apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any],
        kwds: Mapping[str, Any] | None,
        callback: Callback | None,
        error_callback: Callback | None,
        options: Options,
        *,
        is_awaited: bool,
    ) -> AsyncResult[R]:
        check_callable(func)
        if callback is not None or error_callback is not None:
            callback = check_callback(callback)
            error_callback = check_callback(error_callback)
        result: AsyncResult[R] = AsyncResult(self._driver, self, callback, error_callback)
        try:
            items = [(tuple(args), dict(kwds) if kwds else {})]
        except (TypeError, ValueError):
            check_arguments(args, kwds)
            raise
        if options.control is None:
            self._driver.call(result, func, items, is_awaited=is_awaited)
        else:
            self._driver.submit(
                result, func, CALL_ARGUMENTS, items, control=options.control, is_awaited=is_awaited
            )
        return result

    # One call per item.

    def map(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        **options: "Unpack[MapOptions]",
    ) -> list[R]:
        """Return ``[func(item) for item in iterable]``, called in the workers.

        Parameters and exceptions as in `map_async`.

        Examples
        --------
        >>> with Pool(2) as pool:
        ...     pool.map(str.upper, ["a", "b"])
        ['A', 'B']
        """
        chosen = self._choose(self.map, options) if options else self._options
        return self._run_map(func, iterable, CALL_ITEM, chunksize, chosen)

    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        **options: "Unpack[MapOptions]",
    ) -> list[R]:
        """Return ``[func(*item) for item in iterable]``, called in the workers.

        Parameters and exceptions as in `map_async`.

        Examples
        --------
        >>> with Pool(2) as pool:
        ...     pool.starmap(pow, [(2, 3), (3, 2)])
        [8, 9]
        """
        chosen = self._choose(self.starmap, options) if options else self._options
        return self._run_map(func, iterable, CALL_STAR, chunksize, chosen)

    def _run_map(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        style: int,
        chunksize: int | None,
        options: Options,
    ) -> list[R]:
        result: MapResult[R] = self._map(
            func, iterable, style, chunksize, (None, None), options, is_awaited=True
        )
        try:
            return result.get()
        except BaseException as error:
            # Nobody can ever ask for the rest after, say, Ctrl-C.
            if not result.ready():
                with once(error):
                    self._driver.cancel_record(result, error)
            raise

    def map_async(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: "Unpack[MapOptions]",
    ) -> MapResult[R]:
        """Apply `func` to every item in the workers, and do not wait.

        Parameters
        ----------
        func
            Called with one item at a time. It is sent to each worker once per
            call, not once per chunk, so a large closure is affordable.
        iterable
            Read to its end before this returns; for a long one, use `imap`.
        chunksize
            Items that a worker runs together. By default it follows the measured
            cost of an item. A number fixes it; short chunks still travel together.
            With 1, even a crash in C code costs one item and no more.
        callback, error_callback
            Called in a thread of the pool's, with the list of results or with
            the first exception.
        timeout, retries, backoff, retry_on, on_error
            How long each task may run, how often, and what becomes of a map
            with items that fail; see `TaskOptions` and `MapOptions`.

        Returns
        -------
        MapResult
            Its `get` gives the results in the order of `iterable`, or raises
            the first exception that `func` raised, once every item is back.

        Raises
        ------
        PoolClosedError
            If the pool was closed or terminated.
        NotPicklableError
            If `func` cannot be sent to a worker.

        Examples
        --------
        >>> with Pool(2) as pool:
        ...     pool.map_async(abs, [-1, 2, -3]).get()
        [1, 2, 3]
        >>> with Pool(2, timeout=60) as pool:
        ...     pool.map_async(int, ["1", "two", "3"], retries=1, on_error="skip").get()
        [1, 3]
        """
        chosen = self._choose(self.map_async, options) if options else self._options
        callbacks = (check_callback(callback), check_callback(error_callback))
        return self._map(func, iterable, CALL_ITEM, chunksize, callbacks, chosen, is_awaited=False)

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        **options: "Unpack[MapOptions]",
    ) -> MapResult[R]:
        """As `map_async`, with each item unpacked into the arguments of `func`.

        Examples
        --------
        >>> with Pool(2) as pool:
        ...     pool.starmap_async(divmod, [(7, 2), (9, 4)]).get()
        [(3, 1), (2, 1)]
        """
        chosen = self._choose(self.starmap_async, options) if options else self._options
        callbacks = (check_callback(callback), check_callback(error_callback))
        return self._map(func, iterable, CALL_STAR, chunksize, callbacks, chosen, is_awaited=False)

    def _map(
        self,
        func: Callable[..., R],
        iterable: Iterable[Any],
        style: int,
        chunksize: int | None,
        callbacks: tuple[Callback | None, Callback | None],
        options: Options,
        *,
        is_awaited: bool,
    ) -> MapResult[R]:
        check_callable(func)
        chunksize = check_chunksize(chunksize)
        self._driver.check_open()
        items: Any = iterable if type(iterable) in (tuple, range) else list(iterable)
        result: MapResult[R] = MapResult(
            self._driver, self, *callbacks, len(items), options.on_error, chunksize
        )
        self._driver.submit(
            result, func, style, items, chunksize, options.control, is_awaited=is_awaited
        )
        return result

    # Results one by one.

    def imap(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        **options: "Unpack[MapOptions]",
    ) -> IMapIterator[R]:
        """Return an iterator over ``func(item)``, in the order of `iterable`.

        `iterable` is read only as far ahead as keeps the workers busy, so it
        may be endless. Parameters and exceptions as in `map_async`.

        Examples
        --------
        >>> import itertools
        >>> with Pool(2) as pool:
        ...     results = pool.imap(abs, itertools.count(-2))
        ...     [next(results) for _ in range(4)]
        [2, 1, 0, 1]
        """
        chosen = self._choose(self.imap, options) if options else self._options
        iterator: IMapIterator[R] = IMapIterator(self._driver, self, chosen.on_error)
        self._imap(iterator, func, iterable, chunksize, chosen.control)
        return iterator

    def imap_unordered(
        self,
        func: Callable[[T], R],
        iterable: Iterable[T],
        chunksize: int | None = None,
        **options: "Unpack[MapOptions]",
    ) -> IMapUnorderedIterator[R]:
        """Return an iterator over ``func(item)``, in the order in which results come.

        Otherwise as `imap`.

        Examples
        --------
        >>> with Pool(2) as pool:
        ...     sorted(pool.imap_unordered(abs, [-3, 1, -2]))
        [1, 2, 3]
        """
        chosen = self._choose(self.imap_unordered, options) if options else self._options
        iterator: IMapUnorderedIterator[R] = IMapUnorderedIterator(
            self._driver, self, chosen.on_error
        )
        self._imap(iterator, func, iterable, chunksize, chosen.control)
        return iterator

    def _imap(
        self,
        iterator: Any,
        func: Any,
        iterable: Iterable[Any],
        chunksize: int | None,
        control: Control | None,
    ) -> None:
        check_callable(func)
        chunksize = check_chunksize(chunksize)
        self._driver.check_open()
        stream = iterator.stream
        submit: Callable[..., int] = self._driver.submit
        if type(iterable) in (list, tuple, range):
            items = list(iterable) if type(iterable) is list else iterable
        else:
            items, submit = iter(iterable), self._driver.submit_stream
        try:
            iterator.start(submit(stream, func, CALL_ITEM, items, chunksize, control))
        except BaseException as error:
            # Nobody can ever read it after, say, Ctrl-C.
            if stream.job >= 0:
                with once(error):
                    self._driver.cancel_record(stream, error)
            raise


class ThreadPool(Pool, multiprocessing.pool.ThreadPool):
    """A pool of worker threads, as `multiprocessing.pool.ThreadPool`.

    For tasks that wait, for files or the network, or whose work releases the
    GIL. Nothing is pickled. A thread cannot be killed: a task that is
    cancelled, or late, or running when the pool is terminated, is left to
    itself. Another thread takes its place.

    Parameters
    ----------
    processes
        Number of threads; by default `motorpool.cpu_count()`.
    initializer, initargs
        As in `Pool`.
    timeout, retries, backoff, retry_on, on_error
        As in `Pool`.

    Examples
    --------
    >>> from motorpool import ThreadPool
    >>> with ThreadPool(2) as pool:
    ...     pool.map(len, ["a", "bc"])
    [1, 2]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **options: "Unpack[MapOptions]",
    ) -> None:
        DEFAULT.updated(options, ThreadPool)  # refuses what is for processes only
        Pool.__init__(self, processes, initializer, initargs, engine="threads", **options)


__all__ = ["Pool", "ThreadPool"]
