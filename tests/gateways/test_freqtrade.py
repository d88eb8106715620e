"""What is made of freqtrade's trades: the cases that the real export does not have."""

import json
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from closeloop.gateways.freqtrade import read_freqtrade
from closeloop.gateways.trades import NotTrades
from closeloop.models.positions import ClosedPosition
from closeloop.models.refusals import describe
from tests.gateways.exports import export, exports, message, messages, position, read, reason, short, trade, zipped

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
rates = st.floats(1e-9, 1e6)
GOOD_FIRST, GOOD_LAST = trade(pair="ETH/BTC"), trade(pair="XLM/BTC")


def exact(number: float) -> Fraction:
    return Fraction(Decimal(repr(number)))


# Longs and shorts


def test_a_long() -> None:
    found = position(trade())
    assert (found.direction, found.symbol, found.book) == ("long", "ADA/BTC", "Trend")
    assert (found.entry_price, found.exit_price, found.size) == (Decimal(100), Decimal(110), Decimal(2))
    assert found.realized_pnl == Decimal("19.5")
    assert found.risk == 20
    assert (found.max_drawdown_pct, found.max_favorable_pct) == (5.0, 20.0)
    assert found.exit_reason == "roi"


def test_a_short_is_hurt_by_the_high_and_helped_by_the_low() -> None:
    found = position(short())
    assert found.direction == "short"
    assert found.risk == 20
    assert (found.max_drawdown_pct, found.max_favorable_pct) == (4.0, 15.0)
    assert [signal.direction for signal in found.signals] == ["short"]


@untimed
@given(st.booleans(), rates, rates, rates, rates, rates)
def test_risk_and_excursions_of_either_side(
    is_short: bool, entry: float, low: float, high: float, stop: float, amount: float
) -> None:
    found = position(
        trade(
            is_short=is_short,
            open_rate=entry,
            close_rate=low,
            min_rate=low,
            max_rate=max(low, high),
            initial_stop_loss_abs=stop,
            amount=amount,
            stake_amount=None,
            profit_ratio=None,
        )
    )
    high = max(low, high)
    if is_short:
        against, favor, way = exact(high) - exact(entry), exact(entry) - exact(low), exact(stop) - exact(entry)
    else:
        against, favor, way = exact(entry) - exact(low), exact(high) - exact(entry), exact(entry) - exact(stop)
    assert found.max_drawdown_pct == pytest.approx(float(max(Fraction(0), against) / exact(entry) * 100), rel=1e-12)
    assert found.max_favorable_pct == pytest.approx(float(max(Fraction(0), favor) / exact(entry) * 100), rel=1e-12)
    if way > 0:
        assert found.risk is not None
        assert float(found.risk) == pytest.approx(float(way * exact(amount)), rel=1e-12)
    else:
        assert found.risk is None


@pytest.mark.parametrize("stop", [100.0, 100.1, 250.0])
def test_a_stop_on_the_wrong_side_is_no_risk(stop: float) -> None:
    assert position(trade(initial_stop_loss_abs=stop)).risk is None
    assert position(short(initial_stop_loss_abs=200.0 - stop)).risk is None


def test_the_first_stop_counts_and_not_where_it_trailed_to() -> None:
    assert position(trade(initial_stop_loss_abs=95.0, stop_loss_abs=108.0)).risk == 10


def test_a_price_that_never_went_against_it_is_no_negative_drawdown() -> None:
    assert position(trade(min_rate=101.0)).max_drawdown_pct == 0.0
    assert position(short(max_rate=99.0)).max_drawdown_pct == 0.0
    assert position(trade(max_rate=99.0, close_rate=98.0)).max_favorable_pct == 0.0
    assert position(short(min_rate=101.0, close_rate=102.0)).max_favorable_pct == 0.0


@pytest.mark.parametrize("is_short", [False, None, ...])
def test_exports_from_before_shorts_are_longs(is_short: Any) -> None:
    assert position(trade(is_short=is_short)).direction == "long"


@untimed
@given(
    st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12).filter(lambda x: abs(x) > 1e-20)
)
def test_money_is_what_the_file_shows(profit: float) -> None:
    assert position(trade(profit_abs=profit, profit_ratio=None)).realized_pnl == Decimal(repr(profit))


