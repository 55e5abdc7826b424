"""Every GPU works: on one node and on several, whatever their numbers; and in the workers' precision."""

from collections import Counter

import pytest

from emi_ray.errors import UserError
from emi_ray.extraction import extract
from emi_ray.extraction.precision import ask_nodes, settle_precision
from tests.cluster.faulty import precision_of_this_node
from tests.cluster.nodes import cluster
from tests.cluster.test_deaths import new_workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NAMES = {
    "vision": "tests.cluster.faulty:VisionModel",
    "audio": "tests.cluster.faulty:AudioModel",
    "text": "tests.cluster.faulty:FaultyModel",
}


@pytest.mark.parametrize("gpus", [[1], [2, 4]])
def test_every_gpu_has_each_model_and_works_as_much_as_the_others(gpus, tmp_path):
    words = {f"w{index:03d}": f"word {index}" for index in range(40 * sum(gpus))}
    settings = [
        *(f"extractors.{modality}.name={name}" for modality, name in NAMES.items()),
        *(f"extractors.{modality}.settings.seconds=0.2" for modality in NAMES),
        *(f"extraction.stages.{stage}.batch_size=2" for stage in ("decode", *NAMES)),
        *("extraction.rows_per_block=2", "extraction.measure=false"),
    ]
    workspace = new_workspace(tmp_path, words, settings)
    with cluster(gpus):
        extract(workspace, workspace.config(), list(NAMES))
        (record,) = [workspace.read_json(path) for path in workspace.files("extractions")]
    assert record["ended"] == "done"
    for modality in NAMES:
        clips: Counter[tuple[str, str]] = Counter()
        for actor in record["stages"][modality]["actors"]:
            assert len(actor["gpus"]) == 1
            clips[actor["node"], actor["gpus"][0]] += actor["clips"]
        assert {gpu for _, gpu in clips} == {str(gpu) for gpu in range(max(gpus))}
        busiest = [actor["clips"] for actor in record["stages"][modality]["actors"]]
        assert len(busiest) == sum(gpus)
        assert max(busiest) <= 1.3 * min(busiest), busiest


def test_workers_settle_the_precision_and_nodes_that_differ_are_named(tmp_path):
    settings = ["extractors.vision.name=dinov2-face", "extractors.vision.settings.weights=unused"]
    workspace = new_workspace(tmp_path, {}, settings)
    config = workspace.config()
    with cluster([1, 1], head_cpus=1):
        assert settle_precision(config, ["vision"], precision_of_this_node) == {"vision": "bfloat16"}
        on_cpu = workspace.config(["extraction.stages.vision.num_gpus=0"])
        assert settle_precision(on_cpu, ["vision"], precision_of_this_node) == {"vision": "float32"}
        assert len(ask_nodes(True, precision_of_this_node)) == 2
        answers = iter(["float32", "bfloat16"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "emi_ray.extraction.precision.ask_nodes",
                lambda uses_gpu, probe: [("10.0.0.1", next(answers)), ("10.0.0.2", next(answers))],
            )
            with pytest.raises(UserError, match=r"node 10\.0\.0\.1 in float32, node 10\.0\.0\.2 in bfloat16"):
                settle_precision(config, ["vision"])
