"""Presets: those that come with closeloop, and a user's own; one that cannot be used is refused with a sentence."""

from fractions import Fraction
from pathlib import Path

import pytest

from closeloop.gateways.presets import UnknownPreset, load_preset, names
from closeloop.models.policy import LearningPolicy
from tests.activities.weighing import BALANCED


def test_those_that_come_with_closeloop() -> None:
    assert names() == ["balanced", "conservative", "degen"]
    policy = LearningPolicy()
    for name in names():
        preset = load_preset(name)
        assert preset.name == name
        assert preset.description
        assert abs(sum(map(Fraction, preset.weights.values())) - 1) < Fraction(1, 10**15)
        assert all(policy.weights.floor <= w <= policy.weights.ceiling for w in preset.weights.values())
    assert load_preset("balanced").weights == BALANCED


def test_one_of_the_users_own(tmp_path: Path) -> None:
    for suffix in ("yaml", "yml"):
        path = tmp_path / f"mine.{suffix}"
        path.write_text("name: mine\nweights: {rsi: 0.5, news: 0.5}\n")
        assert load_preset(str(path)).weights == {"rsi": 0.5, "news": 0.5}


@pytest.mark.parametrize("name", ["nobody", "", "Balanced", "balanced ", "balanced.txt", "."])
def test_an_unknown_name_is_told_the_choices(name: str) -> None:
    with pytest.raises(UnknownPreset, match="choose one of balanced, conservative, degen"):
        load_preset(name)


BROKEN = {
    "not yaml": (b"weights: {a: ", "cannot be read"),
    "not text": (b"\xff\xfe\x00", "cannot be read"),
    "empty": (b"", "cannot be used"),
    "a list": (b"- a\n", "cannot be used"),
    "no weights": (b"name: x\n", "weights"),
    "no name": (b"weights: {a: 1}\n", "name"),
    "no domains": (b"name: x\nweights: {}\n", "weights"),
    "a negative weight": (b"name: x\nweights: {a: -0.5, b: 1.0}\n", "weights.a"),
    "a weight of zero": (b"name: x\nweights: {a: 0, b: 1.0}\n", "weights.a"),
    "a weight above one": (b"name: x\nweights: {a: 25, b: 75}\n", "weights.a"),
    "not a number": (b"name: x\nweights: {a: .nan}\n", "weights.a"),
    "infinite": (b"name: x\nweights: {a: .inf}\n", "weights.a"),
    "text": (b"name: x\nweights: {a: much}\n", "weights.a"),
    "an unknown field": (b"name: x\nweights: {a: 1}\nwieghts: {}\n", "wieghts"),
    "a domain without a name": (b'name: x\nweights: {"": 1}\n', "weights"),
    "too many domains": (
        b"name: x\nweights: {" + b", ".join(b"d%d: 0.01" % i for i in range(65)) + b"}\n",
        "weights",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, how: str) -> None:
    content, words = BROKEN[how]
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UnknownPreset) as refused:
        load_preset(str(path))
    assert str(path) in str(refused.value)
    assert words in str(refused.value)


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    for name in ("missing.yaml", "folder.yaml"):
        with pytest.raises(UnknownPreset, match="cannot be read"):
            load_preset(str(tmp_path / name))
