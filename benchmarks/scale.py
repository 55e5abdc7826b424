"""Planning and resuming a million clips: seconds, memory and files, with a delay added to every file that is opened.

    python benchmarks/scale.py --folder DIR --clips 1000000

Media are hard links to empty files and features have two dimensions; the parts are as many as features of usual sizes
would fill (text 1.5 KB a clip, audio 717 KB, vision 86 KB, motion 4 KB). Each measurement is a process of its own, so
that its peak of memory is its own. Everything that is read or written of the workspace waits ``--delay-ms`` first, as
an object store would make it.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.pending import plan_work, store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.media.provenance import Inputs
from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import MODALITIES, Label, Modality, clips_schema, features_schema
from emi_ray.store.part_merging import PART_BYTES, PART_ROWS
from emi_ray.training.plan import plan_run
from emi_ray.workspace import CLIPS, Workspace

BYTES_A_CLIP: dict[Modality, int] = {
    "text": 768 * 2,
    "audio": 350 * 1024 * 2,
    "vision": 42 * 1024 * 2,
    "motion": 17 * 118 * 2,
}
FILES_A_FOLDER = 1000
DIM = 2


def make_corpus(workspace: Workspace, folder: Path, num_clips: int) -> None:
    """Make a corpus whose clips are links to empty files, 1000 per folder."""
    ids = [f"{index:07d}" for index in range(num_clips)]
    media = []
    for start in range(0, num_clips, FILES_A_FOLDER):
        place = folder / "media" / f"{start:07d}"
        place.mkdir(parents=True)
        first = place / f"{ids[start]}.mp4"
        first.touch()
        for clip_id in ids[start + 1 : start + FILES_A_FOLDER]:
            os.link(first, place / f"{clip_id}.mp4")
        media += [f"{place}/{clip_id}.mp4" for clip_id in ids[start : start + FILES_A_FOLDER]]
    split = np.where(np.arange(num_clips) % 5 < 4, "train", "val")
    given: dict[str, Any] = {"clip_id": ids, "split": split, "video": media, "transcript": ids}
    given["Joy"] = np.random.default_rng(0).random(num_clips)
    schema = clips_schema([Label("Joy")])
    nothing = pa.nulls(num_clips, pa.string())
    workspace.write_config(WorkspaceConfig())
    workspace.write_table(CLIPS, pa.table([given.get(n, nothing) for n in schema.names], schema=schema))


def fill_stores(workspace: Workspace) -> None:
    """Make a store of each configured extractor that holds all clips, in parts as a finished extraction leaves
    them.
    """
    clips = workspace.clips()
    inputs = Inputs(clips)
    for modality, spec in plan_pipeline(workspace, workspace.config()).specs.items():
        store = store_of(workspace, spec)
        store.create(spec.identity, DIM)
        store.settle_precision("float16")
        stamps = inputs.stamps(spec.needs)
        rows = max(1, min(PART_ROWS, PART_BYTES // BYTES_A_CLIP[modality]))
        for start in range(0, clips.num_rows, rows):
            ids = clips["clip_id"].slice(start, rows).combine_chunks()
            store.held.write(_fabricated(ids, stamps.slice(start, rows)), ids.to_pylist())


def _fabricated(ids: pa.Array, stamps: pa.Array) -> pa.Table:
    count = len(ids)
    schema = features_schema(pa.float16(), (), {})
    ends = np.arange(count + 1)
    columns = [
        ids,
        pa.array(np.ones(count, np.int32)),
        pa.LargeListArray.from_arrays(
            ends * DIM, pa.array(np.zeros(count * DIM, np.float16)), type=schema.field("features").type
        ),
        pa.ListArray.from_arrays(ends.astype(np.int32), pa.array(np.zeros(count, np.float32))),
        pa.array([f"{index:016x}" for index in range(count)]),
        stamps,
        pa.array([f"{index:016x}" for index in range(count)]),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def plan_extraction(workspace: Workspace) -> dict[str, Any]:
    """Do what ``emi-ray extract`` does before it starts a stage."""
    config = workspace.config()
    pipeline = plan_pipeline(workspace, config)
    work = plan_work(workspace, workspace.clips(), pipeline.specs, pipeline.transcriber)
    return {"to_do": work.table.num_rows}


def plan_training(workspace: Workspace) -> dict[str, Any]:
    """Do what ``emi-ray train`` does before it reads features."""
    plan = plan_run(workspace, load_recipe("f2"), workspace.config(), 42)
    return {"key": plan.key}


STEPS: dict[str, Callable[[Workspace], dict[str, Any]]] = {
    "extract": plan_extraction,
    "train": plan_training,
}


def delay_every_file(seconds: float) -> list[int]:
    """Delay every read and write of a workspace; return a counter of the files."""
    count = [0]

    def slowed(method: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            time.sleep(seconds)
            return method(*arguments, **named)

        return wait

    for name in ("open_table", "read_table", "read_bytes", "write_tables", "write_bytes"):
        setattr(Workspace, name, slowed(getattr(Workspace, name)))
    return count


def measure(root: str, step: str, delay_s: float) -> None:
    """Run one step in this process and print a line of JSON."""
    opened = delay_every_file(delay_s)
    started, cpu = time.perf_counter(), time.process_time()
    found = STEPS[step](Workspace(root))
    print(
        json.dumps(
            {
                "seconds": round(time.perf_counter() - started, 1),
                "cpu_s": round(time.process_time() - cpu, 1),
                "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                "files_opened": opened[0],
                **found,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--delay-ms", type=float, default=50.0)
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    workspace = Workspace(str(options.folder / "work"))
    if options.step:
        measure(workspace.root, options.step, options.delay_ms / 1000)
        return
    if not workspace.exists(CLIPS):
        make_corpus(workspace, options.folder, options.clips)
        fill_stores(workspace)
    files = [path for m in MODALITIES for path in workspace.files(f"features/{m}", recursive=True)]
    print(f"{options.clips:,} clips in {len(files):,} files of features")
    workspace.delete("index")
    for title, step, prepare in (
        ("extract, no index", "extract", None),
        ("extract, with the index", "extract", None),
        ("extract, one part of each gone", "extract", _lose_a_part),
        ("train", "train", None),
    ):
        if prepare is not None:
            prepare(workspace)
        command = [sys.executable, __file__, "--folder", str(options.folder), "--step", step]
        command += ["--delay-ms", str(options.delay_ms)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        print(f"{title}: {done.stdout.strip()}", flush=True)
    shutil.rmtree(options.folder)


def _lose_a_part(workspace: Workspace) -> None:
    for spec in plan_pipeline(workspace, workspace.config()).specs.values():
        workspace.delete(store_of(workspace, spec).parts()[0])


if __name__ == "__main__":
    main()
