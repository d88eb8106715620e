"""Outcomes of patterns reach the scores of skills exactly once, whatever is killed, edited or in the way.

Run as a script, this file is the process that is killed: ``python -m tests.activities.test_corpus DSN CORPUS POINT``.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.corpus import CorpusActivities
from closeloop.gateways.skills import EDITED_MEANWHILE, SkillFolder
from closeloop.learning.skill_moves import NAME_OF_ACTIVE
from closeloop.models.corpus import DESTINATION_TAKEN, CorpusReport, CorpusRequest, SkillPlan, SkillScored, SkillSkipped
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed
from tests.closes import closed
from tests.store.databases import query, scratch_database, sessions_on
from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
WIN, LOSS = "10", "-4"


async def tend(sessions: Sessions, skills: SkillFolder, run: str = "run") -> CorpusReport:
    """One run of the activity."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_run_id=run)
    return await environment.run(CorpusActivities(sessions, LearningPolicy(), skills).tend_corpus, CorpusRequest())


@dataclass
class Corpus:
    """A corpus folder with a database of its own."""

    dsn: str
    sessions: Sessions
    folder: Path
    closes: int = 0
    runs: int = 0

    async def tend(self) -> CorpusReport:
        """A run of its own."""
        self.runs += 1
        return await tend(self.sessions, SkillFolder(self.folder), f"run-{self.runs}")

    async def close(self, pnl: str, *patterns: str, book: str = "b", **context: Any) -> None:
        """A position that acted on these patterns is attributed and its outcomes recorded."""
        self.closes += 1
        context = context or {"actions": [{"pattern_key": key, "action_category": "entry"} for key in patterns]}
        position = closed(book, f"p-{self.closes:03}", realized_pnl=pnl, entry_context=context)
        await attributed(self.sessions, position)
        for _ in range(2):  # looked at twice, it counts once
            async with self.sessions.begin() as session:
                await store.corpus.record_matches(session)

    def skill(self, place: str, score: int | str = 0, text: str = "") -> Path:
        """Write a skill."""
        path = self.folder / "skills" / f"{place}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"# A skill\r\nscore: {score}\r\n{text}".encode())
        return path

    def tree(self) -> dict[str, str]:
        """Every file with what follows its ``score:``, hidden files too."""
        skills = self.folder / "skills"
        return {
            str(path.relative_to(skills)): path.read_bytes().decode().split("score: ")[-1].split("\r\n")[0]
            for path in sorted(skills.rglob("*"))
            if path.is_file()
        }

    async def matches(self) -> list[tuple[Any, ...]]:
        rows = await query(
            self.sessions,
            "SELECT pattern_key, outcome, applied, plan_id IS NOT NULL AS planned FROM pattern_matches "
            "ORDER BY pattern_key, book_id, position_id",
        )
        return [tuple(row.values()) for row in rows]

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        rows = await query(
            self.sessions, "SELECT type, payload FROM events WHERE type LIKE 'learning.skill%' ORDER BY id"
        )
        return [(row["type"].removeprefix("learning.skill."), row["payload"]) for row in rows]

    async def due(self) -> int:
        return len(await query(self.sessions, "SELECT 1 FROM skill_scores WHERE state = 'due'"))

    async def killed_at(self, point: str) -> None:
        """A run in a process of its own, which kills itself there."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.activities.test_corpus", self.dsn, str(self.folder), point), cwd=ROOT
        )
        assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL


@pytest.fixture
async def corpus(dsn: str, tmp_path: Path) -> AsyncIterator[Corpus]:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield Corpus(scratch, sessions, tmp_path / "corpus")


# The learner --------------------------------------------------------------------------------------------------------


async def test_each_distinct_pattern_of_a_position_is_recorded_once(corpus: Corpus) -> None:
    await corpus.close(WIN, "flag", "wedge", "flag")
    await corpus.close(LOSS, "flag")
    await corpus.close(WIN)
    await corpus.close("0", "flag", book="another")
    assert await corpus.matches() == [
        ("flag", -1, False, False),
        ("flag", 1, False, False),
        ("flag", -1, False, False),
        ("wedge", 1, False, False),
    ]


@pytest.mark.parametrize(
    "actions",
    [
        None,
        1,
        "flag",
        {},
        [],
        [None],
        [["flag"]],
        [{"pattern_key": 7}],
        [{"pattern_key": ""}],
        [{"pattern_key": "x\n"}],
    ],
)
async def test_actions_of_another_shape_are_passed_over(actions: Any, corpus: Corpus) -> None:
    await corpus.close(WIN, actions=actions)
    await corpus.close(WIN, timeframe="1h")
    assert await corpus.matches() == []


# A run --------------------------------------------------------------------------------------------------------------


async def test_an_empty_corpus_is_fine(corpus: Corpus) -> None:
    await corpus.close(WIN, "flag")
    assert await corpus.tend() == CorpusReport()
    assert not corpus.folder.exists()
    assert await corpus.matches() == [("flag", 1, False, False)]


async def test_outcomes_are_added_and_skills_move_by_their_scores(corpus: Corpus) -> None:
    for state, name, score in (
        ("pending", "rises", 2),
        ("pending", "waits", 1),
        ("active", "falls", -1),
        ("active", "stays", -2),
        ("pending", "was-high", 7),
        ("archived", "done", 50),
    ):
        corpus.skill(f"{state}/{name}", score)
    await corpus.close(WIN, "rises", "waits", "done")
    await corpus.close(LOSS, "falls")
    await corpus.close(LOSS, "falls", "waits", "no skill")
    report = await corpus.tend()
    assert report == CorpusReport(
        scored=[
            SkillScored(name="falls", before=-1, after=-3, matches=2),
            SkillScored(name="rises", before=2, after=3, matches=1),
            SkillScored(name="waits", before=1, after=1, matches=2),
        ],
        promoted=["rises", "was-high"],
        archived=["falls"],
    )
    assert report.sentence == "skills: 3 scored, 2 promoted, 1 archived, 0 left alone"
    assert corpus.tree() == {
        "active/rises.md": "3",
        "active/stays.md": "-2",
        "active/was-high.md": "7",
        "archived/done.md": "50",
        "archived/falls.md": "-3",
        "pending/waits.md": "1",
    }
    assert (corpus.folder / "skills/active/rises.md").read_bytes() == b"# A skill\r\nscore: 3\r\n"
    assert sorted((kind, event["skill"], event["score"]) for kind, event in await corpus.events()) == [
        ("archived.v1", "falls", -3),
        ("promoted.v1", "rises", 3),
        ("promoted.v1", "was-high", 7),
    ]
    free = {pattern for pattern, _, applied, _ in await corpus.matches() if not applied}
    assert free == {"no skill", "done"}, "an archived skill and one that is not written yet learn nothing"
    before = corpus.tree()
    assert await corpus.tend() == CorpusReport()
    assert corpus.tree() == before
    assert len(await corpus.events()) == 3


async def test_outcomes_wait_for_their_skill_to_appear(corpus: Corpus) -> None:
    await corpus.close(WIN, "late")
    await corpus.tend()
    corpus.skill("pending/late", 1)
    await corpus.close(WIN, "late", book="another")
    assert (await corpus.tend()).scored == [SkillScored(name="late", before=1, after=3, matches=2)]
    assert corpus.tree() == {"active/late.md": "3"}
    await corpus.close(LOSS, "late")
    assert (await corpus.tend()).scored == [SkillScored(name="late", before=3, after=2, matches=1)]


async def test_a_skill_can_be_promoted_again(corpus: Corpus) -> None:
    corpus.skill("pending/again", 3)
    assert (await corpus.tend()).promoted == ["again"]
    os.rename(corpus.folder / "skills/active/again.md", corpus.folder / "skills/pending/again.md")
    assert (await corpus.tend()).promoted == ["again"]
    assert len(await corpus.events()) == 2


async def test_names_are_compared_exactly_and_never_become_paths(corpus: Corpus) -> None:
    names = ["flag", "Flag", "pm.uptrend.S1.buy_flag", "é", "*", "e\u0301"]
    for name in names:
        corpus.skill(f"pending/{name}")
    outside = corpus.folder / "outside.md"
    outside.write_bytes(b"score: 0\r\n")
    for key in (*names[:4], "../../outside", str(outside.with_suffix("")), "flag ", "flag.md", "/flag", "..", ".", "%"):
        await corpus.close(WIN, key)
    await corpus.tend()
    assert outside.read_bytes() == b"score: 0\r\n"
    assert sorted(p.name for p in corpus.folder.iterdir()) == ["outside.md", "skills"]
    scored = {name: score for name, score in corpus.tree().items() if score != "0"}
    assert scored == {f"pending/{name}.md": "1" for name in names[:4]}


async def test_what_cannot_be_worked_on_is_reported_once_and_left_alone(corpus: Corpus) -> None:
    for place in ("pending/clash", "pending/twice", "active/late", "archived/late"):
        corpus.skill(place, -5 if place == "active/late" else 3)
    corpus.skill("active/clash", 0)
    corpus.skill("active/twice", 0)
    corpus.skill("pending/none", "high")
    corpus.skill("pending/two", "3\r\nscore: 3")
    (corpus.folder / "skills/pending/link.md").symlink_to("none.md")
    (corpus.folder / "skills/active/in-the-way.md").mkdir()
    corpus.skill("pending/in-the-way", 2)
    for name in ("twice", "none", "two", "link", "in-the-way"):
        await corpus.close(WIN, name)
    before = corpus.tree()
    expected = {
        "active/in-the-way.md": "it is a folder",
        "active/late.md": DESTINATION_TAKEN,
        "pending/clash.md": NAME_OF_ACTIVE,
        "pending/in-the-way.md": NAME_OF_ACTIVE,
        "pending/link.md": "it is a symbolic link",
        "pending/none.md": "its score is not a whole number",
        "pending/twice.md": NAME_OF_ACTIVE,
        "pending/two.md": "it has more than one score line among its first 40",
    }
    for _ in range(2):
        report = await corpus.tend()
        assert {s.skill: s.reason for s in report.skipped} == expected
        assert (report.scored, report.promoted, report.archived) == ([], [], [])
    assert corpus.tree() == before
    events = await corpus.events()
    assert {(kind, event["skill"], event["reason"]) for kind, event in events} == {
        ("skipped.v1", *item) for item in expected.items()
    }
    assert len(events) == len(expected)
    assert not any(applied or planned for _, _, applied, planned in await corpus.matches())
    (corpus.folder / "skills/active/twice.md").unlink()
    assert (await corpus.tend()).promoted == ["twice"], "once the way is clear, it goes on"


async def test_one_file_under_two_names_is_moved_without_a_plan_too(corpus: Corpus) -> None:
    path = corpus.skill("pending/half", 3)
    (corpus.folder / "skills/active").mkdir()
    os.link(path, corpus.folder / "skills/active/half.md")
    await corpus.close(WIN, "half")
    report = await corpus.tend()
    assert (report.promoted, report.skipped) == (["half"], [])
    assert corpus.tree() == {"active/half.md": "3"}
    await corpus.tend()
    assert corpus.tree() == {"active/half.md": "4"}


async def test_a_new_score_that_cannot_be_staged_holds_up_no_other(corpus: Corpus) -> None:
    class Full(SkillFolder):
        def stage(self, plan: SkillPlan, content: bytes) -> None:
            if plan.name == "full":
                raise OSError(28, "No space left on device")
            super().stage(plan, content)

    for name in ("full", "fine"):
        corpus.skill(f"pending/{name}")
        await corpus.close(WIN, name)
    report = await tend(corpus.sessions, Full(corpus.folder))
    reason = "its new score cannot be written: No space left on device"
    assert report.skipped == [SkillSkipped(skill="pending/full.md", reason=reason)]
    assert corpus.tree() == {"pending/fine.md": "1", "pending/full.md": "0"}
    assert await corpus.matches() == [("fine", 1, True, True), ("full", 1, False, False)]
    assert (await corpus.tend()).scored == [SkillScored(name="full", before=0, after=1, matches=1)]


async def test_a_plan_that_cannot_be_carried_out_stays_the_only_one_of_its_skill(corpus: Corpus) -> None:
    class Stuck(SkillFolder):
        def replace(self, staged: Path, path: Path) -> None:
            raise OSError(5, "Input/output error")

    corpus.skill("pending/flag", 0)
    for _ in range(2):
        await corpus.close(WIN, "flag")
        report = await tend(corpus.sessions, Stuck(corpus.folder))
        reason = "it cannot be worked on: Input/output error"
        assert report == CorpusReport(skipped=[SkillSkipped(skill="pending/flag.md", reason=reason)])
        assert await corpus.due() == 1
    assert (await corpus.tend()).scored == [
        SkillScored(name="flag", before=0, after=1, matches=1),
        SkillScored(name="flag", before=1, after=2, matches=1),
    ]
    assert corpus.tree() == {"pending/flag.md": "2"}


async def test_a_retry_reports_what_the_first_attempt_did(corpus: Corpus) -> None:
    corpus.skill("pending/flag", 2)
    await corpus.close(WIN, "flag")
    skills = SkillFolder(corpus.folder)
    first = await tend(corpus.sessions, skills, "one run")
    assert first.promoted == ["flag"]
    assert await tend(corpus.sessions, skills, "one run") == first


async def test_runs_at_the_same_time_count_once(corpus: Corpus) -> None:
    for i in range(20):
        corpus.skill(f"pending/s-{i:02}", 2)
    for _ in range(2):
        await corpus.close(WIN, *(f"s-{i:02}" for i in range(20)))
    reports = await asyncio.gather(*(corpus.tend() for _ in range(4)))
    assert sorted(name for report in reports for name in report.promoted) == [f"s-{i:02}" for i in range(20)]
    assert [report.skipped for report in reports] == [[]] * 4
    assert corpus.tree() == {f"active/s-{i:02}.md": "4" for i in range(20)}
    assert len(await corpus.events()) == 20


# Killed -------------------------------------------------------------------------------------------------------------


class KillsItself(SkillFolder):
    """Kills its process at a point."""

    def __init__(self, corpus: Path, point: str) -> None:
        super().__init__(corpus)
        self._point = point

    def stage(self, plan: SkillPlan, content: bytes) -> None:
        self._at("before it is staged")
        if self._point == "half-staged":
            self._staged(plan).write_bytes(content[:5])
            self._at("half-staged")
        super().stage(plan, content)
        self._at("staged, not planned")

    def replace(self, staged: Path, path: Path) -> None:
        self._at("planned, not written")
        super().replace(staged, path)
        self._at("written")

    def link(self, source: Path, target: Path) -> None:
        self._at("before it is linked")
        super().link(source, target)
        self._at("linked")

    def unlink(self, source: Path) -> None:
        self._at("before it is unlinked")
        super().unlink(source)
        self._at("moved, not settled")

    def _at(self, point: str) -> None:
        if point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


async def run_and_be_killed(dsn: str, corpus: str, point: str) -> None:
    async with sessions_on(dsn) as sessions:
        await tend(sessions, KillsItself(Path(corpus), point), "the killed run")


POINTS = {
    "before it is staged": False,
    "half-staged": False,
    "staged, not planned": False,
    "planned, not written": False,
    "written": True,
    "before it is linked": True,
    "linked": True,
    "before it is unlinked": True,
    "moved, not settled": True,
}


async def two_skills(corpus: Corpus) -> None:
    """``up`` is to be promoted at 4, ``down`` to be archived at -3; beside them one that only changes its score."""
    corpus.skill("pending/up", 2)
    corpus.skill("active/down", -2)
    corpus.skill("active/even", 10)
    await corpus.close(WIN, "up", "even")
    await corpus.close(WIN, "up", "even")
    await corpus.close(LOSS, "down")


@pytest.mark.parametrize("point", POINTS)
async def test_after_a_kill_the_next_run_finishes(point: str, corpus: Corpus) -> None:
    await two_skills(corpus)
    await corpus.killed_at(point)
    if POINTS[point]:
        assert await corpus.due() == 3
    await corpus.close(WIN, "even")
    report = await corpus.tend()
    assert (report.promoted, report.archived, report.skipped) == (["up"], ["down"], [])
    assert corpus.tree() == {"active/even.md": "13", "active/up.md": "4", "archived/down.md": "-3"}
    assert (corpus.folder / "skills/active/up.md").read_bytes() == b"# A skill\r\nscore: 4\r\n"
    assert sorted(kind for kind, _ in await corpus.events()) == ["archived.v1", "promoted.v1"]
    assert await corpus.due() == 0
    assert all(applied for _, _, applied, _ in await corpus.matches())
    assert await corpus.tend() == CorpusReport()


@pytest.mark.parametrize("point", ["planned, not written", "written", "linked", "moved, not settled"])
@pytest.mark.parametrize("replaced", [True, False], ids=["by a new file", "in place"])
async def test_after_a_kill_and_an_edit_nothing_is_lost_or_counted_twice(
    point: str, replaced: bool, corpus: Corpus
) -> None:
    """A person gives the one skill that was being worked on 100 more, whatever it had, and another text."""
    corpus.skill("pending/up", 2)
    await corpus.close(WIN, "up")
    await corpus.killed_at(point)
    path = max((corpus.folder / "skills").rglob("*.md"))  # the first name, where it still has two
    [score] = {score for name, score in corpus.tree().items() if name.endswith("up.md")}
    edited = f"# In other words\r\nscore: {int(score) + 100}\r\n".encode()
    if replaced:
        path.with_name("editing").write_bytes(edited)
        path.with_name("editing").replace(path)
    else:
        path.write_bytes(edited)
    reports = [await corpus.tend() for _ in range(2)]
    skipped = {item.reason for report in reports for item in report.skipped}
    if replaced and point == "linked":
        # Two files now: theirs and the one that was written. Neither may go; a person is told.
        assert sorted(corpus.tree().values()) == ["103", "3"]
        assert skipped == {EDITED_MEANWHILE, NAME_OF_ACTIVE}
    else:
        assert corpus.tree() == {"active/up.md": "103"}
        assert skipped <= {EDITED_MEANWHILE}
    assert await corpus.matches() == [("up", 1, True, True)]
    assert await corpus.due() == 0


async def test_an_edit_while_a_plan_was_due_is_reported(corpus: Corpus) -> None:
    path = corpus.skill("pending/up", 0)
    await corpus.close(WIN, "up")
    await corpus.killed_at("planned, not written")
    path.write_bytes(b"score: 2\n")
    report = await corpus.tend()
    assert report.skipped == [SkillSkipped(skill="pending/up.md", reason=EDITED_MEANWHILE)]
    assert (report.scored, report.promoted) == ([SkillScored(name="up", before=2, after=3, matches=1)], ["up"])
    assert [kind for kind, _ in await corpus.events()] == ["skipped.v1", "promoted.v1"]
    states = [
        row["state"] for row in await query(corpus.sessions, "SELECT state FROM skill_scores ORDER BY planned_at")
    ]
    assert states == ["dropped", "done"]


async def test_a_due_plan_waits_for_a_corpus_that_is_away(corpus: Corpus) -> None:
    corpus.skill("pending/up", 0)
    await corpus.close(WIN, "up")
    await corpus.killed_at("planned, not written")
    (corpus.folder / "skills").rename(corpus.folder / "unmounted")
    report = await corpus.tend()
    assert report.skipped == [SkillSkipped(skill="pending/up.md", reason="its folder is not there")]
    (corpus.folder / "unmounted").rename(corpus.folder / "skills")
    assert (await corpus.tend()).scored == [SkillScored(name="up", before=0, after=1, matches=1)]
    assert corpus.tree() == {"pending/up.md": "1"}


if __name__ == "__main__":
    asyncio.run(run_and_be_killed(*sys.argv[1:]))
    os._exit(0)
