"""What only a GPU can show of extraction: the features of the CPU, failures of a real device, whole runs."""

import csv
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import make_clip

from emi_ray import read_features
from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.batches import Batches
from emi_ray.extraction.run import extract
from emi_ray.extractors import specify
from emi_ray.extractors.pretrained.image_transform import ImageTransform, resize_in_two_passes
from emi_ray.extractors.pretrained.whisper import Whisper, WhisperSettings
from emi_ray.extractors.turns import Turn, leave_turn
from emi_ray.workspace import EXTRACTIONS, Workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

MODELS = {
    "dinov2": ("vision", "dinov2-face"),
    "vit": ("vision", "vit-face"),
    "wav2vec2": ("audio", "wav2vec2"),
    "hubert": ("audio", "hubert"),
    "wavlm": ("audio", "wavlm"),
    "bert": ("text", "gte-base"),
}


def features(checkpoint: Path, modality: str, name: str, **settings: object) -> list[np.ndarray]:
    wanted = ExtractorSettings(name=name, settings={"weights": str(checkpoint), **settings})
    extractor = specify(modality, wanted, MediaSettings()).build()
    return [f.values.astype(np.float64) for f in extractor.extract([make_clip(i) for i in range(5)])]


@pytest.fixture
def full_precision(monkeypatch) -> None:
    """The same arithmetic as on a CPU, without TF32: random weights amplify each difference."""
    monkeypatch.setattr("emi_ray.extractors.pretrained.base.use_tf32", lambda device, dtype: None)
    monkeypatch.setattr("emi_ray.extractors.pretrained.whisper.use_tf32", lambda device, dtype: None)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

    def resized(self: ImageTransform, pixels: torch.Tensor) -> torch.Tensor:
        """As on a GPU: on a CPU, torch resizes bytes in fixed-point arithmetic."""
        size = self._target(pixels.shape[2], pixels.shape[3])
        whole = resize_in_two_passes(pixels, size, self.filter)
        top, left = ((have - keep) // 2 for have, keep in zip(size, self.crop or size, strict=True))
        height, width = self.crop or size
        return whole[:, :, top : top + height, left : left + width]

    monkeypatch.setattr(ImageTransform, "_resized_and_cropped", resized)


@pytest.mark.parametrize("model", MODELS)
def test_features_are_those_of_the_cpu(model, request, full_precision):
    checkpoint = request.getfixturevalue(model)
    expected = features(checkpoint, *MODELS[model], dtype="float32", device="cpu")
    found = features(checkpoint, *MODELS[model], dtype="float32", device="cuda")
    for there, here in zip(expected, found, strict=True):
        assert here.shape == there.shape
        assert np.abs(here - there).max() <= 0.002 * np.abs(there).max()


def test_a_resized_pixel_is_that_of_the_cpu_but_for_rounding():
    transform = ImageTransform(64, (56, 56), "bicubic", (1.0,) * 3, (0.0,) * 3)
    crops = torch.from_numpy(make_clip(1).faces.crops)
    here, there = (transform(part, torch.float32).cpu() for part in (crops.cuda(), crops))
    assert (here - there).abs().max() <= 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", MODELS)
def test_in_less_precision_features_are_nearly_those_of_the_cpu(model, dtype, request):
    checkpoint = request.getfixturevalue(model)
    expected = np.concatenate(features(checkpoint, *MODELS[model], dtype="float32", device="cpu"))
    found = np.concatenate(features(checkpoint, *MODELS[model], dtype=dtype, device="cuda"))
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("model", MODELS)
def test_features_on_the_gpu_do_not_depend_on_the_batch(model, request, full_precision):
    checkpoint = request.getfixturevalue(model)
    together = features(checkpoint, *MODELS[model], dtype="float32", device="cuda")
    alone = features(checkpoint, *MODELS[model], dtype="float32", device="cuda", batch_size=1)
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one - other).max() <= 0.002 * np.abs(other).max()


def test_whisper_hears_on_the_gpu_what_it_hears_on_the_cpu(whisper, full_precision):
    clips = [make_clip(seed, seconds=seconds) for seed, seconds in enumerate([2, 33, 4])]

    def heard(device: str) -> list[str]:
        settings = {"dtype": "float32", "language": "en", "vad": False, "device": device}
        recogniser = Whisper(WhisperSettings(weights=str(whisper), **settings))
        return [words.text for words in recogniser.transcribe(clips)]

    assert heard("cuda") == heard("cpu")


