"""The AsyncAPI 3.0 document of a service: where its broker is, its work queue, what may be published there, replies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from worker.cli.json_schema import shared_schemas

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from worker.ops.settings import AmqpUrl, Settings

BINDING: Final = "0.3.0"
"""Version of the AMQP bindings."""

_MILLISECONDS: Final = {"type": "integer", "minimum": 0, "description": "Milliseconds since 1970."}

HEADERS: Final = {
    "type": "object",
    "properties": {
        "x-worker-not-before": _MILLISECONDS
        | {"description": "Run it then, at most 30 days from now; milliseconds since 1970."},
        "x-worker-deadline": _MILLISECONDS
        | {"description": "Dead-letter it as expired if it is not done by then; milliseconds since 1970."},
        "traceparent": {
            "type": "string",
            "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
            "description": "W3C trace context.",
        },
        "tracestate": {"type": "string"},
    },
}

RESULT: Final = {
    "type": "object",
    "required": ["id", "type", "status", "attempts", "value", "reason", "detail"],
    "properties": {
        "id": {"type": "string", "description": "The job's."},
        "type": {"type": "string", "description": "The job's type."},
        "status": {"enum": ["succeeded", "dead"]},
        "attempts": {"type": "integer", "minimum": 0, "description": "How many were made; 0 if it never ran."},
        "value": {
            "description": "What the handler returned, for http an object by step id;"
            ' {"truncated": bytes} when the whole would be above 256 KiB, null for a dead job.'
        },
        "reason": {"type": ["string", "null"], "description": "Why it is dead, one of a closed list."},
        "detail": {"type": ["string", "null"]},
    },
}


def document(settings: Settings, payloads: Mapping[str, TypeAdapter[Any]]) -> dict[str, Any]:
    """The document as JSON; `payloads` by job type."""
    schemas, shared = shared_schemas(payloads)
    keys = _keys(payloads)
    messages = {keys[name]: _message(name, schema) for name, schema in schemas.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": f"worker: jobs of the queue {settings.queue}",
            "version": version("worker"),
            "description": "Publish to the default exchange with the queue's name as routing key: persistent,"
            " mandatory, with confirms. The property type names the job, message_id is its id and stays the same when"
            " the publish is repeated.",
        },
        "defaultContentType": "application/json",
        "servers": {_server_name(number): _server(url) for number, url in enumerate(settings.amqp_url)},
        "channels": {"jobs": _jobs(settings, messages), "replies": _replies()},
        "operations": {"run": _run(messages)},
        "components": {
            "schemas": shared,
            "securitySchemes": {"password": {"type": "userPassword"}},
        },
    }


def _server_name(number: int) -> str:
    return f"broker{number + 1}" if number else "broker"


def _server(url: AmqpUrl) -> dict[str, Any]:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return {
        "host": f"{host}:{url.port}",
        "protocol": url.scheme,
        "protocolVersion": "0.9.1",
        # As in the broker's URL: an empty path is the vhost "/".
        "pathname": "/" if url.vhost == "/" else f"/{quote(url.vhost, safe='')}",
        "security": [{"$ref": "#/components/securitySchemes/password"}],
    }


def _jobs(settings: Settings, messages: Mapping[str, Any]) -> dict[str, Any]:
    vhost = settings.amqp_url[0].vhost
    queue = {"name": settings.queue, "durable": True, "exclusive": False, "autoDelete": False, "vhost": vhost}
    return {
        "address": settings.queue,
        "description": "The work queue.",
        "messages": messages,
        "bindings": {"amqp": {"is": "queue", "queue": queue, "bindingVersion": BINDING}},
    }


def _replies() -> dict[str, Any]:
    return {
        "address": None,
        "description": "The queue a job names in the property reply_to; WORKER_REPLY_ALLOW says which there may be.",
        "messages": {"result": _result()},
    }


def _message(type: str, schema: Any) -> dict[str, Any]:
    return {
        "name": type,
        "title": f"A job of type {type}",
        "contentType": "application/json",
        "headers": HEADERS,
        "payload": schema,
        "correlationId": _correlation(),
        "bindings": {"amqp": {"messageType": type, "bindingVersion": BINDING}},
    }


def _result() -> dict[str, Any]:
    return {
        "name": "result",
        "title": "How a job ended; at least once",
        "contentType": "application/json",
        "payload": RESULT,
        "correlationId": _correlation(),
    }


def _correlation() -> dict[str, Any]:
    return {"description": "The property correlation_id.", "location": "$message.header#/correlation_id"}


def _run(messages: Iterable[str]) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/jobs"},
        "summary": "Run a job; it is acknowledged when it has ended and what follows it is confirmed.",
        "messages": [{"$ref": f"#/channels/jobs/messages/{key}"} for key in messages],
        "bindings": {"amqp": {"ack": True, "bindingVersion": BINDING}},
        "reply": {
            "address": {"description": "The property reply_to.", "location": "$message.header#/reply_to"},
            "channel": {"$ref": "#/channels/replies"},
            "messages": [{"$ref": "#/channels/replies/messages/result"}],
        },
    }


def _keys(types: Iterable[str]) -> dict[str, str]:
    """A key for each type that can stand in a reference, and no two the same."""
    keys: dict[str, str] = {}
    for name in types:
        key = re.sub(r"[^A-Za-z0-9._-]", "-", name)
        while key in keys.values():
            key += "-"
        keys[name] = key
    return keys
