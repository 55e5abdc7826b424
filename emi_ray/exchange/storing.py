"""One modality's clips on their way into the store: checked one by one, written a part at a time."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.errors import ClipError
from emi_ray.exchange.arrays import STAGE, check_range
from emi_ray.failures import Failure, write_failures
from emi_ray.feature_layout import ClipFeatures, content_digest
from emi_ray.feature_store import FeatureStore
from emi_ray.schema import Modality

CLIPS_PER_PART = 256
BYTES_PER_PART = 16 << 20


@dataclass
class ImportedPart:
    """What became of one modality.

    Attributes:
        num_before: clips that the store held already.
        num_unknown: files of clips that the corpus has not.
        reasons: why clips were quarantined, each with its clip's id.
        dtype: in which the features are kept.
        num_replaced: clips whose features were others before.
        rounding: root mean square of the error of ``dtype``, over that of the values; 0: nothing was lost.
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
        """Count one clip's features and what ``dtype`` makes of them."""
        exact = values.astype(np.float64)
        self.num_imported += 1
        self._squares += float((exact**2).sum())
        self._squared_errors += float(((exact - values.astype(self.dtype)) ** 2).sum())


def failure_of(store: FeatureStore, clip_id: str, stage: str, reason: str) -> Failure:
    return Failure(clip_id, store.modality, store.fingerprint, stage, reason)


class PartWriter:
    """Checks clips one by one, and writes them a part at a time.

    Args:
        held: clip id → digest of the features that the store holds of it. Of such a clip nothing happens where the
            features are the same; others replace them, and so does the reason why there are none any more.
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
            self._store.held.discard(record.filter(is_outdated))
        self._store.write(self._rows)
        write_failures(self._store.workspace, self._failures)
        self._rows, self._failures, self._outdated, self._bytes = [], [], [], 0

    def _add(self, clip_id: str, values: np.ndarray | ClipError) -> None:
        if isinstance(values, ClipError):
            raise values
        expected = self._result.feature_dim
        if values.shape[1] != expected:
            raise ClipError(STAGE, f"{values.shape[1]} features a step, where other clips have {expected}")
        check_range(values, self._store.dtype)
        if self._zero_is_missing and not values.any():
            raise ClipError("missing", "a vector of zeros, which stands for none in this layout")
        row = ClipFeatures(clip_id, values.astype(self._store.dtype), self._times(len(values)), {})
        if clip_id in self._held:
            if content_digest(row.values, row.timestamps_s, {}) == self._held[clip_id]:
                return
            self._outdated.append(clip_id)
            self._result.num_replaced += 1
        self._result.count(values)
        self._rows.append(row)
        self._bytes += row.values.nbytes

    def _times(self, num_steps: int) -> np.ndarray:
        """The middle of each step (T,), in seconds; 0 for text, which has no clock."""
        if self._store.modality == "text":
            return np.zeros(num_steps, np.float32)
        return ((np.arange(num_steps) + 0.5) / self._rate_hz).astype(np.float32)
