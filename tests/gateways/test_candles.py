"""Candle files: what is read from them, what is refused, and what they may not do to the memory."""

import csv
import gzip
import io
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closeloop.gateways.candles import Candle, NotCandles, RefusedRow, read_candles
from closeloop.gateways.candles.text import MAX_LINE_BYTES

NOW = datetime(2026, 11, 21, tzinfo=UTC)
T0 = datetime(2018, 1, 11, tzinfo=UTC)
HEADER = "date,open,high,low,close,volume"
GOOD = "2018-01-11 00:00:00+00:00,2,4,1,3,10.5"
CANDLE = Candle(T0, Decimal(2), Decimal(4), Decimal(1), Decimal(3), Decimal("10.5"))


def read(content: str | bytes, interval: int = 300, now: datetime = NOW) -> list[Candle | RefusedRow]:
    return list(read_candles(io.BytesIO(content.encode() if isinstance(content, str) else content), interval, now))


def reason(line: str, header: str = HEADER) -> str:
    """Why a line is refused, among others that are read."""
    before, *after = (GOOD.replace("00:00:00", f"01:{minute}:00") for minute in ("00", "05", "10", "15", "20"))
    first, refused, *last = read("\n".join((header, before, line, *after)))
    assert all(isinstance(row, Candle) for row in (first, *last))
    assert isinstance(refused, RefusedRow)
    assert refused.line == 3
    return refused.reason


# Real files


@pytest.mark.parametrize("pair", ["ADA", "ETH", "LTC", "TRX", "XMR"])
def test_real_files(data: Callable[[str], Path], pair: str) -> None:
    path = data(f"candles-5m/{pair}_BTC.csv.gz")
    with path.open("rb") as file:
        found = list(read_candles(file, 300, NOW))
        assert not file.closed
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(path.read_bytes()).decode())))
    assert found == [
        Candle(
            datetime.strptime(row["date"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
            *(Decimal(row[name]) for name in ("open", "high", "low", "close", "volume")),
        )
        for row in rows
    ]
    assert len(found) > 5_000


# What is understood


@pytest.mark.parametrize(
    "time",
    [
        "2018-01-11 00:00:00+00:00",
        "2018-01-11T00:00:00Z",
        "2018-01-11T00:00Z",
        "2018-01-11T01:00:00+01:00",
        "2018-01-10 18:30:00-05:30",
        "2018-01-11 00:00:00.000000+00:00",
        "1515628800",
        "1515628800.0",
        "1515628800000",
        "1515628800000000",
        " 1515628800 ",
        '"2018-01-11T00:00:00Z"',
    ],
)
def test_times(time: str) -> None:
    assert read(f"{HEADER}\n{time},2,4,1,3,10.5\n") == [CANDLE]


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\n{GOOD}",
        f"{HEADER}\r\n{GOOD}\r\n",
        f"\ufeff{HEADER}\n{GOOD}\n",
        f"{HEADER}\n\n{GOOD}\n\n  \n",
        f"Date,Open,HIGH,low , Close,Volume\n{GOOD}",
        f"timestamp,open,high,low,close,volume\n{GOOD}",
        f"time,open,high,low,close,volume\n{GOOD}",
        f"open_time,open,high,low,close,volume\n{GOOD}",
        f"Open time,open,high,low,close,volume\n{GOOD}",
        "volume,close,low,high,open,symbol,date\n10.5,3,1,4,2,ADA,2018-01-11T00:00:00Z",
        "unix,date,open,high,low,close,volume,close_time\n0,2018-01-11T00:00:00Z,2,4,1,3,10.5,9",
        f"{HEADER}\n2018-01-11T00:00:00Z,2.0,0.4e1,1E0,+3,10.50",
    ],
)
def test_ways_of_writing(content: str) -> None:
    assert read(content) == [CANDLE]
    assert read(gzip.compress(content.encode())) == [CANDLE]


def test_a_volume_is_not_needed() -> None:
    without = Candle(T0, Decimal(2), Decimal(4), Decimal(1), Decimal(3), None)
    assert read("date,open,high,low,close\n2018-01-11T00:00:00Z,2,4,1,3") == [without]
    assert read(f"{HEADER}\n2018-01-11T00:00:00Z,2,4,1,3,") == [without]


