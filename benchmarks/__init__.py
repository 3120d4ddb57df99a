"""The benchmark: motorpool, its peers and the machine's floors, in one interleaved run.

`make bench` runs it; `python -m benchmarks --help` lists what can be chosen.
One file per group of scenarios; `contenders.py` puts every peer behind one
interface; `runner.py` starts each measurement in a process of its own.
"""
