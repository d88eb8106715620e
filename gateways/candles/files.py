"""What kind of file it is, by its content, and the rows that it has."""

import codecs
import gzip
import io
import os
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from closeloop.gateways.candles import arrays, feather, text
from closeloop.gateways.candles.rows import NotCandles

# A row with its number: its cells, or why it cannot be read.
Row = tuple[int, list[str] | str]

_CHUNK = 64 * 1024
# Rows of numbers shrink to a tenth, at most to a hundredth where nothing happens. What expands more is no candles, and
# would be read for hours.
_MOST_EXPANSION = 200
_SUSPECT_FROM_BYTES = 256 << 20
# What a ZIP archive says of its members takes memory before any is read: this is some thousand of them.
_MAX_DIRECTORY_BYTES = 1 << 20
_MAX_PIPED_BYTES = 1 << 30
_END_OF_ARCHIVE, _ZIP64_LOCATOR = b"PK\x05\x06", b"PK\x06\x07"
# Binance's public dumps: BTCUSDT-5m-2026-10-01.csv, BTCUSDT-5m-2026-10.csv.
_DUMP = re.compile(r"(?:.*/)?([A-Z0-9_]{2,40})-([0-9]{1,2}(?:mo|[smhdw]))-[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?\.csv")
_BOMS = ((codecs.BOM_UTF8, ""), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_OTHERS = (
    (b"PAR1", "a Parquet file"), (b"FEA1", "a Feather file of version 1"), (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format 3", "an SQLite database"), (b"\xd0\xcf\x11\xe0", "an Excel workbook"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"), (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"), (b"7z\xbc\xaf", "a 7z archive"), (b"%PDF", "a PDF"),
)  # fmt: skip


@dataclass
class Table:
    """Rows of a file. ``told``: what its name says of all of them, by the name of a column that would say so."""

    rows: Iterator[Row]
    told: dict[str, str] = field(default_factory=dict)


def read_table(file: BinaryIO) -> Table:
    """The rows of a file: text with separators, JSON arrays, either in gzip or ZIP, or Feather. It stays open.

    Raises NotCandles, also from the rows where the file is damaged further on.
    """
    head = _head(file)
    if head[:4] == b"PK\x03\x04" or head[:4] == _END_OF_ARCHIVE:
        return _archive(on_disk(file, head))
    if head.startswith(feather.MAGIC):
        return Table(feather.read_rows(on_disk(file, head)))
    whole = _pieces(head, file)
    # No text begins with the first byte of gzip.
    return Table(_rows(_unzipped(whole) if head[:1] == b"\x1f" else whole))


def _rows(pieces: Iterator[bytes]) -> Iterator[Row]:
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _CHUNK:
            break
    for magic, kind in _OTHERS:
        if head.startswith(magic):
            raise NotCandles(f"it is {kind}; write it as CSV, plain or gzipped")
    if head.startswith((b"PK\x03\x04", b"\x1f\x8b", feather.MAGIC)):
        raise NotCandles("it is compressed twice; unpack it first")
    rest = _chained(head, pieces)
    bom, encoding = next(((b, e) for b, e in _BOMS if head.startswith(b)), (b"", _utf_16_without_bom(head)))
    if encoding:
        rest = _decoded(rest, encoding)
        head = head.decode(encoding, "replace").encode().removeprefix(codecs.BOM_UTF8)
    start = head.removeprefix(bom).lstrip()[:64]
    if start.startswith((b"<!", b"<html", b"<HTML", b"<?xml")):
        raise NotCandles("it is a web page, not a file of candles")
    if start.startswith(b"{"):
        raise NotCandles("it is a JSON object; a list such as [[1514764800000, 2, 4, 1, 3, 10.5], ...] would do")
    if b"\r" in head and b"\n" not in head:
        rest = _line_feeds(rest)
    content = io.BufferedReader(_Pieces(_without(codecs.BOM_UTF8, rest)), _CHUNK)
    return arrays.read_rows(content) if start.startswith(b"[") else text.read_rows(content)


def _head(file: BinaryIO) -> bytes:
    head = b""
    while len(head) < 8 and (piece := file.read(8 - len(head))):  # a pipe may give less than it was asked for
        head += piece
    return head


def _pieces(head: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield head
    while piece := file.read(_CHUNK):
        yield piece


def _chained(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces


def _without(bom: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield next(pieces, b"").removeprefix(bom)
    yield from pieces


class _Pieces(io.RawIOBase):
    """What an iterator of bytes gives, as a file. ``given``: how much of it was read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._left:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._left = memoryview(piece)
        taken = min(len(buffer), len(self._left))
        buffer[:taken], self._left = self._left[:taken], self._left[taken:]
        self.given += taken
        return taken


def on_disk(file: BinaryIO, head: bytes = b"") -> BinaryIO:
    """The file, or what a pipe gives as a temporary file, once it has given all.

    Archives and Feather are read from their end; and who stores candles holds a transaction open, which must not wait
    for a pipe. Raises NotCandles where it is larger than 1 GiB.
    """
    try:
        if file.seekable():
            os.fstat(file.fileno())
            file.seek(0)
            return file
    except OSError:
        pass
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    size = 0
    for piece in _pieces(head, file):
        size += copy.write(piece)
        if size > _MAX_PIPED_BYTES:
            raise NotCandles("it is larger than 1 GiB; give it as a file, not through a pipe")
    copy.seek(0)
    return copy


def _unzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    packed = _Pieces(pieces)
    content = gzip.GzipFile(fileobj=io.BufferedReader(packed, _CHUNK))
    return _inflated(lambda: content.read1(_CHUNK), lambda: packed.given, "gzip")


def _inflated(read: Callable[[], bytes], packed_bytes: Callable[[], int], kind: str) -> Iterator[bytes]:
    size = 0
    try:
        while piece := read():
            size += len(piece)
            if size > _SUSPECT_FROM_BYTES and size > _MOST_EXPANSION * packed_bytes():
                raise NotCandles(f"the {kind} file expands more than {_MOST_EXPANSION}-fold: those are no candles")
            yield piece
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise NotCandles(f"the {kind} file is damaged ({error})") from None


def _archive(file: BinaryIO) -> Table:
    try:
        _check_directory(file)
        archive = zipfile.ZipFile(file)
        members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
        names = [name[:80] for m in members if (name := m.filename).isprintable()][:5]
        if any(name.startswith("xl/") for name in names):
            raise NotCandles("it is an Excel workbook; save the sheet as CSV")
        tables = [m for m in members if m.filename.lower().endswith((".csv", ".txt", ".json"))]
        if len(tables) != 1:
            found = f"{len(tables)} files of candles" if tables else "no file of candles (.csv, .txt, .json)"
            raise NotCandles(f"the zip file holds {found}; unpack it, and import one by one: {', '.join(names)}")
        member = tables[0]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise NotCandles("the zip file is packed in a way that is not read; unpack it first")
        content = archive.open(member)
    except (zipfile.BadZipFile, struct.error, EOFError, OSError, ValueError) as error:
        raise NotCandles(f"the zip file is damaged ({error})") from None
    except NotImplementedError as error:
        raise NotCandles(f"the zip file is packed in a way that is not read ({error}); unpack it first") from None
    except RuntimeError:
        raise NotCandles("the zip file has a password; unpack it first") from None
    pieces = _inflated(lambda: content.read(_CHUNK), lambda: member.compress_size, "zip")
    dump = _DUMP.fullmatch(member.filename)
    return Table(_rows(pieces), {"symbol": dump[1], "timeframe": dump[2]} if dump else {})


def _check_directory(file: BinaryIO) -> None:
    """Raises NotCandles if the list of the archive's members is too long to be read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 66_000))
    tail = file.read()
    at = tail.rfind(_END_OF_ARCHIVE)
    if at < 0:
        raise zipfile.BadZipFile("its end is missing")
    directory_bytes = struct.unpack_from("<L", tail, at + 12)[0]
    if directory_bytes > _MAX_DIRECTORY_BYTES or _ZIP64_LOCATOR in tail[max(0, at - 20) : at]:
        raise NotCandles("the zip file holds too much; unpack it, and import one by one")
    file.seek(0)


def _utf_16_without_bom(head: bytes) -> str:
    for encoding, zeros in (("utf-16-le", head[1:400:2]), ("utf-16-be", head[:400:2])):
        if len(zeros) > 4 and zeros.count(0) > 0.9 * len(zeros):
            return encoding
    return ""


def _decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    for piece in pieces:
        yield decoder.decode(piece).encode("utf-8", "replace")


def _line_feeds(pieces: Iterator[bytes]) -> Iterator[bytes]:
    return (piece.replace(b"\r", b"\n") for piece in pieces)
