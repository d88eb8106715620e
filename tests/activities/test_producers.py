"""What producers are worth, kept by the day, against the same from the outcomes themselves in plain Python."""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from sqlalchemy import RowMapping, text

from closeloop import store
from closeloop.activities.forecasts import ForecastActivities
from closeloop.learning.calibration import reliability
from closeloop.models.forecasts import Forecast
from closeloop.models.policy import LearningPolicy
from closeloop.models.producers import HealthView, Heartbeat
from closeloop.services.producers import listing
from tests.activities.forecasting import DAY, HOUR, MINUTE, T0, TICK, Floor, abstention, every, floor_on, forecast
from tests.learning.plain_scores import bin_of, confidence_correlation, scores, standard_error

POLICY = LearningPolicy(performance_window_days=4)
WINDOW = 4 * DAY
BLOCK = 2 * HOUR
SCORES = ("hit_rate", "mean_confidence", "brier", "log_score", "calibration_error", "uncertainty")
DECOMPOSED = ("reliability", "resolution", "within_bin_variance", "within_bin_covariance")
Row = Mapping[str, Any]


@pytest.fixture(scope="module")
async def module_floor(dsn: str) -> AsyncIterator[Floor]:
    """Its database thinks that a day begins at half past six in the evening."""
    async with floor_on(dsn, timezone="Asia/Kolkata") as floor:
        floor.policy = POLICY
        yield floor


@pytest.fixture
async def floor(module_floor: Floor) -> Floor:
    await module_floor.clear()
    return module_floor


# -- from the outcomes, one after the other ----------------------------------------------------------------------------


def wilson(rate: float, n: int) -> tuple[float, float]:
    """The p at which (rate - p)² = z² p (1 - p) / n."""
    z = NormalDist().inv_cdf(0.975) ** 2 / n
    low, high = sorted(np.roots([1 + z, -(2 * rate + z), rate**2]).real)
    return max(0.0, float(low)), min(1.0, float(high))


def overlaps(outcomes: Sequence[Row]) -> dict[str, float]:
    """Of each outcome 1, and of each of its stream the part of the horizon in common: twice if it is an earlier one."""
    found = {}
    streams = defaultdict(list)
    for o in outcomes:
        streams[o["producer_id"], o["asset"], o["horizon"]].append(o)
    for stream in streams.values():
        for o in stream:
            length = o["target_at"] - o["issued_at"]
            apart = [(o["target_at"] - other["target_at"]) / length for other in stream]
            found[o["forecast_id"]] = math.fsum((2 if a else 1) * (1 - a) for a in apart if 0 <= a < 1)
    return found


def slices(o: Row) -> Iterator[tuple[str, str, str, str]]:
    """The rows of the table that an outcome belongs to."""
    regimes = {o["regime"] or "", ""}
    for asset, horizon, regime in product({o["asset"], ""}, {o["horizon"], ""}, regimes):
        yield o["producer_id"], asset, horizon, regime


def plain_performance(outcomes: Sequence[Row], as_of: datetime) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    known = [o for o in outcomes if o["target_at"] <= as_of]
    overlap = overlaps(known)
    members = defaultdict(list)
    for o in known:
        if o["target_at"] > as_of - WINDOW:
            for key in slices(o):
                members[key].append(o)
    rows = {}
    for key, group in members.items():
        n = len(group)
        by_pair = defaultdict(float)
        for o in group:
            by_pair[o["asset"], o["horizon"]] += overlap[o["forecast_id"]]
        independent = max(1, math.floor(n**2 / math.fsum(map(math.sqrt, by_pair.values())) ** 2 + 1e-6))
        row: dict[str, Any] = {"outcomes": n, "correct": sum(o["direction_correct"] for o in group)}
        row["independent"] = independent
        said = [(o["confidence"], o["direction_correct"]) for o in group]
        row["bins"] = [sum(bin_of(p) == k for p, _ in said) for k in range(10)]
        if n >= 5:
            row |= {name: value for name, value in scores(said).items() if name in (*SCORES, *DECOMPOSED)}
            row["hit_low"], row["hit_high"] = wilson(row["hit_rate"], independent)
            wider = math.sqrt(n / independent)
            row["brier_se"] = standard_error([(p - o) ** 2 for p, o in said]) * wider
            row["mean_confidence_se"] = standard_error([p for p, _ in said]) * wider
            row["correlation"] = confidence_correlation(said)
        else:
            row |= dict.fromkeys((*SCORES, *DECOMPOSED, "hit_low", "hit_high", "brier_se", "correlation"))
        rows[key] = row
    return rows


