"""A request that still has placeholders, and what becomes of it when they are filled."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from worker.http.jobs.fields import (
    BODIES,
    LONGEST_FORM,
    Scalar,
    headers_fault,
    listed,
    parameters_fault,
    text_of,
)
from worker.http.jobs.step import Call
from worker.http.templates.budget import Budget, TemplateFault
from worker.http.templates.placeholder import literal_of
from worker.http.templates.template import Allowance, Template, UrlTemplate, parse_template, parse_url_template
from worker.http.url import LONGEST_URL, parse_url

AS_IT_IS: Final = 'for text that holds "{{" as it is, give the job "templates": false'
"""The way out for whoever never meant a template."""

_NO_BASE64: Final = "base64 text is needed"
_ALPHABET: Final = re.compile("[A-Za-z0-9+/=]*")

Note = Callable[[str, str, Any], None]
"""Is told a fault: the field, what is wrong, and the value, of which nothing but its kind is ever shown."""


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a request. Without a template `ready` is what it holds, judged and in the form that is sent."""

    ready: Any
    template: Template | UrlTemplate | None = None

    @property
    def names(self) -> frozenset[str]:
        """The results it reads."""
        return frozenset() if self.template is None else self.template.names

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """The results it reads, each with the field of it."""
        return frozenset() if self.template is None else self.template.pairs


