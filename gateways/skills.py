"""The folder of skills: markdown files that people and closeloop both work on. Nothing is ever lost or overwritten.

``<corpus>/skills/{pending,active,archived}/<name>.md``. What cannot be worked on is reported and left alone.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Collection
from pathlib import Path
from unicodedata import category

from closeloop.models.corpus import DESTINATION_TAKEN, PlanResult, PlanState, SkillFile, SkillPlan, SkillState

MAX_SKILL_BYTES = 1 << 20
EDITED_MEANWHILE = "somebody else changed it meanwhile: what was planned for it is planned anew"
_STAGED_PREFIX, _STAGED_SUFFIX = ".closeloop-", ".tmp"


class SkillFolder:
    """The skills of one corpus."""

    def __init__(self, corpus: Path) -> None:
        self._skills = corpus / "skills"

    def scan(self) -> list[SkillFile]:
        """Every ``*.md`` in the three folders, by folder and name; hidden files are not skills."""
        found: list[SkillFile] = []
        for state in SkillState:
            try:
                names = sorted(os.listdir(self._skills / state))
            except FileNotFoundError:
                continue
            except OSError as error:
                found.append(SkillFile(state, "*", (0, 0), problem=_reason(error)))
                continue
            found += [self._look(state, name) for name in names if name.endswith(".md") and name[0] != "."]
        return found

    def stage(self, plan: SkillPlan, content: bytes) -> None:
        """Write a plan's new content to a hidden file beside its skill; while it lies there, the skill is unchanged.

        Raises OSError.
        """
        of = (self._skills / plan.folder / f"{plan.name}.md").lstat()
        file = os.open(self._staged(plan), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(file, "wb") as staged:
            staged.write(content)
            staged.flush()
            with contextlib.suppress(PermissionError):  # only root may give a file away
                os.fchown(file, of.st_uid, of.st_gid)
            os.fchmod(file, stat.S_IMODE(of.st_mode))
            os.fsync(file)
        _sync(self._skills / plan.folder)

    def tidy(self, due: Collection[str]) -> None:
        """Delete staged files of plans that were never recorded: all but those whose plan ids are in ``due``."""
        for state in SkillState:
            for path in (self._skills / state).glob(f"{_STAGED_PREFIX}*{_STAGED_SUFFIX}"):
                if path.name[len(_STAGED_PREFIX) : -len(_STAGED_SUFFIX)] not in due:
                    # A file that cannot be deleted is hidden and harmless, and the next run tries again.
                    with contextlib.suppress(OSError):
                        path.unlink()

    def carry_out(self, plan: SkillPlan) -> PlanResult:
        """Write the new score, then move the file. A step that an earlier attempt has done is not repeated."""
        try:
            if not (self._skills / plan.folder).is_dir():
                return PlanResult(PlanState.due, problem="its folder is not there")
            if plan.old_score != plan.new_score and not self._write(plan):
                return PlanResult(PlanState.dropped, problem=EDITED_MEANWHILE)
            return self._move(plan)
        except OSError as error:
            return PlanResult(PlanState.due, problem=_reason(error))

    def _write(self, plan: SkillPlan) -> bool:
        """Whether the new score stands in the file, or stood there before a person went on editing."""
        path, staged = self._path(plan, plan.folder), self._staged(plan)
        if not staged.exists():
            # An earlier attempt renamed it onto the skill; or somebody deleted it, and the skill is unchanged.
            now = self._sha256(plan, plan.folder)
            if now is None and plan.destination is not None:
                now = self._sha256(plan, plan.destination)
            return now is not None and now != plan.old_sha256
        if self._sha256(plan, plan.folder) != plan.old_sha256:
            staged.unlink()
            return False
        self.replace(staged, path)
        _sync(path.parent)
        return True

    def _move(self, plan: SkillPlan) -> PlanResult:
        if plan.destination is None:
            return PlanResult(PlanState.done)
        source, target = self._path(plan, plan.folder), self._path(plan, plan.destination)
        if not _is_there(source):  # moved, and killed before that was recorded
            return PlanResult(PlanState.done, moved=_is_there(target))
        if not _same_file(source, target):
            if self._sha256(plan, plan.folder) != plan.new_sha256:
                return PlanResult(PlanState.done, problem=EDITED_MEANWHILE)
            target.parent.mkdir(exist_ok=True)
            try:
                self.link(source, target)
            except FileExistsError:
                return PlanResult(PlanState.done, problem=DESTINATION_TAKEN)
            except OSError as error:
                return PlanResult(PlanState.done, problem=_reason(error))
            _sync(target.parent)
        self.unlink(source)
        _sync(source.parent)
        return PlanResult(PlanState.done, moved=True)

    # The three steps that change what people see; each is atomic.

    def replace(self, staged: Path, path: Path) -> None:
        """Give a file its staged content."""
        os.replace(staged, path)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; unlike a rename, this never takes the place of another file."""
        os.link(source, target, follow_symlinks=False)

    def unlink(self, source: Path) -> None:
        """Take its first name away."""
        source.unlink()

    def _look(self, state: SkillState, file_name: str) -> SkillFile:
        # A name that is not UTF-8 fits neither into JSON nor the database; control characters would upset a terminal.
        shown = "".join("\N{REPLACEMENT CHARACTER}" if category(c) in ("Cc", "Cs") else c for c in file_name)
        path = self._skills / state / file_name
        inode, content, problem = (0, 0), b"", None
        try:
            status = path.lstat()
            inode = (status.st_dev, status.st_ino)
            content = _read(path)
            content.decode()
        except UnicodeDecodeError:
            content, problem = b"", "it is not UTF-8"
        except _LeftAlone as reason:
            problem = str(reason)
        except OSError as error:
            problem = _reason(error)
        if shown != file_name:
            content, problem = b"", "its name is not UTF-8, or holds control characters"
        return SkillFile(state, shown.removesuffix(".md"), inode, content, problem)

    def _sha256(self, plan: SkillPlan, folder: str) -> str | None:
        """Of the file's content: None where there is no such file, empty where it is none that can be worked on."""
        try:
            return hashlib.sha256(_read(self._path(plan, folder))).hexdigest()
        except FileNotFoundError:
            return None
        except _LeftAlone:
            return ""

    def _path(self, plan: SkillPlan, folder: str) -> Path:
        return self._skills / folder / f"{plan.name}.md"

    def _staged(self, plan: SkillPlan) -> Path:
        return self._skills / plan.folder / f"{_STAGED_PREFIX}{plan.plan_id}{_STAGED_SUFFIX}"


class _LeftAlone(Exception):
    """Why a file is not worked on."""


def _read(path: Path) -> bytes:
    """A plain file of at most 1 MiB, never through a symlink. Raises _LeftAlone, OSError."""
    kind = path.lstat().st_mode
    if stat.S_ISLNK(kind):
        raise _LeftAlone("it is a symbolic link")
    if not stat.S_ISREG(kind):
        raise _LeftAlone("it is a folder" if stat.S_ISDIR(kind) else "it is not a plain file")
    # Should a link or a pipe replace the file after that check, it is neither followed nor waited for.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        content = file.read(MAX_SKILL_BYTES + 1)
    if len(content) > MAX_SKILL_BYTES:
        raise _LeftAlone("it is larger than 1 MiB")
    return content


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _same_file(one: Path, other: Path) -> bool:
    """Whether two names are of one file: a move that was interrupted between its two steps."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _reason(error: OSError) -> str:
    return f"it cannot be worked on: {error.strerror or type(error).__name__}"
