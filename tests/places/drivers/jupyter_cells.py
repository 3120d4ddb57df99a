"""Run the cells of a JSON file in a Jupyter kernel, and write what it sends back."""

import json
import sys
from pathlib import Path

from jupyter_client.manager import start_new_kernel

DEADLINE = 20

manager, client = start_new_kernel(startup_timeout=DEADLINE)
try:
    for cell in json.loads(Path(sys.argv[1]).read_text()):
        request = client.execute(cell)
        is_idle = False
        while not is_idle:
            message = client.get_iopub_msg(timeout=DEADLINE)
            content = message["content"]
            if message["msg_type"] == "stream":
                print(content["text"], end="", file=getattr(sys, content["name"]))
            elif message["msg_type"] == "error":
                print(*content["traceback"], sep="\n", file=sys.stderr)
            is_ours = message["parent_header"].get("msg_id") == request
            is_idle = is_ours and content.get("execution_state") == "idle"
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=False)