def plain_agreement(outcomes: Sequence[Row], as_of: datetime) -> dict[tuple[str, ...], dict[str, Any]]:
    last: dict[tuple[Any, ...], Row] = {}
    # Of several of one instant, flat goes before short, and short before long.
    for o in sorted(outcomes, key=lambda o: (o["issued_at"], ["long", "short", "flat"].index(o["action"]))):
        block = o["issued_at"] - (o["issued_at"] - datetime(1970, 1, 1, tzinfo=UTC)) % BLOCK
        elapses = block + (o["target_at"] - o["issued_at"])
        if o["target_at"] <= as_of and as_of - WINDOW < elapses <= as_of:
            last[o["asset"], o["horizon"], block, o["producer_id"]] = o
    spoken = defaultdict(dict)
    for (asset, horizon, block, producer), o in last.items():
        spoken[asset, horizon, block][producer] = o
    pairs = defaultdict(list)
    for (asset, horizon, _), said in spoken.items():
        for first, second in combinations(sorted(said), 2):
            pairs[asset, horizon, first, second].append((said[first], said[second]))
    rows = {}
    for key, both in pairs.items():
        agreed = [(a, b) for a, b in both if a["action"] == b["action"]]
        apart = [(a, b) for a, b in both if a["action"] != b["action"]]
        row: dict[str, Any] = {"samples": len(both), "agreement": None, "agreement_low": None, "agreement_high": None}
        length = both[0][0]["target_at"] - both[0][0]["issued_at"]
        if len(both) >= 5:
            row["agreement"] = len(agreed) / len(both)
            trials = max(1, math.floor(len(both) * min(1.0, BLOCK / length)))
            row["agreement_low"], row["agreement_high"] = wilson(row["agreement"], trials)
        hits = [(a["direction_correct"] + b["direction_correct"]) / 2 for a, b in agreed]
        row["hit_agreed"] = sum(hits) / len(hits) if len(hits) >= 5 else None
        for place, name in enumerate(("hit_first_disagreed", "hit_second_disagreed")):
            hits = [float(pair[place]["direction_correct"]) for pair in apart]
            row[name] = sum(hits) / len(hits) if len(hits) >= 5 else None
        rows[key] = row
    return rows


async def stored(floor: Floor, table: str, *key: str) -> dict[tuple[str, ...], RowMapping]:
    return {tuple(row[name] for name in key): row for row in await floor.sql(f"SELECT * FROM {table}")}


def differing(found: Row, wanted: Row) -> dict[str, tuple[Any, Any]]:
    """What is not as wanted: (found, wanted) by name."""
    return {
        name: (found[name], value)
        for name, value in wanted.items()
        if (found[name] is None) != (value is None)
        or (value is not None and not math.isclose(found[name], value, rel_tol=1e-9, abs_tol=1e-9))
    }


async def assert_as_computed(floor: Floor, as_of: datetime) -> int:
    """What the tables say is what the outcomes say; how many rows were compared."""
    outcomes = await floor.sql("SELECT * FROM forecast_outcomes WHERE NOT shadow")
    wanted = plain_performance(outcomes, as_of)
    found = await stored(floor, "producer_performance", "producer_id", "asset", "horizon", "regime")
    scored = {key: row for key, row in found.items() if row["outcomes"]}
    assert set(scored) == set(wanted)
    for key, row in wanted.items():
        bins = row.pop("bins")
        assert [b.outcomes for b in reliability(np.array(scored[key]["sums"]))] == bins, key
        assert differing(scored[key], row) == {}, key
    pairs = plain_agreement(outcomes, as_of)
    agreed = await stored(floor, "producer_correlation", "asset", "horizon", "first", "second")
    assert set(agreed) == set(pairs)
    for pair, row in pairs.items():
        assert differing(agreed[pair], row) == {}, pair
    assert {row["as_of"] for row in (*found.values(), *agreed.values())} <= {as_of}
    return len(wanted) + len(pairs)


# -- random histories --------------------------------------------------------------------------------------------------

END = T0 + 10 * DAY


async def prices(floor: Floor, rng: random.Random) -> None:
    for asset in ("ADA/BTC", "ETH/BTC"):
        price, closes = 100.0, {}
        for i in range(int((END - T0) / (15 * MINUTE)) + 1):
            price *= 1 + rng.gauss(0, 0.003)
            closes[T0 + i * 15 * MINUTE] = price
        await floor.trade(asset, closes, 15 * MINUTE)


