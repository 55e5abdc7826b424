"""Drawing batches of clips and gathering their tensors.

Training batches are drawn at random, whatever the lengths of their clips. Batches of similar length would need less
padding, but CCC and Pearson losses compare the clips of a batch, and would then never compare short with long ones.
Padding is limited within a batch instead: clips are padded in groups whose lengths differ at most by a factor of two.
If an encoder reads clips directly from packed memory (:mod:`emi_ray.models.flat_attention`), nothing is padded. With
losses of single clips (MSE, …), batches may be sorted by length within a window of ``bucket_batches`` batches.
"""

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from emi_ray.models.flat_attention import FlatSteps
from emi_ray.models.sequences import Inputs, PaddedGroup, Padding, Sequences
from emi_ray.schema import EncoderName
from emi_ray.training.data.clip_data import ClipData, PackedFeatures

_MAX_PADDING = 2.0
_SMALL_BATCH_VALUES = 1 << 19
_EVALUATION_CLIPS = 512
_EVALUATION_VALUES = 1 << 23


def shared_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the memory of an array and must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class Batcher:
    """Gathers batches of a :class:`ClipData` as tensors on a device.

    Args:
        data: the clips.
        modalities: names of the encoders whose features are gathered.
        device: target device; the features are copied to it once.
    """

    def __init__(self, data: ClipData, modalities: Sequence[EncoderName], device: torch.device) -> None:
        self.device = device
        self._packed = {modality: _Resident(data.features[modality], device) for modality in modalities}
        self._targets = torch.from_numpy(data.unit_targets).to(device)
        sizes = [data.features[m].lengths * data.features[m].feature_dim for m in modalities]
        self._sizes = np.sum(sizes, axis=0)

    def inputs(self, rows: np.ndarray) -> Inputs:
        """Gather the features of some clips, given their rows (B,) int64; only the rows are copied to the device."""
        chosen = torch.from_numpy(rows).to(self.device)
        return {modality: packed.gather(rows, chosen) for modality, packed in self._packed.items()}

    def targets(self, rows: np.ndarray) -> Tensor:
        """Return the targets of some clips on the [0, 1] scale, (B, L) float32."""
        return self._targets[torch.from_numpy(rows)]

    def training_batches(
        self, rows: np.ndarray, batch_size: int, bucket_batches: int, seed: Sequence[int]
    ) -> list[np.ndarray]:
        """Divide ``rows`` into random batches whose sizes differ by at most one.

        Args:
            rows: (n,) int64.
            batch_size: maximum number of clips in a batch.
            bucket_batches: number of batches whose clips are sorted by length together; 1 for random batches.
            seed: non-negative integers, for example of the run, the stage and the epoch. Equal seeds give equal
                batches.
        """
        random = np.random.default_rng(list(seed))
        shuffled = random.permutation(rows)
        window = batch_size * bucket_batches
        # Only the clips within a window are sorted by length, so that batches still differ from epoch to epoch.
        windows = [shuffled[start : start + window] for start in range(0, len(shuffled), window)]
        if bucket_batches > 1:
            windows = [part[np.argsort(self._sizes[part], kind="stable")] for part in windows]
        batches = np.array_split(np.concatenate(windows), -(-len(rows) // batch_size))
        return [batches[index] for index in random.permutation(len(batches))]

    def evaluation_batches(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Divide ``rows`` into batches, the longest clips first, whose size is limited by their memory."""
        ordered = rows[np.argsort(-self._sizes[rows], kind="stable")]
        start = 0
        while start < len(ordered):
            fitting = _EVALUATION_VALUES // max(1, int(self._sizes[ordered[start]]))
            stop = start + int(np.clip(fitting, 1, _EVALUATION_CLIPS))
            yield ordered[start:stop]
            start = stop


class _Resident:
    """The packed features of one modality as tensors. On a CPU they share the memory of the numpy arrays."""

    def __init__(self, packed: PackedFeatures, device: torch.device) -> None:
        arrays = (packed.values, packed.starts, packed.lengths, packed.present)
        self._values, self._starts, self._lengths, self._present = (
            shared_tensor(array).to(device) for array in arrays
        )
        self._last = torch.maximum(self._starts, self._starts + self._lengths - 1).clamp_(
            max=max(0, len(self._values) - 1)
        )
        self._packed = packed
        self._device = device

    def gather(self, rows: np.ndarray, chosen: Tensor) -> Sequences:
        """Gather the clips of ``rows``, (B,) int64; ``chosen`` is the same as a tensor on the device."""
        packed = self._packed
        flat = None
        if self._device.type == "cpu":
            flat = FlatSteps(self._values, packed.starts[rows], packed.lengths[rows])
        return Sequences(self._present[chosen], lambda: self._padding(rows, chosen), flat, packed.pooled)

    def _padding(self, rows: np.ndarray, chosen: Tensor) -> Padding:
        lengths = self._packed.lengths[rows]
        descending = np.argsort(-lengths, kind="stable")
        parts = _groups(lengths[descending], self._packed.feature_dim)
        if len(parts) == 1:
            return Padding((self._pad(lengths, chosen),))
        places = torch.from_numpy(descending).to(self._device)
        groups = tuple(self._pad(lengths[descending[part]], chosen[places[part]]) for part in parts)
        return Padding(groups, torch.argsort(places))

    def _pad(self, lengths: np.ndarray, chosen: Tensor) -> PaddedGroup:
        """Pad the clips ``chosen``; ``lengths`` comes from the host, which therefore need not wait for the GPU."""
        steps = torch.arange(max(1, int(lengths.max(initial=0))), device=self._device)
        counts = self._lengths[chosen, None]
        mask = steps < counts
        if not len(self._values):  # no clip has this modality
            return PaddedGroup(
                torch.zeros((*mask.shape, self._packed.feature_dim), device=self._device), mask
            )
        # Masked steps repeat the clip's last step, which is finite and already in the cache.
        index = torch.minimum(self._starts[chosen, None] + steps, self._last[chosen, None])
        values = self._values.index_select(0, index.view(-1)).float().view(*mask.shape, -1)
        if not lengths.all():  # a clip without steps would otherwise get a step of another clip
            values.masked_fill_((counts == 0)[:, :, None], 0.0)
        return PaddedGroup(values, mask)


def _groups(descending: np.ndarray, feature_dim: int) -> list[slice]:
    """Divide the lengths of a batch, longest first, into groups whose longest is at most twice their shortest.

    Small batches stay one group, because another group costs about as much time as padding 500,000 values.
    """
    if not len(descending) or descending[0] * len(descending) * feature_dim <= _SMALL_BATCH_VALUES:
        return [slice(None)]
    cuts, longest = [0], descending[0]
    for place, length in enumerate(descending.clip(min=1)):
        if length * _MAX_PADDING < longest:
            cuts.append(place)
            longest = length
    return [slice(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(descending)], strict=True)]
