"""Rows of Feather (Arrow IPC) files, as freqtrade stores candles. They are read by pyarrow, the extra ``feather``."""

import mmap
import shutil
import struct
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, BinaryIO

from closeloop.gateways.candles.rows import NotCandles

MAGIC = b"ARROW1"
# pyarrow takes the memory that a batch says it needs; freqtrade's batches need 3 MB.
_MAX_BATCH_BYTES = 512 << 20
_EPOCH = datetime(1970, 1, 1)
_MICROSECONDS = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 1}


def read_rows(file: BinaryIO) -> Iterator[tuple[int, list[str] | str]]:
    """The names of the columns as row 0, then (number from 1, cells) of each row.

    Raises NotCandles where the file is damaged, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise NotCandles("a Feather file is read by pyarrow: pip install 'closeloop[feather]'") from None
    try:
        yield from _rows(pa, _mapped(file))
    except (pa.ArrowException, OSError, MemoryError, ValueError, struct.error, IndexError) as error:
        raise NotCandles(f"the Feather file is damaged ({str(error)[:200]})") from None


def _mapped(file: BinaryIO) -> mmap.mmap:
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError:
        copy = tempfile.TemporaryFile()  # noqa: SIM115
        shutil.copyfileobj(file, copy)
        copy.flush()
        return mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)


def _rows(pa: Any, content: mmap.mmap) -> Iterator[tuple[int, list[str] | str]]:
    # Behind its first 8 bytes the file is a stream: read as one, nothing is believed of what its end says.
    stream = pa.py_buffer(content).slice(8)
    _check_sizes(pa, stream)
    number = 0
    with pa.ipc.open_stream(pa.BufferReader(stream)) as reader:
        kinds = [column.type for column in reader.schema]
        yield 0, [str(name) for name in reader.schema.names]
        for batch in reader:
            batch.validate(full=True)
            for at in range(0, len(batch), 10_000):
                part = batch.slice(at, 10_000)
                columns = [_texts(pa, column, kind) for column, kind in zip(part.columns, kinds, strict=True)]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, list(cells)


def _texts(pa: Any, column: Any, kind: Any) -> list[str]:
    if pa.types.is_timestamp(kind):
        unit = _MICROSECONDS[kind.unit] if kind.unit != "ns" else 1
        numbers = column.cast(pa.int64()).to_pylist()
        instants = ["" if n is None else _instant((n // 1000 if kind.unit == "ns" else n) * unit) for n in numbers]
        return [text + "+00:00" if text and kind.tz else text for text in instants]
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or pa.types.is_string(kind):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_date(kind):
        return ["" if value is None else value.isoformat() for value in column.to_pylist()]
    return [""] * len(column)


def _instant(microseconds: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(" ")
    except OverflowError:
        return "out of range"


def _check_sizes(pa: Any, stream: Any) -> None:
    """Raises NotCandles if a batch says that it needs more memory than candles do. Arrow IPC, "Message.fbs"."""
    for message in pa.ipc.MessageReader.open_stream(pa.BufferReader(stream)):
        if message.type != "record batch":
            continue
        body, header = message.body, message.metadata.to_pybytes()
        (root,) = struct.unpack_from("<I", header)
        batch = _followed(header, _member(header, root, 2))
        rows_at, buffers_at = _member(header, batch, 0), _member(header, batch, 2)
        rows = struct.unpack_from("<q", header, rows_at)[0] if rows_at else 0
        total = 8 * rows
        if _member(header, batch, 3) and buffers_at:
            vector = _followed(header, buffers_at)
            (count,) = struct.unpack_from("<I", header, vector)
            for at in range(count):
                offset, length = struct.unpack_from("<qq", header, vector + 4 + 16 * at)
                if length:
                    total += max(0, struct.unpack("<q", body.slice(offset, 8).to_pybytes())[0])
        if rows < 0 or total > _MAX_BATCH_BYTES:
            raise NotCandles(f"a batch of the Feather file needs {total >> 20} MiB of memory: those are no candles")


def _followed(header: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", header, at)[0])


def _member(header: bytes, table: int, number: int) -> int:
    """Where a member of a FlatBuffers table stands; 0 if it has none."""
    vtable = table - struct.unpack_from("<i", header, table)[0]
    (size,) = struct.unpack_from("<H", header, vtable)
    at = 4 + 2 * number
    (offset,) = struct.unpack_from("<H", header, vtable + at) if at < size else (0,)
    return table + offset if offset else 0
