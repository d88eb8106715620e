"""A policy in sections: each with a hash of its own, and the flat names of 0.1 still read."""

from typing import Any

import pytest
from pydantic import ValidationError

from closeloop.models.policy import FLAT_NAMES, LearningPolicy, PolicySection, hash_of
from closeloop.models.refusals import describe

SECTIONS = sorted(LearningPolicy.model_fields)
FIELDS = sorted((name, field) for name in SECTIONS for field in type(getattr(LearningPolicy(), name)).model_fields)
# What 0.1 stored beside what it decided with its defaults.
HASH_OF_DEFAULTS = "a661ebc87adf4fc5"


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        LearningPolicy.model_validate(values)
    return describe(caught.value)


def at(policy: LearningPolicy, place: str) -> Any:
    section, field = place.split(".")
    return getattr(getattr(policy, section), field)


def other(value: Any) -> Any:
    """Another allowed value of a field."""
    if value is None:
        return 0.01
    if isinstance(value, str):
        words = {"market": "trade", "decayed_mean": "seed", "seed": "guarded", "exact": "result"}
        words["log_index"] = "mean_of_prices"
        return words.get(value, f"{value}2")
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[1:]
    if isinstance(value, dict):
        name, last = list(value.items())[-1]
        return {name: (*last[:-1], other(last[-1])) if isinstance(last, tuple) else other(last)}
    return value - 1 if isinstance(value, int) else value * 0.99 or 0.01


class TestSections:
    def test_every_number_has_a_section_a_description_and_a_default(self) -> None:
        for name in SECTIONS:
            section = getattr(LearningPolicy(), name)
            assert isinstance(section, PolicySection)
            for field, info in type(section).model_fields.items():
                assert info.description, (name, field)
                assert not info.is_required()

    def test_a_file_names_section_and_field(self) -> None:
        policy = LearningPolicy.model_validate({"mining": {"min_trades": 50}, "research": {"big_win_rr": 3}})
        assert (policy.mining.min_trades, policy.research.big_win_rr, policy.mining.min_days) == (50, 3.0, 10)

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"mining": {"min_trade": 50}}, "mining.min_trade"),
            ({"minning": {}}, "minning"),
            ({"mining_min_trade": 50}, "mining_min_trade"),
            ({"mining": {"min_trades": 1}}, "mining.min_trades"),
            ({"mining": {"min_trades": "many"}}, "mining.min_trades"),
            ({"corpus": {"archive_at": 0}}, "corpus.archive_at"),
            ({"weights": {"floor": 0.5}}, "floor"),
            ({"decay": {"shortest_hours": 1e6}}, "shortest_hours"),
            ({"mining": 3}, "mining"),
        ],
    )
    def test_what_is_not_there_or_impossible_is_refused_by_its_name(self, values: dict[str, Any], named: str) -> None:
        said = refusal(values)
        assert named in said
        assert "\n" not in said


class TestFlatNames:
    def test_each_is_read_into_its_fields_and_is_the_same_as_the_section_said(self) -> None:
        for name, places in FLAT_NAMES.items():
            wanted = other(at(LearningPolicy(), places[0]))
            nested: dict[str, dict[str, Any]] = {}
            for place in places:
                section, field = place.split(".")
                nested.setdefault(section, {})[field] = wanted
            flat = LearningPolicy.model_validate({name: wanted})
            assert flat == LearningPolicy.model_validate(nested), name
            assert [at(flat, place) for place in places] == [wanted] * len(places)
            assert flat != LearningPolicy(), name

    def test_every_field_of_0_1_has_one_and_no_field_has_two(self) -> None:
        places = [place for each in FLAT_NAMES.values() for place in each]
        assert len(FLAT_NAMES) == 63
        assert len(set(places)) == len(places)
        assert {tuple(place.split(".")) for place in places} <= set(FIELDS)

    def test_one_number_of_0_1_is_three_now(self) -> None:
        policy = LearningPolicy.model_validate({"override_shrink_trades": 20})
        shrunk = (policy.overrides.shrink_trades, policy.coefficients.shrink_trades, policy.edge.shrink_trades)
        assert shrunk == (20.0, 20.0, 20.0)

    def test_they_may_stand_beside_sections(self) -> None:
        policy = LearningPolicy.model_validate({"approval_hours": 5, "approvals": {"meta_hours": 6}, "mining": {}})
        assert (policy.approvals.hours, policy.approvals.meta_hours) == (5.0, 6.0)

    @pytest.mark.parametrize("place", ["overrides.shrink_trades", "coefficients.shrink_trades", "edge.shrink_trades"])
    def test_a_number_that_is_given_twice_is_refused(self, place: str) -> None:
        section, field = place.split(".")
        said = refusal({"override_shrink_trades": 20, section: {field: 20}})
        assert "override_shrink_trades" in said
        assert place in said

    def test_values_are_not_written_into(self) -> None:
        values: dict[str, Any] = {"approval_hours": 5, "approvals": {"meta_hours": 6}}
        LearningPolicy.model_validate(values)
        assert values == {"approval_hours": 5, "approvals": {"meta_hours": 6}}


class TestHashes:
    @pytest.mark.parametrize(("section", "field"), FIELDS)
    def test_a_number_moves_the_hash_of_its_own_section_only(self, section: str, field: str) -> None:
        before = LearningPolicy()
        value = other(getattr(getattr(before, section), field))
        after = LearningPolicy.model_validate({section: {field: value}})
        moved = {name for name in SECTIONS if getattr(after, name).hash != getattr(before, name).hash}
        assert moved == {section}
        read = hash_of(after.mining, after.decay) != hash_of(before.mining, before.decay)
        assert read == (section in {"mining", "decay"})
        assert after.policy_hash != before.policy_hash

    def test_a_hash_of_several_tells_which_number_is_whose(self) -> None:
        policy = LearningPolicy()
        assert hash_of(policy.mining) == policy.mining.hash
        assert hash_of(policy.mining, policy.decay) != hash_of(policy.decay, policy.mining)
        assert len(hash_of(policy.mining, policy.decay)) == 16

    def test_the_flat_hash_is_what_0_1_stored(self) -> None:
        assert LearningPolicy().flat_hash == HASH_OF_DEFAULTS

    def test_the_flat_hash_moves_with_every_number_of_0_1(self) -> None:
        hashes = [
            LearningPolicy.model_validate({name: other(at(LearningPolicy(), places[0]))}).flat_hash
            for name, places in FLAT_NAMES.items()
        ]
        assert len({HASH_OF_DEFAULTS, *hashes}) == len(FLAT_NAMES) + 1

    def test_the_flat_hash_is_none_of_0_1_where_one_number_became_several(self) -> None:
        same = LearningPolicy.model_validate({"override_shrink_trades": 20}).flat_hash
        apart = LearningPolicy.model_validate({"overrides": {"shrink_trades": 20}}).flat_hash
        assert len({HASH_OF_DEFAULTS, same, apart}) == 3

    def test_what_0_1_did_not_have_does_not_move_the_flat_hash(self) -> None:
        later = LearningPolicy.model_validate({"corpus": {"promote_at": 9}, "research": {"big_win_rr": 9}})
        assert later.flat_hash == HASH_OF_DEFAULTS
