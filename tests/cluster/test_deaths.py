"""A clip that ends the process of its extractor fails alone, in that modality, with the cause as its reason."""

import csv
from pathlib import Path

import pytest

from emi_ray.corpus.setup import init_workspace
from emi_ray.errors import UserError
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract
from emi_ray.store.failures import read_failures
from emi_ray.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(300)]

LIMITS = ["extraction.batch_limit_s=12", "extraction.memory_limit_gb=0.5"]


def new_workspace(folder: Path, words: dict[str, str], settings: list[str]) -> Workspace:
    """A corpus of transcripts alone, 24 clips with a word each beside those of ``words``."""
    folder.mkdir(exist_ok=True)
    rows = {f"c{index:02d}": f"word {index}" for index in range(24)} | words
    with (folder / "clips.csv").open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "split", "transcript"])
        writer.writerows([clip_id, "train", text] for clip_id, text in sorted(rows.items()))
    workspace = Workspace(str(folder / "workspace"))
    faulty = "extractors.text.name=tests.cluster.faulty:Faulty"
    init_workspace(workspace, "table", str(folder / "clips.csv"), [faulty, *settings])
    return workspace


def held(workspace: Workspace, modality: str = "text") -> set[str]:
    spec = plan_pipeline(workspace, workspace.config(), [modality]).specs[modality]
    return store_of(workspace, spec).clip_ids()


def failed(workspace: Workspace) -> dict[str, tuple[str, str]]:
    rows = read_failures(workspace).to_pylist()
    return {row["clip_id"]: (row["stage"], row["error"]) for row in rows}


def test_clips_that_crash_hang_or_eat_memory_are_alone_in_quarantine_in_that_modality(tmp_path):
    bad = {"c05-crash": "segfault", "c11-hang": "sleep", "c17-hog": "memory", "c18-bad": "bad"}
    audio = "extractors.audio.name=tests.cluster.faulty:Harmless"
    workspace = new_workspace(tmp_path, bad, [*LIMITS, audio])
    summary = extract(workspace, workspace.config(), ["audio", "text"])
    lost = failed(workspace)
    assert lost.keys() == bad.keys()
    assert {stage for stage, _ in lost.values()} == {"text"}
    assert "SIGSEGV" in lost["c05-crash"][1]
    assert "longer than 12 s" in lost["c11-hang"][1]
    assert "more than 0.5 GiB" in lost["c17-hog"][1]
    assert len(held(workspace)) == 24
    assert len(held(workspace, "audio")) == 28
    assert summary.seconds < 90


def test_errors_of_a_device_cost_no_clip(tmp_path):
    words = {"c04-crowd": "crowd 3", "c05-poison": "poison once"}
    settings = [*LIMITS, f"extractors.text.settings.once={tmp_path / 'poisoned'}"]
    workspace = new_workspace(tmp_path, words, settings)
    extract(workspace, workspace.config(), ["text"])
    assert (tmp_path / "poisoned").exists()
    assert failed(workspace) == {}
    assert len(held(workspace)) == 26


def test_two_extractions_into_one_workspace_are_kept_apart(tmp_path):
    workspace = new_workspace(tmp_path, {}, [])
    with (
        workspace.driving("extractions", "Extraction"),
        pytest.raises(UserError, match=r"in progress in process \d+"),
    ):
        extract(workspace, workspace.config(), ["text"])
