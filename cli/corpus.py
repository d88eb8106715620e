"""The corpus: skills as files, and the outcomes of the patterns that they are named for."""

import uuid
from typing import Any

import typer

from closeloop import store
from closeloop.cli.connections import database, temporal
from closeloop.cli.console import AsJson, out, print_json, run, settings, table
from closeloop.gateways.skills import SkillFolder
from closeloop.learning.corpus import NoScore, read_score
from closeloop.models.corpus import CorpusReport, CorpusRequest, SkillFile
from closeloop.models.launches import TASK_QUEUE

app = typer.Typer(help="Skills: their scores, and what their patterns came to.", no_args_is_help=True)


@app.command("list")
def corpus_list(as_json: AsJson = False) -> None:
    """Skills with their state and score, and the outcomes of patterns that stand in no score yet."""
    rows = run(_list())
    if as_json:
        return print_json(rows)
    if not rows:
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
    for r in rows:
        shown.add_row(
            r["name"],
            r["state"] or "no file",
            "-" if r["score"] is None else str(r["score"]),
            str(r["pending_matches"]),
            f"{r['pending_outcome']:+d}" if r["pending_matches"] else "-",
            r["problem"] or "",
        )
    return out.print(shown)


async def _list() -> list[dict[str, Any]]:
    async with database() as session, session.begin():
        await store.corpus.record_matches(session)  # what the next run would find
        pending = {row["pattern_key"]: row for row in await store.corpus.unapplied(session)}
    files = SkillFolder(settings().corpus_folder()).scan()
    rows = [_row(file) for file in files]
    # A pattern without a file keeps its outcomes until a skill of its name appears.
    named = {file.name for file in files}
    rows += [
        {"name": name, "state": None, "score": None, "problem": None} for name in sorted(pending) if name not in named
    ]
    for row in rows:
        matches = pending.get(row["name"])
        row["pending_matches"] = matches["matches"] if matches else 0
        row["pending_outcome"] = matches["outcome"] if matches else 0
    return rows


def _row(file: SkillFile) -> dict[str, Any]:
    score, problem = None, file.problem
    if problem is None:
        try:
            score = read_score(file.content)
        except NoScore as error:
            problem = str(error)
    return {"name": file.name, "state": file.state, "score": score, "problem": problem}


@app.command("run")
def corpus_run(as_json: AsJson = False) -> None:
    """Tend the corpus now: add outcomes to scores, promote at 3 and more, archive at -3 and less."""
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
        report: CorpusReport = await client.execute_workflow(
            "CorpusWorkflow",
            CorpusRequest(),
            id=f"corpus/{uuid.uuid4().hex[:8]}",
            task_queue=TASK_QUEUE,
            static_summary="Score, promote and archive skills",
            result_type=CorpusReport,
        )
        return report
