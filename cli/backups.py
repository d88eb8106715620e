"""``closeloop backup`` and ``closeloop restore``."""

from pathlib import Path
from typing import Annotated

import typer

from closeloop.cli.console import out, run, settings
from closeloop.services import backups
from closeloop.workers.wiring import open_postgres_tools

File = Annotated[Path, typer.Argument(metavar="FILE", help="The file of the backup.")]


def backup(
    file: File, force: Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")] = False
) -> None:
    """Write the database to FILE, as it is at one instant. Everything may go on meanwhile."""

    async def write() -> backups.Backup:
        return await backups.backup(open_postgres_tools(settings()), file, force=force)

    made = run(write())
    out.print(f"wrote {made.file}: {made.size:,} bytes, schema at {made.revision}", soft_wrap=True)


def restore(file: File) -> None:
    """Read a backup into an empty database, such as a new stack's. All of it, or nothing."""

    async def read() -> backups.Restored:
        return await backups.restore(open_postgres_tools(settings()), file)

    made = run(read())
    was = "" if made.now == made.revision else f", was {made.revision}"
    out.print(f"restored {file}: schema at {made.now}{was}", soft_wrap=True)
