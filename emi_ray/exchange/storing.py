"""Check the clips of one modality one by one, and write them to the store in parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import ClipError
from emi_ray.exchange.arrays import STAGE, check_range
from emi_ray.schema import Modality
from emi_ray.store.failures import Failure, write_failures
from emi_ray.store.feature_layout import ClipFeatures, content_digest
from emi_ray.store.feature_store import FeatureStore

CLIPS_PER_PART = 256
BYTES_PER_PART = 16 << 20


@dataclass
class ImportedPart:
    """The result of importing one modality.

    Attributes:
        num_before: number of clips that the store had already.
        num_unknown: number of files of clips that are not in the corpus.
        reasons: reasons of quarantined clips, by clip id.
        dtype: type of the stored features.
        num_replaced: number of clips whose features have been replaced by others.
        rounding: root mean square of the rounding error of ``dtype`` relative to that of the values; 0: no error.
    """

    modality: Modality
    name: str
    fingerprint: str
    feature_dim: int = 0
    dtype: str = "float16"
    num_imported: int = 0
    num_replaced: int = 0
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
        """Count one clip's features and their rounding error."""
        exact = values.astype(np.float64)
        self.num_imported += 1
        self._squares += float((exact**2).sum())
        self._squared_errors += float(((exact - values.astype(self.dtype)) ** 2).sum())


def failure_of(store: FeatureStore, clip_id: str, stage: str, reason: str) -> Failure:
    return Failure(clip_id, store.modality, store.fingerprint, stage, reason)


class PartWriter:
    """Checks clips one by one, and writes them in parts.

    Args:
        held: clip id → digest of the features in the store. Equal features of such a clip are skipped. Other
            features, or a reason why there are none any more, replace them.
    """

    def __init__(
        self,
        store: FeatureStore,
        result: ImportedPart,
        rate_hz: float,
        zero_is_missing: bool,
        held: Mapping[str, str],
    ) -> None:
        self._store, self._result, self._rate_hz = store, result, rate_hz
        self._zero_is_missing = zero_is_missing
        self._held = held
        self._rows: list[ClipFeatures] = []
        self._failures: list[Failure] = []
        self._outdated: list[str] = []
        self._bytes = 0

    def add(self, clip_id: str, values: np.ndarray | ClipError) -> None:
        try:
            self._add(clip_id, values)
        except ClipError as error:
            if clip_id in self._held:
                self._outdated.append(clip_id)
            self._failures.append(failure_of(self._store, clip_id, error.stage, error.reason))
            if error.stage == "missing":
                self._result.num_missing += 1
            else:
                self._result.reasons[clip_id] = error.reason
        if len(self._rows) + len(self._failures) >= CLIPS_PER_PART or self._bytes >= BYTES_PER_PART:
            self.flush()

    def flush(self) -> None:
        if self._outdated:
            record = self._store.held.record()
            is_outdated = pc.is_in(record["clip_id"], value_set=pa.array(self._outdated, pa.string()))
            # Old rows are removed first, because readers use the first row of a clip.
            self._store.held.discard(record.filter(is_outdated))
        self._store.write(self._rows)
        write_failures(self._store.workspace, self._failures)
        self._rows, self._failures, self._outdated, self._bytes = [], [], [], 0

    def _add(self, clip_id: str, values: np.ndarray | ClipError) -> None:
        if isinstance(values, ClipError):
            raise values
        expected = self._result.feature_dim
        if values.shape[1] != expected:
            raise ClipError(STAGE, f"{values.shape[1]} features per step, but other clips have {expected}")
        check_range(values, self._store.dtype)
        if self._zero_is_missing and not values.any():
            raise ClipError("missing", "a vector of zeros, which means missing in this layout")
        row = ClipFeatures(clip_id, values.astype(self._store.dtype), self._times(len(values)), {})
        if clip_id in self._held:
            # The digest is that of the rounded values, as they are stored.
            if content_digest(row.values, row.timestamps_s, {}) == self._held[clip_id]:
                return
            self._outdated.append(clip_id)
            self._result.num_replaced += 1
        self._result.count(values)
        self._rows.append(row)
        self._bytes += row.values.nbytes

    def _times(self, num_steps: int) -> np.ndarray:
        """Return the middle of each step (T,) in seconds; 0 for text, which has no timing."""
        if self._store.modality == "text":
            return np.zeros(num_steps, np.float32)
        return ((np.arange(num_steps) + 0.5) / self._rate_hz).astype(np.float32)
