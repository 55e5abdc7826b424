"""The command ``compare``: which system is better, and whether the difference is statistically significant."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emi_ray.api import results
from emi_ray.cli.app import WorkspaceOption, app
from emi_ray.cli.tables import decimal, table
from emi_ray.cli.terminal import console
from emi_ray.spreadsheets import safe_cell

if TYPE_CHECKING:
    from emi_ray.comparison import Comparison


@app.command()
def compare(
    workspace: WorkspaceOption,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Recipes with all their seeds (f2), or single runs (f2/42)."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", help="Label to compare; repeat the option for several labels (default: all)."
        ),
    ] = None,
    split: Annotated[Literal["val", "test"], typer.Option(help="Split to compare on.")] = "val",
    to: Annotated[Path | None, typer.Option(help="CSV file to write the differences to.")] = None,
) -> None:
    """Compare systems on the clips that all of them have predictions for.

    Each difference has a 95 % confidence interval from a paired bootstrap over people and seeds, and a p-value that
    is corrected for the number of comparisons. Without arguments, all recipes of the workspace are compared.

    Example: emi-ray compare -w work f1 f2 ours --label Joy
    """
    found = results.compare(workspace, runs or (), labels=label, split=split)
    _show(found)
    if to is not None:
        _write(found, to)
        console.print(f"Wrote {to}.")


def _show(found: "Comparison") -> None:
    scores = table(
        "Pearson r on the same clips, mean over seeds", "system", "seeds", *found.labels, "mean", "± sd"
    )
    for system, row, deviation in zip(found.systems, found.scores, found.deviations, strict=True):
        scores.add_row(system.name, str(len(system.seeds)), *map(decimal, row), decimal(deviation))
    console.print(scores)
    differences = table("Differences", "systems", "of", "difference", "95 % interval", "p, corrected")
    for pair in found.pairs:
        rows = [
            ("mean", pair.mean, pair.p_value),
            *zip(found.labels, pair.labels, pair.label_p_values, strict=True),
        ]
        for name, difference, p_value in rows:
            reach = f"{difference.low:+.3f} … {difference.high:+.3f}"
            differences.add_row(
                f"{pair.first} − {pair.second}", name, f"{difference.value:+.3f}", reach, decimal(p_value)
            )
    console.print(differences)
    for text in [*(pair.verdict for pair in found.pairs), *found.notes]:
        console.print(text)


def _write(found: "Comparison", path: Path) -> None:
    import pandas as pd

    rows = [
        {
            "first": safe_cell(pair.first),
            "second": safe_cell(pair.second),
            "label": safe_cell(name),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p_value": difference.p_value,
            "p_value_corrected": p_value,
            "num_clips": found.num_clips,
            "num_groups": found.num_groups,
        }
        for pair in found.pairs
        for name, difference, p_value in [
            ("mean", pair.mean, pair.p_value),
            *zip(found.labels, pair.labels, pair.label_p_values, strict=True),
        ]
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
