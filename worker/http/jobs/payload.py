"""The JSON of an `http` job as a value; whatever is wrong with it is said before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Self

from pydantic import Field, PrivateAttr, WrapValidator, model_validator

from worker.http.jobs.fields import MOST_STEPS, Strict, not_beside
from worker.http.jobs.plan import Plan, plan_of
from worker.http.jobs.step import Callback, ListedStep, Step

_LimitKey = Annotated[str, Field(min_length=1, max_length=200)]
_LIMIT_KEY: Final = "Held back by the limit of this name, besides those of the hosts."
_ONLY: Final = ": beside 'steps' only callback, limit_key and templates are possible"
_CALLBACK: Final = "Is sent the result when the job has ended."
_TEMPLATES: Final = 'If false, strings are taken as they are, "{{" included.'


class OneStep(Step):
    """A job of one step."""

    callback: Callback | None = Field(default=None, description=_CALLBACK)
    limit_key: _LimitKey | None = Field(default=None, description=_LIMIT_KEY)
    templates: bool = Field(default=True, description=_TEMPLATES)

    _plan: Plan = PrivateAttr()

    @model_validator(mode="after")
    def _make_plan(self) -> Self:
        self._plan = plan_of([self], self.callback, self.limit_key, templates=self.templates, several=False)
        return self

    @property
    def plan(self) -> Plan:
        """The job as it is run."""
        return self._plan

    @property
    def keys(self) -> list[str]:
        """What the job counts against before it runs. The elements of a fan-out count for themselves instead."""
        return _keys(self.limit_key, self._plan, with_host=self.for_each is None)


class ManySteps(Strict):
    """A job of several steps."""

    steps: list[ListedStep] = Field(min_length=1, max_length=MOST_STEPS)
    callback: Callback | None = Field(default=None, description=_CALLBACK)
    limit_key: _LimitKey | None = Field(default=None, description=_LIMIT_KEY)
    templates: bool = Field(default=True, description=_TEMPLATES)

    _plan: Plan = PrivateAttr()

    _nothing_of_a_step = model_validator(mode="before")(
        not_beside(
            frozenset(field.alias or name for name, field in Step.model_fields.items()),
            f"belongs into a step{_ONLY}",
            known=("steps", "callback", "limit_key", "templates"),
            otherwise=_ONLY,
        )
    )

    @model_validator(mode="after")
    def _make_plan(self) -> Self:
        self._plan = plan_of(self.steps, self.callback, self.limit_key, templates=self.templates, several=True)
        return self

    @property
    def plan(self) -> Plan:
        """The job as it is run."""
        return self._plan

    @property
    def keys(self) -> list[str]:
        """What the job counts against before it runs; each of its steps counts against its host when it does."""
        return _keys(self.limit_key, self._plan, with_host=False)


def _keys(limit_key: str | None, plan: Plan, *, with_host: bool) -> list[str]:
    hosts = {planned.draft.host for planned in plan.steps}
    if with_host:
        return [name for name in (*hosts, limit_key) if name is not None]
    # A job that held the place of a host would keep its own steps from it.
    return [] if limit_key is None or limit_key in hosts else [limit_key]


def _by_shape(payload: Any, _either: Callable[[Any], Any]) -> OneStep | ManySteps:
    # Not left to the union: it would try both, and tell the faults of both.
    several = isinstance(payload, dict) and "steps" in payload
    return ManySteps.model_validate(payload) if several else OneStep.model_validate(payload)


HttpJob = Annotated[OneStep | ManySteps, WrapValidator(_by_shape)]
"""A job: one step, or a list of them."""
