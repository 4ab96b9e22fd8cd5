"""What the fields of an `http` job may hold, each for itself, and what each fault is called."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from worker.http.headers import header_fault
from worker.http.url import LONGEST_URL

LONGEST_HEADERS: Final = 32 << 10
"""Bytes of all that a job sets: servers end the connection over more, and that looks as if a repeat could help."""

LONGEST_FORM: Final = 1 << 20
"""Characters: encoding them holds up everything else for 30 ms."""

LONGEST_ID: Final = 100
MOST_STATUSES: Final = 50
MOST_HEADERS: Final = 100
MOST_STEPS: Final = 20
MOST_ELEMENTS: Final = 10_000
"""Of one fan-out."""

MOST_PARAMETERS: Final = 1000
"""In a query or a form; each value of a list counts."""

ENOUGH_FAULTS: Final = 20
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BODIES: Final = ("json", "form", "text", "base64")
ITEM: Final = "item"
"""The name templates know the element of a fan-out by; so no step can have it."""

UNSET: Final[Any] = object()

_TOO_MANY_BYTES: Final = f"the headers are above {LONGEST_HEADERS} bytes in all"

Scalar = str | int | float | bool


def fault(text: str) -> PydanticCustomError:
    """A fault; `text` is for whoever published the job and must not hold the value."""
    return PydanticCustomError("http_job", "{text}", {"text": text})


@dataclass(slots=True)
class Faults:
    """Faults of one payload, each with its place."""

    found: list[InitErrorDetails] = field(default_factory=list)

    def note(self, place: tuple[str | int, ...], text: str, value: Any) -> None:
        """Of `value` nothing but its kind is ever told."""
        self.found.append(InitErrorDetails(type=fault(text), loc=place, input=value))

    @property
    def are_enough(self) -> bool:
        """Whether there are more than anybody is told: to put another one into words, names are compared."""
        return len(self.found) >= ENOUGH_FAULTS

    def raise_any(self) -> None:
        """A ValidationError with all of them, if there are any."""
        if self.found:
            raise ValidationError.from_exception_data("http job", self.found)


def parameters_fault(values: Mapping[str, Any]) -> str | None:
    """What keeps `values` from being a query or a form: scalars, and lists of them. None when nothing does."""
    if sum(max(1, len(listed(value))) for value in values.values()) > MOST_PARAMETERS:
        return f"at most {MOST_PARAMETERS} parameters are possible, each value of a list counted"
    for name, value in values.items():
        if not all(isinstance(item, Scalar) for item in listed(value)):
            return f"parameter {name[:60]!r} must be text, a number, a boolean, or a list of them"
    return None


def headers_fault(headers: Mapping[str, str]) -> str | None:
    """What keeps `headers` from being sent; None when nothing does."""
    seen: set[str] = set()
    if sum(len(name) + len(value) for name, value in headers.items()) > LONGEST_HEADERS:
        return _TOO_MANY_BYTES
    for name, value in headers.items():
        if found := header_fault(name, value):
            return f"header {name[:60]!r} {found}"
        if name.lower() in seen:
            return f"header {name[:60]!r} is there twice"
        seen.add(name.lower())
    size = sum(len(name) + len(value.encode()) + len(": \r\n") for name, value in headers.items())
    return _TOO_MANY_BYTES if size > LONGEST_HEADERS else None


def listed(value: Any) -> list[Any]:
    """The values of one parameter."""
    return value if isinstance(value, list) else [value]


def text_of(value: Scalar) -> str:
    """A scalar as text; booleans as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _short_url(text: str) -> str:
    if len(text) > LONGEST_URL:
        raise fault(f"the URL is above {LONGEST_URL} characters")
    return text


def _method(text: str) -> str:
    if text.upper() not in METHODS:
        raise fault(f"the method must be one of {', '.join(sorted(METHODS))}")
    return text.upper()


def _few_headers(headers: Any) -> Any:
    """Counted before any is looked at: each that is wrong would cost a fault of its own."""
    if isinstance(headers, dict) and len(headers) > MOST_HEADERS:
        raise fault(f"at most {MOST_HEADERS} headers are possible")
    return headers


def _headers(headers: dict[str, str]) -> dict[str, str]:
    if found := headers_fault(headers):
        raise fault(found)
    return headers


def _parameters(values: Any) -> Any:
    if not isinstance(values, dict):
        raise fault("an object is needed")
    if found := parameters_fault(values):
        raise fault(found)
    return values


