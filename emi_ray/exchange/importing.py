"""Ready features into the store.

The store keeps float16. What it cannot hold (NaN, infinity, magnitudes above 65,504) costs the clip, with the
reason; how much the others lose by rounding is measured (:attr:`Imported.rounding`), and nothing at all where
every value is a float16 already.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emi_ray.corpus.files import absolute
from emi_ray.corpus.manifest import Finding
from emi_ray.errors import ClipError, EmiRayError, UserError
from emi_ray.exchange.arrays import STAGE, check_half
from emi_ray.exchange.clips import init_from_features, match_ids
from emi_ray.exchange.layouts import LAYOUTS, NOMINAL_RATE_HZ, OpenPart, open_layout
from emi_ray.extractors import EXTRACTORS
from emi_ray.extractors.base import fingerprint
from emi_ray.feature_store import ClipFeatures, Failure, FeatureStore, find_store, write_failures
from emi_ray.schema import Modality
from emi_ray.workspace import Workspace

VERSION = 1
CLIPS_PER_PART = 256
BYTES_PER_PART = 64 << 20
NUM_PROBED = 32
"""The first clips, whose most frequent size is that of the modality."""

Progress = Callable[[int, int, str], None]
"""Called with (clips done, clips in all, what is going on)."""


@dataclass
class ImportedPart:
    """What became of one modality.

    Attributes:
        num_before: clips that the store held already.
        num_unknown: files of clips that the corpus has not.
        reasons: why clips were quarantined, each with its clip's id.
        rounding: root mean square of the error of float16, over that of the values; 0: nothing was lost.
    """

    modality: Modality
    name: str
    fingerprint: str
    feature_dim: int = 0
    num_imported: int = 0
    num_before: int = 0
    num_missing: int = 0
    num_unknown: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    _squares: float = 0.0
    _squared_errors: float = 0.0

    @property
    def rounding(self) -> float:
        return float(np.sqrt(self._squared_errors / self._squares)) if self._squares else 0.0

    def count(self, values: np.ndarray) -> None:
        """Count one clip's features and what float16 makes of them."""
        exact = values.astype(np.float64)
        self.num_imported += 1
        self._squares += float((exact**2).sum())
        self._squared_errors += float(((exact - values.astype(np.float16)) ** 2).sum())


@dataclass(frozen=True)
class Imported:
    """What an import did; ``findings`` are remarks about the corpus, where it made one."""

    parts: Sequence[ImportedPart]
    findings: Sequence[Finding] = ()


def import_features(
    workspace: Workspace,
    layout: str,
    source: str,
    modality: Modality | None = None,
    *,
    name: str | None = None,
    splits: str | None = None,
    rate_hz: float | None = None,
    extend: bool = False,
    on_progress: Progress = lambda done, total, title: None,
) -> Imported:
    """Put ready features into the store; makes the workspace where there is none.

    The fingerprint is a hash of the layout, the name and the content of all files: the same features have the
    same one anywhere, and changed ones never pass for those of before. A killed import goes on where it stopped.
    Memory holds one part (64 MiB of float16, or one clip) and one file at a time.

    Args:
        layout: a key of ``LAYOUTS``.
        source: the folder or file; a local path or a URI.
        modality: only this one; the layouts ``folder`` and ``table`` need to be told.
        name: what recipes call these features (``encoders.vision.features=NAME``); by default
            ``imported-LAYOUT-MODALITY``.
        splits: where the splits and labels of a new workspace are; by default the split CSVs in ``source``.
        rate_hz: steps a second, for timestamps. By default 6 for the organisers' vit and 50 for their
            wav2vec2; elsewhere unknown, and timestamps count steps as if there was one a second.
        extend: the source has got more clips since it was imported: they join the corpus and the features of
            that time, whose fingerprint stays, so that models trained on these can be given the new clips.

    Raises:
        UserError: the layout, the source, the name or the corpus cannot work.
        EmiRayError: nothing of a modality could be imported.
    """
    source = absolute(source)
    opened = open_layout(layout, source, modality)
    _check_name(name, opened)
    spelled = {clip_id for part in opened for clip_id in part.source.ids()}
    if not spelled:
        raise UserError(
            f"--source {source}: no file of features in it. Layout {layout}: {LAYOUTS[layout].title}."
        )
    pads_ids = LAYOUTS[layout].pads_ids
    findings = init_from_features(workspace, source, splits, spelled, pads_ids=pads_ids, extend=extend)
    parts = []
    for part in opened:
        on_progress(0, 0, f"Reading {part.source.place}")
        identity = _identify(layout, part, name, rate_hz)
        store = _store(workspace, identity, extend)
        parts.append(_import_part(store, identity, part, on_progress))
    return Imported(parts, findings)


def _check_name(name: str | None, opened: Sequence[OpenPart]) -> None:
    if name is None:
        return
    if name in EXTRACTORS:
        raise UserError(f"--name '{name}' is what an extractor is called. Give another name.")
    if len(opened) > 1:
        raise UserError(f"--name '{name}' would be that of {len(opened)} modalities. Add --modality.")


def _identify(layout: str, opened: OpenPart, name: str | None, rate_hz: float | None) -> dict[str, Any]:
    """What the fingerprint is a hash of."""
    modality, rate = opened.source.modality, rate_hz or opened.part.rate_hz
    return {
        "extractor": name or f"imported-{layout}-{modality}",
        "modality": modality,
        "version": VERSION,
        "settings": {"layout": layout, "content": opened.source.digest(), "rate_hz": rate},
        "media": {},
    }


