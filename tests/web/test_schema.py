"""schemathesis on the document API over real HTTP: no 5xx, no hang, and every answer is as OpenAPI says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.web.shop import api_of, order, serving, shop

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
ANYTHING_FITS = ("GET /orders/{id}", "DELETE /orders/{id}")
"""An id and a header may be any text, so nothing that does not fit can be made."""

HANG = 8.0
"""Seconds without an answer that count as a hang: the API's own limit is 5."""


def fuzz(database: str, examples: int) -> int:
    """Call every operation with what fits and what does not; how many calls were made."""
    made = shop()
    calls = 0
    with serving(made, api_of(made, time_limit=5), database) as address:
        for number in ("0", "1", "a", "00"):
            httpx.post(f"{address}/orders", json=order(number)).raise_for_status()
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            operation = found.ok()
            for mode in schemathesis.GenerationMode:
                if mode.is_negative and operation.label in ANYTHING_FITS:
                    continue
                strategy = operation.as_strategy(generation_mode=mode)

                @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                          suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # fmt: skip
                @given(case=strategy, known=st.sampled_from([None, None, "0", "1", "a"]))
                def call(case: schemathesis.Case[Any], known: str | None) -> None:
                    nonlocal calls
                    calls += 1
                    if (
                        known
                        and "id" in case.path_parameters
                        and case.meta
                        and not case.meta.generation.mode.is_negative
                    ):
                        case.path_parameters["id"] = known
                    case.call_and_validate(timeout=HANG, checks=CHECKS)

                call()
        assert httpx.get(f"{address}/orders?limit=1000", timeout=HANG).status_code == 200
    return calls


def urls(tmp_path: Path) -> dict[str, str]:
    return {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path / 'shop.db'}"}


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_no_call_breaks_the_api(backend: str, tmp_path: Path) -> None:
    assert fuzz(urls(tmp_path)[backend], 12) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_no_call_of_many_breaks_the_api(backend: str, tmp_path: Path) -> None:
    assert fuzz(urls(tmp_path)[backend], 150) >= 1_000
