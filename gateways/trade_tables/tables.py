"""The rows of a file: CSV, JSON or JSON lines, told apart by content. Memory is bounded while reading."""

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain, islice
from typing import Any, BinaryIO, TextIO

from closeloop.gateways.trades import NotTrades

MAX_LINE_CHARACTERS = 1024 * 1024
MAX_DOCUMENT_CHARACTERS = 64 * 1024 * 1024  # a JSON document is held whole
MAX_COLUMNS = 2_000
ROWS_LOOKED_AT = 50  # by which a map is guessed

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the file, counted from 0: its values by column, or why it cannot be read."""

    index: int
    values: Record
    reason: str | None = None


@dataclass
class Rows:
    """What a file holds. ``document``: of a JSON document, in which a map finds the rows; else they are ``lines``."""

    columns: list[str] = field(default_factory=list)
    lines: Iterator[Row] | None = None
    document: Any = None

    def at(self, paths: tuple[str, ...] | None) -> Iterator[Row]:
        """The rows, of a document those at one of these paths."""
        if self.lines is not None:
            return self.lines
        found: Any = self.document
        if isinstance(found, dict):
            lists = (value_at(found, path) for path in paths or ())
            found = next((one for one in lists if isinstance(one, list)), [found])
        return (_row(index, value) for index, value in enumerate(found))

    def looked_at(self, paths: tuple[str, ...] | None) -> list[Record]:
        """The first rows, which stay to be read, and of a CSV file one that has its columns."""
        if self.lines is None:
            return [row.values for row in islice(self.at(paths), ROWS_LOOKED_AT)]
        first = list(islice(self.lines, ROWS_LOOKED_AT))
        self.lines = chain(first, self.lines)
        return [dict.fromkeys(self.columns, "")] if self.columns else [row.values for row in first]


def value_at(record: Any, path: str) -> Any:
    """The value at a column or a path of it: ``symbol.value``, ``symbols.0.value``. A text on the way may be JSON."""
    if isinstance(record, Mapping) and path in record:
        return record[path]
    for part in path.split("."):
        if isinstance(record, str):
            record = _opened(record)
        if isinstance(record, Mapping):
            record = record.get(part)
        elif isinstance(record, list) and part.isdecimal() and len(part) < 7 and int(part) < len(record):
            record = record[int(part)]
        else:
            return None
    return record


def has(record: Record, path: str) -> bool:
    """Whether there is such a column, or the last part of such a path, even if it is empty."""
    above, _, last = path.rpartition(".")
    holder = value_at(record, above) if above else record
    return path in record or (isinstance(holder, Mapping) and last in holder)


def read_rows(file: BinaryIO) -> Rows:
    """The rows of a file that may be gzipped, of UTF-8 or UTF-16. Raises NotTrades, also while they are read."""
    text = _text(file)
    first = _line(text)
    while first is not None and not first.strip():
        first = _line(text)
    if first is None:
        return Rows(document=[])
    return _json(first, text) if first.lstrip()[0] in "[{" else _csv(first, text)


def _text(file: BinaryIO) -> TextIO:
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    start = buffered.peek(16)[:16]
    if start.startswith(b"\x1f\x8b"):
        buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered))
        try:
            start = buffered.peek(16)[:16]
        except (OSError, zlib.error, EOFError) as error:
            raise NotTrades(f"the gzip file is damaged ({error})") from None
    for magic, what in (
        (b"PK\x03\x04", "a zip archive (or a spreadsheet): unpack it, or save the sheet as CSV"),
        (
            b"SQLite format 3",
            "a SQLite database: write a table as CSV, sqlite3 -header -csv FILE 'SELECT …'",
        ),
        (b"PAR1", "Parquet: write it as CSV, pandas.read_parquet(FILE).to_csv(...)"),
        (b"ARROW1", "Feather: write it as CSV, pandas.read_feather(FILE).to_csv(...)"),
    ):
        if start.startswith(magic):
            raise NotTrades(f"it is {what}")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif start[1:2] == b"\0":
        encoding = "utf-16-le"
    else:
        encoding = "utf-8-sig"
    return io.TextIOWrapper(buffered, encoding=encoding)


def _read(text: TextIO, characters: int, line: bool) -> str:
    try:
        return text.readline(characters) if line else text.read(characters)
    except UnicodeError:
        raise NotTrades("it is no text of UTF-8 or UTF-16: save it as UTF-8") from None
    except (OSError, zlib.error, EOFError) as error:
        raise NotTrades(f"it is damaged, or cannot be read further ({error})") from None


def _line(text: TextIO) -> str | None:
    """The next line; longer than MAX_LINE_CHARACTERS where it is not whole. None at the end."""
    return _read(text, MAX_LINE_CHARACTERS + 1, True) or None


# CSV


def _csv(first: str, text: TextIO) -> Rows:
    if len(first) > MAX_LINE_CHARACTERS:
        raise NotTrades(f"its first line is longer than {MAX_LINE_CHARACTERS:,} characters: it is no table")
    delimiter = max(",;\t", key=lambda sign: first.count(sign))
    lines = _CsvLines(text)
    reader = csv.reader(chain((first,), lines), delimiter=delimiter)
    header = [name.strip() for name in _record(reader) or []]
    if len(header) > MAX_COLUMNS:
        raise NotTrades(f"its first line names {len(header)} columns, and at most {MAX_COLUMNS} can be read")
    if len(header) < 2:
        raise NotTrades(
            "its first line names no columns: it is no CSV (',', ';' or tab between), no JSON and no JSON lines"
        )
    repeated = {name for name in header if name and header.count(name) > 1}
    if repeated:
        raise NotTrades(f"it has more than one column {_short(sorted(repeated)[0])}")
    return Rows([name for name in header if name], _csv_rows(reader, lines, header))


class _CsvLines(Iterator[str]):
    """Lines for the CSV reader; of one that is too long it gets an empty one, and ``too_long`` says so.

    ``characters``: of the row that is being read. Quotes that are never closed make all that follows one row.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.too_long = False
        self.characters = 0

    def __next__(self) -> str:
        if (line := _line(self._text)) is None:
            raise StopIteration
        self.characters += len(line)
        if len(line) > MAX_LINE_CHARACTERS:
            while not line.endswith("\n") and (line := _line(self._text) or ""):
                pass
            self.too_long = True
            return "\n"
        if self.characters > MAX_LINE_CHARACTERS:
            raise NotTrades(f"a row is longer than {MAX_LINE_CHARACTERS:,} characters: is a quote never closed?")
        return line


