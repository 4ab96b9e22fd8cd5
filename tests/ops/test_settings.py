"""Settings: what is read from where, what is refused in which words, and that no secret is shown."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from worker.core.units import Rate
from worker.ops import probe
from worker.ops.settings import (
    SETTINGS,
    AdminAddress,
    Credential,
    LimitSettings,
    Loaded,
    Secret,
    Settings,
    SettingsError,
    TypeOverride,
    load_settings,
    mask_url,
)

# The contract's table, copied by hand: name, default as text, default as value.
CONTRACT: dict[str, tuple[str, Any]] = {
    "WORKER_AMQP_URL": ("amqp://guest:guest@localhost:5672/", None),
    "WORKER_AMQP_CA": ("none", None),
    "WORKER_AMQP_CERT": ("none", None),
    "WORKER_AMQP_KEY": ("none", None),
    "WORKER_CONNECT_TIMEOUT": ("30s", 30.0),
    "WORKER_QUEUE": ("jobs", "jobs"),
    "WORKER_QUEUE_TYPE": ("quorum", "quorum"),
    "WORKER_DEFAULT_TYPE": ("none", None),
    "WORKER_CONCURRENCY": ("100", 100),
    "WORKER_PREFETCH": ("concurrency + 25 %", 125),
    "WORKER_STEPS": ("2 x concurrency", 200),
    "WORKER_REPLICAS": ("1", 1),
    "WORKER_CPU_PROCESSES": ("auto", None),
    "WORKER_JOB_TIMEOUT": ("60s", 60.0),
    "WORKER_STEP_TIMEOUT": ("10s", 10.0),
    "WORKER_ATTEMPTS": ("16", 16),
    "WORKER_BACKOFF": ("2s..1h", (2.0, 3600.0)),
    "WORKER_MAX_AGE": ("24h", 86400.0),
    "WORKER_CONSUMER_TIMEOUT": ("30m", 1800.0),
    "WORKER_DRAIN_TIMEOUT": ("25s", 25.0),
    "WORKER_ADMIN": ("127.0.0.1:8080", AdminAddress("127.0.0.1", 8080)),
    "WORKER_ADMIN_TOKEN": ("none", None),
    "WORKER_TOPOLOGY": ("declare", "declare"),
    "WORKER_HTTP_ALLOW": ("none", None),
    "WORKER_HTTP_PROXY": ("none", None),
    "WORKER_MAX_BODY": ("1MiB", 1 << 20),
    "WORKER_MAX_RESPONSE": ("1MiB", 1 << 20),
    "WORKER_MAX_REQUESTS": ("1000", 1000),
    "WORKER_REPLY_ALLOW": (
        "amq.rabbitmq.reply-to.*,amq.gen-*,replies.*",
        ("amq.rabbitmq.reply-to.*", "amq.gen-*", "replies.*"),
    ),
    "WORKER_TRUSTED_USERS": ("the worker's own broker user", ("guest",)),
    "WORKER_LOG": ("info", "info"),
}


class Loader:
    """Loads from an empty directory, and gives problems back as text."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        toml: str | None = None,
        config: str | None = None,
        **flags: Any,
    ) -> Loaded:
        if toml is not None:
            (self.directory / (config or "worker.toml")).write_text(toml)
        return load_settings(flags, environ or {}, config, self.directory)

    def value(self, name: str, text: str) -> Any:
        return getattr(self({f"WORKER_{name.upper()}": text}).settings, name)

    def error(self, environ: Mapping[str, str] | None = None, **rest: Any) -> SettingsError:
        with pytest.raises(SettingsError) as raised:
            self(environ, **rest)
        return raised.value


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


# --- what settings there are


def test_every_setting_of_the_contract_is_there_and_no_other() -> None:
    assert {one.variable: one.default for one in SETTINGS} == {name: text for name, (text, _) in CONTRACT.items()}


@pytest.mark.parametrize(("variable", "value"), [(name, value) for name, (_, value) in CONTRACT.items() if value])
def test_the_defaults_are_the_contracts(variable: str, value: Any) -> None:
    assert getattr(Settings(), variable.removeprefix("WORKER_").lower()) == value


