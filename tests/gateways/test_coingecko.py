"""CoinGecko's dominances, against a server on loopback that has CoinGecko's rules, and breaks them."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from closeloop.gateways.coingecko import CoinGecko
from closeloop.gateways.sources import SourceNonsense, SourceRefused, SourceUnavailable
from tests.gateways.coingecko_server import CoinGeckoServer


@pytest.fixture
def server() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer() as running:
        yield running


def now() -> datetime:
    return datetime.now(UTC)


async def test_shares_are_percent_as_of_when_they_were_computed(server: CoinGeckoServer) -> None:
    server.say(btc=52.125, usdt=4.25, updated_at=1_700_000_000)
    found = await CoinGecko(server.url).dominance(now())
    assert (found.btc, found.usdt, found.without) == (52.125, 4.25, {})
    assert found.updated_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert [asked.path for asked in server.asked] == ["/global"]


async def test_a_tether_that_is_left_out_is_its_capitalisation_of_all(server: CoinGeckoServer) -> None:
    server.say(btc=52.125, total=3e12)
    server.tether = {"usd": 1.0, "usd_market_cap": 150e9}
    found = await CoinGecko(server.url).dominance(now())
    assert (found.btc, found.usdt, found.without) == (52.125, 5.0, {})
    assert [asked.path for asked in server.asked] == ["/global", "/simple/price"]


@pytest.mark.parametrize(
    "tether", [None, {}, {"usd_market_cap": 0}, {"usd_market_cap": "150e9"}, {"usd_market_cap": 4e12}]
)
async def test_a_tether_that_cannot_be_right_takes_only_its_own_share_away(
    server: CoinGeckoServer, tether: Any
) -> None:
    server.say(btc=52.125, total=3e12)
    server.tether = tether
    found = await CoinGecko(server.url).dominance(now())
    assert (found.btc, found.usdt, list(found.without)) == (52.125, None, ["usdt"])


async def test_a_second_request_that_fails_takes_only_its_own_share_away(server: CoinGeckoServer) -> None:
    server.say(btc=52.125)
    server.fail("internal error", path="/simple/price")
    found = await CoinGecko(server.url).dominance(now())
    assert (found.btc, found.usdt) == (52.125, None)
    assert "500" in found.without["usdt"]


@pytest.mark.parametrize("share", [0, 0.0, -1.5, 100.0, 250, "52.1", True, [52.1], 1e308, 10**400])
async def test_a_share_that_cannot_be_is_none_and_the_other_stands(server: CoinGeckoServer, share: Any) -> None:
    server.say(btc=share, usdt=4.25)
    found = await CoinGecko(server.url).dominance(now())
    assert (found.btc, found.usdt, list(found.without)) == (None, 4.25, ["btc"])
    server.say(btc=52.125, usdt=share)
    found = await CoinGecko(server.url).dominance(now())
    assert (found.btc, found.usdt, list(found.without)) == (52.125, None, ["usdt"])
    assert {asked.path for asked in server.asked} == {"/global"}  # a share that is there is not computed


@pytest.mark.parametrize("updated_at", [0, -5, "1700000000", 1.7e9, True, 10**30, [], {}])
async def test_without_a_possible_time_nothing_is_used(server: CoinGeckoServer, updated_at: Any) -> None:
    server.say(btc=52.125, usdt=4.25, updated_at=updated_at)
    with pytest.raises(SourceNonsense):
        await CoinGecko(server.url).dominance(now())


async def test_a_time_in_the_future_is_refused_beyond_what_clocks_differ_by(server: CoinGeckoServer) -> None:
    at = now()
    server.say(btc=52.125, usdt=4.25, updated_at=int((at + timedelta(minutes=4)).timestamp()))
    assert (await CoinGecko(server.url).dominance(at)).btc == 52.125
    server.say(btc=52.125, usdt=4.25, updated_at=int((at + timedelta(minutes=6)).timestamp()))
    with pytest.raises(SourceNonsense):
        await CoinGecko(server.url).dominance(at)


@pytest.mark.parametrize("missing", ["market_cap_percentage", "updated_at"])
async def test_an_answer_without_what_is_needed_is_nonsense(server: CoinGeckoServer, missing: str) -> None:
    del server.data[missing]
    with pytest.raises(SourceNonsense):
        await CoinGecko(server.url).dominance(now())


@pytest.mark.parametrize("fault", ["html", "empty", "null", "list", "no data", "NaN", "too large", "wrong encoding"])
async def test_an_answer_that_is_none_is_nonsense(server: CoinGeckoServer, fault: str) -> None:
    server.fail(fault)
    with pytest.raises(SourceNonsense):
        await CoinGecko(server.url).dominance(now())


@pytest.mark.parametrize(
    "fault", ["internal error", "bad gateway", "maintenance", "timeout", "slow", "hang", "close", "truncated"]
)
async def test_a_server_that_does_not_answer_is_unavailable(server: CoinGeckoServer, fault: str) -> None:
    server.fail(fault)
    with pytest.raises(SourceUnavailable):
        await CoinGecko(server.url, timeout_seconds=0.5).dominance(now())


async def test_nobody_there_is_unavailable(server: CoinGeckoServer) -> None:
    server.close()
    with pytest.raises(SourceUnavailable):
        await CoinGecko(server.url).dominance(now())


@pytest.mark.parametrize("fault", ["not found", "redirect", "wrong key"])
async def test_a_refusal_is_one_and_is_not_followed_elsewhere(server: CoinGeckoServer, fault: str) -> None:
    server.fail(fault)
    with pytest.raises(SourceRefused):
        await CoinGecko(server.url).dominance(now())


@pytest.mark.parametrize(
    ("fault", "headers", "seconds"),
    [
        ("rate limit", {}, 30),
        ("rate limit without a time", {}, 60),
        ("firewall", {}, 120),
        ("maintenance", {}, 600),
        ("rate limit", {"Retry_After": "nonsense"}, 60),
        ("rate limit", {"Retry_After": "999999999"}, 3 * 86_400),
    ],
)
async def test_no_request_until_the_time_that_it_asked_to_wait_is_over(
    server: CoinGeckoServer, fault: str, headers: dict[str, str], seconds: float
) -> None:
    gecko = CoinGecko(server.url)
    server.fail(fault, **headers)
    with pytest.raises(SourceUnavailable) as first:
        await gecko.dominance(now())
    assert first.value.retry_after == pytest.approx(seconds, abs=60)
    server.behave()
    with pytest.raises(SourceUnavailable) as second:
        await gecko.dominance(now())
    assert second.value.retry_after is not None
    assert second.value.retry_after <= first.value.retry_after
    assert len(server.asked) == 1
    assert server.impatient == []


async def test_the_time_that_it_asked_to_wait_for_may_be_a_date(server: CoinGeckoServer) -> None:
    server.fail("rate limit", Retry_After=format_datetime(now() + timedelta(minutes=10), usegmt=True))
    with pytest.raises(SourceUnavailable) as told:
        await CoinGecko(server.url).dominance(now())
    assert told.value.retry_after == pytest.approx(600, abs=60)


async def test_it_answers_again_once_the_wait_is_over(server: CoinGeckoServer) -> None:
    gecko = CoinGecko(server.url)
    server.fail("rate limit", Retry_After="1")
    with pytest.raises(SourceUnavailable) as told:
        await gecko.dominance(now())
    server.behave()
    await asyncio.sleep(told.value.retry_after or 0)
    assert (await gecko.dominance(now())).btc == 52.125
    assert len(server.asked) == 2


async def test_a_key_goes_into_its_header_and_into_no_message(server: CoinGeckoServer) -> None:
    gecko = CoinGecko(server.url, "CG-secret")
    await gecko.dominance(now())
    assert server.asked[0].headers["x-cg-demo-api-key"] == "CG-secret"
    server.fail("wrong key")
    with pytest.raises(SourceRefused) as refused:
        await gecko.dominance(now())
    assert "CG-secret" not in str(refused.value)