@dataclass(frozen=True, slots=True)
class Filled:
    """A request as `Context.request` takes it; `body` is one of its keyword arguments, or none."""

    url: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Draft:
    """URL, query, headers and body of a request, by the name of the field.

    `host` is the host it goes to, by the name that limits know it by, where that is known before it is filled.
    """

    parts: Mapping[str, Part]
    host: str | None

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to fill."""
        return all(part.template is None for part in self.parts.values())

    @property
    def body_field(self) -> str | None:
        """The field that is the body; None when there is none."""
        return next((field for field in self.parts if field in BODIES), None)

    @property
    def has_literal_body(self) -> bool:
        """Whether the body is the same whatever the results are."""
        field = self.body_field
        return field is not None and self.parts[field].template is None

    @property
    def known_url(self) -> str | None:
        """A URL of the origin it goes to; None as long as that is not known."""
        part = self.parts["url"]
        if not isinstance(part.template, UrlTemplate):
            return str(part.ready)
        return None if part.template.sample is None else part.template.sample.text

    def fill(self, results: Mapping[str, Any], budget: Budget | None = None) -> Filled:
        """The request with these results in it, judged as one without templates is. A TemplateFault names the field."""
        budget = budget or Budget()
        made = {field: _made(field, part, results, budget) for field, part in self.parts.items()}
        try:
            url = _with_query(made.pop("url"), made.pop("query"))
        except ValueError as fault:
            raise TemplateFault(f"query: {fault}") from None
        headers = made.pop("headers")
        return Filled(url, headers, {_ARGUMENTS.get(name, name): value for name, value in made.items()})

    def filled_host(self, results: Mapping[str, Any], budget: Budget) -> str:
        """The host it goes to with these results in it."""
        return self.host or parse_url(_made("url", self.parts["url"], results, budget)).name


def draft_of(call: Call, body: tuple[str, Any] | None, allowance: Allowance | None, note: Note) -> Draft | None:
    """The draft of a step or a callback. `note` is told every fault; then there is none.

    `allowance` is what the templates of the job may still take; without one there are no templates, and strings are
    taken as they are.
    """
    fields = {"url": call.url, "query": call.query, "headers": call.headers}
    if body is not None:
        fields[body[0]] = body[1]
    parts = {field: _part(field, value, allowance, note) for field, value in fields.items()}
    found = {field: part for field, part in parts.items() if part is not None}
    if len(found) < len(parts) or not _fits(found, note, call):
        return None
    return Draft(found, _host(found["url"]))


def _part(field: str, value: Any, allowance: Allowance | None, note: Note) -> Part | None:
    try:
        template = None if allowance is None else _template(field, value, allowance)
        if template is not None and field == "base64" and not _ALPHABET.fullmatch(literal_of(value)):
            raise ValueError(_NO_BASE64)  # noqa: TRY301 - told as the maker would tell it
        return Part(_MAKERS[field](value)) if template is None else Part(None, template)
    except TemplateFault as fault:
        note(field, f"{fault} ({AS_IT_IS})", value)
    except ValueError as fault:
        note(field, str(fault), value)
    return None


def _template(field: str, value: Any, allowance: Allowance) -> Template | UrlTemplate | None:
    if not value:  # as most fields are of most jobs
        return None
    if field == "url":
        return parse_url_template(value, allowance) if "{{" in value else None
    template = parse_template(value, allowance)
    return None if template.is_plain else template


def _made(field: str, part: Part, results: Mapping[str, Any], budget: Budget) -> Any:
    if part.template is None:
        return part.ready
    try:
        return _MAKERS[field](part.template.fill(results, budget))
    except (TemplateFault, ValueError) as fault:
        raise TemplateFault(f"{field}: {fault}") from None


def _fits(parts: Mapping[str, Part], note: Note, call: Call) -> bool:
    """Whether what is known of the URL and its query is short enough."""
    try:
        _with_query("x" * _least_length(parts["url"]), _known_query(parts["query"], call.query))
    except ValueError as fault:
        note("query", str(fault), call.query)
        return False
    return True


def _least_length(url: Part) -> int:
    return url.template.length if isinstance(url.template, UrlTemplate) else len(url.ready)


def _known_query(part: Part, query: Mapping[str, Any]) -> Mapping[str, list[str]]:
    """The query without what its placeholders will give; what is nothing else may become an empty list."""
    if part.template is None:
        found: Mapping[str, list[str]] = part.ready
        return found
    texts = {name: [literal_of(text_of(one)) for one in listed(value)] for name, value in query.items()}
    return {name: [text for text in several if text] for name, several in texts.items()}


def _with_query(url: str, query: Mapping[str, list[str]]) -> str:
    """`url` with `query` behind the query it has. A ValueError when that is too long."""
    pairs = [(name, text) for name, texts in query.items() for text in texts]
    # Encoding takes its time: what is too long as it is, is not encoded at all.
    if sum(len(name) + len(text) for name, text in pairs) <= LONGEST_URL:
        text = "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in pairs)
        found = f"{url}{'&' if '?' in url else '?'}{text}" if pairs else url
        if len(found) <= LONGEST_URL:
            return found
    raise ValueError(f"the URL with its query is above {LONGEST_URL} characters")


def _host(url: Part) -> str | None:
    if not isinstance(url.template, UrlTemplate):
        return parse_url(url.ready).name
    return None if url.template.sample is None else url.template.sample.name


def _url(text: str) -> str:
    if len(text) <= LONGEST_URL:  # else it is not worth reading
        try:
            text = parse_url(text).text
        except ValueError as error:
            raise ValueError(f"the URL {error}") from None
    if len(text) > LONGEST_URL:
        raise ValueError(f"the URL is above {LONGEST_URL} characters")
    return text


def _texts(values: Mapping[str, Any]) -> dict[str, list[str]]:
    if fault := parameters_fault(values):
        raise ValueError(fault)
    return {name: [text_of(item) for item in listed(value)] for name, value in values.items()}


def _form(values: Mapping[str, Any]) -> dict[str, list[str]]:
    texts = _texts(values)
    if sum(len(name) + sum(map(len, several)) for name, several in texts.items()) > LONGEST_FORM:
        raise ValueError(f"the form is above {LONGEST_FORM} characters")
    return texts


def _headers(values: Mapping[str, Any]) -> Mapping[str, str]:
    headers = {name: _header(name, value) for name, value in values.items()}
    if fault := headers_fault(headers):
        raise ValueError(fault)
    return headers


def _header(name: str, value: Any) -> str:
    try:
        return _text(value)
    except ValueError:
        raise ValueError(f"header {name[:60]!r} is null, and text is needed") from None


def _text(value: Any) -> str:
    """As a placeholder within text becomes text: lists and objects as compact JSON, null not at all."""
    if value is None:
        raise ValueError("it is null, and text is needed")
    if isinstance(value, Scalar):
        return text_of(value)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _bytes(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, binascii.Error, ValueError):
        raise ValueError(_NO_BASE64) from None


def _as_it_is(value: Any) -> Any:
    return value


_MAKERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "url": _url,
    "query": _texts,
    "headers": _headers,
    "json": _as_it_is,
    "form": _form,
    "text": _text,
    "base64": _bytes,
}
"""From what a field holds, or what came out of its template, to what is sent. A ValueError says what is wrong."""

_ARGUMENTS: Final = {"base64": "body"}
