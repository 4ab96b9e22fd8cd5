"""A step and a callback as JSON: the shape of each. What holds between steps is plan.py's to judge."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, model_validator

from worker.http.jobs.fields import (
    MOST_STEPS,
    UNSET,
    Expect,
    ForEach,
    Headers,
    Id,
    Method,
    Name,
    Parameters,
    QuickRetry,
    Strict,
    Url,
    not_beside,
    of_a_fan_out,
    only_authorization,
    only_body,
)

CONCURRENCY: Final = 10
"""Elements of a fan-out that run at once where a step does not say."""

_NOT_IN_A_CALLBACK: Final = frozenset(
    {"id", "json", "form", "text", "base64", "needs", "for_each", "concurrency", "save"}
)


def _defaulted(default: Any, description: str | None = None) -> Any:
    """A field whose default is one and the same value: pydantic would make a deep copy of it for every job."""
    shown = default.model_dump() if isinstance(default, Strict) else default
    return Field(default_factory=lambda: default, description=description, json_schema_extra={"default": shown})


class Call(Strict):
    """What a step and a callback have in common: one request, how it is made, and which answers are a success."""

    url: Url = Field(description="Absolute http or https URL; {{ ... }} in path segments and query values.")
    method: Method = "GET"
    query: Parameters = _defaulted({}, "Added to the URL, percent-encoded.")
    headers: Headers = _defaulted({})
    timeout: float | None = Field(default=None, gt=0, le=3600, description="Seconds for one try.")
    expect: Expect = _defaulted(Expect())
    redirects: int = Field(default=0, ge=0, le=3, description="Most redirects that are followed.")
    retry: QuickRetry = _defaulted(QuickRetry())
    auth: Annotated[Name, AfterValidator(only_authorization)] | None = Field(
        default=None, description="A credential's name in the configuration; not beside an Authorization header."
    )
    sign: Name | None = Field(default=None, description="A credential's name in the configuration.")


class Step(Call):
    """One request, or one for each element of a list."""

    json_: Any = Field(default_factory=lambda: UNSET, alias="json", description="The body as JSON.")
    form: Annotated[Parameters, AfterValidator(only_body("form"))] | None = None
    text: Annotated[str, AfterValidator(only_body("text"))] | None = None
    base64: Annotated[str, AfterValidator(only_body("base64"))] | None = None
    id: Id = "request"
    needs: Annotated[list[Id], Field(max_length=MOST_STEPS)] = _defaulted([], "Steps that have to be finished before.")
    for_each: ForEach = Field(default=None, description="A list, or one placeholder giving one; its element is item.")
    concurrency: Annotated[int, Field(ge=1, le=1000), AfterValidator(of_a_fan_out)] | None = Field(
        default=None, description=f"Elements that run at once, {CONCURRENCY} if not said."
    )
    save: str | None = Field(default=None, description="JMESPath: what is kept of the result.")

    @property
    def body(self) -> tuple[str, Any] | None:
        """The field that is the body, and what it holds; None when there is none."""
        if self.json_ is not UNSET:
            return "json", self.json_
        for name, value in (("form", self.form), ("text", self.text), ("base64", self.base64)):
            if value is not None:
                return name, value
        return None


class ListedStep(Step):
    """One of several steps, which are known by their ids."""

    id: Id


class Callback(Call):
    """The request that tells the result. Its body is the result."""

    method: Method = "POST"

    _only_what_makes_a_callback = model_validator(mode="before")(
        not_beside(_NOT_IN_A_CALLBACK, "is not possible in a callback, whose body is the result")
    )
