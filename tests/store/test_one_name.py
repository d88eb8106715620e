"""What a database holds under several spellings meets under one name after the upgrade."""

from datetime import UTC, datetime, timedelta
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.producers import ProducerActivities
from closeloop.models.policy import LearningPolicy
from closeloop.models.producers import PerformanceRequest
from closeloop.services import producers
from closeloop.store.database import Sessions, open_engine
from closeloop.store.schema import MIGRATIONS
from tests.store.databases import query, scratch_database, sessions_on

T = datetime(2026, 3, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)
POLICY = LearningPolicy()


async def before_it(dsn: str) -> None:
    def back(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0008")

    engine = open_engine(dsn, pool_size=1)
    async with engine.begin() as connection:
        await connection.run_sync(back)
    await engine.dispose()


async def outcome(sessions: Sessions, name: str, producer: str, asset: str, horizon: str, hours: int) -> None:
    values: dict[str, Any] = {"id": name, "producer": producer, "asset": asset, "horizon": horizon}
    values["at"] = T + hours * HOUR
    at = "CAST(:at AS timestamptz)"
    said = f"'b', :id, :producer, :asset, :horizon, 'long', 0.6, {at}, {at} + interval '1 hour'"
    await query(sessions, "INSERT INTO books (book_id) VALUES ('b') ON CONFLICT DO NOTHING")
    await query(
        sessions,
        "INSERT INTO forecasts (book_id, forecast_id, producer_id, asset, horizon, action, confidence, issued_at, "
        f"target_at) VALUES ({said})",
        **values,
    )
    await query(
        sessions,
        "INSERT INTO forecast_outcomes (book_id, forecast_id, producer_id, asset, horizon, action, confidence, "
        "issued_at, target_at, price_at_issue, price_at_target, return_pct, direction_correct, brier_score, log_score, "
        f"resolved_at, resolved_by, policy_hash) VALUES ({said}, 1, 1, 0, true, 0.16, 0.5, now(), 'r', 'p')",
        **values,
    )
    await query(
        sessions,
        "INSERT INTO producer_daily_bins (book_id, day, producer_id, asset, horizon, regime, bin, outcomes, correct, "
        "independent, confidence, confidence_squared, confidence_correct, brier_squared, log_score, log_score_squared) "
        f"VALUES ('b', CAST({at} AS date), :producer, :asset, :horizon, '', 7, 1, 1, 1, 0.6, 0.36, 0.6, 0.1, 0.5, 0.2)",
        **{name: value for name, value in values.items() if name != "id"},
    )


async def test_forecasts_and_prices_of_several_spellings_meet(dsn: str) -> None:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        await before_it(scratch)
        for i in range(6):
            asset, horizon = (("BTC/USDT", "1h"), ("BTCUSDT", "60m"), ("MSFT", "60m"))[i % 3]
            await outcome(sessions, f"a{i}", "words", asset, horizon, i)
            await outcome(sessions, f"b{i}", "minutes", asset, "60m" if horizon == "1h" else "1h", i)
        await query(
            sessions,
            "INSERT INTO price_history (asset, interval_seconds, ends_at, open, high, low, close, source) SELECT a, "
            "300, CAST(:at AS timestamptz) + make_interval(mins => 5 * m), c, c, c, c, 'x' FROM (VALUES "
            "('BTC/USDT', 1, 2), ('BTCUSDT', 1, 3), ('BTCUSDT', 2, 4), ('btc-usdt', 2, 5), ('MSFT', 1, 6)) "
            "v (a, m, c)",
            at=T,
        )
        await query(
            sessions,
            "INSERT INTO price_coverage (asset, interval_seconds, from_at, to_at) SELECT a, 300, :at, :at FROM "
            "(VALUES ('BTC/USDT'), ('BTCUSDT')) v (a)",
            at=T,
        )
        for asset, horizon in (("BTC/USDT", "1h"), ("BTCUSDT", "60m"), ("MSFT", "60m")):
            await query(
                sessions,
                "INSERT INTO meta_decisions (book_id, asset, horizon, as_of, dedupe_key, action, state, evidence, "
                "policy_hash) VALUES ('b', :asset, :horizon, :at, :key, 'no_forecast', '{}', '{}', 'p')",
                asset=asset, horizon=horizon, at=T, key=f"b/{horizon}/{T.isoformat()}/{asset}",
            )  # fmt: skip
        await store.schema.upgrade(scratch)

        for table in ("forecasts", "forecast_outcomes", "producer_daily_bins", "meta_decisions"):
            rows = await query(sessions, f"SELECT DISTINCT asset, horizon FROM {table} ORDER BY 1")
            assert [tuple(row.values()) for row in rows] == [("BTC/USDT", "1h"), ("MSFT", "1h")], table
        [sent] = await query(sessions, "SELECT asset_sent, horizon_sent FROM forecasts WHERE forecast_id = 'a1'")
        assert tuple(sent.values()) == ("BTCUSDT", "60m")
        candles = await query(sessions, "SELECT asset, CAST(close AS int) FROM price_history ORDER BY asset, ends_at")
        assert [tuple(row.values()) for row in candles] == [("BTC/USDT", 2), ("BTC/USDT", 4), ("MSFT", 6)]
        assert len(await query(sessions, "SELECT 1 FROM price_coverage WHERE asset = 'BTC/USDT'")) == 1
        keys = await query(sessions, "SELECT dedupe_key FROM meta_decisions ORDER BY id")
        kept = [f"b/1h/{T.isoformat()}/BTC/USDT", f"b/60m/{T.isoformat()}/BTCUSDT", f"b/1h/{T.isoformat()}/MSFT"]
        assert [row["dedupe_key"] for row in keys] == kept

        as_of = T + 24 * HOUR
        activities = ProducerActivities(sessions, POLICY)
        await ActivityEnvironment().run(activities.update_performance, PerformanceRequest(as_of=as_of))
        async with sessions() as session:
            for horizon in ("1h", "60m"):
                views = await producers.listing(session, POLICY, as_of, "b", asset="btc_usdt", horizon=horizon)
                assert [view.outcomes for view in views] == [4, 4]
            [btc, msft] = await producers.agreement(session, "b")
        assert ((btc.asset, btc.horizon), (msft.asset, msft.horizon)) == (("BTC/USDT", "1h"), ("MSFT", "1h"))
        assert btc.samples >= 2
