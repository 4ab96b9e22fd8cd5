"""Who is told when a job has ended for good: its requester by a reply, anybody by a callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from worker.core.child import ChildJob
from worker.core.job import Job, Malformed
from worker.core.message import Message, Outgoing, Properties
from worker.core.outcome import Reject, Succeeded
from worker.core.policy import Ack, DeadLetter, Disposition
from worker.core.result import ReplyRules, Result, Value, encoded, reply_message
from worker.core.strict_json import loads
from worker.runtime.attempt import NOT_VALIDATED, Attempt
from worker.runtime.ends import error_name, trouble_of
from worker.runtime.registry import Callback, Registration
from worker.runtime.result_form import result_form
from worker.runtime.telemetry import Telemetry
from worker.runtime.trace import child_traceparent

log = structlog.get_logger("worker.announcements")


@dataclass(frozen=True, slots=True)
class Announcements:
    """Makes the messages that follow a job's end; they are confirmed before it is acknowledged.

    What cannot be made is logged and counted: it never changes how the job has ended.
    """

    rules: ReplyRules
    now: Callable[[], float]
    telemetry: Telemetry

    def of(
        self, end: Disposition, attempt: Attempt, registration: Registration, *, may_validate: bool
    ) -> tuple[Outgoing, ...]:
        """The reply and the callback that `end` calls for; none unless it is the end.

        A payload that is not validated yet is so now if it may be; else there is no callback.
        """
        if not isinstance(end, Ack | DeadLetter):
            return ()
        properties, callback = attempt.job.properties, registration.callback
        if not properties.reply_to and callback is None:
            return ()
        result = _result(end, attempt, registration)
        reply = self._reply(result, properties)
        if callback is None:
            return reply
        payload = _validated(attempt, registration) if may_validate else attempt.payload
        return reply if payload is NOT_VALIDATED else reply + self._callback(result, attempt.job, callback, payload)

    def of_malformed(self, message: Message, malformed: Malformed) -> tuple[Outgoing, ...]:
        """The reply to a message that is no job, as far as it can be read who asks."""
        if not isinstance(message.properties, Properties):
            return ()
        result = Result(
            id=malformed.id,
            type=message.properties.type or "",
            status="dead",
            attempts=malformed.attempts,
            reason=malformed.reason,
            detail=malformed.detail,
        )
        return self._reply(result, message.properties)

    def _reply(self, result: Result, properties: Properties) -> tuple[Outgoing, ...]:
        if not properties.reply_to:
            return ()
        if not self.rules.allows(properties.reply_to):
            log.warning("reply.refused", id=result.id, queue=properties.reply_to[:100], setting="WORKER_REPLY_ALLOW")
            self.telemetry.reply_ended("refused")
            return ()
        return (reply_message(result, properties),)

    def _callback(self, result: Result, job: Job, callback: Callback, payload: Any) -> tuple[Outgoing, ...]:
        try:
            child = callback(payload, result)
            return () if child is None else (self._child(child, job),)
        except BaseException as error:  # noqa: BLE001 - whatever a callback function raises, a SystemExit too
            told = {"reason": error.detail} if isinstance(error, Reject) else trouble_of(error)
            log.error("callback.failed", id=job.id, type=job.type, **told)  # noqa: TRY400 - a trace repeats values
            self.telemetry.callback_failed()
            return ()

    def _child(self, child: ChildJob, job: Job) -> Outgoing:
        body = encoded(child.payload)
        loads(body)  # several results in one may be more than a job may hold: rather none than one that is malformed
        queue, traceparent = self.rules.topology.name, child_traceparent(job)
        message = child.message(job, body, queue=queue, now=self.now(), traceparent=traceparent)
        # A queue of somebody else that is not there must not hold up what is done.
        return message if message.queue == queue else replace(message, needed="if_routable")


def _validated(attempt: Attempt, registration: Registration) -> Any:
    if attempt.payload is not NOT_VALIDATED:
        return attempt.payload
    try:
        return registration.validate(attempt.job.payload)
    except BaseException:  # noqa: BLE001 - a validator may raise anything, and has been heard already
        return NOT_VALIDATED


def _result(end: Ack | DeadLetter, attempt: Attempt, registration: Registration) -> Result:
    job, outcome = attempt.job, attempt.ended.outcome
    if isinstance(end, DeadLetter):
        return Result(job.id, job.type, "dead", end.attempts, end.reason, end.detail)
    assert isinstance(outcome, Succeeded)
    read_value = partial(plain_value, registration, outcome.value)
    return Result(job.id, job.type, "succeeded", attempt.made, read_value=read_value)


def plain_value(registration: Registration, value: Any) -> Value:
    """What a handler returned as plain JSON, or why it is none: by then the job is done, whatever that may raise."""
    try:
        return Value(*result_form(registration.handler).to_json(value))
    except Exception as error:  # noqa: BLE001 - a model's own serializers are a handler's code
        kind = type(value).__name__
        return Value(fault=f"the handler returned {kind}, which cannot travel as JSON ({error_name(error)})")
