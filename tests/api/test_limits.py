"""How much one sender may ask."""

import asyncio
from pathlib import Path

import pytest

from closeloop.api.limits import Limiter, Rates
from closeloop.api.problems import Problem
from closeloop.models.tokens import Scope
from closeloop.workers.settings import Settings
from tests.api.doors import ApiProcess, api_on
from tests.closes import message
from tests.store.databases import scratch_database


def test_a_burst_of_two_seconds_fits_and_what_is_more_is_told_when() -> None:
    limiter = Limiter(Rates(reads=5, items=100, failed_logins=3))
    for _ in range(10):
        limiter.read("a")
    with pytest.raises(Problem) as refused:
        limiter.read("a")
    assert refused.value.status == 429
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 4
    limiter.read("b")
    limiter.items("a", 200)
    with pytest.raises(Problem):
        limiter.items("a", 1)
    for _ in range(3):
        limiter.check_logins("10.0.0.1")
        limiter.failed_login("10.0.0.1")
    with pytest.raises(Problem):
        limiter.check_logins("10.0.0.1")
    limiter.check_logins("10.0.0.2")


async def test_who_asks_too_much_is_told_to_wait_and_then_served(dsn: str, settings: Settings, tmp_path: Path) -> None:
    few = {"CLOSELOOP_API_READS_PER_SECOND": "3", "CLOSELOOP_API_ITEMS_PER_SECOND": "500"}
    async with scratch_database(dsn) as scratch, api_on(scratch, str(settings.home), **few) as api:
        token, other = await api.token(Scope.ingest, Scope.read), await api.token(Scope.read)
        answers = [await api.ask("GET", "/v1/approvals", token=token) for _ in range(12)]
        refused = [one for one in answers if one.status == 429]
        assert refused
        assert {one.status for one in answers} == {200, 429}
        assert (await api.ask("GET", "/v1/approvals", token=other)).status == 200
        await asyncio.sleep(float(refused[-1].headers["retry-after"]) + 2)
        assert (await api.ask("GET", "/v1/approvals", token=token)).status == 200
        many = [message("b", f"p-{n}", signals=None, conviction=None) for n in range(500)]
        sent = [await api.ask("POST", "/v1/positions", many, token) for _ in range(5)]
        assert sent[0].status == 202
        held = [one for one in sent if one.status == 429]
        assert int(held[0].headers["retry-after"]) >= 1
        assert (await api.ask("GET", "/healthz")).status == 200


async def test_an_address_that_guesses_tokens_is_not_looked_at_any_more(
    dsn: str, settings: Settings, tmp_path: Path
) -> None:
    async with scratch_database(dsn) as scratch, api_on(scratch, str(settings.home)) as api:
        known = await api.token(Scope.read)
        assert (await api.ask("GET", "/v1/approvals", token=known)).status == 200

        async def guess(api: ApiProcess) -> int:
            return (await api.ask("GET", "/v1/approvals", token="clp_000000000000_x_y")).status

        for _ in range(20):
            assert set(await asyncio.gather(*(guess(api) for _ in range(31)))) == {401}
        fresh = await api.token(Scope.read)
        assert (await api.ask("GET", "/v1/approvals", token=fresh)).status == 429
        assert (await api.ask("GET", "/v1/approvals", token=known)).status == 200  # one that was right goes on
