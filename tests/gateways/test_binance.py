"""Binance's candles, against a server on loopback that has Binance's rules, and breaks them."""

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeloop.gateways.binance import (
    CANDLES_PER_ANSWER,
    INTERVALS,
    Binance,
    Klines,
    Page,
    pages,
)
from closeloop.gateways.candles import Candle
from closeloop.gateways.sources import SourceNonsense, SourceRefused, SourceUnavailable, UnknownSymbol
from tests.gateways.binance_server import FAULTS, BinanceServer, Fault

T0 = datetime(2018, 1, 11, tzinfo=UTC)
NOW = datetime(2026, 11, 21, tzinfo=UTC)
HOURS = 12
MINUTE = timedelta(minutes=1)
PAGE = Page(300, T0 + 5 * MINUTE, T0 + timedelta(hours=HOURS))


def price(n: int) -> Decimal:
    return Decimal(5_000 + 37 * n % 1_000).scaleb(-8)


def series(start: datetime, count: int, interval_seconds: int = 300) -> list[Candle]:
    """Candles that each open where the one before closed."""
    return [
        Candle(
            start + timedelta(seconds=interval_seconds * n),
            price(n),
            max(price(n), price(n + 1)) + Decimal("1e-8"),
            min(price(n), price(n + 1)) - Decimal("1e-8"),
            price(n + 1),
            Decimal(n),
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def running() -> Iterator[BinanceServer]:
    with BinanceServer(weight_limit=1_000_000) as server:
        server.add("ADA/BTC", series(T0, HOURS * 12), 300)
        yield server


@pytest.fixture
def server(running: BinanceServer) -> BinanceServer:
    running.behave()
    running.asked.clear()
    return running


@pytest.fixture
def binance(server: BinanceServer) -> Binance:
    return Binance(server.url)


@pytest.fixture(scope="module")
def reused(running: BinanceServer) -> Binance:
    """For tests of many requests: nothing that they are answered with makes it wait."""
    return Binance(running.url)


# What is asked for

instants = st.datetimes(datetime(2018, 1, 1), datetime(2018, 6, 1)).map(lambda at: at.replace(tzinfo=UTC))
lengths = st.one_of(st.timedeltas(timedelta(0), timedelta(hours=60)), st.timedeltas(timedelta(0), timedelta(days=70)))


def ends(first: datetime, last: datetime, seconds: int) -> list[datetime]:
    """Every multiple of the interval between two instants, by trying them one by one."""
    at = datetime(first.year, first.month, first.day, tzinfo=UTC)
    found = []
    while at <= last:
        if at >= first:
            found.append(at)
        at += timedelta(seconds=seconds)
    return found


@settings(deadline=None, max_examples=60)
@given(instants, lengths)
def test_a_range_is_one_request_at_the_finest_interval_that_fits(first: datetime, length: timedelta) -> None:
    last = first + length
    fitting = [s for s in INTERVALS if len(ends(first, last, s)) <= CANDLES_PER_ANSWER]
    found = pages(first, last)
    assert {page.interval_seconds for page in found} <= {min(fitting, default=1800)}
    assert len(found) <= 1 or not fitting
    asked = [end for page in found for end in ends(page.first_end, page.last_end, page.interval_seconds)]
    assert asked == ends(first, last, min(fitting, default=1800))
    assert all(len(ends(page.first_end, page.last_end, page.interval_seconds)) <= CANDLES_PER_ANSWER for page in found)


@pytest.mark.parametrize(
    ("length", "interval", "requests"),
    [
        (timedelta(minutes=999), "1m", 1),
        (timedelta(minutes=1000), "3m", 1),
        (timedelta(hours=17), "3m", 1),
        (timedelta(days=3), "5m", 1),
        (timedelta(days=10), "15m", 1),
        (timedelta(days=20), "30m", 1),
        (timedelta(days=50), "30m", 3),
    ],
)
def test_lengths(length: timedelta, interval: str, requests: int) -> None:
    found = pages(T0, T0 + length)
    assert ([INTERVALS[page.interval_seconds] for page in found]) == [interval] * requests


async def test_the_request(binance: Binance, server: BinanceServer) -> None:
    await binance.candles("ADA/BTC", PAGE, NOW)
    (asked,) = server.asked
    start = int(T0.timestamp()) * 1_000
    assert asked.path == "/api/v3/klines"
    assert asked.parameters == {
        "symbol": "ADABTC",
        "interval": "5m",
        "startTime": str(start),
        "endTime": str(start + (HOURS * 12 - 1) * 300_000),
        "limit": "1000",
    }


@pytest.mark.parametrize("asset", ["ADABTC", "ada/btc", "ADA/BTC"])
async def test_spellings_of_a_pair(binance: Binance, asset: str) -> None:
    assert len((await binance.candles(asset, PAGE, NOW)).candles) == HOURS * 12


@pytest.mark.parametrize(
    "asset",
    ["", "/", "ADA/", "ADA/BTC/ETH", "ADA BTC", "ADA&limit=1", "../x", "BTC/USDT:USDT", "ＡＤＡ", "A" * 21, "ſ"],
)
async def test_what_is_no_pair_is_not_asked_for(binance: Binance, server: BinanceServer, asset: str) -> None:
    with pytest.raises(UnknownSymbol):
        await binance.candles(asset, PAGE, NOW)
    assert server.asked == []


# What is given


async def test_candles_and_what_they_cover(binance: Binance) -> None:
    found = await binance.candles("ADA/BTC", PAGE, NOW)
    assert [(c.start, c.open, c.high, c.low, c.close) for c in found.candles] == [
        (c.start, c.open, c.high, c.low, c.close) for c in series(T0, HOURS * 12)
    ]
    assert (found.interval_seconds, found.covered) == (300, ((PAGE.first_end, PAGE.last_end),))


async def test_real_candles_at_every_interval(data: Callable[[str], Path]) -> None:
    path = data("candles-5m/ADA_BTC.csv.gz")
    begin, end = datetime(2018, 1, 10, tzinfo=UTC), datetime(2018, 1, 31, tzinfo=UTC)
    with BinanceServer() as server:
        server.add_file("ADA/BTC", path)
        binance = Binance(server.url)
        for seconds in INTERVALS:
            step = timedelta(seconds=seconds)
            span = [
                Page(seconds, at + step, at + CANDLES_PER_ANSWER * step)
                for at in _every(begin, end, CANDLES_PER_ANSWER * step)
            ]
            found = [await binance.candles("ADA/BTC", page, NOW) for page in span]
            assert [c for klines in found for c in klines.candles] == server.candles("ADA/BTC", seconds)
        fives = server.candles("ADA/BTC", 300)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1:]
    assert [c.start.strftime("%Y-%m-%dT%H:%M:%SZ") for c in fives] == [line.split(",")[0] for line in lines]
    assert [float(c.close) for c in fives] == pytest.approx([float(line.split(",")[4]) for line in lines], abs=1e-12)


def _every(begin: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    while begin < end:
        yield begin
        begin += step


async def test_a_candle_that_has_not_ended_is_not_given(binance: Binance) -> None:
    now = T0 + timedelta(hours=3, minutes=2)
    found = await binance.candles("ADA/BTC", PAGE, now)
    assert found.candles[-1].start == T0 + timedelta(hours=2, minutes=55)
    assert found.covered == ((PAGE.first_end, T0 + timedelta(hours=3)),)


async def test_one_that_has_just_ended_may_still_change(binance: Binance) -> None:
    found = await binance.candles("ADA/BTC", PAGE, T0 + timedelta(hours=3, seconds=5))
    assert found.candles[-1].start == T0 + timedelta(hours=2, minutes=50)


async def test_a_clock_here_that_is_ahead_brings_no_unfinished_candle(binance: Binance, server: BinanceServer) -> None:
    server.fail("other clock", Date="Thu, 11 Jan 2018 02:04:00 GMT")
    found = await binance.candles("ADA/BTC", PAGE, NOW)
    assert found.candles[-1].start == T0 + timedelta(hours=1, minutes=55)
    assert found.covered == ((PAGE.first_end, T0 + timedelta(hours=2)),)


@pytest.mark.parametrize("date", ["", "yesterday", "Thu, 99 Jan 2018 02:04:00 GMT"])
async def test_a_server_without_a_clock(binance: Binance, server: BinanceServer, date: str) -> None:
    server.fail("other clock", Date=date)
    assert len((await binance.candles("ADA/BTC", PAGE, NOW)).candles) == HOURS * 12


async def test_a_gap_is_told_by_what_is_covered(binance: Binance, server: BinanceServer) -> None:
    server.fail("gap")
    found = await binance.candles("ADA/BTC", PAGE, NOW)
    assert len(found.candles) == HOURS * 8
    assert found.covered == ((PAGE.first_end, PAGE.last_end),)


@pytest.mark.parametrize(("minutes", "known"), [(1, 0), (14, 0), (15, 0), (20, 5), (31, 15), (600, 60)])
async def test_the_end_of_a_series_may_lag_behind(binance: Binance, minutes: int, known: int) -> None:
    last = T0 + timedelta(hours=HOURS)
    page = Page(300, last - timedelta(hours=1), last + timedelta(hours=1))
    found = await binance.candles("ADA/BTC", page, last + minutes * MINUTE + timedelta(seconds=15))
    assert found.candles[-1].start + 5 * MINUTE == last
    assert found.covered == ((page.first_end, last + known * MINUTE),)


async def test_no_candle_at_all_says_nothing(binance: Binance, server: BinanceServer) -> None:
    server.fail("nothing")
    assert await binance.candles("ADA/BTC", PAGE, NOW) == Klines(300, (), ())


@pytest.mark.parametrize(("fault", "place", "missing"), [("not aligned", 0, 2), ("one of another length", 3, 1)])
async def test_a_candle_that_is_not_of_the_interval_costs_only_itself(
    binance: Binance, server: BinanceServer, fault: str, place: int, missing: int
) -> None:
    """And the time around it is not known to be without others."""
    server.fail(fault)
    found = await binance.candles("ADA/BTC", PAGE, NOW)
    wanted = series(T0, HOURS * 12)
    assert [c.start for c in found.candles] == [c.start for c in wanted[:place] + wanted[place + missing :]]
    before = () if place == 0 else ((PAGE.first_end, wanted[place - 1].start + 5 * MINUTE),)
    assert found.covered == (*before, (wanted[place + missing].start + 5 * MINUTE, PAGE.last_end))


async def test_a_page_of_other_candles_is_nonsense(binance: Binance, server: BinanceServer) -> None:
    server.fail("other interval")
    with pytest.raises(SourceNonsense, match="not of the interval"):
        await binance.candles("ADA/BTC", PAGE, NOW)


async def test_a_location_that_is_not_served_is_told_what_to_set(binance: Binance, server: BinanceServer) -> None:
    server.fail("not from here")
    with pytest.raises(SourceUnavailable, match=r"location.*CLOSELOOP_BINANCE_URL") as refusal:
        await binance.candles("ADA/BTC", PAGE, NOW)
    assert refusal.value.for_all


async def test_an_answer_cut_at_the_default_limit_covers_no_more_than_it_has(
    binance: Binance, server: BinanceServer
) -> None:
    server.fail("default limit")
    page = Page(60, T0 + MINUTE, T0 + timedelta(hours=HOURS))
    found = await binance.candles("ADA/BTC", page, NOW)
    assert len(found.candles) == 500
    assert found.covered == ((page.first_end, T0 + 500 * MINUTE),)


# What goes wrong

EXPECTED: dict[str, type[Exception]] = {
    "rate limit": SourceUnavailable,
    "rate limit without a time": SourceUnavailable,
    "ban": SourceUnavailable,
    "firewall": SourceUnavailable,
    "internal error": SourceUnavailable,
    "timeout": SourceUnavailable,
    "bad gateway": SourceUnavailable,
    "maintenance": SourceUnavailable,
    "unknown symbol": UnknownSymbol,
    "illegal characters": SourceRefused,
    "not from here": SourceUnavailable,
    "redirect": SourceRefused,
    "truncated": SourceUnavailable,
    "slow": SourceUnavailable,
    "hang": SourceUnavailable,
    "close": SourceUnavailable,
}
HARMLESS = {"heavy use", "other clock", "default limit", "gap", "nothing", "not aligned", "one of another length"}


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - HARMLESS))
async def test_a_fault_costs_the_answer_and_is_not_asked_about_twice(server: BinanceServer, name: str) -> None:
    server.fail(name)
    with pytest.raises((SourceUnavailable, SourceRefused, SourceNonsense)) as refusal:
        await Binance(server.url, timeout_seconds=1).candles("ADA/BTC", PAGE, NOW)
    assert type(refusal.value) is EXPECTED.get(name, SourceNonsense)
    assert 10 < len(str(refusal.value)) < 200
    assert str(refusal.value).isprintable()
    assert len(server.asked) == 1


