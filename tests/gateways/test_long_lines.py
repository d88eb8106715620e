"""A line without an end is refused while it is read, and never held; the lines beside it are taken."""

import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO, cast

import pytest

from closeloop.gateways.candles import Candle, read_candles
from closeloop.gateways.json_messages import JsonMessages
from closeloop.gateways.trade_tables.tables import read_rows

MOST_HELD = 24 * 1024 * 1024  # of a line of 256 MB


class Endless(io.RawIOBase):
    """A line of 256 MB between two good ones, of which nothing is ever held."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self._pieces = iter([before, *(b"x" * 65_536 for _ in range(4_096)), b"\n", after])
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._left = self._left or next(self._pieces, b"")
        taken = min(len(buffer), len(self._left))
        buffer[:taken], self._left = self._left[:taken], self._left[taken:]
        return taken


def messages(file: BinaryIO) -> Iterator[bool]:
    return (message is not None for _, message in JsonMessages(file))


def table(file: BinaryIO) -> Iterator[bool]:
    return (row.reason is None for row in read_rows(file).lines or ())


def candles(file: BinaryIO) -> Iterator[bool]:
    return (isinstance(one, Candle) for one in read_candles(file, 300, datetime(2026, 1, 1, tzinfo=UTC)))


CANDLE = "{}T00:{:02}:00Z,1,1,1,1,1\n"
FIRST = "date,open,high,low,close,volume\n" + "".join(CANDLE.format("2025-01-01", 5 * i) for i in range(6))
ROW = json.dumps({"a": 1, "b": 2}) + "\n"
READERS: dict[str, tuple[Callable[[BinaryIO], Iterator[bool]], str, str]] = {
    "messages": (messages, ROW, ROW),
    "a table of JSON lines": (table, ROW + ROW, ROW),
    "a table of CSV": (table, "a,b\n1,2\n", "3,4\n"),
    "candles": (candles, FIRST, CANDLE.format("2025-01-01", 30)),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_line_without_an_end_costs_itself(reader: str) -> None:
    read, before, after = READERS[reader]
    file = cast(BinaryIO, io.BufferedReader(Endless(before.encode(), after.encode())))
    tracemalloc.start()
    found = list(read(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    good = before.count("\n") - (not before.startswith("{"))
    assert found == [True] * good + [False, True]
    assert peak < MOST_HELD