def test_the_file_stays_open() -> None:
    content = io.BytesIO(f"{HEADER}\n{GOOD}".encode())
    assert list(read_candles(content, 300, NOW)) == [CANDLE]
    assert not content.closed


def test_prices_keep_every_digit() -> None:
    (found,) = read(f"{HEADER}\n2018-01-11T00:00:00Z,5.330000000000001e-05,1,0.00001,0.12345678901234567890,0")
    assert isinstance(found, Candle)
    assert (str(found.close), found.open) == ("0.12345678901234567890", Decimal("0.00005330000000000001"))


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789.,-+eE:TZ \"'\n\r\x00naNinfø"), max_size=200))
def test_no_line_gives_a_candle_that_may_not_be(text: str) -> None:
    try:
        rows = read(f"{HEADER}\n{text}\n2018-01-11T00:00:00Z,{text}")
    except NotCandles as error:
        assert str(error).isprintable()  # noqa: PT017
        rows = []
    for found in rows:
        if isinstance(found, Candle):
            assert found.start.timestamp() % 300 == 0
            assert found.start <= NOW - timedelta(minutes=5)
            assert 0 < found.low <= min(found.open, found.close) <= max(found.open, found.close) <= found.high < 1e31
        else:
            assert found.reason.isprintable()


# What is refused


@pytest.mark.parametrize(
    ("line", "because"),
    [
        ("2018-01-11T00:05:00Z,2,4,1,NaN,1", "close: must be a finite number"),
        ("2018-01-11T00:05:00Z,2,inf,1,3,1", "high: must be a finite number"),
        ("2018-01-11T00:05:00Z,2,4,1,,1", "close: must be a finite number"),
        ("2018-01-11T00:05:00Z,2,4,1,1_0,1", "close: must be a finite number"),
        ("2018-01-11T00:05:00Z,2,4,1,٣,1", "close: must be a finite number"),
        (f"2018-01-11T00:05:00Z,2,4,1,{'3' * 101},1", "close: must be a finite number"),
        ("2018-01-11T00:05:00Z,2,4,1,0,1", "close: must be positive"),
        ("2018-01-11T00:05:00Z,-2,4,1,3,1", "open: must be positive"),
        ("2018-01-11T00:05:00Z,2,4,1,1e-61,1", "close: must be 0 or between"),
        ("2018-01-11T00:05:00Z,2,1e31,1,3,1", "high: must be 0 or between"),
        ("2018-01-11T00:05:00Z,2,1,4,3,1", "low, high: "),
        ("2018-01-11T00:05:00Z,2,4,1,5,1", "low, high: "),
        ("2018-01-11T00:05:00Z,0.5,4,1,3,1", "low, high: "),
        ("2018-01-11T00:05:00Z,2,4,1,1,234.5,1", "the line has 7 fields"),
        ('2018-01-11T00:05:00Z,2,4,1,"1,234.5",1', "close: 1,234.5 has a comma"),
        ("2018-01-11 00:05:00,2,4,1,3,1", "date: has no UTC offset"),
        ("2018-01-11,2,4,1,3,1", "date: has no UTC offset"),
        ("20180111,2,4,1,3,1", "date: has no UTC offset"),
        ("yesterday,2,4,1,3,1", "date: must be a time"),
        (",2,4,1,3,1", "date: must be a time"),
        ("201801110000,2,4,1,3,1", "date: must be whole seconds"),
        ("1515629100000.5,2,4,1,3,1", "date: must be a time"),
        ("1515629100001,2,4,1,3,1", "date: must be whole seconds"),
        ("0001-01-01T00:00:00+14:00,2,4,1,3,1", "date: must be between"),
        ("1969-12-31T23:55:00Z,2,4,1,3,1", "date: must be between"),
        ("2018-01-11T00:05:01Z,2,4,1,3,1", "date: must be a multiple of the interval"),
        ("2018-01-11T00:07:00Z,2,4,1,3,1", "date: must be a multiple of the interval"),
        ("2018-01-11T00:05:00.5Z,2,4,1,3,1", "date: must be a multiple of the interval"),
        ("2026-11-20T23:56:00Z,2,4,1,3,1", "date: must be a multiple of the interval"),
        ("2026-11-21T00:00:00Z,2,4,1,3,1", "date: the candle has not ended"),
        ("9999-01-01T00:00:00Z,2,4,1,3,1", "date: the candle has not ended"),
        ("2018-01-11T00:05:00Z,2,4,1,3", "the line has 5 fields, the header 6"),
        ("2018-01-11T00:05:00Z,2,4,1,3,1,1", "the line has 7 fields, the header 6"),
        ('"2018-01-11T00:05:00Z,2,4,1,3,1', "the line has 1 fields, the header 6"),
        ("2018-01-11T01:00:00Z,2,4,1,2,10.5", "an earlier line gives this candle other prices"),
        ("x" * (MAX_LINE_BYTES + 10), "the line is longer than 64 KiB"),
    ],
)
def test_refused(line: str, because: str) -> None:
    assert reason(line).startswith(because)