def _csv_rows(reader: Any, lines: _CsvLines, header: list[str]) -> Iterator[Row]:
    index = 0
    while (fields := _record(reader)) is not None:
        lines.characters = 0
        if lines.too_long:
            lines.too_long = False
            yield Row(index, {}, f"the line is longer than {MAX_LINE_CHARACTERS:,} characters")
        elif not any(one.strip() for one in fields):
            continue
        elif len(fields) != len(header):
            yield Row(index, {}, f"the row has {len(fields)} fields, the first line names {len(header)} columns")
        else:
            yield Row(index, {name: one.strip() for name, one in zip(header, fields, strict=True) if name})
        index += 1


def _record(reader: Any) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise NotTrades(f"line {reader.line_num} is no CSV ({error})") from None


# JSON


def _json(first: str, text: TextIO) -> Rows:
    if first.lstrip().startswith("{") and len(first) <= MAX_LINE_CHARACTERS:
        try:
            alone = _loads(first)
        except ValueError:
            pass
        else:
            following = _line(text)
            while following is not None and not following.strip():
                following = _line(text)
            if following is not None:
                return Rows(lines=_json_lines(first, following, text))
            return Rows(document=alone)
    rest = _read(text, MAX_DOCUMENT_CHARACTERS, False)
    if len(rest) == MAX_DOCUMENT_CHARACTERS:
        raise NotTrades(f"the JSON is longer than {MAX_DOCUMENT_CHARACTERS // 2**20} MiB: write it as JSON lines")
    try:
        return Rows(document=_loads(first + rest))
    except ValueError as error:
        raise NotTrades(f"it is no JSON ({error})") from None


def _json_lines(first: str, following: str, text: TextIO) -> Iterator[Row]:
    index, line = 0, first
    pending: str | None = following
    while line is not None:
        whole = True
        while len(line) > MAX_LINE_CHARACTERS and not line.endswith("\n"):
            whole, line = False, (pending if pending is not None else _line(text)) or "\n"
            pending = None
        if not whole:
            yield Row(index, {}, f"the line is longer than {MAX_LINE_CHARACTERS:,} characters")
            index += 1
        elif line.strip():
            try:
                yield _row(index, _loads(line))
            except ValueError as error:
                yield Row(index, {}, f"the line is not JSON ({error})")
            index += 1
        following_line = pending if pending is not None else _line(text)
        pending = None
        if following_line is None:
            return
        line = following_line


def _row(index: int, value: Any) -> Row:
    return Row(index, value) if isinstance(value, dict) else Row(index, {}, "the row is no JSON object")


def _loads(text: str) -> Any:
    """JSON, its numbers with every digit. Raises ValueError."""
    try:
        return json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=lambda _: math.nan)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _opened(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return _loads(text)
    except ValueError:
        return None


def _short(name: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name[:80])
