"""What the engine remembers of a series between two calls, and how that is stored."""

import struct
import zlib
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from closeloop.learning.market.bars import Floats
from closeloop.learning.market.exhaustion import COUNTS, SUMS, Spell
from closeloop.learning.market.indicators import HISTORY, REMEMBERED, Averages
from closeloop.learning.market.pivots import Search
from closeloop.learning.market.scores import Memory
from closeloop.learning.market.uptrend import S3, Machine
from closeloop.models.market import Timeframe

_MAGIC = b"CLME"
_VERSION = 1
_HEAD = struct.Struct("<4sHIII")  # magic, version, CRC-32 of what follows, bytes of the header, bytes of the arrays


class _Spell(NamedTuple):
    first: int
    entry_close: float
    length: Annotated[int, Field(ge=1)]


class _Header(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants", extra="forbid")

    timeframe: Timeframe
    bars: Annotated[int, Field(ge=1)]
    last_start: int
    averages: Averages
    machine: Machine
    search: Search
    memory: Memory
    spell: _Spell | None


@dataclass(frozen=True, eq=False)
class Carry:
    """A series after its newest bar, which started at ``last_start`` (seconds since 1970), the ``bars``-th of all.

    ``history`` (REMEMBERED, HISTORY): averages of the last bars. ``spell``: the S3 that it is in. Complete: going on
    from it gives what going through the whole series would.
    """

    timeframe: Timeframe
    bars: int
    last_start: int
    averages: Averages
    history: Floats
    machine: Machine
    search: Search
    memory: Memory
    spell: Spell | None

    def to_bytes(self) -> bytes:
        """About 5 kB, and 40 bytes for each bar of the last two thirds of an S3 that it is in."""
        spell = self.spell
        header = _Header.model_construct(
            timeframe=self.timeframe, bars=self.bars, last_start=self.last_start, averages=self.averages,
            machine=self.machine, search=self.search, memory=self.memory,
            spell=None if spell is None else _Spell(spell.first, spell.entry_close, spell.sums.shape[1]),
        ).model_dump_json().encode()  # fmt: skip
        arrays = self.history.astype("<f8").tobytes()
        if spell is not None:
            arrays += spell.sums.astype("<f8").tobytes() + spell.counts.astype("<i4").tobytes()
        body = header + arrays
        return _HEAD.pack(_MAGIC, _VERSION, zlib.crc32(body), len(header), len(arrays)) + body

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Raises ValueError for what is damaged, of another version, or no carry: compute the series again."""
        if len(content) < _HEAD.size:
            raise ValueError("no state of the market's engine: too short")
        magic, version, checksum, header_size, arrays_size = _HEAD.unpack_from(content)
        if magic != _MAGIC or version != _VERSION:
            raise ValueError(f"no state of version {_VERSION} of the market's engine")
        body = content[_HEAD.size :]
        if len(body) != header_size + arrays_size or zlib.crc32(body) != checksum:
            raise ValueError("the state of the market's engine is damaged")
        try:
            header = _Header.model_validate_json(body[:header_size])
        except ValidationError as error:
            raise ValueError(
                f"the state of the market's engine is not as written: {error.errors()[0]['msg']}"
            ) from None
        length = header.spell.length if header.spell else 0
        if arrays_size != 8 * REMEMBERED * HISTORY + length * (8 * SUMS + 4 * COUNTS):
            raise ValueError("the state of the market's engine has arrays of another size")
        history = np.frombuffer(body, "<f8", REMEMBERED * HISTORY, header_size).reshape(REMEMBERED, HISTORY)
        spell = None
        if header.spell:
            at = header_size + 8 * REMEMBERED * HISTORY
            sums = np.frombuffer(body, "<f8", SUMS * length, at).reshape(SUMS, length)
            counts = np.frombuffer(body, "<i4", COUNTS * length, at + 8 * SUMS * length).reshape(COUNTS, length)
            spell = Spell(header.spell.first, header.spell.entry_close, sums, counts)
        if (header.machine.state == S3) != (spell is not None) or (spell and spell.age != header.machine.age):
            raise ValueError("the state of the market's engine contradicts itself")
        return cls(
            header.timeframe, header.bars, header.last_start, header.averages, history, header.machine, header.search,
            header.memory, spell,
        )  # fmt: skip
