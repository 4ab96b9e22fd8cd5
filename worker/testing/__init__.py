"""The whole way of a job without a broker, on a clock that tests move.

`MemoryBroker` behaves as RabbitMQ does for everything the worker relies on (one contract suite passes on both):
prefetch, confirms, redelivery after a lost session with its counter, the wait ladder, dead-lettering.
`run_job()` publishes one job to it and carries it through every retry and wait to its end, in milliseconds.

clock.py   ManualClock     memory_broker.py   MemoryBroker     harness.py   Harness, run_job()
"""

from __future__ import annotations

from worker.testing.clock import ManualClock
from worker.testing.harness import Harness, JobResult, run_job
from worker.testing.memory_broker import MemoryBroker

__all__ = ["Harness", "JobResult", "ManualClock", "MemoryBroker", "run_job"]