def test_every_setting_has_a_flag_and_says_what_it_is() -> None:
    for one in SETTINGS:
        assert one.flag == "--" + one.variable.removeprefix("WORKER_").lower().replace("_", "-")
        assert one.doc.endswith(".")


def test_without_anything_the_defaults_hold(load: Loader) -> None:
    loaded = load()
    assert loaded.settings == Settings()
    assert {row.source for row in loaded.rows()} == {"default"}
    assert [row.setting for row in loaded.rows()] == list(SETTINGS)


def test_the_probe_asks_where_the_listener_is_by_default() -> None:
    assert str(Settings().admin) == probe.DEFAULT_ADMIN


@pytest.mark.parametrize(("concurrency", "prefetch"), [(1, 2), (3, 4), (4, 5), (100, 125), (101, 127)])
def test_prefetch_is_a_quarter_above_concurrency_rounded_up(load: Loader, concurrency: int, prefetch: int) -> None:
    settings = load(concurrency=str(concurrency)).settings
    assert (settings.prefetch, settings.steps) == (prefetch, 2 * concurrency)


def test_cpu_processes_are_as_many_as_the_cpus_this_process_may_use(load: Loader) -> None:
    usable = len(os.sched_getaffinity(0))
    assert Settings().cpu_processes == load.value("cpu_processes", "Auto") == usable
    assert load(toml='cpu_processes = "auto"').settings.cpu_processes == usable
    assert load(toml=f"cpu_processes = {usable + 1}").settings.cpu_processes == usable + 1
    for wrong in ("0", "automatic", "-1", "1025"):
        error = load.error({"WORKER_CPU_PROCESSES": wrong})
        assert f"'{wrong}' is not a whole number from 1 to 1024, nor auto" in str(error)


# --- precedence


def test_a_flag_outweighs_a_variable_which_outweighs_the_file(load: Loader) -> None:
    toml = 'queue = "file"\nsteps = 3\nattempts = 4'
    loaded = load({"WORKER_QUEUE": "variable", "WORKER_STEPS": "5"}, toml=toml, queue="flag", log=None)
    settings = loaded.settings
    assert (settings.queue, settings.steps, settings.attempts, settings.log) == ("flag", 5, 4, "info")
    sources = {row.setting.name: row.source for row in loaded.rows()}
    assert sources["queue"] == "flag --queue"
    assert sources["steps"] == "variable WORKER_STEPS"
    assert sources["attempts"] == f"file {load.directory / 'worker.toml'} key attempts"
    assert sources["log"] == "default"


def test_config_names_another_file(load: Loader) -> None:
    (load.directory / "worker.toml").write_text('queue = "not.this"')
    assert load(toml='queue = "this"', config="other.toml").settings.queue == "this"


def test_a_higher_secret_file_outweighs_a_lower_secret(load: Loader) -> None:
    (load.directory / "url").write_text("amqp://a:b@from-file/\n")
    loaded = load({"WORKER_AMQP_URL_FILE": "url"}, toml='amqp_url = "amqp://c:d@from-toml/"')
    assert loaded.settings.amqp_url[0].host == "from-file"
    assert str(loaded.sources["amqp_url"]) == "variable WORKER_AMQP_URL_FILE"


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_variable_is_an_empty_list_or_nothing(load: Loader, text: str) -> None:
    settings = load({"WORKER_REPLY_ALLOW": text, "WORKER_DEFAULT_TYPE": text, "WORKER_HTTP_ALLOW": text}).settings
    assert (settings.reply_allow, settings.default_type, settings.http_allow.networks) == ((), None, ())


def test_toml_takes_numbers_and_arrays(load: Loader) -> None:
    settings = load(toml='job_timeout = 20\nstep_timeout = 2.5\nreply_allow = ["a", "b.*"]\nqueue = "7"').settings
    assert (settings.job_timeout, settings.step_timeout, settings.reply_allow) == (20.0, 2.5, ("a", "b.*"))


# --- values


