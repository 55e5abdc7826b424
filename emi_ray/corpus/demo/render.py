"""Render the demo corpus to disk: clips.csv, media/ and a description of what was planted."""

import csv
import io
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import cv2

from emi_ray.corpus.demo.clip import render_clip
from emi_ray.corpus.demo.plan import FIDELITY, ClipPlan, draw_clips
from emi_ray.errors import UserError
from emi_ray.schema import EMOTIONS

TABLE, PLANTED, MEDIA = "clips.csv", "planted.json", "media"
RECIPE_VERSION = 1
"""Increased whenever the same seed gives other clips."""


def render_demo(
    folder: Path,
    num_clips: int = 480,
    seed: int = 0,
    workers: int | None = None,
    on_clip: Callable[[int], None] | None = None,
) -> Path:
    """Render the demo corpus. Existing clips are kept.

    Args:
        folder: created if missing; gets ``clips.csv``, ``media/`` and ``planted.json``, which documents the
            cues planted in each clip and which nothing in this package reads.
        workers: number of processes; by default the number of CPUs. They are spawned, so a script that calls this
            with more than one needs ``if __name__ == "__main__":``. With 1, this process does the work.
        on_clip: called after each clip with the number of clips that are done.

    Returns:
        The path of ``clips.csv``: ``clip_id, split, video`` (relative to the folder)``, transcript`` and the six
        labels, which are empty for test clips. It is written last, so that it never names a clip that does not
        exist.

    Raises:
        UserError: the folder has another demo corpus, or a number is invalid.
    """
    if num_clips < 1:
        raise UserError(f"num_clips = {num_clips}: a demo corpus has at least one clip.")
    plans = draw_clips(num_clips, seed)
    (folder / MEDIA).mkdir(parents=True, exist_ok=True)
    _claim(folder, plans, seed)
    missing = [plan for plan in plans if not _video(folder, plan).exists()]
    done = num_clips - len(missing)
    for count in _render(folder, missing, workers or _num_cpus()):
        done += count
        if on_clip:
            on_clip(done)
    _write(folder / TABLE, _table(plans))
    return folder / TABLE


def _claim(folder: Path, plans: Sequence[ClipPlan], seed: int) -> None:
    """Write ``planted.json``, or check that the existing one is the same."""
    planted = json.dumps(
        {
            "about": "What was planted in each clip. For people only: no extractor or model may read this.",
            "version": RECIPE_VERSION,
            "seed": seed,
            "fidelity": FIDELITY,
            "emotions": EMOTIONS,
            "clips": [asdict(plan) for plan in plans],
        },
        indent=1,
    )
    path = folder / PLANTED
    if path.exists() and path.read_text() != planted:
        raise UserError(
            f"{folder} has a demo corpus of another seed, size or version: give another folder, "
            f"or delete this one first."
        )
    _write(path, planted)


def _render(folder: Path, plans: Sequence[ClipPlan], workers: int) -> Iterator[int]:
    """Render ``plans``; yields the number of further clips that are done."""
    if workers == 1 or len(plans) <= 1:
        for plan in plans:
            render_clip(plan, _video(folder, plan))
            yield 1
        return
    longest_first = sorted(plans, key=lambda plan: -plan.duration_s)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(plans)), context, _prepare_worker, (os.getpid(),)) as pool:
        tasks = [pool.submit(render_clip, plan, _video(folder, plan)) for plan in longest_first]
        for task in as_completed(tasks):
            task.result()
            yield 1


def _prepare_worker(parent: int) -> None:
    """Use one thread per process, and end the process when its parent is killed, which the pool would not notice."""
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _video(folder: Path, plan: ClipPlan) -> Path:
    return folder / MEDIA / f"{plan.clip_id}.mp4"


def _table(plans: Sequence[ClipPlan]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip_id", "split", "video", "transcript", *EMOTIONS])
    for plan in plans:
        labels = [""] * len(EMOTIONS) if plan.split == "test" else [f"{label:.6f}" for label in plan.labels]
        video = f"{MEDIA}/{plan.clip_id}.mp4"
        writer.writerow([plan.clip_id, plan.split, video, plan.transcript or "", *labels])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    """Write a file that appears only when it is complete."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)
