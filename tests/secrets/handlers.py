"""Handlers that fail with a secret in their hands: in a message, in a library's message, in what they left behind."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

import aiohttp
from pydantic import AfterValidator, BaseModel, Field, HttpUrl

from worker import Context, Registry

registry = Registry()


def handler(name: str, **options: Any) -> Callable[[Any], Any]:
    return registry.handler(name, attempts=1, **options)


@handler("raises")
async def raises(job: dict[str, Any]) -> None:
    try:
        unlike(job["secret"])
    except KeyError as error:
        trouble = LookupError(f"no {job['secret']}")
        trouble.add_note(job["secret"])
        raise trouble from error


@handler("raises-a-group")
async def raises_a_group(job: dict[str, Any], context: Context) -> None:
    async def one() -> None:
        raise ValueError(job["secret"])

    await context.gather(one(), one())


@handler("raises-in-a-thread")
def raises_in_a_thread(job: dict[str, Any]) -> None:
    raise ValueError(job["secret"])


def refuse(secret: str) -> None:
    raise ValueError(secret)


@handler("raises-in-a-process")
async def raises_in_a_process(job: dict[str, Any], context: Context) -> None:
    await context.run_cpu(refuse, job["secret"])


@handler("httpx-status")
async def httpx_status(job: dict[str, Any], context: Context) -> None:
    """httpx's message holds the whole URL."""
    found = await context.http.get(job["url"], params={"api_key": job["secret"]}, headers={"X-Key": job["secret"]})
    found.raise_for_status()


@handler("httpx-userinfo")
async def httpx_userinfo(job: dict[str, Any], context: Context) -> None:
    scheme, _, place = job["url"].partition("://")
    (await context.http.get(f"{scheme}://user:{job['secret']}@{place}")).raise_for_status()


@handler("httpx-header")
async def httpx_header(job: dict[str, Any], context: Context) -> None:
    await context.http.get(job["url"], headers={"X-Key": f"{job['secret']}\r\nX: y"})


@handler("request-header")
async def request_header(job: dict[str, Any], context: Context) -> None:
    await context.request("GET", job["url"], headers={"X-Key": f"{job['secret']}\r\nX: y"})


@handler("request-url")
async def request_url(job: dict[str, Any], context: Context) -> None:
    await context.request("GET", f"http://user:{job['secret']}@127.0.0.1/")


@handler("request-method")
async def request_method(job: dict[str, Any], context: Context) -> None:
    await context.request(f"{job['secret']} X", job["url"])


@handler("request-status")
async def request_status(job: dict[str, Any], context: Context) -> None:
    (await context.request("POST", job["url"], json={"pin": job["secret"]})).raise_for_status()


@handler("step-annotation")
async def step_annotation(job: dict[str, Any], context: Context) -> None:
    async def fetched() -> int:
        return job["secret"]  # type: ignore[no-any-return]

    await context.step("fetched", fetched)


@handler("step-no-json")
async def step_no_json(job: dict[str, Any], context: Context) -> None:
    async def fetched() -> Any:
        return {job["secret"]: {job["secret"]}}

    await context.step("fetched", fetched)


class Fussy(BaseModel):
    """Types whose messages repeat what they got."""

    number: int = 0
    word: Literal["a", "b"] = "a"
    uuid: UUID | None = None
    link: HttpUrl | None = None
    short: Annotated[str, Field(max_length=3)] = ""
    shaped: Annotated[str, Field(pattern="^[0-9]$")] = "1"


@handler("fussy")
async def fussy(job: Fussy) -> None: ...


def unlike(value: Any) -> Any:
    return {}[value]


class Keyed(BaseModel):
    """A validator of its own that fails by accident."""

    secret: Annotated[str, AfterValidator(unlike)]


@handler("fails-in-a-validator")
async def fails_in_a_validator(job: Keyed) -> None: ...


@handler("fails-in-a-key", key=lambda job: {}[job["secret"]])
async def fails_in_a_key(job: dict[str, Any]) -> None: ...


@handler("orphans")
async def orphans(job: dict[str, Any], context: Context) -> None:
    """What is left to the loop, whose own words about it hold arguments and messages."""
    loop = asyncio.get_running_loop()

    async def fails() -> None:
        raise ValueError(job["secret"])

    left = [loop.create_task(fails())]
    loop.call_soon(refuse, job["secret"])
    loop.call_soon(dawdle, job["secret"])
    loop.create_future().set_exception(LookupError(job["secret"]))
    warnings.warn(f"Unclosed thing <Thing {job['secret']}>", ResourceWarning, stacklevel=1)
    await asyncio.sleep(0.2)
    left.clear()
    gc.collect()
    raise RuntimeError(job["secret"])


def dawdle(_secret: str) -> None:
    time.sleep(0.15)


class Untidy:
    """Fails when it is thrown away."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __del__(self) -> None:
        raise ValueError(self._secret)


@handler("untidy")
async def untidy(job: dict[str, Any]) -> None:
    """A client of its own, left open: aiohttp tells of it with URL, headers and all."""
    session = aiohttp.ClientSession(headers={"X-Key": job["secret"]})
    answer = await session.get(job["url"], params={"api_key": job["secret"]})
    assert answer.status == 200
    del answer, session
    gc.collect()
    await asyncio.sleep(0)
    raise RuntimeError(job["secret"])


@handler("blocks")
async def blocks(job: dict[str, Any]) -> None:
    """Long enough for the watchdog."""
    time.sleep(1.5)  # noqa: ASYNC251 - on purpose
    raise RuntimeError(job["secret"])


@handler("waits", timeout=20)
async def waits(job: dict[str, Any], context: Context) -> None:
    """To be looked at while it is in flight."""

    async def asking() -> int:
        return (await context.request("GET", f"{job['url']}?t={job['secret']}")).status

    await context.step("asking", asking)