VALUES: list[tuple[str, str, Any]] = [
    ("queue_type", "Classic", "classic"),
    ("topology", "passive", "passive"),
    ("log", "DEBUG", "debug"),
    ("backoff", "250ms..10m", (0.25, 600.0)),
    ("max_body", "64KiB", 65536),
    ("trusted_users", "guest, other", ("guest", "other")),
    ("admin", "off", None),
    ("admin", "[::1]:0", AdminAddress("::1", 0)),
    ("admin", "0.0.0.0:9000", AdminAddress("0.0.0.0", 9000)),
    ("admin", "localhost:1", AdminAddress("localhost", 1)),
    ("admin_token", "t0ken-t0ken", Secret("t0ken-t0ken")),
    ("max_requests", "10000", 10000),
    ("queue", "q" * 200, "q" * 200),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_a_value_is_understood(load: Loader, name: str, text: str, value: Any) -> None:
    assert load.value(name, text) == value


def test_the_allow_list_is_parted_into_networks_and_names(load: Loader) -> None:
    allow = load.value("http_allow", "127.0.0.0/8, 10.1.2.3,::1/128,Crm.Example.COM,db")
    assert allow.networks == tuple(map(ip_network, ("127.0.0.0/8", "10.1.2.3/32", "::1/128")))
    assert allow.hosts == ("crm.example.com", "db")


REFUSED: list[tuple[str, str, str]] = [
    ("concurrency", "0", "whole number from 1 to 50000"),
    ("concurrency", "2.5", "whole number"),
    ("concurrency", "1_0", "whole number"),
    ("concurrency", "", "empty"),
    ("max_requests", "10001", "from 1 to 10000"),
    ("job_timeout", "0", "not from 1ms"),
    ("job_timeout", "5 minutes", "250ms, 10s, 5m, 2h or 1d"),
    ("backoff", "1h..2s", "2s..1h"),
    ("backoff", "0..2s", "not within"),
    ("max_body", "17MiB", "not from 1 to 16MiB"),
    ("queue", "amq.jobs", "belong to the broker"),
    ("queue", "q" * 201, "200 bytes"),
    ("queue", "ü" * 101, "200 bytes"),
    ("queue", "a\nb", "printable"),
    ("queue_type", "stream", "not one of quorum, classic"),
    ("topology", "yes", "declare, passive, none"),
    ("log", "loud", "debug, info, warning, error"),
    ("admin", "8080", "host:port"),
    ("admin", ":8080", "host:port"),
    ("admin", "::1:8080", "host:port"),
    ("admin", "127.0.0.1:65536", "host:port"),
    ("http_allow", "10.0.0.1/8", "perhaps 10.0.0.0/8"),
    ("http_allow", "*.example.com", "wildcard"),
    ("http_allow", "example.com:80", "port"),
    ("http_allow", "https://example.com/", "neither a network"),
    ("http_allow", "10.0.0", "not a host name"),
    ("trusted_users", ",", "at least one"),
    ("amqp_ca", "missing.pem", "missing.pem is not a file"),
    ("amqp_url", "http://h", "must start with amqp://"),
    ("amqp_url", "amqp://", "write amqp://"),
    ("amqp_url", "amqp://h:0/", "write amqp://"),
    ("amqp_url", "amqp://h/a/b", "write amqp://"),
    ("amqp_url", "amqp://h/?heartbeat=0", "nothing may follow the vhost"),
    ("amqp_url", "amqp://h/%zz", "%XX"),
    ("amqp_url", "amqp://one,two", "write amqp://"),
    ("amqp_url", "amqp://xn--a/", "its host is no name"),
    ("amqp_url", "amqp://mq.xn--a.example/", "its host is no name"),
    ("amqp_url", "amqp://h/" + "v" * 256, "its vhost is longer than 255 bytes"),
    ("amqp_url", "amqp://h/" + "%C3%BC" * 128, "its vhost is longer than 255 bytes"),
    ("amqp_url", "amqp://" + "u" * 256 + "@h/", "its user is longer than 255 bytes"),
]


@pytest.mark.parametrize(("name", "text", "says"), REFUSED)
def test_a_wrong_value_is_refused_with_the_place_the_value_and_the_fix(
    load: Loader, name: str, text: str, says: str
) -> None:
    error = load.error({f"WORKER_{name.upper()}": text})
    assert len(error.problems) == 1
    assert str(error).startswith(f"variable WORKER_{name.upper()}: ")
    assert says in str(error)
    if text.strip(",") and name != "amqp_ca":
        assert text[:80].encode("unicode_escape").decode() in str(error) or text[:60] in str(error)


@pytest.mark.parametrize("value", ["true", "1979-05-27", "[1]", '{a = "b"}'])
def test_toml_values_of_other_types_are_refused(load: Loader, value: str) -> None:
    error = load.error(toml=f"concurrency = {value}")
    assert "key concurrency: " in str(error)
    assert "is not taken here" in str(error) or "is not a whole number" in str(error)


# --- the broker's URL


URLS: list[tuple[str, tuple[str, str, int, str, str, str]]] = [
    ("amqp://h", ("amqp", "h", 5672, "guest", "guest", "/")),
    ("amqps://h/", ("amqps", "h", 5671, "guest", "guest", "/")),
    ("amqp://h//", ("amqp", "h", 5672, "guest", "guest", "/")),
    ("amqp://u:p%40%2F@[::1]:1/%2F", ("amqp", "::1", 1, "u", "p@/", "/")),
    ("amqp://xn--strae-oqa.example/" + "v" * 255, ("amqp", "xn--strae-oqa.example", 5672, "guest", "guest", "v" * 255)),
    ("amqp://u:@h/prod%2Feu", ("amqp", "h", 5672, "u", "", "prod/eu")),
]


@pytest.mark.parametrize(("text", "parts"), URLS)
def test_a_broker_url_is_taken_apart(load: Loader, text: str, parts: tuple[object, ...]) -> None:
    [url] = load({"WORKER_AMQP_URL": text, "WORKER_TRUSTED_USERS": "u,guest"}).settings.amqp_url
    assert (url.scheme, url.host, url.port, url.user, url.password.reveal(), url.vhost) == parts
    again = load({"WORKER_AMQP_URL": url.full, "WORKER_TRUSTED_USERS": "u,guest"}).settings.amqp_url
    assert again == (url,)


def test_a_list_of_nodes_may_have_commas_in_passwords(load: Loader) -> None:
    settings = load({"WORKER_AMQP_URL": "amqp://u:a,b@one, amqps://v:c@two:9/x"}).settings
    assert [(url.host, url.password.reveal()) for url in settings.amqp_url] == [("one", "a,b"), ("two", "c")]
    assert settings.trusted_users == ("u", "v")


BROKEN = [
    "amqp://user:s3cret",
    "amqp://user:s3/cret@host",
    "amqp://user:s3#cret@host/",
    "amqp://user:s3?cret@host/",
    "amqp://user:x@s3cret@host/",
    "amqp://user:s3cret@host/a/b",
    "amqp://user:p@s3/cret@host",
    "amqp:user:s3cret@host",
    "user:s3cret@host",
    "http://user:s3cret@host",
    "amqp://user:s3%cret@host",
    "amqp://user:s3cret@host:port/",
    "amqp://user:s3cret@[::1/",
    "amqp://good:fine@one,amqp://user:s3cret@",
    "amqp://user:pass,s3cret@h ost",
]


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_broker_url_never_shows_its_password(load: Loader, text: str) -> None:
    shown = str(load.error({"WORKER_AMQP_URL": text}))
    assert "cret" not in shown
    assert "s3" not in shown
    assert "WORKER_AMQP_URL" in shown


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("amqp://u:p@h:1/v", "amqp://u:***@h:1/v"),
        ("amqp://h:5672/v", "amqp://h:5672/v"),
        ("amqp://[::1]:5672/", "amqp://[::1]:5672/"),
        ("amqp://u:p@x@h", "amqp://u:***@h"),
    ],
)
def test_only_the_password_is_masked(text: str, masked: str) -> None:
    assert mask_url(text) == masked


