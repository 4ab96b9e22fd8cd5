"""`worker schema`: says of payloads what the worker says of them, and is a document others can read."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from tests.cli.conftest import Cli
from worker import Registry, Reject
from worker.core.outcome import Reason
from worker.core.result import Result
from worker.http.handler import http_registry

SHOP = '''
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, InstanceOf
from typing_extensions import TypedDict

from worker import Registry

registry = Registry()


class Item(BaseModel):
    """What is sold."""

    model_config = ConfigDict(extra="forbid")

    sku: str = Field(min_length=1, max_length=8, pattern="^[A-Z]+$")
    amount: int = Field(default=1, ge=1, le=99)


class Order(BaseModel):
    items: list[Item] = Field(max_length=2)
    state: Literal["new", "paid"] = "new"
    note: str | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class Node(BaseModel):
    children: "list[Node]" = []


@dataclass
class Point:
    x: float
    y: float = 0.0


class Address(TypedDict, total=False):
    city: str


class Odd(BaseModel):
    thing: InstanceOf[Registry] | None = None
    size: int


@registry.handler("order.sync")
async def order(order: Order) -> None: ...


@registry.handler("pet")
async def pet(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...


@registry.handler("tree")
async def tree(tree: Node) -> None: ...


@registry.handler("point")
async def point(point: Point) -> None: ...


@registry.handler("an address/of somebody")
async def address(address: Address) -> None: ...


@registry.handler("anything")
async def anything(payload) -> None: ...


@registry.handler("object")
async def object_(payload: dict) -> None: ...


@registry.handler("pair")
async def pair(payload: tuple[int, str]) -> None: ...


@registry.handler("odd")
async def odd(payload: Odd) -> None: ...
'''

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

PAYLOADS: Final[dict[str, tuple[list[Any], list[Any]]]] = {
    "order.sync": (
        [
            {"items": []},
            {"items": [{"sku": "ABC"}, {"sku": "D", "amount": 99}], "state": "paid", "note": None},
            {"items": [], "note": "quick", "more": 1},
        ],
        [
            {},
            [],
            None,
            "order",
            {"items": {}},
            {"items": [{}]},
            {"items": [{"sku": ""}]},
            {"items": [{"sku": "abc"}]},
            {"items": [{"sku": "ABCDEFGHI"}]},
            {"items": [{"sku": "A", "amount": 0}]},
            {"items": [{"sku": "A", "amount": 1.5}]},
            {"items": [{"sku": "A", "size": 1}]},
            {"items": [{"sku": "A"}] * 3},
            {"items": [], "state": "lost"},
            {"items": [], "note": 7},
        ],
    ),
    "pet": ([{"kind": "cat", "lives": 9}, {"kind": "dog"}], [{"kind": "cat"}, {"kind": "cow"}, {}]),
    "tree": ([{}, {"children": [{"children": []}]}], [{"children": [{"children": 1}]}]),
    "point": ([{"x": 1}, {"x": 1.5, "y": -2}], [{}, {"x": "left"}, {"x": None}]),
    "an address/of somebody": ([{}, {"city": "Bern"}], [{"city": 3}, []]),
    "anything": ([None, 1, "x", [], {}], []),
    "object": ([{}, {"a": [1]}], [[], None, "x", 1]),
    "pair": ([[1, "x"]], [[1], [1, "x", 2], ["x", 1], {}]),
    "odd": ([{"size": 1}, {"size": 1, "thing": None}], [{}, {"size": "big"}]),
}


def allows(schema: Any, value: Any, root: Mapping[str, Any]) -> bool:
    """Whether a JSON Schema allows a value, by the keywords that handlers' annotations lead to."""
    return schema is True or (schema is not False and all(_keywords(schema, value, root)))


