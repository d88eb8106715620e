"""The formats of candle files that people have, each read right or refused with a sentence."""

import gzip
import io
import json
import math
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeloop.gateways.candles import Candle, NotCandles, RefusedRow, on_disk, read_candles
from closeloop.gateways.candles.checks import frame_seconds, same_asset

NOW = datetime(2026, 11, 25, tzinfo=UTC)
T0 = datetime(2026, 3, 2, tzinfo=UTC)
SUMMER = datetime(2026, 7, 6, 3, 45, tzinfo=UTC)


def close(at: datetime) -> str:
    """The known price at an instant."""
    t = at.timestamp()
    return f"{70 + 9 * math.cos(t / 4_000) + 2 * math.sin(t / 611):.4f}"


def known(count: int = 12, start: datetime = T0, step: int = 300) -> list[tuple[datetime, str, str, str, str]]:
    """(start, open, high, low, close) of candles of the known price."""
    found = []
    for n in range(count):
        at = start + n * timedelta(seconds=step)
        first, last = close(at), close(at + timedelta(seconds=step))
        found.append((at, first, max(first, last, key=float), min(first, last, key=float), last))
    return found


def read(content: bytes | str, interval: int = 300, **options: Any) -> list[Candle | RefusedRow]:
    return list(
        read_candles(io.BytesIO(content.encode() if isinstance(content, str) else content), interval, NOW, **options)
    )


def assert_known(content: bytes | str, count: int = 12, start: datetime = T0, step: int = 300, **options: Any) -> None:
    """The content gives exactly the candles of the known price."""
    found = read(content, step, **options)
    assert [(c.start, c.close) if isinstance(c, Candle) else c for c in found] == [
        (at, Decimal(last)) for at, *_, last in known(count, start, step)
    ]
    for one, (_, first, high, low, _) in zip(found, known(count, start, step), strict=True):
        assert isinstance(one, Candle)
        assert (one.open, one.high, one.low) == (Decimal(first), Decimal(high), Decimal(low))


def refusal(content: bytes | str, interval: int = 300, **options: Any) -> str:
    with pytest.raises(NotCandles) as refused:
        read(content, interval, **options)
    assert str(refused.value).isprintable()
    return str(refused.value)


def csv(
    rows: Sequence[tuple[datetime, str, str, str, str]] = (),
    header: str = "date,open,high,low,close,volume",
    stamp: Callable[[datetime], str] = datetime.isoformat,
    tail: str = ",1",
    separator: str = ",",
) -> str:
    lines = [separator.join((stamp(at), *prices)) + tail for at, *prices in rows or known()]
    return "\n".join([header, *lines] if header else lines) + "\n"


def milliseconds(at: datetime) -> str:
    return f"{at.timestamp():.0f}000"


def binance(unit: int, step: int = 300, count: int = 12) -> str:
    """A public dump: stamps in milli- or microseconds, the end being the last of them."""
    return "".join(
        f"{int(at.timestamp()) * unit},{a},{b},{c},{d},27.0,{(int(at.timestamp()) + step) * unit - 1},8.5,1,0.0,0.0,0\n"
        for at, a, b, c, d in known(count, step=step)
    )


