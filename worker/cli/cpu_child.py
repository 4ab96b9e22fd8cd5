"""A process for CPU-bound work: `python -m worker.cli.cpu_child DESCRIPTOR`, started by `worker.cpu_pool`.

Beside `worker.cli.child`, for there is one per CPU: it imports neither AMQP nor HTTP, and connects to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from worker.cli.order import CpuOrder
from worker.cpu_pool import serve_cpu
from worker.link import end_of_line
from worker.ops.log import configure_logging


def main() -> None:
    """See the top of this file."""
    end = end_of_line(int(sys.argv[-1]))
    # What the function starts must not inherit the line, or our end of it would never be seen to close.
    os.set_inheritable(end.fileno(), False)
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # the worker says when; not SIG_IGN, which a program started inherits
        signal.signal(number, lambda *_: None)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    serve_cpu(end, _prepare)


def _prepare(order: CpuOrder) -> None:
    configure_logging(order.log, json=order.json_logs)


if __name__ == "__main__":
    main()
