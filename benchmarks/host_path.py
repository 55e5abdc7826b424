"""Work of the host in a model's actor, apart from the model: milliseconds of processor time per clip.

    python benchmarks/host_path.py

The stages of vision and sound run over decoded clips as Ray Data hands them over: 42 face crops a clip, or 7 s of
sound. The model is replaced by one that returns numbers of the right shape at once. Operations of torch are left out,
as they run on the model's device; all else is counted, in all threads of the process: unpacking, batching, the copy
to pinned memory, checking and writing features, and handing the batch on. Passes are as large as on a GPU. Writing
happens in another thread than the model's; its share is told. What merging costs is told too: tasks on any node
do it, outside of the actor.
"""

import argparse
import ctypes
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.extract_stage import Extract
from emi_ray.extraction.pending import origin_column, todo_column
from emi_ray.extraction.pipeline import Pipeline, limits_of, plan_pipeline
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.stage import ALWAYS, OUTCOME
from emi_ray.extractors.pretrained import audio as pretrained_audio
from emi_ray.extractors.pretrained import vision as pretrained_vision
from emi_ray.extractors.pretrained.device import pack, unpack
from emi_ray.media.clip import DecodedClip, Faces, Waveform, pack_clip, table_of
from emi_ray.schema import Modality
from emi_ray.settings import validate
from emi_ray.store.part_merging import mergeable
from emi_ray.workspace import Workspace

NUM_CROPS, CROP_PX = 42, 224
SOUND_S, RATE_HZ = 7.0, 16_000
DIM = {"vision": 768, "audio": 1024}
TINY = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}

STEPS = {"vision": 128, "audio": 16_000}
"""Of one pass on a GPU."""

POOL = Pool(batch_size=32, max_actors=1, num_cpus=1, num_gpus=1, threads=1)
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Of ``mallopt(3)``."""

PINNED = torch.zeros(64 << 20, dtype=torch.uint8)
"""Stands for pinned memory, which torch keeps and uses again."""


class OnDevice(TorchDispatchMode):
    """Adds up the processor time of torch's operations, which run on the model's device in production."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        started = time.thread_time()
        try:
            return function(*arguments, **(named or {}))
        finally:
            self.seconds += time.thread_time() - started


def keep_memory() -> None:
    """Have freed memory stay with the process, as torch keeps that of a GPU. Else each tensor that stands for one on
    the device costs the host its pages."""
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)


def copied(arrays: Sequence[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """What ``to_device`` does for a GPU, less the GPU: all arrays are copied into memory that is used again."""
    return unpack(pack(arrays, PINNED), arrays)


def save_models(folder: Path) -> list[str]:
    """Save small checkpoints whose outputs have the size of large ones; return the extractors' settings."""
    vision = transformers.Dinov2Config(hidden_size=DIM["vision"], image_size=28, **TINY)
    transformers.Dinov2Model(vision).save_pretrained(folder / "vision")
    transformers.BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    ).save_pretrained(folder / "vision")
    sound = transformers.Wav2Vec2Config(hidden_size=DIM["audio"], **TINY, num_conv_pos_embeddings=2)
    transformers.Wav2Vec2Model(sound).save_pretrained(folder / "audio")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder / "audio")
    return [
        f"extractors.{modality}.{key}={value}"
        for modality, name in (("vision", "dinov2-face"), ("audio", "wav2vec2"))
        for key, value in (
            ("name", name),
            ("settings.weights", folder / modality),
            ("settings.batch_size", STEPS[modality]),
        )
    ]