def spoken(rng: random.Random, count: int) -> list[Forecast]:
    """Of four producers, two assets, horizons from minutes to days, with and without regimes; some thrice at once."""
    made: list[Forecast] = []
    for i in range(count):
        at = T0 + timedelta(seconds=rng.randrange(0, 10 * 86400, rng.choice([1, 900, 7200])))
        values: dict[str, Any] = {
            "producer_id": rng.choice(["p0", "p1", "p2", "p2", "p3"]),
            "asset": rng.choice(["ADA/BTC", "ADA/BTC", "ETH/BTC"]),
            "horizon": rng.choice(["1h", "1h", "60m", "4h", "3d"]),
            "issued_at": at,
            "regime": rng.choice([None, None, "BULL", "BEAR"]),
        }
        if rng.random() < 0.1:
            made.append(abstention(f"f-{i:05}", **values))
        else:
            confidence = rng.choice([rng.random(), rng.randrange(11) / 10])
            action = rng.choice(["long", "short", "flat"])
            made.append(forecast(f"f-{i:05}", action=action, confidence=confidence, **values))
    return made


@pytest.mark.parametrize("seed", range(2))
async def test_performance_is_that_of_the_outcomes_whatever_came_when(floor: Floor, seed: int) -> None:
    """Forecasts come late, in any order; windows are cut in the middle of days, by resolutions of any order."""
    rng = random.Random(seed)
    await prices(floor, rng)
    said = spoken(rng, 1600)
    compared = 0
    for piece in (said[:1000], said[1000:1500], said[1500:]):
        await floor.record(*piece)
        now = T0 + timedelta(seconds=rng.randrange(4 * 86400, 11 * 86400))
        await floor.resolve(now)
        await floor.sql("DELETE FROM performance_windows RETURNING 1")
        await floor.perform(now)
        compared += await assert_as_computed(floor, now)
    for as_of in (T0 + 5.37 * DAY, T0 + 6 * DAY - TICK, T0 + 30 * HOUR, END, END):
        await floor.resolve(END + DAY)
        await floor.sql("DELETE FROM performance_windows RETURNING 1")
        await floor.perform(as_of)
        compared += await assert_as_computed(floor, as_of)
    assert compared > 600
    assert await floor.sql("SELECT * FROM performance_due") == []


async def test_brought_up_to_date_at_once_and_while_others_resolve(floor: Floor) -> None:
    rng = random.Random(11)
    await prices(floor, rng)
    said = spoken(rng, 1600)

    async def resolve(piece: list[Forecast]) -> None:
        for i in range(0, len(piece), 100):
            await floor.record(*piece[i : i + 100])
            await floor.resolve(END + DAY)

    await asyncio.gather(*(resolve(said[i::3]) for i in range(3)), *(floor.perform(END) for _ in range(8)))
    reports = await asyncio.gather(*(floor.perform(END) for _ in range(3)))
    await assert_as_computed(floor, END)
    assert all(report.books == ["b"] for report in reports)
    assert (await floor.perform(END)).days == 0


async def test_an_older_instant_never_replaces_a_newer_one_and_its_outcomes_count(floor: Floor) -> None:
    rng = random.Random(21)
    await prices(floor, rng)
    said = spoken(rng, 400)
    await floor.record(*said[:300])
    await floor.resolve(END)
    await floor.perform(END)
    before = await floor.sql("SELECT * FROM producer_performance ORDER BY 1, 2, 3, 4, 5")
    await floor.perform(T0 + 3 * DAY)
    assert await floor.sql("SELECT * FROM producer_performance ORDER BY 1, 2, 3, 4, 5") == before
    await floor.record(*said[300:])  # they come late, and a backfill of earlier runs resolves them
    for days in (2, 5, 9, 4):
        await floor.resolve(T0 + days * DAY)
        await floor.perform(T0 + days * DAY)
    assert await assert_as_computed(floor, END) > 0


async def test_of_two_instants_at_once_the_newer_stays(floor: Floor) -> None:
    rng = random.Random(22)
    await prices(floor, rng)
    await floor.record(*spoken(rng, 300))
    await floor.resolve(END)
    await asyncio.gather(*(floor.perform(END - hours * HOUR) for hours in (30, 0, 50, 7, 90, 3)))
    await assert_as_computed(floor, END)


