"""Rows of JSON: a list of lists of numbers, as freqtrade stores candles and as ccxt and exchanges answer."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from closeloop.gateways.candles.rows import NotCandles

_CHUNK = 64 * 1024
_ROW = re.compile(rb"\s*\[([^\[\]]{0,4000})\]\s*([,\]])")
_WOULD_DO = "a list such as [[1514764800000, 2, 4, 1, 3, 10.5], ...] would do"


def read_rows(content: BinaryIO) -> Iterator[tuple[int, list[str] | str]]:
    """(number from 1, cells) of each row; a null is an empty cell. Raises NotCandles where it is no list of lists."""
    buffer = content.read(_CHUNK).lstrip().removeprefix(b"[")
    at = number = 0
    if buffer.lstrip().startswith(b"]"):
        raise NotCandles("its list is empty")
    while True:
        if match := _ROW.match(buffer, at):
            number, at = number + 1, match.end()
            yield number, [_cell(cell) for cell in match[1].split(b",")]
            if match[2] == b"]":
                break
        elif len(buffer) - at > _CHUNK or not (more := content.read(_CHUNK)):
            found = buffer[at : at + 40].decode("utf-8", "replace").strip()
            raise NotCandles(f"after {number} rows it is no list of lists of numbers, but {found!r}; {_WOULD_DO}")
        else:
            buffer, at = buffer[at:] + more, 0
    if buffer[at:].strip() or content.read(1).strip():
        raise NotCandles(f"something follows its list; {_WOULD_DO}")


def _cell(cell: bytes) -> str:
    found = cell.strip().decode("utf-8", "replace")
    if len(found) > 1 and found[0] == found[-1] == '"':
        found = found[1:-1]
    return "" if found == "null" else found
