"""Where a row has what a candle is made of: by the names of a header, or by the shape of rows without one."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from closeloop.gateways.candles.rows import Candle, NotCandles, as_written, candle, volume_or_none
from closeloop.gateways.candles.times import Instant, instants, is_epoch, last_moment_to_end

Timestamps = Literal["start", "end"]

HEAD_ROWS = 100
"""By so many rows a file is understood before any is read for good."""
WOULD_DO = "a header such as date,open,high,low,close,volume would do"
_HEADER_WITHIN_ROWS = 10

PRICES: dict[str, tuple[str, ...]] = {
    name: (name, name[0], f"{name} price", f"price {name}") for name in ("open", "high", "low", "close")
}
PRICES["close"] += ("last",)
VOLUMES = ("volume", "vol", "vol.", "v", "base volume", "tick volume", "tickvol")
# When a candle began: by the name itself, or without a word which end is meant, the preferred first.
STARTS = (
    "open time", "opentime", "start", "start time", "time period start", "period start", "time open", "timeopen",
    "window start", "open timestamp", "start timestamp", "ts event",
)  # fmt: skip
STAMPS = (
    "date", "datetime", "timestamp", "time", "unix", "unix timestamp", "unix time", "epoch", "gmt time", "local time",
    "ts", "t", "utc",
)  # fmt: skip
ENDS = ("close time", "closetime", "end", "end time", "time period end", "period end", "time close", "timeclose")
# Which series a row is of.
SYMBOLS = (
    "symbol", "symbols", "ticker", "pair", "instrument", "instrument id", "instrument name", "inst id", "instid",
    "product id", "market", "asset", "coin", "contract", "security", "stock", "tic",
    "name", "code", "currency pair", "trading pair", "stock symbol", "ticker symbol", "token", "isin",
)  # fmt: skip
FRAMES = ("timeframe", "interval", "granularity", "resolution", "bar size", "period", "per")
VENUES = ("exchange", "venue", "source")
_KNOWN = frozenset(
    (*(name for names in PRICES.values() for name in names), *VOLUMES, *STARTS, *STAMPS, *ENDS, *SYMBOLS, *FRAMES)
)
_BINANCE = ("open time", *PRICES, "volume", "close time", *[""] * 5)
_VALUE = re.compile(r"[0-9.,:+\-/ TZeE]*")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2}.*)?|\d{4}|\d{6}")
_THOUSANDS_OR_DECIMALS = re.compile(r"[1-9][0-9]{0,2},[0-9]{3}")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]{1,3})?")


def normal(name: str) -> str:
    """A column's name as it is looked up: <OPEN>, "Open" and open are one, as are open_time and "Open time"."""
    return " ".join(name.strip().strip("<>\"'\ufeff").lower().replace("_", " ").replace("(utc)", "").split())


def names_a_column(cell: str) -> bool:
    """Whether a cell is a name that a header would have."""
    return normal(cell) in _KNOWN


def looks_like_a_value(cell: str) -> bool:
    """Whether a cell may be a number or a time."""
    return len(cell) < 100 and bool(_VALUE.fullmatch(cell))


@dataclass
class Header:
    """Names of the columns, how many rows they took, and what they say of all rows (``told``)."""

    names: list[str]
    raw: list[str]
    rows: int
    told: dict[str, str] = field(default_factory=dict)
    has_a_symbol_chosen: bool = False


