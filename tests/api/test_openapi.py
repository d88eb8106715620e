"""Whatever the document allows, and what it does not: no answer is a 5xx, none has a status that it does not name."""

import asyncio
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from closeloop.models.tokens import Scope
from tests.api.doors import ApiProcess

EXAMPLES = 6  # of each operation and mode


def ask_all(document: dict[str, Any], port: int, token: str, mode: GenerationMode) -> dict[str, int]:
    """Ask what is generated of every operation; the answers counted by status."""
    schema = schemathesis.openapi.from_dict(document)
    counted: dict[str, int] = {}

    def ask(operation: Any) -> None:
        documented = set(document["paths"][operation.path][operation.method]["responses"])

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def tried(case: Any) -> None:
            response = case.call(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"})
            status = str(response.status_code)
            counted[status] = counted.get(status, 0) + 1
            assert response.status_code < 500, (case.as_curl_command(), response.text[:500])
            assert status in documented, (case.as_curl_command(), status, response.text[:500])

        tried()

    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        ask(found.ok())
    return counted


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("mode", list(GenerationMode))
async def test_every_operation_answers_as_documented(api: ApiProcess, mode: GenerationMode) -> None:
    token = await api.token(Scope.ingest, Scope.read, Scope.operate)
    document = (await api.ask("GET", "/openapi.json", None, token)).body
    counted = await asyncio.to_thread(ask_all, document, api.port, token, mode)
    assert sum(counted.values()) > 200, counted
    if mode is GenerationMode.POSITIVE:
        assert counted.get("202", 0) > 10, counted  # some of what is generated is taken in
        assert counted.get("200", 0) > 20, counted
    else:
        assert counted.get("422", 0) > 50, counted
