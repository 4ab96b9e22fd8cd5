"""The built-in job type `http`: an ordinary handler on the public API."""

from __future__ import annotations

from typing import Any

from worker import Context, Registry, Reject
from worker.http.jobs.callback import callback_of
from worker.http.jobs.payload import HttpJob
from worker.http.jobs.plan import Plan
from worker.http.jobs.run import Run


def http_registry() -> Registry:
    """A registry with the one type `http`."""
    registry = Registry()
    registry.handler("http", key=_keys, callback=callback_of)(run_http)
    return registry


def _keys(job: HttpJob) -> list[str]:
    return job.keys


async def run_http(job: HttpJob, context: Context) -> dict[str, Any]:
    """The results by step id. Whatever goes wrong is told by step, status and host only."""
    _check_credentials(job.plan, context)
    return await Run(job, context).all()


def _check_credentials(plan: Plan, context: Context) -> None:
    """Of all that is to be sent, before anything is: a Reject as far as names, kinds, headers and origins are known."""
    for where, call, draft in plan.requests:
        if call.auth is None and call.sign is None:
            continue
        fault = context.credential_fault(
            auth=call.auth, sign=call.sign, url=draft.known_url, headers=call.headers.keys()
        )
        if fault is not None:
            raise Reject(f"{where}{fault}", code="credential")