async def test_what_was_computed_before_another_one_wrote_is_not_written(floor: Floor) -> None:
    async with floor.sessions.begin() as session:
        seen = await store.performance.written_window(session, "b")
        assert await store.performance.take_window(session, "b", END, seen)
    async with floor.sessions.begin() as session:
        assert not await store.performance.take_window(session, "b", END + DAY, seen)
        now = await store.performance.written_window(session, "b")
        assert not await store.performance.take_window(session, "b", END - TICK, now)
        assert await store.performance.take_window(session, "b", END, now)


async def test_a_recalibration_is_never_of_an_earlier_instant_than_the_one_before(floor: Floor) -> None:
    rng = random.Random(23)
    await prices(floor, rng)
    said = [one for one in spoken(rng, 1600) if one.horizon != "3d"]
    await floor.record(*said[:800])
    await floor.resolve(END + DAY)
    assert await floor.recalibrate(END)
    await floor.record(*said[800:])
    await floor.resolve(END + DAY)
    assert await floor.recalibrate(T0 + 8 * DAY)
    maps = await floor.sql("SELECT DISTINCT as_of, version FROM recalibration_maps ORDER BY version")
    assert [row["as_of"] for row in maps] == [END, END]


async def test_a_late_outcome_overlaps_those_of_later_days(floor: Floor) -> None:
    """Over three days; the late one lies less than that before the second and the third, and three before the last."""
    await floor.trade("ADA/BTC", every(HOUR / 2, T0, T0 + 9 * DAY), HOUR / 2)
    after = {"a": 0.5, "c": 3.0, "d": 5.0, "e": 5.5}
    await floor.record(*(forecast(name, horizon="3d", issued_at=T0 + days * DAY) for name, days in after.items()))
    as_of = T0 + 9 * DAY
    await floor.resolve(as_of)
    await floor.perform(as_of)
    await floor.record(forecast("b", horizon="3d", issued_at=T0 + 2.5 * DAY))
    await floor.resolve(as_of)
    assert (await floor.perform(as_of)).days == 3  # its own, and of what follows those nearer than three days
    await assert_as_computed(floor, as_of)
    rows = await floor.sql("SELECT day, sum(overlap) AS n FROM producer_daily_bins GROUP BY day ORDER BY day")
    days = [((T0 + (3 + days) * DAY).date(), days) for days in (0.5, 2.5, 3.0, 5.0, 5.5)]
    overlap = [
        1 + sum(2 * max(0.0, 1 - (mine - other) / 3) for _, other in days[:i]) for i, (_, mine) in enumerate(days)
    ]
    wanted: dict[Any, float] = defaultdict(float)
    for (day, _), one in zip(days, overlap, strict=True):
        wanted[day] += one
    assert [(row["day"], row["n"]) for row in rows] == [(day, pytest.approx(n)) for day, n in wanted.items()]


async def test_a_late_outcome_before_midnight_overlaps_that_after_it(floor: Floor) -> None:
    await floor.trade("ADA/BTC", every(HOUR / 4, T0, T0 + 3 * DAY), HOUR / 4)
    midnight = T0 + 2 * DAY
    after = forecast("after", horizon="1h", issued_at=midnight - HOUR / 2)
    alone = forecast("alone", horizon="1h", issued_at=midnight + HOUR)
    await floor.record(after, alone)
    as_of = T0 + 3 * DAY
    await floor.resolve(as_of)
    await floor.perform(as_of)
    await floor.record(forecast("before", horizon="1h", issued_at=midnight - 1.25 * HOUR))
    await floor.resolve(as_of)
    assert (await floor.perform(as_of)).days == 2
    rows = await floor.sql("SELECT sum(overlap) AS n FROM producer_daily_bins GROUP BY day ORDER BY day")
    assert [row["n"] for row in rows] == pytest.approx([1, 2 + 2 * 0.25])


async def test_of_other_books_and_of_the_shadow_nothing_is_counted(floor: Floor) -> None:
    await floor.trade("ADA/BTC", every(HOUR / 2, T0, T0 + DAY), HOUR / 2)
    await floor.record(*(forecast(f"f-{i}", issued_at=T0 + i * HOUR) for i in range(6)))
    await floor.record(*(forecast(f"f-{i}", book="c", issued_at=T0 + i * HOUR, action="short") for i in range(6)))
    await floor.record(*(forecast(f"s-{i}", issued_at=T0 + i * HOUR, action="short") for i in range(6)), shadow=True)
    await floor.resolve(T0 + DAY)
    assert (await floor.perform(T0 + DAY)).books == ["b", "c"]
    rows = await floor.sql("SELECT * FROM producer_performance WHERE asset = '' AND horizon = '' AND regime = ''")
    assert {(row["book_id"], row["outcomes"], row["hit_rate"]) for row in rows} == {("b", 6, 1.0), ("c", 6, 0.0)}


