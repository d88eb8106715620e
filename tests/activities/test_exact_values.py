"""What an engine sends is what the database holds and what is read back: every digit, bit and character."""

import uuid
from collections.abc import Iterable
from decimal import Context, Decimal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from closeloop import store
from closeloop.learning.attribution import r_multiple
from closeloop.models.positions import ClosedPosition
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed
from tests.closes import closed
from tests.store.databases import query

# A database behind every example: few of them, each a whole batch.
BATCHES = settings(
    max_examples=15, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


EXACT = Context(prec=300)  # Python's own arithmetic rounds to 28 digits, even a minus sign


@st.composite
def decimals(draw: st.DrawFn) -> Decimal:
    """Any amount that a message may hold: up to 100 digits, from 1e-60 to 1e31, and 0."""
    digits = draw(st.integers(1, 10 ** draw(st.integers(1, 91)) - 1))
    highest = draw(st.integers(-60, 30))  # the place of the first digit
    return Decimal(digits).scaleb(highest - len(str(digits)) + 1, context=EXACT)


floats = st.floats(0.0, allow_nan=False, allow_infinity=False, allow_subnormal=True)
scores = st.floats(-1.0, 1.0, allow_nan=False, allow_subnormal=True)
characters = st.characters(exclude_categories=("Cc", "Cs"))
names = st.text(characters, min_size=1, max_size=60).filter(lambda text: len(text.encode()) <= 200)
EDGES = [
    "1E+30",
    "9" * 31,
    "1E-60",
    "0." + "0" * 59 + "1",
    "123456789012345678901234567890." + "9" * 60,
    "0.10",
    "5E+4",
]


async def stored(sessions: Sessions, column: str, positions: Iterable[ClosedPosition], table: str) -> list[str]:
    """A column as PostgreSQL itself writes it, in the order of the positions."""
    positions = list(positions)
    rows = await query(
        sessions,
        f"SELECT position_id, CAST({column} AS text) AS value FROM {table} WHERE book_id = :book",
        book=positions[0].book,
    )
    by_id = {row["position_id"]: row["value"] for row in rows}
    return [by_id[p.position_id] for p in positions]


async def again(sessions: Sessions, positions: list[ClosedPosition]) -> None:
    """What was read back is compared with what is sent, field by field, by the code itself: nothing may differ."""
    assert all(answer.already_attributed for answer in await attributed(sessions, *positions))


@BATCHES
@given(amounts=st.lists(decimals(), min_size=1, max_size=15))
@example(amounts=[Decimal(edge) for edge in EDGES])
async def test_money_keeps_every_digit(amounts: list[Decimal], sessions: Sessions) -> None:
    book = f"t-{uuid.uuid4().hex[:12]}"
    positions = [
        closed(
            book, f"p-{i}", entry_price=x, exit_price=x, size=x, risk=x, realized_pnl=x.copy_negate() if i % 2 else x
        )
        for i, x in enumerate(amounts)
    ]
    answers = await attributed(sessions, *positions)
    for column in ("entry_price", "exit_price", "size", "risk"):
        assert list(map(Decimal, await stored(sessions, column, positions, "positions"))) == amounts
    expected = [p.realized_pnl for p in positions]
    for table in ("positions", "attributions"):
        assert list(map(Decimal, await stored(sessions, "realized_pnl", positions, table))) == expected
    async with sessions() as session:
        loaded = await store.attributions.load(session, [p.key for p in positions])
        summary = await store.attributions.summary(session, book)
    assert [loaded[p.key].realized_pnl for p in positions] == expected
    assert [answer.outcome.rr for answer in answers] == [r_multiple(p.realized_pnl, p.risk) for p in positions]
    assert [loaded[p.key].rr for p in positions] == [1.0 if x > 0 else -1.0 for x in expected]
    assert summary.realized_pnl == sum_exactly(expected)
    await again(sessions, positions)


@BATCHES
@given(values=st.lists(st.tuples(floats, floats, scores), min_size=1, max_size=10))
@example(values=[(0.1 + 0.2, 5e-324, -5e-324), (1.7976931348623157e308, 1e23, -1.0), (2.0**-1074, 1e-7, 1 / 3)])
async def test_floats_keep_every_bit(values: list[tuple[float, float, float]], sessions: Sessions) -> None:
    book = f"t-{uuid.uuid4().hex[:12]}"
    positions = [
        closed(
            book,
            f"p-{i}",
            max_drawdown_pct=drawdown,
            max_favorable_pct=favourable,
            conviction={"conviction_id": f"c-{i}", "magnitude": -favourable, "domain_scores": {"x": score}},
            signals=[{"signal_id": "s", "producer_id": "p", "contribution_weight": favourable}],
        )
        for i, (drawdown, favourable, score) in enumerate(values)
    ]
    await attributed(sessions, *positions)
    async with sessions() as session:
        loaded = await store.attributions.load(session, [p.key for p in positions])
    found = [loaded[p.key] for p in positions]
    assert [o.max_drawdown_pct for o in found] == [v[0] for v in values]
    assert [o.max_favorable_pct for o in found] == [v[1] for v in values]
    assert [o.domain_scores_at_entry for o in found] == [{"x": v[2]} for v in values]
    rows = await query(sessions, "SELECT id, magnitude FROM conviction_scores WHERE book_id = :book", book=book)
    assert {row["id"]: row["magnitude"] for row in rows} == {f"c-{i}": -v[1] for i, v in enumerate(values)}
    await again(sessions, positions)


@BATCHES
@given(texts=st.lists(st.tuples(names, names, names), min_size=1, max_size=10, unique_by=lambda t: t[0]))
@example(
    texts=[("é", "e\u0301", "𝔘"), ("'; DROP TABLE positions; --", '"', "\\u0041"), (" ", "\ufffe", ":book {0} %s")]
)
async def test_names_keep_every_character(texts: list[tuple[str, str, str]], sessions: Sessions) -> None:
    book = f"t-{uuid.uuid4().hex[:12]}"
    positions = [
        closed(
            book,
            name,
            symbol=symbol,
            regime_at_entry=other,
            exit_reason=symbol,
            conviction={"conviction_id": other, "cycle_id": name, "domain_scores": {symbol: 0.5}},
            signals=[{"signal_id": name, "producer_id": other}],
        )
        for name, symbol, other in texts
    ]
    await attributed(sessions, *positions)
    async with sessions() as session:
        listed = [outcome async for outcome in store.attributions.listing(session, book)]
    # All closed at the same instant: the order is that of the ids' bytes, in PostgreSQL as in Python.
    assert [o.position_id for o in listed] == sorted((t[0] for t in texts), key=str.encode)
    by_id = {o.position_id: o for o in listed}
    for name, symbol, other in texts:
        found = by_id[name]
        assert (found.symbol, found.regime_at_entry, found.producers) == (symbol, other, [other])
        assert found.domain_scores_at_entry == {symbol: 0.5}
    await again(sessions, positions)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(characters, max_size=10)
    | st.floats(-1e15, 1e15),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=5), inner, max_size=3),
    max_leaves=8,
)


