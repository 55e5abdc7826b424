"""THE pipeline: manifest → decode → motion → vision → audio → transcript → text, features written on the way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from emi_ray.config import ExtractionSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.extraction.decoding import Decode
from emi_ray.extraction.extracting import Extract
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.stage import ALWAYS
from emi_ray.extraction.transcribing import Transcribe
from emi_ray.extraction.vigil import Limits, default_memory_limit
from emi_ray.extraction.work import origin_column, todo_column
from emi_ray.extractors import ExtractorSpec, TranscriberSpec, specify, specify_transcriber
from emi_ray.media.detection import build_finder
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace

ORDER: tuple[Modality, ...] = ("motion", "vision", "audio", "text")
"""Heaviest inputs first, so that they are dropped early. Of the two that read faces motion comes first: it
never runs a model, and what vision's model passes on is then small."""


@dataclass(frozen=True)
class Pipeline:
    """What is extracted, by what, from where to where. ``specs`` are in the order of the stages."""

    workspace: Workspace
    config: WorkspaceConfig
    specs: Mapping[Modality, ExtractorSpec]
    transcriber: TranscriberSpec | None = None

    @property
    def stages(self) -> dict[str, bool]:
        """Names of the stages in their order, each with whether it runs a pretrained model."""
        stages = {"decode": False}
        for modality, spec in self.specs.items():
            if modality == "text" and self.transcriber:
                stages["transcript"] = True
            stages[modality] = spec.kind.USES_GPU
        return stages

    def build(self, work: pa.Table, pools: Mapping[str, Pool], careful: bool = False) -> Dataset:
        """The lazy dataset. Its rows are ``clip_id`` and ``outcomes``: features stay behind, in the store.

        Args:
            careful: one clip a task, and each extractor in a child process, so that a death has one suspect.
        """
        # Unlike from_arrow this starts no task a block, and so no further worker processes.
        dataset: Dataset = ray.data.from_blocks(
            _singly(work) if careful else _blocks(work, pools, self._rows_per_block)
        )
        needs = {modality: spec.needs for modality, spec in self.specs.items()}
        settings = self.config.extraction
        limits = limits_of(settings)
        transcribes = self.transcriber is not None
        decode = (self.config.media, needs, transcribes, settings.time_limit_s, settings.decode_memory_gb)
        dataset = dataset.map_batches(Decode, fn_constructor_args=decode, **_on(pools["decode"]))
        for stage in list(self.stages)[1:]:
            kind = Transcribe if stage == "transcript" else Extract
            spec = self.transcriber if stage == "transcript" else self.specs[stage]  # type: ignore[index]
            arguments = (
                self.workspace,
                spec,
                self._needed_after(stage),
                pools[stage].threads,
                limits,
                careful,
            )
            dataset = dataset.map_batches(kind, fn_constructor_args=arguments, **_on(pools[stage]))
        return dataset

    @property
    def _rows_per_block(self) -> int:
        return self.config.extraction.rows_per_block

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
    workspace: Workspace, config: WorkspaceConfig, modalities: Iterable[Modality] | None = None
) -> Pipeline:
    """The configured extractor of each modality, by default of all that are configured.

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
    transcriber = None
    if config.transcriber and "text" in wanted:
        transcriber = specify_transcriber(config.transcriber, config.media)
    chosen = [modality for modality in ORDER if modality in wanted]
    specs = {m: specify(m, config.extractors[m], config.media, transcriber) for m in chosen}
    if any("faces" in spec.needs for spec in specs.values()):
        build_finder(config.media.faces)
    return Pipeline(workspace, config, specs, transcriber)


def limits_of(settings: ExtractionSettings) -> Limits:
    """What one batch of one extractor may take."""
    gigabytes = settings.memory_limit_gb
    num_bytes = int(gigabytes * 2**30) if gigabytes else default_memory_limit()
    return Limits(settings.batch_limit_s, num_bytes)


def configure_ray_data(longest_batch_s: float) -> None:
    """Settings of Ray Data that the pipeline relies on.

    Args:
        longest_batch_s: how long a batch may take at the very worst; a run that shows no progress for twice as
            long is stuck.
    """
    context = DataContext.get_current()
    context.execution_no_progress_timeout_s = max(1800, int(2 * longest_batch_s))
    context.wait_for_min_actors_s = 120
    context.max_errored_blocks = -1  # a block whose worker keeps dying is run again clip by clip
    context.target_max_block_size = 64 * 2**20


def _on(pool: Pool) -> dict[str, Any]:
    """How ``map_batches`` is told of a pool."""
    return {
        "batch_size": pool.batch_size,
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(min_size=pool.min_actors, max_size=pool.max_actors),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus or None,
    }


def _singly(work: pa.Table) -> list[pa.Table]:
    return [work.slice(start, 1) for start in range(work.num_rows)]


def _blocks(work: pa.Table, pools: Mapping[str, Pool], rows_per_block: int) -> list[pa.Table]:
    """The manifest in blocks small enough that all actors have work, and few enough for a million clips.

    Blocks that are larger than asked for are multiples of the largest batch: a rest of a batch computes slowly.
    Batches of text are large because text is tiny; they take several blocks.
    """
    wanted = min(work.num_rows // (pools["decode"].max_actors * 32), 256)
    largest = max(pool.batch_size for name, pool in pools.items() if name != "text")
    rows = max(wanted - wanted % largest, rows_per_block)
    return [work.slice(start, rows) for start in range(0, work.num_rows, rows)]
