"""What a reader makes of a file of trades, whatever engine wrote it: closes as messages, and what is no close."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


class NotTrades(Exception):
    """The file as a whole cannot be imported; the message says what it is and what to do."""


@dataclass(frozen=True, slots=True)
class Noted:
    """An optional field that was left out of a trade, by the file's own name for it, and why."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileTrade:
    """A trade of the file: its place among its book's trades, from 0, and what was made of it.

    Exactly one holds: there is a ``message`` (a ``ClosedPosition``), a ``reason`` why it is refused, or it is
    ``still_open``. ``corrected``: the file's own PnL was not net, and the message has the net one.
    """

    book: str
    index: int
    message: dict[str, Any] | None = None
    reason: str | None = None
    still_open: bool = False
    corrected: bool = False
    notes: tuple[Noted, ...] = ()


@dataclass(frozen=True, slots=True)
class FileRun:
    """What the file says of the run that made a book's trades: a backtest has an id, a period and a currency.

    ``live``: the trades are a bot's that goes on trading, not a backtest's. A book that is in no run at all (as with
    JSON lines) is taken without asking which run it is.
    """

    run_id: str | None = None
    begins: datetime | None = None
    ends: datetime | None = None
    currency: str | None = None
    live: bool = False


@dataclass(frozen=True, slots=True)
class TradeFile:
    """The trades of a file, which can be read once, and the run of each of its books."""

    trades: Iterable[FileTrade]
    runs: dict[str, FileRun] = field(default_factory=dict)