# Producers, times, context


@pytest.mark.parametrize("tag", [None, "", ...])
def test_without_an_enter_tag_the_strategy_is_the_producer(tag: Any) -> None:
    assert position(trade(enter_tag=tag)).producers == ("Trend",)


@pytest.mark.parametrize("tag", ["buy_tag", "rsi 30", "купить"])
def test_the_enter_tag_is_the_producer(tag: str) -> None:
    found = position(trade(enter_tag=tag))
    assert found.producers == (tag,)
    assert found.book == "Trend"


def test_a_tag_of_many_words_is_too_long_only_as_one() -> None:
    tag = f" {'a' * 150} {'b' * 104} 42"
    for split, producers in ((True, ["a" * 150, "b" * 104, "42"]), (False, ["Trend"])):
        [found] = read_freqtrade(export(trade(enter_tag=tag)), split_tags=split).trades
        assert found.message is not None
        assert [signal["producer_id"] for signal in found.message["signals"]] == producers
        assert [note.field for note in found.notes] == ([] if split else ["enter_tag"])
    [long_word] = read_freqtrade(export(trade(enter_tag="a" * 201 + " 42")), split_tags=True).trades
    assert [note.field for note in long_word.notes] == ["enter_tag"]


def test_the_reason_to_exit_has_an_old_name_too() -> None:
    assert position(trade(exit_reason=..., sell_reason="trailing_stop_loss")).exit_reason == "trailing_stop_loss"
    assert position(trade(exit_reason="roi", sell_reason="older")).exit_reason == "roi"
    assert position(trade(exit_reason=None)).exit_reason is None


@pytest.mark.parametrize(
    "written", ["2018-01-10 07:15:00+00:00", "2018-01-10 07:15:00", "2018-01-10T07:15:00Z", "2018-01-10 09:15:00+02:00"]
)
def test_times_are_utc_however_written(written: str) -> None:
    """Early versions left the offset out. The id, too, is of the instant."""
    found = message(trade(open_date=written))
    assert ClosedPosition.model_validate(found).opened_at.isoformat() == "2018-01-10T07:15:00+00:00"
    assert found["position_id"] == message(trade())["position_id"]


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock, nine hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_times_without_an_offset_are_not_this_machine_s() -> None:
    found = position(trade(open_date="2018-01-10 07:15:00", close_date="2018-01-10 08:45:00"))
    assert found.opened_at == datetime(2018, 1, 10, 7, 15, tzinfo=UTC)
    assert found.closed_at == datetime(2018, 1, 10, 8, 45, tzinfo=UTC)


def test_the_context_holds_what_is_known() -> None:
    def context(one: dict[str, Any], timeframe: Any) -> Any:
        return messages(export(one, timeframe=timeframe))[0].get("entry_context")

    assert context(trade(leverage=3.0), "1h") == {"timeframe": "1h", "leverage": 3.0}
    assert context(trade(leverage=...), "1h") == {"timeframe": "1h"}
    assert context(trade(leverage=None), None) is None


# Ids


def test_positions_opened_at_one_instant_have_ids_of_their_own() -> None:
    stacked = [trade(), trade(profit_abs=-1.0), short(), trade(), trade(pair="ETH/BTC"), short()]
    ids = [found["position_id"] for found in messages(export(*stacked))]
    assert len(set(ids)) == 6
    assert ids == [found["position_id"] for found in messages(export(*stacked))]


def test_a_short_has_its_id_whatever_longs_there_are() -> None:
    [alone] = messages(export(short()))
    assert messages(export(trade(), trade(), short()))[2] == alone


few_trades = st.lists(
    st.builds(
        trade,
        pair=st.sampled_from(["ADA/BTC", "ADA/BTC 2018", "ETH/USDT:USDT"]),
        open_date=st.sampled_from(["2018-01-10 07:15:00+00:00", "2018-01-10 07:15:00.5+00:00", "2018-01-10 07:20:00"]),
        is_short=st.booleans(),
    ),
    max_size=12,
)


@untimed
@given(few_trades, st.integers(0, 12))
def test_ids_are_unique_and_a_longer_export_keeps_them(trades: list[dict[str, Any]], first: int) -> None:
    ids = [found["position_id"] for found in messages(export(*trades))]
    assert len(set(ids)) == len(ids)
    assert [found["position_id"] for found in messages(export(*trades[:first]))] == ids[:first]


