"""JSON Schema out of the annotations of handlers; what it cannot say is left open, so that nothing good is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind
from pydantic_core import core_schema

COMPONENTS: Final = "#/components/schemas/"


class Openly(GenerateJsonSchema):
    """As pydantic says it, but for what JSON Schema has no words for: there anything is possible."""

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Nothing: who asks for a schema has not written the model."""

    def handle_invalid_for_json_schema(self, schema: core_schema.CoreSchema, error_info: str) -> JsonSchemaValue:  # noqa: ARG002
        return {}


class ForAsyncApi(Openly):
    """In AsyncAPI a discriminator is a name, not OpenAPI's object; the alternatives say the same without it."""

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        found = super().tagged_union_schema(schema)
        found.pop("discriminator", None)
        return found


def schema_of(payload: TypeAdapter[Any]) -> JsonSchemaValue:
    """The schema of one payload, its definitions inside it."""
    return payload.json_schema(schema_generator=Openly)


def shared_schemas(
    payloads: Mapping[str, TypeAdapter[Any]],
) -> tuple[dict[str, JsonSchemaValue], dict[str, JsonSchemaValue]]:
    """The schemas of several payloads by name, and the definitions they share, for `components/schemas`."""
    schemas, rest = TypeAdapter.json_schemas(
        [(name, "validation", payload) for name, payload in payloads.items()],
        ref_template=COMPONENTS + "{model}",
        schema_generator=ForAsyncApi,
    )
    return {name: schemas[name, "validation"] for name in payloads}, rest.get("$defs", {})
