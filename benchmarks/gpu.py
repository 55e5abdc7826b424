"""Compare extraction on one GPU with the bare model at its best rate, and measure how busy the GPU is.

    python benchmarks/gpu.py --rows vision audio text decoding --to result.json

Models have the size of the real ones and random weights, in the precision that ``dtype: auto`` chooses. The bare
model runs on inputs that already lie on the device, with the batch size that is fastest for it. The pipeline reads
files: ready face crops (``vision``, DINOv2-base, 42 crops of 224 x 224 pixels a clip), sound of 7 s (``audio``,
wav2vec2-large), transcripts of 20 words (``text``, BERT-base). Its rate is taken between a fifth and nineteen
twentieths of the clips, so that neither start nor end counts. ``decoding`` is DINOv2-base on rendered clips whose
faces have to be found: what the cores of this machine can feed.
"""

import argparse
import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import scipy.io.wavfile
import torch
import transformers
from extraction_inputs import save_models

from emi_ray.config import WorkspaceConfig
from emi_ray.corpus.demo import render_demo
from emi_ray.extraction.run import extract
from emi_ray.pretrained_weights.loading import best_dtype, use_tf32
from emi_ray.runtime import ray_session
from emi_ray.schema import EMOTION_LABELS, Modality, clips_schema
from emi_ray.settings import validate
from emi_ray.workspace import CLIPS, EXTRACTIONS, Workspace

CROPS, CROP_SIDE = 42, 224
SOUND_S, RATE_HZ = 7, 16_000
WORDS = 20
DISTINCT = 64
"""Files of each kind; the clips of a run share them in turn."""

NUM_CLIPS = {"vision": 2_400, "audio": 10_000, "text": 60_000, "decoding": 600}
MODALITY: dict[str, Modality] = {
    "vision": "vision",
    "audio": "audio",
    "text": "text",
    "decoding": "vision",
}
BATCHES = {"vision": (64, 128, 256, 512), "audio": (8, 16, 32, 64), "text": (64, 256, 1024)}
TIMED_S = 2.0


def save_crops(folder: Path) -> list[str]:
    """Save folders of JPEG files of random blotches, about as large as those of faces."""
    random, folders = np.random.default_rng(0), []
    for clip in range(DISTINCT):
        folders.append(str(folder / f"{clip:03d}"))
        Path(folders[-1]).mkdir(parents=True)
        for index in range(CROPS):
            coarse = random.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            cv2.imwrite(f"{folders[-1]}/{index:05d}.jpg", cv2.resize(coarse, (CROP_SIDE, CROP_SIDE)))
    return folders


def save_sounds(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    paths = [str(folder / f"{clip:03d}.wav") for clip in range(DISTINCT)]
    for path in paths:
        noise = random.normal(0, 3000, SOUND_S * RATE_HZ).clip(-32768, 32767)
        scipy.io.wavfile.write(path, RATE_HZ, noise.astype(np.int16))
    return paths


def save_large_speech_model(folder: Path) -> None:
    """Save wav2vec2-large with random weights in its published size: 24 layers of 1024, 315M parameters."""
    config = transformers.Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)


def new_workspace(folder: Path, num_clips: int, settings: Sequence[str], **media: Sequence[str]) -> Workspace:
    """Make a workspace of ``num_clips`` clips that use the given files in turn, by column of the manifest."""
    ids = [f"{index:06d}" for index in range(num_clips)]
    columns = {name: [values[i % len(values)] for i in range(num_clips)] for name, values in media.items()}
    rows = [
        {"clip_id": clip_id, "split": "test", **{name: values[i] for name, values in columns.items()}}
        for i, clip_id in enumerate(ids)
    ]
    workspace = Workspace(str(folder))
    workspace.write_table(CLIPS, pa.Table.from_pylist(rows, schema=clips_schema(EMOTION_LABELS)))
    workspace.write_config(validate(WorkspaceConfig, {}, "benchmark", settings))
    return workspace


