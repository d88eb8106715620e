"""The corpus: skills as files, and the outcomes of the patterns that they are named for."""

import typer

from closeloop.cli.connections import database, temporal
from closeloop.cli.console import AsJson, BeforeOption, LastOption, out, print_json, run, settings, table
from closeloop.gateways.skills import SkillFolder
from closeloop.models.corpus import CorpusReport, SkillView
from closeloop.services import corpus

app = typer.Typer(help="Skills: their scores, and what their patterns came to.", no_args_is_help=True)


@app.command("list")
def corpus_list(last: LastOption = None, before: BeforeOption = None, as_json: AsJson = False) -> None:
    """Skills with their state and score, and the outcomes of patterns that stand in no score yet. An ID is a name."""
    skills = run(_list(last, before))
    if as_json:
        return print_json(skills)
    if not skills:
        return out.print(f"No skills in {settings().corpus_folder()}/skills, and no outcomes of patterns yet.")
    shown = table(
        "skill",
        "state",
        "score",
        "pending matches",
        "their sum",
        "note",
        numbers=("score", "pending matches", "their sum"),
    )
    for skill in skills:
        shown.add_row(
            skill.name,
            skill.state or "no file",
            "-" if skill.score is None else str(skill.score),
            str(skill.pending_matches),
            f"{skill.pending_outcome:+d}" if skill.pending_matches else "-",
            skill.problem or "",
        )
    return out.print(shown)


async def _list(last: int | None, before: str | None) -> list[SkillView]:
    async with database() as session:
        return await corpus.listing(session, SkillFolder(settings().corpus_folder()), last=last, before=before)


@app.command("run")
def corpus_run(as_json: AsJson = False) -> None:
    """Tend the corpus now: add outcomes to scores, promote and archive skills by their scores."""
    report = run(_run())
    if as_json:
        return print_json(report)
    for scored in report.scored:
        out.print(f"scored {scored.name}: {scored.before} to {scored.after} ({scored.matches} matches)")
    for name in report.promoted:
        out.print(f"promoted {name}")
    for name in report.archived:
        out.print(f"archived {name}")
    for skipped in report.skipped:
        out.print(f"left alone {skipped.skill}: {skipped.reason}")
    if report.unlisted:
        out.print(f"and {report.unlisted} more: see 'closeloop corpus list' and 'closeloop events'")
    if report == CorpusReport():
        out.print("Nothing to do.")
    return None


async def _run() -> CorpusReport:
    async with temporal() as client:
        return await corpus.run(client)