# --- secrets


def test_no_secret_is_shown_anywhere(load: Loader) -> None:
    (load.directory / "bearer").write_text("canary-three\n")
    toml = '[credentials.crm]\nbearer_file = "bearer"\norigins = ["https://crm.example.com"]'
    environ = {"WORKER_AMQP_URL": "amqp://u:canary-one@h/", "WORKER_ADMIN_TOKEN": "canary-two"}
    loaded = load(environ, toml=toml)
    shown = repr(loaded) + str(loaded.settings) + "".join(map(repr, loaded.rows())) + "".join(loaded.warnings)
    assert "canary" not in shown
    assert "amqp://u:***@h:5672/" in {row.value for row in loaded.rows()}
    assert loaded.settings.credentials["crm"].bearer == Secret("canary-three")


def test_a_refused_secret_is_not_shown_either(load: Loader) -> None:
    assert "has spaces" not in str(load.error({"WORKER_ADMIN_TOKEN": "this has spaces"}))
    assert "tiny" not in str(load.error({"WORKER_ADMIN_TOKEN": "tiny"}))
    assert "hunter2" not in str(load.error({"WORKER_ADMIN_TOKN": "hunter2"}))


@pytest.mark.parametrize("variable", [one.variable for one in SETTINGS if one.is_secret])
def test_a_secret_and_its_file_are_not_set_together(load: Loader, variable: str) -> None:
    error = load.error({variable: "amqp://u:x@h/", f"{variable}_FILE": "somewhere"})
    assert str(error) == f"variable {variable}_FILE: variable {variable} is set as well; remove one of the two"


