"""Make `multiprocessing.Pool` motorpool's in an interpreter that a test starts.

CPython's tests run scripts that say `from multiprocessing import Pool`. With
this directory first on `PYTHONPATH`, those scripts get motorpool's.
"""

import multiprocessing

import motorpool

multiprocessing.Pool = motorpool.Pool
