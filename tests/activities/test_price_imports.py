"""What imports of candles prove, what may still change, and outcomes after candles were replaced or deleted."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from closeloop import store
from closeloop.gateways.binance import Binance
from closeloop.gateways.candles import Candle, RefusedRow
from closeloop.models.forecasts import Forecast
from closeloop.models.prices import OutcomesRecomputed
from closeloop.services import outcome_corrections, prices
from tests.activities.forecasting import (
    DAY,
    HOUR,
    MINUTE,
    POLICY,
    T0,
    Floor,
    assert_outcome,
    every,
    floor_on,
    forecast,
    plain_outcome,
)
from tests.activities.test_prices import AS_OF, ETH, MARKETS, assert_right, hourly_forecasts, loop
from tests.gateways.binance_server import BinanceServer
from tests.store.databases import backend, wait_until_it_blocks

ADA = "ADA/BTC"
FIVE = 5 * MINUTE


@pytest.fixture(scope="module")
async def module_floor(dsn: str) -> AsyncIterator[Floor]:
    async with floor_on(dsn) as floor:
        yield floor


@pytest.fixture
async def floor(module_floor: Floor) -> Floor:
    await module_floor.clear()
    return module_floor


def rows(closes: dict[datetime, Any]) -> list[Candle | RefusedRow]:
    return [Candle(end - FIVE, *[Decimal(str(close))] * 4, None) for end, close in closes.items()]  # type: ignore[arg-type]


# -- when a gap is real ------------------------------------------------------------------------------------------------

LAST, NEXT = T0 + HOUR - 4 * FIVE, T0 + HOUR + 2 * FIVE  # ends around the hole in which the target lies
BEFORE, AFTER = every(FIVE, T0 - HOUR, LAST), every(FIVE, NEXT, NEXT + HOUR, 500.0)


async def price_in_the_hole(floor: Floor, *files: list[Candle | RefusedRow]) -> bool:
    for file in files:
        await floor.import_candles(ADA, file)
    await floor.record(forecast("f"))
    await floor.resolve(AS_OF)
    return "f" in await floor.outcomes()


@pytest.mark.parametrize("descending", [False, True])
async def test_a_hole_in_one_file_is_real(floor: Floor, descending: bool) -> None:
    file = rows(BEFORE | AFTER)
    assert await price_in_the_hole(floor, file[::-1] if descending else file)
    assert float((await floor.outcomes())["f"]["price_at_target"]) == BEFORE[LAST]


async def test_a_hole_between_two_files_is_not(floor: Floor) -> None:
    assert not await price_in_the_hole(floor, rows(BEFORE), rows(AFTER))


async def test_a_third_file_that_holds_both_ends_proves_it(floor: Floor) -> None:
    assert await price_in_the_hole(floor, rows(BEFORE), rows(AFTER), rows({LAST: BEFORE[LAST], NEXT: AFTER[NEXT]}))


@pytest.mark.parametrize("start", [LAST, T0 + HOUR, LAST + MINUTE, None])
async def test_a_hole_with_a_refused_row_is_not(floor: Floor, start: datetime | None) -> None:
    refused = RefusedRow(7, "not a number", start)
    assert not await price_in_the_hole(floor, [*rows(BEFORE), refused, *rows(AFTER)])


async def test_a_refused_row_elsewhere_does_no_harm(floor: Floor) -> None:
    early = rows({T0 - 2 * HOUR: 1})
    assert await price_in_the_hole(floor, [*early, RefusedRow(2, "no time", None), *rows(BEFORE | AFTER)])


async def test_a_row_without_a_time_in_a_file_without_an_order_may_belong_anywhere(floor: Floor) -> None:
    file = rows(BEFORE | AFTER)
    assert not await price_in_the_hole(floor, [file[1], file[0], RefusedRow(3, "no time", None), *file[2:]])


async def test_a_row_refused_by_an_earlier_file_counts_until_its_candle_is_there(floor: Floor) -> None:
    whole = rows(BEFORE | AFTER)
    assert not await price_in_the_hole(floor, [*rows(BEFORE), RefusedRow(7, "x", LAST), *rows(AFTER)], whole)
    await floor.import_candles(ADA, rows(BEFORE | {LAST + FIVE: 7.0} | AFTER))
    await floor.resolve(AS_OF)
    assert float((await floor.outcomes())["f"]["price_at_target"]) == 7.0


async def test_what_was_imported_into_a_hole_leaves_it_unknown(floor: Floor) -> None:
    inside = rows({LAST + FIVE: 7.0})
    assert not await price_in_the_hole(floor, rows(BEFORE | AFTER), inside)


@pytest.mark.parametrize(("hole", "real"), [(DAY, True), (DAY + FIVE, False)])
async def test_a_hole_of_more_than_a_day_is_not(floor: Floor, hole: timedelta, real: bool) -> None:
    assert await price_in_the_hole(floor, rows(BEFORE | {LAST + hole: 9.0})) == real


async def test_candles_from_before_imports_were_recorded_prove_nothing_until_imported_again(floor: Floor) -> None:
    await floor.trade(ADA, BEFORE | AFTER)
    await floor.sql("DELETE FROM price_gaps")
    assert not await price_in_the_hole(floor)
    await floor.trade(ADA, BEFORE | AFTER)
    assert await floor.resolve(AS_OF) == 0


# -- the last candle of a file -----------------------------------------------------------------------------------------

PARTIAL = every(FIVE, T0 - HOUR, T0 + HOUR) | {T0 + HOUR: 555.0}


@pytest.mark.parametrize("written", [T0 + HOUR - MINUTE, None])
async def test_nothing_is_computed_from_a_candle_that_may_have_gone_on(floor: Floor, written: datetime | None) -> None:
    report = await floor.import_candles(ADA, rows(PARTIAL), written_at=written)
    assert report.provisional == T0 + HOUR
    assert await price_in_the_hole(floor) is False
    whole = PARTIAL | {T0 + HOUR: 112.0, T0 + HOUR + FIVE: 113.0}
    report = await floor.import_candles(ADA, rows(whole))
    assert (report.rejected, report.replaced, report.imported, report.provisional) == ([], 1, 1, None)
    await floor.resolve(AS_OF)
    assert_outcome((await floor.outcomes())["f"], plain_outcome(forecast("f"), 112.0, 112.0))
    # The first export again: its last candle does not count against the whole one.
    report = await floor.import_candles(ADA, rows(PARTIAL), written_at=written)
    assert (report.rejected, report.replaced, report.already_recorded) == ([], 0, len(PARTIAL))


async def test_one_that_ended_before_the_file_was_written_is_whole(floor: Floor) -> None:
    report = await floor.import_candles(ADA, rows(PARTIAL), written_at=T0 + HOUR)
    assert report.provisional is None
    assert await price_in_the_hole(floor)


async def test_a_later_candle_makes_it_final_unless_the_files_time_says_otherwise(floor: Floor) -> None:
    later = rows({T0 + HOUR + FIVE: 1.0})
    await floor.import_candles(ADA, rows(PARTIAL), written_at=T0 + HOUR - MINUTE)
    assert not await price_in_the_hole(floor, later)
    await floor.clear()
    await floor.import_candles(ADA, rows(PARTIAL), written_at=None)
    assert await price_in_the_hole(floor, later)


# -- replaced and deleted ----------------------------------------------------------------------------------------------


def shifted(closes: dict[datetime, float]) -> dict[datetime, float]:
    return {end: close * (1 + 0.01 * (i % 3)) for i, (end, close) in enumerate(closes.items())}


async def recompute(floor: Floor) -> OutcomesRecomputed:
    async with floor.sessions() as session:
        return await outcome_corrections.recompute(session, POLICY, datetime.now(UTC))


async def many_resolved(floor: Floor) -> tuple[list[Forecast], dict[datetime, float], dict[datetime, float]]:
    wrong = every(FIVE, T0 - HOUR, T0 + DAY)
    said = [
        forecast(f"f-{i:03}", producer_id=f"p{i % 2}", issued_at=T0 + i * 7 * MINUTE, confidence=0.5 + i / 500)
        for i in range(150)
    ]
    await floor.trade(ADA, wrong)
    await floor.record(*said)
    assert await floor.resolve(AS_OF) == 0
    await floor.perform(AS_OF)
    return said, wrong, shifted(wrong)


def price(closes: dict[datetime, float], at: datetime) -> float:
    return closes[max(end for end in closes if end <= at)]


async def assert_computed_from(floor: Floor, said: list[Forecast], closes: dict[datetime, float]) -> None:
    found = await floor.outcomes()
    assert set(found) == {one.forecast_id for one in said}
    for one in said:
        wanted = plain_outcome(one, price(closes, one.issued_at), price(closes, one.target_at))
        assert_outcome(found[one.forecast_id], wanted)


async def scores(floor: Floor) -> list[Any]:
    """What producers are worth, from the stored days, and from scratch: the same."""
    await floor.perform(AS_OF)
    stored = [dict(row) for row in await floor.sql("SELECT * FROM producer_performance ORDER BY 2, 3, 4, 5")]
    days = "SELECT DISTINCT book_id, day FROM producer_daily_bins"
    await floor.sql(f"INSERT INTO performance_due {days} ON CONFLICT DO NOTHING")
    await floor.perform(AS_OF)
    assert stored == [dict(row) for row in await floor.sql("SELECT * FROM producer_performance ORDER BY 2, 3, 4, 5")]
    return stored


async def test_outcomes_of_replaced_candles_are_corrected_once_and_on_request(floor: Floor) -> None:
    said, wrong, right = await many_resolved(floor)
    before = await floor.outcomes()
    refused = await floor.import_candles(ADA, rows(right), replace=True)
    assert refused.replaced == sum(right[end] != close for end, close in wrong.items())
    assert refused.rejected == []
    assert await floor.outcomes() == before
    async with floor.sessions() as session:
        listed = await outcome_corrections.affected(session)
        newest = await outcome_corrections.affected(session, last=2, before=f"b/{listed[-1].forecast_id}")
    assert len(listed) == refused.affected
    assert newest == listed[-3:-1]
    done = await asyncio.gather(*(recompute(floor) for _ in range(4)))
    changed = {name for name in before if (await floor.outcomes())[name]["revision"]}
    assert sum(one.corrected for one in done) == len(changed) > 50
    await assert_computed_from(floor, said, right)
    told = await floor.events("forecast.outcome_corrected.v1")
    assert {one["forecast_id"] for one in told} == changed
    assert len(told) == len(changed)
    for one in told:
        assert one["before"]["return_pct"] == pytest.approx(before[one["forecast_id"]]["return_pct"])
    [replaced] = await floor.events("prices.replaced.v1")
    assert (replaced["replaced"], replaced["affected"]) == (refused.replaced, refused.affected)
    await scores(floor)
    assert await recompute(floor) == OutcomesRecomputed()


async def test_outcomes_of_deleted_candles_are_withdrawn_and_come_back(floor: Floor) -> None:
    said, wrong, right = await many_resolved(floor)
    async with floor.sessions() as session:
        report = await prices.delete(session, ADA, T0 - DAY, T0 + 2 * DAY)
    assert report.deleted == len(wrong)
    assert report.affected == len(said)
    done = await recompute(floor)
    assert (done.withdrawn, done.corrected) == (len(said), 0)
    assert await floor.outcomes() == {}
    assert await scores(floor) == []
    assert {row["state"] for row in (await floor.states()).values()} == {"pending"}
    await floor.trade(ADA, right)
    assert await floor.resolve(AS_OF) == 0
    await assert_computed_from(floor, said, right)
    assert len(await floor.events("forecast.outcome.v1")) == 2 * len(said)  # each, and each again
    await scores(floor)


async def test_what_the_source_said_of_deleted_candles_is_forgotten(floor: Floor) -> None:
    await floor.trade(ADA, BEFORE | AFTER)
    await floor.cover(ADA, T0 - HOUR, NEXT + HOUR)
    async with floor.sessions() as session:
        await prices.delete(session, ADA, T0, NEXT, interval_seconds=300)
    assert [(row["from_at"], row["to_at"]) for row in await floor.sql("SELECT * FROM price_coverage ORDER BY 3")] == [
        (T0 - HOUR, T0 - FIVE),
        (NEXT + FIVE, NEXT + HOUR),
    ]
    assert await floor.sql("SELECT * FROM price_gaps") == []
    [first] = await floor.sql("SELECT max(ends_at) AS last FROM price_history WHERE ends_at < :t", t=NEXT)
    assert first["last"] == T0  # it began before


async def test_a_resolution_under_way_computes_nothing_from_old_candles_unnoticed(floor: Floor) -> None:
    """It read the old price before the replacing import marks outcomes: that waits for it, and marks its outcome."""
    closes = every(FIVE, T0 - HOUR, T0 + 2 * HOUR)
    await floor.trade(ADA, closes)
    said = forecast("f", issued_at=T0 + FIVE)
    await floor.record(said)
    async with floor.sessions() as resolving:
        await store.resolution.lock(resolving)
        [due] = await store.resolution.due_with_prices(resolving, AS_OF, 30 * MINUTE, None, 10)
        replacing = asyncio.create_task(floor.import_candles(ADA, rows(shifted(closes)), replace=True))
        await wait_until_it_blocks(floor.sessions, await backend(resolving))
        await store.resolution.settle(
            resolving, [due], outcome_corrections.score([due], POLICY), resolved_at=AS_OF, resolved_by="r",
            policy_hash="h", block=2 * HOUR,
        )  # fmt: skip
        await resolving.commit()
    assert (await replacing).affected == 1
    assert (await recompute(floor)).corrected == 1
    await assert_computed_from(floor, [said], shifted(closes))


async def test_a_recomputation_that_dies_before_its_commit_has_done_nothing(floor: Floor) -> None:
    said, _, right = await many_resolved(floor)
    await floor.import_candles(ADA, rows(right), replace=True)
    async with floor.sessions() as dying:
        await store.resolution.lock(dying)
        page = await store.corrections.page(dying, None, 30 * MINUTE, 100)
        scored = outcome_corrections.score(page, POLICY)
        await store.corrections.correct(dying, page, scored, now=AS_OF, policy_hash="h", block=2 * HOUR)
        await store.corrections.unmark(dying, page)
        other = asyncio.create_task(recompute(floor))
        pid = await backend(dying)
        await wait_until_it_blocks(floor.sessions, pid)
        await floor.sql("SELECT pg_terminate_backend(:pid)", pid=pid)
        done = await other
        await dying.invalidate()
    await assert_computed_from(floor, said, right)
    assert len(await floor.events("forecast.outcome_corrected.v1")) == done.corrected


async def test_an_outcome_tells_its_candles(floor: Floor) -> None:
    await floor.trade(ADA, every(FIVE, T0 - HOUR, T0 + 2 * HOUR))
    await floor.record(forecast("f", issued_at=T0 + MINUTE))
    await floor.resolve(AS_OF)
    row = (await floor.outcomes())["f"]
    assert (row["issue_candle_ends_at"], row["issue_candle_seconds"], row["issue_price_source"]) == (T0, 300, "import")
    assert row["target_candle_ends_at"] == T0 + HOUR


# -- an asset that the source fails for --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hang", "internal error", "not a candle of numbers"])
async def test_an_asset_that_always_fails_costs_the_others_nothing(floor: Floor, fault: str) -> None:
    with BinanceServer() as server:
        for asset, candles in MARKETS.items():
            server.add(asset, candles, 300)
        server.fail("NaN" if fault.startswith("not") else fault, asset=ADA)
        await floor.record(*hourly_forecasts(10, 1, asset=ADA), *(others := hourly_forecasts(10, 2, asset=ETH)))
        source = Binance(server.url, timeout_seconds=1 if fault == "hang" else 30)
        await loop(floor, source, AS_OF)
        await assert_right(floor, *others)
        async with floor.sessions() as session:
            [told] = await prices.failing(session)
        assert (told.asset, told.failures, told.next_attempt_at) == (ADA, 1, AS_OF + 30 * MINUTE)
        # A new forecast of it waits with the reason; the source is not asked.
        asked = len(server.asked)
        await floor.record(forecast("new"))
        await loop(floor, source, AS_OF + MINUTE)
        assert len(server.asked) == asked
        assert told.reason in (await floor.states())["new"]["reason"]
        await loop(floor, source, AS_OF + HOUR)
        async with floor.sessions() as session:
            [told] = await prices.failing(session)
        assert (told.failures, told.next_attempt_at) == (2, AS_OF + 2 * HOUR)
        server.behave()
        await loop(floor, source, AS_OF + HOUR, ask_again=True)
        assert len(await floor.outcomes()) == 21
        async with floor.sessions() as session:
            assert await prices.failing(session) == []


async def test_who_was_not_asked_for_the_longest_time_is_first(floor: Floor) -> None:
    with BinanceServer() as server:
        for asset, candles in MARKETS.items():
            server.add(asset, candles, 300)
        source = Binance(server.url)
        await floor.record(forecast("a"))
        await loop(floor, source, AS_OF)
        await floor.record(forecast("b", issued_at=T0 + 5 * HOUR), forecast("c", asset=ETH))
        await loop(floor, source, AS_OF)
        assert [asked.parameters["symbol"] for asked in server.asked] == ["ADABTC", "ETHBTC", "ADABTC"]
