"""The meta-producer in the database: its gate, its shadow, and an operator's decision to let it speak."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import RowMapping
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.meta import MetaActivities, meta_hash
from closeloop.models.approvals import ApprovalAnswer, ApprovalKey, ApprovalState, ApprovalVerdict, RecordApproval
from closeloop.models.errors import NotOnRecord
from closeloop.models.forecasts import Forecast
from closeloop.models.meta import MetaReport, MetaRequest
from closeloop.models.policy import LearningPolicy
from closeloop.services import approvals
from closeloop.services import meta as services
from closeloop.services.meta import track_record
from closeloop.services.meta_decisions import META_MODE, PROPOSALS, LeavingShadow, back_to_shadow
from tests.activities.forecasting import DAY, HOUR, MINUTE, T0, TICK, Floor, abstention, floor_on, forecast

POLICY = LearningPolicy(meta_min_outcomes=80)
HOURS = 3 * 40
AS_OF = T0 + HOURS * HOUR + 30 * MINUTE


@pytest.fixture(scope="module")
async def module_floor(dsn: str) -> AsyncIterator[Floor]:
    async with floor_on(dsn) as floor:
        floor.policy = POLICY
        yield floor


@pytest.fixture
async def floor(module_floor: Floor) -> Floor:
    await module_floor.clear()
    return module_floor


def rises() -> list[bool]:
    """Whether the price rises in each hour: in half of them."""
    rng = random.Random(3)
    return [rng.random() < 0.5 for _ in range(HOURS + 30)]


RISES = rises()


async def prices(floor: Floor) -> None:
    price, closes = 100.0, {T0: 100.0}
    for hour, rose in enumerate(RISES):
        for half in (1, 2):
            price *= 1.005 if rose else 1 / 1.005
            closes[T0 + hour * HOUR + half * 30 * MINUTE] = price
    await floor.trade("ADA/BTC", closes, 30 * MINUTE)


async def listened(floor: Floor, book: str = "b") -> int:
    """A seer and a parrot spoke every three hours, the seer just now: a rise. How often it rose when it said so."""
    await prices(floor)
    spoken = []
    for hour in range(0, HOURS, 3):
        sees = "long" if RISES[hour] else "short"
        at = T0 + hour * HOUR
        spoken.append(forecast(f"s-{hour}", book=book, producer_id="seer", issued_at=at, action=sees))
        spoken.append(forecast(f"p-{hour}", book=book, producer_id="parrot", issued_at=at, action="long"))
    await floor.record(*spoken)
    await floor.resolve(AS_OF)
    await floor.record(stands(AS_OF - 20 * MINUTE, book=book))
    return sum(RISES[0:HOURS:3])


def stands(at: datetime, **changes: Any) -> Forecast:
    return forecast(f"now-{at.isoformat()}", **{"producer_id": "seer", "issued_at": at} | changes)


async def speak(floor: Floor, as_of: datetime = AS_OF) -> MetaReport:
    return await ActivityEnvironment().run(
        MetaActivities(floor.sessions, floor.policy).speak_meta, MetaRequest(as_of=as_of)
    )


async def decisions(floor: Floor, book: str = "b") -> list[RowMapping]:
    return await floor.sql("SELECT * FROM meta_decisions WHERE book_id = :book ORDER BY id", book=book)


# -- what it says ------------------------------------------------------------------------------------------------------


async def test_in_shadow_it_is_scored_and_seen_nowhere_else(floor: Floor) -> None:
    k = await listened(floor)
    told = len(await floor.events("forecast.v1"))
    closes = await floor.sql("SELECT * FROM price_history")
    await floor.sql("TRUNCATE price_history")  # it never reads prices
    assert await speak(floor) == MetaReport(shadowed=1)
    [said] = await decisions(floor)
    assert (said["action"], said["reason"], said["state"]) == ("no_forecast", "shadow_mode", {"seer": "long"})
    assert said["confidence"] == pytest.approx((k + 1) / (k + 2))
    evidence = said["evidence"]
    assert (evidence["direction"], evidence["k"], evidence["n"], evidence["share"]) == ("long", k, k, 1.0)
    assert evidence["base_rate"] == pytest.approx(k / 40)
    assert evidence["base_rate"] < evidence["wilson_low"] < 1
    [thought] = await floor.sql("SELECT * FROM forecasts WHERE forecast_id = :id", id=said["forecast_id"])
    assert thought["shadow"]
    assert (thought["producer_id"], thought["action"], thought["issued_at"]) == ("meta", "long", AS_OF)

    # It is resolved and scored, and counts nowhere.
    for close in closes:
        await floor.trade("ADA/BTC", {close["ends_at"]: close["close"]}, 30 * MINUTE)
    later = AS_OF + 70 * MINUTE
    await floor.resolve(later)
    await floor.perform(later)
    [scored] = (await floor.outcomes(shadow=True)).values()
    assert scored["forecast_id"] == said["forecast_id"]
    assert scored["direction_correct"] == (scored["return_pct"] > 0)
    assert "meta" not in {row["producer_id"] for row in (await floor.outcomes()).values()}
    names = {row["producer_id"] for row in await floor.sql("SELECT producer_id FROM producer_performance")}
    assert names == {"seer", "parrot"}
    assert len(await floor.events("forecast.v1")) == told
    assert "meta" not in {payload["producer_id"] for payload in await floor.events("forecast.outcome.v1")}
    await speak(floor, later)
    assert (await decisions(floor))[-1]["state"] == {"seer": "long"}
    async with floor.sessions() as session:
        record = await track_record(session, POLICY, "b", later)
    assert (record.mode, record.gate_open, record.outcomes) == ("shadow", True, 81)
    assert record.shadow is not None
    assert (record.shadow.n, record.shadow.correct) == (1, int(scored["direction_correct"]))
    assert record.shadow.brier == pytest.approx(scored["brier_score"])
    assert record.producers_meanwhile.n == 1


async def test_the_gate_opens_with_enough_outcomes_of_the_book(floor: Floor) -> None:
    await listened(floor)
    floor.policy = LearningPolicy(meta_min_outcomes=81)
    assert await speak(floor) == MetaReport(abstained={"insufficient_data": 1})
    [said] = await decisions(floor)
    assert (said["action"], said["reason"], said["forecast_id"]) == ("no_forecast", "insufficient_data", None)
    assert said["policy_hash"] == meta_hash(floor.policy)
    floor.policy = POLICY
    assert (await floor.sql("SELECT count(*) AS n FROM forecasts WHERE producer_id = 'meta'"))[0]["n"] == 0
    assert await speak(floor, AS_OF + TICK) == MetaReport(shadowed=1)


async def test_what_tells_nothing_is_abstained_from(floor: Floor) -> None:
    """The parrot always says the same: what follows is what always follows."""
    await listened(floor)
    await floor.record(forecast("now", producer_id="parrot", issued_at=AS_OF))
    await floor.sql("DELETE FROM forecast_resolution_state WHERE forecast_id LIKE 'now-%'")
    await floor.sql("DELETE FROM forecasts WHERE forecast_id LIKE 'now-%'")
    assert await speak(floor) == MetaReport(abstained={"low_confidence": 1})


async def test_only_the_last_two_hours_are_the_state(floor: Floor) -> None:
    await listened(floor)
    await floor.record(
        forecast("old", producer_id="a", issued_at=AS_OF - 2 * HOUR),
        forecast("just", producer_id="b", issued_at=AS_OF - 2 * HOUR + TICK, action="flat"),
        forecast("earlier", producer_id="c", issued_at=AS_OF - HOUR),
        forecast("latest", producer_id="c", issued_at=AS_OF, action="short"),
        forecast("later", producer_id="c", issued_at=AS_OF + TICK),
        forecast("of another horizon", producer_id="d", issued_at=AS_OF, horizon="4h"),
        forecast("of another asset", producer_id="e", issued_at=AS_OF, asset="ETH/BTC"),
        abstention("silent", producer_id="f", issued_at=AS_OF, asset="XMR/BTC"),
        forecast("of tomorrow", producer_id="h", issued_at=AS_OF + TICK, asset="LTC/BTC"),
        forecast("of another book", producer_id="g", issued_at=AS_OF, book="c"),
    )
    await floor.record(forecast("thought", producer_id="meta", issued_at=AS_OF), shadow=True)
    await speak(floor)
    states = {(row["asset"], row["horizon"]): row["state"] for row in await decisions(floor)}
    assert states == {
        ("ADA/BTC", "1h"): {"b": "flat", "c": "short", "seer": "long"},
        ("ADA/BTC", "4h"): {"d": "long"},
        ("ETH/BTC", "1h"): {"e": "long"},
    }
    assert [row["state"] for row in await decisions(floor, "c")] == [{"g": "long"}]
    ids = [row["id"] for row in await decisions(floor)]
    async with floor.sessions() as session:
        page = [view async for view in services.decisions(session, "b", last=1, before=str(ids[-1]))]
        assert [view.id for view in page] == [ids[-2]]
        assert page[0].evidence.n == 0


async def test_the_meta_producer_forecasts_once_for_an_instant(floor: Floor) -> None:
    await listened(floor)
    await asyncio.gather(*(speak(floor) for _ in range(4)))
    await speak(floor)
    assert len(await decisions(floor)) == 1
    assert (await floor.sql("SELECT count(*) AS n FROM forecasts WHERE producer_id = 'meta'"))[0]["n"] == 1
    assert len([s for s in await floor.states() if s.startswith("meta-")]) == 1


# -- leaving shadow ----------------------------------------------------------------------------------------------------


async def propose(floor: Floor, book: str = "b", deadline: datetime = AS_OF + DAY) -> ApprovalKey:
    async with floor.sessions.begin() as session:
        await store.books.hold(session, book)
        row = await PROPOSALS.propose(
            session,
            {
                "book_id": book,
                "state": ApprovalState.pending,
                "evidence": {"shadow": None},
                "proposed_at": AS_OF,
                "deadline": deadline,
                "policy_hash": POLICY.policy_hash,
            },
        )
    return ApprovalKey(kind=META_MODE, book=book, id=str(row["number"]))


async def decide(
    floor: Floor, key: ApprovalKey, verdict: str | None, operator: str = "ann", at: datetime = AS_OF
) -> ApprovalAnswer:
    word = RecordApproval(
        **key.model_dump(),
        verdict=None if verdict is None else ApprovalVerdict(verdict),
        operator=operator if verdict else "",
        note="because",
        at=at,
    )
    async with floor.sessions.begin() as session:
        return await approvals.decide(session, approvals.subject_of([LeavingShadow()], key), word)


async def mode(floor: Floor, book: str = "b") -> RowMapping | None:
    async with floor.sessions() as session:
        return await store.meta.mode(session, book)


async def test_an_approved_meta_producer_is_live_until_it_is_sent_back(floor: Floor) -> None:
    await listened(floor)
    key = await propose(floor)
    assert key == await propose(floor)  # while one waits, it is that one
    assert (await decide(floor, key, "approve")).accepted
    assert (await decide(floor, key, "approve")).reason == "this very word was carried out"  # the worker died after it
    live = await mode(floor)
    assert live is not None
    assert (live["live"], live["operator"], live["note"], live["since"]) == (True, "ann", "because", AS_OF)
    [event] = await floor.events("learning.approval.approved.v1")
    assert (event["book"], event["operator"], event["note"]) == ("b", "ann", "because")

    assert await speak(floor) == MetaReport(emitted=1)
    [said] = await decisions(floor)
    assert (said["action"], said["reason"]) == ("long", None)
    [payload] = [e for e in await floor.events("forecast.v1") if e["producer_id"] == "meta"]
    assert payload["forecast_id"] == said["forecast_id"]
    await floor.record(stands(AS_OF + HOUR))
    await floor.resolve(AS_OF + 2 * HOUR)
    await floor.perform(AS_OF + 2 * HOUR)
    assert said["forecast_id"] in await floor.outcomes()
    names = {row["producer_id"] for row in await floor.sql("SELECT producer_id FROM producer_performance")}
    assert "meta" in names
    await speak(floor, AS_OF + 90 * MINUTE)  # what it said itself is half of what was said lately
    assert (await decisions(floor))[-1]["state"] == {"seer": "long"}

    assert await back_to_shadow(floor.sessions, "b", "bob", "too bold")
    assert not await back_to_shadow(floor.sessions, "b", "bob", "too bold")
    [shadowed] = await floor.events("meta.shadowed.v1")
    assert (shadowed["book"], shadowed["operator"], shadowed["note"]) == ("b", "bob", "too bold")
    assert await speak(floor, AS_OF + 2 * HOUR) == MetaReport(shadowed=1)
    again = await propose(floor)
    assert again.id == "2"
    async with floor.sessions() as session:
        record = await track_record(session, POLICY, "b", AS_OF + DAY)
    assert record.live is not None
    assert (record.mode, record.decided_by, record.live.n, record.shadow) == ("shadow", "bob", 1, None)


@pytest.mark.parametrize(("verdict", "state"), [("reject", "rejected"), (None, "expired")])
async def test_not_approved_it_stays_in_shadow(floor: Floor, verdict: str | None, state: str) -> None:
    await listened(floor)
    key = await propose(floor)
    answer = await decide(floor, key, verdict)
    assert (answer.accepted, answer.state, answer.reason) == (True, state, "the meta-producer stays in shadow")
    late = await decide(floor, key, "approve", "bob", AS_OF + HOUR)
    assert (late.accepted, late.state) == (False, state)
    assert await mode(floor) is None
    assert await speak(floor) == MetaReport(shadowed=1)
    assert [e["operator"] for e in await floor.events("learning.approval.word_refused.v1")] == ["bob"]
    assert len(await floor.events(f"learning.approval.{state}.v1")) == 1
    assert (await propose(floor)).id == "2"


async def test_of_many_words_at_once_one_is_carried_out(floor: Floor) -> None:
    key = await propose(floor)
    words = [("approve", "ann"), ("reject", "bob"), ("approve", "cid"), (None, ""), ("reject", "dan")]
    answers = await asyncio.gather(*(decide(floor, key, verdict, who) for verdict, who in words))
    assert [answer.accepted for answer in answers].count(True) == 1
    [carried_out] = [word for word, answer in zip(words, answers, strict=True) if answer.accepted]
    final = {answer.state for answer in answers}
    assert len(final) == 1
    found = await mode(floor)
    assert (found is not None and found["live"]) == (carried_out[0] == "approve")
    [row] = await floor.sql("SELECT * FROM meta_proposals")
    assert (row["verdict"], row["operator"]) == (carried_out[0], carried_out[1])
    decided = [e for e in ("approved", "rejected", "expired") if await floor.events(f"learning.approval.{e}.v1")]
    assert decided == list(final)


@pytest.mark.parametrize("number", ["1", "7", "x", "-1", "1.0", "9" * 30, "٣"])
async def test_what_nobody_proposed_cannot_be_decided(floor: Floor, number: str) -> None:
    key = ApprovalKey(kind=META_MODE, book="nobody", id=number)
    with pytest.raises(NotOnRecord):
        await decide(floor, key, "approve")
    with pytest.raises(NotOnRecord):
        await decide(floor, ApprovalKey(kind="nothing", book="b", id="1"), "approve")
    assert await floor.sql("SELECT * FROM meta_modes") == []


async def test_an_operator_must_have_a_name(floor: Floor) -> None:
    key = await propose(floor)
    answer = await decide(floor, key, "approve", "  ")
    assert (answer.accepted, answer.state) == (False, ApprovalState.pending)
    assert (await decide(floor, key, "approve", "ann")).accepted
