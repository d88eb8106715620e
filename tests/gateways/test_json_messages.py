"""Messages in JSON files as people have them; hostile ones are read within bounds."""

import gzip
import io
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.gateways.json_messages import BLOCK_BYTES, JsonMessages, NotMessages
from closeloop.models.values import MAX_MESSAGE_BYTES

ROWS: list[dict[str, Any]] = [{"id": "a", "x": [1, {"y": ']},{[\\"'}]}, {"id": "b\\"}, {"id": "é買", "n": {}}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
SHAPES = {
    "lines": LINES,
    "lines of windows": LINES.replace("\n", "\r\n"),
    "an array in a line": json.dumps(ROWS),
    "an array over lines": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "an array, a line each": "[\n" + LINES.strip().replace("}\n", "},\n") + "\n]\n",
    "pretty-printed one after the other": "\n".join(json.dumps(row, indent=4) for row in ROWS),
}
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


def read(content: bytes) -> list[tuple[int, bytes | None]]:
    return list(JsonMessages(io.BytesIO(content)))


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_alike(shape: str, encoding: str, packed: bool) -> None:
    content = SHAPES[shape].encode(encoding)
    found = read(gzip.compress(content) if packed else content)
    assert [(index, json.loads(message or b"")) for index, message in found] == list(enumerate(ROWS))


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.lists(st.integers() | st.text()), max_size=3), min_size=1),
    st.data(),
)
def test_whatever_is_in_it_and_however_it_arrives(rows: list[Any], data: st.DataObject) -> None:
    text = json.dumps(rows, indent=data.draw(st.sampled_from([None, 1])), ensure_ascii=data.draw(st.booleans())).encode(
        errors="replace"
    )
    step = data.draw(st.integers(1, 40))

    class Slowly(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(step)

    found = list(JsonMessages(Slowly(text)))
    assert [json.loads(message or b"") for _, message in found] == json.loads(text)


def test_blank_lines_count_and_a_bad_line_costs_itself() -> None:
    assert read(b'\n{"a": 1}\n\n{broken\n[]\n{"b": 2}') == [
        (1, b'{"a": 1}'), (3, b"{broken"), (4, b"[]"), (5, b'{"b": 2}')
    ]  # fmt: skip
    assert [index for index, _ in read(b'{broken\n{"b": 2}\n')] == [0, 1]
    assert [index for index, _ in read(b'[1, 2]\n{"b": 2}\n')] == [0, 1]
    assert [index for index, _ in read(b'[oops\n{"b": 2}\n')] == [0, 1]
    assert read(b"") == read(b"\n \n") == read(b"[]") == []


def test_in_an_array_a_bad_element_costs_itself_and_one_cut_off_is_seen() -> None:
    assert read(b'[{"a": tru}, {"b": 2},\n7]') == [(0, b'{"a": tru}'), (1, b'{"b": 2}'), (2, b"7")]
    assert read(b'[{"a": 1},\n{"b": ') == [(0, b'{"a": 1}'), (1, b'{"b":')]
    assert read(b'[\n{"a": 1}\n') == [(0, b'{"a": 1}')]
    assert read(b'[\n{"a": 1},\n') == [(0, b'{"a": 1}'), (1, b"")]


@pytest.mark.parametrize("shape", ["lines", "array"])
def test_a_message_that_is_too_long_is_never_held(shape: str) -> None:
    long = b'{"a": "' + b"x" * (40 * MAX_MESSAGE_BYTES) + b'"}'
    edge = b'{"a": "' + b"x" * (MAX_MESSAGE_BYTES - 9) + b'"}'
    rows = [b'{"b": 1}', long, edge, edge[:-2] + b'x"}', b'{"c": 1}']
    content = b"\n".join(rows) if shape == "lines" else b"[\n" + b",".join(rows) + b"]"
    file = io.BytesIO(content)
    tracemalloc.start()
    found = [(index, message and len(message)) for index, message in JsonMessages(file)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(0, 8), (1, None), (2, MAX_MESSAGE_BYTES), (3, None), (4, 8)]
    assert peak < 12 * MAX_MESSAGE_BYTES


def test_a_gzip_bomb_is_refused_while_it_is_read() -> None:
    bomb = gzip.compress(b"x\n" * (100 * 1024 * 1024))

    def last(messages: Iterator[Any]) -> None:
        for _ in messages:
            pass

    with pytest.raises(NotMessages, match="more than 200 times its size"):
        last(iter(JsonMessages(io.BytesIO(bomb))))


def test_a_damaged_file_is_refused_with_a_word() -> None:
    packed = gzip.compress(LINES.encode() * 1000)
    for damaged in (packed[:-20], packed[:100] + b"\0" * 50 + packed[150:]):
        with pytest.raises(NotMessages, match="the gzip file is damaged"):
            read(damaged)
    with pytest.raises(NotMessages, match="utf-16"):
        read(LINES.encode("utf-16") + b"\0")


def test_a_pipe_that_pauses_is_not_at_its_end() -> None:
    reading, writing = os.pipe()
    go_on = threading.Event()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:
            pipe.write(b"{")
            pipe.write(LINES.encode()[1:30])
            go_on.wait(10)
            pipe.write(LINES.encode()[30:])

    writer = threading.Thread(target=write)
    writer.start()
    with open(reading, "rb") as pipe:
        messages = iter(JsonMessages(pipe))
        go_on.set()
        assert [json.loads(message or b"") for _, message in messages] == ROWS
    writer.join()
    assert BLOCK_BYTES > 30
