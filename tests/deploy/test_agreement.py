"""What stands in several files of deploy/ is the same in all, and is what the worker takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.queries import DEPLOY
from tests.deploy.tools import CHECKOUT
from worker.core.units import parse_duration
from worker.ops.settings import SETTINGS, Settings, load_settings

BASE = DEPLOY / "kubernetes" / "base"
SPARE = 10.0
TEXTS = {
    str(path.relative_to(DEPLOY)): path.read_text(encoding="utf-8")
    for path in sorted(DEPLOY.rglob("*"))
    if path.is_file() and path.parent.name != "secrets"
}
COMPOSE = TEXTS["compose.yaml"]
UNIT = TEXTS["systemd/worker@.service"]
DEPLOYMENT = TEXTS["kubernetes/base/deployment.yaml"]
DOCKERFILE = TEXTS["Dockerfile"]

# Not the registries' names as such: what would send a reader's machine to one of them.
REGISTRY = re.compile(r"\b(docker\.io|ghcr\.io|quay\.io|gcr\.io|mcr\.microsoft|pypi|pythonhosted|npmjs|debian\.org)")


def only(pattern: str, text: str) -> str:
    """The one place where it stands."""
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


@pytest.mark.parametrize("name", TEXTS)
def test_no_registry_is_named(name: str) -> None:
    assert not REGISTRY.findall(TEXTS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_every_variable_is_a_setting(name: str) -> None:
    known = {spelling for one in SETTINGS for spelling in (one.variable, one.variable + "_FILE" * one.is_secret)}
    ours = {"WORKER_IMAGE", "WORKER_CONTAINERS"}  # compose.yaml's own
    assert set(re.findall(r"\bWORKER_[A-Z_]*[A-Z]", TEXTS[name])) <= known | ours


@pytest.mark.parametrize("folder", [BASE, DEPLOY / "compose"], ids=["kubernetes", "compose"])
def test_worker_toml_is_taken(folder: Path) -> None:
    loaded = load_settings({}, {}, folder / "worker.toml")
    assert loaded.settings.concurrency == 100


@pytest.mark.parametrize("folder", [BASE, DEPLOY / "compose"], ids=["kubernetes", "compose"])
def test_what_worker_toml_only_suggests_is_taken_too(folder: Path, tmp_path: Path) -> None:
    text = (folder / "worker.toml").read_text(encoding="utf-8")
    suggested = re.sub(r"(?m)^# (?=\w+ = |\[)", "", text)
    assert suggested != text
    (tmp_path / "worker.toml").write_text(suggested, encoding="utf-8")
    settings = load_settings({}, {}, tmp_path / "worker.toml").settings
    assert settings.http_allow.hosts
    assert settings.limits["api.example.com"].concurrency == 20


def test_the_user_is_the_same_everywhere() -> None:
    user = only(r"^USER (\d+):\1$", DOCKERFILE)
    assert only(r"^    user: (\d+):\1$", COMPOSE) == user
    assert [only(rf"{field}: (\d+)$", DEPLOYMENT) for field in ("runAsUser", "runAsGroup", "fsGroup")] == [user] * 3


@pytest.mark.parametrize(
    ("text", "drain", "grace"),
    [
        (COMPOSE, r"WORKER_DRAIN_TIMEOUT: (\w+)$", r"stop_grace_period: (\w+)$"),
        (UNIT, r"WORKER_DRAIN_TIMEOUT=(\w+)$", r"^TimeoutStopSec=(\w+)$"),
        (DEPLOYMENT, r"name: WORKER_DRAIN_TIMEOUT\n +value: (\w+)$", r"terminationGracePeriodSeconds: (\d+)$"),
    ],
    ids=["compose", "systemd", "kubernetes"],
)
def test_whoever_stops_it_waits_longer_than_it_drains(text: str, drain: str, grace: str) -> None:
    seconds = only(grace, text)
    waits = float(seconds) if seconds.isdecimal() else parse_duration(seconds)
    assert waits >= parse_duration(only(drain, text)) + SPARE


@pytest.mark.parametrize("name", ["compose/rabbitmq.conf", "kubernetes/rabbitmq/cluster.yaml"])
def test_the_brokers_consumer_timeout_is_the_workers(name: str) -> None:
    assert int(only(r"consumer_timeout = (\d+)$", TEXTS[name])) == Settings().consumer_timeout * 1000


def test_a_pod_is_added_for_as_many_messages_as_it_runs() -> None:
    scaled = only(r'^        value: "(\d+)"$', TEXTS["kubernetes/components/keda/scaledobject.yaml"])
    assert int(scaled) == load_settings({}, {}, BASE / "worker.toml").settings.concurrency


def test_the_image_is_made_of_files_that_are_there_and_not_ignored() -> None:
    ignored = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if re.match(r"COPY (?!--from)", line)]
    for name in (name for names in copied for name in names):
        assert (CHECKOUT / name).exists()
        assert f"!{name}" in ignored or f"!{Path(name).parent}/*{Path(name).suffix}" in ignored


def test_secrets_are_made_once_and_for_the_containers_alone(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    shutil.copy(DEPLOY / "compose" / "make-secrets.sh", script)
    subprocess.run(["sh", script], check=True, capture_output=True)
    made = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "secrets").iterdir()}
    named = re.findall(r"file: \./compose/secrets/(.+)$", COMPOSE, re.MULTILINE)
    assert made.keys() == set(named)
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} == {0o644}

    (url,) = load_settings({"amqp_url": made["amqp-url"].strip()}, {}).settings.amqp_url
    password = only(r"//worker:(\w+)@", made["amqp-url"])
    assert f"default_pass = {password}\n" in made["rabbitmq-user.conf"]
    assert url.vhost == only(r"^default_vhost = (\w+)$", TEXTS["compose/rabbitmq.conf"])

    again = subprocess.run(["sh", script], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    assert "there already" in again.stderr
    assert (tmp_path / "secrets" / "amqp-url").read_text(encoding="utf-8") == made["amqp-url"]


def test_secrets_cannot_be_committed() -> None:
    ignored = (DEPLOY / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/compose/secrets/" in ignored


@pytest.mark.parametrize(
    ("text", "variable", "config", "secrets"),
    [
        (COMPOSE, r"^      (WORKER_\w+): (.*)$", DEPLOY / "compose" / "worker.toml", "/run/secrets/"),
        (DEPLOYMENT, r"- name: (WORKER_\w+)\n +value: (.*)$", BASE / "worker.toml", "/run/secrets/worker/"),
        (UNIT, r"^Environment=(WORKER_\w+)=(.*)$", BASE / "worker.toml", "%d/"),
    ],
    ids=["compose", "kubernetes", "systemd"],
)
def test_a_worker_starts_with_it_and_doubts_nothing(
    text: str, variable: str, config: Path, secrets: str, tmp_path: Path
) -> None:
    (tmp_path / "amqp-url").write_text("amqps://worker:secret@broker/worker", encoding="utf-8")
    (tmp_path / "admin-token").write_text("0123456789abcdef" * 3, encoding="utf-8")
    found = dict(re.findall(variable, text, re.MULTILINE))
    environment = {name: value.replace(secrets, f"{tmp_path}/").replace("%i", "1") for name, value in found.items()}
    assert environment.keys() >= {"WORKER_AMQP_URL_FILE", "WORKER_DRAIN_TIMEOUT"}
    image = dict(re.findall(r"(WORKER_\w+)=(\S+)", DOCKERFILE)) if text is COMPOSE else {}
    loaded = load_settings({}, image | environment, config)
    assert loaded.warnings == ()
    assert loaded.settings.admin is not None