def _keywords(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> Iterator[bool]:
    if "$ref" in schema:
        yield allows(_at(schema["$ref"], root), value, root)
    for name, enough in (("anyOf", any), ("allOf", all), ("oneOf", lambda holds: sum(holds) == 1)):
        yield name not in schema or enough([allows(one, value, root) for one in schema[name]])
    kinds = schema.get("type", [])
    yield not kinds or any(_is(value, one) for one in ([kinds] if isinstance(kinds, str) else kinds))
    yield value in schema.get("enum", [value])
    yield value == schema.get("const", value)
    match value:
        case dict():
            yield from _of_object(schema, value, root)
        case list():
            yield from _of_array(schema, value, root)
        case str():
            yield schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
            yield re.search(schema.get("pattern", ""), value) is not None
        case int() | float():
            yield schema.get("minimum", value) <= value <= schema.get("maximum", value)
            yield schema.get("exclusiveMinimum", value - 1) < value


def _at(reference: str, root: Any) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        root = root[part]
    return root


def _of_array(schema: Mapping[str, Any], value: list[Any], root: Mapping[str, Any]) -> Iterator[bool]:
    yield schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
    first = schema.get("prefixItems", [])
    yield all(allows(one, item, root) for one, item in zip(first, value, strict=False))
    yield all(allows(schema.get("items", True), item, root) for item in value[len(first) :])


def _of_object(schema: Mapping[str, Any], value: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[bool]:
    properties = schema.get("properties", {})
    yield set(schema.get("required", ())) <= value.keys()
    more = schema.get("additionalProperties", True)
    yield all(allows(properties.get(name, more), item, root) for name, item in value.items())


def _is(value: Any, name: str) -> bool:
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    kinds = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
    return isinstance(value, kinds[name])


@pytest.fixture
def shop(cli: Cli) -> Registry:
    """The registry, as the command finds it in the current directory."""
    path = cli.directory / "shop.py"
    path.write_text(SHOP, encoding="utf-8")
    return registry_in(path)


def registry_in(path: Path) -> Registry:
    spec = importlib.util.spec_from_file_location("schema_shop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Registry = module.registry
    return found


def accepts(registry: Registry, type: str, payload: Any) -> bool:
    try:
        registry.find(type).validate(payload)
    except Reject:
        return False
    return True


def test_a_schema_says_what_the_worker_says(cli: Cli, shop: Registry) -> None:
    ended = cli("schema", "--app", "shop:registry", "--no-builtin")
    assert (ended.code, ended.err) == (0, "")
    schemas = ended.json
    assert schemas.keys() == PAYLOADS.keys()
    for name, (good, bad) in PAYLOADS.items():
        assert schemas[name].pop("$schema") == DRAFT
        for payload, right in [(one, True) for one in good] + [(one, False) for one in bad]:
            said = (accepts(shop, name, payload), allows(schemas[name], payload, schemas[name]))
            assert said == (right, right), (name, payload)


URL: Final = "https://api.example.com/a"

GOOD_HTTP: Final[list[Any]] = [
    {"url": URL},
    {"url": URL, "method": "POST", "json": {"a": [1, None]}, "headers": {"accept": "text/plain"}},
    {"url": URL, "expect": {"status": ["2xx", 404]}, "timeout": 2.5, "limit_key": "tenant-7"},
    {"url": URL, "retry": {"attempts": 3, "when": "unsent"}, "base64": "aGk=", "redirects": 3, "method": "PUT"},
    {"url": URL, "query": {"a": [1, "x"], "b": True}},
    {"url": URL, "callback": {"url": URL}},
    {"url": URL, "for_each": [1, 2], "form": {"a": "b"}},
    {
        "steps": [
            {"id": "user", "url": URL},
            {"id": "more", "needs": ["user"], "url": URL + "/{{ user.json.id }}", "save": "json.id"},
        ],
        "callback": {"url": URL, "headers": {"a": "b"}},
    },
    {
        "steps": [
            {"id": "a", "url": URL},
            {"id": "b", "for_each": "{{ a.json.items }}", "needs": ["a"], "url": URL, "concurrency": 20},
        ],
        "limit_key": "tenant-7",
    },
]

BAD_HTTP: Final[list[Any]] = [
    None,
    "x",
    [],
    {},
    {"url": 7},
    {"url": URL, "nope": 1},
    {"url": URL, "steps": [{"id": "a", "url": URL}]},
    {"url": URL, "redirects": 4},
    {"url": URL, "timeout": 0},
    {"url": URL, "retry": {"when": "never"}},
    {"url": URL, "needs": "x"},
    {"url": URL, "headers": {"a": 1}},
    {"url": URL, "for_each": 7},
    {"url": URL, "concurrency": 0},
    {"url": URL, "callback": {"url": URL, "json": {}}},
    {"steps": []},
    {"steps": [{"id": "a"}]},
    {"steps": [{"id": "a", "url": URL, "steps": []}]},
    {"steps": [{"id": f"step{number}", "url": URL} for number in range(21)]},
]


def test_one_type_alone(cli: Cli) -> None:
    ended = cli("schema", "http")
    assert ended.code == 0
    assert ended.json["$schema"] == DRAFT
    assert cli("schema").json == {"http": ended.json}
    registry, schema = http_registry(), ended.json
    for job, right in [(one, True) for one in GOOD_HTTP] + [(one, False) for one in BAD_HTTP]:
        assert (accepts(registry, "http", job), allows(schema, job, schema)) == (right, right), job


def test_an_unknown_type_is_refused_with_the_nearest(cli: Cli, shop: Registry) -> None:
    for arguments, said in (
        (("htpt",), "no handler for type 'htpt'; did you mean 'http'?"),
        (("order.snc", "--app", "shop:registry"), "no handler for type 'order.snc'; did you mean 'order.sync'?"),
        (("zzz",), "no handler for type 'zzz'; there are http; --app adds handlers"),
    ):
        ended = cli("schema", *arguments)
        assert (ended.code, ended.out, ended.errors) == (2, "", [said])


def test_an_app_that_is_none_is_refused(cli: Cli) -> None:
    (cli.directory / "broken.py").write_text("1 / 0\n")
    for app, said in (("nowhere:registry", "cannot be imported"), ("broken:registry", "ZeroDivisionError")):
        ended = cli("schema", "--app", app)
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.errors[0]


def test_the_asyncapi_document_says_where_and_how_to_publish(cli: Cli, shop: Registry) -> None:
    url = "amqps://me:geheim@[::1]:5671/shop%2Fone,amqp://me:geheim@b.example.com/shop%2Fone"
    ended = cli("schema", "--asyncapi", "--app", "shop:registry", "--queue", "orders", WORKER_AMQP_URL=url)
    assert ended.code == 0
    assert "geheim" not in ended.out + ended.err
    found = ended.json
    assert found["asyncapi"] == "3.0.0"
    assert {one["host"]: (one["protocol"], one["pathname"]) for one in found["servers"].values()} == {
        "[::1]:5671": ("amqps", "/shop%2Fone"),
        "b.example.com:5672": ("amqp", "/shop%2Fone"),
    }
    jobs = found["channels"]["jobs"]
    assert jobs["address"] == "orders"
    assert jobs["bindings"]["amqp"]["queue"]["name"] == "orders"
    assert jobs["bindings"]["amqp"]["queue"]["vhost"] == "shop/one"
    messages = {one["name"]: one for one in jobs["messages"].values()}
    assert messages.keys() == {"http", *PAYLOADS}
    assert all(re.fullmatch("[A-Za-z0-9._-]+", key) for key in jobs["messages"])
    for name, (good, bad) in PAYLOADS.items():
        message = messages[name]
        assert message["bindings"]["amqp"]["messageType"] == name
        assert {"x-worker-not-before", "x-worker-deadline", "traceparent"} <= message["headers"]["properties"].keys()
        assert all(allows(message["payload"], payload, found) for payload in good), name
        assert not any(allows(message["payload"], payload, found) for payload in bad), name
    run = found["operations"]["run"]
    assert run["action"] == "receive"
    assert len(run["messages"]) == len(messages)


def test_every_reference_of_the_asyncapi_document_leads_somewhere(cli: Cli, shop: Registry) -> None:
    found = cli("schema", "--asyncapi", "--app", "shop:registry").json
    references = list(_references(found))
    assert len(references) > len(PAYLOADS)
    for reference in references:
        _at(reference, found)  # or a KeyError


def _references(value: Any) -> Iterator[str]:
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            # In AsyncAPI a discriminator is a string; pydantic's, an object, would make the document invalid.
            assert not isinstance(value.get("discriminator"), dict)
            for one in value.values():
                yield from _references(one)
        case list():
            for one in value:
                yield from _references(one)


def test_the_reply_is_the_result(cli: Cli) -> None:
    found = cli("schema", "--asyncapi").json
    reply = found["operations"]["run"]["reply"]
    assert reply["channel"] == {"$ref": "#/channels/replies"}
    schema = found["channels"]["replies"]["messages"]["result"]["payload"]
    reasons: tuple[Reason, ...] = get_args(Reason)
    results = [
        Result("order-7", "t", "succeeded", 1),
        *(Result("order-7", "t", "dead", 0, one, "x") for one in reasons),
    ]
    for result in results:
        told = result.as_dict()
        assert told.keys() == schema["properties"].keys()
        assert allows(schema, told, found)
        assert allows(schema, told | {"value": {"truncated": 300_000}}, found)
        assert not allows(schema, told | {"status": "lost"}, found)
