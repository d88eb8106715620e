"""Messages in a file of JSON: one a line, or an array of them, or one after the other over several lines.

Plain or gzipped, UTF-8 with or without a byte order mark, or UTF-16. No more of it is held than a few messages have.
"""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO, cast

from pydantic_core import from_json

from closeloop.models.values import MAX_MESSAGE_BYTES

BLOCK_BYTES = 64 * 1024
# JSON shrinks to a tenth or a thirtieth; what grows more than this is made to fill a memory or a disk.
MOST_EXPANSION = 200
_EXPANDED_UNWATCHED = 64 * 1024 * 1024
_MARK = re.compile(rb'[\\"{}\[\],]')
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"{\0", "utf-16-le"),
    (b"[\0", "utf-16-le"),
    (b"\0{", "utf-16-be"),
    (b"\0[", "utf-16-be"),
)


class NotMessages(Exception):
    """The file cannot be read to its end: it is damaged, or expands without measure."""


class JsonMessages:
    """(index from 0, message) of each message; None for one over the size of a message.

    The index counts lines, blank ones too, or elements. Where an array ends before it is closed, the piece at its end
    is a message that is no JSON. Raises NotMessages.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """Read the file; once."""
        try:
            blocks = _decoded(_unpacked(_blocks(self._file)))
            start, by_line = _look_ahead(blocks)
            everything = chain((start,), blocks)
            yield from _lines(everything) if by_line else _values(everything)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise NotMessages(f"the gzip file is damaged ({error})") from None
        except UnicodeError as error:
            raise NotMessages(f"the file is not the {getattr(error, 'encoding', 'text')} that it begins as") from None


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """What there is to read, as it comes: a pipe may pause."""
    read = cast(io.BufferedReader, file).read1
    while block := read(BLOCK_BYTES):
        yield block


def _head(blocks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first four bytes or more, and everything."""
    start = b""
    while len(start) < 4 and (block := next(blocks, b"")):
        start += block
    return start, chain((start,), blocks)


def _unpacked(packed: Iterator[bytes]) -> Iterator[bytes]:
    start, blocks = _head(packed)
    if not start.startswith(b"\x1f\x8b"):
        yield from blocks
        return
    source = _Stream(blocks)
    expanded = 0
    for block in _blocks(cast(BinaryIO, gzip.GzipFile(fileobj=cast(BinaryIO, source)))):
        expanded += len(block)
        if expanded > max(_EXPANDED_UNWATCHED, MOST_EXPANSION * source.given):
            raise NotMessages(f"the gzip file expands to more than {MOST_EXPANSION} times its size")
        yield block


class _Stream(io.RawIOBase):
    """Blocks as a file; counts what was read of them."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none at the end."""
        piece = self._rest or next(self._blocks, b"")
        size = len(piece) if size < 0 else size
        self._rest = piece[size:]
        self.given += len(piece[:size])
        return piece[:size]


def _decoded(raw: Iterator[bytes]) -> Iterator[bytes]:
    """In UTF-8 without a byte order mark. Plain UTF-8 passes as it is: who reads a message checks it."""
    start, blocks = _head(raw)
    encoding = next((name for mark, name in _ENCODINGS if start.startswith(mark)), None)
    if encoding is None or encoding == "utf-8-sig":
        yield start.removeprefix(codecs.BOM_UTF8)
        next(blocks)
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    for block in blocks:
        yield decoder.decode(block).encode()
    yield decoder.decode(b"", final=True).encode()


def _look_ahead(blocks: Iterator[bytes]) -> tuple[bytes, bool]:
    """What had to be read to tell, and whether there is one message a line.

    There is not where the first line opens an array or an object that the next line goes on with.
    """
    start = b""
    for block in blocks:
        start += block
        line, ended, after = start.lstrip().partition(b"\n")
        if len(start) > 2 * MAX_MESSAGE_BYTES or after.strip() or (line and line[:1] not in b"{["):
            break
        if ended and line.startswith(b"{") and _is_json(line):
            break
    line, _, after = start.strip().partition(b"\n")
    following = after.lstrip()[:1]
    if line.startswith(b"{"):
        by_line = following not in (b'"', b"}") or len(line) > MAX_MESSAGE_BYTES or _is_json(line)
    elif line.startswith(b"["):
        opens = line[1:].strip()[:1] in (b"", b"{", b"]")
        by_line = not opens or (following != b"" and len(line) <= MAX_MESSAGE_BYTES and _is_json(line))
    else:
        by_line = True
    return start, by_line


def _is_json(line: bytes) -> bool:
    try:
        from_json(line)
    except ValueError:
        return False
    return True


def _lines(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes | None]]:
    index, rest, too_long = 0, b"", False
    for block in chain(blocks, (b"\n",)):
        first, *others = block.split(b"\n")
        rest += first
        if not others:
            if len(rest) > 2 * MAX_MESSAGE_BYTES:
                rest, too_long = b"", True
            continue
        for line in (rest, *others[:-1]):
            message = line.strip()
            if too_long or message:
                yield index, None if too_long or len(message) > MAX_MESSAGE_BYTES else message
            index += 1
            too_long = False
        rest = others[-1]


def _values(blocks: Iterator[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """The elements of arrays, and objects that stand outside of one."""
    held = bytearray()
    index = depth = 0
    too_long = in_array = in_string = False
    escaped = -1  # where in the block a character stands that follows a backslash

    def take(piece: bytes) -> bytes | None:
        nonlocal too_long
        whole = (held + piece).strip()
        message = None if too_long or len(whole) > MAX_MESSAGE_BYTES else bytes(whole)
        held.clear()
        too_long = False
        return message

    for block in blocks:
        begin = 0
        for found in _MARK.finditer(block):
            at, mark = found.start(), found[0]
            if at == escaped:
                continue
            if in_string:
                if mark == b"\\":
                    escaped = at + 1
                elif mark == b'"':
                    in_string = False
            elif mark == b'"':
                in_string = True
            elif mark in b"{[":
                if mark == b"[" and not in_array and depth == 0 and not (held + block[begin:at]).strip():
                    in_array, begin = True, at + 1
                    held.clear()
                else:
                    depth += 1
            elif depth == 0 and in_array and mark in b",]":
                message = take(block[begin:at])
                if message != b"" or mark == b",":
                    yield index, message
                    index += 1
                in_array, begin = mark == b",", at + 1
            elif mark in b"}]" and depth > 0:
                depth -= 1
                if depth == 0 and not in_array:
                    yield index, take(block[begin : at + 1])
                    index, begin = index + 1, at + 1
        escaped = 0 if escaped == len(block) else -1
        held += block[begin:]
        if len(held) > 2 * MAX_MESSAGE_BYTES:
            held.clear()
            too_long = True
    message = take(b"")
    if message != b"" or in_array:
        yield index, message
