"""What is written for people: no cell that a spreadsheet executes, nothing half-written, no option lost."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emi_ray.cli.features import _modalities
from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import as_intensities, write_submission
from emi_ray.exchange import export_features, export_transcripts
from emi_ray.schema import Label, clips_schema
from emi_ray.spreadsheets import safe_cell
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import Workspace


@pytest.mark.parametrize(
    "text", ["=1+1", "=cmd|' /C calc'!A0", "+1+1", "-2+3+cmd|'x'!A0", "@SUM(A1)", "\t=1", "＝1", "- I am"]
)
def test_a_cell_that_a_spreadsheet_executes_gets_an_apostrophe(text: str) -> None:
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["00012", "-3g5yACwYnA", "-0.5", "a=b", "x@y", "", "what - a day"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert safe_cell(text) == text


def predictions(*ids: str) -> pa.Table:
    return pa.table({"clip_id": list(ids), "=Joy": [0.5] * len(ids), "modalities": ["text"] * len(ids)})


def test_predictions_hold_no_formulas_and_keep_harmless_ids() -> None:
    table = as_intensities(predictions("=1+1", "-3g5yACwYnA"), [Label("=Joy")])
    assert table.column_names == ["clip_id", "'=Joy", "modalities"]
    assert table["clip_id"].to_pylist() == ["'=1+1", "-3g5yACwYnA"]


def test_a_submission_spells_ids_as_they_are_or_is_refused(tmp_path: Path) -> None:
    table = predictions("-a1", "00012").rename_columns(["clip_id", "Joy", "modalities"])
    write_submission(table, tmp_path / "s.csv", [Label("Joy")])
    assert (tmp_path / "s.csv").read_text().splitlines()[1:] == ["-a1,0.500000", "00012,0.500000"]
    formula = predictions("=1+1").rename_columns(["clip_id", "Joy", "modalities"])
    with pytest.raises(UserError, match=r"a spreadsheet would execute '=1\+1'"):
        write_submission(formula, tmp_path / "t.csv", [Label("Joy")])
    assert not (tmp_path / "t.csv").exists()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    target = Workspace(str(tmp_path / "work"))
    target.write_config(WorkspaceConfig())
    rows = [{"clip_id": "a", "split": "test", "transcript": "=1+1"}, {"clip_id": "../b", "split": "test"}]
    target.write_table("clips.parquet", pa.Table.from_pylist(rows, schema=clips_schema([])))
    store = FeatureStore(target, "audio", "0123456789abcdef")
    store.create({"extractor": "made", "modality": "audio", "settings": {}, "media": {}}, 2)
    store.write(
        [
            ClipFeatures(i, np.ones((3, 2), np.float16), np.arange(3, dtype=np.float32), {})
            for i in ("a", "../b")
        ]
    )
    return target


@pytest.mark.parametrize("layout", ["folder", "mimicmetrics"])
def test_an_export_that_must_refuse_an_id_writes_nothing(
    workspace: Workspace, tmp_path: Path, layout: str
) -> None:
    with pytest.raises(UserError, match=r"clip_id '\.\./b' cannot be the name of a file"):
        export_features(workspace, layout, str(tmp_path / "out"), "audio")
    assert not (tmp_path / "out").exists()


def test_exported_transcripts_hold_no_formulas(workspace: Workspace, tmp_path: Path) -> None:
    path, _ = export_transcripts(workspace, str(tmp_path / "out"))
    assert Path(path).read_text().splitlines()[1] == "a,'=1+1,corpus"


def test_modalities_named_twice_are_united() -> None:
    assert _modalities(["audio", "text,audio"]) == ["audio", "text"]
    assert _modalities(None) is None
    with pytest.raises(UserError, match="--modalities 'txt'"):
        _modalities(["audio", "txt"])
