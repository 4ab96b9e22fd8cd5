"""A pipeline (shop/fetch_then_post.json): fetch a user, post an invoice, mail its number."""

from __future__ import annotations

from tests.examples.partner import said
from tests.examples.stage import QUICK, Stage
from tests.process.kit import eventually

USER, INVOICE, MAIL = "GET /users/7", "POST /customers/a%2F7/invoices", "POST /messages"


def test_another_worker_goes_on_where_the_first_got_stuck(stage: Stage) -> None:
    stage.partner.on(USER, said({"id": 7, "name": "Ada", "email": "ada@example.com", "account": "a/7"}))
    stage.partner.on(INVOICE, 502)
    stage.partner.on(MAIL, 202)
    first = stage.yard.start(backoff="1s..1s")
    stage.publish("fetch_then_post.json", "invoice-7")
    stage.until(INVOICE, 3)
    eventually(lambda: first.lines("job.finished"), "the attempt is over")
    assert first.drain() == 0
    eventually(stage.yard.left, "it waits in the broker, and what it has fetched waits with it")

    stage.partner.on(INVOICE, said({"number": "2026-19"}, 201))
    second = stage.yard.start(backoff=QUICK)
    stage.until(MAIL)
    stage.end(second)

    lines = stage.partner.lines()
    assert (lines.count(USER), lines.count(MAIL)) == (1, 1)
    invoices = stage.partner.calls(INVOICE)
    assert [call.exchange.status for call in invoices] == [502, 502, 502, 201]
    assert {call.key for call in invoices} == {"invoice-7/invoice"}
    assert invoices[-1].json == {"user": 7, "text": "For Ada, with thanks"}
    assert stage.partner.calls(MAIL)[0].json == {"to": "ada@example.com", "subject": "Invoice 2026-19"}


def test_without_the_invoice_there_is_no_mail(stage: Stage) -> None:
    stage.partner.on(USER, said({"id": 7, "name": "Ada", "email": "ada@example.com", "account": "a/7"}))
    stage.partner.on(INVOICE, 200)
    worker = stage.yard.start(backoff=QUICK)
    stage.publish("fetch_then_post.json", "invoice-8")
    letter = stage.dead_letter("invoice-8")
    stage.end(worker)

    assert (letter.reason, letter.detail) == ("http_status", "step 'invoice': status 200")  # 201 is expected
    assert stage.partner.lines() == [USER, INVOICE]