def test_only_secrets_have_file_variants(load: Loader) -> None:
    secret = {one.variable for one in SETTINGS if one.is_secret}
    assert secret == {"WORKER_AMQP_URL", "WORKER_ADMIN_TOKEN", "WORKER_HTTP_PROXY"}
    assert "no such setting" in str(load.error({"WORKER_QUEUE_FILE": "x"}))


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), (b"", "empty"), (b"\xff", "UTF-8"), (b"x" * 70_000, "too large")]
)
def test_a_secret_file_that_is_no_use_is_refused(load: Loader, content: bytes | None, says: str) -> None:
    if content is not None:
        (load.directory / "token").write_bytes(content)
    error = load.error({"WORKER_ADMIN_TOKEN_FILE": "token"})
    assert str(error).startswith(f"variable WORKER_ADMIN_TOKEN_FILE: {load.directory / 'token'} ")
    assert says in str(error)


# --- unknown names


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("WORKER_CONCURENCY", "WORKER_CONCURRENCY"), ("WORKER_AMQP_URI", "WORKER_AMQP_URL"), ("WORKER_queue", "")],
)
def test_an_unknown_variable_is_refused_with_the_nearest(load: Loader, variable: str, meant: str) -> None:
    error = load.error({variable: "1"})
    assert str(error).startswith(f"variable {variable}: there is no such setting")
    assert f"did you mean {meant}?" in str(error) or not meant


def test_unknown_keys_and_flags_are_refused_with_the_nearest(load: Loader) -> None:
    assert "did you mean queue?" in str(load.error(toml='queues = "x"'))
    assert "did you mean types?" in str(load.error(toml="[type.x]\nattempts = 1"))
    error = load.error(toml="", concurency="1")
    assert str(error) == "flag --concurency: there is no such setting; did you mean concurrency?"


KUBERNETES = [
    ("WORKER_SERVICE_HOST", "10.0.0.11"),
    ("WORKER_SERVICE_PORT", "8080"),
    ("WORKER_SERVICE_PORT_HTTP_ADMIN", "8080"),
    ("WORKER_PORT", "tcp://10.0.0.11:8080"),
    ("WORKER_PORT_8080_TCP", "tcp://10.0.0.11:8080"),
    ("WORKER_PORT_8080_TCP_PROTO", "tcp"),
    ("WORKER_PORT_8080_TCP_PORT", "8080"),
    ("WORKER_PORT_8080_TCP_ADDR", "10.0.0.11"),
    ("WORKER_METRICS_SERVICE_HOST", "10.0.0.11"),
    ("WORKER_METRICS_SERVICE_PORT_HTTP", "8080"),
    ("WORKER_METRICS_PORT", "tcp://10.0.0.11:8080"),
    ("WORKER_METRICS_PORT_53_UDP_ADDR", "10.0.0.11"),
]


