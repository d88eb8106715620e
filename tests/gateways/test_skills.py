"""The folder of skills on a real file system: every step of a change, what interrupts it, and what is left alone."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from closeloop.gateways.skills import DESTINATION_TAKEN, EDITED_MEANWHILE, MAX_SKILL_BYTES, SkillFolder
from closeloop.models.corpus import PlanState, SkillPlan

OLD, NEW = b"# Flag\r\nscore: 2\r\n", b"# Flag\r\nscore: 3\r\n"


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    folder = tmp_path / "skills"
    for state in ("pending", "active", "archived"):
        (folder / state).mkdir(parents=True)
    return folder


@pytest.fixture
def folder(skills: Path) -> SkillFolder:
    return SkillFolder(skills.parent)


def planned(name: str = "flag", *, old: bytes = OLD, new: bytes = NEW, to: str | None = "active") -> SkillPlan:
    return SkillPlan(
        plan_id="p1",
        name=name,
        folder="pending",
        destination=to,
        old_score=2,
        new_score=2 if old == new else 3,
        old_sha256=hashlib.sha256(old).hexdigest(),
        new_sha256=hashlib.sha256(new).hexdigest(),
        matches=1,
    )


def tree(skills: Path) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    return {str(p.relative_to(skills)): p.read_bytes() for p in sorted(skills.rglob("*")) if p.is_file()}


def problems(folder: SkillFolder) -> dict[str, str | None]:
    return {file.place: file.problem for file in folder.scan()}


# Looking ------------------------------------------------------------------------------------------------------------


def test_skills_are_the_markdown_files_of_the_three_folders(skills: Path, folder: SkillFolder) -> None:
    for name in ("pending/a.md", "active/b.c.md", "archived/é.md", "pending/.hidden.md", "pending/a.txt", "a.md"):
        (skills / name).write_bytes(OLD)
    assert [(f.state, f.name, f.content) for f in folder.scan()] == [
        ("pending", "a", OLD),
        ("active", "b.c", OLD),
        ("archived", "é", OLD),
    ]


def test_a_corpus_that_is_not_there_has_no_skills(tmp_path: Path) -> None:
    folder = SkillFolder(tmp_path / "nowhere")
    assert folder.scan() == []
    folder.tidy([])
    assert folder.carry_out(planned()).state is PlanState.due
    assert not (tmp_path / "nowhere").exists()


def test_what_cannot_be_worked_on_says_why_and_stays(skills: Path, folder: SkillFolder) -> None:
    pending = skills / "pending"
    (pending / "folder.md").mkdir()
    (pending / "link.md").symlink_to("huge.md")
    (pending / "dangling.md").symlink_to("nowhere")
    (pending / "latin.md").write_bytes(b"caf\xe9\nscore: 3\n")
    (pending / "huge.md").write_bytes(OLD + b"x" * (MAX_SKILL_BYTES + 1 - len(OLD)))
    (pending / "large.md").write_bytes(OLD + b"x" * (MAX_SKILL_BYTES - len(OLD)))
    os.mkfifo(pending / "pipe.md")
    (pending / "two\nlines.md").write_bytes(OLD)
    Path(os.fsdecode(os.fsencode(pending) + b"/caf\xe9.md")).write_bytes(OLD)
    assert problems(folder) == {
        "pending/folder.md": "it is a folder",
        "pending/link.md": "it is a symbolic link",
        "pending/dangling.md": "it is a symbolic link",
        "pending/latin.md": "it is not UTF-8",
        "pending/huge.md": "it is larger than 1 MiB",
        "pending/large.md": None,
        "pending/pipe.md": "it is not a plain file",
        "pending/two\N{REPLACEMENT CHARACTER}lines.md": "its name is not UTF-8, or holds control characters",
        "pending/caf\N{REPLACEMENT CHARACTER}.md": "its name is not UTF-8, or holds control characters",
    }


def test_what_may_not_be_read_says_so() -> None:
    """Root may read everything: it looks as somebody who may not."""
    with tempfile.TemporaryDirectory(prefix="closeloop-test-") as made:
        home = Path(made)
        home.chmod(0o755)
        for state in ("pending", "active", "archived"):
            (home / "skills" / state).mkdir(parents=True)
        (home / "skills" / "pending" / "secret.md").write_bytes(OLD)
        (home / "skills" / "pending" / "secret.md").chmod(0)
        (home / "skills" / "active").chmod(0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65_534)
        try:
            found = problems(SkillFolder(home))
        finally:
            if root:
                os.seteuid(0)
            (home / "skills" / "active").chmod(0o700)
    assert found == {
        "pending/secret.md": "it cannot be worked on: Permission denied",
        "active/*.md": "it cannot be worked on: Permission denied",
    }


def test_a_file_in_the_place_of_a_folder_is_reported(skills: Path, folder: SkillFolder) -> None:
    (skills / "active").rmdir()
    (skills / "active").write_bytes(b"")
    assert problems(folder) == {"active/*.md": "it cannot be worked on: Not a directory"}


# Changing -----------------------------------------------------------------------------------------------------------


def test_a_score_is_written_and_the_file_moves(skills: Path, folder: SkillFolder) -> None:
    path = skills / "pending" / "flag.md"
    path.write_bytes(OLD)
    path.chmod(0o664)
    folder.stage(planned(), NEW)
    assert path.read_bytes() == OLD
    done = folder.carry_out(planned())
    assert (done.state, done.moved, done.problem) == (PlanState.done, True, None)
    assert tree(skills) == {"active/flag.md": NEW}
    assert stat.S_IMODE((skills / "active" / "flag.md").stat().st_mode) == 0o664
    assert folder.carry_out(planned()) == done, "again, as after a kill before it was recorded"
    assert tree(skills) == {"active/flag.md": NEW}


def test_a_folder_that_is_not_there_is_made(skills: Path, folder: SkillFolder) -> None:
    (skills / "active").rmdir()
    (skills / "pending" / "flag.md").write_bytes(OLD)
    assert folder.carry_out(planned(new=OLD)).moved
    assert tree(skills) == {"active/flag.md": OLD}


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_is_overwritten(kind: str, skills: Path, folder: SkillFolder) -> None:
    (skills / "pending" / "flag.md").write_bytes(OLD)
    target = skills / "active" / "flag.md"
    if kind == "file":
        target.write_bytes(b"somebody else's")
    elif kind == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    before = tree(skills)
    folder.stage(planned(), NEW)
    done = folder.carry_out(planned())
    assert (done.state, done.moved, done.problem) == (PlanState.done, False, DESTINATION_TAKEN)
    assert tree(skills) == before | {"pending/flag.md": NEW}


def test_a_move_that_was_interrupted_between_its_steps_is_finished(skills: Path, folder: SkillFolder) -> None:
    (skills / "pending" / "flag.md").write_bytes(NEW)
    os.link(skills / "pending" / "flag.md", skills / "active" / "flag.md")
    done = folder.carry_out(planned())
    assert (done.state, done.moved, done.problem) == (PlanState.done, True, None)
    assert tree(skills) == {"active/flag.md": NEW}


def test_what_was_staged_for_no_plan_is_taken_away(skills: Path, folder: SkillFolder) -> None:
    (skills / "pending" / "flag.md").write_bytes(OLD)
    folder.stage(planned(), NEW)
    folder.tidy({"p1"})
    assert len(tree(skills)) == 2
    folder.tidy({"p2"})
    assert tree(skills) == {"pending/flag.md": OLD}


def test_staging_beside_a_file_that_is_gone_fails(folder: SkillFolder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.stage(planned(), NEW)


# A person works on the same file ------------------------------------------------------------------------------------

THEIRS = b"# Flag, in other words\nscore: -1\n"


def test_an_edit_before_the_write_stands_and_the_plan_is_dropped(skills: Path, folder: SkillFolder) -> None:
    path = skills / "pending" / "flag.md"
    path.write_bytes(OLD)
    folder.stage(planned(), NEW)
    path.write_bytes(THEIRS)
    done = folder.carry_out(planned())
    assert (done.state, done.moved, done.problem) == (PlanState.dropped, False, EDITED_MEANWHILE)
    assert tree(skills) == {"pending/flag.md": THEIRS}


def test_an_edit_after_the_write_stands_and_is_not_moved(skills: Path, folder: SkillFolder) -> None:
    path = skills / "pending" / "flag.md"
    path.write_bytes(OLD)
    folder.stage(planned(to=None), NEW)
    assert folder.carry_out(planned(to=None)).state is PlanState.done
    path.write_bytes(THEIRS)
    done = folder.carry_out(planned())
    assert (done.state, done.moved, done.problem) == (PlanState.done, False, EDITED_MEANWHILE)
    assert tree(skills) == {"pending/flag.md": THEIRS}


def test_a_file_deleted_before_the_write_drops_the_plan(skills: Path, folder: SkillFolder) -> None:
    (skills / "pending" / "flag.md").write_bytes(OLD)
    folder.stage(planned(), NEW)
    (skills / "pending" / "flag.md").unlink()
    assert folder.carry_out(planned()).state is PlanState.dropped
    assert tree(skills) == {}


def test_a_file_deleted_after_the_write_takes_its_score_with_it(folder: SkillFolder) -> None:
    assert folder.carry_out(planned()).state is PlanState.dropped


def test_without_what_was_staged_an_unchanged_file_was_not_written(skills: Path, folder: SkillFolder) -> None:
    """Somebody cleans up hidden files."""
    (skills / "pending" / "flag.md").write_bytes(OLD)
    assert folder.carry_out(planned()).state is PlanState.dropped
    assert tree(skills) == {"pending/flag.md": OLD}


def test_after_the_write_a_file_that_can_no_longer_be_read_was_written(skills: Path, folder: SkillFolder) -> None:
    (skills / "pending" / "flag.md").write_bytes(b"x" * (MAX_SKILL_BYTES + 1))
    done = folder.carry_out(planned())
    assert (done.state, done.moved) == (PlanState.done, False)


def test_a_file_edited_between_its_two_names_is_left_alone(skills: Path, folder: SkillFolder) -> None:
    """An editor puts a new file in the place of the first name: the second one holds what was written."""
    (skills / "active" / "flag.md").write_bytes(NEW)
    (skills / "pending" / "flag.md").write_bytes(THEIRS)
    done = folder.carry_out(planned())
    assert (done.state, done.moved) == (PlanState.done, False)
    assert tree(skills) == {"active/flag.md": NEW, "pending/flag.md": THEIRS}


# The file system refuses --------------------------------------------------------------------------------------------


class Refusing(SkillFolder):
    """A file system on which one step fails."""

    step = ""

    def replace(self, staged: Path, path: Path) -> None:
        self._fail("replace")
        super().replace(staged, path)

    def link(self, source: Path, target: Path) -> None:
        self._fail("link")
        super().link(source, target)

    def unlink(self, source: Path) -> None:
        self._fail("unlink")
        super().unlink(source)

    def _fail(self, step: str) -> None:
        if step == self.step:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("step", "state", "left"),
    [
        ("replace", PlanState.due, {"pending/flag.md": OLD, "pending/.closeloop-p1.tmp": NEW}),
        ("link", PlanState.done, {"pending/flag.md": NEW}),
        ("unlink", PlanState.due, {"pending/flag.md": NEW, "active/flag.md": NEW}),
    ],
)
def test_a_refused_step_is_reported_and_done_later(
    step: str, state: PlanState, left: dict[str, bytes], skills: Path
) -> None:
    (skills / "pending" / "flag.md").write_bytes(OLD)
    folder = Refusing(skills.parent)
    folder.stage(planned(), NEW)
    folder.step = step
    done = folder.carry_out(planned())
    assert (done.state, done.moved, done.problem) == (state, False, "it cannot be worked on: No space left on device")
    assert tree(skills) == left
    folder.step = ""
    assert folder.carry_out(planned()).moved
    assert tree(skills) == {"active/flag.md": NEW}
