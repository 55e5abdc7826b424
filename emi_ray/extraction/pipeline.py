"""The extraction pipeline: manifest → decode → extractors without a model → models on the CPU → models on GPUs.

Each stage writes its features to the store and passes on only what later stages need.
"""

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
from emi_ray.extraction.decode_stage import Decode
from emi_ray.extraction.extract_stage import Extract
from emi_ray.extraction.load_balancing import balance_pools
from emi_ray.extraction.pending import origin_column, todo_column
from emi_ray.extraction.pinned_settings import kept_precision, with_kept_detector
from emi_ray.extraction.placement import Places
from emi_ray.extraction.pools import Pool, processes_of, wants_gpu
from emi_ray.extraction.stage import ALWAYS, Stage
from emi_ray.extraction.stage_chain import StageChain
from emi_ray.extraction.transcribe_stage import Transcribe
from emi_ray.extraction.watchdog import Limits, default_memory_limit
from emi_ray.extractors import ExtractorSpec, TranscriberSpec, specify, specify_transcriber
from emi_ray.media.detection import build_finder
from emi_ray.media.yunet import settle_media
from emi_ray.runtime import machines
from emi_ray.schema import Modality, Need, require_modality
from emi_ray.workspace import Workspace

ORDER: tuple[Modality, ...] = ("motion", "vision", "audio", "text")
"""Order of the modalities: the largest inputs first, so that they are dropped early. Those with a model are moved to
the end, see :attr:`Pipeline.stages`."""

BLOCKS_PER_ACTOR = 8
MAX_ROWS_PER_BLOCK = 512
"""Upper limit of clips per block. Ray Data splits a block that is larger than 64 MiB after decoding."""

BLOCKS_IN_FLIGHT = 8
"""Blocks per decoding actor that Ray's object store must be able to hold: those that are being decoded, wait for the
next stage, or are read there. With blocks of 96 clips a store of 1 GB was full and Ray wrote to the disk."""

PICTURES_BYTES, SOUND_BYTES = 2_500_000, 500_000
"""Approximate size of a decoded clip of some seconds, with and without pictures."""


@dataclass(frozen=True)
class Pipeline:
    """What is extracted, with which extractors, from and into which workspace.

    ``specs`` are in the order of the stages.
    """

    workspace: Workspace
    config: WorkspaceConfig
    specs: Mapping[Modality, ExtractorSpec]
    transcriber: TranscriberSpec | None = None
    seen_media: tuple[str, ...] = ()
    """Some files of clips that the driver has seen, so that a node without their mount is noticed."""

    @property
    def stages(self) -> dict[str, bool]:
        """Names of the stages in order, each with whether it runs a pretrained model.

        Stages without a model are first and stages that want a GPU are last, because adjacent ones share processes.
        Text follows the transcript.
        """
        models: dict[str, bool] = {m: spec.kind.USES_GPU for m, spec in self.specs.items() if m != "text"}
        if self.transcriber and "text" in self.specs:
            models["transcript"] = True
        if "text" in self.specs:
            models["text"] = self.specs["text"].kind.USES_GPU

        def place(name: str) -> int:
            own = models[name] + (models[name] and wants_gpu(name, self._settings))
            return max(own, place("transcript")) if name == "text" and "transcript" in models else own

        return {"decode": False, **{name: models[name] for name in sorted(models, key=place)}}

    @property
    def _settings(self) -> ExtractionSettings:
        return self.config.extraction

    def build(self, work: pa.Table, pools: Mapping[str, Pool], careful: bool = False) -> Dataset:
        """Build the lazy dataset. Its rows have ``clip_id`` and ``outcomes``; features are written to the store.

        Args:
            work: the clips, see :class:`~emi_ray.extraction.pending.Work`.
            pools: the pool of each stage.
            careful: process one clip per task, and run each extractor in a child process, so that the death of a
                process has a single possible cause.
        """
        # Unlike from_arrow, this starts no task for each block, and therefore no further worker processes.
        dataset: Dataset = ray.data.from_blocks(
            _singly(work)
            if careful
            else _blocks(work, pools, self._settings.rows_per_block, self._rows_in_memory(pools["decode"]))
        )
        for names in processes_of(pools):
            builders = [self._builder(name, pools[name], careful) for name in names]
            dataset = dataset.map_batches(
                StageChain, fn_constructor_args=(builders,), **_on(pools, names, work.num_rows)
            )
        return dataset

    def _builder(self, stage: str, pool: Pool, careful: bool) -> Callable[[], Stage]:
        """Return a function that creates a stage in the process that runs it."""
        if stage == "decode":
            needs = {modality: spec.needs for modality, spec in self.specs.items()}
            limits = (self._settings.time_limit_s, self._settings.decode_memory_gb)
            seen = self.seen_media if self.reads_media else ()
            return partial(Decode, self.config.media, needs, self.transcriber is not None, *limits, seen)
        kind = Transcribe if stage == "transcript" else Extract
        spec = self.transcriber if stage == "transcript" else self.specs[stage]  # type: ignore[index]
        after = self._needed_after(stage)
        return partial(kind, self.workspace, spec, after, pool, limits_of(self._settings), careful)  # type: ignore[arg-type]

    @property
    def needs(self) -> frozenset[Need]:
        """The inputs that all extractors and the recogniser need."""
        heard: set[Need] = {"waveform"} if self.transcriber else set()
        return frozenset(heard.union(*(spec.needs for spec in self.specs.values())))

    @property
    def reads_media(self) -> bool:
        """Whether an extractor needs media. Those of text need only the corpus table."""
        return bool(self.needs - {"transcript"})

    def _rows_in_memory(self, decode: Pool) -> int:
        """Return how many decoded clips a block may have so that the blocks in flight fit into Ray's object store."""
        if not self.reads_media:
            return MAX_ROWS_PER_BLOCK
        clip_bytes = PICTURES_BYTES if self.needs - {"transcript", "waveform"} else SOUND_BYTES
        store_bytes = ray.cluster_resources().get("object_store_memory", 0)
        return int(store_bytes / (decode.max_actors * BLOCKS_IN_FLIGHT * clip_bytes))

    def _needed_after(self, stage: str) -> list[str]:
        """Return the columns that the stages after ``stage`` read. All other columns are dropped there."""
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
    """Plan the pipeline with the configured extractor of each modality.

    Args:
        modalities: by default all that have an extractor.
        precision: by stage, the precision that ``dtype: auto`` means where the stage runs; by default, what it
            means on this machine. If features exist, their precision and their face detector are used instead
            (``pinned_settings.py``).

    Raises:
        UserError: a modality has no extractor, the settings of an extractor are invalid, or its weights or the face
            detector are not available.
    """
    wanted = set(modalities or config.extractors)
    if not wanted:
        raise UserError(
            "No modality has an extractor: set, for instance, extractors.text.name (emi-ray extractors lists them)."
        )
    for modality in wanted:
        require_modality(modality)
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