async def test_abstentions_are_counted_and_never_scored(floor: Floor) -> None:
    await floor.trade("ADA/BTC", every(HOUR / 2, T0, T0 + DAY), HOUR / 2)
    await floor.record(forecast("f"), abstention("a", regime="BULL"), abstention("silent", book="c", asset="X"))
    await floor.record(abstention("later", issued_at=T0 + DAY), abstention("old", issued_at=T0 - 5 * DAY))
    await floor.resolve(T0 + HOUR + 4 * MINUTE)
    await floor.perform(T0 + HOUR + 4 * MINUTE)
    assert await floor.sql("SELECT * FROM producer_performance WHERE abstentions > 0") == []
    as_of = T0 + 2 * HOUR
    await floor.resolve(as_of)
    assert (await floor.perform(as_of)).books == ["b", "c"]
    rows = await floor.sql("SELECT * FROM producer_performance")
    found = {(r["book_id"], r["asset"], r["horizon"], r["regime"]): (r["outcomes"], r["abstentions"]) for r in rows}
    of_ada = {
        ("b", asset, horizon, regime): (0 if regime else 1, 1)
        for asset, horizon, regime in product(("ADA/BTC", ""), ("1h", ""), ("BULL", ""))
    }
    of_x = {("c", asset, horizon, ""): (0, 1) for asset, horizon in product(("X", ""), ("1h", ""))}
    assert found == of_ada | of_x


# -- recalibration -----------------------------------------------------------------------------------------------------


async def test_a_map_is_made_again_only_after_a_tenth_more_outcomes(floor: Floor) -> None:
    await floor.trade("ADA/BTC", every(HOUR / 2, T0, T0 + 8 * DAY), HOUR / 2)
    rng = random.Random(2)

    async def more(producer: str, first: int, last: int) -> None:
        said = [
            forecast(
                f"{producer}-{i}",
                producer_id=producer,
                issued_at=T0 + i * HOUR,
                confidence=rng.random(),
                action=rng.choice(["long", "short"]),
            )
            for i in range(first, last)
        ]
        await floor.record(*said)
        await floor.resolve(END)

    await more("ta", 0, 99)
    await more("flow", 0, 150)
    assert await floor.recalibrate(END) == ["b/flow/1"]
    await more("ta", 99, 100)
    assert await floor.recalibrate(T0 + 100 * HOUR - TICK) == []  # as of then, the last was not over
    assert await asyncio.gather(*(floor.recalibrate(END) for _ in range(3))) in (
        [["b/ta/1"], [], []],
        [[], ["b/ta/1"], []],
        [[], [], ["b/ta/1"]],
    )
    await more("ta", 100, 109)
    assert await floor.recalibrate(END) == []
    await more("ta", 109, 110)
    assert await floor.recalibrate(END) == ["b/ta/2"]
    assert await floor.recalibrate(T0 + 50 * HOUR) == []
    maps = await stored(floor, "recalibration_maps", "producer_id", "version")
    assert {key: row["n"] for key, row in maps.items()} == {("flow", 1): 150, ("ta", 1): 100, ("ta", 2): 110}
    told = await floor.events("producer.recalibration.v1")
    assert [(e["producer_id"], e["version"]) for e in told] == [("flow", 1), ("ta", 1), ("ta", 2)]
    for event in told:
        row = maps[event["producer_id"], event["version"]]
        assert (event["adopted"], event["evidence"]) == (row["adopted"], row["evidence"])
        assert row["evidence"]["outcomes"] == row["n"]
        assert row["recalibrated"] == sorted(row["recalibrated"])
        edge = 1 / (row["n"] + 2)
        assert all(edge <= p <= 1 - edge for p in row["recalibrated"])


