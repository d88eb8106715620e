"""Rows of a text: one a line, cells between commas, semicolons, tabs or bars."""

import csv
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO

from closeloop.gateways.candles.columns import HEAD_ROWS, WOULD_DO, looks_like_a_value, names_a_column
from closeloop.gateways.candles.rows import NotCandles

MAX_LINE_BYTES = 64 * 1024
_SEPARATORS = ",;\t|"


def read_rows(content: BinaryIO) -> Iterator[tuple[int, list[str] | str]]:
    """(number of the line, cells) of each line that is not blank, or why it cannot be read. Raises NotCandles.

    A line that is too long is never held in memory.
    """
    lines = _lines(content)
    first = list(islice(lines, HEAD_ROWS))
    if not first:
        raise NotCandles(f"it is empty; {WOULD_DO}")
    if (refused := first[0][2]) is not None:
        raise NotCandles(f"it is not CSV, or damaged: {refused}")
    separator = _separator([text for _, text, refused in first if refused is None])
    for number, text, refused in chain(first, lines):
        if refused is not None:
            yield number, refused
        elif '"' not in text:
            yield number, text.split(separator)
        else:
            try:
                yield number, next(csv.reader([text], delimiter=separator))
            except (csv.Error, StopIteration):
                yield number, "the line is not CSV"


def _separator(lines: list[str]) -> str:
    """What stands between the cells: with it, most of them are names of columns, or all of a line are values."""

    def cells(separator: str) -> int:
        rows = [[cell.strip().strip('"') for cell in line.split(separator)] for line in lines[:20]]
        named = max(sum(map(names_a_column, row)) for row in rows)
        values = max(len(row) if all(map(looks_like_a_value, row)) else 0 for row in rows)
        return max(named, values)

    return max(_SEPARATORS, key=cells)


def _lines(content: BinaryIO) -> Iterator[tuple[int, str, str | None]]:
    """(number from 1, text without its end, why it is refused or None) of each line that is not blank."""
    limit, number = MAX_LINE_BYTES + 2, 0
    while piece := content.readline(limit):
        number += 1
        if len(piece) == limit and piece[-1:] != b"\n":
            while (piece := content.readline(limit)) and piece[-1:] != b"\n":
                pass
            yield number, "", f"the line is longer than {MAX_LINE_BYTES // 1024} KiB"
            continue
        try:
            text = piece.decode()
        except UnicodeDecodeError:
            yield number, "", "the line is not UTF-8"
            continue
        if text := text.strip("\r\n "):
            yield number, text, None
