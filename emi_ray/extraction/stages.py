"""The actors of the pipeline. Each takes an Arrow table of clips and passes on what later stages need.

A row on its way holds ``clip_id``, the ``todo_<modality>`` columns, the inputs of the stages still to come
(see ``media/clip.py``) and ``outcomes``, to which every stage adds one entry for each clip that it worked on.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import pyarrow as pa
from threadpoolctl import threadpool_limits

from emi_ray.config import MediaSettings
from emi_ray.errors import ClipError, EmiRayError
from emi_ray.extraction.work import store_of, todo_column
from emi_ray.extractors import Extractor, ExtractorSpec, Features
from emi_ray.feature_store import ClipFeatures, Failure, write_failures
from emi_ray.media.clip import DecodedClip, unpack_clip
from emi_ray.media.isolation import DecodeProcess
from emi_ray.media.source import ClipSource
from emi_ray.schema import MEDIA_COLUMNS, Modality, Need
from emi_ray.workspace import Workspace

OUTCOME = pa.struct(
    [
        pa.field("stage", pa.string()),
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("seconds", pa.float32()),
        pa.field("media_s", pa.float32()),
    ]
)
"""What one stage made of one clip.

``status`` is ok, missing (the clip lacks the input), failed (it is quarantined), or broken (the stage itself
cannot work, for a full disk or a model that does not load; the run ends). ``seconds``: spent by the stage.
"""

ALWAYS = ("clip_id", "missing", "failed", "notes")
"""Columns that every extractor reads beside its own needs."""

DECODED_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("transcript", pa.string()),
        pa.field("openface_csv", pa.string()),
        pa.field("video", pa.string()),
        pa.field("missing", pa.string()),
        pa.field("failed", pa.string()),
        pa.field("notes", pa.string()),
        pa.field("frames", pa.large_binary()),
        pa.field("faces", pa.large_binary()),
        pa.field("waveform", pa.large_binary()),
    ]
)


class _Stage(ABC):
    """An actor of the pipeline.

    What goes wrong with the stage itself, not with a clip, becomes an outcome of every clip in the batch: an
    exception would make Ray Data drop the batch in silence.
    """

    name: str

    def __call__(self, batch: pa.Table) -> pa.Table:
        if _is_broken(batch):
            return batch.select(["clip_id", "outcomes"])
        try:
            return self._process(batch)
        except Exception as error:  # noqa: BLE001 - becomes the error that ends the run
            reason = str(error) if isinstance(error, EmiRayError) else f"{type(error).__name__}: {error}"
            broken = [_outcome(self.name, "broken", reason, 0.0, 0.0)]
            outcomes = pa.array([broken] * batch.num_rows, pa.list_(OUTCOME))
            return pa.table({"clip_id": batch["clip_id"], "outcomes": outcomes})

    @abstractmethod
    def _process(self, batch: pa.Table) -> pa.Table:
        """The stage's work on one batch."""


class Decode(_Stage):
    """Opens and decodes each clip once, in a child process that a bad file may crash or hang."""

    name = "decode"

    def __init__(
        self, media: MediaSettings, needs: dict[Modality, frozenset[Need]], time_limit_s: float
    ) -> None:
        self._needs = needs
        self._decoder = DecodeProcess(media, time_limit_s)

    def _process(self, batch: pa.Table) -> pa.Table:
        decoded, outcomes = [], []
        for row in batch.to_pylist():
            started = time.perf_counter()
            needs = [self._needs[m] for m in self._needs if row[todo_column(m)] is not None]
            source = ClipSource(row["clip_id"], **{name: row[name] for name in MEDIA_COLUMNS})
            decoded.append(self._decoder.decode(source, frozenset[Need]().union(*needs)))
            seconds = time.perf_counter() - started
            outcomes.append([_outcome("decode", "ok", None, seconds, decoded[-1]["media_s"])])
        table = pa.Table.from_pylist(decoded, schema=DECODED_SCHEMA)
        for name in map(todo_column, self._needs):
            table = table.append_column(name, batch[name])
        return table.append_column("outcomes", pa.array(outcomes, pa.list_(OUTCOME)))