async def test_a_fault_leaves_nothing_behind(binance: Binance, server: BinanceServer) -> None:
    server.fail("zero", times=1)
    with pytest.raises(SourceNonsense):
        await binance.candles("ADA/BTC", PAGE, NOW)
    assert len((await binance.candles("ADA/BTC", PAGE, NOW)).candles) == HOURS * 12


async def test_a_refused_connection_is_a_source_that_is_unavailable() -> None:
    server = BinanceServer()
    server.close()
    with pytest.raises(SourceUnavailable) as refusal:
        await Binance(server.url).candles("ADA/BTC", PAGE, NOW)
    assert refusal.value.retry_after is None


async def test_a_redirect_is_not_followed(binance: Binance, server: BinanceServer) -> None:
    with BinanceServer() as elsewhere:
        server.fail("redirect", Location=f"{elsewhere.url}/api/v3/klines?symbol=ADABTC")
        with pytest.raises(SourceRefused):
            await binance.candles("ADA/BTC", PAGE, NOW)
        assert elsewhere.asked == []


async def test_an_asset_that_is_not_traded(binance: Binance, server: BinanceServer) -> None:
    with pytest.raises(UnknownSymbol):
        await binance.candles("NOT/THERE", PAGE, NOW)
    assert server.asked[0].status == 400