def test_the_last_candle_that_has_ended() -> None:
    rows = f"{HEADER}\n2018-01-11T00:00:00Z,2,4,1,3,10.5"
    assert read(rows, now=T0 + timedelta(minutes=5)) == [CANDLE]
    assert isinstance(read(rows, now=T0 + timedelta(minutes=5, microseconds=-1))[0], RefusedRow)


def test_a_line_that_is_not_utf_8() -> None:
    found = read(HEADER.encode() + b"\n\xff\xfe,2,4,1,3,1\n" + GOOD.encode())
    assert found == [RefusedRow(2, "the line is not UTF-8"), CANDLE]


def test_a_refused_row_says_which_candle_it_would_have_been() -> None:
    rows = [
        "2018-01-11T00:05:00Z,2,4,1,NaN,1",
        "yesterday,2,4,1,3,1",
        "1515629400,2,1,4,3,1",
        "2018-01-11T00:00:00Z,2,4,1",
    ]
    found = read("\n".join([HEADER, GOOD, *rows]))[1:]
    wanted = [T0 + timedelta(minutes=5), None, T0 + timedelta(minutes=10), None]
    assert [row.start for row in found if isinstance(row, RefusedRow)] == wanted


def test_line_numbers_count_every_line() -> None:
    found = read(f"{HEADER}\n\n{'x' * 200_000}\n\nbad,2,4,1,3,1\n{GOOD}")
    assert [row.line for row in found if isinstance(row, RefusedRow)] == [3, 5]
    assert found[-1] == CANDLE


def test_a_line_that_repeats_another_is_one_candle_however_far_away() -> None:
    times = [T0 + timedelta(minutes=5 * n) for n in range(1_000)]
    lines = [f"{at.isoformat()},2,4,1,3,10.5" for at in times]
    again = [f"{at.isoformat()},2.0,4.00,1,3e0,10.5" for at in times[::-1]]
    assert read("\n".join([HEADER, *lines, *again])) == read("\n".join([HEADER, *lines]))


def test_a_line_that_contradicts_another_is_refused_however_far_away() -> None:
    times = [T0 + timedelta(minutes=5 * n) for n in range(1_000)]
    lines = [f"{at.isoformat()},2,4,1,3,10.5" for at in times]
    again = [f"{at.isoformat()},2,4,1,3.1,10.5" for at in times[:200][::-1]]
    found = read("\n".join([HEADER, *lines, *again]))
    assert [row.line for row in found if isinstance(row, RefusedRow)] == list(range(1_002, 1_202))
    assert len({row.start for row in found if isinstance(row, Candle)}) == 1_000


def test_a_file_that_gives_most_candles_twice_is_of_several_assets() -> None:
    times = [T0 + timedelta(minutes=5 * n) for n in range(10)]
    both = [f"{at.isoformat()},2,4,1,{close},10.5" for close in (3, 2) for at in times]
    with pytest.raises(NotCandles, match="10 of its 10 candles are there again with other prices"):
        read("\n".join([HEADER, *both]))