def test_what_kubernetes_injects_for_a_service_is_left_alone(load: Loader) -> None:
    assert load(dict(KUBERNETES)).settings == Settings()


@pytest.mark.parametrize(
    "variable",
    [
        "WORKER_PORTS",
        "WORKER_SERVICE",
        "WORKER_SERVICE_NAME",
        "WORKER_PORT_8080",
        "WORKER_ADMIN_PORT",
        "WORKER_PORT_TCP",
    ],
)
def test_what_only_resembles_it_is_not(load: Loader, variable: str) -> None:
    assert variable in str(load.error({variable: "8080"}))


def test_other_variables_are_nobodys_business(load: Loader) -> None:
    assert load({"WORKERS": "4", "PATH": "/bin", "worker_queue": "x"}).settings == Settings()


# --- all at once, exit codes


def test_all_problems_are_told_at_once_each_with_its_place(load: Loader) -> None:
    error = load.error(
        {"WORKER_STEPS": "many", "WORKER_X": "1"},
        toml='attempts = 0\n[types."a"]\ntimeout = "x"\n[limits."h"]\n',
        concurrency="none",
    )
    path = load.directory / "worker.toml"
    places = {str(problem).partition(": ")[0] for problem in error.problems}
    assert places == {
        "flag --concurrency",
        "variable WORKER_STEPS",
        "variable WORKER_X",
        f"file {path} key attempts",
        f"file {path} key types.a.timeout",
        f"file {path} key limits.h",
    }


@pytest.mark.parametrize(
    ("environ", "rest", "code"),
    [
        ({"WORKER_STEPS": "x"}, {}, 78),
        ({}, {"toml": "steps = 0"}, 78),
        ({}, {"toml": "steps ="}, 78),
        ({}, {"steps": "x"}, 2),
        ({"WORKER_STEPS": "x"}, {"attempts": "x"}, 2),
        ({}, {"config": "absent.toml"}, 2),
        ({"WORKER_CONCURRENCY": "10"}, {"prefetch": "5"}, 2),
        ({"WORKER_CONCURRENCY": "10", "WORKER_PREFETCH": "5"}, {}, 78),
    ],
)
def test_a_wrong_flag_exits_2_and_anything_else_78(
    load: Loader, environ: dict[str, str], rest: dict[str, str], code: int
) -> None:
    assert load.error(environ, **rest).exit_code == code


def test_a_file_that_is_not_toml_is_named_with_the_line(load: Loader) -> None:
    text = str(load.error(toml='queue = "a"\nsteps = !\n'))
    assert text.startswith(f"file {load.directory / 'worker.toml'}: not TOML: ")
    assert "line 2" in text


def test_a_missing_config_file_is_the_flags_fault(load: Loader) -> None:
    assert str(load.error(config="absent.toml")) == f"flag --config: {load.directory / 'absent.toml'} does not exist"


# --- contradictions and warnings


CONTRADICTIONS: list[tuple[dict[str, str], list[str]]] = [
    (
        {"WORKER_CONCURRENCY": "10", "WORKER_PREFETCH": "9"},
        ["prefetch 9 (variable WORKER_PREFETCH)", "concurrency 10 (variable WORKER_CONCURRENCY)"],
    ),
    ({"WORKER_PREFETCH": "99"}, ["prefetch 99 (variable WORKER_PREFETCH)", "concurrency 100 (default)"]),
    (
        {"WORKER_JOB_TIMEOUT": "30m"},
        ["job_timeout 30m (variable WORKER_JOB_TIMEOUT)", "consumer_timeout 30m (default)"],
    ),
    ({"WORKER_AMQP_CERT": "here.pem"}, ["amqp_cert", "amqp_key go together"]),
    (
        {"WORKER_AMQP_URL": "amqp://me:x@localhost/", "WORKER_TRUSTED_USERS": "gateway"},
        ["trusted_users gateway", "lacks me"],
    ),
]