# Limits


@pytest.mark.parametrize(
    ("fault", "header", "seconds"),
    [
        ("rate limit", "17", 17),
        ("rate limit", "1.5", 1.5),
        ("rate limit", "", 60),
        ("rate limit", "soon", 60),
        ("rate limit", "0", 60),
        ("rate limit", "-5", 60),
        ("rate limit", "nan", 60),
        ("rate limit", "1e400", 60),
        ("ban", "7200", 7200),
        ("ban", "", 120),
        ("ban", "99999999999", 3 * 86_400),
        ("firewall", "", 120),
        ("maintenance", "600", 600),
        ("rate limit", "Sat, 21 Nov 2026 12:00:40 GMT", 40),
        ("rate limit", "Sat, 21 Nov 2026 11:00:00 GMT", 60),
    ],
)
async def test_while_it_said_to_wait_nothing_is_asked(
    binance: Binance, server: BinanceServer, fault: str, header: str, seconds: float
) -> None:
    server.fail(fault, times=1, Retry_After=header, Date="Sat, 21 Nov 2026 12:00:00 GMT")
    with pytest.raises(SourceUnavailable) as refusal:
        await binance.candles("ADA/BTC", PAGE, NOW)
    assert refusal.value.retry_after == seconds
    with pytest.raises(SourceUnavailable) as refusal:
        await binance.candles("ETH/BTC", PAGE, NOW)
    assert refusal.value.retry_after is not None
    assert 0 < refusal.value.retry_after <= seconds
    assert len(server.asked) == 1


