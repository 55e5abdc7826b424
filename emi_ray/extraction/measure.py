"""Measure the time that each stage takes per clip, by running a few clips through it before the run."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pyarrow as pa
import ray

from emi_ray.extraction.batches import attempt
from emi_ray.extraction.pipeline import Pipeline
from emi_ray.extraction.pools import Measurement, plan_pools
from emi_ray.extraction.stage import limit_threads, take_up
from emi_ray.media.clip import DecodedClip, unpack_clip
from emi_ray.media.isolation import DecodeProcess
from emi_ray.media.source import ClipSource
from emi_ray.runtime import machine
from emi_ray.schema import MEDIA_COLUMNS

Result = TypeVar("Result")

NUM_CLIPS = 8

MEASURE_LIMIT_S = 600.0
"""Time limit for loading all models and running the clips through them twice."""


def measure(pipeline: Pipeline, work: pa.Table) -> Measurement:
    """Run a few clips of ``work``, evenly spread over it, through each stage separately. Nothing is written.

    Raises:
        ray.exceptions.RayError: a clip killed the process, or the measurement exceeded its time limit.
    """
    chosen = np.unique(np.linspace(0, work.num_rows - 1, NUM_CLIPS).astype(int))
    rows = work.select(["clip_id", *MEDIA_COLUMNS]).take(chosen).to_pylist()
    sources = [ClipSource(**row) for row in rows]
    pools = plan_pools(machine(), pipeline.stages, pipeline.config.extraction)
    seconds: dict[str, float] = {}
    for uses_gpu in (False, True):
        threads = {name: pool.threads for name, pool in pools.items() if bool(pool.num_gpus) == uses_gpu}
        if threads:
            spent, media_s, num_clips = _in_a_task(pipeline, sources, threads, uses_gpu)
            seconds |= spent
    return Measurement(
        {stage: spent / num_clips for stage, spent in seconds.items()},
        {stage: spent / media_s for stage, spent in seconds.items()},
    )


def _in_a_task(
    pipeline: Pipeline, sources: list[ClipSource], threads: dict[str, int], uses_gpu: bool
) -> tuple[dict[str, float], float, int]:
    """Measure the stages named in ``threads`` one after another, so that they do not disturb each other."""
    task = ray.remote(
        max_retries=0, max_calls=1, num_cpus=0 if uses_gpu else 1, num_gpus=1 if uses_gpu else 0
    )(_measure)
    answer = task.remote(pipeline, sources, threads, uses_gpu)
    try:
        return ray.get(answer, timeout=MEASURE_LIMIT_S)
    except ray.exceptions.GetTimeoutError:
        # Without force, code that hangs outside Python would go on and keep its GPU.
        ray.cancel(answer, force=True)
        raise


def _measure(
    pipeline: Pipeline, sources: list[ClipSource], threads: dict[str, int], uses_gpu: bool
) -> tuple[dict[str, float], float, int]:
    """Return the seconds of each stage named in ``threads``, and the length in seconds and number of the clips.

    A stage that none of the clips has an input for is left out.
    """
    take_up(1, uses_gpu)
    clips, decoding_s = _decode(pipeline, sources)
    seconds = {"decode": decoding_s} if "decode" in threads else {}
    if pipeline.transcriber and "transcript" in threads:
        limit_threads(threads["transcript"])
        mute = [clip for clip in clips if clip.transcript is None and clip.waveform is not None]
        if mute:
            heard, seconds["transcript"] = _time(pipeline.transcriber.build().transcribe, mute)
            texts = {clip.clip_id: each.text or None for clip, each in zip(mute, heard, strict=True) if each}
            clips = [replace(clip, transcript=texts.get(clip.clip_id, clip.transcript)) for clip in clips]
    for modality, spec in pipeline.specs.items():
        if modality not in threads:
            continue
        limit_threads(threads[modality])
        ready = [clip for clip in clips if all(getattr(clip, need) is not None for need in spec.needs)]
        if ready:
            _, seconds[modality] = _time(spec.build().extract, ready)
    return seconds, max(sum(clip.media_duration_s for clip in clips), 1e-3), len(clips)


def _decode(pipeline: Pipeline, sources: list[ClipSource]) -> tuple[list[DecodedClip], float]:
    limits = pipeline.config.extraction
    with DecodeProcess(pipeline.config.media, limits.time_limit_s, limits.decode_memory_gb) as decoder:
        decoder.decode(sources[0], pipeline.needs)  # starts the child process, whose start is not measured
        started = time.perf_counter()
        rows = [decoder.decode(source, pipeline.needs) for source in sources]
        return [unpack_clip(row) for row in rows], time.perf_counter() - started


def _time(
    work: Callable[[Sequence[DecodedClip]], Sequence[Result]], clips: Sequence[DecodedClip]
) -> tuple[list[Result | None], float]:
    """Process the clips twice: once to warm up, and once to measure.

    Returns:
        The result of each clip, None if it failed, and the seconds of the second time.
    """
    attempt(work, clips, "measure")
    started = time.perf_counter()
    results = [each.result for each in attempt(work, clips, "measure")]
    return results, time.perf_counter() - started