async def test_the_map_of_one_who_boasts_is_adopted(floor: Floor) -> None:
    """It says 95 % and is right in half of the cases; another one is as good as it says."""
    closes = every(HOUR / 2, T0, END, 1000.0)
    rng = random.Random(4)
    price = 1000.0
    for end in closes:
        price *= 1 + rng.choice([-0.01, 0.01])
        closes[end] = price
    await floor.trade("ADA/BTC", closes, HOUR / 2)
    said = []
    for i in range(230):
        at = T0 + i * HOUR
        rose = closes[at + HOUR] > closes[at]
        boast, honest = rng.random() < 0.5, rng.random() < 0.75
        for producer, right, confidence in (("boaster", boast, 0.95), ("honest", honest, 0.75)):
            action = "long" if rose == right else "short"
            said.append(
                forecast(f"{producer}-{i}", producer_id=producer, issued_at=at, action=action, confidence=confidence)
            )
    await floor.record(*said)
    await floor.resolve(END + DAY)
    await floor.recalibrate(END + DAY)
    maps = await stored(floor, "recalibration_maps", "producer_id")
    boaster, honest_map = maps["boaster",], maps["honest",]
    assert (boaster["adopted"], honest_map["adopted"]) == (True, False)
    assert boaster["evidence"]["gain_low"] > 0
    assert boaster["recalibrated"] == pytest.approx([0.5], abs=0.1)


# -- health ------------------------------------------------------------------------------------------------------------


async def test_a_heartbeat_counts_once(floor: Floor) -> None:
    activities = ForecastActivities(floor.sessions, POLICY)

    def beat(name: str, minute: int, failures: int = 0, error: str | None = None) -> Heartbeat:
        return Heartbeat(
            heartbeat_id=name,
            book="b",
            producer_id="ta",
            successes=0 if failures else 2,
            failures=failures,
            at=T0 + minute * MINUTE,
            error=error,
        )

    beats = [
        beat("1", 5),
        beat("2", 3),
        beat("3", 9, 1, "timeout"),
        beat("4", 7, 3, "earlier"),
        beat("5", 11, 1, "refused"),
    ]
    counted = await asyncio.gather(*(activities.record_heartbeat(one) for one in beats * 4))
    assert sum(counted) == len(beats)
    [row] = await floor.sql("SELECT * FROM producer_health")
    assert (row["successes"], row["failures"]) == (4, 5)
    assert (row["last_success_at"], row["last_failure_at"]) == (T0 + 5 * MINUTE, T0 + 11 * MINUTE)
    assert row["last_error"] == "refused"
    assert await activities.record_heartbeat(beat("1", 5)) is False
    assert await activities.record_heartbeat(beat("1", 5).model_copy(update={"producer_id": "flow"})) is True


async def test_health_is_of_the_last_days_and_as_of_a_time_of_what_had_come_by_then(floor: Floor) -> None:
    """Years of successes do not hide a day of failures."""
    activities = ForecastActivities(floor.sessions, POLICY)
    now = datetime.now(UTC)
    beats = [(20 * DAY, 100_000, 0, None), (3 * HOUR, 30, 0, None), (2 * HOUR, 0, 500, "refused")]
    for ago, successes, failures, error in beats:
        one = Heartbeat(
            heartbeat_id=str(ago), book="b", producer_id="ta", successes=successes, failures=failures, at=now - ago,
            error=error,
        )  # fmt: skip
        assert await activities.record_heartbeat(one)
    async with floor.sessions.begin() as session:
        await session.execute(text("UPDATE producer_heartbeats SET at = happened_at WHERE book_id = 'b'"))

    async def health(as_of: datetime | None = None) -> HealthView:
        async with floor.sessions() as session:
            [view] = await listing(session, POLICY, now, "b", as_of=as_of)
            return view.health

    found = await health()
    assert (found.state, found.observations, found.error_rate) == ("failing", 530, pytest.approx(500 / 530))
    assert found.score is not None
    assert found.score < 0.1
    assert (found.successes, found.failures, found.lifetime_error_rate) == (100_030, 500, pytest.approx(500 / 100_530))
    then = await health(now - timedelta(hours=2.5))
    assert (then.state, then.observations, then.error_rate) == ("healthy", 30, 0.0)
    assert (then.successes, then.failures, then.last_failure_at, then.last_error) == (100_030, 0, None, None)
    assert then.last_success_at == now - 3 * HOUR
    silent = await health(now - 12 * DAY)
    assert (silent.state, silent.observations, silent.successes) == ("stale", 0, 100_000)
    gone = await health(now - 29 * DAY)
    assert (gone.state, gone.successes) == ("unknown", None)
    assert "kept for 30 days" in gone.reason
    async with floor.sessions.begin() as session:  # as the upgrade leaves what came before it
        await session.execute(text("UPDATE producer_heartbeats SET successes = NULL, failures = NULL"))
    assert (await health(now - HOUR)).successes is None
    assert (await health()).successes == 100_030