def test_strategies_have_books_of_their_own() -> None:
    content = exports({"Trend": {"trades": [trade()]}, "Mean.Reversion_2": {"trades": [trade(), short()]}})
    found = read(content)
    assert [(item.book, item.index) for item in found] == [
        ("Trend", 0),
        ("Mean.Reversion_2", 0),
        ("Mean.Reversion_2", 1),
    ]
    assert [item.message["book"] for item in found if item.message] == ["Trend", "Mean.Reversion_2", "Mean.Reversion_2"]


def test_ids_are_unique_within_a_book_that_several_strategies_share() -> None:
    """Strategies compared in one backtest enter the same pairs at the same candles."""
    content = exports({"Trend": {"trades": [trade()]}, "Reversal": {"trades": [trade(profit_abs=1.0)]}})
    keys = [(found["book"], found["position_id"]) for found in messages(content, book="shared")]
    assert len(set(keys)) == 2


def test_a_strategy_whose_name_is_no_book_is_refused_by_the_model() -> None:
    [found] = messages(export(trade(), strategy="My Strategy"))
    with pytest.raises(ValidationError) as refused:
        ClosedPosition.model_validate(found)
    assert describe(refused.value).startswith("book: ")
    assert ClosedPosition.model_validate(messages(export(trade(), strategy="My Strategy"), book="mine")[0])


# Trades that cannot be used


@pytest.mark.parametrize(
    "unfinished",
    [
        {"is_open": True},
        {"is_open": True, "close_date": None, "close_rate": None, "profit_abs": None},
        {"open_at_end": True, "is_open": ...},
        {"exit_reason": "force_exit"},
        {"exit_reason": ..., "sell_reason": "force_sell"},
    ],
)
def test_a_trade_that_the_end_of_the_data_cut_off_is_no_close(unfinished: dict[str, Any]) -> None:
    """Three spellings by version. What comes after it keeps its place."""
    cut, after = read(export(trade(**unfinished), trade()))
    assert (cut.still_open, cut.message, cut.reason) == (True, None, None)
    assert (after.still_open, after.index) == (False, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pair", None),
        ("pair", 7),
        ("pair", ...),
        ("open_date", None),
        ("open_date", ...),
        ("open_date", "yesterday"),
        ("open_date", 1515568500000),
        ("close_date", None),
        ("close_date", ...),
        ("close_date", "2018-02-30 00:00:00"),
        ("open_rate", float("nan")),
        ("open_rate", "much"),
        ("close_rate", float("inf")),
        ("amount", [2.0]),
        ("amount", True),
        ("profit_abs", float("nan")),
        ("profit_abs", float("-inf")),
        ("profit_abs", {}),
        ("profit_abs", None),
        ("open_rate", None),
        ("close_rate", ...),
        ("amount", None),
        ("pair", ""),
        ("pair", "ADA\nBTC"),
        ("is_open", "no"),
        ("is_short", 1),
    ],
)
def test_an_unusable_trade_is_refused_by_field(field: str, value: Any) -> None:
    assert reason(trade(**{field: value})).startswith(f"{field}: ")


@pytest.mark.parametrize("no_trade", [None, 1, "ADA/BTC", [], ["ADA/BTC", 0.1], True])
def test_what_is_no_trade_is_refused(no_trade: Any) -> None:
    assert reason(no_trade) == "the trade is not an object"


