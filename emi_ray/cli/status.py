"""The command status: what is current, and what the next commands would do."""

from emi_ray.cli.app import Overrides, WorkspaceOption, app
from emi_ray.cli.tables import compact_table
from emi_ray.cli.terminal import console
from emi_ray.workspace import Workspace


@app.command()
def status(workspace: WorkspaceOption, overrides: Overrides = None) -> None:
    """Show what is current, stale, missing or quarantined, and which commands bring it up to date.

    Stale results were made from a table, files, transcripts, labels or features that have changed since. This
    command writes nothing.

    Example: emi-ray status -w work
    """
    target = Workspace(workspace)
    # Read before the import below, which takes seconds: a wrong workspace is reported at once.
    config = target.config(overrides or [])
    from emi_ray.status import read_status

    found = read_status(target, config)
    table = compact_table()
    table.add_column("stage", no_wrap=True)
    table.add_column("what")
    for heading in ("current", "stale", "missing", "quarantined"):
        table.add_column(heading, justify="right")
    for line in found.lines:
        counts = (line.current, line.stale, line.missing, line.quarantined)
        table.add_row(line.stage, line.name, *(str(int(count)) if count else "–" for count in counts))
    console.print(table)
    for line in found.lines:
        for why in line.why:
            console.print(f"  {line.stage} {line.name}: {why}.")
    if not found.commands:
        console.print("Everything is up to date.")
    else:
        console.print("To bring it up to date:")
    for command in found.commands:
        console.print(f"  {command}")
    if any(line.quarantined > line.lacking for line in found.lines):
        retry = f"emi-ray extract -w {Workspace(workspace).quoted} --retry-failed"
        console.print(f"To try the clips that failed again: {retry}")