class Columns:
    """Where a row has what.

    ``identity``: (name, place) of the columns that say which series a row is of. ``time``: the name of the columns that
    say when it is. ``taken_for_utc``: it is a date and a time whose offset is not said.
    """

    def __init__(
        self,
        header: Header,
        samples: Sequence[list[str]],
        interval: timedelta,
        timestamps: Timestamps | None,
        zone: tzinfo | None,
    ) -> None:
        """Raises NotCandles."""
        self._count = len(header.names)
        self._interval = interval
        self._samples = [row for row in samples if len(row) == self._count]
        names = header.names
        self._prices_at = _prices_at(header)
        volume = next((name for name in VOLUMES if name in names), None)
        self._volume_at = names.index(volume) if volume else None
        self.identity = [(name, at) for at, name in enumerate(names) if name in (*SYMBOLS, *FRAMES, *VENUES)]
        self._end_at = next((names.index(name) for name in ENDS if name in names), None)
        self.taken_for_utc = False
        self._choose_time(header, zone)
        used = (self._prices_at, [self._volume_at], self._time_at)
        for at in (at for places in used for at in places if at is not None):
            if names[at] and names.count(names[at]) > 1:
                raise NotCandles(f"it has more than one column {names[at]}")
        self._at_end = self._which_end(names, timestamps)
        self._decimal_comma = _has_decimal_comma([row[at].strip() for row in self._samples for at in self._prices_at])
        self.tells_the_length = self._check_length()

    def check(self, cells: list[str]) -> None:
        """Raises ValueError if the row has not as many cells as the header."""
        if len(cells) != self._count:
            raise ValueError(f"the line has {len(cells)} fields, the header {self._count}")

    def has_no_prices(self, cells: list[str]) -> bool:
        """Whether all four are empty, as of an asset that did not trade while others in the file did."""
        return not any(cells[at].strip() for at in self._prices_at)

    def start(self, cells: list[str]) -> datetime:
        """When the candle of a row began. Raises ValueError."""
        found = self._instant(self.time, " ".join([cells[at].strip() for at in self._time_at]))
        return last_moment_to_end(found) - self._interval if self._at_end else found

    def candle(self, start: datetime, cells: list[str], written: bool = False) -> Candle:
        """``written``: as it is written, right or wrong. Raises ValueError."""
        if self._end_at is not None and not self._at_end:
            self._check_end(start, cells[self._end_at].strip())
        first, highest, lowest, last = [cells[at].strip() for at in self._prices_at]
        volume = cells[self._volume_at].strip() if self._volume_at is not None else ""
        if self._decimal_comma:
            first, highest, lowest, last, volume = map(_with_a_point, (first, highest, lowest, last, volume))
        if written:
            return as_written(start, first, highest, lowest, last, volume or None)
        return candle(start, first, highest, lowest, last, volume_or_none(volume))

    def _choose_time(self, header: Header, zone: tzinfo | None) -> None:
        """The column, or the two, by whose times the rows are stamped: the first that says which instant is meant."""
        names = header.names
        found = [(names.index(name),) for name in ("date", *STARTS, *STAMPS[1:], *ENDS) if name in names]
        places: list[tuple[int, ...]] = list(found)
        clock = next((name for name in ("time", "timestamp", "hour") if name in names), None)
        if "date" in names and clock:
            date_at, time_at = names.index("date"), names.index(clock)
            times = [(row[date_at].strip(), row[time_at].strip()) for row in self._samples]
            if times and all(":" not in date and not is_epoch(date) and _CLOCK.match(time) for date, time in times):
                places = [(date_at, time_at), *(place for place in places if place not in ((date_at,), (time_at,)))]
        if not places and names[0] == "":
            places = [(0,)]  # the index of a data frame
        if not places:
            raise NotCandles(f"its header {_shown(header.raw)} names no date; {WOULD_DO}")
        utc = {at for at, raw in enumerate(header.raw) if re.search(r"\b(?:utc|gmt)\b", raw.lower().replace("_", " "))}
        ways = []
        for place_zone in (None, zone):
            for place in places:
                own = instants(UTC if utc.intersection(place) else place_zone)
                ways.append((place, own, ", ".join(names[at] or "the first column" for at in place)))
        refused = []
        for place, instant, name in ways:
            reasons = [self._why_no_instant(row, place, instant, name) for row in self._samples[:20]]
            if reasons and sum(reason is None for reason in reasons) * 2 >= len(reasons):
                self._time_at, self._instant, self.time = place, instant, name
                return
            refused.append(reasons)
        if len(places[0]) == 2 and zone is None and self._may_be_utc(header, places[0]):
            self._time_at, self._instant, self.time = places[0], instants(UTC), ways[0][2]
            self.taken_for_utc = True
            return
        self._time_at, self._instant, self.time = ways[0]
        last = [reason for reason in refused[0] if reason]
        if last and all("--timezone" in reason for reason in last) and len(last) == len(refused[0]):
            raise NotCandles(last[0])

    def _may_be_utc(self, header: Header, place: tuple[int, ...]) -> bool:
        """Whether a date and a time without an offset may be UTC: in MetaTrader's shape they are a broker's."""
        if not header.rows or any(header.raw[at].strip().startswith("<") for at in place):
            return False
        texts = [" ".join([row[at].strip() for at in place]) for row in self._samples[:20]]
        instant = instants(UTC)
        try:
            return not any("." in text.split()[0] for text in texts) and all(instant("", text) for text in texts)
        except ValueError:
            return False

    @staticmethod
    def _why_no_instant(row: list[str], place: tuple[int, ...], instant: Instant, name: str) -> str | None:
        try:
            instant(name, " ".join([row[at].strip() for at in place]))
        except ValueError as error:
            return str(error)
        return None

    def _which_end(self, names: list[str], timestamps: Timestamps | None) -> bool:
        """Whether the times are the candles' ends."""
        name = names[self._time_at[0]]
        said: Timestamps | None = "end" if name in ENDS else "start" if name in STARTS else None
        if said and timestamps and said != timestamps:
            raise NotCandles(f"its column {name} is the {said} of a candle, not the {timestamps}; drop --timestamps")
        return (said or timestamps) == "end"

    def _check_length(self) -> bool:
        """Whether the file itself says how long its candles are. Raises NotCandles if not as long as was said."""
        if self._end_at is None or self._at_end:
            return False
        lengths: Counter[timedelta] = Counter()
        for row in self._samples:
            try:
                end = last_moment_to_end(self._instant("", row[self._end_at].strip()))
                lengths[end - self.start(row)] += 1
            except ValueError:
                continue
        if not lengths:
            return False
        (length, _) = lengths.most_common(1)[0]
        if length != self._interval:
            raise NotCandles(different_length("are", length.total_seconds(), self._interval.total_seconds(), " long"))
        return True

    def _check_end(self, start: datetime, value: str) -> None:
        try:
            end = last_moment_to_end(self._instant("close time", value))
        except ValueError:
            return  # nothing that is needed
        if not start < end <= start + self._interval:
            raise ValueError(f"close time: is not the end of a candle of {duration(self._interval.total_seconds())}")


