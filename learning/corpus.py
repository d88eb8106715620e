"""Scores of skills: how a file says one, and what it decides (docs/algorithms.md, section 12)."""

import re

from closeloop.models.corpus import SkillState
from closeloop.models.policy import CorpusPolicy

HEAD_LINES = 40  # at the head of a file, among which its score is looked for

_SCORE_LINE = re.compile(rb"score:[ \t]*(.*?)[ \t\r\n]*", re.DOTALL)
_INTEGER = re.compile(rb"[+-]?[0-9]{1,15}")


class NoScore(ValueError):
    """The file does not say one score; the message says why."""


def read_score(content: bytes) -> int:
    """The number of the one line ``score: <int>`` among the first 40. Raises NoScore.

    >>> read_score(b"# Buy the flag\\nscore: 2\\n")
    2
    """
    start, end = _score_span(content)
    return int(content[start:end])


def with_score(content: bytes, score: int) -> bytes:
    """The same content, but for the number of its score line. Raises NoScore.

    >>> with_score(b"# Buy the flag\\r\\nscore: 2\\r\\nWait for it.", 3)
    b'# Buy the flag\\r\\nscore: 3\\r\\nWait for it.'
    """
    start, end = _score_span(content)
    return content[:start] + str(score).encode() + content[end:]


def destination(state: SkillState, score: int, corpus: CorpusPolicy) -> SkillState | None:
    """Where a score takes a skill: a pending one that is high enough to active, an active one that is low enough to
    archived; None: it stays.

    >>> destination(SkillState.pending, 3, CorpusPolicy())
    <SkillState.active: 'active'>
    """
    if state is SkillState.pending and score >= corpus.promote_at:
        return SkillState.active
    if state is SkillState.active and score <= corpus.archive_at:
        return SkillState.archived
    return None


def _score_span(content: bytes) -> tuple[int, int]:
    """Where the score's number begins and ends."""
    found: list[tuple[int, int]] = []
    position = 0
    for line in content.splitlines(keepends=True)[:HEAD_LINES]:
        if match := _SCORE_LINE.fullmatch(line):
            found.append((position + match.start(1), position + match.end(1)))
        position += len(line)
    if not found:
        raise NoScore(f"it has no line 'score: <number>' among its first {HEAD_LINES}")
    if len(found) > 1:
        raise NoScore(f"it has more than one score line among its first {HEAD_LINES}")
    [(start, end)] = found
    if not _INTEGER.fullmatch(content[start:end]):
        raise NoScore("its score is not a whole number")
    return start, end
