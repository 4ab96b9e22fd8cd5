"""The engine of the HTTP tests, for examples that make requests."""

from __future__ import annotations

from tests.http.conftest import make_engine

__all__ = ["make_engine"]
