"""Settings that are right one by one and wrong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from worker.core.units import format_duration
from worker.ops.settings.addresses import every_address
from worker.ops.settings.catalogue import Settings
from worker.ops.settings.limit_names import misspelt_hosts

HANDBACK: Final = 5.0
"""Seconds of the drain's grace that are kept for handing back what has not finished."""

_SHORT_TOKEN: Final = 16

Where = Callable[[str], str]
"""How to speak of a setting: its name with its value and source."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` are the settings that contradict each other."""

    about: tuple[str, ...]
    text: str


def contradictions(settings: Settings, where: Where) -> Iterator[Finding]:
    """What cannot work."""
    if settings.prefetch < settings.concurrency:
        text = f"{where('prefetch')} is below {where('concurrency')}, so that slots stand empty: raise or remove it"
        yield Finding(("prefetch", "concurrency"), text)
    yield from _too_long_for_the_broker(settings, where)
    if (settings.amqp_cert is None) != (settings.amqp_key is None):
        given = "amqp_cert" if settings.amqp_cert else "amqp_key"
        yield Finding(
            ("amqp_cert", "amqp_key"), f"{where(given)}: amqp_cert and amqp_key go together; set the other one, too"
        )
    strangers = [user for user in settings.broker_users if user not in settings.trusted_users]
    if strangers:
        text = (
            f"{where('trusted_users')} lacks {', '.join(strangers)}, the worker's own broker user: it would not believe"
            " its own copies, and their attempts would never count; add it"
        )
        yield Finding(("trusted_users", "amqp_url"), text)


def doubts(settings: Settings, where: Where) -> Iterator[Finding]:
    """What works, but hardly as meant."""
    patience = settings.drain_timeout - HANDBACK
    for name, label, timeout in _timeouts(settings, where):
        if timeout > patience:
            text = (
                f"{label} is longer than {where('drain_timeout')} less {format_duration(HANDBACK)}:"
                " a restart interrupts such jobs, and their unfinished steps are run again"
            )
            yield Finding((name, "drain_timeout"), text)
    if settings.step_timeout > settings.job_timeout:
        text = f"{where('step_timeout')} is longer than {where('job_timeout')}, which ends the step first"
        yield Finding(("step_timeout", "job_timeout"), text)
    yield from _open_doors(settings, where)
    yield from _tables(settings)


def _too_long_for_the_broker(settings: Settings, where: Where) -> Iterator[Finding]:
    for name, label, timeout in _timeouts(settings, where):
        if timeout >= settings.consumer_timeout:
            text = (
                f"{label} is not below {where('consumer_timeout')}, after which the broker closes the channel:"
                " lower the first, or raise the second here and at the broker"
            )
            yield Finding((name, "consumer_timeout"), text)


def _timeouts(settings: Settings, where: Where) -> Iterator[tuple[str, str, float]]:
    yield "job_timeout", where("job_timeout"), settings.job_timeout
    for name, override in settings.types.items():
        if override.timeout is not None:
            yield "types", f'timeout {format_duration(override.timeout)} of types."{name}"', override.timeout


def _open_doors(settings: Settings, where: Where) -> Iterator[Finding]:
    for url in settings.amqp_url:
        if url.scheme == "amqp" and not _is_here(url.host):
            text = f"{where('amqp_url')}: password and jobs go to {url.host} unencrypted; use amqps://"
            yield Finding(("amqp_url",), text)
    tls = [name for name in ("amqp_ca", "amqp_cert") if getattr(settings, name)]
    if tls and all(url.scheme == "amqp" for url in settings.amqp_url):
        yield Finding((tls[0], "amqp_url"), f"{where(tls[0])} is not used, for no broker URL begins with amqps://")
    for network in every_address(settings.http_allow.networks):
        text = f"{where('http_allow')}: {network} opens every address to jobs, metadata services included"
        yield Finding(("http_allow",), text)
    if settings.admin is not None and not settings.admin.is_loopback and settings.admin_token is None:
        text = f"{where('admin')} is off loopback: /jobs answers 403 until admin_token is set"
        yield Finding(("admin", "admin_token"), text)
    if settings.admin_token is not None and len(settings.admin_token.reveal()) < _SHORT_TOKEN:
        text = f"{where('admin_token')} has less than {_SHORT_TOKEN} characters: it can be guessed"
        yield Finding(("admin_token",), text)


def _tables(settings: Settings) -> Iterator[Finding]:
    for name, credential in settings.credentials.items():
        for origin in credential.origins:
            if origin.startswith("http://"):
                yield Finding((), f"credentials.{name}: its secret goes to {origin} unencrypted; use https://")
        if credential.token_url is not None and credential.token_url.startswith("http://"):
            yield Finding((), f"credentials.{name}: client_secret goes to its token_url unencrypted; use https://")

    for name, key in misspelt_hosts(settings.limits):
        text = (
            f'limits."{name}": no host has this key, for it is the host alone, in lower case; write limits."{key}",'
            " unless a limit_key or a handler's key is spelt so"
        )
        yield Finding((), text)


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
