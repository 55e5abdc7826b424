"""The stage of one modality: extract features from decoded clips and write them to the store."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from emi_ray.errors import ClipError, EmiRayError
from emi_ray.extraction.agreement import agreed
from emi_ray.extraction.batches import Attempt
from emi_ray.extraction.broken_stage import BrokenStage
from emi_ray.extraction.pending import origin_column, origin_of, store_of, todo_column, tried_before
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.runner import Runner
from emi_ray.extraction.stage import ALWAYS, Stage, require_workspace, take_up, with_outcomes
from emi_ray.extraction.watchdog import Limits
from emi_ray.extractors import Extractor, ExtractorSpec, Features
from emi_ray.extractors.turns import Turn
from emi_ray.media.clip import DecodedClip, rows_of, unpack_clip
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_precision import Precision, is_finite, spread_of
from emi_ray.store.part_merging import Filling
from emi_ray.workspace import Workspace

LOSS_AT_ONCE = 0.25
"""Largest rounding error of float16 in the first batch, relative to the spread of a dimension. The limit is generous
because a few clips vary less than a corpus: the built-in features lose up to 0.09 in one clip and 0.005 over six."""

MIN_STEPS = 8
"""Minimum number of steps in the first batch to judge that error. Of 1024 Gaussian dimensions with means of one
standard deviation, some seem not to vary in 2 steps in 28 % of simulated batches, in 4 steps in none."""


class Extract(Stage):
    """Run one extractor on clips and write the features to the store; pass on only the columns in ``keep``.

    Args:
        spec: the extractor and its settings.
        keep: columns that later stages need, besides ``outcomes``.
        pool: size of the batches, threads and GPUs of this actor.
        limits: limits of one batch.
        careful: run the extractor in a child process.
    """

    def __init__(
        self,
        workspace: Workspace,
        spec: ExtractorSpec,
        keep: Sequence[str],
        pool: Pool,
        limits: Limits,
        careful: bool = False,
    ) -> None:
        take_up(pool.threads, pool.num_gpus > 0)
        self.name = self._modality = spec.kind.MODALITY
        self._spec = spec
        self._store = store_of(workspace, spec)
        self._turn = Turn()
        # On a GPU, writing must not delay the model: raw parts are written fast, and maintenance.py merges them.
        self._filling = None if pool.num_gpus else Filling(self._store.held)
        self._keep = [*keep, "outcomes"]
        self._runner: Runner[Features] = Runner(
            partial(ExtractorTool, spec), self.name, limits, pool.batch_size, careful, pool.batches_at_once
        )
        self._broken = BrokenStage(has_worked=lambda: bool(self._store.parts()))
        self._is_described = False
        self._settling = threading.Lock()

    def process(self, batch: pa.Table) -> pa.Table:
        todo = todo_column(self._modality)
        mine = batch.filter(batch[todo].is_valid()) if batch[todo].null_count else batch  # a filter copies
        results = self._extract(mine.select([*ALWAYS, *sorted(self._spec.needs)]))
        broken = self._broken.found_in(results, tried_before(mine, todo))
        # The clips of a broken stage are not to blame.
        self._write([each for each in results if each.failure is None] if broken else results, mine)
        if broken:
            raise EmiRayError(broken)
        outcomes = {
            each.clip_id: each.outcome(self._modality, each.result.remarks if each.result else ())
            for each in results
        }
        return with_outcomes(batch, outcomes).select(self._keep)

    def _extract(self, rows: pa.Table) -> list[Attempt[Features]]:
        clips = [unpack_clip(row) for row in rows_of(rows)]
        absences = {clip.clip_id: self._absence(clip) for clip in clips}
        absent = [Attempt[Features](clip_id, failure=why) for clip_id, why in absences.items() if why]
        ready = [clip for clip in clips if not absences[clip.clip_id]]
        # Unpacking needs no model, so it is done before the turn, while another thread's batch is computed.
        with self._turn:
            results = self._runner.run(ready)
        return self._in_precision(absent + results)

    def _absence(self, clip: DecodedClip) -> tuple[str, str] | None:
        """Return (stage, reason) of the first input that the extractor needs and the clip lacks; None if it has all
        of them.
        """
        for need in sorted(self._spec.needs):
            if need in clip.failed:
                return "media", clip.failed[need]
            if getattr(clip, need) is None:
                return "missing", clip.missing.get(need, f"the clip has no {need}")
        return None

    def _in_precision(self, results: list[Attempt[Features]]) -> list[Attempt[Features]]:
        """Convert the results to the precision of the store. The first batch with features decides that precision."""
        values = [result.result.values for result in results if result.result is not None]
        with self._settling:
            if results and not self._is_described:
                require_workspace(self._store.workspace)
                self._store.create(self._spec.identity, self._runner.feature_dim)
                self._is_described = True
            # Without any features the precision stays open for the next batch.
            if values and not self._store.is_settled:
                # Actors start together, so that several may choose at once; their files must not differ.
                question = f"{self._store.workspace.root} {self._store.folder}"
                self._store.settle_precision(*agreed(question, _choose_precision(values)))
        dtype = self._store.dtype
        return [_fit_for_store(result, dtype) for result in results]

    def _write(self, results: Sequence[Attempt[Features]], clips: pa.Table) -> None:
        fingerprint = self._store.fingerprint
        names = ("clip_id", todo_column(self._modality), origin_column(self._modality))
        told = zip(*(clips[name].to_pylist() for name in names), strict=True)
        known = {clip_id: (attempt, origin_of(origin)) for clip_id, attempt, origin in told}
        done = [(r.clip_id, r.result) for r in results if r.result is not None]
        lost = [(r.clip_id, r.failure) for r in results if r.failure is not None]
        rows = [ClipFeatures(i, f.values, f.timestamps_s, f.extras, known[i][1]) for i, f in done]
        # After a kill between these two writes, only the clips that failed are repeated.
        part = self._store.write(rows, raw=self._filling is None)
        if self._filling is not None:
            self._filling.add(part, sum(row.values.nbytes for row in rows))
        write_failures(
            self._store.workspace,
            [Failure(i, self._modality, fingerprint, *why, *known[i]) for i, why in lost],
        )


class ExtractorTool:
    """An extractor as a :class:`~emi_ray.extraction.batches.Tool` that checks the features."""

    def __init__(self, spec: ExtractorSpec) -> None:
        self._extractor = spec.build()
        self.feature_dim: int | None = self._extractor.feature_dim

    def __call__(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [_checked(found, self._extractor) for found in self._extractor.extract(clips)]

    def use_less_memory(self) -> bool:
        return self._extractor.use_less_memory()


def _checked(found: Features, extractor: Extractor) -> Features:
    """Check the features of one clip and return them as float16 or float32.

    Raises:
        ClipError: the values do not have the shape (T, feature_dim) with T ≥ 1, there are not T timestamps,
            or a value is not finite.
    """
    values, num_steps = found.values, len(found.values)
    if values.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    per_step = [found.timestamps_s, *found.extras.values()]
    if (
        values.shape != (num_steps, extractor.feature_dim)
        or not num_steps
        or {*map(len, per_step)} != {num_steps}
    ):
        raise ClipError(
            extractor.MODALITY, f"features of shape {values.shape} for {len(found.timestamps_s)} steps"
        )
    if not is_finite(values):
        raise ClipError(
            extractor.MODALITY, f"a feature is not a number, or is beyond the range of {values.dtype}"
        )
    return replace(found, values=values)


def _choose_precision(clips: Sequence[np.ndarray]) -> tuple[Precision, str]:
    """Choose the precision for features like ``clips``, arrays (T, D); with a reason if it is not float16."""
    if all(values.dtype == np.float16 for values in clips):
        return "float16", ""
    spread = spread_of(clips)
    loss, dimension = spread.loss("float16")
    # In a few steps one of a thousand dimensions hardly varies by chance; only a range that is too small is certain.
    is_enough = sum(map(len, clips)) >= MIN_STEPS or dimension < 0
    if loss <= LOSS_AT_ONCE or not is_enough:
        return "float16", ""
    if dimension < 0:
        return "float32", "a feature is beyond the range of float16"
    return "float32", f"{spread.describe(dimension)}, and float16 would lose {min(loss, 1.0):.0%} of that"


def _fit_for_store(result: Attempt[Features], dtype: np.dtype) -> Attempt[Features]:
    """Convert a result to the precision of the store. If a value exceeds its range, the result becomes a failure."""
    found = result.result
    if found is None or found.values.dtype == dtype:
        return result
    with np.errstate(over="ignore"):
        values = found.values.astype(dtype)
    if is_finite(values):
        return replace(result, result=replace(found, values=values))
    reason = f"a feature is beyond the range of {dtype}, in which this store keeps them"
    return replace(result, result=None, failure=("store", reason))
