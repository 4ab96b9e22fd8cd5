"""What the errors of a request mean for its step, and for the job."""

from __future__ import annotations

import asyncio

from worker import NotSent, Reject, RequestError, Retry, Snooze, is_transient, may_be_sent
from worker.http.jobs.fields import QuickRetry
from worker.http.jobs.plan import PlannedStep
from worker.http.templates.budget import TemplateFault

_EXPECTED = (Reject, Retry, Snooze, RequestError, TemplateFault, asyncio.CancelledError)


def named(error: BaseException, planned: PlannedStep, *, several: bool) -> BaseException:
    """The end of the job that the error of a step means, told by step, status and host only."""
    where = f"step {planned.id!r}: " if several else ""
    match error:
        case TemplateFault():
            return Reject(f"{where}{error}", code="template")
        case Reject():
            return Reject(f"{where}{error.detail}", code=error.code)
        case Retry():
            return Retry(f"{where}{error}", after=error.after)
        case NotSent():
            return Retry(f"{where}{error}")
        case TimeoutError() if not may_be_sent(error):
            return Retry(f"{where}not sent in time")
        case RequestError() | TimeoutError():
            return _given_up(f"{where}{str(error) or 'no answer in time'}", planned)
        case _:
            return error


def cut_short(planned: PlannedStep, *, several: bool) -> Reject:
    """The end of a job that was stopped while a request was on its way that may not be repeated."""
    where = f"step {planned.id!r}: " if several else ""
    return _not_repeated(f"{where}stopped before the answer was there")


def is_final(error: BaseException, retry: QuickRetry) -> bool:
    """Whether no quick try follows."""
    if retry.attempts == 1:
        return True
    return not (isinstance(error, NotSent) if retry.when == "unsent" else is_transient(error))


def strip(error: BaseException) -> None:
    """Take from an error the frames it came through, which hold the whole request; not from one that nobody foresaw."""
    if isinstance(error, _EXPECTED):
        error.__traceback__ = error.__context__ = error.__cause__ = None


def _given_up(text: str, planned: PlannedStep) -> Reject | Retry:
    """It may have been executed: whether another attempt may repeat it is the job's to say."""
    return _not_repeated(text) if planned.step.retry.when == "unsent" else Retry(text)


def _not_repeated(text: str) -> Reject:
    return Reject(f"{text}; it may have been executed, and may not be repeated", code="not_repeated")
