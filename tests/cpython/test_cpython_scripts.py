"""CPython's own tests that run scripts which make pools pass on motorpool."""

import importlib

import pytest

pytest.importorskip(
    "test._test_multiprocessing", reason="this interpreter ships without the tests of CPython"
)

from under_motorpool import InOtherInterpreters, make_case

MAIN = "test.test_multiprocessing_main_handling"

# Name, module, class and, if not the whole class is about pools, the one test
# that is. The scripts choose their start method themselves.
SCRIPTS = [
    ("MainHandling_fork", MAIN, "ForkCmdLineTest", None),
    ("MainHandling_forkserver", MAIN, "ForkServerCmdLineTest", None),
    ("MainHandling_spawn", MAIN, "SpawnCmdLineTest", None),
    (
        "PoolsOfThreads",
        "test.test_importlib.test_threaded_import",
        "ThreadedImportTests",
        "test_multiprocessing_pool_circular_import",
    ),
    ("LargePool", "test._test_multiprocessing", "MiscTestCase", "test_large_pool"),
]

for name, module_name, class_name, only in SCRIPTS:
    module = importlib.import_module(module_name)
    base = getattr(module, class_name)
    # Not every version of CPython has each of them.
    if only is None or hasattr(base, only):
        globals()[name] = make_case(name, module, base, None, only=only, under=InOtherInterpreters)
    del base
