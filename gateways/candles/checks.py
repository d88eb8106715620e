"""Whether the rows of a file are one series, and one of the asked-for interval."""

import math
import re
from array import array
from collections.abc import Sequence
from datetime import UTC, datetime

from closeloop.gateways.candles.columns import FRAMES, VENUES, different_length, duration, several
from closeloop.gateways.candles.rows import Candle, NotCandles

_LONGEST_PAUSE_SECONDS = 6 * 3_600
_NAMED_SERIES = 9
_REMEMBERED = 1_000
# Some rows may be out of step with the others (yfinance's last one is stamped with the moment of the export).
_ROWS_IN_STEP_FOR_ONE_OUT_OF_STEP = 4
_FRAME = re.compile(r"(?:PT?)?([0-9]{1,6}) ?(mo|[smhdw])?[a-z]*", re.IGNORECASE)
_FRAME_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


class Series:
    """Which rows are of the wanted series, by the columns that say of which one a row is."""

    def __init__(
        self, identity: Sequence[tuple[str, int]], told: dict[str, str], asset: str | None, symbol: str | None,
        interval_seconds: int, *, chosen: bool = False,
    ) -> None:  # fmt: skip
        """``told``: what the file itself says of all rows. Raises NotCandles if that is another series."""
        self._columns, self._places = [name for name, _ in identity], [at for _, at in identity]
        self._asset, self._symbol, self._interval_seconds = asset, symbol, interval_seconds
        self._verdicts: dict[tuple[str, ...], bool] = {}
        self._values: list[dict[str, str]] = [{} for _ in identity]  # distinct ones, as first written
        self._skipped: dict[str, None] = {}
        self._mixed = False
        self._another: str | None = None  # why the rows are of another series than was asked for
        self._told_it = chosen or any(same_asset(value, symbol or "") for value in told.values())
        self._found = self._told_it
        self._another_frame: str | None = None  # of rows of the chosen symbol that were skipped
        self._wanted = False
        self.tells_the_length = False
        if symbol and not identity and not self._found:
            raise NotCandles("it has no column that names a symbol; drop --symbol")
        if why := self._why_another(list(told), list(told.values())):
            raise NotCandles(why)

    def wants(self, cells: list[str]) -> bool:
        """Whether a row belongs to the series. Raises NotCandles as soon as it is clear that nobody chose one."""
        values = tuple([cells[at] for at in self._places])
        verdict = self._verdicts.get(values)
        if verdict is None:
            verdict = self._decide(values)
            if len(self._verdicts) < _REMEMBERED:
                self._verdicts[values] = verdict
        return verdict

    def judge(self) -> None:
        """At the end of the file. Raises NotCandles."""
        if self._mixed:
            self._refuse_several()
        if self._another:
            raise NotCandles(self._another)
        if self._another_frame and not self._wanted:
            raise NotCandles(self._another_frame)
        if self._symbol and not self._found:
            raise NotCandles(f"it has no rows of {self._symbol[:40]}, but of {', '.join(self._skipped) or 'none'}")

    def _decide(self, values: tuple[str, ...]) -> bool:
        texts = [value.strip() for value in values]
        if self._symbol and not self._told_it:
            if not any(text and same_asset(text, self._symbol) for text in texts):
                if len(self._skipped) < _NAMED_SERIES:
                    self._skipped.setdefault(next(filter(None, texts), "")[:40])
                return False
            self._found = True
            if (why := self._why_another(self._columns, texts)) is not None:
                self._another_frame = self._another_frame or why
                return False
            self._wanted = True
        for text, known in zip(texts, self._values, strict=True):
            if text:
                known.setdefault(_key(text), text)
                self._mixed = self._mixed or len(known) > 1
                if len(known) >= _NAMED_SERIES:
                    self._refuse_several()
        self._another = self._another or self._why_another(self._columns, texts)
        # Of a file that is refused at its end, nothing more is given: it is read on only to name what it holds.
        return not self._mixed and self._another is None

    def _refuse_several(self) -> None:
        for name, known in zip(self._columns, self._values, strict=True):
            if len(known) > 1:
                raise NotCandles(several(name, list(known.values()), len(known) >= _NAMED_SERIES))

    def _why_another(self, columns: Sequence[str], texts: Sequence[str]) -> str | None:
        symbols = []
        for name, text in zip(columns, texts, strict=True):
            if name in FRAMES and text:
                seconds = frame_seconds(text, self._interval_seconds)
                if seconds is not None and seconds != self._interval_seconds:
                    wanted, typed = duration(self._interval_seconds), duration(seconds)
                    return f"its {name} says {text[:40]}, not {wanted}: --interval {typed}?"
                self.tells_the_length = self.tells_the_length or seconds is not None
            elif name not in VENUES and text:
                symbols.append((name, text))
        if not self._asset or self._symbol or any(same_asset(text, self._asset) for _, text in symbols):
            return None
        for name, text in symbols:
            return f"its {name} says {text[:40]}, not {self._asset[:80]}; if that is the same: --symbol {text[:40]}"
        return None