@BATCHES
@given(contexts=st.lists(st.dictionaries(st.text(characters, max_size=8), json_values, max_size=4), max_size=8))
@example(contexts=[{"a": {}, "b": [], "c": None, "": "", "tab": "\t\r\n", "big": 10**40, "sum": 0.1 + 0.2, "z": -0.0}])
async def test_the_entry_context_comes_back_as_it_was(contexts: list[dict[str, JsonValue]], sessions: Sessions) -> None:
    book = f"t-{uuid.uuid4().hex[:12]}"
    positions = [closed(book, f"p-{i}", entry_context=context) for i, context in enumerate(contexts)]
    await attributed(sessions, *positions)
    await again(sessions, positions)


@pytest.mark.parametrize("number", [1e23, 1.5e24, 1e300, -1.7976931348623157e308])
async def test_large_floats_in_the_entry_context_are_no_conflict(number: float, book: str, sessions: Sessions) -> None:
    """PostgreSQL writes the JSON number 1e23 as 100000000000000000000000, which Python reads as another number."""
    position = closed(book, entry_context={"amount": number})
    await attributed(sessions, position)
    await again(sessions, [position])


@pytest.mark.parametrize("zero", ["0", "-0", "0.000", "0E+5", "0E-30", "-0E-60"])
async def test_a_zero_is_a_zero_in_any_notation(zero: str, book: str, sessions: Sessions) -> None:
    position = closed(book, realized_pnl=zero)
    [answer] = await attributed(sessions, position)
    assert answer.outcome.rr == 0.0
    assert not answer.outcome.direction_correct
    await again(sessions, [position])
    await again(sessions, [closed(book, realized_pnl="0")])


def sum_exactly(amounts: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = EXACT.add(total, amount)
    return total
