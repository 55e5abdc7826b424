import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest
from fabricated_workspace import write_full

from emi_ray.reporting.statistics_tables import statistics_tables
from emi_ray.reporting.text_tables import TextTable, csv_text, latex_document, latex_text, markdown
from emi_ray.workspace import Workspace

HOSTILE = TextTable(
    "50 % of a_b & c", ["system", "r ± sd"], [["x|y_{1} #2 \\end", "−0.1 … <b>"]], "a ~ note ^"
)


def test_what_latex_and_markdown_would_read_as_commands_is_escaped() -> None:
    assert latex_text("a_b & 5 % {x} \\y") == r"a\_b \& 5 \% \{x\} \textbackslash{}y"
    assert "| x\\|y_{1} #2 \\end | −0.1 … <b> |" in markdown([HOSTILE])
    rows = list(csv.reader(io.StringIO(csv_text([HOSTILE]))))
    assert rows[1] == ["50 % of a_b & c", "x|y_{1} #2 \\end", "−0.1 … <b>"]


def test_names_in_csv_are_no_formulas_and_numbers_stay_as_they_are() -> None:
    table = TextTable("=T()", ["label", "=H()"], [["@sum(A1)", "+0.1 to +0.2"]], "")
    rows = list(csv.reader(io.StringIO(csv_text([table]))))
    assert rows == [["table", "label", "'=H()"], ["'=T()", "'@sum(A1)", "+0.1 to +0.2"]]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(tmp_path: Path) -> None:
    wide = TextTable("Wide", [f"column {i}" for i in range(20)], [["0.123 ± 0.004"] * 20] * 3, "")
    latin = "".join(chr(code) for code in range(0x20, 0x180))
    names = TextTable(
        "Names", ["name", "[r]"], [["[a] row", "*"], ["*", "Радость 喜 🎉\t≥"], [latin, "—“”€"]], ""
    )
    (tmp_path / "tables.tex").write_text(latex_document([HOSTILE, wide, names], "A title & more"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_corpus_is_described_as_in_the_paper(tmp_path: Path) -> None:
    workspace = write_full(tmp_path)
    tables = {table.title: table for table in statistics_tables(workspace)}
    assert list(tables) == ["Splits", "Labels", "Correlation of the labels", "Lengths"]
    splits = {row[0]: dict(zip(tables["Splits"].headings, row, strict=True)) for row in tables["Splits"].rows}
    assert splits["train"]["clips"] == "180"
    assert splits["train"]["without text"] == "6.7 %"
    clips = workspace.clips().to_pandas()
    train = clips[clips["split"] == "train"]
    joy = next(row for row in tables["Labels"].rows if row[0] == "Joy")
    values = dict(zip(tables["Labels"].headings, joy, strict=True))
    assert values["at the lowest, train"] == f"{(train['Joy'] == 0).mean():.1%}".replace("%", " %")
    audio = next(row for row in tables["Lengths"].rows if row[0] == "audio: prosody, train")
    steps = workspace_steps(workspace)
    assert audio[1] == str(len(steps))
    assert audio[4] == f"{(steps > 120).mean():.1%}".replace("%", " %")


def workspace_steps(workspace: Workspace):  # type: ignore[no-untyped-def]
    clips = workspace.clips().to_pandas().set_index("clip_id")["split"]
    fingerprint = workspace.folders("features/audio")[0]
    paths = [p for p in workspace.files(f"features/audio/{fingerprint}") if p.endswith(".parquet")]
    parts = [workspace.read_table(path).to_pandas() for path in paths]
    return next(
        rows[rows["clip_id"].map(clips) == "train"]["num_steps"].to_numpy()
        for rows in [__import__("pandas").concat([p for p in parts if "num_steps" in p])]
    )
