"""A hash of everything that determines the result of an encoder stage."""

import hashlib
import json

import numpy as np
import torch

from emi_ray.recipe.schema import Recipe
from emi_ray.schema import EncoderName
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows
from emi_ray.training.distributed import Team
from emi_ray.training.plan import encoder_settings


def encoder_key(
    recipe: Recipe, modality: EncoderName, data: ClipData, rows: Rows, seed: int, device: torch.device
) -> str:
    """Compute the key of an encoder stage, 16 hexadecimal digits. Stages with equal keys give the same weights.

    The key covers the settings of the encoder, the fingerprint of its extractor, and the clips of the split with
    their targets and the content of their features.
    """
    features = data.features[modality]
    decided_by = {
        **encoder_settings(recipe, modality, seed),
        "labels": [vars(label) for label in data.labels],
        "features": features.identity,
        "workers": Team.current().size,
        "device": device.type,
    }
    digest = hashlib.blake2b(json.dumps(decided_by, sort_keys=True).encode(), digest_size=8)
    for part in rows.parts().values():
        digest.update("\n".join(data.clip_ids[part]).encode())
        digest.update(np.ascontiguousarray(data.targets[part]).tobytes())
        for content in features.content_of(part):
            digest.update(content + b"\n")
    return digest.hexdigest()