def limits_of(settings: ExtractionSettings) -> Limits:
    """Return the limits of one batch of one extractor."""
    gigabytes = settings.memory_limit_gb
    return Limits(settings.batch_limit_s, int(gigabytes * 2**30) if gigabytes else default_memory_limit())


def longest_batch_s(pipeline: Pipeline, pools: Mapping[str, Pool]) -> float:
    """Return the seconds that a batch may take in the worst case."""
    settings = pipeline.config.extraction
    limits = limits_of(settings)
    longest_s = 2 * max(limits.among(pool.batches_at_once).seconds for pool in pools.values())
    if pipeline.reads_media:
        # A clip that hangs is decoded up to four times: as a whole, then audio, video and the rest separately.
        longest_s += 4 * settings.time_limit_s * pools["decode"].batch_size
    return longest_s


def configure_ray_data(pools: Mapping[str, Pool], longest_batch_s: float, wait_for_actors_s: int) -> None:
    """Set the options of Ray Data that the pipeline relies on.

    Args:
        pools: the pools of the pipeline that comes next.
        longest_batch_s: seconds that a batch may take in the worst case. A run without progress for twice as
            long is considered stuck.
        wait_for_actors_s: seconds that the first batch waits until all actors of a stage have started, so that none
            gets ahead of the others; -1 starts with those that are ready.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False  # the terminal has our own
    # Ray Data ends a run that makes no progress, and a legitimate long batch must not look like that.
    context.execution_no_progress_timeout_s = max(1800, int(2 * longest_batch_s))
    context.wait_for_min_actors_s = wait_for_actors_s
    context.max_errored_blocks = (
        -1
    )  # do not abort: a block whose worker keeps dying is repeated clip by clip later
    context.target_max_block_size = 64 * 2**20
    balance_pools(Places.among(machines(), pools))


def _on(pools: Mapping[str, Pool], names: Sequence[str], num_clips: int) -> dict[str, Any]:
    """Return the arguments of ``map_batches`` for the processes that run these stages."""
    pool = pools[names[-1]]  # a stage that joins the next one runs in the actors of that one
    each = math.ceil(
        num_clips / pool.max_actors
    )  # Ray joins blocks to fill a batch; each actor should get one
    threads = pool.batches_at_once
    return {
        "batch_size": min(_batch_of(pools, names), each),
        "batch_format": "pyarrow",
        "compute": ActorPoolStrategy(
            size=pool.max_actors,
            max_tasks_in_flight_per_actor=threads
            + 1,  # more tasks would wait for one actor while another is idle
            max_concurrent_calls_per_actor=threads if pool.num_gpus else None,
            enable_true_multi_threading=bool(pool.num_gpus),
        ),
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus or None,
    }


def _batch_of(pools: Mapping[str, Pool], stages: Sequence[str]) -> int:
    """Return the number of clips per batch of these stages.

    That is the smallest batch size of those with pictures or sound, whose clips are large; the batch size of text
    counts only if text is alone.
    """
    heavy = [name for name in stages if name != "text"] or stages
    return min(pools[name].batch_size for name in heavy)


def _singly(work: pa.Table) -> list[pa.Table]:
    return [work.slice(start, 1) for start in range(work.num_rows)]


def _blocks(
    work: pa.Table, pools: Mapping[str, Pool], rows_per_block: int, most: int = MAX_ROWS_PER_BLOCK
) -> list[pa.Table]:
    """Cut the manifest into blocks: several for every actor, but few enough for a million clips.

    A task costs the driver about 7 ms per stage, so an overhead of 0.2 ms per clip and stage needs blocks of dozens
    of clips, and six stages need hundreds. Blocks larger than ``rows_per_block`` are multiples of the largest
    batch, because an incomplete batch computes inefficiently. Batches of text are larger than that and take several
    blocks. If there are fewer clips than ``rows_per_block`` for each actor, blocks are smaller.

    Args:
        most: limit of the blocks that are larger than ``rows_per_block``.
    """
    actors = max(pool.max_actors for pool in pools.values())
    wanted = min(work.num_rows // (actors * BLOCKS_PER_ACTOR), MAX_ROWS_PER_BLOCK, most)
    largest = max(_batch_of(pools, names) for names in processes_of(pools))
    rows = max(wanted - wanted % largest, min(rows_per_block, math.ceil(work.num_rows / actors)))
    return [work.slice(start, rows) for start in range(0, work.num_rows, rows)]