@pytest.mark.parametrize(("environ", "says"), CONTRADICTIONS)
def test_a_contradiction_names_both_settings_and_their_sources(
    load: Loader, environ: dict[str, str], says: list[str]
) -> None:
    (load.directory / "here.pem").write_text("pem")
    error = load.error(environ)
    assert len(error.problems) == 1
    for words in says:
        assert words in str(error)


def test_a_refused_value_is_not_also_a_contradiction(load: Loader) -> None:
    error = load.error({"WORKER_CONCURRENCY": "x", "WORKER_PREFETCH": "5"})
    assert [str(problem.sources[0]) for problem in error.problems] == ["variable WORKER_CONCURRENCY"]


def test_a_types_timeout_must_stay_below_the_brokers_too(load: Loader) -> None:
    error = load.error(toml='[types."slow"]\ntimeout = "1h"')
    assert 'timeout 1h of types."slow" is not below consumer_timeout 30m (default)' in str(error)


QUIET = {"WORKER_JOB_TIMEOUT": "20s"}
WARNINGS: list[tuple[dict[str, str], str | None]] = [
    (QUIET, None),
    ({}, "job_timeout 1m (default) is longer than drain_timeout 25s (default) less 5s"),
    ({"WORKER_JOB_TIMEOUT": "20001ms"}, "is longer than drain_timeout"),
    ({"WORKER_JOB_TIMEOUT": "5s"}, "step_timeout 10s (default) is longer than job_timeout 5s"),
    (QUIET | {"WORKER_AMQP_URL": "amqp://u:p@rabbit/"}, "unencrypted"),
    (QUIET | {"WORKER_AMQP_URL": "amqps://u:p@rabbit/"}, None),
    (QUIET | {"WORKER_ADMIN": "0.0.0.0:8080"}, "/jobs answers 403 until admin_token is set"),
    (QUIET | {"WORKER_ADMIN": "0.0.0.0:8080", "WORKER_ADMIN_TOKEN": "0123456789abcdef"}, None),
    (QUIET | {"WORKER_ADMIN_TOKEN": "short-one"}, "can be guessed"),
    (QUIET | {"WORKER_HTTP_ALLOW": "0.0.0.0/0"}, "0.0.0.0/0 opens every address"),
    (QUIET | {"WORKER_AMQP_CA": "here.pem"}, "amqp_ca"),
]


@pytest.mark.parametrize(("environ", "says"), WARNINGS)
def test_doubtful_settings_warn_and_hold(load: Loader, environ: dict[str, str], says: str | None) -> None:
    (load.directory / "here.pem").write_text("pem")
    warnings = load(environ).warnings
    assert len(warnings) == (0 if says is None else 1), warnings
    assert says is None or says in warnings[0]


def test_a_start_warns_only_of_what_somebody_set(load: Loader) -> None:
    by_default, by_choice = load({}), load({"WORKER_JOB_TIMEOUT": "2m"})
    assert by_default.warnings
    assert not by_default.own_warnings
    assert by_choice.own_warnings == by_choice.warnings


# --- tables of worker.toml


def test_the_tables_are_read(load: Loader) -> None:
    (load.directory / "crm.token").write_text("s3cret\n")
    settings = load(
        toml="""
        [types."order.sync"]
        attempts = 3
        backoff = "1s..1m"
        timeout = 30
        concurrency = 5
        [types.quick]
        [limits."api.example.com"]
        concurrency = 20
        rate = "100/s"
        [limits.busy]
        rate = ["20/s", "1000/h"]
        adaptive = false
        breaker = false
        [limits.default]
        concurrency = 50
        adaptive = true
        [credentials.crm]
        bearer_file = "crm.token"
        origins = ["https://CRM.example.com:443/", "https://crm.example.com:8443"]
        """
    ).settings
    assert settings.types == {"order.sync": TypeOverride(3, (1.0, 60.0), 30.0, 5), "quick": TypeOverride()}
    assert settings.limits == {
        "api.example.com": LimitSettings(20, (Rate(100, 1.0),)),
        "busy": LimitSettings(None, (Rate(20, 1.0), Rate(1000, 3600.0)), False, False),
        "default": LimitSettings(50, adaptive=True),
    }
    origins = ("https://crm.example.com", "https://crm.example.com:8443")
    assert settings.credentials == {"crm": Credential(Secret("s3cret"), origins)}


