"""Rate of one stage on one GPU in a single process without Ray, by number of threads, with the time of each step.

    python benchmarks/gpu_stage.py --modality audio --threads 5 8

The stage of the pipeline processes the same decoded batch again and again, in as many threads as the pipeline would
use, and writes features. Compared with `gpu.py`, nothing is decoded and no process hands batches over. The rate is
taken after a warm-up of three seconds, and compared with that of the bare model at its best batch size.
"""

import argparse
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extraction_inputs import save_models
from gpu import bare_rates, save_large_speech_model, watching_gpu
from host_path import decoded_batch, travel

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.extract_stage import Extract
from emi_ray.extraction.pipeline import limits_of, plan_pipeline
from emi_ray.extraction.pools import BATCHES_AT_ONCE, GPU_BATCH_SIZE, Pool
from emi_ray.extractors.pretrained import audio, vision
from emi_ray.extractors.pretrained.audio import HfAudio
from emi_ray.extractors.pretrained.vision import VisionBackbone
from emi_ray.extractors.turns import Turn
from emi_ray.settings import validate
from emi_ray.workspace import Workspace

WARM_UP_S, TIMED_S = 3.0, 5.0
STEPS = {
    "wait for the turn": (Turn, "take"),
    "launch, audio": (HfAudio, "_forward"),
    "launch, vision": (VisionBackbone, "_forward"),
    "audio to the device": (audio, "to_device"),
    "images to the device": (vision, "to_device"),
    "audio: wait for the results": (audio, "to_host"),
    "vision: wait for the results": (vision, "to_host"),
    "hash and write": (Extract, "_write"),
}
spent: dict[str, list[float]] = defaultdict(list)


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[name].append(time.perf_counter() - started)

    return call


def make_stage(modality: str, folder: Path) -> tuple[Extract, Path, int]:
    """Return the stage, the folder of its weights, and the clips of a batch."""
    if modality == "audio":
        save_large_speech_model(folder / "weights")
    else:
        save_models(folder)
    weights = folder / ("weights" if modality == "audio" else "dinov2")
    name = {"audio": "wav2vec2", "vision": "dinov2-face"}[modality]
    settings = [f"extractors.{modality}.name={name}", f"extractors.{modality}.settings.weights={weights}"]
    config = validate(WorkspaceConfig, {}, "benchmark", settings)
    workspace = Workspace(str(folder / "workspace"))
    workspace.write_config(config)
    pipeline = plan_pipeline(workspace, config, [modality])  # type: ignore[list-item]
    size = GPU_BATCH_SIZE.get(modality, 32)
    pool = Pool(batch_size=size, max_actors=1, num_cpus=0, num_gpus=1, threads=1)
    spec = pipeline.specs[modality]  # type: ignore[index]
    stage = Extract(pipeline.workspace, spec, ["clip_id"], pool, limits_of(config.extraction))
    return stage, weights, size


def measure(stage: Extract, batch: Any, num_threads: int) -> tuple[float, float]:
    """Return batches per second and the share of the time in which the GPU was busy."""
    is_over, done = threading.Event(), []

    def work() -> None:
        while not is_over.is_set():
            stage(batch)
            done.append(1)

    threads = [threading.Thread(target=work) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_UP_S)
    spent.clear()
    before, started = len(done), time.perf_counter()
    with watching_gpu() as seen:
        time.sleep(TIMED_S)
    rate = (len(done) - before) / (time.perf_counter() - started)
    is_over.set()
    for thread in threads:
        thread.join()
    return rate, float(np.mean([share for _, share in seen]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modality", choices=["audio", "vision"], default="audio")
    parser.add_argument("--threads", type=int, nargs="+", default=[5, BATCHES_AT_ONCE])
    options = parser.parse_args()
    for name, (owner, method) in STEPS.items():
        setattr(owner, method, timed(name, getattr(owner, method)))
    with tempfile.TemporaryDirectory() as folder:
        stage, weights, size = make_stage(options.modality, Path(folder))
        rates = bare_rates(options.modality, weights)
        best = max(rates.values())
        print("model alone, clips/s by batch size:", {key: round(rate, 1) for key, rate in rates.items()})
        batch = travel(decoded_batch(size, (options.modality,)))
        stage(batch)
        for num_threads in options.threads:
            batches_per_s, busy = measure(stage, batch, num_threads)
            rate = batches_per_s * size
            print(
                f"{num_threads} threads: {rate:.1f} clips/s, {rate / best:.3f} of the model, GPU busy {busy:.2f}"
            )
            for name, seconds in spent.items():
                print(f"    {name:30s}{1e3 * sum(seconds) / (batches_per_s * TIMED_S):8.1f} ms a batch")
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
