"""What the members of an ensemble say of the same clips, and how weights make one answer of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from emi_ray.ensemble_weights import EnsembleWeights, combine


@dataclass(frozen=True)
class MemberAnswers:
    """What M members say of N clips: (M, N, L), NaN where a member can read nothing of a clip."""

    clip_ids: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, tables: Sequence[pa.Table], labels: Sequence[str]) -> "MemberAnswers":
        parts, had = [], []
        for table in tables:
            values = np.stack([table[label].to_numpy().astype(np.float64) for label in labels], axis=1)
            modalities = table["modalities"].to_pylist()
            parts.append(np.where(np.array([bool(each) for each in modalities])[:, None], values, np.nan))
            had.append(modalities)
        patterns = [
            ",".join(dict.fromkeys(m for one in each for m in one.split(",") if m))
            for each in zip(*had, strict=True)
        ]
        return cls(tuple(tables[0]["clip_id"].to_pylist()), tuple(labels), np.stack(parts), tuple(patterns))

    def table(self, values: np.ndarray) -> pa.Table:
        columns = {label: values[:, index] for index, label in enumerate(self.labels)}
        return pa.table(
            {"clip_id": pa.array(self.clip_ids, pa.string()), **columns, "modalities": list(self.patterns)}
        )

    def at(self, rows: np.ndarray) -> "MemberAnswers":
        return MemberAnswers(
            tuple(np.array(self.clip_ids)[rows].tolist()),
            self.labels,
            self.values[:, rows],
            tuple(np.array(self.patterns)[rows].tolist()),
        )


def cross_fitted(
    values: np.ndarray, said: MemberAnswers, fold_weights: Sequence[EnsembleWeights], folds: np.ndarray
) -> np.ndarray:
    """Predictions, those of a fold by the weights that were fitted without it."""
    crossed = values.copy()
    for fold, weights in enumerate(fold_weights):
        own = folds == fold
        crossed[own] = combine(weights, said.values[:, own], np.array(said.patterns)[own].tolist())
    return crossed