TABLES: list[tuple[str, list[str]]] = [
    ('[types."order.sync"]\nattempt = 3', ['key types."order.sync".attempt: ', "did you mean attempts?"]),
    ("[types.a]\ntimeout = 0", ["key types.a.timeout: ", "not from 1ms"]),
    ('[types.a]\nbackoff = "1m..1s"', ["key types.a.backoff: ", "2s..1h"]),
    ("types = 3", ["key types: ", "not a table"]),
    ("[types]\na = 3", ["key types.a: ", "not a table", "attempts"]),
    ("[limits.a]", ["key limits.a: ", "concurrency, rate or both"]),
    ('[limits.a]\nrate = "20"', ["key limits.a.rate: ", "20/s, 100/m or 5000/h"]),
    ("[limits.a]\nrate = 20", ["key limits.a.rate: ", "20/s"]),
    ('[limits.a]\nrate = ["20/s", "20"]', ["key limits.a.rate: ", "20/s, 100/m or 5000/h"]),
    ("[limits.a]\nrate = []", ["key limits.a.rate: ", "empty"]),
    ('[limits.a]\nbreaker = "no"', ["key limits.a.breaker: ", "true or false"]),
    ('[limits.a]\nrate = "1/s"\nadaptive = true', ["key limits.a: ", "needs a concurrency"]),
    ('[credentials.c]\nbearer = "x"', ["key credentials.c: ", "origins missing"]),
    ('[credentials.c]\norigins = ["https://h"]', ["key credentials.c: ", "bearer_file missing"]),
    ('[credentials.c]\nbearer = "x"\norigins = []', ["key credentials.c.origins: ", "empty"]),
    ('[credentials.c]\nbearer = "x"\norigins = ["https://h/path"]', ["origins: ", "'https://h/path' is not an origin"]),
    ('[credentials.c]\nbearer = "x"\norigins = ["h"]', ["origins: ", "is not an origin"]),
    ('[credentials.c]\nbearer = "x"\nbearer_file = "y"\norigins = ["https://h"]', ["bearer_file: ", "remove one"]),
    ('[credentials.c]\nbearer = "s3cret s3cret"\norigins = ["https://h"]', ["key credentials.c.bearer: ", "ASCII"]),
]


@pytest.mark.parametrize(("toml", "says"), TABLES)
def test_a_wrong_table_is_refused_once_with_its_key(load: Loader, toml: str, says: list[str]) -> None:
    error = load.error(toml=toml)
    assert len(error.problems) == 1, error
    assert error.exit_code == 78
    for words in says:
        assert words in str(error)
    assert "s3cret" not in str(error)


def test_relative_paths_count_from_where_they_are_written(tmp_path: Path) -> None:
    for place in ("etc", "here"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "ca.pem").write_text("pem")
    (tmp_path / "etc" / "w.toml").write_text('amqp_ca = "ca.pem"')
    config = tmp_path / "etc" / "w.toml"
    assert load_settings({}, {}, config, tmp_path / "here").settings.amqp_ca == str(tmp_path / "etc" / "ca.pem")
    variable = {"WORKER_AMQP_CA": "ca.pem"}
    assert load_settings({}, variable, config, tmp_path / "here").settings.amqp_ca == str(tmp_path / "here" / "ca.pem")


def test_settings_hold_every_field_they_are_documented_with() -> None:
    tables = {"types", "limits", "credentials"}
    assert {one.name for one in fields(Settings)} == {one.name for one in SETTINGS} | tables | {"files"}
