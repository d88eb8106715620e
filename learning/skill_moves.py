"""What becomes of the files of a corpus: which of them can be worked on, and where outcomes take their skills.

Nothing here touches a file or a database: files come in as they were found, and changes go out as plans.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from closeloop.learning.corpus import NoScore, destination, read_score, with_score
from closeloop.models.corpus import DESTINATION_TAKEN, SkillFile, SkillPlan, SkillSkipped, SkillState
from closeloop.models.policy import CorpusPolicy

# Where a skill may move to from each state; an archived one stays.
NEXT_STATE = {SkillState.pending: SkillState.active, SkillState.active: SkillState.archived}
NAME_OF_ACTIVE = (
    "an active skill has the same name: neither is given the outcomes of the pattern, and this one stays pending"
)

Place = tuple[SkillState, str]
"""Where a file lies: its folder, and its name without ``.md``."""


@dataclass(frozen=True)
class Skill:
    """A file that says its score.

    ``scorable``: the outcomes of its pattern are added to its score. ``half_moved``: the file lies in the next folder,
    too, since a move was interrupted; it needs only to leave this one.
    """

    file: SkillFile
    score: int
    scorable: bool
    half_moved: bool


@dataclass(frozen=True)
class Change:
    """What outcomes lead to: a plan, the file's content after it, and why it stays where it should have moved."""

    plan: SkillPlan
    content: bytes
    clash: SkillSkipped | None

    @property
    def rewrites(self) -> bool:
        """Whether the file is given another score."""
        return self.plan.new_score != self.plan.old_score

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to be carried out or settled."""
        return bool(self.plan.matches) or self.plan.destination is not None


def readable(files: Sequence[SkillFile]) -> tuple[list[Skill], list[SkillSkipped]]:
    """Skills that can be worked on, and the files that are left alone, each with its reason.

    One file (one inode) in two folders was being moved when a run died. Two different files of one name, one pending
    and one active, are left for a person to sort out: neither is scored, and the pending one stays where it is.
    """
    places: dict[Place, SkillFile] = {(file.state, file.name): file for file in files}
    leaving: dict[str, SkillState] = {}
    in_both: set[str] = set()
    for (state, name), file in places.items():
        following = places.get((NEXT_STATE[state], name)) if state in NEXT_STATE else None
        if following is not None and following.inode == file.inode:
            leaving.setdefault(name, state)
        elif following is not None and state is SkillState.pending:
            in_both.add(name)
    skills: list[Skill] = []
    skipped: list[SkillSkipped] = []
    for (state, name), file in places.items():
        score, reason = _score_of(file)
        if file.problem is None and name in in_both and state is SkillState.pending:
            reason = NAME_OF_ACTIVE
        if reason is not None:
            skipped.append(SkillSkipped(skill=file.place, reason=reason))
        elif leaving.get(name, state) is state:
            half_moved = name in leaving
            scorable = state in NEXT_STATE and name not in in_both and not half_moved
            skills.append(Skill(file, score, scorable, half_moved))
    return skills, skipped


def change_of(
    skill: Skill, plan_id: str, matches: int, outcome: int, taken: Collection[Place], corpus: CorpusPolicy
) -> Change:
    """The change that a skill's outcomes (their number, and their sum) lead to. ``taken``: where files lie already."""
    file, old, score = skill.file, skill.file.content, skill.score + outcome
    new = with_score(old, score) if outcome else old
    to = NEXT_STATE[file.state] if skill.half_moved else destination(file.state, score, corpus)
    clashes = to is not None and not skill.half_moved and (to, file.name) in taken
    plan = SkillPlan(
        plan_id=plan_id,
        name=file.name,
        folder=file.state,
        destination=None if clashes else to,
        old_score=skill.score,
        new_score=score,
        old_sha256=hashlib.sha256(old).hexdigest(),
        new_sha256=hashlib.sha256(new).hexdigest(),
        matches=matches,
    )
    return Change(plan, new, SkillSkipped(skill=file.place, reason=DESTINATION_TAKEN) if clashes else None)


def _score_of(file: SkillFile) -> tuple[int, str | None]:
    """The score that a file says, or why it says none."""
    if file.problem is not None:
        return 0, file.problem
    try:
        return read_score(file.content), None
    except NoScore as error:
        return 0, str(error)
