"""The scope of a trade: what an engine said, flat and bounded, and nothing that it did not say."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.scope import (
    DIMENSIONS,
    MAX_TEXT_BYTES,
    REGIME_STATE_DIMENSIONS,
    TOKEN_DIMENSIONS,
    flatten,
    regime_signature,
)
from closeloop.models.policy import PatternsPolicy

POLICY = PatternsPolicy()


def values(context: Any) -> dict[str, str]:
    return flatten(context, POLICY).values


def test_the_dimensions_of_the_seed() -> None:
    assert (len(REGIME_STATE_DIMENSIONS), len(TOKEN_DIMENSIONS), len(DIMENSIONS)) == (15, 13, 28)
    assert {"btc_macro", "alt_meso", "bucket_micro", "btcd_macro", "usdtd_micro"} <= set(REGIME_STATE_DIMENSIONS)


def test_an_engines_message() -> None:
    context = {
        "timeframe": "1h",
        "bucket": "nano",
        "A_value": 0.72,
        "E_value": 0.35,
        "regime_states": {"btc_macro": "S3", "alt_meso": "S1"},
        "scope": {"chain": "solana", "bucket_leader": True, "bucket_rank_position": 1, "mood": "greedy"},
        "actions": [{"pattern_key": "k", "action_category": "entry"}],
        "note": "nothing of the scope",
    }
    scope = flatten(context, POLICY)
    assert scope.values == {
        "A_mode": "high",
        "E_mode": "low",
        "alt_meso": "S1",
        "btc_macro": "S3",
        "bucket_leader": "true",
        "bucket_rank_position": "1",
        "chain": "solana",
        "mcap_bucket": "nano",
        "mood": "greedy",
        "timeframe": "1h",
    }
    assert list(scope.values) == sorted(scope.values)
    assert scope.unknown == ("mood",)


@pytest.mark.parametrize("context", [None, {}, {"scope": None, "regime_states": 7}, {"scope": [], "timeframe": ""}])
def test_what_is_missing_is_absent(context: Any) -> None:
    assert flatten(context, POLICY).values == {}


@pytest.mark.parametrize("value", [None, "", "  ", [], {}])
def test_a_dimension_without_a_value_is_absent(value: Any) -> None:
    assert values({"scope": {"chain": value, "mood": value}}) == {}


@pytest.mark.parametrize(
    ("value", "mode"),
    [(0.0, "low"), (0.39, "low"), (0.4, "mid"), (0.69, "mid"), (0.7, "high"), (1, "high"), ("0.5", None), (True, None)],
)
def test_modes(value: Any, mode: str | None) -> None:
    assert values({"A_value": value}).get("A_mode") == mode
    assert values({"scope": {"E_value": value}}).get("E_mode") == mode


def test_what_wins() -> None:
    assert values({"scope": {"timeframe": "4h", "A_mode": "low"}, "timeframe": "1h", "A_value": 0.9}) == {
        "A_mode": "low",
        "timeframe": "4h",
    }
    assert values({"scope": {"btc_macro": "S0"}, "regime_states": {"btc": {"macro": "S3"}}}) == {"btc_macro": "S3"}
    assert values({"scope": {"mcap_bucket": "micro"}, "bucket": "nano"}) == {"mcap_bucket": "micro"}


@pytest.mark.parametrize(
    ("value", "written"),
    [(1, "1"), (1.0, "1"), (0.25, "0.25"), (False, "false"), ([2, "a"], '[2,"a"]'), (" a\n b\x00 ", "a b"), ("ü", "ü")],
)
def test_values_are_texts(value: Any, written: str) -> None:
    assert values({"scope": {"mood": value}}) == {"mood": written}


def test_long_ones_are_cut_and_stay_apart() -> None:
    first, second = (values({"scope": {"mood": "ä" * 500 + end, "n" * 300 + end: "x"}}) for end in "ab")
    assert first["mood"] != second["mood"]
    assert first.keys() != second.keys()
    for name, value in first.items():
        assert len(name.encode()) <= MAX_TEXT_BYTES
        assert len(value.encode()) <= MAX_TEXT_BYTES


def test_a_flood_of_unknown_dimensions_is_bounded() -> None:
    scope = flatten({"scope": {f"x{number:05d}": "v" for number in range(5000)} | {"chain": "solana"}}, POLICY)
    assert len(scope.values) == 65
    assert scope.unknown == tuple(f"x{number:05d}" for number in range(64))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=80), inner, max_size=3),
    max_leaves=12,
)
_KEYS = st.sampled_from(["scope", "regime_states", "bucket", "A_value", "timeframe", "E_value"]) | st.text(max_size=5)


@given(st.dictionaries(_KEYS, _JSON, max_size=6))
def test_whatever_comes(context: dict[str, Any]) -> None:
    scope = flatten(context, POLICY)
    assert set(scope.unknown) == set(scope.values) - DIMENSIONS
    for text in (*scope.values, *scope.values.values()):
        assert 0 < len(text.encode()) <= MAX_TEXT_BYTES
        assert text.isprintable() or not any(ord(sign) < 32 for sign in text)


def test_regime_signature() -> None:
    scope = {"btc_macro": "Recover", "btc_meso": "Dip", "bucket_rank_position": "1", "chain": "solana"}
    assert regime_signature(scope) == "macro=Recover|meso=Dip|bucket_rank=1"
    assert regime_signature({"btc_meso": "Dip"}) == "meso=Dip"
    assert regime_signature({}) == ""
