"""Credentials of every kind, each with a secret of its own, and jobs that use, misuse and miss them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.secrets.canaries import Canaries
from tests.secrets.plays import SPENT, Play, play
from tests.secrets.targets import Target, answer


@dataclass(frozen=True)
class Keyring:
    """What is written into `directory` for a service. `mutual` asks for a certificate that `authority` has signed."""

    canaries: Canaries
    target: Target
    mutual: Target
    authority: trustme.CA
    directory: Path

    def toml(self) -> str:
        """The tables of worker.toml; some secrets stand in it, the others in files beside it."""
        new = self.canaries.operator
        keys = f"{self._key('first signing key')} {self._key('second signing key')}"
        certificate = self.authority.issue_cert("client.example.com")
        text = f"# {new('TLS key file')}\n".encode() + certificate.private_key_pem.bytes()
        self.canaries.given("private key", _inside(certificate.private_key_pem.bytes()))
        files = {
            "bearer": new("bearer token in a file"),
            "password": new("password of basic authentication"),
            "value": new("value of a header"),
            "secret": new("OAuth2 client secret"),
            "wrong-secret": new("OAuth2 client secret that is refused"),
            "keys": keys,
        }
        for name, content in files.items():
            (self.directory / name).write_text(f"{content}\n")
        (self.directory / "key.pem").write_bytes(text)
        (self.directory / "cert.pem").write_bytes(b"".join(one.bytes() for one in certificate.cert_chain_pems))
        self.authority.cert_pem.write_to_path(str(self.directory / "ca.pem"))
        here = f'origins = ["{self.target.url}"]'
        there = f'origins = ["{self.mutual.url}"]'
        token_url = f'token_url = "{self.target.url}/token-endpoint"\nclient_id = "worker"'
        wrong_url = f'token_url = "{self.target.url}/token-refused"\nclient_id = "worker"'
        tables = {
            "inline": f'bearer = "{new("bearer token in worker.toml")}"\n{here}',
            "filed": f'bearer_file = "bearer"\n{here}',
            "basic": f'user = "worker"\npassword_file = "password"\n{here}',
            "header": f'header = "X-Api-Key"\nvalue_file = "value"\n{here}',
            "oauth": f'{token_url}\nclient_secret_file = "secret"\n{here}',
            "refused": f'{wrong_url}\nclient_secret_file = "wrong-secret"\n{here}',
            "partner": f'signing_key_file = "keys"\n{here}',
            "mutual": f'cert_file = "cert.pem"\nkey_file = "key.pem"\nca_file = "ca.pem"\n{there}',
        }
        return "\n".join(f"[credentials.{name}]\n{cells}" for name, cells in tables.items())

    def plays(self) -> Iterator[Play]:
        url, answers = self.target.url, self.target.answers
        token = self.canaries.operator("OAuth2 access token")
        answers["/token-endpoint"] = answer("200 OK", json.dumps({"access_token": token, "expires_in": 300}))
        answers["/token-refused"] = lambda request: answer("400 Bad", request, f"X-Said: {_login(request)}")
        answers["/unauthorized"] = lambda request: answer(f"401 {_login(request)}", request)
        answers["/to-login"] = lambda request: answer("302 Found", "", f"Location: /gone?t={_login(request)}")
        for name in ("inline", "filed", "basic", "header", "oauth"):
            yield play(f"auth-{name}", "http_status", url=f"{url}/none", auth=name)
            yield play(f"auth-echo-{name}", "http_status", url=f"{url}/unauthorized", auth=name)
            yield play(f"auth-redirect-{name}", "http_status", url=f"{url}/to-login", auth=name, redirects=2)
        yield play("auth-refused", SPENT, url=f"{url}/none", auth="refused")
        yield play("auth-mutual", "http_status", url=f"{self.mutual.url}/none", auth="mutual")
        yield play("auth-elsewhere", "credential", url=f"{self.mutual.url}/none", auth="filed")
        query = self.canaries.publisher("query of a request without its credential")
        yield play("auth-unknown", "credential", url=f"{url}/none?t={query}", auth="nobody")
        own = self.canaries.publisher("header that a credential sets")
        yield play("auth-twice", "credential", url=f"{url}/none", auth="header", headers={"X-Api-Key": own})
        yield play("sign", "http_status", method="POST", url=f"{url}/none", sign="partner", json={"a": 1})

    def used(self) -> None:
        """What never leaves the process, and yet was used: a signature was made, a certificate was taken."""
        signed = [one for one in self.target.heard if b"\r\nwebhook-signature: v1," in one.lower()]
        assert signed
        assert signed[0].lower().count(b"v1,") == 2
        self.canaries.in_play.update({"first signing key", "second signing key"})
        assert self.mutual.heard
        self.canaries.in_play.update({"TLS key file", "private key"})

    def _key(self, place: str) -> str:
        return "whsec_" + base64.b64encode(self.canaries.operator(place).ljust(32, ".").encode()).decode()


def _inside(pem: bytes) -> str:
    """Some of what is secret in a PEM file; its first characters are the same in all of them."""
    return "".join(pem.decode().splitlines()[1:-1])[60:100]


def _login(request: bytes) -> str:
    """The secret of a request, as a target that sends it back knows it."""
    for line in request.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() in (b"authorization", b"x-api-key"):
            return value.decode().split()[-1]
    return "nothing"
