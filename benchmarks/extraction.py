"""Compare extraction with plain scripts that do the same work, in one run on one machine.

    python benchmarks/extraction.py --clips CORPUS/media --part models     # (a) and (d): base-size models
    python benchmarks/extraction.py --clips CORPUS/media --part built-in   # (b) and (c): shared decoding
    python benchmarks/extraction.py --part texts --num 10000               # MiniLM, real weights, short texts

CORPUS is what ``emi-ray demo`` renders, or any folder of talking clips. Models have the size of the real ones and
random weights. Every figure is a ratio measured in this run. Rates are without start-up on either side;
where it counts, the row says so, or compares whole commands (b).
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from extraction_inputs import enlarge, new_workspace, save_crops, save_models, spread
from extraction_texts import texts_part
from rich.console import Console
from rich.table import Table

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract, propose_pools
from emi_ray.extractors import Extractor
from emi_ray.media.clip import DecodedClip
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource
from emi_ray.runtime import ray_session
from emi_ray.schema import Modality
from emi_ray.settings import validate
from emi_ray.workspace import Workspace

ROWS: dict[str, Modality] = {
    "vision": "vision",
    "vision, ready crops": "vision",
    "audio": "audio",
    "text": "text",
}

NewWorkspace = Callable[[str, int], tuple[Workspace, WorkspaceConfig]]
"""Makes a workspace of a name over the first so many clips."""

REPEATS = {"vision": 1, "vision, ready crops": 1, "audio": 1, "text": 20}
"""How often each clip is taken: a text is done in 30 ms."""

ROUNDS = 3

BLOCK_ROWS = {"vision": 8, "vision, ready crops": 8, "audio": 8, "text": 32}
"""A batch of the stage. Long and short runs are whole blocks, an even number: two actors end together."""

SAME_WORK = ["extraction.measure=false"]
"""Only runs of 500 clips or more time the stages first, and get other pools by it than shorter ones."""

console = Console()


def pipeline_rate(
    fresh: NewWorkspace, name: str, modalities: Sequence[Modality] | None, num_clips: int
) -> tuple[float, float]:
    """Clips a second, of two runs over new workspaces, one with all clips and one with a third of them, by the
    difference of the seconds from first to last outcome: so starting processes and loading a model do not count,
    and all decoding does. And the seconds of the whole long run, start included. The session has had a run
    before: its first one starts slower than all others."""
    seconds, clips = [], []
    for share in (3, 1):
        workspace, config = fresh(f"{name}-{share}", num_clips // share)
        times: list[float] = []
        whole_s = extract(
            workspace,
            config,
            modalities,
            on_progress=lambda *_: times.append(time.perf_counter()),  # noqa: B023
        ).seconds
        seconds.append(times[-1] - times[0])
        clips.append(workspace.clips().num_rows)
    return (clips[1] - clips[0]) / (seconds[1] - seconds[0]), whole_s


def sources_of(workspace: Workspace) -> list[ClipSource]:
    return [
        ClipSource(r["clip_id"], r["video"], r["audio"], r["transcript"], r["faces_dir"], None)
        for r in workspace.clips().to_pylist()
    ]


def batches(items: Sequence[ClipSource], size: int) -> Iterator[Sequence[ClipSource]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def usable(clips: Sequence[DecodedClip], extractor: Extractor) -> list[DecodedClip]:
    return [clip for clip in clips if all(getattr(clip, need) is not None for need in extractor.NEEDS)]


def bare_rates(workspace: Workspace, config: WorkspaceConfig, modality: Modality) -> tuple[float, float]:
    """Return clips per second of a bare loop over the same clips, and of the bare model on prepared inputs."""
    pipeline = plan_pipeline(workspace, config, [modality])
    spec, batch_size = pipeline.specs[modality], propose_pools(pipeline, None)[modality].batch_size
    torch.set_num_threads(os.cpu_count() or 1)
    extractor, sources, decoded = spec.build(), sources_of(workspace), []
    warm = decode_clip(sources[0], config.media, spec.needs)
    extractor.extract(usable([warm], extractor))

    def loop() -> None:
        for batch in batches(sources, batch_size):
            decoded.append([decode_clip(source, config.media, spec.needs) for source in batch])
            extractor.extract(usable(decoded[-1], extractor))

    loop_s = timed(loop)
    model_s = timed(lambda: [extractor.extract(usable(batch, extractor)) for batch in decoded])
    return len(sources) / loop_s, len(sources) / model_s


def models_part(media: Sequence[str], folder: Path, frame_rate_hz: float, rows: Sequence[str]) -> None:
    """Compare the pipeline, with its default pools, with (a) a bare loop and the bare model, which compute with all
    cores, and (d) a pipeline of one actor with as many threads as there are cores."""
    settings = save_models(folder / "models")
    table = Table(
        "extractor", "pipeline clips/s", "÷ bare loop", "÷ bare model", "÷ one actor with all threads"
    )
    for row in rows:
        modality = ROWS[row]
        chosen = [*settings[modality], f"media.frame_rate_hz={frame_rate_hz:g}"]
        config = validate(WorkspaceConfig, {}, "benchmark", chosen)
        crops = save_crops(media, folder / "crops", config) if row == "vision, ready crops" else []

        repeats = REPEATS[row]

        def fresh(name: str, num: int, *more: str) -> tuple[Workspace, WorkspaceConfig]:
            place, few = folder / f"{row}-{name}", num // repeats  # noqa: B023 - called in this round
            own = [*chosen, *SAME_WORK, f"extraction.rows_per_block={BLOCK_ROWS[row]}", *more]  # noqa: B023
            return new_workspace(place, spread(media, few), own, repeats, spread(crops, few))  # noqa: B023

        def one_actor(name: str, num: int) -> tuple[Workspace, WorkspaceConfig]:
            sizes = ("max_actors=1", f"threads={os.cpu_count()}")
            return fresh(name, num, *(f"extraction.stages.{modality}.{size}" for size in sizes))  # noqa: B023

        total, measured = len(media) * repeats, []
        with ray_session():
            extract(*fresh("warm", total // 3), [modality])
            for turn in range(ROUNDS):  # the machine drifts: all take turns
                loop, model = bare_rates(*fresh(f"bare-{turn}", total), modality)
                usual, _ = pipeline_rate(fresh, f"usual-{turn}", [modality], total)
                one, _ = pipeline_rate(one_actor, f"one-{turn}", [modality], total)
                measured.append([usual, usual / loop, usual / model, usual / one])
        means, spreads = np.mean(measured, axis=0), np.std(measured, axis=0, ddof=1)
        table.add_row(row, *(f"{m:.2f} ± {s:.2f}" for m, s in zip(means, spreads, strict=True)))
    console.print(table)


def sequential_s(workspace: Workspace, config: WorkspaceConfig, target: Path) -> float:
    """Return the seconds of a plain script that decodes and extracts clip by clip and writes .npy files."""
    specs = plan_pipeline(workspace, config).specs
    needs = frozenset(need for spec in specs.values() for need in spec.needs)
    target.mkdir(parents=True)

    def script() -> None:
        extractors = {modality: spec.build() for modality, spec in specs.items()}
        for source in sources_of(workspace):
            clip = decode_clip(source, config.media, needs)
            for modality, extractor in extractors.items():
                for features in extractor.extract(usable([clip], extractor)):
                    np.save(target / f"{modality}-{source.clip_id}.npy", features.values.astype(np.float16))

    return timed(script)


def built_in_part(media: Sequence[str], folder: Path) -> None:
    """Compare (b) one command for all modalities with one command each, and (c) with a plain sequential script."""
    (folder / "large").mkdir()
    large = [enlarge(path, folder / "large" / Path(path).name) for path in media[:24]]
    with ray_session():
        workspace, config = new_workspace(folder / "all", large, [])
        summary = extract(workspace, config)
        workspace, config = new_workspace(folder / "each", large, [])
        each = [extract(workspace, config, [modality]).seconds for modality in config.extractors]
        rate, ours = pipeline_rate(
            lambda name, num: new_workspace(folder / name, spread(media, num), SAME_WORK),
            "pipeline",
            None,
            len(media),
        )
    workspace, config = new_workspace(folder / "script", media, [])
    script = sequential_s(workspace, config, folder / "script-features")
    halves = [new_workspace(folder / f"half-{i}", media[i::2], []) for i in range(2)]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        running = [
            pool.submit(sequential_s, *half, folder / f"half-{i}-features") for i, half in enumerate(halves)
        ]
        two_scripts = max(run.result() for run in running)
    table = Table("measure", "figure")
    table.add_row(
        "clips; times that a clip was decoded",
        f"{len(large)}; {summary.stages['decode'].ok / len(large):.2f}",
    )
    table.add_row(
        "1080p: all modalities in one command ÷ one command each", f"{summary.seconds / sum(each):.2f}"
    )
    plain = len(media) / script
    table.add_row(
        "clips/s of the pipeline ÷ of a plain script", f"{rate:.1f} ÷ {plain:.1f} = {rate / plain:.2f}"
    )
    table.add_row("two such scripts at once ÷ one: what two cores can give", f"{script / two_scripts:.2f}")
    table.add_row(
        f"script ÷ pipeline over {len(media)} clips, start-up included, seconds",
        f"{script:.0f} ÷ {ours:.0f} = {script / ours:.2f}",
    )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, help="folder of clips; not for the part texts")
    parser.add_argument("--part", choices=["models", "built-in", "texts"], required=True)
    parser.add_argument(
        "--num", type=int, default=48, help="clips or texts to use: of clips a multiple of 48"
    )
    parser.add_argument("--frame-rate", type=float, default=1.0, help="pictures a second for the models")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS), help="of the part models")
    options = parser.parse_args()
    if options.part == "texts":
        with tempfile.TemporaryDirectory() as folder:
            console.print(texts_part(Path(folder), options.num))
        return
    media = [str(path.resolve()) for path in sorted(options.clips.iterdir()) if path.is_file()][: options.num]
    with tempfile.TemporaryDirectory() as folder:
        if options.part == "models":
            models_part(media, Path(folder), options.frame_rate, options.rows)
        else:
            built_in_part(media, Path(folder))


if __name__ == "__main__":
    main()