@pytest.fixture(scope="module")
def clips(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of twelve clips."""
    with (demo_corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))[:12]
    for row in rows:
        row["video"] = str(demo_corpus / row["video"])
    path = tmp_path_factory.mktemp("clips") / "clips.csv"
    with path.open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def record_of(workspace: Workspace) -> dict:
    return json.loads(workspace.read_text(sorted(workspace.files(EXTRACTIONS))[-1]))


def test_one_process_on_the_gpu_runs_every_model_in_bfloat16(
    ray_session, clips, tmp_path, dinov2, wav2vec2, bert
):
    settings = [
        *("extractors.vision.name=dinov2-frame", f"extractors.vision.settings.weights={dinov2}"),
        *("extractors.audio.name=wav2vec2", f"extractors.audio.settings.weights={wav2vec2}"),
        *("extractors.text.name=gte-base", f"extractors.text.settings.weights={bert}"),
    ]
    workspace = Workspace(str(tmp_path / "w"))
    init_workspace(workspace, "table", str(clips), settings)
    summary = extract(workspace, workspace.config(), ["vision", "audio", "text"])
    record = record_of(workspace)
    for modality in ("vision", "audio", "text"):
        assert summary.stages[modality].failed == 0
        [actor] = record["stages"][modality]["actors"]
        assert actor["gpus"] == ["0"]
        folders = workspace.folders(f"features/{modality}")
        identity = workspace.read_json(f"features/{modality}/{folders[0]}/_extractor.json")
        assert "bfloat16" in json.dumps(identity)


@pytest.mark.parametrize("harm", ["memory", "assertion"])
def test_what_goes_wrong_on_the_device_costs_no_clip(harm, ray_session, clips, tmp_path):
    name = "tests.extractors.hungry:Hungry"
    once = f"extractors.text.settings.once={tmp_path / 'once'}"
    own = "extractors.text.settings.mb_per_clip=400" if harm == "memory" else once
    workspace = Workspace(str(tmp_path / "w"))
    init_workspace(workspace, "table", str(clips), [f"extractors.text.name={name}", own])
    summary = extract(workspace, workspace.config(), ["text"])
    assert summary.stages["text"].ok == 12
    assert summary.stages["text"].failed == 0


def test_processes_that_share_the_gpu_share_its_memory(ray_session, clips, tmp_path):
    settings = [
        "extractors.text.name=tests.extractors.hungry:Modest",
        *("extraction.stages.text.num_gpus=0.5", "extraction.stages.text.batch_size=1"),
        "extraction.rows_per_block=1",
    ]
    workspace = Workspace(str(tmp_path / "w"))
    init_workspace(workspace, "table", str(clips), settings)
    extract(workspace, workspace.config(), ["text"])
    found = read_features(workspace.root, "text")
    assert {float(found[clip][0, 0]) for clip in found} == {0.5}
    stage = record_of(workspace)["stages"]["text"]
    assert stage["pool"]["max_actors"] == 2
    assert all(actor["gpus"] == ["0"] for actor in stage["actors"])


def test_batches_of_two_models_that_fit_only_one_at_a_time_cost_no_clip():
    class Large:
        """Holds more than half of the memory while its work is on the device."""

        feature_dim = 1

        def __call__(self, clips):
            memory = torch.ones(2**30, dtype=torch.uint8, device="cuda")
            leave_turn()
            time.sleep(0.05)
            return [float(memory[0]) for _ in clips]

        def use_less_memory(self) -> bool:
            return False

    def work(stage: str) -> list:
        turn, batches = Turn(), Batches(Large(), stage)
        attempts = []
        for _ in range(10):
            with turn:
                attempts += batches.run([make_clip(1), make_clip(2)])
        return attempts

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.02)  # 1.6 GB of 80
    try:
        with ThreadPoolExecutor(2) as threads:
            attempts = [one for many in threads.map(work, ("vision", "audio")) for one in many]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [each.failure for each in attempts] == [None] * 40
