"""A bad optional field costs the field, not the trade; what is required stays strict."""

import json
from decimal import Decimal
from typing import Any

import pytest

from closeloop.models.closes import MOST_NOTES, ReadClose, read_close
from closeloop.models.positions import ClosedPosition
from tests.closes import message


def read(**changes: Any) -> ReadClose:
    """What both doors read, JSON and plain values, which is the same; the sender's values stay whole."""
    values = message("b") | changes
    sent = json.dumps(values)
    from_json, from_values = read_close(sent), read_close(values)
    assert [note.field for note in from_json.notes] == [note.field for note in from_values.notes]
    assert bare(from_json) == bare(from_values)
    assert json.dumps(values) == sent
    return from_json


def bare(found: ReadClose) -> ClosedPosition | None:
    """The position without its notes."""
    return found.position and found.position.model_copy(update={"noted": ()})


def noted(**changes: Any) -> list[str]:
    """The fields that were left out. What is left is the message without them, and reads again as it is."""
    found = read(**changes)
    assert found.position is not None, found.reason
    assert found.position.noted == found.notes
    assert all(note.reason for note in found.notes)
    again = read_close(found.position.model_dump_json())
    assert again.position == found.position
    assert again.notes == found.notes
    return [note.field for note in found.notes]


def test_a_good_close_has_no_notes_and_says_nothing_of_them() -> None:
    found = read()
    assert found == ReadClose(ClosedPosition.model_validate(message("b")), (), "")
    assert "noted" not in json.loads(found.position.model_dump_json() if found.position else "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("risk", 0),
        ("risk", "-1"),
        ("risk", True),
        ("risk", float("nan")),
        ("max_drawdown_pct", float("nan")),
        ("max_drawdown_pct", False),
        ("max_favorable_pct", -0.5),
        ("regime_at_entry", "x" * 201),
        ("exit_reason", ""),
        ("exit_reason", 7),
        ("conviction", "c-1"),
        ("signals", None),
        ("entry_context", []),
    ],
)
def test_a_bad_optional_field_is_left_out_and_noted(field: str, value: Any) -> None:
    assert noted(**{field: value}) == [field]
    assert bare(read(**{field: value})) == ClosedPosition.model_validate(message("b", **{field: None}))


def test_a_bad_signal_costs_that_signal_only() -> None:
    good = {"signal_id": "s", "producer_id": "ta"}
    signals = [
        good | {"producer_id": ""},
        good,
        None,
        {"producer_id": "flow"},
        good | {"producer_id": "p", "confidence": True},
    ]
    assert noted(signals=signals) == [
        "signals.0.producer_id",
        "signals.2",
        "signals.3.signal_id",
        "signals.4.confidence",
    ]
    position = read(signals=signals).position
    assert position is not None
    assert [(s.producer_id, s.confidence) for s in position.signals] == [("ta", None), ("p", None)]


def test_a_bad_score_costs_that_score_only() -> None:
    conviction = {"conviction_id": "c", "magnitude": True, "domain_scores": {"a": 0.5, "b": True, "c": 1.5, "": 0.1}}
    scores = "conviction.domain_scores"
    assert noted(conviction=conviction) == ["conviction.magnitude", f"{scores}.b", f"{scores}.c", f"{scores}."]
    position = read(conviction=conviction).position
    assert position is not None
    assert position.conviction is not None
    assert position.conviction.domain_scores == {"a": 0.5}
    assert noted(conviction={"conviction_id": "", "domain_scores": {"a": 1}}) == ["conviction.conviction_id"]


def test_a_bad_value_costs_the_rest_of_the_context_nothing() -> None:
    context = {"timeframe": "1h", "A_value": float("nan"), "note": "a\0b"}
    assert noted(entry_context=context) == ["entry_context.A_value", "entry_context.note"]
    position = read(entry_context=context).position
    assert position is not None
    assert position.entry_context == {"timeframe": "1h"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "0"),
        ("size", "-2"),
        ("realized_pnl", True),
        ("realized_pnl", float("nan")),
        ("entry_price", False),
        ("opened_at", "2026-01-01T00:00:00"),
        ("closed_at", "2025-12-31T00:00:00Z"),
        ("direction", "sideways"),
        ("symbol", ""),
        ("position_id", "p" * 201),
        ("book", "my book"),
    ],
)
def test_a_required_field_is_strict_and_named_alone(field: str, value: Any) -> None:
    """Whatever else is wrong: what could be left out is nothing to correct."""
    for more in ({}, {"risk": 0, "exit_reason": ""}):
        found = read(**({field: value} | more))
        assert found.position is None
        assert found.notes == ()
        assert found.reason.partition(": ")[0] == field


def test_numbers_keep_every_digit_where_another_field_is_left_out() -> None:
    text = json.dumps(message("b", realized_pnl="@") | {"risk": 0}).replace('"@"', "0.10000000000000000000001")
    position = read_close(text).position
    assert position is not None
    assert position.realized_pnl == Decimal("0.10000000000000000000001")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "1", b"\xff\xfe", '{"risk":' + "[" * 100_000])
def test_what_is_no_message_is_refused(text: str | bytes) -> None:
    found = read_close(text)
    assert found.position is None
    assert found.reason.startswith("message: ")


def test_notes_are_bounded() -> None:
    fields = noted(signals=[{}] * 1000)
    assert len(fields) == MOST_NOTES + 1
    assert read(signals=[{}] * 1000).notes[-1].reason == "980 more optional fields were left out"


def test_a_field_that_nobody_knows_is_left_alone() -> None:
    assert noted(max_drawdown_percent="much") == []