class Extract(_Stage):
    """Runs one extractor and writes its features; passes on the columns in ``keep``."""

    def __init__(self, workspace: Workspace, spec: ExtractorSpec, keep: Sequence[str], threads: int) -> None:
        limit_threads(threads)
        self.name = self._modality = spec.kind.MODALITY
        self._spec = spec
        self._store = store_of(workspace, spec)
        self._needs = spec.needs
        self._keep = [*keep, "outcomes"]

    @cached_property
    def _extractor(self) -> Extractor:
        """Built with the first batch, so that a model that does not load is reported like any other error."""
        extractor = self._spec.build()
        self._store.create(self._spec.identity, extractor.feature_dim)
        return extractor

    def _process(self, batch: pa.Table) -> pa.Table:
        todo = todo_column(self._modality)
        mine = batch.filter(batch[todo].is_valid())
        results = self._extract(mine.select([*ALWAYS, *sorted(self._needs)]).to_pylist())
        self._write(results, dict(zip(mine["clip_id"].to_pylist(), mine[todo].to_pylist(), strict=True)))
        outcomes = {result.clip_id: result.outcome(self._modality) for result in results}
        so_far = zip(batch["clip_id"].to_pylist(), batch["outcomes"].to_pylist(), strict=True)
        grown = [[*before, outcomes[clip]] if clip in outcomes else before for clip, before in so_far]
        column = batch.schema.get_field_index("outcomes")
        return batch.set_column(column, "outcomes", pa.array(grown, pa.list_(OUTCOME))).select(self._keep)

    def _extract(self, rows: list[dict]) -> list["_Result"]:
        clips = [unpack_clip(row) for row in rows]
        absent = [(clip, self._absence(clip)) for clip in clips]
        results = [_Result(clip.clip_id, failure=reason) for clip, reason in absent if reason]
        ready = [clip for clip, reason in absent if not reason]
        return results + (self._attempt(ready) if ready else [])

    def _absence(self, clip: DecodedClip) -> tuple[str, str] | None:
        """(stage, reason) of the first input that the extractor needs and the clip has not."""
        for need in sorted(self._needs):
            if need in clip.failed:
                return "media", clip.failed[need]
            if getattr(clip, need) is None:
                return "missing", clip.missing.get(need, f"the clip has no {need}")
        return None

    def _attempt(self, clips: list[DecodedClip]) -> list["_Result"]:
        """Extract all clips at once; if that fails, one at a time, so that only the bad ones are lost."""
        started = time.perf_counter()
        try:
            features = self._extractor.extract(clips)
        except Exception as error:  # noqa: BLE001 - the one boundary that quarantines a clip
            if len(clips) > 1:
                return [result for clip in clips for result in self._attempt([clip])]
            return [_Result(clips[0].clip_id, failure=_explain(self._modality, error))]
        seconds = (time.perf_counter() - started) / len(clips)
        return [
            _Result(clip.clip_id, features=found, seconds=seconds)
            for clip, found in zip(clips, features, strict=True)
        ]

    def _write(self, results: Sequence["_Result"], attempts: dict[str, int]) -> None:
        self._store.write(
            [
                ClipFeatures(r.clip_id, r.features.values, r.features.timestamps_s, r.features.extras)
                for r in results
                if r.features
            ]
        )
        write_failures(
            self._store.workspace,
            [
                Failure(r.clip_id, self._modality, self._store.fingerprint, *r.failure, attempts[r.clip_id])
                for r in results
                if r.failure
            ],
        )


@dataclass(frozen=True)
class _Result:
    """Features of one clip, or (stage, reason) of why there are none."""

    clip_id: str
    features: Features | None = None
    failure: tuple[str, str] | None = None
    seconds: float = 0.0

    def outcome(self, modality: Modality) -> dict:
        if self.failure is None:
            return _outcome(modality, "ok", None, self.seconds, 0.0)
        stage, reason = self.failure
        return _outcome(modality, "missing" if stage == "missing" else "failed", reason, self.seconds, 0.0)


def limit_threads(threads: int) -> None:
    """Bound the threads of this process's numerical libraries: pools would otherwise fight for cores."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when an extractor imports it
    threadpool_limits(threads)
    cv2.setNumThreads(threads)


def _is_broken(batch: pa.Table) -> bool:
    if "outcomes" not in batch.column_names:
        return False
    return any(outcome["status"] == "broken" for row in batch["outcomes"].to_pylist() for outcome in row)


def _explain(modality: Modality, error: Exception) -> tuple[str, str]:
    if isinstance(error, ClipError):
        return error.stage, error.reason
    return modality, f"{type(error).__name__}: {error}"


def _outcome(stage: str, status: str, reason: str | None, seconds: float, media_s: float) -> dict:
    return {"stage": stage, "status": status, "reason": reason, "seconds": seconds, "media_s": media_s}
