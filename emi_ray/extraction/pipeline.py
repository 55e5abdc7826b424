"""THE pipeline: manifest → decode → motion → vision → audio → transcript → text, features written on the way."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from emi_ray.config import ExtractionSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.extraction.balance import balance_pools
from emi_ray.extraction.decoding import Decode
from emi_ray.extraction.extracting import Extract
from emi_ray.extraction.kept import kept_precision, with_kept_detector
from emi_ray.extraction.models import Models
from emi_ray.extraction.pools import Pool, processes_of, wants_gpu
from emi_ray.extraction.stage import ALWAYS, Stage
from emi_ray.extraction.transcribing import Transcribe
from emi_ray.extraction.vigil import Limits, default_memory_limit
from emi_ray.extraction.work import origin_column, todo_column
from emi_ray.extractors import ExtractorSpec, TranscriberSpec, specify, specify_transcriber
from emi_ray.media.detection import build_finder
from emi_ray.media.yunet import settle_media
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace

ORDER: tuple[Modality, ...] = ("motion", "vision", "audio", "text")
"""Heaviest inputs first, so that they are dropped early; but models behind all else, in one process a GPU."""

BLOCKS_PER_ACTOR = 8
MAX_ROWS_PER_BLOCK = 512
"""Where a block is decoded to more than 64 MiB, Ray Data passes it on in pieces."""

BATCHES_AT_ONCE = 5
"""In a process on a GPU, each in a thread: one or two for the GPU, others that are prepared or written meanwhile."""


@dataclass(frozen=True)
class Pipeline:
    """What is extracted, by what, from where to where. ``specs`` are in the order of the stages."""

    workspace: Workspace
    config: WorkspaceConfig
    specs: Mapping[Modality, ExtractorSpec]
    transcriber: TranscriberSpec | None = None

    @property
    def stages(self) -> dict[str, bool]:
        """Names of the stages in their order, each with whether it runs a pretrained model.

        Those that want a GPU stand together, since one process runs them; text behind its transcript.
        """
        models: dict[str, bool] = {m: spec.kind.USES_GPU for m, spec in self.specs.items() if m != "text"}
        if self.transcriber and "text" in self.specs:
            models["transcript"] = True
        if "text" in self.specs:
            models["text"] = self.specs["text"].kind.USES_GPU
        on_gpu = {name for name, is_model in models.items() if is_model and wants_gpu(name, self._settings)}
        last = {"text"} if "transcript" in on_gpu and "text" not in on_gpu else set()
        order = sorted(models, key=lambda name: (name in last, name in on_gpu))
        return {"decode": False, **{name: models[name] for name in order}}

    @property
    def _settings(self) -> ExtractionSettings:
        return self.config.extraction

    def build(self, work: pa.Table, pools: Mapping[str, Pool], careful: bool = False) -> Dataset:
        """The lazy dataset. Its rows are ``clip_id`` and ``outcomes``: features stay behind, in the store.

        Args:
            careful: one clip a task, and each extractor in a child process, so that a death has one suspect.
        """
        # Unlike from_arrow this starts no task a block, and so no further worker processes.
        dataset: Dataset = ray.data.from_blocks(
            _singly(work) if careful else _blocks(work, pools, self._rows_per_block)
        )
        for names in processes_of(pools):
            builders = [self._builder(name, pools[name], careful) for name in names]
            dataset = dataset.map_batches(
                Models, fn_constructor_args=(builders,), **_on(pools, names, work.num_rows)
            )
        return dataset

    def _builder(self, stage: str, pool: Pool, careful: bool) -> Callable[[], Stage]:
        """What makes a stage, in the process that runs it."""
        if stage == "decode":
            needs = {modality: spec.needs for modality, spec in self.specs.items()}
            limits = (self._settings.time_limit_s, self._settings.decode_memory_gb)
            return partial(Decode, self.config.media, needs, self.transcriber is not None, *limits)
        kind = Transcribe if stage == "transcript" else Extract
        spec = self.transcriber if stage == "transcript" else self.specs[stage]  # type: ignore[index]
        after = self._needed_after(stage)
        limits_of_batch = limits_of(self._settings, BATCHES_AT_ONCE if pool.num_gpus else 1)
        return partial(kind, self.workspace, spec, after, pool, limits_of_batch, careful)  # type: ignore[arg-type]

    @property
    def _rows_per_block(self) -> int:
        return self._settings.rows_per_block

    def _needed_after(self, stage: str) -> list[str]:
        """Columns that the stages behind ``stage`` read; all else is dropped there."""
        stages = list(self.stages)
        later = stages[stages.index(stage) + 1 :]
        if not later:
            return ["clip_id"]
        modalities = [modality for modality in self.specs if modality in later]
        needs = {need for modality in modalities for need in self.specs[modality].needs}
        if "transcript" in later:
            needs |= {"waveform", "transcript"}
        columns = [name(modality) for modality in modalities for name in (todo_column, origin_column)]
        return [*ALWAYS, *columns, *sorted(needs)]


def plan_pipeline(
    workspace: Workspace,
    config: WorkspaceConfig,
    modalities: Iterable[Modality] | None = None,
    precision: Mapping[str, str] | None = None,
) -> Pipeline:
    """The configured extractor of each modality, by default of all that are configured.

    Args:
        precision: by stage, what ``dtype: auto`` means where the stage runs. Features that are there keep the
            precision in which they were made, and their face detector (``kept.py``); without either, it means what it
            means on this machine.

    Raises:
        UserError: a modality has no extractor, an extractor's settings are wrong, its weights or the
            face detector cannot be had.
    """
    wanted = set(modalities or config.extractors)
    for modality in wanted - set(config.extractors):
        raise UserError(
            f"No extractor is configured for {modality}: set extractors.{modality}.name "
            f"(emi-ray extractors lists them)."
        )
    config = config.model_copy(update={"media": with_kept_detector(workspace, config, wanted)})
    precision = {**(precision or {}), **kept_precision(workspace, config, wanted)}
    transcriber = None
    if config.transcriber and "text" in wanted:
        transcriber = specify_transcriber(config.transcriber, config.media, precision.get("transcript"))
    specs = {
        m: specify(m, config.extractors[m], config.media, transcriber, precision.get(m))
        for m in ORDER
        if m in wanted
    }
    if any("faces" in spec.needs for spec in specs.values()):
        config = config.model_copy(update={"media": settle_media(config.media)})
        build_finder(config.media.faces)
    return Pipeline(workspace, config, specs, transcriber)


def limits_of(settings: ExtractionSettings, at_once: int = 1) -> Limits:
    """What one batch of one extractor may take.

    Args:
        at_once: batches that share the device. The time that one waits for the others counts, as does their memory.
    """
    gigabytes = settings.memory_limit_gb
    num_bytes = int(gigabytes * 2**30) if gigabytes else default_memory_limit()
    return Limits(at_once * settings.batch_limit_s, at_once * num_bytes)


def configure_ray_data(longest_batch_s: float, wait_for_actors_s: int) -> None:
    """Settings of Ray Data that the pipeline relies on.

    Args:
        wait_for_actors_s: how long the first batch waits for the actors of a stage to be up, so that none is ahead
            of the others; -1: those that are up begin.
        longest_batch_s: how long a batch may take at the very worst; a run that shows no progress for twice as
            long is stuck.
    """
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = max(1800, int(2 * longest_batch_s))
    context.wait_for_min_actors_s = wait_for_actors_s
    context.max_errored_blocks = -1  # a block whose worker keeps dying is run again clip by clip
    context.target_max_block_size = 64 * 2**20
    balance_pools()


def _on(pools: Mapping[str, Pool], names: Sequence[str], num_clips: int) -> dict[str, Any]:
    """How ``map_batches`` is told of the processes that run these stages."""
    pool = pools[names[0]]
    each = math.ceil(num_clips / pool.max_actors)  # Ray joins blocks until they fill a batch
    threads = BATCHES_AT_ONCE if pool.num_gpus else 1
    return {
        "batch_size": min(_largest_batch(pools, names), each),
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(
            size=pool.max_actors,
            max_tasks_in_flight_per_actor=threads + 1,  # more would wait at one actor while another is idle
            max_concurrent_calls_per_actor=threads if pool.num_gpus else None,
            enable_true_multi_threading=bool(pool.num_gpus),
        ),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus or None,
    }


def _largest_batch(pools: Mapping[str, Pool], stages: Sequence[str]) -> int:
    """Clips that come to these stages at once; text does not count where it comes with pictures or sound."""
    heavy = [name for name in stages if name != "text"] or stages
    return max(pools[name].batch_size for name in heavy)


def _singly(work: pa.Table) -> list[pa.Table]:
    return [work.slice(start, 1) for start in range(work.num_rows)]


def _blocks(work: pa.Table, pools: Mapping[str, Pool], rows_per_block: int) -> list[pa.Table]:
    """The manifest in blocks small enough that every actor has several, and few enough for a million clips.

    Each task of a stage costs the driver some 7 ms, so that 0.2 ms a clip and stage need blocks of dozens, and six
    stages blocks of hundreds. Blocks that are larger than asked for are multiples of the largest batch: a rest of a
    batch computes slowly. Batches of text are large because text is tiny; they take several blocks. Where there are
    fewer clips than would give every actor a block of the size asked for, blocks are smaller.
    """
    actors = max(pool.max_actors for pool in pools.values())
    wanted = min(work.num_rows // (actors * BLOCKS_PER_ACTOR), MAX_ROWS_PER_BLOCK)
    largest = _largest_batch(pools, list(pools))
    rows = max(wanted - wanted % largest, min(rows_per_block, math.ceil(work.num_rows / actors)))
    return [work.slice(start, rows) for start in range(0, work.num_rows, rows)]
