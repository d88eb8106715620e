"""Scores of skills: how a file says one, and what it decides (seed 002, section 4)."""

import re

from pydantic import TypeAdapter

from closeloop.models.corpus import SkillState
from closeloop.models.values import Identifier

LINES = 40
PROMOTE_AT = 3
ARCHIVE_AT = -3

_SCORE_LINE = re.compile(rb"score:[ \t]*(.*?)[ \t\r\n]*", re.DOTALL)
_INTEGER = re.compile(rb"[+-]?[0-9]{1,15}")
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


class NoScore(ValueError):
    """The file does not say one score; the message says why."""


def read_score(content: bytes) -> int:
    """The number of the one line ``score: <int>`` among the first 40. Raises NoScore.

    >>> read_score(b"# Buy the flag\\nscore: 2\\n")
    2
    """
    start, end = _find(content)
    return int(content[start:end])


def with_score(content: bytes, score: int) -> bytes:
    """The same content, but for the number of its score line. Raises NoScore.

    >>> with_score(b"# Buy the flag\\r\\nscore: 2\\r\\nWait for it.", 3)
    b'# Buy the flag\\r\\nscore: 3\\r\\nWait for it.'
    """
    start, end = _find(content)
    return content[:start] + str(score).encode() + content[end:]


def destination(state: SkillState, score: int) -> SkillState | None:
    """Where a score takes a skill: pending ones of at least 3 become active, active ones of at most -3 are archived.

    >>> destination(SkillState.pending, 3)
    <SkillState.active: 'active'>
    """
    if state is SkillState.pending and score >= PROMOTE_AT:
        return SkillState.active
    if state is SkillState.active and score <= ARCHIVE_AT:
        return SkillState.archived
    return None


def _find(content: bytes) -> tuple[int, int]:
    """Where the score's number begins and ends."""
    found: list[tuple[int, int]] = []
    position = 0
    for line in content.splitlines(keepends=True)[:LINES]:
        if match := _SCORE_LINE.fullmatch(line):
            found.append((position + match.start(1), position + match.end(1)))
        position += len(line)
    if not found:
        raise NoScore(f"it has no line 'score: <number>' among its first {LINES}")
    if len(found) > 1:
        raise NoScore(f"it has more than one score line among its first {LINES}")
    [(start, end)] = found
    if not _INTEGER.fullmatch(content[start:end]):
        raise NoScore("its score is not a whole number")
    return start, end
