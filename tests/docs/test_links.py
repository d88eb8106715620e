"""Every file, link and number of the policy that a document names exists."""

import re
from pathlib import Path

import pytest

from closeloop.models.policy import LearningPolicy
from tests.docs.pages import NAMES, ROOT, anchors, links, spans, table

# A path in a code span: it has a folder, and an ending that a file of ours has; or it is a folder of ours.
_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)+\.(?:py|md|json|yaml|yml|toml|png|svg)")
_FOLDER = re.compile(r"[\w.-]+(?:/[\w.-]+)*/")
_MODULE = re.compile(r"\w+\.py")
_FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}


def missing(span: str) -> bool:
    """Whether a code span names a file or folder of the repository that is not there."""
    if _FILE.fullmatch(span) or (_FOLDER.fullmatch(span) and span.split("/")[0] in _FOLDERS):
        return not (ROOT / span).exists()
    return bool(_MODULE.fullmatch(span)) and not any(ROOT.glob(f"[!.]*/**/{span}"))


def test_what_is_missing_is_seen() -> None:
    assert missing("learning/alchemy.py")
    assert missing("learning/alchemy/")
    assert missing("alchemy.py")
    assert not missing("learning/weights.py")
    assert not missing("weights/{book}/{cycle}")


@pytest.mark.parametrize("name", NAMES)
def test_files(name: str) -> None:
    assert [span for span in spans(ROOT / name) if missing(span)] == []


def test_documents_that_code_cites() -> None:
    """A page exists, and has the section that is named."""
    broken = []
    for code in ROOT.glob("[!.]*/**/*.py"):
        for page, section in re.findall(r"(docs/[\w/.-]+\.md)(?:, section (\d+))?", code.read_text()):
            there = (ROOT / page).exists() and (not section or f"\n## {section}. " in (ROOT / page).read_text())
            if not there:
                broken.append(f"{code.relative_to(ROOT)}: {page} {section}")
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_links(name: str) -> None:
    page = ROOT / name
    broken = []
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_fields_of_the_policy(name: str) -> None:
    """``section.field`` in a code span is a field of that section."""
    unknown = []
    for span in spans(ROOT / name):
        found = re.match(r"([a-z]+)\.([a-z_]+)(?::|$)", span)
        if found and found[1] in LearningPolicy.model_fields and found[2] not in ("py", "md"):
            section = type(getattr(LearningPolicy(), found[1]))
            if found[2] not in section.model_fields:
                unknown.append(span)
    assert unknown == []


def test_every_number_of_the_policy_is_in_the_algorithms() -> None:
    """But for those of waiting, which no computation reads."""
    said = (ROOT / "docs" / "algorithms.md").read_text()
    policy = LearningPolicy()
    unsaid = [
        f"{section}.{field}"
        for section in LearningPolicy.model_fields
        if section != "approvals"
        for field in type(getattr(policy, section)).model_fields
        if f"`{section}.{field}" not in said
    ]
    assert unsaid == []


LAYERS = ("models", "learning", "store", "services", "activities", "workflows")


def test_the_map_of_folders() -> None:
    """The README's map names every module of the layers, each in its column."""
    heading, *rows = table(ROOT / "README.md", "lifecycle")
    named: dict[str, list[str]] = {layer: [] for layer in LAYERS}
    for row in rows:
        for column, cell in zip(heading[1:], row[1:], strict=True):
            named[column.strip("`/")] += re.findall(r"\w+", cell)
    there = {layer: {path.stem for path in (ROOT / layer).glob("*.py")} - {"__init__"} for layer in LAYERS}
    assert [f"{layer}/{name}.py" for layer in LAYERS for name in sorted(there[layer] - set(named[layer]))] == []
    assert [f"{layer}/{name}.py" for layer in LAYERS for name in sorted(set(named[layer]) - there[layer])] == []


def test_pages_are_reached_from_the_readme() -> None:
    """A page that nothing links to is read by nobody."""
    found: set[Path] = set()
    todo = [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        found.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            more = sorted(target.glob("*.md")) if target.is_dir() else [target]
            todo += [each for each in more if each.suffix == ".md" and each.exists() and each not in found]
    assert {str(page.relative_to(ROOT)) for page in found} == set(NAMES)
