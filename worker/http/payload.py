"""The JSON of an `http` job as a value; whatever is wrong with it is said before anything is sent."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from worker.http.headers import header_fault
from worker.http.url import parse_url

LONGEST_URL: Final = 2048
MOST_STATUSES: Final = 50
MOST_HEADERS: Final = 100
MOST_PARAMETERS: Final = 1000
"""In a query or a form; each value of a list counts."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNSET: Final[Any] = object()
_BODIES: Final = ("json", "form", "text", "base64")

Scalar = str | int | float | bool


def _fault(text: str) -> PydanticCustomError:
    """A fault; `text` is for whoever published the job and must not hold the value."""
    return PydanticCustomError("http_job", "{text}", {"text": text})


def _plain(value: Any) -> Any:
    """No templates: refused rather than sent as they are, since a later version will fill them in."""
    if any("{{" in text for text in _strings(value)):
        raise _fault("a template ({{ ... }}) is not supported by this version")
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _url(text: str) -> str:
    if len(text) > LONGEST_URL:
        raise _fault(f"the URL is above {LONGEST_URL} characters")
    try:
        return parse_url(text).text
    except ValueError as error:
        raise _fault(f"the URL {error}") from None


def _method(text: str) -> str:
    if text.upper() not in METHODS:
        raise _fault(f"the method must be one of {', '.join(sorted(METHODS))}")
    return text.upper()


def _few_headers(headers: Any) -> Any:
    """Counted before any is looked at: each that is wrong would cost a fault of its own."""
    if isinstance(headers, dict) and len(headers) > MOST_HEADERS:
        raise _fault(f"at most {MOST_HEADERS} headers are possible")
    return headers


def _headers(headers: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name, value in headers.items():
        if fault := header_fault(name, value):
            raise _fault(f"header {name[:60]!r} {fault}")
        if name.lower() in seen:
            raise _fault(f"header {name[:60]!r} is there twice")
        seen.add(name.lower())
    return headers


def _parameters(values: Any) -> Any:
    """An object of scalars and lists of scalars, as queries and forms are made of."""
    if not isinstance(values, dict):
        raise _fault("an object is needed")
    if sum(max(1, len(_listed(value))) for value in values.values()) > MOST_PARAMETERS:
        raise _fault(f"at most {MOST_PARAMETERS} parameters are possible, each value of a list counted")
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, Scalar) for item in items):
            raise _fault(f"parameter {name[:60]!r} must be text, a number, a boolean, or a list of them")
    return values


def _fits_the_url(query: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if "url" in info.data and len(_with_query(info.data["url"], query)) > LONGEST_URL:
        raise _fault(f"the URL with its query is above {LONGEST_URL} characters")
    return query


def _only_body(name: str) -> Callable[[Any, ValidationInfo], Any]:
    def check(value: Any, info: ValidationInfo) -> Any:
        earlier = [other for other in _BODIES[: _BODIES.index(name)] if _is_given(info.data, other)]
        if earlier:
            raise _fault(f"at most one body is possible, and {earlier[0]!r} is there too")
        return value

    return check


def _is_given(data: Mapping[str, Any], name: str) -> bool:
    return data.get("json_", UNSET) is not UNSET if name == "json" else data.get(name) is not None


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _fault("base64 text is needed") from None
    return text


def _status(value: Any) -> Any:
    if isinstance(value, str) and len(value) == 3 and value[0] in "12345" and value[1:] == "xx":
        return value
    if type(value) is int and 100 <= value <= 599:
        return value
    raise _fault('a status is a number from 100 to 599, or a class such as "2xx"')


def _later(_value: Any) -> Any:
    raise _fault("this field is not supported by this version")


Plain = AfterValidator(_plain)
Parameters = Annotated[dict[str, Any], BeforeValidator(_parameters), Plain]
Later = Annotated[SkipJsonSchema[Any], BeforeValidator(_later)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Expect(_Strict):
    """Which answers are a success: statuses and classes such as "2xx"."""

    status: list[Annotated[int | str, BeforeValidator(_status)]] = Field(
        default=["2xx"], min_length=1, max_length=MOST_STATUSES
    )

    def holds(self, status: int) -> bool:
        """Whether `status` was expected."""
        return status in self.status or f"{status // 100}xx" in self.status


class QuickRetry(_Strict):
    """Quick tries inside one attempt of the job; `unsent`: only when nothing can have been sent."""

    attempts: int = Field(default=3, ge=1, le=10)
    when: Literal["any", "unsent"] = "any"


class HttpJob(_Strict):
    """One request."""

    url: Annotated[str, Plain, AfterValidator(_url)]
    method: Annotated[str, AfterValidator(_method)] = "GET"
    query: Annotated[Parameters, AfterValidator(_fits_the_url)] = {}
    headers: Annotated[dict[str, str], BeforeValidator(_few_headers), AfterValidator(_headers), Plain] = {}
    json_: Annotated[Any, Plain] = Field(default_factory=lambda: UNSET, alias="json")
    form: Annotated[Parameters, AfterValidator(_only_body("form"))] | None = None
    text: Annotated[str, AfterValidator(_only_body("text")), Plain] | None = None
    base64: Annotated[str, AfterValidator(_base64), AfterValidator(_only_body("base64"))] | None = None
    timeout: float | None = Field(default=None, gt=0, le=3600)
    expect: Expect = Expect()
    redirects: int = Field(default=0, ge=0, le=3)
    retry: QuickRetry = QuickRetry()
    id: str = Field(default="request", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)
    limit_key: str | None = Field(default=None, min_length=1, max_length=200)

    steps: Later = None
    needs: Later = None
    for_each: Later = None
    concurrency: Later = None
    auth: Later = None
    sign: Later = None
    save: Later = None
    callback: Later = None

    @property
    def target(self) -> str:
        """The URL with its query."""
        return _with_query(self.url, self.query)

    @property
    def keys(self) -> list[str]:
        """What the job counts against: its host, and the key it names."""
        host = parse_url(self.url).host
        return [host] if self.limit_key is None else [host, self.limit_key]

    @property
    def body(self) -> dict[str, Any]:
        """The body as `Context.request` takes it; empty when there is none."""
        if self.json_ is not UNSET:
            return {"json": self.json_}
        if self.form is not None:
            return {"form": {name: _texts(value) for name, value in self.form.items()}}
        if self.text is not None:
            return {"text": self.text}
        return {} if self.base64 is None else {"body": base64.b64decode(self.base64)}


def _with_query(url: str, query: Mapping[str, Any]) -> str:
    pairs = [f"{_encoded(name)}={_encoded(text)}" for name, value in query.items() for text in _texts(value)]
    return f"{url}{'&' if '?' in url else '?'}{'&'.join(pairs)}" if pairs else url


def _encoded(text: str) -> str:
    return quote(text, safe="")


def _texts(value: Any) -> list[str]:
    """A parameter's values as text; booleans as JSON writes them."""
    return [str(item).lower() if isinstance(item, bool) else str(item) for item in _listed(value)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
