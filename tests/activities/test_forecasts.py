"""Forecasts in the database: recorded once, priced without look-ahead, resolved once, and left with a reason."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.forecasts import FORECAST_CONFLICT, ForecastActivities
from closeloop.models.forecasts import Forecast, ForecastKey, ResolvePages
from closeloop.models.policy import LearningPolicy
from closeloop.models.prices import PricesFetched
from closeloop.services import forecasts as services
from tests.activities.forecasting import (
    DAY,
    HOUR,
    MINUTE,
    POLICY,
    SECOND,
    T0,
    TICK,
    Floor,
    abstention,
    assert_outcome,
    every,
    floor_on,
    forecast,
    plain_outcome,
    plain_price,
)
from tests.store.databases import backend, wait_until_it_blocks

AS_OF = T0 + HOUR + 5 * MINUTE
ADA = "ADA/BTC"
ISSUE, TARGET = T0, T0 + HOUR


@pytest.fixture(scope="module")
async def module_floor(dsn: str) -> AsyncIterator[Floor]:
    async with floor_on(dsn) as floor:
        yield floor


@pytest.fixture
async def floor(module_floor: Floor) -> Floor:
    await module_floor.clear()
    return module_floor


# -- recording ---------------------------------------------------------------------------------------------------------


async def test_a_forecast_is_recorded_once(floor: Floor) -> None:
    first, silent = forecast("f", regime="BULL"), abstention("a", issued_at=T0 + DAY)
    assert (await floor.record(first, silent)).new == {first.key, silent.key}
    again = await floor.record(first, silent, forecast("g"))
    assert (again.new, again.differing) == ({ForecastKey("b", "g")}, {})
    told = await floor.events("forecast.v1")
    assert sorted(payload["forecast_id"] for payload in told) == ["a", "f", "g"]
    [payload] = [payload for payload in told if payload["forecast_id"] == "f"]
    assert payload | {"issued_at": datetime.fromisoformat(payload["issued_at"])} == {
        "book": "b",
        "forecast_id": "f",
        "producer_id": "ta",
        "asset": ADA,
        "horizon": "1h",
        "action": "long",
        "confidence": 0.7,
        "issued_at": T0,
        "regime": "BULL",
    }
    states = await floor.states()
    assert {name: (row["state"], row["target_at"]) for name, row in states.items()} == {
        "f": ("pending", T0 + HOUR),
        "g": ("pending", T0 + HOUR),
        "a": ("pending", T0 + DAY + HOUR),
    }


async def test_another_spelling_is_the_same_forecast_and_the_senders_is_kept(floor: Floor) -> None:
    sent = forecast("f", asset="btcusdt", horizon="60m")
    activities = ForecastActivities(floor.sessions, POLICY)
    assert not (await activities.record_forecast(sent)).already_recorded
    for asset, horizon in (("BTC/USDT", "1h"), ("BTC-USDT", "60m")):
        again = sent.model_copy(update={"asset": asset, "horizon": horizon})
        assert (await activities.record_forecast(again)).already_recorded
    async with floor.sessions() as session:
        shown = await services.show(session, "f")
    assert (shown.asset, shown.asset_sent) == ("BTC/USDT", "btcusdt")
    assert (shown.horizon, shown.horizon_sent) == ("1h", "60m")
    await floor.trade("BTC/USDT", {T0: 100, T0 + HOUR: 101}, 5 * MINUTE)
    await floor.resolve(T0 + 2 * HOUR)
    assert (await floor.outcomes())["f"]["return_pct"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("producer_id", "other"),
        ("asset", "ETH/BTC"),
        ("horizon", "61m"),
        ("action", "short"),
        ("confidence", 0.7000000001),
        ("issued_at", T0 + TICK),
        ("regime", "BEAR"),
    ],
)
async def test_other_content_is_refused_by_the_name_of_the_field(floor: Floor, field: str, value: Any) -> None:
    first = forecast("f", regime="BULL")
    activities = ForecastActivities(floor.sessions, POLICY)
    assert not (await activities.record_forecast(first)).already_recorded
    assert (await activities.record_forecast(first)).already_recorded
    with pytest.raises(ApplicationError, match=f"differing: {field}$") as refused:
        await activities.record_forecast(forecast("f", **{"regime": "BULL", field: value}))
    assert (refused.value.type, refused.value.non_retryable) == (FORECAST_CONFLICT, True)
    assert len(await floor.events("forecast.v1")) == 1
    assert (await activities.record_forecast(first)).already_recorded


async def test_recorded_at_once_by_many_it_is_one(floor: Floor) -> None:
    """Batches that overlap, in transactions that wait for each other; one of them says something else."""
    names = [f"f-{i:03}" for i in range(60)]
    rng = random.Random(1)
    batches = [[forecast(name) for name in rng.sample(names, 40)] for _ in range(8)]
    batches.append([forecast(name, action="short") for name in names])
    answers = await asyncio.gather(*(floor.record(*batch) for batch in batches))
    stored = {row["forecast_id"]: row["action"] for row in await floor.sql("SELECT * FROM forecasts")}
    assert sorted(stored) == names
    assert sum(len(answer.new) for answer in answers) == len(names)
    assert len(await floor.events("forecast.v1")) == len(await floor.states()) == len(names)
    for batch, answer in zip(batches, answers, strict=True):
        differing = {said.key: ["action"] for said in batch if stored[said.forecast_id] != said.action}
        assert answer.differing == differing


async def test_a_shadow_is_recorded_without_an_event(floor: Floor) -> None:
    await floor.record(forecast("said"))
    await floor.record(forecast("thought"), shadow=True)
    await floor.trade(ADA, every(5 * MINUTE, T0, T0 + 2 * HOUR))
    assert await floor.resolve(AS_OF) == 0
    assert set(await floor.outcomes()) == {"said"}
    assert set(await floor.outcomes(shadow=True)) == {"thought"}
    for kind in ("forecast.v1", "forecast.outcome.v1"):
        assert [payload["forecast_id"] for payload in await floor.events(kind)] == ["said"]


# -- the price at an instant -------------------------------------------------------------------------------------------

FIVE, THIRTY = 5 * MINUTE, 30 * MINUTE
Candles = list[tuple[datetime, float, timedelta]]
# Candles around the issue, whether the source was asked for that time, and the price that the issue then has.
PRICES: dict[str, tuple[Candles, bool, float | None]] = {
    "ended at t": ([(ISSUE, 1.0, FIVE)], False, 1.0),
    "the last one that ended": ([(ISSUE - FIVE, 1.0, FIVE), (ISSUE, 2.0, FIVE), (ISSUE + FIVE, 3.0, FIVE)], False, 2.0),
    "one that ends just after t betrays": ([(ISSUE - MINUTE, 1.0, FIVE), (ISSUE + TICK, 9.0, FIVE)], False, 1.0),
    "only one that ends just after t": ([(ISSUE + TICK, 9.0, FIVE)], True, None),
    "one that began before t but ends after it": (
        [(ISSUE - THIRTY, 1.0, FIVE), (ISSUE + MINUTE, 9.0, THIRTY)],
        False,
        None,
    ),
    "the finest of those that end together": (
        [(ISSUE, 3.0, THIRTY), (ISSUE, 1.0, MINUTE), (ISSUE, 2.0, FIVE)],
        False,
        1.0,
    ),
    "a coarse one that ended later": ([(ISSUE - MINUTE, 1.0, MINUTE), (ISSUE, 2.0, THIRTY)], False, 2.0),
    "ended 30 minutes before t, a later one exists": (
        [(ISSUE - THIRTY, 1.0, FIVE), (ISSUE + HOUR, 9.0, FIVE)],
        False,
        1.0,
    ),
    "ended 30 minutes before t, the source has no others": ([(ISSUE - THIRTY, 1.0, FIVE)], True, 1.0),
    "ended longer before t": ([(ISSUE - THIRTY - TICK, 1.0, FIVE), (ISSUE + HOUR, 9.0, FIVE)], True, None),
    "longer than 30 minutes": ([(ISSUE, 1.0, timedelta(minutes=31)), (ISSUE, 2.0, HOUR)], True, None),
    "a stale one alone": ([(ISSUE - FIVE, 1.0, FIVE)], False, None),
    "one of its own interval": ([(ISSUE - FIVE + TICK, 1.0, FIVE)], False, 1.0),
    "a stale one, a later one exists": ([(ISSUE - FIVE, 1.0, FIVE), (ISSUE + FIVE, 9.0, FIVE)], False, 1.0),
    "a stale one, the later one is of another interval": (
        [(ISSUE - FIVE, 1.0, FIVE), (ISSUE + 9 * FIVE, 9.0, THIRTY)],
        False,
        None,
    ),
    "a stale one, the source has no others": ([(ISSUE - FIVE, 1.0, FIVE)], True, 1.0),
}


@pytest.mark.parametrize("name", PRICES)
@pytest.mark.parametrize("at", ["issue", "target"])
async def test_the_price_at_an_instant(floor: Floor, name: str, at: str) -> None:
    """Of the issue and of the target alike; the other end has its price, of a series too far away to help."""
    candles, covered, price = PRICES[name]
    length = 3 * DAY
    said = forecast("f", issued_at=ISSUE if at == "issue" else ISSUE - length, horizon="3d")
    other = ISSUE + length if at == "issue" else ISSUE - length
    for interval in {interval for _, _, interval in candles}:
        await floor.trade(ADA, {end: close for end, close, length in candles if length == interval}, interval)
    await floor.trade(ADA, {other: 5.0}, 3 * MINUTE)
    if covered:
        await floor.cover(ADA, ISSUE - HOUR, ISSUE)
    await floor.record(said)
    left = await floor.resolve(said.target_at + 5 * MINUTE)
    found = await floor.outcomes()
    assert left == (price is None)
    assert [float(row[f"price_at_{at}"]) for row in found.values()] == ([] if price is None else [price])


async def test_a_gap_across_the_target_is_priced_once_it_is_known_to_be_one(floor: Floor) -> None:
    closes = every(FIVE, T0 - HOUR, T0 + 8 * FIVE)  # the last ends 20 minutes before the target
    await floor.trade(ADA, closes)
    await floor.record(forecast("f"))
    assert await floor.resolve(AS_OF) == 1
    await floor.trade(ADA, {T0 + 2 * HOUR: 1.0})  # another file proves nothing of the time before it
    assert await floor.resolve(AS_OF) == 1
    await floor.trade(ADA, closes | {T0 + 2 * HOUR: 1.0})  # its price is read by nobody
    assert await floor.resolve(AS_OF) == 0
    row = (await floor.outcomes())["f"]
    assert (row["price_at_issue"], row["price_at_target"]) == (Decimal(112), Decimal(120))


async def test_prices_against_every_candle_looked_at(floor: Floor) -> None:
    """Random candles of four intervals, with gaps, odd ends and coverage, at random instants."""
    rng = random.Random(7)
    series: dict[tuple[str, int], dict[datetime, float]] = {}
    covered: list[tuple[str, int, datetime, datetime]] = []
    assets = [f"A{i}/BTC" for i in range(12)]
    for asset in assets:
        for seconds in rng.sample([60, 300, 1800, 3600], rng.randint(1, 3)):
            step = timedelta(seconds=seconds)
            slots = [
                T0 + n * step for n in range(int(6 * HOUR / step) + 1) if rng.random() < rng.choice([0.05, 0.5, 0.9])
            ]
            series[asset, seconds] = {end: rng.uniform(1, 2) for end in slots}
            await floor.trade(asset, series[asset, seconds], step)
            if rng.random() < 0.5:
                first = T0 + rng.randrange(60) * step
                covered.append((asset, seconds, first, first + rng.randrange(1, 40) * step))
    for asset, seconds, first, last in covered:
        await floor.cover(asset, first, last, timedelta(seconds=seconds))
    said = [
        forecast(
            f"f-{i:04}",
            asset=rng.choice(assets),
            horizon=f"{rng.choice([5, 17, 30, 60, 120])}m",
            issued_at=T0 + rng.choice([SECOND, MINUTE, FIVE, TICK]) * rng.randrange(240),
            action=rng.choice(["long", "short", "flat"]),
            confidence=rng.random(),
        )
        for i in range(1500)
    ]
    await floor.record(*said)
    left = await floor.resolve(T0 + DAY)
    wanted = {}
    for one in said:
        prices = [plain_price(series, one.asset, t, covered) for t in (one.issued_at, one.target_at)]
        if prices[0] is not None and prices[1] is not None:
            wanted[one.forecast_id] = plain_outcome(one, prices[0], prices[1])
    found = await floor.outcomes()
    assert set(found) == set(wanted)
    assert left == len(said) - len(wanted)
    assert 200 < len(wanted) < 1300  # both kinds are met often
    for name, outcome in wanted.items():
        assert_outcome(found[name], outcome)


# -- exactly once ------------------------------------------------------------------------------------------------------


def many(count: int, seed: int = 3, **changes: Any) -> list[Forecast]:
    """Forecasts of two books, five producers, three horizons, some abstentions."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        values: dict[str, Any] = {
            "book": rng.choice(["b", "c"]),
            "producer_id": f"p{rng.randrange(5)}",
            "horizon": rng.choice(["1h", "4h", "30m"]),
            "issued_at": T0 + rng.randrange(2 * 24 * 60) * MINUTE,
            "regime": rng.choice([None, "BULL", "BEAR"]),
        } | changes
        if rng.random() < 0.1:
            made.append(abstention(f"m-{i:05}", **values))
        else:
            action = rng.choice(["long", "short", "flat"])
            made.append(forecast(f"m-{i:05}", action=action, confidence=round(rng.random(), 3), **values))
    return made


