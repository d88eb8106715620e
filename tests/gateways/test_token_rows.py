"""Rows of buckets' tokens in files: as a table or JSON; what is refused is said row by row."""

import gzip
import io

import pytest

from closeloop.gateways.token_rows import MAX_BYTES, NotTokenRows, read_tokens

TABLE = """\ufeffBucket,asset,valid_from,note,valid_to
nano,bonk-usdt,2026-01-01T00:00:00Z,x,
small, WIF ,2026-01-01T02:00:00+02:00,,2026-02-01T00:00:00Z

huge,A,2026-01-01T00:00:00Z,,
nano,A,2026-01-01,,
nano,A,2026-01-02T00:00:00Z,,2026-01-01T00:00:00Z
nano,A
nano,A,1,2,3,4
"""
JSON = """{"asset": "BONK/USDT", "bucket": "nano", "valid_from": "2026-01-01T00:00:00Z"}
{"asset": "WIF", "bucket": "small", "valid_from": "2026-01-01T00:00:00Z", "valid_to": "2026-02-01T00:00:00Z", "x": 1}
[1]
nonsense
"""


def read(content: bytes) -> list[tuple[int, str]]:
    return [
        (number, row if isinstance(row, str) else f"{row.asset} {row.bucket} {row.valid_from:%d.%m.} {row.valid_to}")
        for number, row in read_tokens(io.BytesIO(content))
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_table(packed: bool) -> None:
    content = TABLE.encode()
    rows = read(gzip.compress(content) if packed else content)
    assert rows[:2] == [(0, "BONK/USDT nano 01.01. None"), (1, "WIF small 01.01. 2026-02-01 00:00:00+00:00")]
    refused = [reason for _, reason in rows[2:]]
    assert [number for number, _ in rows] == list(range(7))
    assert refused[0] == "bucket: must be one of nano, small, mid, big"
    assert refused[1].startswith("valid_from: must carry a UTC offset")
    assert refused[2:] == [
        "valid_to: must be after valid_from", "valid_from: Field required", "row: has 6 cells, the header has 5",
    ]  # fmt: skip


def test_json() -> None:
    rows = read(JSON.encode())
    assert rows[:2] == [(0, "BONK/USDT nano 01.01. None"), (1, "WIF small 01.01. 2026-02-01 00:00:00+00:00")]
    assert rows[2:] == [(2, "message: must be an object"), (3, "message: is not JSON")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no asset"),
        (b"asset,valid_from\nA,2026-01-01T00:00:00Z\n", "no bucket: a table begins with the header asset,bucket"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (gzip.compress(b"asset")[:-4], "the gzip file is damaged"),
        (gzip.compress(bytes(MAX_BYTES + 1)), "longer than 32 MiB"),
    ],
)
def test_what_cannot_be_read(content: bytes, said: str) -> None:
    with pytest.raises(NotTokenRows, match=said):
        read(content)
