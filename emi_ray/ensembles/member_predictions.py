"""Predictions of all members of an ensemble for the same clips, and their combination."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.ensemble_weights import EnsembleWeights, combine


@dataclass(frozen=True)
class MemberPredictions:
    """Predictions of M members for N clips and L labels.

    Attributes:
        clip_ids: the N clips.
        labels: the L labels.
        values: (M, N, L) in the units of the labels; NaN if a clip has no modality that the member reads.
        patterns: (N,) for each clip, the modalities that any member read, joined by commas.
    """

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, tables: Sequence[pa.Table], labels: Sequence[str]) -> "MemberPredictions":
        """Stack the prediction tables of the members, which list the same clips in the same order."""
        parts, had = [], []
        for table in tables:
            values = np.stack([table[label].to_numpy().astype(np.float64) for label in labels], axis=1)
            modalities = table["modalities"].to_pylist()
            # A model always predicts something; without any modality that it reads, it does not count.
            parts.append(np.where(np.array([bool(each) for each in modalities])[:, None], values, np.nan))
            had.append(modalities)
        patterns = [
            # The union over members, in the order in which they name the modalities.
            ",".join(dict.fromkeys(m for one in each for m in one.split(",") if m))
            for each in zip(*had, strict=True)
        ]
        return cls(tuple(tables[0]["clip_id"].to_pylist()), tuple(labels), np.stack(parts), tuple(patterns))

    def table(self, values: np.ndarray) -> pa.Table:
        """Return combined predictions ``values`` (N, L) as a table: ``clip_id``, the labels, ``modalities``."""
        columns = {label: values[:, index] for index, label in enumerate(self.labels)}
        return pa.table(
            {"clip_id": pa.array(self.clip_ids, pa.string()), **columns, "modalities": list(self.patterns)}
        )

    def at(self, rows: np.ndarray) -> "MemberPredictions":
        """Return the predictions for some of the clips; ``rows`` are indices, or a mask (N,)."""
        return MemberPredictions(
            tuple(np.array(self.clip_ids)[rows].tolist()),
            self.labels,
            self.values[:, rows],
            tuple(np.array(self.patterns)[rows].tolist()),
        )


def cross_fitted(
    values: np.ndarray,
    predicted: MemberPredictions,
    fold_weights: Sequence[EnsembleWeights],
    folds: np.ndarray,
) -> np.ndarray:
    """Return predictions in which the clips of each fold use the weights that were fitted without that fold.

    Args:
        values: (N, L) predictions with the weights of all clips; used for clips that are in no fold.
        predicted: predictions of the members for the same clips.
        fold_weights: for each fold, the weights that were fitted on the other folds.
        folds: (N,) the fold of each clip, -1 for none.

    Returns:
        (N, L) predictions.
    """
    crossed = values.copy()
    for fold, weights in enumerate(fold_weights):
        in_fold = folds == fold
        crossed[in_fold] = combine(
            weights, predicted.values[:, in_fold], np.array(predicted.patterns)[in_fold].tolist()
        )
    return crossed
