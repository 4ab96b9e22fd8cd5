"""[credentials.NAME]: which cells make one credential, what is refused in which words, and that no secret is shown."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
from pydantic import TypeAdapter, ValidationError

from worker.http.jobs.payload import HttpJob
from worker.ops.settings import Credential, Loaded, Secret, SettingsError, load_settings
from worker.ops.settings.credential_table import signing_keys

ORIGINS: Final = 'origins = ["https://crm.example.com"]'
PLACES: Final = ("https://crm.example.com",)
KEY: Final = f"whsec_{base64.b64encode(bytes(range(24))).decode()}"
OTHER: Final = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
CANARY: Final = "canary"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    authority = trustme.CA()
    one, other = (authority.issue_cert(f"{name}.example") for name in ("one", "other"))
    one.cert_chain_pems[0].write_to_path(tmp_path / "one.crt")
    one.private_key_pem.write_to_path(tmp_path / "one.key")
    other.private_key_pem.write_to_path(tmp_path / "other.key")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "secret").write_text(f"{CANARY}\n")
    (tmp_path / "empty").write_text("\n")
    return tmp_path


Load = Callable[[str], Loaded]


@pytest.fixture
def load(directory: Path) -> Load:
    def load_it(toml: str) -> Loaded:
        (directory / "worker.toml").write_text(toml)
        return load_settings({}, {}, None, directory)

    return load_it


KINDS: list[tuple[str, dict[str, Any]]] = [
    ('bearer_file = "secret"', {"bearer": Secret(CANARY)}),
    ('bearer = "abc"', {"bearer": Secret("abc")}),
    ('user = "jane"\npassword_file = "secret"', {"user": "jane", "password": Secret(CANARY)}),
    ('user = "jané"\npassword = "pä ss:wörd"', {"user": "jané", "password": Secret("pä ss:wörd")}),
    ('header = "X-Api-Key"\nvalue_file = "secret"', {"header": "X-Api-Key", "value": Secret(CANARY)}),
    ('header = "Authorization"\nvalue = "Key abc"', {"header": "Authorization", "value": Secret("Key abc")}),
    (
        'token_url = "https://id.example.com/token?tenant=1"\nclient_id = "me"\nclient_secret_file = "secret"',
        {
            "token_url": "https://id.example.com/token?tenant=1",
            "client_id": "me",
            "client_secret": Secret(CANARY),
        },
    ),
    (
        'token_url = "https://id.example.com"\nclient_id = "me"\nclient_secret = "x"\nscope = "a b"\naudience = "c"',
        {
            "token_url": "https://id.example.com",
            "client_id": "me",
            "client_secret": Secret("x"),
            "scope": "a b",
            "audience": "c",
        },
    ),
    (f'signing_key = "{KEY}"', {"signing_key": Secret(KEY)}),
    (f'signing_key = ["{KEY}", "{OTHER}"]', {"signing_key": Secret(f"{KEY},{OTHER}")}),
]


@pytest.mark.parametrize(("cells", "fields"), KINDS)
def test_every_kind_is_told_by_its_cells(load: Load, cells: str, fields: dict[str, Any]) -> None:
    found = load(f"[credentials.crm]\n{cells}\n{ORIGINS}").settings.credentials
    assert found == {"crm": Credential(**{"bearer": None, "origins": PLACES, **fields})}


TLS: list[tuple[str, set[str]]] = [
    ('cert_file = "one.crt"\nkey_file = "one.key"', {"cert_file", "key_file"}),
    ('cert_file = "one.crt"\nkey_file = "one.key"\nca_file = "ca.pem"', {"cert_file", "key_file", "ca_file"}),
    ('cert_file = "one.crt"\nkey_file = "one.key"\nbearer = "x"', {"cert_file", "key_file"}),
    ('ca_file = "ca.pem"', {"ca_file"}),
    ('ca_file = "ca.pem"\nbearer = "x"', {"ca_file"}),
    (f'ca_file = "ca.pem"\nsigning_key = "{KEY}"', {"ca_file"}),
]


@pytest.mark.parametrize(("cells", "names"), TLS)
def test_certificates_stand_alone_or_beside_another_kind(
    load: Load, directory: Path, cells: str, names: set[str]
) -> None:
    found = load(f"[credentials.crm]\n{cells}\n{ORIGINS}").settings.credentials["crm"]
    files = {name: getattr(found, name) for name in ("cert_file", "key_file", "ca_file")}
    assert {name for name, path in files.items() if path is not None} == names
    assert all(Path(path).parent == directory for path in files.values() if path is not None)


REFUSED: list[tuple[str, str, list[str]]] = [
    ("", "crm", ["bearer_file missing", "user and password_file", "signing_key_file", "cert_file and key_file"]),
    ('user = "jane"', "crm", ["password_file missing"]),
    ('password = "x"', "crm", ["user missing"]),
    ('header = "X-Api-Key"', "crm", ["value_file missing"]),
    ('value = "x"', "crm", ["header missing"]),
    ('token_url = "https://h/t"', "crm", ["client_id missing and client_secret_file missing"]),
    ('client_secret = "x"', "crm", ["token_url missing and client_id missing"]),
    ('scope = "x"', "crm", ["token_url missing"]),
    ('bearer = "x"\nscope = "y"', "crm", ["bearer and scope are of different kinds"]),
    ('bearer = "x"\nuser = "y"\npassword = "z"', "crm", ["bearer and user are of different kinds", "two credentials"]),
    (f'bearer = "x"\nsigning_key = "{KEY}"', "crm", ["bearer and signing_key are of different kinds"]),
    (
        f'signing_key = "{KEY}"\ncert_file = "one.crt"\nkey_file = "one.key"',
        "crm",
        ["cert_file and signing_key are of different kinds"],
    ),
    ('cert_file = "one.crt"', "crm", ["key_file missing"]),
    ('key_file = "one.key"', "crm", ["cert_file missing"]),
    ('cert_file = "one.crt"\nkey_file = "other.key"', "crm", ["cert_file and key_file", "belong together"]),
    ('cert_file = "one.crt"\nkey_file = "secret"', "crm", ["cert_file and key_file", "PEM"]),
    ('ca_file = "secret"', "crm", ["ca_file holds no certificates"]),
    ('ca_file = "gone.pem"', "crm.ca_file", ["is not a file"]),
    ('bearer_file = "gone"', "crm.bearer_file", ["cannot be read"]),
    ('bearer_file = "empty"', "crm.bearer_file", ["is empty"]),
    ('bearer = "two words"', "crm.bearer", ["visible ASCII"]),
    ('user = "a:b"\npassword = "x"', "crm.user", ["without a colon"]),
    ('user = "a"\npassword = "x\\ny"', "crm.password", ["not a password"]),
    ('header = "X Key"\nvalue = "x"', "crm.header", ["'X Key' is not a header name"]),
    ('header = "Host"\nvalue = "x"', "crm.header", ["'Host' is a header that the worker sets itself"]),
    ('header = "User-Agent"\nvalue = "x"', "crm.header", ["'User-Agent' is a header that the worker sets itself"]),
    ('header = "accept"\nvalue = "x"', "crm.header", ["that the worker sets itself"]),
    ('header = "Accept-Encoding"\nvalue = "x"', "crm.header", ["that the worker sets itself"]),
    ('header = "Proxy-Authorization"\nvalue = "x"', "crm.header", ["that the worker sets itself"]),
    ('header = "webhook-id"\nvalue = "x"', "crm.header", ["that the worker sets itself"]),
    ('header = "X-Api-Key"\nvalue = "x\\r\\nHost: y"', "crm.value", ["not a header's value"]),
    ('header = "X-Api-Key"\nvalue = "ü"', "crm.value", ["not a header's value"]),
    (
        'token_url = "ftp://h/"\nclient_id = "a"\nclient_secret = "b"',
        "crm.token_url",
        ["not a URL of a token endpoint"],
    ),
    (
        'token_url = "https://u:canary@h/"\nclient_id = "a"\nclient_secret = "b"',
        "crm.token_url",
        ["without user name"],
    ),
    ('token_url = "https://h/#a"\nclient_id = "a"\nclient_secret = "b"', "crm.token_url", ["fragment"]),
    ('signing_key = "canary"', "crm.signing_key", ["whsec_<base64> of 24 to 64 bytes"]),
    ('signing_key = "whsec_canary"', "crm.signing_key", ["whsec_<base64> of 24 to 64 bytes"]),
    ('signing_key = "whsec_c*nary"', "crm.signing_key", ["whsec_<base64>"]),
    (f'signing_key = "{KEY[6:]}"', "crm.signing_key", ["whsec_<base64>"]),
    (f'signing_key = "{KEY} {OTHER} {KEY}"', "crm.signing_key", ["3 keys: one is needed, or two"]),
    ('bearr = "x"', "crm.bearr", ["did you mean bearer?"]),
]


@pytest.mark.parametrize(("cells", "key", "says"), REFUSED)
def test_what_makes_no_credential_is_refused_by_its_key(load: Load, cells: str, key: str, says: list[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        load(f"[credentials.crm]\n{cells}\n{ORIGINS}")
    (problem,) = raised.value.problems[:1]
    text = str(problem)
    assert f"key credentials.{key}: " in text
    assert all(part in text for part in says), text
    assert CANARY not in str(raised.value)
    assert KEY[6:] not in str(raised.value)
    assert raised.value.exit_code == 78


NAMES: list[tuple[str, bool]] = [
    ("crm", True),
    ("a.b-c_9", True),
    ("x" * 100, True),
    ("x" * 101, False),
    ("my crm", False),
    ("überall", False),
    ("a/b", False),
    ("", False),
]


@pytest.mark.parametrize(("name", "is_taken"), NAMES)
def test_a_name_is_one_that_a_job_can_say(load: Load, name: str, is_taken: bool) -> None:
    job = {"url": "https://crm.example.com/", "auth": name}
    toml = f'[credentials."{name}"]\nbearer = "x"\n{ORIGINS}'
    if is_taken:
        assert [*load(toml).settings.credentials] == [name]
        TypeAdapter(HttpJob).validate_python(job)
        return
    with pytest.raises(SettingsError, match=r"key credentials\..*: a job could not name it: 1 to 100 letters"):
        load(toml)
    with pytest.raises(ValidationError):
        TypeAdapter(HttpJob).validate_python(job)


def test_an_origin_counts_once_however_it_is_spelt(load: Load) -> None:
    origins = 'origins = ["https://a.example", "HTTPS://A.example:443/", "https://a.example.", "http://a.example"]'
    found = load(f'[credentials.crm]\nbearer = "x"\n{origins}').settings.credentials["crm"]
    assert found.origins == ("https://a.example", "http://a.example")


def test_origins_are_required(load: Load) -> None:
    with pytest.raises(SettingsError, match=r"key credentials\.crm: origins missing"):
        load('[credentials.crm]\nbearer = "x"')


def test_a_key_with_a_password_is_refused_without_asking_for_it(load: Load, directory: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((directory / "one.key").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"canary"),
    )
    (directory / "one.key").write_bytes(locked)
    with pytest.raises(SettingsError, match="the key without a password"):
        load(f'[credentials.crm]\ncert_file = "one.crt"\nkey_file = "one.key"\n{ORIGINS}')


def test_what_goes_unencrypted_is_doubted(load: Load) -> None:
    warnings = load(
        '[credentials.a]\nbearer = "x"\norigins = ["http://crm.example.com"]\n'
        '[credentials.b]\ntoken_url = "http://id.example.com/t"\nclient_id = "a"\nclient_secret = "b"\n'
        f"{ORIGINS}\n"
        f'[credentials.c]\nbearer = "x"\n{ORIGINS}'
    ).warnings
    assert [text for text in warnings if "credentials" in text] == [
        "credentials.a: its secret goes to http://crm.example.com unencrypted; use https://",
        "credentials.b: client_secret goes to its token_url unencrypted; use https://",
    ]


def test_no_secret_is_shown(load: Load) -> None:
    cells = [cells for cells, _ in KINDS] + [cells for cells, _ in TLS]
    loaded = load("\n".join(f"[credentials.c{number}]\n{text}\n{ORIGINS}" for number, text in enumerate(cells)))
    shown = repr(loaded) + str(loaded.settings)
    assert len(loaded.settings.credentials) == len(cells)
    assert not any(word in shown for word in (CANARY, "wörd", "Key abc", KEY, OTHER))


def test_the_page_shows_what_is_taken(load: Load, directory: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-jobs.md").read_text(encoding="utf-8")
    (toml,) = (block.partition("```")[0] for block in page.split("```toml\n")[1:])
    files = {"bank.crt": "one.crt", "bank.key": "one.key", "bank-ca.pem": "ca.pem"}
    for folder in ("secrets", "tls"):
        (directory / folder).mkdir()
    for name in ("crm-token", "shop", "wms", "erp"):
        (directory / "secrets" / name).write_text(CANARY)
    (directory / "secrets" / "partner").write_text(f"{KEY}\n{OTHER}\n")
    for name, source in files.items():
        (directory / "tls" / name).write_bytes((directory / source).read_bytes())
    loaded = load(toml)
    assert sorted(loaded.settings.credentials) == ["bank", "crm", "erp", "partner", "shop", "wms"]
    assert not [text for text in loaded.warnings if "credentials" in text]


@pytest.mark.parametrize("separator", [",", " ", "\n", " , \n"])
def test_two_signing_keys_stand_beside_each_other(separator: str) -> None:
    assert signing_keys(f"{KEY}{separator}{OTHER}") == (bytes(range(24)), bytes(range(32)))


def test_padding_may_be_left_out() -> None:
    text = f"whsec_{base64.b64encode(bytes(25)).decode()}"
    assert text.endswith("==")
    assert signing_keys(text.rstrip("=")) == signing_keys(text) == (bytes(25),)
