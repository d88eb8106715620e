"""Recording convictions ahead of their positions."""

import typer
from pydantic import ValidationError

from closeloop import store
from closeloop.cli.connections import database
from closeloop.cli.console import AsJson, err, out, print_json, run
from closeloop.cli.files import TOO_LONG, FileArgument, json_lines, open_input
from closeloop.models.positions import RecordedConviction
from closeloop.models.refusals import describe

app = typer.Typer(help="Convictions.", no_args_is_help=True)


@app.command()
def add(file: FileArgument, as_json: AsJson = False) -> None:
    """Record convictions (JSON lines), so that a close need only name its conviction_id. Status 1 if any is refused."""
    readable: list[RecordedConviction] = []
    refused: list[dict[str, object]] = []
    for index, line in json_lines(open_input(file)):
        if line is None:
            refused.append({"index": index, "reason": TOO_LONG})
            continue
        try:
            readable.append(RecordedConviction.model_validate_json(line))
        except ValidationError as error:
            refused.append({"index": index, "reason": describe(error)})
    added = run(_add(readable))
    if as_json:
        print_json({"added": added, "already_recorded": len(readable) - added, "rejected": refused})
    else:
        out.print(f"{added} convictions recorded, {len(readable) - added} were on record")
    for item in refused:
        err.print(f"refused: line {int(str(item['index'])) + 1}: {item['reason']}")
    if refused:
        raise typer.Exit(1)


async def _add(convictions: list[RecordedConviction]) -> int:
    async with database() as session, session.begin():
        return await store.convictions.record_ahead(session, convictions)
