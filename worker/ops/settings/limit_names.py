"""Names in [limits] that are meant for a host and never are one's key."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Final

_HOST: Final = re.compile(
    r"(?:https?://)?(?P<host>\[[0-9a-f:.]+\]|[\w-]+(?:\.[\w-]+)+|localhost)\.?(?::[0-9]{1,5})?(?:/\S*)?", re.IGNORECASE
)


def misspelt_hosts(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each such name, and the key of that host. A name that no host can have may be a tenant's, or anything's."""
    for name in names:
        found = _HOST.fullmatch(name)
        if found is not None and (key := _key(found["host"])) != name:
            yield name, key


def _key(host: str) -> str:
    if host.startswith("["):
        try:
            return ipaddress.IPv6Address(host[1:-1]).compressed
        except ValueError:
            return host
    return host.lower()