def only_body(name: str) -> Callable[[Any, ValidationInfo], Any]:
    """A validator that refuses the body `name` when an earlier field is a body too."""

    def check(value: Any, info: ValidationInfo) -> Any:
        earlier = [other for other in BODIES[: BODIES.index(name)] if _is_given(info.data, other)]
        if earlier:
            raise fault(f"at most one body is possible, and {earlier[0]!r} is there too")
        return value

    return check


def _is_given(data: Mapping[str, Any], name: str) -> bool:
    return data.get("json_", UNSET) is not UNSET if name == "json" else data.get(name) is not None


def _status(value: Any) -> Any:
    if isinstance(value, str) and len(value) == 3 and value[0] in "12345" and value[1:] == "xx":
        return value
    if type(value) is int and 100 <= value <= 599:
        return value
    raise fault('a status is a number from 100 to 599, or a class such as "2xx"')


def _not_item(text: str) -> str:
    if text == ITEM:
        raise fault("'item' is what templates call the element of a for_each, and no step can have this id")
    return text


def _list_or_placeholder(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, list | str):
        raise fault("a list is needed, or one placeholder that gives a list")
    if isinstance(value, list) and len(value) > MOST_ELEMENTS:
        raise fault(f"at most {MOST_ELEMENTS} elements are possible")
    return value


def only_authorization(name: str, info: ValidationInfo) -> str:
    """A validator of `auth`: nothing else may say who asks."""
    if any(header.lower() == "authorization" for header in info.data.get("headers", ())):
        raise fault("'auth' and an Authorization header are both there: give one of them")
    return name


def of_a_fan_out(concurrency: int, info: ValidationInfo) -> int:
    """A validator of `concurrency`: what is one request runs at once anyway."""
    if info.data.get("for_each", UNSET) is None:
        raise fault("there is no for_each, whose elements this is for")
    return concurrency


def not_beside(
    names: frozenset[str], reason: str, *, known: Sequence[str] = (), otherwise: str = ""
) -> Callable[[Any], Any]:
    """A validator that refuses an object with any of the fields `names`; `reason` goes on behind the name.

    With `known`, the fields that are possible, also one that is unknown and nearer to any of `names` than to those,
    since it must not be told to be like that: `otherwise` is said instead.
    """

    def check(payload: Any) -> Any:
        if isinstance(payload, dict):
            faults = Faults()
            for name in (one for one in payload if one in names):
                faults.note((name,), f"{name!r} {reason}", payload[name])
            unknown = (one for one in payload if one not in names and one not in known)
            for name in islice(unknown, ENOUGH_FAULTS if known else 0):
                if names.intersection(difflib.get_close_matches(name[:60], [*names, *known], n=1)):
                    faults.note((name,), f"unknown field{otherwise}", payload[name])
            faults.raise_any()
        return payload

    return check


def nearest(name: str, known: Sequence[str]) -> str:
    """The question whether another name was meant; "" when none is near."""
    near = difflib.get_close_matches(name[:60], known, n=1)
    return f", did you mean '{near[0]}'?" if near else ""


Parameters = Annotated[dict[str, Any], BeforeValidator(_parameters)]
Url = Annotated[str, AfterValidator(_short_url)]
Method = Annotated[str, AfterValidator(_method)]
Headers = Annotated[dict[str, str], BeforeValidator(_few_headers), AfterValidator(_headers)]
Id = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=LONGEST_ID), AfterValidator(_not_item)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=LONGEST_ID)]
ForEach = Annotated[
    Any,
    BeforeValidator(_list_or_placeholder),
    WithJsonSchema({"anyOf": [{"type": "array", "maxItems": MOST_ELEMENTS}, {"type": "string"}, {"type": "null"}]}),
]


class Strict(BaseModel):
    """The base of all: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Expect(Strict):
    """Which answers are a success: statuses and classes such as "2xx"."""

    status: list[Annotated[int | str, BeforeValidator(_status)]] = Field(
        default=["2xx"], min_length=1, max_length=MOST_STATUSES
    )

    def holds(self, status: int) -> bool:
        """Whether `status` was expected."""
        return status in self.status or f"{status // 100}xx" in self.status


class QuickRetry(Strict):
    """Quick tries inside one attempt of the job; `unsent`: only when nothing can have been sent."""

    attempts: int = Field(default=3, ge=1, le=10)
    when: Literal["any", "unsent"] = "any"
