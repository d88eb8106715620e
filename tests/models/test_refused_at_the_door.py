"""Every refusal of a closed position, each naming its field."""

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from closeloop.models.closes import read_close
from closeloop.models.convictions import RecordedConviction
from closeloop.models.launches import position_close_id
from closeloop.models.positions import ClosedPosition
from closeloop.models.refusals import describe
from tests.closes import message
from tests.models.doors import accept, accept_json, fields, json_with, refusal, refusal_of_json, refused_at

REQUIRED = (
    "book",
    "position_id",
    "symbol",
    "direction",
    "opened_at",
    "closed_at",
    "entry_price",
    "exit_price",
    "size",
    "realized_pnl",
)
POSITIVE = ("size", "risk")
MONEY = (*POSITIVE, "entry_price", "exit_price", "realized_pnl")
EXCURSIONS = ("max_drawdown_pct", "max_favorable_pct")
NAMES = ("position_id", "symbol", "regime_at_entry", "exit_reason")
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
CONTROL = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def conviction(**changes: Any) -> dict[str, Any]:
    return {"conviction": {"conviction_id": "c-1"} | changes}


def signal(**changes: Any) -> dict[str, Any]:
    return {"signals": [{"signal_id": "s-1", "producer_id": "ta"}, {"signal_id": "s-2", "producer_id": "ta"} | changes]}


def nested(levels: int, innermost: Any, shape: str = "object") -> Any:
    """A value of this many objects (or lists) within each other, around ``innermost``."""
    value = innermost
    for _ in range(levels):
        value = {"a": value} if shape == "object" else [value]
    return value


def ascii_start(value: Any) -> str:
    """A short name for a parameter."""
    return ascii(value)[:12]


# What must be there


@pytest.mark.parametrize("field", REQUIRED)
def test_a_required_field_is_neither_missing_nor_null(field: str) -> None:
    refused_at(field, **{field: None})
    values = message("default")
    del values[field]
    assert refusal_of_json(json.dumps(values)) == f"{field}: Field required"