async def test_after_the_wait_it_is_asked_again(binance: Binance, server: BinanceServer) -> None:
    server.fail("rate limit", times=1, Retry_After="2")
    for _ in range(3):
        with pytest.raises(SourceUnavailable) as refusal:
            await binance.candles("ADA/BTC", PAGE, NOW)
    assert refusal.value.retry_after is not None
    await asyncio.sleep(refusal.value.retry_after)
    assert (await binance.candles("ADA/BTC", PAGE, NOW)).candles
    assert [asked.status for asked in server.asked] == [429, 200]
    assert server.impatient == []


async def test_a_date_to_wait_for_without_a_clock_to_read_it_by(binance: Binance, server: BinanceServer) -> None:
    server.fail("rate limit", Retry_After=format_datetime(NOW + timedelta(days=1000), usegmt=True), Date="")
    with pytest.raises(SourceUnavailable) as refusal:
        await binance.candles("ADA/BTC", PAGE, NOW)
    assert refusal.value.retry_after == 60


async def test_close_to_the_limit_the_answer_is_the_last_for_a_while(binance: Binance, server: BinanceServer) -> None:
    server.fail("heavy use", times=1)
    assert len((await binance.candles("ADA/BTC", PAGE, NOW)).candles) == HOURS * 12
    with pytest.raises(SourceUnavailable) as refusal:
        await binance.candles("ADA/BTC", PAGE, NOW)
    assert refusal.value.retry_after is not None
    assert refusal.value.retry_after > 50
    assert len(server.asked) == 1