def find_header(
    head: Sequence[list[str]], symbol_is: Callable[[str], bool] | None = None, zone: tzinfo | None = None
) -> Header:
    """The names of the columns, from the first rows of a file. ``symbol_is(name)``: whether that series is wanted.

    Raises NotCandles, which names what was found.
    """
    for at, row in enumerate(head[:_HEADER_WITHIN_ROWS]):
        names = [normal(name) for name in row]
        if all(any(name in names for name in PRICES[price]) for price in PRICES):
            return _several_lines(head, at, names, symbol_is) or Header(names, row, at + 1)
    if shape := _shape(head, zone):
        return Header(shape, list(shape), 0)
    first = head[0] if head else []
    best = max(head[:_HEADER_WITHIN_ROWS], key=lambda row: sum(map(names_a_column, row)), default=first)
    if any(map(names_a_column, best)):
        names = [normal(name) for name in best]
        missing = [price for price in PRICES if not any(name in names for name in PRICES[price])]
        if not any(name in names for name in (*STARTS, *STAMPS, *ENDS)):
            missing.insert(0, "date")
        raise NotCandles(f"its header {_shown(best)} names no {', '.join(missing)}; {WOULD_DO}")
    raise NotCandles(
        f"it has no header, and rows such as {_shown(first)} are of no shape that is known without doubt; {WOULD_DO}"
    )


def _several_lines(
    head: Sequence[list[str]], at: int, names: list[str], symbol_is: Callable[[str], bool] | None
) -> Header | None:
    """yfinance's header: prices, tickers and the name of the index, each a line; the first two in either order."""
    index_at = next(
        (
            i
            for i in range(at + 1, min(at + 3, len(head)))
            if head[i][0].strip() and not any(map(str.strip, head[i][1:]))
        ),
        None,
    )
    if index_at is None or len(head[index_at]) != len(names):
        return None
    ticker_at = at + 1 if index_at == at + 2 else at - 1
    tickers = [cell.strip() for cell in head[ticker_at][1:]] if ticker_at >= 0 else []
    if len(tickers) != len(names) - 1:
        return None
    index = normal(head[index_at][0])
    distinct = list(dict.fromkeys(filter(None, tickers)))
    chosen = [ticker for ticker in distinct if symbol_is and symbol_is(ticker)]
    if len(distinct) > 1 and len(chosen) != 1:
        raise NotCandles(several("ticker", distinct))
    only = chosen[0] if chosen else distinct[0] if distinct else None
    kept = [index, *(name if ticker == only else "" for name, ticker in zip(names[1:], tickers, strict=True))]
    raw = [head[index_at][0], *head[at][1:]]
    return Header(kept, raw, index_at + 1, {"ticker": only} if only else {}, len(distinct) > 1)


