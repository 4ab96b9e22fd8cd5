"""Orders to the admin listener: /pause and /resume, by POST, from whoever may give them."""

from __future__ import annotations

import asyncio

import pytest

from tests.ops.test_admin import TOKEN, Start, start
from worker.ops.admin_http import LONGEST_KEY
from worker.ops.probe import ask

__all__ = ["start"]  # the fixture

TAKEN = [
    ("/pause", ("pause", None)),
    ("/resume", ("resume", None)),
    ("/pause?key=api.example.com", ("pause", "api.example.com")),
    ("/resume?key=a%2Fb%26c%3Dd+e%C3%BC", ("resume", "a/b&c=d eü")),
    (f"/pause?key={'x' * LONGEST_KEY}", ("pause", "x" * LONGEST_KEY)),
]


@pytest.mark.parametrize(("path", "taken"), TAKEN)
async def test_an_order_reaches_the_source(start: Start, path: str, taken: tuple[str, str | None]) -> None:
    served = await start()
    reply = await served.get(path, method="POST")
    assert (reply.status, reply.json) == (200, {"changed": True})
    assert served.source.orders == [taken]


@pytest.mark.parametrize(
    "query",
    ["key=", "key", "kee=x", "=x", "key=a&key=b", "key=a&x=1", "key=%0A", "key=%00", "x", f"key={'x' * 256}"],
)
async def test_a_query_that_names_no_key_pauses_nothing(start: Start, query: str) -> None:
    served = await start()
    reply = await served.get(f"/pause?{query}", method="POST")
    assert (reply.status, served.source.orders) == (400, [])
    assert "?key=KEY" in reply.json["error"]


@pytest.mark.parametrize("path", ["/pause", "/resume", "/pause?key=x"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_no_other_method_has_an_effect(start: Start, path: str, method: str) -> None:
    served = await start()
    reply = await served.get(path, method=method)
    assert (reply.status, reply.headers["allow"], served.source.orders) == (405, "POST", [])


@pytest.mark.parametrize(
    "header",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Referer": "http://x/"}],
)
async def test_no_web_page_can_give_an_order(start: Start, header: dict[str, str]) -> None:
    served = await start()
    reply = await served.get("/pause", method="POST", **header)
    assert (reply.status, served.source.orders) == (403, [])


async def test_a_foreign_host_gives_no_order(start: Start) -> None:
    served = await start()
    assert (await served.get("/pause", host="evil.example", method="POST")).status == 421
    assert served.source.orders == []


@pytest.mark.parametrize(
    ("host", "token", "given", "status"),
    [
        ("127.0.0.1", None, None, 200),
        ("127.0.0.1", TOKEN, None, 401),
        ("127.0.0.1", TOKEN, f"Bearer {TOKEN}x", 401),
        ("127.0.0.1", TOKEN, f"Bearer {TOKEN}", 200),
        ("0.0.0.0", None, None, 403),
        ("0.0.0.0", None, "Bearer ", 403),
        ("0.0.0.0", TOKEN, None, 401),
        ("0.0.0.0", TOKEN, f"Basic {TOKEN}", 401),
        ("0.0.0.0", TOKEN, f"Bearer {TOKEN}", 200),
    ],
)
async def test_orders_need_the_token_where_there_is_one_and_off_loopback(
    start: Start, host: str, token: str | None, given: str | None, status: int
) -> None:
    served = await start(host, token=lambda: token)
    headers = {} if given is None else {"Authorization": given}
    for path in ("/pause", "/resume?key=x"):
        assert (await served.get(path, method="POST", **headers)).status == status
    assert len(served.source.orders) == (2 if status == 200 else 0)


async def test_what_the_command_sends_is_understood(start: Start) -> None:
    served = await start("0.0.0.0", token=lambda: TOKEN)
    _, port = served.address

    def ordered(token: str | None) -> tuple[int, bytes]:
        return ask("0.0.0.0", port, "POST /pause?key=x", token)

    assert (await asyncio.to_thread(ordered, None))[0] == 401
    assert await asyncio.to_thread(ordered, TOKEN) == (200, b'{"changed": true}\n')
    assert served.source.orders == [("pause", "x")]
