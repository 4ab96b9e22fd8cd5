"""A paged crawl (shop/paged_crawl.py): page after page until none is left, then the index."""

from __future__ import annotations

from tests.examples.partner import said
from tests.examples.stage import QUICK, Stage

PAGES = 5
INDEX = "PUT /index/products"


def page(number: int) -> str:
    return f"GET /products?page={number}"


def test_a_page_that_fails_does_not_bring_back_those_before(stage: Stage) -> None:
    for number in range(1, PAGES + 1):
        found = {"items": [10 * number, 10 * number + 1], "next": number + 1 if number < PAGES else None}
        # Three quick tries are the first attempt, the fourth request is in the second.
        stage.partner.on(page(number), *([500] * 3 if number == 3 else []), said(found))
    stage.partner.on(INDEX, 503, 503, 204)
    stage.bring("paged_crawl.py")
    worker = stage.yard.start("paged_crawl:registry", backoff=QUICK)
    stage.yard.publish("products.crawl", {}, "crawl-1")
    calls = stage.until(INDEX, 3)
    stage.end(worker)

    asked = [1, 2, 3, 3, 3, 3, 4, 5]
    assert stage.partner.lines() == [page(number) for number in asked] + [INDEX] * 3
    assert calls[-1].json == [10, 11, 20, 21, 30, 31, 40, 41, 50, 51]
    assert {call.key for call in stage.partner.calls(page(3))} == {"crawl-1/page/3"}
    assert len(worker.lines("job.finished")) == 2