class Spacing:
    """How far apart candles start: the greatest common divisor of the distances is the length of one, if no shorter."""

    def __init__(self, interval_seconds: int, offset: int) -> None:
        """``offset``: by how many seconds the candles start after multiples of the interval since 1970."""
        self.interval_seconds = interval_seconds
        self.offset = offset
        self._first: int | None = None
        self._in_step = self._out_of_step = 0
        self._divisor = self._any_divisor = 0

    def in_step(self, seconds: int) -> bool:
        """Whether a candle that starts so many seconds after 1970 is in step with the others."""
        if self._first is None:
            self._first = seconds
        if (seconds - self.offset) % self.interval_seconds:
            self._out_of_step += 1
            self._any_divisor = math.gcd(self._any_divisor, seconds - self._first)
            return False
        self._in_step += 1
        self._divisor = math.gcd(self._divisor, seconds - self._first)
        return True

    def judge(self, tells_the_length: bool) -> None:
        """At the end of the file. Raises NotCandles. ``tells_the_length``: whether it says so itself."""
        if self._out_of_step * _ROWS_IN_STEP_FOR_ONE_OUT_OF_STEP > self._in_step:
            step = math.gcd(self._any_divisor, self._divisor)
            raise NotCandles(different_length("start", step, self.interval_seconds, " apart"))
        if tells_the_length:
            return
        if self._divisor > self.interval_seconds and self._out_of_step == 0:
            raise NotCandles(different_length("start", self._divisor, self.interval_seconds, " apart"))
        if self._divisor == 0 and self.offset and self._in_step:
            raise NotCandles(
                f"its only candle does not start at a multiple of {duration(self.interval_seconds)}, "
                "and nothing else says how long it is"
            )


class RoundTheClock:
    """Whether candles come without a pause, as where nothing ever closes: there, times are UTC by custom."""

    def __init__(self) -> None:
        self._before: int | None = None

    def add(self, seconds: int) -> None:
        """A candle that starts so many seconds after 1970. Raises NotCandles."""
        if self._before is not None and abs(seconds - self._before) > _LONGEST_PAUSE_SECONDS:
            first, second = sorted((seconds, self._before))
            raise NotCandles(
                f"its times have no UTC offset, and it pauses from {_written(first)} to {_written(second)}, as a "
                "market does that closes, whose times are its own: say whose, --timezone America/New_York or UTC"
            )
        self._before = seconds


class Seen:
    """Which candles were read before, by 32-bit hashes of their prices: 4 bytes a candle, a set of times takes 100."""

    _BLOCK = 64

    def __init__(self) -> None:
        self._blocks: dict[int, array[int]] = {}

    def add(self, slot: int, found: Candle) -> bool:
        """Whether the slot was empty. Raises ValueError if another candle was there."""
        # Equal decimals have equal hashes, however they are written. Zero stands for "none yet".
        mark = hash((found.open, found.high, found.low, found.close)) & 0xFFFFFFFF or 1
        block = self._blocks.get(slot // self._BLOCK)
        if block is None:
            block = self._blocks[slot // self._BLOCK] = array("I", bytes(4 * self._BLOCK))
        stored, block[slot % self._BLOCK] = block[slot % self._BLOCK], block[slot % self._BLOCK] or mark
        if stored and stored != mark:
            raise ValueError("an earlier line gives this candle other prices")
        return not stored


def same_asset(one: str, other: str) -> bool:
    """Whether two names may be of one asset: BTC/USDT, btcusdt, BTC-USDT and BINANCE:BTCUSDT are; AAPL is AAPL/USD."""
    if _key(one) == _key(other):
        return True
    bases = [re.split(r"[/_-]", _without_venue(name))[0] for name in (one, other)]
    plain = [not re.search(r"[/_-]", _without_venue(name)) for name in (one, other)]
    return any(plain) and _key(bases[0]) == _key(bases[1])


def frame_seconds(text: str, interval_seconds: int) -> int | None:
    """Seconds of a timeframe as files write it: 5m, 5min, 300, M5, PT5M; None where it says nothing.

    A bare number may be minutes or seconds: what agrees with the interval is meant.
    """
    text = re.sub(r"^([MHDmhd])([0-9]{1,4})$", r"\2\1", text.strip())
    if not (match := _FRAME.fullmatch(text)) or (match[2] or "").lower() == "mo":
        return None
    number = int(match[1])
    if match[2]:
        return number * _FRAME_SECONDS[match[2][0].lower()]
    return interval_seconds if number == interval_seconds else number * 60


def _written(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _without_venue(name: str) -> str:
    """BINANCE:BTCUSDT is BTCUSDT; BTC/USDT:USDT, which is a contract, stays."""
    before, colon, after = name.strip().partition(":")
    return after if colon and after and not re.search(r"[/_-]", before) else name.strip()


def _key(name: str) -> str:
    return re.sub(r"[/_\-. ]", "", _without_venue(name)).upper()
