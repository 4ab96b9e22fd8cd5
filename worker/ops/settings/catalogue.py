"""Every setting: its type, default and meaning, stated here once for flags, variables, worker.toml and docs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from worker.core.units import Rate
from worker.ops.settings import kinds
from worker.ops.settings.addresses import (
    AdminAddress,
    AmqpUrl,
    HttpAllow,
    HttpProxy,
    admin_address,
    amqp_urls,
    http_allow,
    http_proxy,
)
from worker.ops.settings.kinds import Kind
from worker.ops.settings.secret import Secret
from worker.ops.settings.sources import FILE_SUFFIX, PREFIX, Written

T = TypeVar("T")

_NO_TIME: Final = "1ms"
_LONG: Final = "365d"


@dataclass(frozen=True, slots=True)
class TypeOverride:
    """What the operator fixes for one job type; None leaves it to the handler. Times in seconds."""

    attempts: int | None = None
    backoff: tuple[float, float] | None = None
    timeout: float | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one key (a host, a tenant, anything) may do at once and per time. At least one of them is set.

    `rate` may name several windows, all of which hold. `adaptive` needs a concurrency, below which it then varies.
    """

    concurrency: int | None = None
    rate: tuple[Rate, ...] | None = None
    adaptive: bool | None = None
    breaker: bool | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret jobs may use by its name, and the origins (`https://host[:port]`) it may go to.

    One of: `bearer`; `user` and `password`; `header` and `value`; `token_url`, `client_id` and `client_secret`;
    `signing_key` (one or two, by comma). Besides or instead of it `cert_file` and `key_file`, `ca_file`. `files` are
    those its secrets were read from, by the cell's name: they may be given new content at any time.
    """

    bearer: Secret | None
    origins: tuple[str, ...]
    user: str | None = None
    password: Secret | None = None
    header: str | None = None
    value: Secret | None = None
    token_url: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    scope: str | None = None
    audience: str | None = None
    signing_key: Secret | None = None
    cert_file: str | None = None
    key_file: str | None = None
    ca_file: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the table: how it is spelt, read and explained. `default` is text, or words for a derived one."""

    name: str
    kind: Kind[Any]
    default: str
    doc: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def is_secret(self) -> bool:
        return self.kind.secret

    @property
    def takes_lists(self) -> bool:
        return self.kind.many

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names it goes by in worker.toml: its own, and for a secret that of the file it may be in."""
        return (self.name, self.name + FILE_SUFFIX) if self.is_secret else (self.name,)

    def understand(self, written: Written) -> Any:
        """The value; a ValueError says what would be right, and shows no secret."""
        if not written.text and not self.kind.empty:
            raise ValueError("empty: give a value, or remove it to have the default")
        if not self.kind.path or not written.text:
            return self.kind.parse(written.text)
        path = written.directory / self.kind.parse(written.text)
        if not path.is_file():
            raise ValueError(f"{path} is not a file")
        return str(path)


def setting(kind: Kind[T], default: str, doc: str) -> T:
    """A field of Settings. `default` is text as an operator would write it."""
    value: T = field(default=kind.parse(default), metadata={"kind": kind, "default": default, "doc": doc})
    return value


def derived(kind: Kind[T], nothing: T, default: str, doc: str) -> T:
    """A field that `Settings` itself fills in, as the words in `default` say, as long as it is `nothing`."""
    value: T = field(default=nothing, metadata={"kind": kind, "default": default, "doc": doc})
    return value


def _whole_or_auto(low: int, high: int) -> Kind[int]:
    """A whole number; 0 for `auto`, which is filled in."""
    plain = kinds.whole(low, high)

    def parse(text: str) -> int:
        if text.lower() == "auto":
            return 0
        try:
            return plain.parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, nor auto") from None

    return replace(plain, parse=parse)


def _usable_cpus() -> int:
    """CPUs this process may use: in a container often fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """How this service runs. Times in seconds, sizes in bytes. Only `load_settings` looks for contradictions."""

    amqp_url: tuple[AmqpUrl, ...] = setting(
        amqp_urls(),
        "amqp://guest:guest@localhost:5672/",
        "Broker: one URL, or a comma list of cluster nodes that are tried in turn. amqps verifies the certificate.",
    )
    amqp_ca: str | None = setting(
        kinds.optional(kinds.file()), "", "PEM file of the authorities that may sign the broker's certificate."
    )
    amqp_cert: str | None = setting(
        kinds.optional(kinds.file()), "", "PEM file of the certificate shown to the broker; needs the key, too."
    )
    amqp_key: str | None = setting(kinds.optional(kinds.file()), "", "PEM file of that certificate's private key.")
    connect_timeout: float = setting(
        kinds.duration(_NO_TIME, "1d"),
        "30s",
        "How long to try to reach the broker at start before exit 69; once connected, a lost one is tried for ever.",
    )
    queue: str = setting(kinds.queue_name(), "jobs", "Work queue; the queues around it take its name as their prefix.")
    queue_type: Literal["quorum", "classic"] = setting(
        kinds.choice("quorum", "classic"),
        "quorum",
        "quorum, or classic for brokers without quorum queues: then a lost node can lose jobs.",
    )
    default_type: str | None = setting(
        kinds.optional(kinds.text("a job type", 255)), "", "Job type of messages that name none."
    )
    concurrency: int = setting(kinds.whole(1, 50_000), "100", "Jobs running at once, per process.")
    prefetch: int = derived(
        kinds.whole(1, 65_535),
        0,
        "concurrency + 25 %",
        "Messages held at once; above concurrency, so that no slot stands empty while acknowledgements travel.",
    )
    steps: int = derived(
        kinds.whole(1, 1_000_000),
        0,
        "2 x concurrency",
        "Network-heavy steps in flight at once, over all jobs of the process.",
    )
    replicas: int = setting(
        kinds.whole(1, 1024), "1", "Worker processes on this host, supervised and restarted; limits are per process."
    )
    cpu_processes: int = derived(
        _whole_or_auto(1, 1024),
        0,
        "auto",
        "Processes for context.run_cpu, per worker process, started when used; auto: as many as CPUs it may use.",
    )
    job_timeout: float = setting(
        kinds.duration(_NO_TIME, _LONG),
        "60s",
        "Hard limit of one attempt of a job, quick tries and local waits included.",
    )
    step_timeout: float = setting(kinds.duration(_NO_TIME, _LONG), "10s", "Hard limit of one try of a step.")
    attempts: int = setting(kinds.whole(1, 10_000), "16", "Attempts before a job goes to the dead queue.")
    backoff: tuple[float, float] = setting(
        kinds.duration_range(_NO_TIME, _LONG),
        "2s..1h",
        "Wait between attempts: exponential with full jitter in this range.",
    )
    max_age: float = setting(
        kinds.duration("1s", _LONG), "24h", "Age, from the first delivery, at which a job is dead-lettered as expired."
    )
    consumer_timeout: float = setting(
        kinds.duration("1s", _LONG),
        "30m",
        "Longest time the broker waits for an acknowledgement; above the job timeout.",
    )
    drain_timeout: float = setting(
        kinds.duration(_NO_TIME, "1d"), "25s", "Grace after SIGTERM for the jobs that are running."
    )
    admin: AdminAddress | None = setting(  # noqa: RUF009 - what it returns is a field()
        admin_address(), "127.0.0.1:8080", "Admin listener, host:port; port 0 picks one and logs it; off disables it."
    )
    admin_token: Secret | None = setting(  # noqa: RUF009 - what it returns is a field()
        kinds.optional(kinds.token(8)), "", "Bearer token that worker pause and resume need, off loopback /jobs too."
    )
    topology: Literal["declare", "passive", "none"] = setting(
        kinds.choice("declare", "passive", "none"),
        "declare",
        "declare the queues, passive: only check them, none: neither; in the last two every queue must exist at start.",
    )
    http_allow: HttpAllow = setting(  # noqa: RUF009 - what it returns is a field()
        http_allow(),
        "",
        "What jobs may reach besides public addresses: a comma list of networks (exactly these) and host names"
        " (whose private answers are then allowed, never loopback or metadata).",
    )
    http_proxy: HttpProxy | None = setting(  # noqa: RUF009 - what it returns is a field()
        kinds.optional(http_proxy()),
        "",
        "HTTP proxy for jobs' requests, http://[user:password@]host:port, which resolves their names, too. Those in the"
        " environment are ignored.",
    )
    max_body: int = setting(kinds.size("1", "16MiB"), "1MiB", "Largest message body; larger ones are dead-lettered.")
    max_response: int = setting(
        kinds.size("1", "1GiB"), "1MiB", "Largest response a request may get; on a larger one the step fails."
    )
    max_requests: int = setting(kinds.whole(1, 10_000), "1000", "Requests one job may make.")
    reply_allow: tuple[str, ...] = setting(
        kinds.many(kinds.text("a queue name or pattern", 255)),
        "amq.rabbitmq.reply-to.*,amq.gen-*,replies.*",
        "Queues replies may go to, * for anything; never the worker's own queues.",
    )
    trusted_users: tuple[str, ...] = derived(
        kinds.many(kinds.text("a broker user", 255), empty=False),
        (),
        "the worker's own broker user",
        "Broker users whose x-worker-* headers are believed.",
    )
    log: Literal["debug", "info", "warning", "error"] = setting(
        kinds.choice("debug", "info", "warning", "error"), "info", "Least level that is logged."
    )
    types: Mapping[str, TypeOverride] = field(default_factory=dict)
    limits: Mapping[str, LimitSettings] = field(default_factory=dict)
    credentials: Mapping[str, Credential] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    """Secrets by setting name, and the files they were read from, which may be given new content at any time."""

    def __post_init__(self) -> None:
        fill = object.__setattr__
        fill(self, "prefetch", self.prefetch or -(-self.concurrency * 5 // 4))
        fill(self, "steps", self.steps or 2 * self.concurrency)
        fill(self, "cpu_processes", self.cpu_processes or _usable_cpus())
        fill(self, "trusted_users", self.trusted_users or self.broker_users)

    @property
    def broker_users(self) -> tuple[str, ...]:
        """The users this worker logs in as: one, unless the nodes' URLs differ."""
        return tuple(dict.fromkeys(url.user for url in self.amqp_url))


SETTINGS: Final = tuple(
    Setting(one.name, one.metadata["kind"], one.metadata["default"] or "none", one.metadata["doc"])
    for one in fields(Settings)
    if one.metadata
)
"""Every setting that is a flag, a variable and a key, in the order of the documentation."""
