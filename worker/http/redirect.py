"""What follows from a 3xx answer: the next request, or none, in which case the 3xx itself is the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import urljoin

from worker import Request, Response, harmless_headers
from worker.http.url import Url, parse_url

LONGEST: Final = 3
"""Most redirects one request may follow."""

_STATUSES: Final = frozenset({301, 302, 303, 307, 308})


def redirected(request: Request, response: Response) -> Request | None:
    """The request a redirect asks for; None when it may not be followed.

    Not followed: a missing or unreadable Location, https to http, and a body to another origin (307, 308). Headers
    other than the harmless ones do not cross origins. Whether the new address may be reached is the guard's to say.
    """
    if response.status not in _STATUSES or not (location := response.headers.get("location")):
        return None
    here = parse_url(request.url)
    try:
        there = parse_url(urljoin(here.text, location))
    except ValueError:
        return None
    if (here.scheme, there.scheme) == ("https", "http"):
        return None
    return _to(_method(request, response.status), here, there)


def _method(request: Request, status: int) -> Request:
    """303 makes a GET of anything but HEAD; 301 and 302 of POST, as every client does; 307 and 308 change nothing."""
    becomes_get = request.method == "POST" if status in (301, 302) else status == 303
    if not becomes_get or request.method == "HEAD":
        return request
    headers = {name: value for name, value in request.headers.items() if not name.lower().startswith("content-")}
    return replace(request, method="GET", body=None, headers=headers)


def _to(request: Request, here: Url, there: Url) -> Request | None:
    if here.origin == there.origin:
        return replace(request, url=there.text)
    if request.body is not None:
        return None
    return replace(request, url=there.text, headers=harmless_headers(request.headers))
