"""Answers whose head is wrong, endless, or odd."""

from __future__ import annotations

from tests.http.hostile.behaviour import GOOD, OK, Behaviour, drips, floods, says

EARLY = b"HTTP/1.1 103 Early Hints\r\n\r\n"
SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
COOKIES = b"".join(b'Set-Cookie: a="' + b"\\" * 15_000 + b"\r\n" for _ in range(100))


def _with(header: bytes) -> bytes:
    return OK + header + b"Content-Length: 2\r\n\r\nok"


def _status(line: bytes) -> bytes:
    return b"HTTP/1.1 " + line + b"\r\nContent-Length: 2\r\n\r\nok"


HEADS = (
    Behaviour("drips headers", drips(lambda n: b"X-%d: 1\r\n" % n, first=OK), "RequestTimeout"),
    Behaviour("drips the head byte by byte", drips(lambda n: GOOD[n % 9 : n % 9 + 1]), "BadAnswer"),
    Behaviour("drips one header byte by byte", drips(lambda _: b"a", first=OK + b"X: "), "RequestTimeout"),
    Behaviour("drips blank lines before the answer", drips(lambda _: b"\r\n"), "RequestTimeout"),
    Behaviour("headers without end", floods(b"X: 1\r\n" * 500, first=OK), "BadAnswer", costly=True),
    Behaviour("a header line without end", floods(b"a" * 4096, first=OK + b"X: "), "response_too_large", costly=True),
    Behaviour("a header name without end", floods(b"a" * 4096, first=OK), "response_too_large", costly=True),
    Behaviour("a reason without end", floods(b"a" * 4096, first=b"HTTP/1.1 200 "), "response_too_large", costly=True),
    Behaviour("blank lines without end", floods(b"\r\n" * 5000), "RequestTimeout", costly=True),
    Behaviour("200,000 headers", says(OK + b"X: 1\r\n" * 200_000 + b"\r\n"), "BadAnswer", costly=True),
    Behaviour(
        "a header of 10 MB", says(_with(b"X: " + b"a" * 10_000_000 + b"\r\n")), "response_too_large", costly=True
    ),
    Behaviour("a header without a colon", says(_with(b"colonless\r\n")), "BadAnswer"),
    Behaviour("a header without a name", says(_with(b": x\r\n")), "BadAnswer"),
    Behaviour("a space before the colon", says(_with(b"X : 1\r\n")), "BadAnswer"),
    Behaviour("NUL in a header's value", says(_with(b"X: a\0b\r\n")), "BadAnswer"),
    Behaviour("NUL in a header's name", says(_with(b"X\0: a\r\n")), "BadAnswer"),
    Behaviour("CR in a header's value", says(_with(b"X: a\rY: b\r\n")), "BadAnswer"),
    Behaviour("a folded header", says(_with(b"X: a\r\n b\r\n")), "200"),
    Behaviour("folds without end", floods(b" b\r\n" * 999, first=OK + b"X: a\r\n"), "response_too_large", costly=True),
    Behaviour("1xx without end", floods(EARLY * 5000), "BadAnswer", costly=True),
    Behaviour("1xx now and then, without end", drips(lambda _: EARLY), "BadAnswer"),
    Behaviour(
        "1xx with headers, without end", floods(EARLY[:-2] + b"X: 1\r\n" * 99 + b"\r\n"), "BadAnswer", costly=True
    ),
    Behaviour("five 1xx and an answer", says(EARLY * 5 + GOOD), "200"),
    Behaviour("six 1xx and an answer", says(EARLY * 6 + GOOD), "BadAnswer"),
    Behaviour("1xx only", says(EARLY), "MaybeSent"),
    Behaviour("100 that nobody asked for", says(b"HTTP/1.1 100 Continue\r\n\r\n", GOOD, every=0.02), "200"),
    Behaviour("101 that nobody asked for", says(_status(b"101 Switching"), then="hang"), "BadAnswer"),
    Behaviour(
        "101 to websocket",
        says(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05hello", then="hang"),
        "BadAnswer",
    ),
    Behaviour("status 000", says(_status(b"000 X")), "BadAnswer"),
    Behaviour("status 099", says(_status(b"099 X")), "BadAnswer"),
    Behaviour("status 999", says(_status(b"999 X")), "999"),
    Behaviour("status abc", says(_status(b"abc X")), "BadAnswer"),
    Behaviour("status of two digits", says(_status(b"20 X")), "BadAnswer"),
    Behaviour("status of four digits", says(_status(b"2000 X")), "BadAnswer"),
    Behaviour("a negative status", says(_status(b"-200 X")), "BadAnswer"),
    Behaviour("no reason", says(_status(b"200")), "200"),
    Behaviour("a reason of control bytes", says(_status(b"200 \x01\x1b[31m\x7f")), "200"),
    Behaviour("line feeds only", says(GOOD.replace(b"\r\n", b"\n")), "200"),
    Behaviour("HTTP/0.9", says(b"<html>hello</html>\r\n"), "BadAnswer"),
    Behaviour("HTTP/2 on an HTTP/1 port", says(SETTINGS, then="hang"), "BadAnswer"),
    Behaviour("HTTP/9.9", says(GOOD.replace(b"1.1", b"9.9")), "BadAnswer"),
    Behaviour("another protocol", says(b"SSH-2.0-OpenSSH_9.9\r\n", then="hang"), "BadAnswer"),
    Behaviour("noise", says(bytes(range(256)) * 64, then="hang"), "BadAnswer", costly=True),
    Behaviour("an ETag of 15 kB", says(_with(b'ETag: "' + b"e" * 15_000 + b'"\r\n')), "200"),
    Behaviour(
        "a hundred Links of 15 kB", says(_with((b"Link: <" + b"l" * 15_000 + b">\r\n") * 100)), "200", costly=True
    ),
    Behaviour("Set-Cookie bombs", says(_with(COOKIES)), "200", costly=True),
)