def _shape(head: Sequence[list[str]], zone: tzinfo | None) -> list[str] | None:
    """The names of columns that have none, where they leave no doubt: times in order, then open, high, low, close."""
    rows = list(head)
    count = len(rows[0]) if rows else 0
    if count < 5 or any(len(row) != count for row in rows):
        return None
    with_clock = not is_epoch(rows[0][0].strip()) and bool(_CLOCK.fullmatch(rows[0][1].strip())) and count > 5
    if not with_clock and count == len(_BINANCE) and all(is_epoch(row[6].strip()) for row in rows):
        names = list(_BINANCE)
    else:
        names = ["date", "time"] if with_clock else ["timestamp"]
        # Kraken's REST answer has the average price before the volume.
        volume = ["", "volume"] if count == 8 and not with_clock else ["volume"]
        names = (names + [*PRICES, *volume] + [""] * count)[:count]
        if len(rows) < 2:
            return None
    instant, at = instants(zone or UTC), names.index("open")
    times: list[datetime] = []
    odd = 0
    comma = any(_DECIMAL_COMMA.fullmatch(cell.strip()) for cell in rows[0][at : at + 4])
    for row in rows:
        try:
            times.append(instant("", " ".join(cell.strip() for cell in row[:at])))
            first, highest, lowest, last = [
                _with_a_point(cell.strip()) if comma else cell.strip() for cell in row[at : at + 4]
            ]
            candle(times[-1], first, highest, lowest, last, None)
        except ValueError:
            if not times:
                return None  # a header, whose names are not known, or nothing that is
            odd += 1
    ordered = times in (sorted(set(times)), sorted(set(times), reverse=True))
    return names if times and ordered and odd * 10 <= len(rows) else None


def _prices_at(header: Header) -> list[int]:
    places = []
    for price, aliases in PRICES.items():
        name = next((alias for alias in aliases if alias in header.names), None)
        if name is None:
            raise NotCandles(f"its header {_shown(header.raw)} names no {price}; {WOULD_DO}")
        places.append(header.names.index(name))
    return places


def _has_decimal_comma(cells: list[str]) -> bool:
    """Whether prices are written with a comma before their decimals. Raises NotCandles if nobody can tell."""
    commas = [cell for cell in cells if "," in cell]
    if not commas or any("." in cell for cell in cells) or not all(map(_DECIMAL_COMMA.fullmatch, commas)):
        return False
    if all(map(_THOUSANDS_OR_DECIMALS.fullmatch, commas)):
        raise NotCandles(f"{commas[0]} may be thousands or decimals; write prices with a point, such as 1234.5")
    return True


def _with_a_point(value: str) -> str:
    return value.replace(",", ".") if value.count(",") == 1 and "." not in value else value


def duration(seconds: float) -> str:
    """5m, 1h, 1d: a length as options take it.

    >>> duration(300), duration(5400), duration(90)
    ('5m', '90m', '90 s')
    """
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and not seconds % length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g} s"


def different_length(verb: str, found: float, wanted: float, tail: str = "") -> str:
    """The sentence for candles of another length than was said (seconds), with what can be typed."""
    return f"its candles {verb} {duration(found)}{tail}, not {duration(wanted)}: --interval {duration(found)}?"


def several(column: str, values: Sequence[str], more: bool = False) -> str:
    """The sentence for a file of several series."""
    shown = ", ".join(value[:40] for value in values[:8]) + (", ..." if more or len(values) > 8 else "")
    return f"its {column} column has several values: {shown}; choose one: --symbol {values[0][:40]}"


def _shown(cells: Sequence[str]) -> str:
    text = ",".join(cells)
    text = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return f"'{text[:150]}{'...' if len(text) > 150 else ''}'"
