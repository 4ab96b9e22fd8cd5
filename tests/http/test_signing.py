"""Standard Webhooks signatures, checked as a receiver checks them: by the standardwebhooks package."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.http.desk import Desk
from tests.http.targets import Exchange, MakeEngine, Serve, Target
from worker import Request, Response
from worker.http.credentials import Credential, SigningKeys
from worker.http.credentials.signing import signature_headers
from worker.http.engine import Engine

OLD: Final = bytes(range(24))
NEW: Final = bytes(range(32, 64))


async def ok(exchange: Exchange) -> None:
    await exchange.answer()


def verify(exchange: Exchange, key: bytes, *, body: bytes | None = None, **changed: str) -> None:
    """As a receiver does it, with the bytes and headers that came in."""
    headers = {name.lower(): value for name, value in exchange.headers} | changed
    data = exchange.body if body is None else body
    Webhook(f"whsec_{base64.b64encode(key).decode()}").verify(data, headers, json_parse=False)


@pytest.fixture
async def target(serve: Serve) -> Target:
    return await serve(ok)


@pytest.fixture
def keys() -> list[bytes]:
    return [OLD]


@pytest.fixture
def signing(make_engine: MakeEngine, target: Target, keys: list[bytes]) -> Engine:
    return make_engine(credentials=[Credential("partner", (target.url.rstrip("/"),), SigningKeys(lambda: tuple(keys)))])


Send = Callable[..., Any]


@pytest.fixture
def send(signing: Engine, target: Target) -> Send:
    async def send_it(body: bytes | None = b'{"a": 1}', key: str | None = "job-1/request") -> Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await signing.send(Request("POST", target.url, headers, body, sign="partner"))

    return send_it


@pytest.mark.parametrize("body", [b'{"a": 1}', "ü€😀".encode(), b"\r\n", b"x" * 100_000, None, b""])
async def test_a_receiver_accepts_it(target: Target, send: Send, body: bytes | None) -> None:
    await send(body)
    verify(target.seen[0], OLD)


async def test_anything_changed_is_refused(target: Target, send: Send) -> None:
    await send(b'{"a": 1}')
    (seen,) = target.seen
    verify(seen, OLD)
    name, moment = str(seen.header("webhook-id")), str(seen.header("webhook-timestamp"))
    changes: list[dict[str, Any]] = [
        {"body": b'{"a": 0}'},
        {"body": b'{"a": 1} '},
        {"webhook-id": f"{name}x"},
        {"webhook-timestamp": str(int(moment) + 1)},
        {"webhook-signature": "v1,AAAA"},
    ]
    for change in changes:
        with pytest.raises(WebhookVerificationError):
            verify(seen, OLD, **change)
    with pytest.raises(WebhookVerificationError):
        verify(seen, NEW)


async def test_two_keys_live_side_by_side(target: Target, send: Send, keys: list[bytes]) -> None:
    await send()
    keys.append(NEW)
    await send()
    keys.remove(OLD)
    await send()
    first, both, last = target.seen
    verify(first, OLD)
    verify(both, OLD)
    verify(both, NEW)
    assert len(str(both.header("webhook-signature")).split(" ")) == 2
    verify(last, NEW)
    with pytest.raises(WebhookVerificationError):
        verify(last, OLD)


async def test_bytes_that_are_no_text_are_signed_as_they_are(target: Target, send: Send) -> None:
    """The package reads text only, so this one is counted by hand."""
    await send(b"\xff\x00\xfe")
    (seen,) = target.seen
    name, moment = str(seen.header("webhook-id")), str(seen.header("webhook-timestamp"))
    assert signature_headers(name, int(moment), b"\xff\x00\xfe", [OLD])["webhook-signature"] == seen.header(
        "webhook-signature"
    )


async def test_the_id_is_the_idempotency_key(target: Target, send: Send) -> None:
    for key in ("job-1/request", "order.17/request", "a b", "ü"):
        await send(key=key)
    hashed = [f"sha256-{hashlib.sha256(key.encode()).hexdigest()}" for key in ("order.17/request", "a b", "ü")]
    assert [seen.header("webhook-id") for seen in target.seen] == ["job-1/request", *hashed]
    for seen in target.seen:
        verify(seen, OLD)


async def test_outside_of_a_job_every_request_has_an_id_of_its_own(target: Target, send: Send) -> None:
    for _ in range(2):
        await send(key=None)
    first, second = (seen.header("webhook-id") for seen in target.seen)
    assert first
    assert second
    assert first != second


async def test_a_repeat_has_the_same_id_and_its_own_moment(serve: Serve, make_engine: MakeEngine) -> None:
    moments = iter([1_700_000_000.0, 1_700_000_060.9, 1_700_000_600.0])

    async def flaky(exchange: Exchange) -> None:
        await exchange.answer(200 if len(place.seen) == 3 else 500)

    place = await serve(flaky)
    desk = Desk(make_engine)
    partner = Credential("partner", (place.url.rstrip("/"),), SigningKeys(lambda: (OLD,)))
    engine = make_engine(credentials=[partner])
    engine.credentials._now = lambda: next(moments)
    desk.transport._engine = engine
    job = {"url": place.url, "method": "POST", "json": {"a": 1}, "sign": "partner", "retry": {"attempts": 2}}
    assert (await desk.run(job)).status == "succeeded"
    assert [seen.header("webhook-id") for seen in place.seen] == ["job-1/request"] * 3
    assert [seen.header("webhook-timestamp") for seen in place.seen] == ["1700000000", "1700000060", "1700000600"]
    assert len({seen.header("webhook-signature") for seen in place.seen}) == 3


async def test_the_moment_is_now(target: Target, send: Send) -> None:
    before = int(time.time())
    await send()
    assert before <= int(str(target.seen[0].header("webhook-timestamp"))) <= time.time()


def test_a_published_vector() -> None:
    """The example in the specification of Standard Webhooks."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signature_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [key])
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
