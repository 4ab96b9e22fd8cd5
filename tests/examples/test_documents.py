"""The code in README.md and docs, as it stands there: run against the local target, or the tests it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.http.targets import MakeEngine
from worker import Result
from worker.dev.target import Target
from worker.http.client import HttpTransport
from worker.http.guard import Guard
from worker.http.handler import http_registry
from worker.runtime.context import job_gate
from worker.testing import run_job

ROOT = Path(__file__).parents[2]


def code(document: str, holding: str) -> str:
    """The one Python block of a document that holds a text."""
    (found,) = [block for block in blocks(document, "python") if holding in block]
    return found


def blocks(document: str, language: str) -> list[str]:
    """Every block of a document in that language."""
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    return found


def run(text: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, "example", "exec", dont_inherit=True), names)  # our own documents
    return names


def transport(engine: Any) -> HttpTransport:
    return HttpTransport(engine, gate=job_gate)


async def test_the_readme_runs_and_a_retry_does_not_fetch_again(make_engine: MakeEngine, target: Target) -> None:
    text = code("README.md", "order.sync")
    text = text.replace("https://api.example.com/orders/{id}", f"{target.url}/json")
    text = text.replace("https://wms.example.com/orders", f"{target.url}/flaky/4/500/wms")
    result = await run_job(
        run(text)["registry"],
        "order.sync",
        {"id": 7},
        transport=transport(make_engine(guard=Guard(["127.0.0.0/8"]))),
        patience=0.5,
    )
    assert (result.status, result.attempts) == ("succeeded", 2)
    assert [one.path for one in target.ledger()].count("/json") == 1


@pytest.mark.parametrize("text", blocks("docs/http-jobs.md", "json"))
def test_the_jobs_of_the_http_page_are_valid_and_its_result_has_the_form_of_one(text: str) -> None:
    shown = json.loads(text)
    if "status" in shown:
        assert shown.keys() == Result("a", "http", "succeeded", 1).as_dict().keys()
    else:
        http_registry().find("http").validate(shown)


HANDLERS = "\n".join(blocks("docs/handlers.md", "python"))


async def test_the_order_of_the_handlers_page_publishes_and_tells() -> None:
    result = await run_job(run(HANDLERS)["registry"], "order", {"id": 7, "tell": True}, id="order-7")
    assert (result.status, result.value) == ("succeeded", {"total": 12})
    mail, told = result.published
    assert (mail.id, mail.type, mail.payload, mail.delay) == ("order-7/mail", "mail.send", {"order": 7}, 60)
    assert (told.id, told.type, told.payload["value"]) == ("order-7/told", "order.ended", {"total": 12})


async def test_the_crawler_of_the_handlers_page_runs(make_engine: MakeEngine, target: Target) -> None:
    names = run(HANDLERS)
    urls = [f"{target.url}/json?page={number}" for number in range(30)]
    result = await run_job(
        names["registry"],
        "crawl",
        {"urls": urls},
        transport=transport(make_engine(guard=Guard(["127.0.0.0/8"]))),
        patience=0.5,
    )
    assert result.status == "succeeded"
    assert sorted(one.path for one in target.ledger()) == sorted(url.removeprefix(target.url) for url in urls)


TESTING = "\n".join(blocks("docs/testing.md", "python"))


@pytest.mark.parametrize("name", re.findall(r"^async def (test_\w+)", TESTING, re.MULTILINE))
async def test_the_tests_of_the_testing_page_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (letter,) = blocks("docs/testing.md", "json")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "order-7.json").write_text(letter)
    monkeypatch.chdir(tmp_path)
    await run(TESTING)[name]()
