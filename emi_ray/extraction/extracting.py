"""The stage of one modality: decoded clips → features in the store."""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from emi_ray.errors import ClipError, EmiRayError
from emi_ray.extraction.batches import Attempt
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.runner import Runner
from emi_ray.extraction.stage import ALWAYS, Stage, take_up, with_outcomes
from emi_ray.extraction.vigil import Limits
from emi_ray.extraction.work import origin_column, origin_of, store_of, todo_column
from emi_ray.extractors import Extractor, ExtractorSpec, Features
from emi_ray.failures import Failure, write_failures
from emi_ray.feature_store import ClipFeatures
from emi_ray.media.clip import DecodedClip, rows_of, unpack_clip
from emi_ray.workspace import Workspace

_MAGNITUDE, _INFINITY = 0x7FFF, 0x7C00
"""Bits of a float16 without its sign, and the least of them that are no finite number: five times as fast to compare
as ``np.isfinite``."""


class Extract(Stage):
    """Runs one extractor and writes its features; passes on the columns in ``keep``."""

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
        self._keep = [*keep, "outcomes"]
        self._runner: Runner[Features] = Runner(
            partial(ExtractorTool, spec), self.name, limits, pool.batch_size, careful
        )
        self._is_store_there = False

    def process(self, batch: pa.Table) -> pa.Table:
        todo = todo_column(self._modality)
        mine = batch.filter(batch[todo].is_valid()) if batch[todo].null_count else batch  # a filter copies
        results = self._extract(mine.select([*ALWAYS, *sorted(self._spec.needs)]))
        self._write(results, mine)
        outcomes = {result.clip_id: result.outcome(self._modality) for result in results}
        return with_outcomes(batch, outcomes).select(self._keep)

    def _extract(self, rows: pa.Table) -> list[Attempt[Features]]:
        clips = [unpack_clip(row) for row in rows_of(rows)]
        absences = {clip.clip_id: self._absence(clip) for clip in clips}
        absent = [Attempt[Features](clip_id, failure=why) for clip_id, why in absences.items() if why]
        ready = [clip for clip in clips if not absences[clip.clip_id]]
        results = self._runner.run(ready)
        _refuse_failing_alike(results)
        return absent + results

    def _absence(self, clip: DecodedClip) -> tuple[str, str] | None:
        """(stage, reason) of the first input that the extractor needs and the clip has not."""
        for need in sorted(self._spec.needs):
            if need in clip.failed:
                return "media", clip.failed[need]
            if getattr(clip, need) is None:
                return "missing", clip.missing.get(need, f"the clip has no {need}")
        return None

    def _write(self, results: Sequence[Attempt[Features]], rows: pa.Table) -> None:
        fingerprint = self._store.fingerprint
        if not self._is_store_there:
            self._store.create(self._spec.identity, self._runner.feature_dim)
            self._is_store_there = True
        names = ("clip_id", todo_column(self._modality), origin_column(self._modality))
        told = zip(*(rows[name].to_pylist() for name in names), strict=True)
        known = {clip_id: (attempt, origin_of(origin)) for clip_id, attempt, origin in told}
        done = [(r.clip_id, r.result) for r in results if r.result is not None]
        lost = [(r.clip_id, r.failure) for r in results if r.failure is not None]
        self._store.write([ClipFeatures(i, f.values, f.timestamps_s, f.extras, known[i][1]) for i, f in done])
        write_failures(
            self._store.workspace,
            [Failure(i, self._modality, fingerprint, *why, *known[i]) for i, why in lost],
        )


class ExtractorTool:
    """An extractor whose features a store can hold."""

    def __init__(self, spec: ExtractorSpec) -> None:
        self._extractor = spec.build()
        self.feature_dim: int | None = self._extractor.feature_dim

    def __call__(self, clips: Sequence[DecodedClip]) -> list[Features]:
        return [_fit_for_store(found, self._extractor) for found in self._extractor.extract(clips)]

    def use_less_memory(self) -> bool:
        return self._extractor.use_less_memory()


def _fit_for_store(found: Features, extractor: Extractor) -> Features:
    """The features of one clip, if a store of float16 can hold them.

    Raises:
        ClipError: they are not (T ≥ 1, feature_dim) with as many timestamps, or not finite in float16.
    """
    values = found.values.astype(np.float16, copy=False)
    num_steps = len(values)
    per_step = [found.timestamps_s, *found.extras.values()]
    if (
        values.shape != (num_steps, extractor.feature_dim)
        or not num_steps
        or {*map(len, per_step)} != {num_steps}
    ):
        raise ClipError(
            extractor.MODALITY, f"features of shape {values.shape} for {len(found.timestamps_s)} steps"
        )
    if (values.view(np.uint16) & _MAGNITUDE).max() >= _INFINITY:
        raise ClipError(extractor.MODALITY, "a feature is not a number, or is beyond the range of float16")
    return replace(found, values=values)


def _refuse_failing_alike(results: Sequence[Attempt[Features]]) -> None:
    """A whole batch that fails in one unforeseen way says that the stage is broken, not that its clips are.

    Raises:
        EmiRayError: several clips, and all of them, failed for the same reason but for its numbers, which no
            extractor foresaw.
    """
    reasons = {result.failure and re.sub(r"\d[\d.,]*", "", result.failure[1]) for result in results}
    if len(results) > 1 and len(reasons) == 1 and any(result.is_unforeseen for result in results):
        raise EmiRayError(f"all {len(results)} clips of a batch fail alike: {results[0].failure}")
