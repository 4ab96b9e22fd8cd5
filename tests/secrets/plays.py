"""Jobs with a secret in every place a job and its targets have for one, and the end each of them must come to."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.raw_properties import short
from tests.secrets.canaries import Canaries
from tests.secrets.targets import Target, answer

DONE: Final = "done"
SPENT: Final = "attempts_exhausted"
UNFIT: Final = "invalid_payload"
CLOSED_PORT: Final = 1025
_JSON: Final = "Content-Type: application/json"
_ONCE: Final[dict[str, Any]] = {"retry": {"attempts": 1}}


@dataclass(frozen=True)
class Play:
    """One job, and how it must end: "done" or the reason of its dead letter."""

    id: str
    body: bytes
    end: str
    type: str | None = "http"
    properties: dict[str, Any] = field(default_factory=dict)
    raw: bytes | None = None


@dataclass(frozen=True)
class Stage:
    """What plays are made of: `target` is trusted and answers as told, `untrusted` has a certificate of nobody."""

    canaries: Canaries
    target: Target
    untrusted: Target
    replies: str

    def plays(self) -> list[Play]:
        return [
            *self._requests(),
            *self._answers(),
            *self._broken_answers(),
            *self._unreached(),
            *self._templates(),
            *self._unfit(),
            *self._messages(),
            *self._results(),
        ]

    def _requests(self) -> Iterator[Play]:
        """Every part of a request that is sent, to a target that refuses it."""
        new, url = self.canaries.publisher, self.target.url
        yield play(
            "request-head",
            "http_status",
            method="POST",
            url=f"{url}/none/{new('URL path')}?api_key={new('URL query')}#{'fragment'}",
            query={"token": new("query parameter")},
            headers={
                "Authorization": f"Bearer {new('Authorization of a job')}",
                "X-Api-Key": new("header of a job"),
                "Cookie": f"session={new('Cookie of a job')}",
                "Idempotency-Key": new("Idempotency-Key of a job"),
            },
            text=new("text body"),
        )
        yield play("request-json", "http_status", method="POST", url=f"{url}/none", json={"pin": new("JSON body")})
        yield play("request-form", "http_status", method="POST", url=f"{url}/none", form={"pin": new("form body")})
        content = base64.b64encode(new("base64 body").encode()).decode()
        yield play("request-base64", "http_status", method="PUT", url=f"{url}/none", base64=content)
        items = [new("element of a fan-out")]
        yield play("request-each", "http_status", for_each=items, url=f"{url}/none", query={"item": "{{ item }}"})

    def _answers(self) -> Iterator[Play]:
        """Every part of an answer that is not wanted, with credentials sent back among them."""
        new, url, answers = self.canaries.target, self.target.url, self.target.answers
        headers = (f"Set-Cookie: session={new('Set-Cookie')}; HttpOnly", f"X-Token: {new('response header')}")
        body = json.dumps({"error": new("response body")})
        answers["/busy"] = answer(f"500 {new('status text')}", body, *headers)
        answers["/odd"] = answer("418 I'm a teapot", new("second response body"))
        answers["/echo"] = lambda request: answer("400 Bad", request, f"X-Echo: {_line(request)}")
        place, query = new("userinfo of Location"), new("query of Location")
        port = self.target.port
        answers["/to-user"] = answer("302 Found", "", f"Location: http://u:{place}@127.0.0.1:{port}/x")
        answers["/to-gone"] = answer("307 Found", "", f"Location: {url}/gone?token={query}")
        answers["/to-inside"] = answer("302 Found", "", f"Location: http://10.9.8.7/{new('forbidden Location')}")
        answers["/to-loop"] = answer("302 Found", "", f"Location: /to-loop?t={new('Location of a loop')}")
        answers["/later"] = answer("429 Wait", new("body of a 429"), f"Retry-After: {new('Retry-After')}")
        yield play("answer-busy", SPENT, url=f"{self.target.at(3)}/busy", **_ONCE)
        yield play("answer-odd", "http_status", url=f"{url}/odd")
        echoed = self.canaries.publisher("header that is sent back")
        yield play("answer-echo", "http_status", url=f"{url}/echo", headers={"X-Mine": echoed})
        yield play("to-user", "http_status", url=f"{url}/to-user", redirects=1)
        yield play("to-gone", "http_status", url=f"{url}/to-gone", redirects=1)
        yield play("to-inside", "blocked_address", url=f"{url}/to-inside", redirects=1)
        yield play("to-loop", "http_status", url=f"{url}/to-loop", redirects=3)
        soon = round((time.time() + 4) * 1000)
        yield play(
            "answer-later", "expired", {"headers": {"x-worker-deadline": soon}}, url=f"{self.target.at(4)}/later"
        )

    def _broken_answers(self) -> Iterator[Play]:
        """What is no HTTP, or not whole, or too much: the libraries' errors repeat it."""
        new, url, answers = self.canaries.target, self.target.at(2), self.target.answers
        answers["/garbage"] = f"{new('status line')} is no status\r\n\r\n".encode()
        answers["/colon"] = f"HTTP/1.1 200 OK\r\n{new('header without a colon')}\r\n\r\n".encode()
        answers["/length"] = f"HTTP/1.1 200 OK\r\nContent-Length: {new('Content-Length')}\r\n\r\n".encode()
        chunk = new("chunk size")
        answers["/chunk"] = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n\r\n".encode()
        answers["/short"] = answer(body="x" * 99).replace(b"x" * 99, new("body cut short").encode())
        answers["/gzip"] = answer("200 OK", new("broken gzip"), "Content-Encoding: gzip")
        answers["/long-line"] = answer("200 OK", "", f"X-Long: {new('header too long')}{'x' * 20000}")
        answers["/large"] = answer("200 OK", new("body too large") + "x" * 1_100_000)
        for name in ("garbage", "colon", "length", "chunk", "short", "gzip"):
            yield play(f"broken-{name}", SPENT, url=f"{url}/{name}", **_ONCE)
        for name in ("long-line", "large"):
            yield play(f"broken-{name}", "response_too_large", url=f"{url}/{name}")

    def _unreached(self) -> Iterator[Play]:
        """Requests that never arrive: errors of connections, of TLS and of the guard name URLs."""
        new = self.canaries.publisher
        yield play("closed", SPENT, url=f"http://127.0.0.3:{CLOSED_PORT}/?t={new('query to a closed port')}", **_ONCE)
        plain = self.target.at(3).replace("http:", "https:")
        yield play("not-tls", SPENT, url=f"{plain}/?t={new('query to a port without TLS')}", **_ONCE)
        untrusted = f"{self.untrusted.url}/?t={new('query to an unknown certificate')}"
        yield play("untrusted", "tls", url=untrusted)
        yield play("blocked", "blocked_address", url=f"http://10.9.8.7/?t={new('query to a forbidden address')}")

    def _templates(self) -> Iterator[Play]:
        """Results that go into later requests, or cannot."""
        new, url = self.canaries.target, self.target.url
        token = new("result of a step")
        self.target.answers["/token"] = answer(
            "200 OK", json.dumps({"token": token, "lines": f"a\r\nB: {token}"}), _JSON
        )
        first = {"id": "first", "url": f"{url}/token", "save": "json"}

        def then(id: str, end: str, **step: Any) -> Play:
            return play(id, end, steps=[first, {"id": "second", "needs": ["first"], **step}])

        yield then("template-sent", "http_status", url=f"{url}/none/{{{{ first.token }}}}")
        yield then("template-lines", "template", url=f"{url}/none", headers={"X-Pin": "{{ first.lines }}"})
        yield then("template-url", "template", url="{{ first.token }}")
        yield then("template-form", "template", url=f"{url}/none", method="POST", form={"a": "{{ first }}"})
        yield then("template-each", "template", url=f"{url}/none", for_each="{{ first.token }}")
        literal = self.canaries.publisher("literal of an expression")
        header = f"{{{{ first.[?token=='{literal}'] | [0] }}}}"
        yield then("template-syntax", UNFIT, url=f"{url}/none", headers={"X-Pin": header})
        yield then("template-null", "template", url=f"{url}/none", headers={"X-Pin": "{{ first.nothing }}"})

    def _unfit(self) -> Iterator[Play]:
        """Values that a field does not take: validators repeat them."""
        new, url = self.canaries.publisher, self.target.url
        yield play("userinfo", UNFIT, url=f"http://user:{new('userinfo of a URL')}@127.0.0.1/")
        yield play("scheme", UNFIT, url=f"ftp://u:{new('URL of another scheme')}@127.0.0.1/")
        yield play("unparsable", UNFIT, url=f"http://[{new('unparsable URL')}/")
        yield play("host", UNFIT, url=f"http://exa mple/{new('URL with a bad host')}")
        yield play("port", UNFIT, url=f"http://127.0.0.1:99999/{new('URL with a bad port')}")
        yield play("long-url", UNFIT, url=f"{url}/{new('URL too long')}{'x' * 9000}")
        yield play("method", UNFIT, url=url, method=new("unknown method"))
        yield play("crlf", UNFIT, url=url, headers={"X-Pin": f"{new('header with CR and LF')}\r\nX: y"})
        yield play("forbidden", UNFIT, url=url, headers={"Host": new("forbidden header")})
        yield play("authorization", UNFIT, url=url, auth="crm", headers={"Authorization": new("Authorization twice")})
        yield play("base64", UNFIT, url=url, method="POST", base64=f"{new('broken base64')}!")
        yield play("bodies", UNFIT, url=url, method="POST", text=new("second body"), json={})
        yield play("timeout", UNFIT, url=url, timeout=new("timeout of the wrong type"))
        yield play("status", UNFIT, url=url, expect={"status": [new("unknown status")]})
        yield play("when", UNFIT, url=url, retry={"when": new("word of a closed list")})
        yield play("unknown", UNFIT, url=url, bearer=new("value of an unknown field"))
        yield play("id", UNFIT, steps=[{"id": f"-{new('unfit id')}", "url": url}])
        yield play("save", UNFIT, url=url, save=f"json[?token=='{new('literal of a save')}'")
        yield play("pieces", UNFIT, url=url, query={"q": {"deep": new("query of the wrong kind")}})

    def _messages(self) -> Iterator[Play]:
        """Messages that are no job, and properties that are nobody's business."""
        new = self.canaries.publisher
        yield Play("no-json", f'{{"url": "{new("body that is no JSON")}'.encode(), "malformed")
        twice = f'{{"url": "{new("body with a key twice")}", "url": "x"}}'
        yield Play("twice", twice.encode(), "malformed")
        yield Play("not-utf-8", b'{"url": "%s\xff"}' % new("body that is not UTF-8").encode(), "malformed")
        yield Play("surrogate", b'{"url": "%s\\ud800"}' % new("body with half a character").encode(), "malformed")
        yield Play("huge", b'"%s%s"' % (new("body too large for a job").encode(), b"x" * 1_100_000), "too_large")
        yield Play("untyped", _json({"pin": new("body without a type")}), "no_type", type=None)
        yield Play("strange", _json({"pin": new("body of an unknown type")}), "unknown_type", type="strange")
        late = {"headers": {"x-worker-deadline": 1000}}
        yield Play("late", _json({"url": new("body of an expired job")}), "expired", properties=late)
        future = {"headers": {"x-worker-not-before": f"{new('unfit header of ours')}"}}
        yield Play("future", _json({"url": self.target.url}), "malformed", properties=future)
        raw = b"\x04\0" + short(b"\xff" + new("undecodable correlation_id").encode())
        yield Play("raw", _json({"pin": new("body of broken properties")}), "malformed", raw=raw)
        encoded = {"content_encoding": new("content_encoding")}
        yield Play("encoded", _json({}), "malformed", properties=encoded)

    def _results(self) -> Iterator[Play]:
        """Jobs that end well, or whose end is told to somebody."""
        new, url = self.canaries.publisher, self.target.url
        body = json.dumps({"token": self.canaries.target("body of a good answer")})
        self.target.answers["/good"] = answer(
            "200 OK", body, _JSON, f"ETag: {self.canaries.target('kept response header')}"
        )
        header = new("AMQP header")
        properties = {
            "reply_to": self.replies,
            "correlation_id": new("correlation_id"),
            "headers": {"x-shop-key": header, "tracestate": f"shop={new('tracestate')}"},
            "app_id": new("app_id"),
        }
        yield play("good", DONE, properties, url=f"{url}/good?t={new('query of a good request')}")
        yield play("told", "http_status", properties | {"headers": {"x-shop-key": header}}, url=f"{url}/none")
        yield play("refused-reply", DONE, properties | {"reply_to": "elsewhere"}, url=f"{url}/good")
        yield play("lost-reply", DONE, properties | {"reply_to": "replies.nowhere"}, url=f"{url}/good")
        callback = {
            "url": f"{url}/callback?t={new('query of a callback')}",
            "headers": {"Authorization": f"Bearer {new('Authorization of a callback')}"},
        }
        self.target.answers["/callback"] = answer("404 Not Found", self.canaries.target("answer to a callback"))
        yield play("called-back", DONE, url=f"{url}/good", callback=callback)
        yield play("called-back-dead", "http_status", url=f"{url}/busy-not", callback=callback)


def play(id: str, end: str, properties: dict[str, Any] | None = None, **payload: Any) -> Play:
    """A job of the built-in type."""
    return Play(id, _json(payload), end, properties=properties or {})


def _json(payload: Any) -> bytes:
    return json.dumps(payload).encode()


def _line(request: bytes) -> str:
    """All of a request's head that a header can hold."""
    return request.partition(b"\r\n\r\n")[0].replace(b"\r\n", b" ").decode("latin-1")
