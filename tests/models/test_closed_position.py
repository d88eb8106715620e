"""A closed position goes in as it was sent and comes out the same."""

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from closeloop.models.positions import ClosedPosition
from tests.closes import message
from tests.models.doors import accept, accept_json

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The message of the README, to the letter.
DOCUMENTED = """
{"book": "default", "position_id": "p-1", "symbol": "BTC/USDT", "direction": "long",
 "opened_at": "2026-01-01T00:00:00Z", "closed_at": "2026-01-01T06:00:00Z",
 "entry_price": "50000", "exit_price": "50500", "size": "0.02",
 "realized_pnl": "10.0", "currency": "USDT", "risk": "5.0", "max_drawdown_pct": 0.4, "max_favorable_pct": 1.3,
 "regime_at_entry": "BULL", "exit_reason": "roi",
 "conviction": {"conviction_id": "c-1", "cycle_id": "cycle-1", "magnitude": 5.0, "domain_scores": {"onchain": 0.8, "social": 0.1}},
 "signals": [{"signal_id": "s-1", "producer_id": "ta", "domain": "technical", "direction": "long", "confidence": 0.75, "contribution_weight": 1.0}],
 "entry_context": {"timeframe": "1h", "bucket": "nano", "A_value": 0.65, "E_value": 0.45,
   "regime_states": {"btc_macro": "S3", "alt_meso": "S1"}, "scope": {"chain": "solana", "mcap_bucket": "nano"},
   "actions": [{"pattern_key": "pm.uptrend.S1.buy_flag", "action_category": "entry", "at": "2026-01-01T00:00:00Z"}]}}
"""  # noqa: E501
OPTIONAL = (
    "currency",
    "risk",
    "max_drawdown_pct",
    "max_favorable_pct",
    "regime_at_entry",
    "exit_reason",
    "conviction",
    "signals",
    "entry_context",
)

names = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=50)
unit = st.floats(0.0, 1.0)
not_negative = st.floats(min_value=0.0, allow_infinity=False)
offsets = st.integers(-(24 * 60 - 1), 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(1800, 1, 2), datetime(9999, 12, 30), timezones=offsets)


@st.composite
def positive_money(draw: st.DrawFn) -> str:
    """Between 1e-60 and 1e31, with up to 100 digits."""
    digits = str(draw(st.integers(1, 10**100 - 1)))
    exponent = draw(st.integers(-60, 30)) - len(digits) + 1
    return str(Decimal((0, tuple(map(int, digits)), exponent)))


money = st.builds("{}{}".format, st.sampled_from(["", "-"]), positive_money()) | st.just("0")
plain_text = st.text(st.characters(exclude_categories=("Cc", "Cs"), include_characters="\n\t\r"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(plain_text, inner, max_size=4),
    max_leaves=12,
)
convictions = st.fixed_dictionaries(
    {"conviction_id": names},
    optional={
        "cycle_id": names,
        "magnitude": st.floats(allow_nan=False, allow_infinity=False),
        "domain_scores": st.dictionaries(names, st.floats(-1.0, 1.0), max_size=4),
    },
)
signals = st.fixed_dictionaries(
    {"signal_id": names, "producer_id": names},
    optional={
        "domain": names,
        "direction": st.sampled_from(["long", "short", "flat"]),
        "confidence": unit,
        "contribution_weight": not_negative,
    },
)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """Messages as any engine could send them; optional parts come and go."""
    opened, closed = sorted((draw(instants), draw(instants)))
    return draw(
        st.fixed_dictionaries(
            {
                "book": st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True),
                "position_id": names,
                "symbol": names,
                "direction": st.sampled_from(["long", "short"]),
                "opened_at": st.just(opened.isoformat()),
                "closed_at": st.just(closed.isoformat()),
                "entry_price": positive_money(),
                "exit_price": positive_money(),
                "size": positive_money(),
                "realized_pnl": money,
            },
            optional={
                "risk": positive_money(),
                "max_drawdown_pct": not_negative,
                "max_favorable_pct": not_negative,
                "regime_at_entry": names,
                "exit_reason": names,
                "conviction": convictions,
                "signals": st.lists(signals, max_size=3),
                "entry_context": st.dictionaries(plain_text, json_values, max_size=4),
            },
        )
    )


@untimed
@given(messages())
def test_message_to_model_to_json_to_model_is_equal(values: dict[str, Any]) -> None:
    position = ClosedPosition.model_validate_json(json.dumps(values))
    assert ClosedPosition.model_validate_json(position.model_dump_json()) == position
    assert ClosedPosition.model_validate(values) == position
    assert ClosedPosition.model_validate(position.model_dump()) == position