@pytest.mark.parametrize("weight", ["4800", "", "-9999999", "many"])
async def test_other_use_does_not_stop_anything(binance: Binance, server: BinanceServer, weight: str) -> None:
    server.fail(Fault(headers={"X-MBX-USED-WEIGHT-1M": weight}))
    for _ in range(2):
        await binance.candles("ADA/BTC", PAGE, NOW)


def test_the_server_limits_as_binance_does() -> None:
    with BinanceServer(weight_limit=4) as server, httpx.Client(base_url=server.url) as client:
        server.add("ADA/BTC", series(T0, 3), 300)
        told = [client.get("/api/v3/klines?symbol=ADABTC&interval=5m").status_code for _ in range(16)]
    # A minute may begin in between.
    assert told.count(200) in (2, 4)
    assert 429 in told


# Whatever is answered

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["0.00005", "0", "-1", "NaN", "1e5", "Infinity", "0.0", "1_0", "٣", " 1", "1" * 200]),
    st.sampled_from([int(T0.timestamp()) * 1_000 + n * 300_000 for n in (-1, 0, 1, 143, 144)]),
)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=3), inner)
)


def row(n: int) -> list[Any]:
    start = int(T0.timestamp()) * 1_000 + n * 300_000
    return [start, "0.5", "0.6", "0.4", "0.5", "1.0", start + 299_999, "1.0", 1, "1.0", "1.0", "0"]


@st.composite
def nearly_right(draw: st.DrawFn) -> Any:
    rows: list[Any] = [row(n) for n in draw(st.lists(st.integers(-1, 145), max_size=6))]
    for at in draw(st.lists(st.integers(0, 5), max_size=2)):
        if at < len(rows):
            rows[at][draw(st.integers(0, 11))] = draw(leaves)
    return rows


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(nearly_right(), anything).map(json.dumps) | st.text())
async def test_no_answer_gives_a_candle_that_may_not_be(running: BinanceServer, reused: Binance, answer: str) -> None:
    running.behave()
    running.fail(Fault(body=answer.encode("utf-8", "replace")))
    try:
        found = await reused.candles("ADA/BTC", PAGE, NOW)
    except SourceNonsense:
        return
    starts = [c.start for c in found.candles]
    assert starts == sorted(set(starts))
    assert len(json.loads(answer)) <= 2 * len(starts)  # one that is not of the interval costs itself
    for c in found.candles:
        assert T0 <= c.start <= PAGE.last_end - 5 * MINUTE
        assert c.start.timestamp() % 300 == 0
        assert all(number.is_finite() for number in (c.open, c.high, c.low, c.close))
        assert 0 < c.low <= min(c.open, c.close) <= max(c.open, c.close) <= c.high


# The server by itself


def test_the_server_as_a_process(tmp_path: Path) -> None:
    file = tmp_path / "candles.csv"
    file.write_text("date,open,high,low,close,volume\n2018-01-11 00:00:00+00:00,1,3,1,2,7\n")
    command = [sys.executable, "-m", "tests.gateways.binance_server", "--candles", str(file), "--asset", "ADA/BTC"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            found = httpx.get(f"{url}/api/v3/klines?symbol=ADABTC&interval=5m").json()
        finally:
            process.terminate()
    assert [line[:6] for line in found] == [
        [1515628800000, "1.00000000", "3.00000000", "1.00000000", "2.00000000", "7.00000000"]
    ]
    assert process.returncode == 0
