"""The corpus: tending it, and listing its skills beside the outcomes that stand in no score yet."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.gateways.skills import SkillFolder
from closeloop.learning.corpus import NoScore, read_score
from closeloop.models import launches
from closeloop.models.corpus import CorpusReport, CorpusRequest, SkillFile, SkillView
from closeloop.models.errors import NotOnRecord
from closeloop.services.launching import run as run_launch


async def run(client: Client) -> CorpusReport:
    """Tend the corpus in a workflow and wait for it. Raises RunFailed."""
    report: CorpusReport = await run_launch(client, launches.corpus(CorpusRequest()), "The corpus was not tended")
    return report


async def listing(
    session: AsyncSession, skills: SkillFolder, *, last: int | None = None, before: str | None = None
) -> list[SkillView]:
    """Skills by folder and name, then patterns with outcomes that no skill is named for. Commits.

    Only the ``last`` of them, and only what comes before the first of the name ``before``. Raises NotOnRecord.
    """
    async with session.begin():
        await store.corpus.record_matches(session)  # what the next run would find
        pending = {row["pattern_key"]: row for row in await store.corpus.unapplied(session)}
    files = await asyncio.to_thread(skills.scan)
    views = [_view(file) for file in files]
    # A pattern without a file keeps its outcomes until a skill of its name appears.
    named = {file.name for file in files}
    views += [SkillView(name=name) for name in sorted(pending) if name not in named]
    for view in views:
        if matches := pending.get(view.name):
            view.pending_matches, view.pending_outcome = matches["matches"], matches["outcome"]
    if before is not None:
        places = [place for place, view in enumerate(views) if view.name == before]
        if not places:
            raise NotOnRecord(f"There is no skill {before}: 'closeloop corpus list' shows them.")
        views = views[: places[0]]
    return views if last is None else views[-last:]


def _view(file: SkillFile) -> SkillView:
    if file.problem is not None:
        return SkillView(name=file.name, state=file.state, problem=file.problem)
    try:
        return SkillView(name=file.name, state=file.state, score=read_score(file.content))
    except NoScore as error:
        return SkillView(name=file.name, state=file.state, problem=str(error))