def test_a_close_before_the_opening_and_an_amount_of_nothing_are_refused_in_the_file_s_words() -> None:
    assert reason(trade(close_date="2018-01-10 07:00:00+00:00")) == "close_date: must not be before open_date"
    assert reason(trade(amount=0.0)) == "amount: must be positive"
    assert reason(short(amount=-2.0)) == "amount: must be positive"


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({"enter_tag": "a" * 255}, {}),
        ({"enter_tag": 7}, {}),
        ({"enter_tag": "\ud800"}, {}),
        ({"buy_tag": "买" * 67, "enter_tag": ...}, {}),
        ({"exit_reason": "x" * 201}, {"exit_reason"}),
        ({"exit_reason": 7}, {"exit_reason"}),
        ({"exit_reason": " "}, {"exit_reason"}),
        ({"sell_reason": "a\x00b", "exit_reason": ...}, {"exit_reason"}),
        ({"leverage": float("nan")}, {}),
        ({"leverage": 0}, {}),
        ({"leverage": True}, {}),
        ({"min_rate": float("nan")}, {"max_drawdown_pct"}),
        ({"max_rate": "high"}, {"max_favorable_pct"}),
        ({"initial_stop_loss_abs": float("inf")}, {"risk"}),
        ({"initial_stop_loss_abs": True}, {"risk"}),
        ({"orders": {}}, {}),
        ({"orders": [{"ft_is_entry": True, "amount": float("nan"), "safe_price": 1.0}]}, {}),
        ({"profit_ratio": float("nan")}, {}),
        ({"fee_open": []}, {}),
    ],
)
def test_a_bad_optional_field_costs_the_field_and_is_noted(changes: dict[str, Any], without: set[str]) -> None:
    [found] = read(export(trade(**changes)))
    assert found.message is not None, found.reason
    [name] = [name for name, value in changes.items() if value is not ...]
    if name != "fee_open":  # read only beside fee_close
        assert [note.field for note in found.notes] == [name]
        assert found.notes[0].reason
    assert set(message(trade())) - set(found.message) == set(without)
    assert position(trade(**changes)).producers == ("Trend",)


@pytest.mark.parametrize("field", ["initial_stop_loss_abs", "min_rate", "max_rate"])
@pytest.mark.parametrize("absent", [None, ...])
def test_what_is_optional_may_be_null(field: str, absent: Any) -> None:
    """Live trades without a candle yet have no extremes."""
    without = {"initial_stop_loss_abs": "risk", "min_rate": "max_drawdown_pct", "max_rate": "max_favorable_pct"}[field]
    found = position(trade(**{field: absent}))
    assert getattr(found, without) is None
    assert {without} == {
        name for name in ("risk", "max_drawdown_pct", "max_favorable_pct") if getattr(found, name) is None
    }


@pytest.mark.parametrize("field", [name for name, value in trade().items() if isinstance(value, float)])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_nan_reaches_a_position(field: str, value: float) -> None:
    """Refused by name, or not read at all."""
    [found] = read(export(trade(**{field: value})))
    if found.message is None:
        assert found.reason == f"{field}: must be a finite number"
    else:
        assert found.message == message(trade(**{field: None}))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(untimed, max_examples=300)
@given(st.builds(lambda field, value: trade(**{field: value}), st.sampled_from([*trade()]), anything) | anything)
def test_a_bad_trade_hurts_no_other(bad: Any) -> None:
    found = read(export(GOOD_FIRST, bad, GOOD_LAST))
    assert [item.index for item in found] == [0, 1, 2]
    assert found[0].message == message(GOOD_FIRST)
    assert found[2].message == message(GOOD_LAST)
    assert (found[1].message is None) is bool(found[1].reason)


# A lone surrogate is JSON to Python and no text to PostgreSQL; the others overflow a datetime and a Decimal.
EXTREME: list[dict[str, Any]] = [
    {"open_date": "0001-01-01T00:00:00+05:00"},
    {"close_date": "9999-12-31T23:59:59-05:00"},
    {"amount": "1e999999", "initial_stop_loss_abs": "1e-999999", "open_rate": "1e999999"},
    {"open_rate": "1e-999999", "min_rate": "1e999999"},
    {"pair": "ADA\udfff"},
]


@pytest.mark.parametrize("changes", EXTREME, ids=lambda changes: "+".join(changes))
def test_an_extreme_trade_hurts_no_other(changes: dict[str, Any]) -> None:
    """Refused here or by the model, in whose JSON it has to fit."""
    first, extreme, last = read(export(GOOD_FIRST, trade(**changes), GOOD_LAST))
    assert first.message == message(GOOD_FIRST)
    assert last.message == message(GOOD_LAST)
    if extreme.message is None:
        assert extreme.reason
    else:
        text = json.dumps(extreme.message, allow_nan=False, ensure_ascii=False).encode()
        with pytest.raises(ValidationError):
            ClosedPosition.model_validate_json(text)


