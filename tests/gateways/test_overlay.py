"""Overlay files: one a book, replaced whole or not at all, in a folder that is known again."""

import os
import stat
from pathlib import Path

import pytest
import yaml

from closeloop.gateways.overlay import OverlayFolder
from closeloop.models.weights import ActiveWeights
from tests.gateways.overlay_writer import SINCE, version
from tests.workers.processes import line, script


def active(book: str, number: int = 1, **weights: float) -> ActiveWeights:
    return ActiveWeights(
        book=book, weights=weights or {"a": 1.0}, version=number, source="learned", since=SINCE, policy_hash="h"
    )


def is_whole(path: Path) -> int:
    """The version that the file holds, every line of it."""
    content = yaml.safe_load(path.read_text())
    assert ActiveWeights.model_validate(content) == version(content["version"])
    return int(content["version"])


async def test_killed_while_it_writes_the_file_is_the_old_or_the_new(tmp_path: Path) -> None:
    rounds = 3
    file = tmp_path / "learned_weights.b.yaml"
    told = 0
    for attempt in range(rounds):
        async with script("tests.gateways.overlay_writer", str(tmp_path), str(told + 1), home=tmp_path) as process:
            for _ in range(3 + 5 * attempt):
                told = int(await line(process))
                assert is_whole(file) >= told  # a reader at any time
            process.kill()
            await process.wait()
        assert is_whole(file) >= told
        told = is_whole(file)
    assert told > rounds


def test_what_it_says(tmp_path: Path) -> None:
    folder = OverlayFolder(tmp_path)
    weights = {"onchain": 0.1 + 0.2, "social": 1 - (0.1 + 0.2), "tiny": 5e-324}
    folder.write(active("default", 7, **weights))
    content = yaml.safe_load((tmp_path / "learned_weights.yaml").read_text())
    assert content == {
        "book": "default",
        "version": 7,
        "source": "learned",
        "since": SINCE.isoformat(),
        "policy_hash": "h",
        "weights": weights,
    }
    assert content["weights"]["onchain"].hex() == weights["onchain"].hex()


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o640, 0o640), (0o644, 0o644)])
def test_who_may_read_it(tmp_path: Path, mode: int | None, expected: int) -> None:
    """A worker's umask is that of the stack; a mode that is set wins over it, also when the file is written again."""
    before = os.umask(0o077)
    try:
        for number in (1, 2):
            OverlayFolder(tmp_path, mode).write(active("b", number))
            assert stat.S_IMODE((tmp_path / "learned_weights.b.yaml").stat().st_mode) == expected
    finally:
        os.umask(before)


def test_a_file_for_each_book_and_nothing_left_beside_it(tmp_path: Path) -> None:
    folder = OverlayFolder(tmp_path)
    books = ["default", "b", "b.yaml", ".", "..", "-", "Default", "learned_weights"]
    for number, book in enumerate(books):
        folder.write(active(book, number))
    assert {book: yaml.safe_load(folder.path(book).read_text())["version"] for book in books} == {
        book: number for number, book in enumerate(books)
    }
    assert {path.parent for path in map(folder.path, books)} == {tmp_path}
    assert folder.path("default").name == "learned_weights.yaml"
    assert folder.path("b").name == "learned_weights.b.yaml"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(folder.path(book).name for book in books)


def test_removing_is_for_one_book_and_may_be_repeated(tmp_path: Path) -> None:
    folder = OverlayFolder(tmp_path)
    folder.write(active("default"))
    folder.write(active("b"))
    for _ in range(2):
        folder.remove("b")
    assert (folder.exists("default"), folder.exists("b")) == (True, False)


def test_a_folder_is_known_again(tmp_path: Path) -> None:
    here = OverlayFolder(tmp_path / "made" / "on demand")
    assert here.identity() is None
    first = here.ensure_identity()
    assert here.ensure_identity() == first == OverlayFolder(tmp_path / "made" / "on demand").identity()
    assert OverlayFolder(tmp_path / "other").ensure_identity() != first
    assert OverlayFolder(tmp_path / "missing").identity() is None
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".overlays").write_text("\n")
    assert OverlayFolder(tmp_path / "empty").identity() is None


def test_moved_it_is_the_same_folder(tmp_path: Path) -> None:
    first = OverlayFolder(tmp_path / "a").ensure_identity()
    (tmp_path / "a").rename(tmp_path / "b")
    assert OverlayFolder(tmp_path / "b").identity() == first