@untimed
@given(messages())
def test_nothing_that_was_sent_is_lost(values: dict[str, Any]) -> None:
    """Compared with the message itself, field by field, after the way through JSON."""
    stored = json.loads(ClosedPosition.model_validate_json(json.dumps(values)).model_dump_json())
    for field in ("entry_price", "exit_price", "size", "realized_pnl", "risk"):
        if field in values:
            assert Decimal(stored[field]) == Decimal(values[field])
    for field in ("opened_at", "closed_at"):
        assert datetime.fromisoformat(stored[field]) == datetime.fromisoformat(values[field])
    same = ("book", "position_id", "symbol", "direction", "max_drawdown_pct", "max_favorable_pct", "regime_at_entry")
    for field in (*same, "exit_reason", "entry_context"):
        assert stored[field] == values.get(field)
    assert {k: v for k, v in (stored["conviction"] or {}).items() if v is not None} == values.get("conviction", {})
    for kept, sent in zip(stored["signals"], values.get("signals", []), strict=True):
        assert {k: v for k, v in kept.items() if v is not None} == {"contribution_weight": 1.0} | sent


@untimed
@given(messages())
def test_instants_are_utc(values: dict[str, Any]) -> None:
    position = ClosedPosition.model_validate(values)
    assert position.opened_at.tzinfo is UTC
    assert position.closed_at.utcoffset() == timedelta(0)
    assert position.opened_at <= position.closed_at


def test_the_documented_message_is_accepted() -> None:
    position = ClosedPosition.model_validate_json(DOCUMENTED)
    sent = json.loads(DOCUMENTED)
    assert (position.book, position.position_id, position.direction) == ("default", "p-1", "long")
    assert position.closed_at - position.opened_at == timedelta(hours=6)
    assert (position.realized_pnl, position.risk) == (Decimal("10.0"), Decimal("5.0"))
    assert position.conviction is not None
    assert position.conviction.model_dump() == sent["conviction"]
    assert [signal.model_dump() for signal in position.signals] == sent["signals"]
    assert position.entry_context == sent["entry_context"]
    assert position.producers == ("ta",)


def test_money_is_text_and_everything_else_a_number_in_our_json() -> None:
    written = json.loads(ClosedPosition.model_validate_json(DOCUMENTED).model_dump_json())
    assert written == json.loads(DOCUMENTED)


@pytest.mark.parametrize("field", OPTIONAL)
def test_each_optional_part_may_be_absent(field: str) -> None:
    values = message("default")
    del values[field]
    position = ClosedPosition.model_validate_json(json.dumps(values))
    assert getattr(position, field) == (() if field == "signals" else None)


@pytest.mark.parametrize("field", [field for field in OPTIONAL if field != "signals"])
def test_each_optional_part_may_be_null(field: str) -> None:
    assert getattr(accept(**{field: None}), field) is None


def test_all_optional_parts_may_be_absent_at_once() -> None:
    values = {name: value for name, value in message("default").items() if name not in OPTIONAL}
    position = ClosedPosition.model_validate_json(json.dumps(values))
    assert position.producers == ()
    assert ClosedPosition.model_validate_json(position.model_dump_json()) == position


def test_a_conviction_may_hold_only_its_id() -> None:
    conviction = accept(conviction={"conviction_id": "c-1"}).conviction
    assert conviction is not None
    assert (conviction.cycle_id, conviction.magnitude, conviction.domain_scores) == (None, None, None)


@untimed
@given(st.dictionaries(st.from_regex(r"x_[a-z]{1,10}", fullmatch=True), json_values, min_size=1, max_size=3))
def test_unknown_fields_are_ignored(extra: dict[str, Any]) -> None:
    """At every level: a newer engine may say more than this version knows."""
    plain = accept()
    values = message("default")
    position = ClosedPosition.model_validate_json(
        json.dumps(
            values
            | extra
            | {"conviction": values["conviction"] | extra, "signals": [s | extra for s in values["signals"]]}
        )
    )
    assert position == plain


@untimed
@given(positive_money())
def test_text_keeps_every_digit(text: str) -> None:
    for field in ("entry_price", "exit_price", "size", "realized_pnl", "risk"):
        position = accept(**{field: text})
        assert getattr(position, field) == Decimal(text)
        assert Decimal(json.loads(position.model_dump_json())[field]) == Decimal(text)


@untimed
@given(st.floats(1e-60, 1e30) | st.integers(1, 10**30))
def test_a_number_keeps_every_digit_that_its_sender_wrote(number: float | int) -> None:
    """0.1 is one tenth, not the binary number beside it."""
    for field in ("entry_price", "size", "realized_pnl"):
        position = accept(**{field: number})
        assert getattr(position, field) == Decimal(repr(number))
        assert Decimal(json.loads(position.model_dump_json())[field]) == Decimal(repr(number))


@pytest.mark.parametrize(
    "literal", ["0.00010074887218045112", "9.64e-05", "1E+5", "50500.0", "123456789012345678901234"]
)
def test_a_raw_json_number_keeps_every_digit(literal: str) -> None:
    assert accept_json("realized_pnl", literal).realized_pnl == Decimal(literal)


def test_producers_are_sorted_and_each_is_there_once() -> None:
    calls = ["ta", "flow", "ta", "Flow", "sentiment"]
    position = accept(signals=[{"signal_id": f"s-{i}", "producer_id": name} for i, name in enumerate(calls)])
    assert position.producers == ("Flow", "flow", "sentiment", "ta")