def decoded_batch(num_clips: int, modalities: tuple[Modality, ...]) -> pa.Table:
    """Return decoded clips, read from a buffer as a block from Ray's object store is."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(num_clips):
        crops = generator.integers(0, 256, (NUM_CROPS, CROP_PX, CROP_PX, 3), dtype=np.uint8)
        times = np.arange(NUM_CROPS, dtype=np.float32) / 6
        boxes, detected = np.zeros((NUM_CROPS, 4), np.float32), np.ones(NUM_CROPS, bool)
        faces = Faces(crops, boxes, times, detected, np.arange(NUM_CROPS) == 0)
        sound = generator.normal(scale=0.1, size=round(SOUND_S * RATE_HZ)).astype(np.float32)
        rows.append(pack_clip(DecodedClip(f"clip{index}", faces=faces, waveform=Waveform(sound, RATE_HZ))))
    table = table_of(rows)
    for modality in modalities:
        table = table.append_column(todo_column(modality), pa.array([1] * num_clips, pa.int32()))
        table = table.append_column(origin_column(modality), pa.array([""] * num_clips))
    return table.append_column("outcomes", pa.array([[]] * num_clips, pa.list_(OUTCOME)))


def travel(table: pa.Table) -> pa.Table:
    """Write the table to memory and read it again, as between two actors."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def without_model(stage: Extract, dim: int) -> None:
    """Build the stage's extractor and replace its model by one that computes nothing."""
    extractor: Any = stage._runner._here()._tool._extractor
    real = extractor._model
    steps = torch.randn(100_000, dim)

    class Model:
        def __call__(self, **inputs: Any) -> Any:
            if "pixel_values" in inputs:
                return SimpleNamespace(last_hidden_state=steps[: len(inputs["pixel_values"]), None])
            rows, samples = inputs["input_values"].shape
            count = extractor._geometry.num_steps(samples)
            return SimpleNamespace(last_hidden_state=steps[: rows * count].view(rows, count, dim))

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    extractor._model = Model()


def milliseconds(
    pipeline: Pipeline, modality: Modality, num_clips: int, rounds: int
) -> tuple[float, float, float]:
    """Processor time a clip of one stage, from the batch that arrives to the one that leaves, of the best round; how
    much of it is spent on writing features; and what merging these takes elsewhere."""
    stages = list(pipeline.stages)
    stage = Extract(
        pipeline.workspace,
        pipeline.specs[modality],
        pipeline._needed_after(modality),
        POOL,
        limits_of(pipeline.config.extraction),
    )
    without_model(stage, DIM[modality])
    before = pipeline._needed_after(stages[stages.index(modality) - 1])
    batch = decoded_batch(num_clips, tuple(pipeline.specs))
    batch = batch.select([name for name in batch.column_names if name in (*before, *ALWAYS, "outcomes")])
    batch, spent, on_device = travel(batch), [], OnDevice()
    write, writing = stage._write, [0.0]

    def timed_write(*arguments: Any) -> None:
        started = time.thread_time()
        write(*arguments)
        writing[0] = time.thread_time() - started

    stage._write = timed_write  # type: ignore[method-assign]
    for _ in range(rounds):
        on_device.seconds, started = 0.0, time.process_time()
        with on_device:
            outcomes = travel(stage(batch))["outcomes"].to_pylist()
        assert all(entry["status"] == "ok" for row in outcomes for entry in row), outcomes[0]
        spent.append((time.process_time() - started - on_device.seconds, writing[0]))
    total, written = min(spent)
    started, folder = time.process_time(), stage._store.held
    for group in mergeable(folder):
        folder.merge(group)
    merging = time.process_time() - started
    return total / num_clips * 1e3, written / num_clips * 1e3, merging / num_clips * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=32, help="clips of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="of which the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    pretrained_vision.to_device = pretrained_audio.to_device = copied
    table = Table(
        *("stage", "input of a clip", "ms of processor time a clip", "of it writing"),
        "merging, outside of the actor",
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = save_models(Path(folder))
        settings += ["extractors.text=null"]
        config = validate(WorkspaceConfig, {}, "benchmark", settings)
        workspace = Workspace(str(Path(folder) / "workspace"))
        workspace.write_config(config)
        pipeline = plan_pipeline(workspace, config, ["vision", "motion", "audio"])
        inputs = {"vision": f"{NUM_CROPS} face crops", "audio": f"{SOUND_S:g} s of sound"}
        for modality, what in inputs.items():
            spent = milliseconds(pipeline, modality, options.num, options.rounds)  # type: ignore[arg-type]
            table.add_row(modality, what, *(f"{part:.2f}" for part in spent))
    Console().print(table)


if __name__ == "__main__":
    main()