async def wandering(floor: Floor, seed: int = 5) -> dict[datetime, float]:
    """Candles of three days that rise and fall."""
    rng = random.Random(seed)
    closes, price = {}, 100.0
    for i in range(3 * 288):
        price *= 1 + rng.gauss(0, 0.002)
        closes[T0 - HOUR + i * FIVE] = price
    await floor.trade(ADA, closes)
    return closes


async def test_resolved_by_many_at_once_there_is_one_outcome_and_one_event(floor: Floor) -> None:
    closes = await wandering(floor)
    said = many(12_000)  # more than two pages
    await floor.record(*said)
    as_of = T0 + 2 * DAY
    runs = [f"run {i}" for i in range(4)]
    assert await asyncio.gather(*(floor.resolve(as_of, run) for run in runs)) == [0] * 4
    due = [one for one in said if one.target_at + 5 * MINUTE <= as_of]
    scored = {one.forecast_id: one for one in due if one.action != "no_forecast"}
    found = await floor.outcomes()
    assert set(found) == set(scored)
    for name, one in scored.items():
        issue, target = closes[_floor(one.issued_at)], closes[_floor(one.target_at)]
        assert_outcome(found[name], plain_outcome(one, issue, target))
    told = await floor.events("forecast.outcome.v1")
    assert sorted(payload["forecast_id"] for payload in told) == sorted(scored)
    assert set(await floor.states()) == {one.forecast_id for one in said} - {one.forecast_id for one in due}
    reports = [await floor.report(as_of, run) for run in runs]
    assert sum(report.resolved for report in reports) == len(scored)
    assert sum(report.abstained for report in reports) == len(due) - len(scored)
    assert {row["resolved_by"] for row in found.values()} <= set(runs)