def _store(workspace: Workspace, identity: Mapping[str, Any], extend: bool) -> FeatureStore:
    modality = identity["modality"]
    if extend:
        return find_store(workspace, modality, extractor=identity["extractor"])
    return FeatureStore(workspace, modality, fingerprint(identity))


def _import_part(
    store: FeatureStore, identity: Mapping[str, Any], opened: OpenPart, on_progress: Progress
) -> ImportedPart:
    source, workspace = opened.source, store.workspace
    spelled = match_ids(source.ids(), workspace.clips(["clip_id"])["clip_id"].to_pylist())
    held = store.clip_ids()
    result = ImportedPart(store.modality, identity["extractor"], store.fingerprint, num_before=len(held))
    result.num_unknown = len(source.ids()) - len(spelled)
    if not spelled:
        raise UserError(
            f"{source.place}: none of its {len(source.ids()):,} ids ({source.ids()[0]}, for one) is a clip of "
            f"{workspace.root}. Import into a new workspace, or name the files as clips.parquet does."
        )
    todo = {spelling: clip_id for clip_id, spelling in spelled.items() if clip_id not in held}
    result.feature_dim = store.feature_dim if held else _usual_dim(opened, sorted(spelled.values()))
    if result.feature_dim:
        store.create(identity, result.feature_dim)
    _write_missing(store, source.place, spelled, result)
    writer = _Writer(store, opened, result, identity["settings"]["rate_hz"] or NOMINAL_RATE_HZ)
    for done, (spelling, values) in enumerate(source.arrays(todo), start=1):
        writer.add(todo[spelling], values)
        on_progress(done, len(todo), f"Importing {store.modality}")
    writer.flush()
    _refuse_nothing(result, source.place)
    return result


def _usual_dim(opened: OpenPart, spelled: Sequence[str]) -> int:
    """The most frequent size among the first clips; 0 where none can be read."""
    probed = opened.source.arrays(spelled[:NUM_PROBED])
    dims = Counter(values.shape[1] for _, values in probed if isinstance(values, np.ndarray))
    return dims.most_common(1)[0][0] if dims else 0


def _write_missing(store: FeatureStore, place: str, spelled: dict[str, str], result: ImportedPart) -> None:
    clip_ids = store.workspace.clips(["clip_id"])["clip_id"].to_pylist()
    absent = [clip_id for clip_id in clip_ids if clip_id not in spelled]
    reason = f"no features of this clip in {place}"
    write_failures(store.workspace, [_failure(store, clip_id, "missing", reason) for clip_id in absent])
    result.num_missing += len(absent)


def _failure(store: FeatureStore, clip_id: str, stage: str, reason: str) -> Failure:
    return Failure(clip_id, store.modality, store.fingerprint, stage, reason)


class _Writer:
    """Checks clips one by one, and writes them a part at a time."""

    def __init__(self, store: FeatureStore, opened: OpenPart, result: ImportedPart, rate_hz: float) -> None:
        self._store, self._result, self._rate_hz = store, result, rate_hz
        self._zero_is_missing = opened.part.zero_is_missing
        self._rows: list[ClipFeatures] = []
        self._failures: list[Failure] = []
        self._bytes = 0

    def add(self, clip_id: str, values: np.ndarray | ClipError) -> None:
        try:
            self._add(clip_id, values)
        except ClipError as error:
            self._failures.append(_failure(self._store, clip_id, error.stage, error.reason))
            if error.stage == "missing":
                self._result.num_missing += 1
            else:
                self._result.reasons[clip_id] = error.reason
        if len(self._rows) + len(self._failures) >= CLIPS_PER_PART or self._bytes >= BYTES_PER_PART:
            self.flush()

    def flush(self) -> None:
        self._store.write(self._rows)
        write_failures(self._store.workspace, self._failures)
        self._rows, self._failures, self._bytes = [], [], 0

    def _add(self, clip_id: str, values: np.ndarray | ClipError) -> None:
        if isinstance(values, ClipError):
            raise values
        expected = self._result.feature_dim
        if values.shape[1] != expected:
            raise ClipError(STAGE, f"{values.shape[1]} features a step, where other clips have {expected}")
        check_half(values)
        if self._zero_is_missing and not values.any():
            raise ClipError("missing", "a vector of zeros, which stands for none in this layout")
        self._result.count(values)
        row = ClipFeatures(clip_id, values.astype(np.float16), self._times(len(values)), {})
        self._rows.append(row)
        self._bytes += row.values.nbytes

    def _times(self, num_steps: int) -> np.ndarray:
        """The middle of each step (T,), in seconds; 0 for text, which has no clock."""
        if self._store.modality == "text":
            return np.zeros(num_steps, np.float32)
        return ((np.arange(num_steps) + 0.5) / self._rate_hz).astype(np.float32)


def _refuse_nothing(result: ImportedPart, place: str) -> None:
    if result.num_imported or result.num_before:
        return
    reason = next(iter(result.reasons.values()), "every clip is without")
    raise EmiRayError(
        f"{place}: no {result.modality} features could be imported. The first reason: {reason}."
    )
