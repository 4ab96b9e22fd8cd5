"""The whole way of a job without a broker, on a clock that tests move.

`run_job()` publishes one job and carries it through every retry and wait to its end, in milliseconds;
`replay_letter()` does so with a captured dead letter. `FakeTarget` answers the requests of handlers by a script.
`MemoryBroker` behaves as RabbitMQ does for everything the worker relies on (one contract suite passes on both):
prefetch, confirms, redelivery after a lost session with its counter, the wait ladder, dead-lettering. `Harness` puts
it all together and lets tests look inside.

clock.py   ManualClock     memory_broker.py   MemoryBroker     harness.py   Harness         options.py     its options
job.py     run_job()       letters.py         letter()         target.py    FakeTarget      published.py   Published
"""

from __future__ import annotations

from worker.testing.clock import ManualClock
from worker.testing.harness import Harness
from worker.testing.job import JobResult, replay_letter, run_job
from worker.testing.letters import letter
from worker.testing.memory_broker import MemoryBroker
from worker.testing.published import Published
from worker.testing.target import Answer, Broken, FakeTarget, Hangs, OffScript, Received, Refused

__all__ = [
    "Answer",
    "Broken",
    "FakeTarget",
    "Hangs",
    "Harness",
    "JobResult",
    "ManualClock",
    "MemoryBroker",
    "OffScript",
    "Published",
    "Received",
    "Refused",
    "letter",
    "replay_letter",
    "run_job",
]