def zipped(*files: tuple[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, text in files:
            archive.writestr(name, text)
    return content.getvalue()


def arrays(row: Callable[[datetime, str, str, str, str], list[Any]]) -> str:
    return json.dumps([row(*one) for one in known()])


def naive(pattern: str) -> Callable[[datetime], str]:
    return lambda at: at.strftime(pattern)


_MORE = "quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
BINANCE_HEADER = f"open_time,open,high,low,close,volume,close_time,{_MORE}\n"
FORMATS = {
    "Binance, spot": binance(10**6),
    "Binance, before 2025": binance(10**3),
    "Binance, futures": BINANCE_HEADER + binance(10**3),
    "Binance, one row": binance(10**6, count=1),
    "Kraken": csv(header="", stamp=lambda at: f"{at.timestamp():.0f}", tail=",1.5,3"),
    "Kraken, with the average price": csv(header="", stamp=lambda at: f"{at.timestamp():.0f}", tail=",70.5,1.5,3"),
    "ccxt": arrays(lambda at, a, b, c, d: [int(milliseconds(at)), *map(float, (a, b, c, d)), 1.5]),
    "ccxt, indented, texts, null": json.dumps(
        json.loads(arrays(lambda at, a, b, c, d: [int(milliseconds(at)), a, b, c, d, None])), indent=2
    ),
    "Binance REST": arrays(
        lambda at, a, b, c, d: [int(milliseconds(at)), a, b, c, d, "1", int(milliseconds(at)) + 299_999, *"12345"]
    ),
    "semicolons": csv(header="date;open;high;low;close;volume", separator=";", tail=";1").replace(".", ","),
    "semicolons and points": csv(header="Date;Open;High;Low;Close", separator=";", tail=""),
    "tabs": csv(header="timestamp\topen\thigh\tlow\tclose\tvolume", separator="\t", tail="\t1"),
    "quoted decimal commas": "date,open,high,low,close\n"
    + "".join(f"{at.isoformat()}," + ",".join(f'"{p.replace(".", ",")}"' for p in ps) + "\n" for at, *ps in known()),
    "no header, semicolons, commas": csv(header="", separator=";", stamp=milliseconds, tail=";1").replace(".", ","),
    "a date and a time with its offset": csv(
        header="Date,Time,Open,High,Low,Close", stamp=naive("%Y-%m-%d,%H:%M:%S+00:00"), tail=""
    ),
    "a date and a time in UTC": csv(
        header="Date,Time (UTC),Open,High,Low,Close,Vol", stamp=naive("%Y.%m.%d,%H:%M"), tail=",5"
    ),
    "unix beside a naive date": "https://www.CryptoDataDownload.com\n"
    + csv(
        header="unix,date,symbol,open,high,low,close,Volume BTC,Volume USD",
        stamp=lambda at: f"{at.timestamp():.0f},{at:%Y-%m-%d %H:%M:%S},BTC/USD",
        tail=",1,2",
    ),
    "yfinance": "Price,Open,High,Low,Close\nTicker,AA,AA,AA,AA\nDatetime,,,,\n" + csv(header="", tail=""),
    "yfinance, before": ",Open,High,Low,Close\n,AA,AA,AA,AA\nDatetime,,,,\n" + csv(header="", tail=""),
    "yfinance, by ticker": "Ticker,AA,AA,AA,AA\nPrice,Open,High,Low,Close\nDatetime,,,,\n" + csv(header="", tail=""),
    "yfinance, one line": csv(header="Datetime,Open,High,Low,Close,Adj Close,Volume", tail=",1,0"),
    "a data frame's index": csv(header=",open,high,low,close", tail=""),
    "Dukascopy": csv(header="Gmt time,Open,High,Low,Close,Volume", stamp=naive("%d.%m.%Y %H:%M:%S.000")),
    "months by name": csv(header="Date,Open,High,Low,Close", stamp=naive('"%b %d, %Y %H:%M UTC"'), tail=""),
    "UTC after the time": csv(stamp=naive("%Y-%m-%d %H:%M:%S UTC")),
    "nanoseconds": csv(header="ts,o,h,l,c,v", stamp=lambda at: milliseconds(at) + "000000"),
    "start and end": csv(
        header="time_period_start,time_period_end,time_open,price_open,price_high,price_low,price_close",
        stamp=lambda at: f"{at.isoformat()},{(at + timedelta(minutes=5)).isoformat()},{at.isoformat()[:-9]}:17Z",
        tail="",
    ),
    "only the end": csv(
        header="close_time,open,high,low,close", stamp=lambda at: milliseconds(at + timedelta(minutes=5)), tail=""
    ),
    "newest first": csv(known()[::-1]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    text = FORMATS[name]
    count = 1 if name.endswith("one row") else 12
    if name == "newest first":
        assert sorted(row.start for row in read(text) if isinstance(row, Candle)) == [at for at, *_ in known()]
        return
    assert_known(text, count)
    assert_known(gzip.compress(text.encode()), count)
    assert_known(zipped(("candles.json" if text.startswith("[") else "candles.csv", text)), count)
    assert_known(b"\xef\xbb\xbf" + text.encode(), count)
    assert_known(text.encode("utf-16"), count)
    assert_known(text.encode("utf-16-be"), count)
    assert_known(text.replace("\n", "\r\n"), count)
    assert_known(text.replace("\n", "\r"), count)


def test_metatrader_and_others_say_whose_times_theirs_are() -> None:
    zone = ZoneInfo("Europe/Athens")
    for start in (T0, SUMMER.replace(minute=0)):
        rows = known(start=start)
        names = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"
        five = csv(rows, names, lambda at: at.astimezone(zone).strftime("%Y.%m.%d\t%H:%M:%S"), "\t7\t0\t1", "\t")
        assert_known(five, start=start, timezone=zone)
        four = csv(rows, "", lambda at: at.astimezone(zone).strftime("%Y.%m.%d,%H:%M"), ",7")
        assert_known(four, start=start, timezone=zone)
        ascii_ = csv(rows, "", lambda at: at.astimezone(zone).strftime("%Y%m%d %H%M%S"), ";0", ";")
        assert_known(ascii_, start=start, timezone=zone)
        for text in (five, four, ascii_):
            assert "has no UTC offset" in refusal(text)
            assert "--timezone" in refusal(text)


@pytest.mark.parametrize(
    ("names", "written", "separator"),
    [
        ("Date,Time,Open,High,Low,Close,Volume", "%Y-%m-%d,%H:%M:%S", ","),
        ("date;time;open;high;low;close;volume", "%Y%m%d;%H%M", ";"),
        ("Date,Timestamp,Open,High,Low,Last,Volume", "%Y/%m/%d,%H:%M", ","),
    ],
)
def test_a_date_and_a_time_are_utc_where_nothing_ever_closes(names: str, written: str, separator: str) -> None:
    """Three hours of a market that never does, with a hole in them; five of one that closes over night."""
    told: list[str] = []
    text = csv(known(), names, lambda at: at.strftime(written), f"{separator}1", separator)
    assert_known(text, tell=told.append)
    assert [("UTC" in sentence, "--timezone" in sentence) for sentence in told] == [(True, True)]
    told.clear()
    assert_known(text, timezone=UTC, tell=told.append)
    assert not told
    holed = known() + known(start=T0 + timedelta(hours=6))
    assert len(read(csv(holed, names, lambda at: at.strftime(written), f"{separator}1", separator))) == 24
    nights = [row for day in range(3) for row in known(start=T0 + timedelta(days=day, hours=9))]
    session = csv(nights, names, lambda at: at.strftime(written), f"{separator}1", separator)
    assert "2026-03-02 09:55 to 2026-03-03 09:00" in refusal(session)
    assert "--timezone" in refusal(session)
    assert len(read(session, timezone=ZoneInfo("America/New_York"))) == 36


def test_a_date_and_a_time_that_say_their_offset_are_read_by_it() -> None:
    names = "Date,Time,Open,High,Low,Close,Volume"
    told: list[str] = []
    assert_known(csv(known(), names, lambda at: at.strftime("%Y-%m-%d,%H:%MZ")), tell=told.append)
    moved = csv(known(), names, lambda at: (at + timedelta(hours=2)).strftime("%Y-%m-%d,%H:%M:%S+02:00"))
    assert_known(moved, tell=told.append)
    assert not told
    # Beside them, what says the instant decides.
    unix = csv(known(), f"unix,{names}", lambda at: f"{at.timestamp():.0f},{at + timedelta(hours=2):%Y-%m-%d,%H:%M}")
    assert_known(unix, tell=told.append)
    assert not told


def test_a_local_time_that_is_two_or_none_is_refused() -> None:
    text = csv(
        known(40, datetime(2026, 10, 24, 22, 30, tzinfo=UTC)),
        stamp=lambda at: f"{at.astimezone(ZoneInfo('Europe/Rome')):%Y-%m-%d %H:%M}",
    )
    found = read(text, timezone=ZoneInfo("Europe/Rome"))
    ambiguous = [row for row in found if isinstance(row, RefusedRow)]
    assert len(ambiguous) == 40 - 18
    assert all("clocks were changed" in row.reason for row in ambiguous)
    assert all(
        row == k
        for row, k in zip(
            (r.start for r in found[:18]),
            (at for at, *_ in known(18, datetime(2026, 10, 24, 22, 30, tzinfo=UTC))),
            strict=True,
        )
    )


@pytest.mark.parametrize("volume", ["", "NaN", "nan", "-", "null", "N/A", "-1", "1e99"])
def test_an_unknown_volume(volume: str) -> None:
    found = read(csv(tail=f",{volume}"))
    assert [row.volume for row in found if isinstance(row, Candle)] == [None] * 12


# The length


@pytest.mark.parametrize(
    ("true", "typed", "seen"),
    [(1800, 300, "30m"), (3600, 1800, "1h"), (300, 900, "5m"), (900, 1800, "15m"), (180, 300, "3m"), (60, 3600, "1m"),
     (1200, 1800, "20m"), (86_400, 3600, "1d")],
)  # fmt: skip
def test_another_length_than_was_said(true: int, typed: int, seen: str) -> None:
    assert f"its candles start {seen} apart" in refusal(csv(known(48, step=true)), typed)
    assert_known(csv(known(48, step=true)), 48, step=true)


def test_gaps_are_multiples() -> None:
    kept = [row for n, row in enumerate(known(40)) if n not in (3, 4, 9, 20, 21, 22)]
    assert [row.start for row in read(csv(kept)) if isinstance(row, Candle)] == [at for at, *_ in kept]


def test_what_the_file_says_of_its_length_counts() -> None:
    """Every other candle is missing, and yet it says how long they are."""
    rows = known()[::2]
    assert "10m apart" in refusal(csv(rows))
    stamp = lambda at: f"{at.isoformat()},5m"  # noqa: E731
    assert len(read(csv(rows, "date,timeframe,open,high,low,close,volume", stamp))) == 6
    dump = "\n".join(binance(1_000).splitlines()[::2])
    assert len(read(dump)) == 6
    assert "5m long, not 10m" in refusal(dump, 600)
    assert "5m long, not 1h" in refusal(binance(1_000, count=1), 3600)


@pytest.mark.parametrize("step", [1800, 3600])
def test_candles_off_the_round_hour(step: int) -> None:
    days = [row for n in range(3) for row in known(6, SUMMER + timedelta(days=n), step)]
    found = read(csv(days), step)
    assert [row.start for row in found if isinstance(row, Candle)] == [at for at, *_ in days]
    stray = csv([*days, (SUMMER + timedelta(days=3, minutes=7), "1", "1", "1", "1")])
    assert [type(row) for row in read(stray, step)] == [Candle] * 18 + [RefusedRow]


def test_a_single_candle() -> None:
    assert_known(csv(known(1)), 1)
    assert "only candle" in refusal(csv(known(1, SUMMER)), 1800)


# Whose rows


def of(*symbols: str, column: str = "symbol") -> str:
    rows = [(symbol, row) for n in range(12) for symbol in symbols for row in [known()[n]]]
    return f"date,{column},open,high,low,close\n" + "".join(
        f"{at.isoformat()},{symbol},{','.join(prices)}\n"
        if i % len(symbols) == 0
        else f"{at.isoformat()},{symbol},9,9,9,9\n"
        for i, (symbol, (at, *prices)) in enumerate(rows)
    )


@pytest.mark.parametrize("column", ["symbol", "Ticker", "pair", "instrument_name", "exchange", "<TICKER>", "market"])
def test_several_series(column: str) -> None:
    for asset in ("ETH/USDT", "SOL/USDT", None):
        said = refusal(of("ETHUSDT", "SOLUSDT", column=column), asset=asset)
        assert all(word in said for word in ("ETHUSDT", "SOLUSDT", "--symbol"))
    for symbol in ("ETHUSDT", "eth/usdt", "ETH-USDT"):
        assert_known(of("ETHUSDT", "SOLUSDT", column=column), symbol=symbol, asset="X")
    assert "it has no rows of DOT, but of ETHUSDT, SOLUSDT" in refusal(
        of("ETHUSDT", "SOLUSDT", column=column), symbol="DOT"
    )
    many = refusal(of(*(f"S{n}" for n in range(40)), column=column))
    assert "S7, ..." in many
    assert "S30" not in many


def test_two_quotes_are_two_series() -> None:
    assert "ADA/BTC, ADA/USD" in refusal(of("ADA/BTC", "ADA/USD"), asset="ADA")


def test_of_a_chosen_symbol_only_the_asked_for_timeframe_is_read() -> None:
    lines = [
        csv(known(12, step=step), "", lambda at, of=of: f"{of},{at.isoformat()}")
        for of, step in (("AAA,5m", 300), ("AAA,1h", 3600), ("BBB,5m", 300))
    ]
    text = "symbol,timeframe,date,open,high,low,close,volume\n" + "".join(lines)
    assert "AAA, BBB" in refusal(text, asset="AAA")
    assert_known(text, asset="AAA", symbol="AAA")
    assert_known(text, asset="AAA", symbol="AAA", step=3600)
    assert "its timeframe says 5m, not 15m" in refusal(text, 900, asset="AAA", symbol="AAA")
    assert "no rows of CCC" in refusal(text, asset="AAA", symbol="CCC")


@pytest.mark.parametrize("column", ["tic", "Name", "Currency Pair", "code"])
def test_series_that_never_meet_are_not_mixed(column: str) -> None:
    rows = known()
    text = csv(
        rows, f"{column},date,open,high,low,close,volume", lambda at: f"{'AB'[at.minute // 5 % 2]},{at.isoformat()}"
    )
    assert "A, B" in refusal(text, asset="A")
    assert [row.start for row in read(text, 600, asset="A", symbol="A")] == [at for at, *_ in rows[::2]]


def test_another_asset_than_was_said() -> None:
    assert_known(of("BTCUSDT"), asset="BTC/USDT")
    assert_known(of("AAPL"), asset="AAPL/USD")
    said = refusal(of("BTCUSDT"), asset="ETH/USDT")
    assert "BTCUSDT" in said
    assert "--symbol BTCUSDT" in said
    assert_known(of("BTCUSDT"), asset="ETH/USDT", symbol="BTCUSDT")
    assert "drop --symbol" in refusal(csv(), symbol="BTC")
    tickers = FORMATS["yfinance"]
    assert "its ticker says AA, not MSFT" in refusal(tickers, asset="MSFT")
    assert_known(tickers, asset="AA")


def test_the_columns_of_one_ticker() -> None:
    lines = ["Price,Close,Close,High,High,Low,Low,Open,Open", "Ticker,AA,BB,AA,BB,AA,BB,AA,BB", "Datetime,,,,,,,,"]
    lines += [f"{at.isoformat()},9,{d},9,{b},9,{c},9,{a}" for at, a, b, c, d in known()]
    assert "AA, BB; choose one" in refusal("\n".join(lines), asset="AA")
    assert_known("\n".join(lines), symbol="BB")
    # While BB's market is open and AA's is not, AA's cells are empty: no candles, and none that were refused.
    alone = known(5, T0 + timedelta(hours=1))
    lines += [f"{at.isoformat()},,{d},,{b},,{c},,{a}" for at, a, b, c, d in alone]
    assert len(read("\n".join(lines), symbol="BB")) == 17
    assert len(read("\n".join(lines), symbol="AA")) == 12


@pytest.mark.parametrize("frame", ["15m", "15", "900", "15min", "M15", "PT15M"])
def test_another_timeframe_than_was_said(frame: str) -> None:
    stamp = lambda at: f"{at.isoformat()},{frame}"  # noqa: E731
    header = "date,timeframe,open,high,low,close,volume"
    assert_known(csv(known(step=900), header, stamp), step=900)
    assert "not 5m" in refusal(csv(known(step=300), header, stamp), 300)


def test_frames_and_names() -> None:
    assert [frame_seconds(text, 300) for text in ("5m", "5", "300", "H1", "1d", "1mo", "regular")] == [
        300, 300, 300, 3600, 86_400, None, None,
    ]  # fmt: skip
    assert same_asset("BINANCE:BTCUSDT", "btc/usdt")
    assert not same_asset("BTC/USDT:USDT", "BTC/USDT")
    assert not same_asset("ADA/BTC", "ADA/USD")


def test_the_name_of_a_dump() -> None:
    packed = zipped(("ETHUSDT-5m-2026-03-02.csv", binance(10**6)))
    assert_known(packed, asset="ETH/USDT")
    assert "ETHUSDT, not BTC/USDT" in refusal(packed, asset="BTC/USDT")
    assert_known(packed, asset="BTC/USDT", symbol="ETHUSDT")
    assert "5m long, not 1m" in refusal(packed, 60)


# Stamped at their ends


@pytest.mark.parametrize(
    "late", [timedelta(0), timedelta(seconds=1), timedelta(milliseconds=1), timedelta(microseconds=1)]
)
def test_candles_stamped_at_their_ends(late: timedelta) -> None:
    text = csv(stamp=lambda at: (at + timedelta(minutes=5) - late).isoformat())
    assert_known(text, timestamps="end")
    if late == timedelta(seconds=1):
        assert "--timestamps end" in refusal(text)


def test_columns_that_say_which_end_they_are_decide() -> None:
    assert "drop --timestamps" in refusal(FORMATS["Binance, spot"], timestamps="end")
    assert "drop --timestamps" in refusal(FORMATS["only the end"], timestamps="start")
    assert_known(FORMATS["Binance, futures"], timestamps="start")
    assert_known(FORMATS["only the end"], timestamps="end")


# Feather


def feather(frame: pd.DataFrame, path: Path, **options: Any) -> bytes:
    frame.to_feather(path, **options)
    return path.read_bytes()


def frame(count: int = 12, unit: str = "ms") -> pd.DataFrame:
    rows = known(count)
    columns = {name: [float(row[1 + n]) for row in rows] for n, name in enumerate(("open", "high", "low", "close"))}
    dates = pd.to_datetime([row[0] for row in rows], utc=True).as_unit(unit)  # type: ignore[arg-type]
    return pd.DataFrame({"date": dates, **columns, "volume": 1.5})


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_feather(tmp_path: Path, unit: str, compression: str) -> None:
    content = feather(frame(unit=unit), tmp_path / "ADA_BTC-5m.feather", compression=compression)
    assert_known(content)
    with (tmp_path / "ADA_BTC-5m.feather").open("rb") as file:
        assert len(list(read_candles(file, 300, NOW))) == 12
        assert not file.closed


def test_feather_with_naive_times_and_nan(tmp_path: Path) -> None:
    given_ = frame()
    given_["date"] = given_["date"].dt.tz_localize(None)
    content = feather(given_, tmp_path / "a.feather")
    assert "has no UTC offset" in refusal(content)
    assert_known(content, timezone=UTC)
    odd = frame()
    odd.loc[3, "close"] = float("nan")
    found = read(feather(odd, tmp_path / "b.feather"))
    assert [n for n, row in enumerate(found) if isinstance(row, RefusedRow)] == [3]
    assert found[3] == RefusedRow(4, "close: must be a finite number of at most 100 characters", known()[3][0]) or (
        found[3].reason.startswith("close:")  # type: ignore[union-attr]
    )


def test_a_damaged_feather_file(tmp_path: Path) -> None:
    content = feather(frame(200), tmp_path / "a.feather", compression="lz4")
    for at in range(0, len(content), 31):
        for damaged in (content[:at], content[:at] + b"\xff" * 9 + content[at + 9 :]):
            try:
                read(damaged)
            except NotCandles as refused:
                assert str(refused).isprintable()  # noqa: PT017


def test_a_feather_bomb(tmp_path: Path) -> None:
    numbers = pa.array([1.0]).take(pa.array([0] * 20_000_000))
    with pa.ipc.new_file(
        tmp_path / "bomb.feather",
        pa.schema([(name, pa.float64()) for name in ("date", "open", "high", "low", "close")]),
        options=pa.ipc.IpcWriteOptions(compression="zstd"),
    ) as writer:
        writer.write_batch(pa.record_batch([numbers] * 5, names=["date", "open", "high", "low", "close"]))
    assert (tmp_path / "bomb.feather").stat().st_size < 1_000_000
    assert "MiB of memory" in refusal((tmp_path / "bomb.feather").read_bytes())


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path) -> None:
    feather(frame(), tmp_path / "a.feather")
    program = (
        "import sys, datetime as d; sys.modules['pyarrow'] = None\n"
        "from closeloop.gateways.candles import NotCandles, read_candles\n"
        "try: list(read_candles(open(sys.argv[1], 'rb'), 300, d.datetime.now(d.UTC)))\n"
        "except NotCandles as refused: print(refused)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.feather"], capture_output=True, text=True, check=True
    )
    assert "pip install 'closeloop[feather]'" in done.stdout


# What is refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (zipped(("a.csv", csv()), ("b.csv", csv())), "2 files of candles; unpack it, and import one by one: a.csv, b"),
        (zipped(("readme.md", "hello")), "no file of candles"),
        (zipped(("xl/workbook.xml", "<x/>")), "Excel workbook"),
        (zipped(("a.csv", csv()), method=zipfile.ZIP_BZIP2), "packed in a way that is not read"),
        (zipped(*((f"{n}.txt", "") for n in range(20_000))), "holds too much"),
        (zipped(("a.csv", csv()))[:-30], "zip file is damaged"),
        (gzip.compress(gzip.compress(csv().encode())), "compressed twice"),
        ("[]", "its list is empty"),
        ("[[1772409600000, 1, 2", "no list of lists"),
        ('[{"date": 1}]', "no list of lists"),
        (json.dumps(json.loads(FORMATS["ccxt"])) + "]", "something follows"),
        ("[" * 100_000, "no list of lists"),
        ("date;open;high;low;close\n2026-03-02T00:00:00Z;1,234;1,234;1,234;1,234\n", "may be thousands or decimals"),
        (arrays(lambda at, a, b, c, d: [int(milliseconds(at)), c, b, a, d, 1]), "no header"),
        (csv(header="date,open,high,low,volume"), "names no close"),
        (csv(known(30), "date,open,high,low,adj close,volume"), "'date,open,high,low,adj close,volume' names no close"),
        (csv(known(30), "when,first,top,bottom,final,n"), "'when,first,top,bottom,final,n'"),
        (csv(stamp=naive("%m/%d/%Y %H:%M")), ""),
    ],
)  # fmt: skip
def test_refused_with_a_sentence(content: bytes | str, words: str) -> None:
    if words:
        assert words in refusal(content)
    else:
        assert all(isinstance(row, RefusedRow) and "must be a time such as" in row.reason for row in read(content))


