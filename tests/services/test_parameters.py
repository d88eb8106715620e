"""Which parameters an engine reads: the mode of a book, the arm of a symbol on a day, and what is not computed yet."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.arms import is_learned
from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.parameters import ModeRequest, ParameterMode
from closeloop.services import parameters
from closeloop.store.database import Sessions
from tests.store.databases import query

NOW = datetime(2026, 5, 20, 12, 30, tzinfo=UTC)


@pytest.fixture
async def book(book: str, sessions: Sessions) -> str:
    async with sessions.begin() as session:
        await store.books.hold(session, book)
    return book


async def put(session: AsyncSession, book: str, mode: ParameterMode, share: float | None = None) -> None:
    await parameters.set_mode(session, ModeRequest(book=book, mode=mode, share=share, operator="ann"))


async def arms(session: AsyncSession, book: str, day: datetime = NOW) -> list[str]:
    return [(await parameters.adaptive(session, book, f"S{n}", None, day))["arm"] for n in range(200)]


async def test_in_shadow_nothing_is_learned_and_live_everything(session: AsyncSession, book: str) -> None:
    assert (await parameters.mode(session, book)).mode is ParameterMode.shadow
    assert set(await arms(session, book)) == {"default"}
    await put(session, book, ParameterMode.live)
    assert set(await arms(session, book)) == {"learned"}
    await put(session, book, ParameterMode.shadow)
    assert set(await arms(session, book)) == {"default"}


async def test_a_test_gives_each_symbol_an_arm_for_the_day(session: AsyncSession, book: str) -> None:
    await put(session, book, ParameterMode.ab, 0.25)
    first = await arms(session, book)
    assert await arms(session, book) == first
    assert [arm == "learned" for arm in first] == [is_learned(book, f"S{n}", NOW.date(), 0.25) for n in range(200)]
    assert 25 < first.count("learned") < 80
    assert await arms(session, book, NOW + timedelta(days=1)) != first
    assert (await parameters.adaptive(session, book, None, None, NOW))["arm"] == "default"


def test_a_larger_share_takes_no_symbol_out() -> None:
    days = [(NOW + timedelta(days=n)).date() for n in range(40)]
    small = {(n, day) for n in range(100) for day in days if is_learned("b", f"S{n}", day, 0.1)}
    large = {(n, day) for n in range(100) for day in days if is_learned("b", f"S{n}", day, 0.5)}
    assert small < large
    assert len(small) / 4_000 == pytest.approx(0.1, abs=0.02)
    assert len(large) / 4_000 == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("mode", "share"), [("ab", None), ("live", 0.5), ("shadow", 0.5)])
async def test_only_a_test_has_a_share(session: AsyncSession, book: str, mode: str, share: float | None) -> None:
    with pytest.raises(NotAcceptable, match="share"):
        await put(session, book, ParameterMode(mode), share)
    with pytest.raises(NotOnRecord):
        await put(session, f"{book}-none", ParameterMode.live)


async def test_each_change_is_on_record_with_its_operator(session: AsyncSession, sessions: Sessions, book: str) -> None:
    await put(session, book, ParameterMode.ab, 0.1)
    await put(session, book, ParameterMode.live)
    rows = await query(
        sessions,
        "SELECT payload FROM events WHERE type LIKE '%parameter%' AND payload ->> 'book' = :b ORDER BY id",
        b=book,
    )
    assert [(row["payload"]["mode"], row["payload"]["operator"]) for row in rows] == [("ab", "ann"), ("live", "ann")]


async def test_what_is_not_computed_says_so(session: AsyncSession, book: str) -> None:
    adaptive = await parameters.adaptive(session, book, "X", "bull", NOW)
    assert adaptive["data"]["reason"] == "too little data"
    assert sum(adaptive["data"]["optimized_parameters"].values()) == pytest.approx(1.0)
    assert (adaptive["applies_to_regime"], adaptive["data"]["market_regime"], adaptive["version"]) == (
        "bull",
        "bull",
        0,
    )
    insights = await parameters.insights(session, book)
    assert (insights["data"]["patterns"], insights["data"]["reason"]) == ([], "too little data")
    blocks = await parameters.recommendations(session, book, NOW)
    for name in ("discovery_parameter_adjustments", "confidence_calibration", "market_regime_insights"):
        assert blocks[name] == {"n": 0, "reason": "too little data"}
    assert (blocks["pattern_alerts"], blocks["risk_warnings"]) == ([], [])
