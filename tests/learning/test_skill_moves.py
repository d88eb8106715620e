"""Where outcomes take skills, of files as they were found."""

import pytest

from closeloop.learning.skill_moves import NAME_OF_ACTIVE, Skill, change_of, readable
from closeloop.models.corpus import DESTINATION_TAKEN, SkillFile, SkillState
from closeloop.models.policy import CorpusPolicy

PENDING, ACTIVE, ARCHIVED = SkillState


def file(state: SkillState, name: str = "flag", score: int | str = 0, inode: int = 1) -> SkillFile:
    return SkillFile(state, name, (0, inode), f"score: {score}\n".encode())


def skill(state: SkillState, score: int) -> Skill:
    [[found], skipped] = readable([file(state, score=score)])
    assert skipped == []
    return found


@pytest.mark.parametrize(
    ("state", "score", "outcome", "to"),
    [
        (PENDING, 2, 1, ACTIVE),
        (PENDING, 2, 0, None),
        (PENDING, 3, -1, None),
        (PENDING, -3, -4, None),
        (ACTIVE, -2, -1, ARCHIVED),
        (ACTIVE, 3, 4, None),
        (ARCHIVED, 3, 0, None),
    ],
)
def test_a_score_takes_a_skill_to_the_next_folder(
    state: SkillState, score: int, outcome: int, to: SkillState | None
) -> None:
    change = change_of(skill(state, score), "plan", abs(outcome), outcome, [(state, "flag")], CorpusPolicy())
    assert (change.plan.folder, change.plan.destination, change.clash) == (state, to, None)
    assert (change.plan.old_score, change.plan.new_score) == (score, score + outcome)
    assert change.content == f"score: {score + outcome}\n".encode()
    assert change.rewrites == (outcome != 0)
    assert change.is_needed == (outcome != 0)


def test_a_score_that_a_person_raised_moves_the_skill_without_outcomes() -> None:
    change = change_of(skill(PENDING, 5), "plan", 0, 0, [], CorpusPolicy())
    assert (change.plan.destination, change.rewrites, change.is_needed) == (ACTIVE, False, True)


def test_outcomes_that_cancel_out_are_settled_and_change_no_file() -> None:
    change = change_of(skill(PENDING, 1), "plan", 2, 0, [], CorpusPolicy())
    assert (change.plan.destination, change.rewrites, change.is_needed) == (None, False, True)


def test_a_skill_whose_place_is_taken_is_scored_and_stays() -> None:
    change = change_of(skill(ACTIVE, -2), "plan", 1, -1, [(ARCHIVED, "flag")], CorpusPolicy())
    assert change.clash is not None
    assert (change.clash.skill, change.clash.reason) == ("active/flag.md", DESTINATION_TAKEN)
    assert (change.plan.destination, change.plan.new_score, change.is_needed) == (None, -3, True)


def test_two_files_of_one_name_are_left_to_a_person() -> None:
    skills, skipped = readable([file(PENDING, score=5), file(ACTIVE, inode=2)])
    assert [(s.file.state, s.scorable) for s in skills] == [(ACTIVE, False)]
    assert [(item.skill, item.reason) for item in skipped] == [("pending/flag.md", NAME_OF_ACTIVE)]


def test_one_file_under_two_names_leaves_the_first_one() -> None:
    both = [file(PENDING, score=0), file(ACTIVE, score=0)]
    [[found], skipped] = readable(both)
    assert (found.file.state, found.half_moved, found.scorable, skipped) == (PENDING, True, False, [])
    change = change_of(found, "plan", 0, 0, [(f.state, f.name) for f in both], CorpusPolicy())
    assert (change.plan.destination, change.clash, change.rewrites) == (ACTIVE, None, False)


def test_what_says_no_score_is_reported() -> None:
    gone = SkillFile(ACTIVE, "gone", (0, 2), problem="it is a folder")
    skills, skipped = readable([file(PENDING, score="high"), gone])
    assert skills == []
    assert {item.skill: item.reason for item in skipped} == {
        "pending/flag.md": "its score is not a whole number",
        "active/gone.md": "it is a folder",
    }
