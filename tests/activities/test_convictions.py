"""Where a close's domain scores come from, and what a conviction learns of the trades that it opened."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from closeloop import store
from closeloop.models.convictions import ConvictionStatus, RecordedConviction
from closeloop.models.positions import ClosedPosition
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed, attributing, tally
from tests.closes import closed
from tests.store.databases import query

SCORES = {"onchain": -0.25, "social": 0.1}
INLINE = {"conviction_id": "c-1", "cycle_id": "cycle-1", "magnitude": 5.0, "domain_scores": SCORES}
BY_ID = {"conviction_id": "c-1"}
BY_CYCLE = {"conviction_id": "c-never-recorded", "cycle_id": "cycle-1"}


def recorded(book: str, **changes: Any) -> RecordedConviction:
    values = INLINE | {"book": book, "symbol": "BTC/USDT"} | changes
    return RecordedConviction.model_validate(values)


async def record_ahead(sessions: Sessions, *convictions: RecordedConviction) -> int:
    async with sessions.begin() as session:
        return await store.convictions.record_ahead(session, convictions)


async def status_and_scores(
    sessions: Sessions, position: ClosedPosition
) -> tuple[ConvictionStatus, dict[str, float] | None]:
    [answer] = await attributed(sessions, position)
    return answer.outcome.conviction_status, answer.outcome.domain_scores_at_entry


async def outcome_of(sessions: Sessions, book: str, conviction_id: str = "c-1") -> tuple[int | None, datetime | None]:
    [row] = await query(
        sessions,
        "SELECT outcome, outcome_ts FROM conviction_scores WHERE book_id = :book AND id = :id",
        book=book,
        id=conviction_id,
    )
    return row["outcome"], row["outcome_ts"]


# Where the scores come from -----------------------------------------------------------------------------------------


async def test_scores_come_with_the_message(book: str, sessions: Sessions) -> None:
    assert await status_and_scores(sessions, closed(book, conviction=INLINE)) == ("inline", SCORES)


async def test_scores_of_the_message_win_over_those_on_record(book: str, sessions: Sessions) -> None:
    await record_ahead(sessions, recorded(book, domain_scores={"onchain": 1.0}))
    assert await status_and_scores(sessions, closed(book, conviction=INLINE)) == ("inline", SCORES)
    assert await status_and_scores(sessions, closed(book, "p-2", conviction=BY_ID)) == ("recorded", {"onchain": 1.0})


@pytest.mark.parametrize("conviction", [BY_ID, BY_CYCLE], ids=["by its id", "by its cycle"])
async def test_scores_were_recorded_ahead(conviction: dict[str, Any], book: str, sessions: Sessions) -> None:
    assert await record_ahead(sessions, recorded(book)) == 1
    assert await status_and_scores(sessions, closed(book, conviction=conviction)) == ("recorded", SCORES)


async def test_the_cycle_that_the_message_names_wins_over_the_one_on_record(book: str, sessions: Sessions) -> None:
    later = {"onchain": 0.75}
    await record_ahead(
        sessions, recorded(book), recorded(book, conviction_id="c-2", cycle_id="c2", domain_scores=later)
    )
    conviction = {"conviction_id": "c-1", "cycle_id": "c2"}
    assert await status_and_scores(sessions, closed(book, conviction=conviction)) == ("recorded", later)


async def test_scores_came_with_an_earlier_close(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, "p-1", conviction=INLINE))
    assert await status_and_scores(sessions, closed(book, "p-2", conviction=BY_ID)) == ("recorded", SCORES)


@pytest.mark.parametrize("order", [("p-1", "p-2"), ("p-2", "p-1")])
async def test_scores_come_with_another_close_of_the_batch(order: Sequence[str], book: str, sessions: Sessions) -> None:
    convictions = {"p-1": INLINE, "p-2": BY_ID}
    answers = await attributed(sessions, *(closed(book, name, conviction=convictions[name]) for name in order))
    found = {answer.outcome.position_id: answer.outcome for answer in answers}
    assert (found["p-1"].conviction_status, found["p-2"].conviction_status) == ("inline", "recorded")
    assert found["p-2"].domain_scores_at_entry == SCORES


async def test_a_conviction_that_nobody_recorded_is_unknown_and_not_made_up(book: str, sessions: Sessions) -> None:
    assert await status_and_scores(sessions, closed(book, conviction=BY_ID)) == ("unknown", None)
    assert (await tally(sessions, book)).convictions == 0


async def test_a_conviction_about_another_symbol_is_unknown(book: str, sessions: Sessions) -> None:
    await record_ahead(sessions, recorded(book, symbol="ETH/USDT"))
    assert await status_and_scores(sessions, closed(book, conviction=BY_ID)) == ("unknown", None)


async def test_a_conviction_of_another_book_is_unknown(book: str, sessions: Sessions) -> None:
    await record_ahead(sessions, recorded(f"{book}-other"))
    assert await status_and_scores(sessions, closed(book, conviction=BY_ID)) == ("unknown", None)
    assert await outcome_of(sessions, f"{book}-other") == (None, None)


async def test_a_close_without_a_conviction_says_so(book: str, sessions: Sessions) -> None:
    assert await status_and_scores(sessions, closed(book, conviction=None)) == ("none", None)


async def test_the_first_recording_stands(book: str, sessions: Sessions) -> None:
    assert await record_ahead(sessions, recorded(book), recorded(book, domain_scores={"onchain": 1.0})) == 1
    assert await record_ahead(sessions, recorded(book, domain_scores={"onchain": 0.5}, magnitude=1.0)) == 0
    [row] = await query(sessions, "SELECT * FROM conviction_scores WHERE book_id = :book", book=book)
    assert row["magnitude"] == 5.0
    assert await status_and_scores(sessions, closed(book, conviction=BY_ID)) == ("recorded", SCORES)


async def test_recording_nothing_is_fine(sessions: Sessions) -> None:
    assert await record_ahead(sessions) == 0


# What the conviction learns -----------------------------------------------------------------------------------------

EARLY, LATE = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)
FORMS = {"inline": INLINE, "by id": BY_ID}


@pytest.mark.parametrize(("realized_pnl", "outcome"), [("1", 1), ("0", -1), ("-1", -1)])
@pytest.mark.parametrize("form", FORMS)
async def test_a_conviction_gets_the_outcome_of_its_trade(
    form: str, realized_pnl: str, outcome: int, book: str, sessions: Sessions
) -> None:
    await record_ahead(sessions, recorded(book), recorded(book, conviction_id="c-2", cycle_id="cycle-2"))
    position = closed(book, conviction=FORMS[form], realized_pnl=realized_pnl, closed_at=LATE.isoformat())
    for _ in range(2):
        await attributed(sessions, position)
        assert await outcome_of(sessions, book) == (outcome, LATE)
    assert await outcome_of(sessions, book, "c-2") == (None, None)


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one after the other"])
@pytest.mark.parametrize("late_first", [True, False], ids=["the later one first", "the earlier one first"])
@pytest.mark.parametrize("late_form", FORMS)
@pytest.mark.parametrize("early_form", FORMS)
async def test_of_two_trades_of_a_conviction_the_last_to_close_decides(
    early_form: str, late_form: str, late_first: bool, together: bool, book: str, sessions: Sessions
) -> None:
    await record_ahead(sessions, recorded(book))
    early = closed(book, "p-1", conviction=FORMS[early_form], realized_pnl="9", closed_at=EARLY.isoformat())
    late = closed(book, "p-2", conviction=FORMS[late_form], realized_pnl="-9", closed_at=LATE.isoformat())
    arriving = [late, early] if late_first else [early, late]
    for batch in [arriving] if together else [[position] for position in arriving]:
        await attributing(sessions, *batch)
    assert await outcome_of(sessions, book) == (-1, LATE)


@pytest.mark.parametrize("late_form", FORMS)
@pytest.mark.parametrize("early_form", FORMS)
async def test_the_last_to_close_decides_where_the_batch_itself_brings_the_conviction(
    early_form: str, late_form: str, book: str, sessions: Sessions
) -> None:
    brought = closed(book, "p-0", conviction=INLINE, realized_pnl="9", closed_at="2026-01-01T12:00:00Z")
    early = closed(book, "p-1", conviction=FORMS[early_form], realized_pnl="9", closed_at=EARLY.isoformat())
    late = closed(book, "p-2", conviction=FORMS[late_form], realized_pnl="-9", closed_at=LATE.isoformat())
    await attributing(sessions, late, early, brought)
    assert await outcome_of(sessions, book) == (-1, LATE)


async def test_a_late_arriving_early_close_changes_nothing(book: str, sessions: Sessions) -> None:
    await attributed(sessions, closed(book, "p-1", conviction=INLINE, closed_at=LATE.isoformat()))
    await attributed(sessions, closed(book, "p-2", conviction=INLINE, closed_at=EARLY.isoformat(), realized_pnl="-1"))
    assert await outcome_of(sessions, book) == (1, LATE)