# Files


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"pair,open_date\nADA/BTC,2018-01-10", "not JSON"),
        (export(trade())[:-20], "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"null", '"strategy"'),
        (b"[]", '"strategy"'),
        (b'[["ADA/BTC", 0.1, 1515568500, 1515568800]]', '"strategy"'),
        (b"{}", '"strategy"'),
        (b'{"strategy": {}}', '"strategy"'),
        (b'{"strategy": []}', '"strategy"'),
        (b'{"strategy": "Trend"}', '"strategy"'),
        (exports({"Trend": None}), '"Trend" has no list of trades'),
        (exports({"Trend": []}), '"Trend" has no list of trades'),
        (exports({"Trend": {}}), '"Trend" has no list of trades'),
        (exports({"Trend": {"trades": {}}}), '"Trend" has no list of trades'),
        (exports({"Good": {"trades": []}, "Bad": {"trades": None}}), '"Bad" has no list of trades'),
    ],
)
def test_what_is_no_export_says_why(content: bytes, why: str) -> None:
    with pytest.raises(NotTrades, match=why):
        read(content)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"strategy":' * 100_000], ids=["lists", "objects"])
def test_hopeless_depth_is_no_export(content: bytes) -> None:
    with pytest.raises(NotTrades):
        read(content)


def test_a_strategy_without_trades_is_an_export() -> None:
    assert read(export()) == []


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert read(b"\xef\xbb\xbf" + export(trade())) == read(export(trade()))


@untimed
@given(st.binary(max_size=200))
def test_any_other_file_is_refused_and_not_a_crash(content: bytes) -> None:
    with pytest.raises(NotTrades):
        read(content)


# Archives

RESULT = "backtest-result-2025-01-01_00-00-00.json"
BESIDE = {
    "backtest-result-2025-01-01_00-00-00_config.json": b'{"strategy": "Trend", "timeframe": "5m"}',
    "backtest-result-2025-01-01_00-00-00.meta.json": b'{"strategy": {}}',
    "backtest-result-2025-01-01_00-00-00_Trend.json": b'{"strategy_name": "Trend", "params": {}}',
    "backtest-result-2025-01-01_00-00-00_Trend.py": b"class Trend: ...",
    "backtest-result-2025-01-01_00-00-00_market_change.feather": b"ARROW1\0\0",
}


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_reads_as_the_result_in_it(compression: int) -> None:
    content = export(trade(), short(), trade(is_open=True))
    for files in ({RESULT: content}, BESIDE | {RESULT: content}, {RESULT: content} | BESIDE):
        assert read(zipped(files, compression)) == read(content)


@pytest.mark.parametrize("files", [BESIDE, {"readme.txt": b"hello"}, {"list.json": b"[]"}])
def test_an_archive_without_a_result_is_no_export(files: dict[str, bytes]) -> None:
    with pytest.raises(NotTrades, match="no backtest result"):
        read(zipped(files))


def test_an_archive_of_something_unreadable_is_no_export() -> None:
    with pytest.raises(NotTrades, match="not JSON"):
        read(zipped({RESULT: b"{not json"}))
    with pytest.raises(NotTrades):
        read(zipped({}))


def test_an_encrypted_archive_is_no_export() -> None:
    archive = bytearray(zipped({RESULT: export(trade())}))
    archive[6] |= 1
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(NotTrades):
        read(bytes(archive))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_truncated_archive_is_no_export(compression: int) -> None:
    archive = zipped({RESULT: export(trade())}, compression)
    for length in range(len(archive)):
        with pytest.raises(NotTrades):
            read(archive[:length])


@pytest.mark.parametrize("flipped", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_is_no_export_or_reads_the_same(compression: int, flipped: int) -> None:
    """Every byte of it damaged in turn: the checksum lets no other trades through, and nothing but NotTrades out."""
    content = export(trade())
    archive, sound = zipped({RESULT: content}, compression), read(content)
    crashes: dict[str, int] = {}
    for place in range(len(archive)):
        damaged = bytearray(archive)
        damaged[place] ^= flipped
        try:
            found = read(bytes(damaged))
        except NotTrades:
            continue
        except Exception as error:
            crashes[type(error).__name__] = place
        else:
            assert found == sound
    assert crashes == {}
