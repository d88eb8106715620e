"""Score lines are found, replaced and weighed; every other byte of a skill stays as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from closeloop.learning.corpus import NoScore, destination, read_score, with_score
from closeloop.models.corpus import SkillState
from closeloop.models.policy import CorpusPolicy

endings = st.sampled_from([b"\n", b"\r\n", b"\r"])
lines = st.binary(max_size=30).filter(lambda line: not line.startswith(b"score:") and not set(line) & set(b"\r\n"))
scores = st.integers(-(10**15) + 1, 10**15 - 1)


@st.composite
def skills(draw: st.DrawFn) -> tuple[bytes, int, bytes]:
    """A skill's content before the score, the score, and what follows."""
    before = b"".join(line + draw(endings) for line in draw(st.lists(lines, max_size=39)))
    after = b"".join(draw(endings) + line for line in draw(st.lists(lines, max_size=50)))
    blank = st.sampled_from([b"", b" ", b"  ", b"\t"])
    return before + b"score:" + draw(blank), draw(scores), draw(blank) + after


@given(skills(), scores)
def test_only_the_number_changes(skill: tuple[bytes, int, bytes], new: int) -> None:
    before, old, after = skill
    content = before + str(old).encode() + after
    assert read_score(content) == old
    assert with_score(content, new) == before + str(new).encode() + after
    assert with_score(with_score(content, new), old) == content


@given(st.binary(max_size=300))
def test_any_bytes_have_one_score_or_none(content: bytes) -> None:
    try:
        score = read_score(content)
    except NoScore:
        with pytest.raises(NoScore):
            with_score(content, 1)
    else:
        assert read_score(with_score(content, score + 1)) == score + 1


@pytest.mark.parametrize(
    ("content", "score"),
    [
        (b"score: 3", 3),
        (b"---\nname: flag\nscore: -3\n---\n# Flag\n", -3),
        (b"score:+2\n", 2),
        (b"score: 007\n", 7),
        (b"\n" * 39 + b"score: 1\n", 1),
        (b"score: 1\n" + b"\n" * 40 + b"score: 2\n", 1),
        (b"a score: 5 would do\nscore: 1\nscores: 9\n  score: 8\nScore: 7\n", 1),
    ],
)
def test_scores_that_are_read(content: bytes, score: int) -> None:
    assert read_score(content) == score


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no line"),
        (b"# Flag\n", "no line"),
        (b"\n" * 40 + b"score: 1\n", "no line"),
        (b"score: 1\nscore: 1\n", "more than one"),
        (b"score: 1\nscore: high\n", "more than one"),
        (b"score:\n", "not a whole number"),
        (b"score: 1.5\n", "not a whole number"),
        (b"score: 1 # good\n", "not a whole number"),
        (b"score: 1_000\n", "not a whole number"),
        ("score: ٣\n".encode(), "not a whole number"),
        (b"score: " + b"9" * 16, "not a whole number"),
        (b"score: --1\n", "not a whole number"),
    ],
)
def test_scores_that_are_not(content: bytes, reason: str) -> None:
    with pytest.raises(NoScore, match=reason):
        read_score(content)


@pytest.mark.parametrize(
    ("state", "score", "to"),
    [
        ("pending", 2, None),
        ("pending", 3, "active"),
        ("pending", -100, None),
        ("active", 100, None),
        ("active", -2, None),
        ("active", -3, "archived"),
        ("archived", 100, None),
        ("archived", -100, None),
    ],
)
def test_where_a_score_takes_a_skill(state: str, score: int, to: str | None) -> None:
    assert destination(SkillState(state), score, CorpusPolicy()) == to


def test_the_scores_are_the_policys() -> None:
    high = CorpusPolicy(promote_at=5, archive_at=-1)
    assert destination(SkillState.pending, 4, high) is None
    assert destination(SkillState.active, -1, high) is SkillState.archived