@pytest.mark.parametrize(
    ("content", "because"),
    [
        (b"", "it is empty; a header such as date,open,high,low,close,volume would do"),
        (GOOD.encode(), "it has no header, and rows such as '2018-01-11 00:00:00"),
        (b"date,open,high,low,volume\n", "its header 'date,open,high,low,volume' names no close; a header such"),
        (b"foo;bar\n1;2\n", "it has no header, and rows such as 'foo,bar'"),
        (b"open,high,low,close,volume\n", "names no date"),
        (b"date,open,high,low,close,close\n", "more than one column close"),
        (b"date,open,high,low,close,volume,Volume\n", "more than one column volume"),
        (b"PK\x03\x04\xff\xfe\x00", "the zip file is damaged"),
        (b"PAR1\x15\x04", "it is a Parquet file; write it as CSV"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b'{"error":[],"result":{}}', "it is a JSON object; a list such as"),
        (b"SQLite format 3\0", "it is an SQLite database"),
        (b"x" * 1_000_000, "it is not CSV"),
        (b"\x1f\x8b\x08\x00", "the gzip file is damaged"),
        (b"\x1fnothing", "the gzip file is damaged"),
    ],
)
def test_what_is_no_candle_file(content: bytes, because: str) -> None:
    with pytest.raises(NotCandles, match=because):
        read(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c[:-20],
        lambda c: c[:-8] + b"\0" * 8,
        lambda c: c + b"not gzip",
        lambda c: c + c[:10] + b"\x07" * 50,
    ],
)
def test_a_damaged_gzip_file_is_refused_also_after_rows(damage: Callable[[bytes], bytes]) -> None:
    lines = [f"{(T0 + timedelta(minutes=5 * n)).isoformat()},2,4,1,{1 + n % 300 / 100},{n}" for n in range(20_000)]
    rows = read_candles(io.BytesIO(damage(gzip.compress("\n".join([HEADER, *lines]).encode()))), 300, NOW)
    assert isinstance(next(rows), Candle)
    with pytest.raises(NotCandles, match="damaged"):
        list(rows)


# Memory


def peak(content: io.BytesIO | gzip.GzipFile, interval: int) -> tuple[int, int]:
    """(candles, most bytes that were held at once)."""
    tracemalloc.start()
    try:
        count = sum(isinstance(row, Candle) for row in read_candles(content, interval, NOW))  # type: ignore[arg-type]
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def zipped(pieces: Iterator[bytes]) -> io.BytesIO:
    content = io.BytesIO()
    with gzip.open(content, "wb", compresslevel=1) as file:
        for piece in pieces:
            file.write(piece)
    content.seek(0)
    return content


def test_a_line_without_an_end_is_not_held() -> None:
    def pieces() -> Iterator[bytes]:
        yield f"{HEADER}\n".encode()
        for _ in range(64):
            yield b"1" * (1 << 20)
        yield f"\n{GOOD}\n".encode()

    count, most = peak(zipped(pieces()), 300)
    assert count == 1
    assert most < 2 << 20


def test_rows_are_not_held() -> None:
    def pieces() -> Iterator[bytes]:
        yield f"{HEADER}\n".encode()
        for n in range(60_000):
            yield f"{(T0 + timedelta(minutes=n)).isoformat()},2,4,1,3,{n}\n".encode()

    count, most = peak(zipped(pieces()), 60)
    assert count == 60_000
    assert most < 3 << 20


# As they are written, for who judges them


def test_candles_as_they_are_written() -> None:
    lines = (
        "2018-01-11 00:00:00+00:00,2,4,1,3,10.5",
        "2018-01-11 00:05:00+00:00,-2,1,4,0,-1",
        "2018-01-11 00:00:00+00:00,9,9,9,9,x",
        "2018-01-11 00:10:00+00:00,2,4,1,,1",
        "2018-01-11 00:11:00+00:00,2,4,1,3,1",
        "2027-01-11 00:00:00+00:00,2,4,1,3,",
    )
    content = io.BytesIO("\n".join((HEADER, *lines)).encode())
    found = list(read_candles(content, 300, NOW, written=True))
    candles = [row for row in found if isinstance(row, Candle)]
    assert [row.line for row in found if isinstance(row, RefusedRow)] == [5, 6]
    assert candles[0] == CANDLE
    assert candles[1] == Candle(T0 + timedelta(minutes=5), *map(Decimal, (-2, 1, 4, 0, -1)))
    assert candles[2].start == T0
    assert candles[2].close == 9
    assert candles[2].volume is not None
    assert candles[2].volume.is_nan()
    assert candles[3].start.year == 2027
    assert candles[3].volume is None
