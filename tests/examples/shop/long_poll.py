import httpx
from pydantic import BaseModel

from worker import Context, Registry, Snooze

registry = Registry()

REPORTS = "https://reports.example.com/reports"
INBOX = "https://crm.example.com/inbox"


class Report(BaseModel):
    month: str


async def order(client: httpx.AsyncClient, month: str) -> str:
    response = await client.post(REPORTS, json={"month": month})
    response.raise_for_status()
    return str(response.json()["id"])


@registry.handler("report.fetch")
async def fetch(report: Report, context: Context) -> None:
    number = await context.step("order", order, context.http, report.month)
    response = await context.http.get(f"{REPORTS}/{number}")
    if response.status_code == 202:
        raise Snooze(1)  # not ready: back into the queue, ask again in a second
    response.raise_for_status()
    response = await context.http.post(INBOX, json=response.json())
    response.raise_for_status()
