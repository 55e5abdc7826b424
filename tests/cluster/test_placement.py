"""Every GPU works: on one node and on several, whatever their numbers; and in the workers' precision."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray

from emi_ray.errors import UserError
from emi_ray.extraction.precision import ask_nodes, note_other_precisions, settle_precision
from emi_ray.extraction.run import extract
from emi_ray.runtime import require_shared
from emi_ray.runtime.node_watch import living_nodes
from emi_ray.store.part_listing import is_raw
from tests.cluster.faulty import precision_of_this_node
from tests.cluster.nodes import Holder, add_node, cluster, gpu_held, have_nodes
from tests.cluster.test_deaths import held, new_workspace
from tests.cluster.test_node_deaths import written_ids

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = {
    "vision": "tests.cluster.faulty:VisionModel",
    "audio": "tests.cluster.faulty:AudioModel",
    "text": "tests.cluster.faulty:FaultyModel",
}
EACH = 8
"""Blocks for each GPU, of two clips each."""


def record_of_a_run(folder: Path, num_gpus: int, seconds: float) -> dict[str, Any]:
    """Extract with three models that take ``seconds`` for a clip, and read the run's record."""
    words = {f"w{index:03d}": f"word {index}" for index in range(2 * EACH * num_gpus - 24)}
    settings = [
        *(f"extractors.{modality}.name={name}" for modality, name in NAMES.items()),
        *(f"extractors.{modality}.settings.seconds={seconds}" for modality in NAMES),
        *(f"extraction.stages.{stage}.batch_size=2" for stage in ("decode", *NAMES)),
        *("extraction.stages.decode.max_actors=2", "extraction.rows_per_block=2"),
        "extraction.measure=false",
    ]
    workspace = new_workspace(folder, words, settings)
    extract(workspace, workspace.config(), list(NAMES))
    assert written_ids(workspace) == sorted([*held(workspace)] * len(NAMES))
    assert not [path for path in workspace.files("features", recursive=True) if is_raw(path)]
    (record,) = [workspace.read_json(path) for path in workspace.files("extractions")]
    return record


def require_that_all_gpus_worked_alike(record: dict[str, Any], gpus: list[int]) -> None:
    """Each model has one actor on each GPU, and the busiest GPU has at most 1.3 times the clips of the idlest."""
    assert record["ended"] == "done"
    for modality in NAMES:
        actors = record["stages"][modality]["actors"]
        ids = Counter(gpu for actor in actors for gpu in actor["gpus"])
        assert ids == Counter(str(gpu) for count in gpus for gpu in range(count))
        assert len(actors) == sum(gpus)
        clips = [actor["clips"] for actor in actors]
        assert max(clips) <= 1.3 * min(clips), (modality, gpus, clips)


def test_every_gpu_has_each_model_and_works_as_much_as_the_others(tmp_path):
    """Nodes of 1, 2, 4 and 6 GPUs, and of 2 and 4. Models that are faster than decoding leave GPUs waiting for work,
    slower ones never; both must spread evenly."""
    with cluster([]) as nodes:
        for gpus, seconds in (([1], 0.0), ([2], 0.0), ([2, 4], 0.0), ([4], 0.1), ([6], 0.0)):
            have_nodes(nodes, gpus)
            folder = tmp_path / "-".join(map(str, gpus))
            require_that_all_gpus_worked_alike(record_of_a_run(folder, sum(gpus), seconds), gpus)


def test_workers_settle_the_precision_and_nodes_that_differ_are_named(tmp_path):
    settings = ["extractors.vision.name=dinov2-face", "extractors.vision.settings.weights=unused"]
    workspace = new_workspace(tmp_path, {}, settings)
    config = workspace.config()
    with cluster([1, 1], head_cpus=1) as nodes:
        assert settle_precision(config, ["vision"], precision_of_this_node) == {"vision": "bfloat16"}
        on_cpu = workspace.config(["extraction.stages.vision.num_gpus=0"])
        assert settle_precision(on_cpu, ["vision"], precision_of_this_node) == {"vision": "float32"}
        assert len(ask_nodes(True, precision_of_this_node)) == 2
        with gpu_held(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("emi_ray.extraction.precision.ASK_OTHERS_FOR_S", 5.0)
            notes: list[str] = []
            settled = settle_precision(config, ["vision"], precision_of_this_node, notes.append)
            assert settled == {"vision": "bfloat16"}
            assert len(notes) == 1
            assert "has no free GPU" in notes[0]
        notes = []
        before = set(living_nodes())
        add_node(nodes, gpus=1)
        new = living_nodes().keys() - before
        require_shared(workspace, [], new)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "emi_ray.runtime.nodes.CONFIG", "clips.parquet"
            )  # as a mount with another workspace
            with pytest.raises(UserError, match="emi_ray.yaml does not exist on node"):
                require_shared(workspace, [], new)
            require_shared(workspace, [], set())
        note_other_precisions(config, {"vision": "bfloat16"}, new, notes.append, lambda: "float32")
        assert len(notes) == 1
        assert "(float32) joined" in notes[0]
        assert "computes vision in bfloat16 like the others" in notes[0]
        answers = iter(["float32", "bfloat16"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "emi_ray.extraction.precision.ask_nodes",
                lambda *asked: [("10.0.0.1", next(answers)), ("10.0.0.2", next(answers))],
            )
            with pytest.raises(UserError, match=r"node 10\.0\.0\.1 in float32, node 10\.0\.0\.2 in bfloat16"):
                settle_precision(config, ["vision"])


def actors_by_node() -> Counter[str]:
    """Count all actors of pools so far, dead ones too, by node."""
    actors = ray._private.state.actors().values()
    return Counter(actor["Address"]["NodeID"] for actor in actors if "MapWorker" in actor["ActorClassName"])


def test_nodes_have_decoders_by_their_cores_and_keep_one_for_each_gpu(tmp_path):
    """Also if another job has reserved the CPUs of a node: then its decoders run on the others."""
    settings = [f"extractors.text.name={NAMES['text']}", "extraction.measure=false"]
    with cluster([]) as nodes:
        add_node(nodes, gpus=2, cpus=4, cores=4)
        large = add_node(nodes, gpus=0, cpus=6, cores=6)
        workspace = new_workspace(tmp_path / "free", {}, settings)
        extract(workspace, workspace.config(), ["text"])
        assert actors_by_node()[large.node_id] == 6
        assert actors_by_node().total() == 6 + 2 + 2

        holder = ray.remote(num_cpus=6)(Holder).remote()
        ray.get(holder.ready.remote())
        workspace = new_workspace(tmp_path / "reserved", {}, settings)
        extract(workspace, workspace.config(), ["text"])
        assert len(written_ids(workspace)) == len(held(workspace))
        assert actors_by_node()[large.node_id] == 6