@settings(deadline=None, max_examples=200)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08", b"ARROW1\0\0", b"[[", b"[", b"\xff\xfe"]),
)
def test_nothing_hostile_is_a_traceback(content: bytes, magic: bytes) -> None:
    try:
        rows = read(magic + content)
    except NotCandles as refused:
        assert str(refused).isprintable()  # noqa: PT017
    else:
        assert all(isinstance(row, Candle | RefusedRow) for row in rows)


def test_a_bomb_is_refused_while_it_is_read() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(csv().encode())
    packed += b"".join(packer.compress((b" " * 65_000 + b"\n") * 16) for _ in range(300)) + packer.flush()
    assert len(packed) < 1_000_000
    tracemalloc.start()
    try:
        assert "expands more than 200-fold" in refusal(packed)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_file_of_nonsense_is_not_read_to_its_end() -> None:
    assert "most of its rows are no candles" in refusal(csv() + "nonsense\n" * 20_000)


def test_arrays_and_feather_are_not_held(tmp_path: Path) -> None:
    rows = ",".join(f"[{1767225600000 + 60_000 * n},2,4,1,3,{n}]" for n in range(60_000))
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(f"[{rows}]".encode(), 1))
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            assert sum(isinstance(row, Candle) for row in read_candles(file, 60, NOW)) == 60_000
        assert tracemalloc.get_traced_memory()[1] < 3 << 20
    finally:
        tracemalloc.stop()


def test_a_pipe_is_read_to_its_end_before_anything_is_done_with_it() -> None:
    content = "".join(f"{n}\n" for n in range(100_000)).encode()
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as pipe:
        whole = on_disk(pipe)
        assert pipe.read() == b""
        assert whole.read() == content
        assert on_disk(whole) is whole
    writer.join()
