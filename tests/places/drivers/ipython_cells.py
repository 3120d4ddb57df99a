"""Run the cells of a JSON file in an IPython shell, one after the other."""

import json
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
cells = json.loads(Path(sys.argv[1]).read_text())
outcomes = [shell.run_cell(cell, store_history=True) for cell in cells]
sys.exit(not all(outcome.success for outcome in outcomes))
