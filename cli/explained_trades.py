"""How the first rows of a table of trades were understood, for a person."""

from closeloop.cli.console import number, out
from closeloop.services.trade_tables import Explained


def show_explained(understood: Explained) -> None:
    """Print row after row: the message's field, its value, and the file's columns that it is from."""
    how = "guessed by its columns" if understood.guessed else "as you said"
    out.print(f"map {understood.map} ({how}): {understood.about or 'your own'}")
    if not understood.rows:
        out.print("The file has no rows.")
    for row in understood.rows:
        out.print(f"\nrow {row.index}: {row.outcome}" + (f" ({row.reason})" if row.reason else ""))
        for one in row.fields:
            out.print(f"  {one.field:<17} {one.value!s:<36} {'<- ' + one.column if one.column else ''}".rstrip())
        if row.fields:
            out.print(f"  {'R':<17} {number(row.rr)}" + ("" if row.rr is not None else " (the risk is not known)"))
        for note in row.noted:
            out.print(f"  noted: {note['field']}: {note['reason']}; left out")
    out.print("\nNothing was stored.")
