"""Names a proxy is not asked for: it would resolve them, and nobody here would see to what.

A judgement by name is a weaker one than by address. A public name may lead anywhere, so the proxy has to judge, too.
"""

from __future__ import annotations

from typing import Final

# Of this machine, and of the services that hand out credentials to whoever runs in a cloud.
_NEVER: Final = frozenset(
    {
        "localhost",
        "localhost.localdomain",
        "localhost6",
        "localhost6.localdomain6",
        "ip6-localhost",
        "ip6-loopback",
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.azure.com",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "metadata.tencentyun.com",
        "metadata.oraclecloud.com",
        "api.metadata.cloud.ibm.com",
    }
)
# Domains that are internal by a standard or by custom.
_INTERNAL: Final = (
    *(".local", ".localdomain", ".internal", ".intranet", ".private", ".lan", ".home", ".corp"),
    *(".svc", ".cluster", ".consul", ".docker", ".arpa", ".invalid", ".test"),
)
# Public services whose every name leads to the address that is written in it, or to loopback.
_ECHOES: Final = (
    *(".nip.io", ".sslip.io", ".xip.io", ".traefik.me", ".backname.io", ".1u.ms", ".rbndr.us"),
    *(".localtest.me", ".lvh.me", ".vcap.me", ".lacolhost.com", ".localho.st", ".yoogle.com"),
)


def is_never_open(name: str) -> bool:
    """Whether a name is this machine's or a metadata service's. `name` is lower case, without a dot at its end."""
    return name in _NEVER or name.endswith(".localhost")


def is_internal(name: str) -> bool:
    """Whether a name is, as far as one can tell by it, one of an internal network."""
    return "." not in name or f".{name}".endswith(_INTERNAL + _ECHOES)
