"""What an encoder stage is determined by, as one hash."""

import hashlib
import json

import numpy as np
import torch

from emi_ray.recipe import Recipe
from emi_ray.schema import Stream
from emi_ray.training.clip_data import ClipData
from emi_ray.training.plan import encoder_settings
from emi_ray.training.rows import Rows
from emi_ray.training.team import Team


def encoder_key(
    recipe: Recipe, modality: Stream, data: ClipData, rows: Rows, seed: int, device: torch.device
) -> str:
    """Sixteen hexadecimal digits: equal for two stages that would end with the same weights.

    The features enter by their extractor's fingerprint and by what each clip of the split has of them.
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
