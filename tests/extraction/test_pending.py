import numpy as np
import pyarrow as pa
import pytest

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.pending import Work, plan_work, store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.schema import clips_schema
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.workspace import Workspace

SPECS = plan_pipeline(Workspace("unused"), WorkspaceConfig(), ["audio", "text"]).specs


@pytest.fixture
def workspace(tmp_path):
    return Workspace(str(tmp_path))


def clips(*ids: str) -> pa.Table:
    rows = [{"clip_id": clip_id, "split": "train", "video": f"{clip_id}.mp4"} for clip_id in ids]
    return pa.Table.from_pylist(rows, schema=clips_schema([]))


def todo(work: Work) -> dict[str, tuple[int | None, ...]]:
    return {row["clip_id"]: (row["todo_audio"], row["todo_text"]) for row in work.table.to_pylist()}


def finish(workspace: Workspace, modality: str, clip_id: str) -> None:
    row = ClipFeatures(clip_id, np.zeros((1, 2), np.float16), np.zeros(1, np.float32), {})
    store_of(workspace, SPECS[modality]).write([row])


def quarantine(workspace: Workspace, modality: str, clip_id: str) -> None:
    write_failures(workspace, [Failure(clip_id, modality, SPECS[modality].fingerprint, "media", "broken")])


def test_all_is_to_do_in_an_empty_store(workspace):
    assert todo(plan_work(workspace, clips("a", "b"), SPECS)) == {"a": (1, 1), "b": (1, 1)}


def test_only_what_is_missing_is_to_do(workspace):
    finish(workspace, "audio", "a")
    finish(workspace, "audio", "b")
    finish(workspace, "text", "b")
    assert todo(plan_work(workspace, clips("a", "b", "c"), SPECS)) == {"a": (None, 1), "c": (1, 1)}


def test_what_is_quarantined_is_left_alone_until_a_retry_is_asked_for(workspace):
    quarantine(workspace, "audio", "a")
    assert todo(plan_work(workspace, clips("a", "b"), SPECS)) == {"a": (None, 1), "b": (1, 1)}
    assert todo(plan_work(workspace, clips("a", "b"), SPECS, retry_failed=True)) == {"a": (2, None)}
