"""Features and targets of all clips in packed memory, read once and shared by all trainings.

The data are numpy arrays, so that processes can share a ``ClipData`` in Ray's object store without copying it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from emi_ray.errors import UserError
from emi_ray.schema import EncoderName, Label, labels_of


@dataclass(frozen=True)
class PackedFeatures:
    """The features of one modality for N clips, with the steps of all clips concatenated.

    Attributes:
        values: (sum of steps, D) float16 or float32.
        starts, lengths: (N,) int64; clip i is ``values[starts[i] : starts[i] + lengths[i]]``.
        present: (N,) bool; False for a clip that lacks the modality.
        identity: fingerprint of the extractor, or a hash of the values.
        pooled: whether each clip has a single vector that the encoder's pooling has computed in advance.
        digests: (N,) str, a hash of each clip's features, empty for a clip without any; None if unknown.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    present: np.ndarray
    identity: str
    pooled: bool = False
    digests: np.ndarray | None = None

    @property
    def feature_dim(self) -> int:
        return int(self.values.shape[1])

    def of(self, clip: int) -> np.ndarray:
        """Return the steps of one clip, (T, D)."""
        return self.values[self.starts[clip] : self.starts[clip] + self.lengths[clip]]

    def content_of(self, clips: np.ndarray) -> Iterator[bytes]:
        """Yield bytes that identify the features of each of some clips: their hash, or the features themselves."""
        for clip in clips:
            yield self.of(clip).tobytes() if self.digests is None else str(self.digests[clip]).encode()


@dataclass(frozen=True)
class ClipData:
    """N clips with their features and targets.

    Attributes:
        clip_ids: (N,) str.
        splits: (N,) str, ``train``, ``val`` or ``test``.
        features: features by encoder.
        targets: (N, L) float32 in the units of ``labels``; NaN for unknown values.
        labels: the L labels, with their ranges.
        groups: (N,) object, the group (person) of each clip or None; None if the corpus names no groups.
    """

    clip_ids: np.ndarray
    splits: np.ndarray
    features: Mapping[EncoderName, PackedFeatures]
    targets: np.ndarray
    labels: tuple[Label, ...]
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def num_bytes(self) -> int:
        """Size of all features in bytes."""
        return sum(packed.values.nbytes for packed in self.features.values())

    @property
    def unit_targets(self) -> np.ndarray:
        """Targets scaled from the ranges of the labels to [0, 1], (N, L) float32."""
        low, width = self._ranges
        return ((self.targets - low) / width).astype(np.float32)

    def in_units(self, predictions: np.ndarray) -> np.ndarray:
        """Convert predictions from the [0, 1] scale to the units of the labels, (N, L) float64."""
        low, width = self._ranges
        return predictions.astype(np.float64) * width + low

    @property
    def _ranges(self) -> tuple[np.ndarray, np.ndarray]:
        return label_ranges(self.labels)

    def labelled(self, labels: Sequence[Label]) -> "ClipData":
        """Select the targets of some labels by name, with the given ranges and in the given order.

        Raises:
            UserError: the corpus lacks a label.
        """
        names = [label.name for label in self.labels]
        if missing := [label.name for label in labels if label.name not in names]:
            raise UserError(
                f"The model predicts {', '.join(missing)}, which the corpus no longer has; its labels are: "
                f"{', '.join(names) or 'none'}. Read a corpus with that label (emi-ray init), or train again."
            )
        columns = [names.index(label.name) for label in labels]
        return replace(self, targets=self.targets[:, columns], labels=tuple(labels))

    def with_features(self, features: Mapping[EncoderName, PackedFeatures]) -> "ClipData":
        """Return the same clips with other features."""
        return replace(self, features=dict(features))


def label_ranges(labels: Sequence[Label]) -> tuple[np.ndarray, np.ndarray]:
    """Return the low ends and the widths of the labels' ranges, (L,) each; a width of 0 is replaced by 1."""
    low = np.array([label.low for label in labels])
    width = np.array([label.high - label.low for label in labels])
    return low, np.where(width > 0, width, 1.0)


def from_arrays(
    features: Mapping[EncoderName, Sequence[np.ndarray | None]],
    targets: np.ndarray,
    splits: Sequence[str],
    labels: Sequence[Label],
    clip_ids: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
) -> ClipData:
    """Pack arrays in memory: for each encoder one (T, D) array per clip, None for clips without the modality."""
    ids = [f"{index:05d}" for index in range(len(targets))] if clip_ids is None else clip_ids
    return ClipData(
        np.array(ids, dtype=str),
        np.array(splits, dtype=str),
        {modality: _pack(sequences) for modality, sequences in features.items()},
        np.asarray(targets, dtype=np.float32),
        tuple(labels),
        None if groups is None else np.array(groups, dtype=object),
    )


def join_clips(clips: pa.Table, features: Mapping[EncoderName, PackedFeatures]) -> ClipData:
    """Combine the clips of a corpus with features that are packed in the same order."""
    labels = labels_of(clips.schema)
    columns = [clips[label.name].to_numpy(zero_copy_only=False) for label in labels]
    return ClipData(
        np.array(clips["clip_id"].to_pylist(), dtype=str),
        np.array(clips["split"].to_pylist(), dtype=str),
        features,
        np.stack(columns, axis=1).astype(np.float32),
        labels,
        np.array(clips["group"].to_pylist(), dtype=object) if "group" in clips.column_names else None,
    )


def _pack(sequences: Sequence[np.ndarray | None]) -> PackedFeatures:
    lengths = np.array([0 if steps is None else len(steps) for steps in sequences], dtype=np.int64)
    values = np.concatenate([steps for steps in sequences if steps is not None])
    if values.dtype != np.float32:
        values = values.astype(np.float16)
    identity = hashlib.blake2b(values.tobytes(), digest_size=6).hexdigest()
    return PackedFeatures(values, np.cumsum(lengths) - lengths, lengths, lengths > 0, identity)