def _floor(t: datetime) -> datetime:
    return t - (t - T0) % FIVE


async def test_an_event_tells_the_outcome(floor: Floor) -> None:
    await floor.trade(ADA, {T0: "0.00001234", T0 + HOUR: "0.00001246"})
    await floor.record(forecast("f", regime="BULL"))
    await floor.resolve(AS_OF, "the run")
    [told] = await floor.events("forecast.outcome.v1")
    times = {name: datetime.fromisoformat(told[name]) for name in ("issued_at", "target_at")}
    assert times == {"issued_at": T0, "target_at": T0 + HOUR}
    assert {name: value for name, value in told.items() if name not in times} == {
        "book": "b",
        "forecast_event_id": "forecast.v1/b/f",
        "forecast_id": "f",
        "producer_id": "ta",
        "asset": ADA,
        "horizon": "1h",
        "action": "long",
        "confidence": 0.7,
        "price_at_issue": "0.00001234",
        "price_at_target": "0.00001246",
        "return_actual_pct": pytest.approx(100 * 0.012 / 1.234),
        "direction_correct": True,
        "brier_score": pytest.approx(0.09),
        "log_score": pytest.approx(0.35667494),
        "regime_at_forecast": "BULL",
        "resolved_by": "the run",
        "policy_hash": POLICY.forecasts.hash,
    }
    [forecast_told] = await floor.sql("SELECT 1 FROM events WHERE dedupe_key = :key", key=told["forecast_event_id"])
    assert forecast_told


