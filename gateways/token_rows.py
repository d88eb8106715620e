"""Rows of a bucket's members in a file: CSV with a header, or JSON objects, plain or gzipped."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from pydantic import ValidationError
from pydantic_core import from_json

from closeloop.gateways.json_messages import JsonMessages, NotMessages
from closeloop.models.market_tokens import TokenSpan
from closeloop.models.refusals import TOO_LONG, describe

MAX_BYTES = 32 * 1024 * 1024
_COLUMNS = ("asset", "bucket", "valid_from", "valid_to")


class NotTokenRows(Exception):
    """The file cannot be read: too long, damaged, or neither JSON nor a table with these columns."""


def read_tokens(file: BinaryIO) -> Iterator[tuple[int, TokenSpan | str]]:
    """(row from 0, span) of each row; of one that is refused, the reason.

    A header is no row. Raises NotTokenRows.
    """
    content = _content(file)
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    rows = _of_json(content) if start in (b"{", b"[") else _of_table(content)
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        try:
            yield number, TokenSpan.model_validate(row)
        except ValidationError as error:
            yield number, describe(error)


def _content(file: BinaryIO) -> bytes:
    content = file.read(MAX_BYTES + 1)
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise NotTokenRows(f"the gzip file is damaged ({error})") from None
    if len(content) > MAX_BYTES:
        raise NotTokenRows(f"it is longer than {MAX_BYTES // 1024 // 1024} MiB")
    return content


def _of_json(content: bytes) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    try:
        for number, message in JsonMessages(io.BytesIO(content)):
            if message is None:
                yield number, TOO_LONG
                continue
            try:
                row = from_json(message)
            except ValueError:
                yield number, "message: is not JSON"
                continue
            yield number, row if isinstance(row, dict) else "message: must be an object"
    except NotMessages as error:
        raise NotTokenRows(str(error)) from None


def _of_table(content: bytes) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    try:
        table = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    except UnicodeDecodeError:
        raise NotTokenRows("it is no text in UTF-8") from None
    try:
        header = [name.strip().lower() for name in next(table, [])]
        if missing := [name for name in _COLUMNS[:3] if name not in header]:
            raise NotTokenRows(
                f"it has no {missing[0]}: a table begins with the header {','.join(_COLUMNS)} (a file of JSON has "
                "objects with these fields)"
            )
        number = 0
        for cells in table:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header):
                yield number, f"row: has {len(cells)} cells, the header has {len(header)}"
            else:
                row = dict(zip(header, (cell.strip() for cell in cells), strict=False))
                yield number, {name: row[name] for name in _COLUMNS if name in row}
            number += 1
    except csv.Error as error:
        raise NotTokenRows(f"it is no table ({error})") from None
