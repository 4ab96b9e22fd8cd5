"""What handlers returned and raised, for tests to look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from worker.core.job import Job
from worker.core.result import Value
from worker.runtime.announcements import plain_value
from worker.runtime.context import Context
from worker.runtime.executor import Executor, Run
from worker.runtime.registry import Registration


class Watching:
    """An executor that keeps what the handlers it runs return (as JSON, or why it is none) and raise, by job id."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.returned: dict[str, Value] = {}
        self.raised: dict[str, list[BaseException]] = {}

    def start(self, job: Job, registration: Registration, payload: Any, timeout: float) -> Run:
        """As the executor it stands for."""

        async def watched(payload: Any, context: Context) -> Any:
            try:
                value = await registration.call(payload, context)
            except BaseException as error:
                self.raised.setdefault(job.id, []).append(error)
                raise
            self.returned[job.id] = plain_value(registration, value)
            return value

        return self._executor.start(job, replace(registration, handler=watched, wants_context=True), payload, timeout)