async def test_a_forecast_is_due_five_minutes_after_its_horizon(floor: Floor) -> None:
    await floor.trade(ADA, every(FIVE, T0, T0 + DAY))
    await floor.record(forecast("f"), abstention("a"))
    await floor.resolve(AS_OF - TICK)
    assert await floor.outcomes() == {}
    assert len(await floor.states()) == 2
    await floor.resolve(AS_OF)
    assert set(await floor.outcomes()) == {"f"}
    assert await floor.states() == {}


@pytest.mark.parametrize("seed", range(3))
async def test_any_sequence_of_runs_gives_the_outcomes_of_one_run(floor: Floor, seed: int) -> None:
    """Prices and forecasts come in pieces, resolutions of any instants in between, also of earlier ones."""
    rng = random.Random(seed)
    said, end = many(1200, seed), T0 + 3 * DAY
    closes = await wandering(floor, seed)
    await floor.record(*said)
    await floor.resolve(end)
    at_once = await floor.outcomes()
    await floor.clear()

    pieces = [said[i::5] for i in range(5)]
    parts = list(closes.items())
    for piece in pieces:
        await floor.record(*piece)
        rng.shuffle(parts)
        await floor.trade(ADA, dict(parts[: len(parts) // 3]))
        for _ in range(3):
            await floor.resolve(T0 + rng.random() * 4 * DAY)
    await floor.trade(ADA, closes)
    await floor.resolve(end)
    by_and_by = await floor.outcomes()
    told = sorted(payload["forecast_id"] for payload in await floor.events("forecast.outcome.v1"))
    assert told == sorted(by_and_by) == sorted(at_once)
    # With a candle missing in between, an older one may have been the price at the time: never a later one.
    ends = sorted(closes)
    same = 0
    for name, row in by_and_by.items():
        one = at_once[name]
        values = ("price_at_issue", "price_at_target", "return_pct", "direction_correct", "brier_score", "log_score")
        same += all(row[value] == one[value] for value in values)
        for price, t in (("price_at_issue", row["issued_at"]), ("price_at_target", row["target_at"])):
            allowed = [closes[e] for e in ends if t - 30 * MINUTE <= e <= t]
            assert float(row[price]) in allowed
    assert same > 0


async def test_a_retry_of_an_activity_neither_loses_nor_repeats_a_count(floor: Floor) -> None:
    await wandering(floor)
    said = many(5_500, book="b", horizon="1h")
    await floor.record(*said)
    activities = ForecastActivities(floor.sessions, POLICY)
    request = ResolvePages(resolution_id="r", as_of=T0 + 3 * DAY)
    async with floor.sessions.begin() as blocking:
        await store.resolution.lock(blocking)
        first = asyncio.create_task(ActivityEnvironment().run(activities.resolve_pages, request))
        await wait_until_it_blocks(floor.sessions, await backend(blocking))
        first.cancel()  # the worker dies before its first page is written
    with pytest.raises(asyncio.CancelledError):
        await first
    for _ in range(3):
        await ActivityEnvironment().run(activities.resolve_pages, request)
    report = await floor.report(T0 + 3 * DAY, "r")
    silent = sum(one.action == "no_forecast" for one in said)
    assert (report.resolved, report.abstained) == (len(said) - silent, silent)
    assert (report.pending, report.reasons, report.unresolvable) == (0, {}, 0)


# -- what cannot be priced ---------------------------------------------------------------------------------------------

SILENT = PricesFetched(silence="Binance did not answer (ConnectError)")
ANSWERED = PricesFetched(answered={ADA: [(T0 - DAY, T0 - HOUR), (T0, T0 + HOUR + TICK)]})
NOT_OF_THIS_TIME = PricesFetched(answered={ADA: [(T0 - DAY, T0), (T0 + TICK, T0 + HOUR)]}, more=True)


@pytest.mark.parametrize(
    ("name", "fetched", "reason"),
    [
        ("no price", SILENT, "Binance did not answer (ConnectError)"),
        ("no price", PricesFetched(silence="later", failures={ADA: "nonsense"}), "nonsense"),
        ("no price", ANSWERED, "no price at its issue time"),
        ("no target", ANSWERED, "no price at its target time"),
        ("stale target", ANSWERED, "no candle yet of the interval before its target time"),
        (
            "no price",
            PricesFetched(unknown=[ADA], failures={ADA: "?"}),
            f"the price source does not know {ADA}, and no prices of it were imported",
        ),
        (
            "closed market",
            PricesFetched(unknown=[ADA], failures={ADA: "?"}),
            f"the price source does not know {ADA}; of the imported candles none ended within 30 minutes before its "
            "issue time: the market was closed, or they are missing",
        ),
        (
            "no target",
            PricesFetched(unknown=[ADA], failures={ADA: "?"}),
            f"the price source does not know {ADA}, and the imported prices do not say what it was at its target time",
        ),
        (
            "covered",
            PricesFetched(),
            "no candle ended within 30 minutes before its issue time: the source has none, the market was closed",
        ),
        ("no price", NOT_OF_THIS_TIME, None),
        ("no target", NOT_OF_THIS_TIME, None),
        ("no price", PricesFetched(), None),
        ("no price", None, None),
    ],
)
async def test_why_a_forecast_is_pending(
    floor: Floor, name: str, fetched: PricesFetched | None, reason: str | None
) -> None:
    await floor.record(forecast("f"))
    if name == "closed market":
        await floor.trade(ADA, {T0 - DAY: 1.0, T0 + DAY: 1.0})
    elif name not in ("no price", "covered"):
        await floor.trade(ADA, {T0: 1.0})
    if name == "stale target":
        await floor.trade(ADA, {T0 + HOUR - FIVE: 1.0})
    if name == "covered":
        await floor.cover(ADA, T0 - 30 * MINUTE, T0)
    assert await floor.resolve(AS_OF, fetched=fetched) == 1
    row = (await floor.states())["f"]
    assert (row["state"], row["reason"]) == ("pending", reason)
    assert row["attempts"] == (reason is not None)
    report = await floor.report(AS_OF)
    assert report.reasons == {reason or "not looked at yet": 1}
    assert (report.pending, report.resolved) == (1, 0)
    assert reason is None or reason in report.sentence


async def test_the_wait_for_the_next_attempt_doubles_up_to_a_day(floor: Floor) -> None:
    """Also where resolutions in between ask for other forecasts: those do not put it off."""
    await floor.record(forecast("f"))
    as_of, waits = AS_OF, []
    for i in range(12):
        await floor.resolve(as_of, fetched=SILENT)
        row = (await floor.states())["f"]
        waits.append(row["next_attempt_at"] - as_of)
        await floor.record(forecast(f"other-{i}"))
        await floor.resolve(row["next_attempt_at"] - TICK, fetched=SILENT)
        assert (await floor.states())["f"] == row
        as_of = row["next_attempt_at"]
    # The last attempt is seven days after the first.
    assert waits == [30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, 16 * HOUR, *[DAY] * 5, 16.5 * HOUR]
    assert (row["attempts"], row["first_attempt_at"], as_of) == (12, AS_OF, AS_OF + 7 * DAY)


@pytest.mark.parametrize("answered", [True, False], ids=["the source has none", "the source is silent"])
async def test_after_seven_days_it_is_given_up(floor: Floor, answered: bool) -> None:
    """From the target where the source answered; from the first attempt where it is silent."""
    await floor.record(forecast("f"), abstention("a"))
    fetched = PricesFetched() if answered else SILENT
    if answered:
        await floor.cover(ADA, T0 - DAY, T0 + DAY)
    first = TARGET + 3 * DAY
    end = TARGET + 7 * DAY if answered else first + 7 * DAY
    for as_of in (first, end - TICK):
        await floor.resolve(as_of, "early", fetched)
        assert (await floor.states())["f"]["state"] == "pending"
    assert await floor.events("forecast.unresolvable.v1") == []
    for _ in range(2):
        await floor.resolve(end, "late", fetched)
    row = (await floor.states())["f"]
    assert (row["state"], row["next_attempt_at"]) == ("unresolvable", None)
    [told] = await floor.events("forecast.unresolvable.v1")
    assert (told["book"], told["forecast_id"], told["reason"]) == ("b", "f", row["reason"])
    assert (await floor.report(end, "late")).unresolvable == 1
    assert (await floor.report(end, "early")).unresolvable == 0
    assert (await floor.report(end, "late")).pending == 0

    # Prices that come later are welcome still.
    await floor.trade(ADA, every(FIVE, T0, T0 + 2 * HOUR))
    assert await floor.resolve(end) == 0
    assert await floor.outcomes() == {}
    assert await floor.reopen(ADA, "ETH/BTC") == 1
    assert (await floor.report(end)).reasons == {"prices were imported: to be tried again": 1}
    await floor.resolve(end)
    assert set(await floor.outcomes()) == {"f"}
    assert await floor.states() == {}


async def test_reopening_is_of_the_assets_that_were_imported(floor: Floor) -> None:
    await floor.record(forecast("f"), forecast("g", asset="ETH/BTC"), forecast("new"))
    await floor.resolve(AS_OF, fetched=SILENT)
    await floor.resolve(AS_OF + 8 * DAY, fetched=SILENT)
    assert await floor.reopen("ETH/BTC") == 1
    assert {name: row["state"] for name, row in (await floor.states()).items()} == {
        "f": "unresolvable",
        "g": "pending",
        "new": "unresolvable",
    }


async def test_a_policy_shapes_what_is_due_and_what_is_flat(floor: Floor) -> None:
    policy = LearningPolicy(forecast_grace_minutes=0, flat_band_pct=1.0)
    own = Floor(floor.dsn, floor.engine, floor.sessions, policy)
    await own.trade(ADA, {T0: 100, T0 + HOUR: 101, T0 + 2 * HOUR: "102.011"})
    flats = [forecast("in", action="flat"), forecast("out", action="flat", issued_at=T0 + HOUR)]
    await own.record(*flats)
    await own.resolve(T0 + HOUR)
    assert {name: row["direction_correct"] for name, row in (await own.outcomes()).items()} == {"in": True}
    await own.resolve(T0 + 2 * HOUR)
    assert not (await own.outcomes())["out"]["direction_correct"]
    hashes = {row["policy_hash"] for row in (await own.outcomes()).values()}
    assert hashes == {policy.forecasts.hash} != {POLICY.forecasts.hash}