def inputs_of(row: str, size: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return one batch for the bare model, on the device."""
    if row == "vision":
        return {"pixel_values": torch.randn(size, 3, CROP_SIDE, CROP_SIDE, device="cuda", dtype=dtype)}
    if row == "audio":
        return {"input_values": torch.randn(size, SOUND_S * RATE_HZ, device="cuda", dtype=dtype)}
    tokens = torch.randint(5, 20, (size, WORDS + 2), device="cuda")
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def bare_rates(row: str, weights: Path) -> dict[int, float]:
    """Return clips per second of the bare model by batch size."""
    dtype = best_dtype()
    use_tf32(torch.device("cuda"), dtype)
    model = transformers.AutoModel.from_pretrained(weights, dtype=getattr(torch, dtype)).cuda().eval()
    per_clip = CROPS if row == "vision" else 1
    rates = {}
    with torch.inference_mode():
        for size in BATCHES[row]:
            batch = inputs_of(row, size, model.dtype)
            for _ in range(3):
                model(**batch)
            torch.cuda.synchronize()
            started, done = time.perf_counter(), 0
            while time.perf_counter() - started < TIMED_S:
                for _ in range(4):
                    model(**batch)
                torch.cuda.synchronize()
                done += 4 * size
            rates[size] = done / (time.perf_counter() - started) / per_clip
    del model
    torch.cuda.empty_cache()
    return rates


@contextlib.contextmanager
def watching_gpu() -> Iterator[list[tuple[float, float]]]:
    """Record (time, share of the last moments in which a kernel ran) ten times per second."""
    import pynvml

    pynvml.nvmlInit()
    handle, ended = pynvml.nvmlDeviceGetHandleByIndex(0), threading.Event()
    seen: list[tuple[float, float]] = []

    def watch() -> None:
        while not ended.wait(0.1):
            seen.append((time.perf_counter(), pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    ended.set()
    thread.join()


def run(workspace: Workspace, modality: Modality) -> dict[str, Any]:
    """Run one extraction; return clips per second in its steady part, and how busy the GPU and its process were."""
    events: list[tuple[float, int]] = []
    started = time.perf_counter()
    with watching_gpu() as seen:
        summary = extract(
            workspace,
            workspace.config(),
            [modality],
            on_progress=lambda done, _: events.append((time.perf_counter(), done)),
        )
    total = events[-1][1]
    (first, done_first), *_, (last, done_last) = [e for e in events if 0.2 * total <= e[1] <= 0.95 * total]
    steady = [share for moment, share in seen if first <= moment <= last]
    [path] = sorted(workspace.files(EXTRACTIONS))[-1:]
    record = json.loads(workspace.read_text(path))
    return {
        "clips": total,
        "clips_per_s": (done_last - done_first) / (last - first),
        "gpu_busy": float(np.mean(steady)) if steady else None,
        "seconds": time.perf_counter() - started,
        "until_first_s": events[0][0] - started,
        "failed": summary.stages[modality].failed,
        "stages": record["stages"],
    }


def measure(row: str, folder: Path, weights: dict[str, Path], more: Sequence[str]) -> dict[str, Any]:
    settings = ["extraction.measure=false", *more]
    modality = MODALITY[row]
    names = {"vision": "dinov2-face", "audio": "wav2vec2", "text": "gte-base"}
    settings.append(f"extractors.{modality}.name={names[modality]}")
    settings.append(f"extractors.{modality}.settings.weights={weights[modality]}")
    media: dict[str, Callable[[], Sequence[str]]] = {
        "vision": lambda: save_crops(folder / "crops"),
        "audio": lambda: save_sounds(folder / "sounds"),
        "text": lambda: [" ".join(["happy", "home"] * (WORDS // 2))] * 2,
        "decoding": lambda: rendered(folder / "films"),
    }
    column = {"vision": "faces_dir", "audio": "audio", "text": "transcript", "decoding": "video"}[row]
    workspace = new_workspace(folder / row, NUM_CLIPS[row], settings, **{column: media[row]()})
    found: dict[str, Any] = {"pipeline": run(workspace, modality)}
    # Told at once, because measuring the bare model takes a while and may be interrupted.
    told = ("clips_per_s", "gpu_busy", "failed", "seconds", "until_first_s")
    print(f"{row}:", {name: found["pipeline"][name] for name in told}, flush=True)
    if row in BATCHES:
        found["bare"] = bare_rates(row, weights[modality])
        found["ratio"] = found["pipeline"]["clips_per_s"] / max(found["bare"].values())
    return found


def rendered(folder: Path) -> list[str]:
    folder.mkdir()
    render_demo(folder, num_clips=DISTINCT, workers=8)
    return [str(path) for path in sorted((folder / "media").iterdir())]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="*", choices=NUM_CLIPS, default=list(NUM_CLIPS))
    parser.add_argument("--to", type=Path, help="a JSON file with all that was seen")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the workspace")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder / "models")
        save_large_speech_model(folder / "models" / "wav2vec2-large")
        models = {"vision": "dinov2", "audio": "wav2vec2-large", "text": "bert"}
        weights = {modality: folder / "models" / model for modality, model in models.items()}
        seen = {}
        with ray_session():
            for row in options.rows:
                seen[row] = measure(row, folder, weights, options.set)
                print(
                    f"{row}: ratio {seen[row].get('ratio')}, bare model {seen[row].get('bare')}", flush=True
                )
                if options.to:
                    options.to.write_text(json.dumps(seen, indent=1))


if __name__ == "__main__":
    main()