@pytest.mark.parametrize("text", ["", "{", "{not json", "null", "[]", "1", '"p-1"', "\ufeff", b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    assert refusal_of_json(text).startswith("message: ")


# Direction and times


@pytest.mark.parametrize("direction", ["sideways", "", "LONG", "Long", " long", "flat", "buy", 1, True, ["long"], {}])
def test_a_direction_is_long_or_short(direction: Any) -> None:
    refused_at("direction", direction=direction)


@pytest.mark.parametrize("field", ["opened_at", "closed_at"])
@pytest.mark.parametrize("naive", ["2026-01-01T00:00:00", "2026-01-01 00:00", "2026-01-01", "2026-01-01T00:00:00.5"])
def test_a_naive_time_is_refused(field: str, naive: str) -> None:
    refused_at(field, **{field: naive})


@untimed
@given(st.datetimes())
def test_a_naive_datetime_is_refused(naive: datetime) -> None:
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate(message("b", opened_at=naive))
    assert describe(refused.value).startswith("opened_at: must carry a UTC offset")


@pytest.mark.parametrize("field", ["opened_at", "closed_at"])
@pytest.mark.parametrize(
    "no_time", ["", "yesterday", "NaN", "2026-13-01T00:00:00Z", "2026-01-01T25:00:00Z", "06:00:00Z", [], {}, False]
)
def test_what_is_no_time_is_refused(field: str, no_time: Any) -> None:
    refused_at(field, **{field: no_time})


NUMBERS = (0, 1767225600, 1767225600000, 1767225600.5)
NUMBERS_AS_TEXT = ("1767225600", " 1767225600 ", "-1767225600", "+1767225600", "1767225600.5", "1767225600.", "1.8e9")


@pytest.mark.parametrize("number", [*NUMBERS, *NUMBERS_AS_TEXT])
def test_an_instant_is_never_guessed_from_a_number(number: Any) -> None:
    """Seconds or milliseconds? As text, too, nobody can know."""
    refused_at("opened_at", opened_at=number)


@pytest.mark.parametrize(
    ("field", "far"),
    [
        ("opened_at", "1799-12-31T23:59:59Z"),
        ("opened_at", "1800-01-01T00:00:00+00:01"),
        ("opened_at", "0001-01-01T00:00:00+05:00"),
        ("closed_at", "9999-12-31T23:59:59-01:00"),
    ],
)
def test_a_time_out_of_reach_is_refused(field: str, far: str) -> None:
    refused_at(field, **{field: far})


@untimed
@given(
    st.datetimes(datetime(1801, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(microseconds=1), timedelta(days=365)),
)
def test_a_position_does_not_close_before_it_opens(opened: datetime, early: timedelta) -> None:
    reason = refusal(opened_at=opened.isoformat(), closed_at=(opened - early).isoformat())
    assert "closed_at: must not be before opened_at" in reason


def test_close_and_open_are_compared_as_instants() -> None:
    assert "closed_at" in refusal(opened_at="2026-01-01T06:00:00Z", closed_at="2026-01-01T07:00:00+02:00")
    accept(opened_at="2026-01-01T06:00:00Z", closed_at="2026-01-01T01:00:00-05:00")


# Money


@pytest.mark.parametrize("field", MONEY)
@pytest.mark.parametrize("value", [*NOT_FINITE, "NaN", "nan", "sNaN", "-NaN", "Infinity", "-Infinity", "inf"])
def test_money_is_finite(field: str, value: Any) -> None:
    refused_at(field, **{field: value})


@pytest.mark.parametrize("field", MONEY)
@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_money_is_finite_in_raw_json_too(field: str, literal: str) -> None:
    assert refusal_of_json(json_with(field, literal)).startswith(f"{field}: ")


@pytest.mark.parametrize("field", MONEY)
@pytest.mark.parametrize("value", ["", "ten", "1,000", "$5", "0x10", "1 000", True, [], {}])
def test_money_is_a_number(field: str, value: Any) -> None:
    refused_at(field, **{field: value})


@pytest.mark.parametrize("field", POSITIVE)
@pytest.mark.parametrize("value", [0, "0", "0.000", "-0", -0.0, "0E+5"])
def test_sizes_and_risk_are_not_zero(field: str, value: Any) -> None:
    refused_at(field, **{field: value})


@untimed
@given(st.sampled_from(POSITIVE), st.decimals("-1e30", "-1e-20", places=20))
def test_sizes_and_risk_are_not_negative(field: str, value: Any) -> None:
    refused_at(field, **{field: str(value)})
    refused_at(field, **{field: float(value)})


@pytest.mark.parametrize("field", MONEY)
@pytest.mark.parametrize("value", ["1e31", "1e-61", "1e999999", "1e-999999", "9" * 32, "0." + "1" * 101])
def test_money_beyond_any_market_is_refused(field: str, value: str) -> None:
    refused_at(field, **{field: value})


@pytest.mark.parametrize("value", ["0E-16384", "0E-20000", "-0E-1000000"])
def test_no_zero_is_accepted_that_numeric_cannot_hold(value: str) -> None:
    """PostgreSQL's NUMERIC has at most 16,383 digits after the point and fails on these ("value overflows")."""
    with contextlib.suppress(ValidationError):
        exponent = accept(realized_pnl=value).realized_pnl.as_tuple().exponent
        assert isinstance(exponent, int)
        assert exponent >= -16_383


# Bounded numbers


@pytest.mark.parametrize("field", EXCURSIONS)
@pytest.mark.parametrize("value", [*NOT_FINITE, True, False, -0.1, -5e-324, "-0.4", "NaN", "much", [], {}])
def test_excursions_are_finite_and_not_negative(field: str, value: Any) -> None:
    refused_at(field, **{field: value})


@untimed
@given(st.floats(max_value=0.0, exclude_max=True))
def test_no_negative_excursion_passes(value: float) -> None:
    for field in EXCURSIONS:
        refused_at(field, **{field: value})


beyond_one = st.floats(min_value=1.0, exclude_min=True)


@untimed
@given(beyond_one | beyond_one.map(lambda x: -x) | st.just(float("nan")))
def test_no_score_outside_minus_one_to_one_passes(score: float) -> None:
    refused_at("conviction.domain_scores.onchain", **conviction(domain_scores={"social": 0.1, "onchain": score}))


@untimed
@given(beyond_one | st.floats(max_value=0.0, exclude_max=True) | st.just(float("nan")))
def test_no_confidence_outside_zero_to_one_passes(confidence: float) -> None:
    refused_at("signals.1.confidence", **signal(confidence=confidence))


@pytest.mark.parametrize("score", [None, "high", [], {}])
def test_a_score_is_a_number(score: Any) -> None:
    refused_at("conviction.domain_scores.onchain", **conviction(domain_scores={"onchain": score}))


@pytest.mark.parametrize("value", [*NOT_FINITE, -1.0, "heavy"])
def test_contribution_weights_are_finite_and_not_negative(value: Any) -> None:
    refused_at("signals.1.contribution_weight", **signal(contribution_weight=value))


@pytest.mark.parametrize("value", [*NOT_FINITE, "strong"])
def test_a_magnitude_is_finite(value: Any) -> None:
    refused_at("conviction.magnitude", **conviction(magnitude=value))


@pytest.mark.parametrize("edge", [-1, -1.0, 0, -0.0, 1, 1.0])
def test_scores_reach_their_edges(edge: float) -> None:
    found = accept(**conviction(domain_scores={"onchain": edge})).conviction
    assert found is not None
    assert found.domain_scores == {"onchain": edge}


@pytest.mark.parametrize("edge", [0, 0.0, 1, 1.0])
def test_confidences_reach_their_edges(edge: float) -> None:
    assert accept(**signal(confidence=edge)).signals[1].confidence == edge


# Names


@pytest.mark.parametrize(
    "book", ["", "b" * 65, "a b", "a/b", "bücher", "b\n", "\n", "b\0", "$", "a:b", "😀", 7, [], {}], ids=ascii_start
)
def test_a_book_is_1_to_64_plain_characters(book: Any) -> None:
    refused_at("book", book=book)


@untimed
@given(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True))
def test_every_book_of_the_design_is_accepted(book: str) -> None:
    assert accept(book=book).book == book


# 200 bytes exactly, of one, two, three and four bytes a character.
FULL = ["p" * 200, "é" * 100, "€" * 66 + "ab", "😀" * 50, "😀" * 49 + "€x"]


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("full", FULL, ids=ascii_start)
def test_a_name_has_at_most_200_bytes(field: str, full: str) -> None:
    assert len(full.encode()) == 200
    assert getattr(accept(**{field: full}), field) == full
    refused_at(field, **{field: full + "x"})
    refused_at(field, **{field: "é" + full})


@pytest.mark.parametrize("field", NAMES)
@pytest.mark.parametrize("value", ["", 7, 0.5, True, ["p"], {"p": 1}])
def test_a_name_is_a_text_that_is_not_empty(field: str, value: Any) -> None:
    refused_at(field, **{field: value})


@pytest.mark.parametrize("field", NAMES)
def test_a_name_has_no_control_character(field: str) -> None:
    for character in CONTROL:
        refused_at(field, **{field: f"BTC{character}USDT"})
        refused_at(field, **{field: f"BTC{character}"})


@pytest.mark.parametrize("field", NAMES)
def test_half_a_surrogate_pair_is_no_text(field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate(message("b") | {field: "x\ud800"})
    assert describe(refused.value).startswith(f"{field}: ")
    assert refusal_of_json(json_with(field, r'"x\ud800"'))


BAD_NAMES = ["", "x" * 201, "é" * 101, "a\nb", "a\0b", None, 7]


@pytest.mark.parametrize("value", BAD_NAMES, ids=ascii_start)
def test_ids_within_the_message_have_the_same_limits(value: Any) -> None:
    refused_at("conviction.conviction_id", **conviction(conviction_id=value))
    refused_at("signals.1.signal_id", **signal(signal_id=value))
    refused_at("signals.1.producer_id", **signal(producer_id=value))
    if value is not None:
        refused_at("conviction.cycle_id", **conviction(cycle_id=value))
        refused_at("signals.1.domain", **signal(domain=value))


@pytest.mark.parametrize("domain", ["", "x" * 201, "é" * 101, "a\nb", "a\0b", "a\x85b"])
def test_a_domain_of_scores_has_the_same_limits(domain: str) -> None:
    assert "conviction.domain_scores" in refusal(**conviction(domain_scores={domain: 0.5}))


@untimed
@given(st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True), st.sampled_from(FULL))
def test_a_workflow_id_fits_temporal(book: str, position_id: str) -> None:
    workflow_id = position_close_id(accept(book=book, position_id=position_id))
    assert workflow_id == f"position-close/{book}/{position_id}/2026-01-01T06:00:00Z"
    assert len(workflow_id.encode()) <= 1_000


@pytest.mark.parametrize(
    ("closed_at", "spelled"),
    [
        ("2026-01-01T07:00:00+01:00", "2026-01-01T06:00:00Z"),
        ("2026-01-01T06:00:00.000000Z", "2026-01-01T06:00:00Z"),
        ("2026-01-01 06:00:00.25Z", "2026-01-01T06:00:00.250000Z"),
    ],
)
def test_one_instant_has_one_workflow_id(closed_at: str, spelled: str) -> None:
    assert position_close_id(accept(closed_at=closed_at)) == f"position-close/default/p-1/{spelled}"


def test_a_key_with_opened_at_has_room_for_it() -> None:
    key = accept(position_key="id+opened_at", opened_at="2026-01-01T01:00:00.5+01:00").key
    assert key == ("default", "p-1@2026-01-01T00:00:00.500000Z")
    accept(position_key="id+opened_at", position_id="p" * 172)
    reason = refusal_of_json(json.dumps(message("b", "p" * 190, position_key="id+opened_at")))
    assert fields(reason) == ["position_id"]
    refused_at("position_key", position_key="opened_at")
    assert read_close(message("b", position_key="opened_at")).position is None


@pytest.mark.parametrize("value", ["", "X" * 33, "a\nb", 5, True])
def test_a_currency_is_a_short_name(value: Any) -> None:
    refused_at("currency", currency=value)
    assert accept(currency=" usdt ").currency == "USDT"


# Parts


@pytest.mark.parametrize("direction", ["sideways", "LONG", "", 1])
def test_a_signal_calls_for_long_short_or_flat(direction: Any) -> None:
    refused_at("signals.1.direction", **signal(direction=direction))


@pytest.mark.parametrize("signals", [None, "s-1", {}, 1, [None], ["s-1"], [[]]])
def test_signals_are_a_list_of_objects(signals: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate_json(json.dumps(message("b") | {"signals": signals}))
    assert describe(refused.value).startswith("signals")


@pytest.mark.parametrize("value", ["c-1", [], 1, {}, {"cycle_id": "cycle-1"}])
def test_a_conviction_has_at_least_its_id(value: Any) -> None:
    assert refusal(conviction=value).startswith("conviction")


def test_the_number_of_signals_and_domains_is_bounded() -> None:
    signals = [{"signal_id": f"s-{i}", "producer_id": "ta"} for i in range(1_001)]
    assert len(accept(signals=signals[:1_000]).signals) == 1_000
    refused_at("signals", signals=signals)
    scores = {f"d-{i}": 0.5 for i in range(257)}
    refused_at("conviction.domain_scores", **conviction(domain_scores=scores))
    scores.popitem()
    accept(**conviction(domain_scores=scores))


@pytest.mark.parametrize("value", ["1h", [], [1], 1, True])
def test_an_entry_context_is_an_object(value: Any) -> None:
    refused_at("entry_context", entry_context=value)


@pytest.mark.parametrize("bad", ["\0", "x\0y", "\x1b[31m", "\x85", "\x7f", *NOT_FINITE])
@pytest.mark.parametrize("where", ["value", "list", "deep"])
def test_an_entry_context_holds_what_postgresql_can_hold(bad: Any, where: str) -> None:
    context = {"value": {"a": bad}, "list": {"a": [1, "x", bad]}, "deep": {"a": {"b": [{"c": bad}]}}}[where]
    refused_at("entry_context", entry_context=context)


@pytest.mark.parametrize("key", ["\0", "x\0y", "\x1b", "\x85"])
def test_the_keys_of_an_entry_context_are_texts_too(key: str) -> None:
    refused_at("entry_context", entry_context={key: 1})
    refused_at("entry_context", entry_context={"a": [{key: 1}]})


@pytest.mark.parametrize("literal", ['{"a": 1e400}', '{"a": -1e400}', '{"a": [NaN]}', '{"a": Infinity}'])
def test_an_entry_context_is_finite_in_raw_json_too(literal: str) -> None:
    assert refusal_of_json(json_with("entry_context", literal)).startswith("entry_context: ")


def test_an_entry_context_may_have_lines_and_tabs_and_any_language() -> None:
    context = {"note": "first\nsecond\tthird\r\n", "сигнал": "買い 😀", "": [None, True, -1.5, 10**30]}
    assert accept(entry_context=context).entry_context == context


@pytest.mark.parametrize("shape", ["object", "list"])
def test_an_entry_context_has_at_most_32_levels(shape: str) -> None:
    empty: Any = {} if shape == "object" else []
    deepest = {"a": nested(30, empty, shape)}
    assert accept(entry_context=deepest).entry_context == deepest
    refused_at("entry_context", entry_context={"a": nested(31, empty, shape)})
    refused_at("entry_context", entry_context={"a": nested(32, 1, shape)})


def test_hopeless_depth_is_refused_and_not_a_crash() -> None:
    reason = refusal_of_json(json_with("entry_context", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"))
    assert reason.startswith("message: ")
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate(message("b", entry_context=nested(200, 1)))
    assert describe(refused.value).startswith("entry_context: ")


# Size of the whole


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
def test_a_message_has_at_most_256_kib(character: str) -> None:
    """Bytes, whatever the language: this is what a history and a column have to hold."""
    width = len(character.encode())
    fits = character * (254 * 1024 // width)
    assert accept(entry_context={"note": fits}).entry_context == {"note": fits}
    assert "message" in refusal(entry_context={"note": character * (256 * 1024 // width)})


def test_many_small_parts_count_as_well() -> None:
    assert "256 KiB" in refusal(entry_context={"candles": [[i, 1.5, "x" * 10] for i in range(20_000)]})


# The words


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"realized_pnl": "NaN"}, "realized_pnl: must be a finite number"),
        ({"size": "-2"}, "size: must be positive"),
        ({"closed_at": "2025-12-31T00:00:00Z"}, "closed_at: must not be before opened_at"),
        ({"entry_context": {"note": "x" * 300_000}}, "message: must be at most 256 KiB of JSON"),
    ],
)
def test_a_refusal_is_the_field_and_the_reason(changes: dict[str, Any], said: str) -> None:
    assert refusal(**changes) == said


def test_every_refused_field_is_named() -> None:
    reason = refusal(direction="sideways", size="-2", signals=[{"signal_id": "s-1", "producer_id": ""}])
    assert fields(reason) == ["direction", "size", "signals.0.producer_id"]


def test_many_refusals_are_counted() -> None:
    signals = [{"signal_id": f"s-{i}", "producer_id": "ta", "confidence": 2} for i in range(50)]
    parts = refusal(signals=signals).split("; ")
    assert parts[0].startswith("signals.0.confidence: ")
    assert len(parts) == 21
    assert parts[-1] == "and 30 more"


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": "hush-" * 60},
        {"realized_pnl": "hush-"},
        {"direction": "hush-"},
        {"opened_at": "hush-"},
        {"entry_context": {"a": "hush-\0"}},
        {"entry_context": {"hush-\0": 1}},
        {"conviction": {"conviction_id": "hush-\0"}},
    ],
)
def test_refused_values_are_not_repeated(changes: dict[str, Any]) -> None:
    assert "hush-" not in refusal(**changes)


def test_a_refusal_stays_short() -> None:
    assert len(refusal(**conviction(domain_scores={"x" * 100_000: 0.5}))) < 1_000


@untimed
@given(st.text(st.sampled_from([*CONTROL, "a", "."]), min_size=1, max_size=5).filter(lambda key: not key.isprintable()))
def test_a_refusal_is_one_line_that_postgresql_can_hold(key: str) -> None:
    """It is stored beside the import: a NUL in it would fail the whole import, again and again."""
    for changes in (conviction(domain_scores={key: 0.5}), conviction(domain_scores={key: 7}), {"symbol": key}):
        assert refusal(**changes).isprintable()


# Convictions sent ahead

RECORDED = {
    "conviction_id": "c-1",
    "cycle_id": "cycle-1",
    "book": "default",
    "symbol": "BTC/USDT",
    "domain_scores": {"onchain": 0.8},
}


def test_a_recorded_conviction_needs_only_what_a_close_looks_up() -> None:
    recorded = RecordedConviction.model_validate_json(json.dumps(RECORDED))
    assert recorded.domain_scores == {"onchain": 0.8}
    assert recorded.magnitude is None


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, None) for field in RECORDED]
    + [("domain_scores", {}), ("domain_scores", {"onchain": 1.1}), ("book", "a/b"), ("symbol", ""), ("cycle_id", "\n")],
)
def test_a_recorded_conviction_is_refused_by_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        RecordedConviction.model_validate_json(json.dumps(RECORDED | {field: value}))
    assert describe(refused.value).startswith(field)


def test_raw_json_helper_reads_what_it_is_given() -> None:
    """The tests on raw JSON would prove nothing if the literal did not arrive."""
    assert accept_json("size", "0.25").size == accept(size="0.25").size
