"""Computation, once before training, of what training never changes: parameter-free pooling, frozen encoders."""

import numpy as np
import torch

from emi_ray.models.encoders import SequenceEncoder
from emi_ray.models.fusion import FusionRegressor, Regressor
from emi_ray.schema import EncoderName
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData, PackedFeatures


def pool_once(model: Regressor, data: ClipData, device: torch.device) -> ClipData:
    """Replace the features of each encoder whose pooling has no parameters by the pooled vectors."""
    features = dict(data.features)
    for modality in model.modalities:
        encoder, packed = model.encoder_of(modality), data.features[modality]
        if (
            not isinstance(encoder, SequenceEncoder)
            or not encoder.pools_alike
            or packed.lengths.max(initial=0) <= 1
        ):
            continue
        encoder.to(device)
        batcher = Batcher(data, [modality], device)
        vectors = np.empty((len(data), encoder.pooling.out_dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in batcher.evaluation_batches(np.arange(len(data))):
                pooled = encoder.pool_batch(batcher.inputs(batch)[modality])
                vectors[batch] = pooled.cpu().numpy()
        features[modality] = one_step(vectors, packed, pooled=True)
    return data.with_features(features)


def embed_clips(model: FusionRegressor, data: ClipData, device: torch.device) -> ClipData:
    """Replace the features of all encoders by their embeddings."""
    model.to(device).eval()
    batcher = Batcher(data, model.modalities, device)
    embeddings: dict[EncoderName, np.ndarray] = {
        modality: np.empty((len(data), model.encoder(modality).embedding_dim), dtype=np.float32)
        for modality in model.modalities
    }
    with torch.inference_mode():
        for batch in batcher.evaluation_batches(np.arange(len(data))):
            for modality, values in zip(model.modalities, model.embed(batcher.inputs(batch)), strict=True):
                embeddings[modality][batch] = values.cpu().numpy()
    return data.with_features({m: one_step(values, data.features[m]) for m, values in embeddings.items()})


def one_step(vectors: np.ndarray, packed: PackedFeatures, pooled: bool = False) -> PackedFeatures:
    """Pack vectors (N, D), one for each clip and computed from ``packed``, as features with one step."""
    everyone = np.arange(len(vectors))
    ones = np.ones(len(vectors), dtype=np.int64)
    return PackedFeatures(vectors, everyone, ones, packed.present, f"from {packed.identity}", pooled)
