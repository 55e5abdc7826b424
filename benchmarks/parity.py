"""Compare the computations of `paper-faithful` with those of the authors' public script.

    python benchmarks/parity.py --peer PATH_TO/staged_fusion_training.py

Both sides start from the same weights and see the same batches in the same order, without dropout; then every
stage's val Pearson after every epoch must agree. In fusion the script leaves motion out of its optimiser, and so does
`paper-faithful`. The script never sets motion's gradients to zero, which changes a little what clipping leaves of the
others.
"""

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from made_features import PAPER_STEPS, make_clips
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from emi_ray.recipe.loading import load_recipe
from emi_ray.schema import MODALITIES, Modality
from emi_ray.training import loop
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows, split_rows
from emi_ray.training.stages.train_recipe import TrainedRecipe, train_recipe

BATCH, EPOCHS, LR, DECAY, CLIP = 16, 3, 2e-4, 1e-2, 1.0
CPU = torch.device("cpu")
NAMES: dict[Modality, str] = {"text": "text", "audio": "audio", "vision": "vision", "motion": "motion_seq"}
CLASSES: dict[Modality, str] = {
    "text": "TextMLPEncoder",
    "audio": "AudioAttentionEncoder",
    "vision": "VisionAttentionEncoder",
    "motion": "MotionAttentionEncoder",
}
Batches = list[dict[str, torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True, help="the authors' staged_fusion_training.py")
    peer = load_script(parser.parse_args().peer)
    data = make_clips(320, 160, seed=0, steps={**PAPER_STEPS, "audio": 60}).data
    rows = split_rows(data)
    ours, starts = train_ours(data, rows)
    train, val = ([as_theirs(data, part) for part in in_order(side)] for side in (rows.train, rows.val))
    encoders = {m: build_encoder(peer, m, data.features[m].feature_dim, starts[m]) for m in MODALITIES}
    worst = 0.0
    for modality, encoder in encoders.items():
        found = train_theirs(
            peer, encoder, [{"params": encoder.parameters()}], forward_of(modality), train, val
        )
        worst = max(worst, show(modality, found, ours))
        encoder.remove_head()
    model, groups = build_fusion(peer, deepcopy(encoders), starts["fusion"], ("text", "audio", "vision"))
    gap = show("fusion", train_theirs(peer, model, groups, fuse, train, val), ours)
    print(f"largest difference, in single encoders {worst:.1e}, in fusion {gap:.1e}")


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_order(rows: np.ndarray) -> list[np.ndarray]:
    return [np.sort(rows)[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def train_ours(data: ClipData, rows: Rows) -> tuple[TrainedRecipe, dict[str, dict[str, torch.Tensor]]]:
    """Train the recipe without dropout on batches in order; return the weights that each stage started from, too."""
    settings = [f"encoders.{m}.dropout=0" for m in MODALITIES] + [
        "fusion.dropout=0",
        "fusion.modality_dropout=0",
    ]
    settings += [f"training.epochs={EPOCHS}", f"encoders.motion.epochs={EPOCHS}"]
    recipe, starts = load_recipe("paper-faithful", settings, any_features=True), {}
    build = loop._Fitting.__init__

    def remember(fitting: Any, model: torch.nn.Module, *rest: Any) -> None:
        build(fitting, model, *rest)
        starts[fitting.stage] = deepcopy(model.state_dict())

    with (
        patch.object(loop._Fitting, "__init__", remember),
        patch.object(Batcher, "training_batches", lambda self, rows, *rest: in_order(rows)),
    ):
        return train_recipe(recipe, data, rows, seed=0), starts


def as_theirs(data: ClipData, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """Return a batch in the form of the script's collate function."""
    batch = {"labels": torch.from_numpy(data.targets[rows])}
    for modality, name in NAMES.items():
        packed = data.features[modality]
        empty = np.zeros((1, packed.feature_dim))
        clips = [packed.of(row) if packed.present[row] else empty for row in rows]
        steps = [torch.from_numpy(clip.astype(np.float32)) for clip in clips]
        batch[name] = pad_sequence(steps, batch_first=True)
        batch[f"{name}_mask"] = pad_sequence([torch.ones(len(s), dtype=torch.bool) for s in steps], True)
    batch["text"] = F.normalize(batch["text"].squeeze(1), dim=1)
    return batch


def build_encoder(
    peer: ModuleType, modality: Modality, width: int, start: Mapping[str, torch.Tensor]
) -> torch.nn.Module:
    encoder = getattr(peer, CLASSES[modality])(width, 128 if modality == "motion" else 384, dropout=0.0)
    rest = "feature." if modality == "text" else "proj."
    known = {
        n.replace("encoder.pooling.scorer.", "attn.").replace("encoder.mlp.", rest): t
        for n, t in start.items()
    }
    lacking = encoder.load_state_dict(known, strict=False).missing_keys
    assert set(lacking) <= {"attn.bias"}, lacking  # cancels in the softmax
    return encoder


def build_fusion(
    peer: ModuleType,
    encoders: Mapping[Modality, torch.nn.Module],
    start: Mapping[str, torch.Tensor],
    trained: tuple[Modality, ...],
) -> tuple[torch.nn.Module, list[dict[str, Any]]]:
    head = peer.FusionRegressor(384, 384, 384, 128, 384, dropout=0.0)
    head.load_state_dict({n.removeprefix("head."): t for n, t in start.items() if n.startswith("head.mlp")})
    model = peer.StackedFusionModel(
        encoders["text"], encoders["audio"], encoders["vision"], head, encoders["motion"], 0.0
    )
    groups = [{"params": encoders[m].parameters(), "lr": LR * 0.05} for m in trained]
    return model, [{"params": head.parameters()}, *groups]


def forward_of(modality: Modality) -> Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]:
    if modality == "text":
        return lambda model, batch: model(batch["text"])
    name = NAMES[modality]
    return lambda model, batch: model(batch[name], batch[f"{name}_mask"])


def fuse(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    names = ("text", "audio", "audio_mask", "vision", "vision_mask", "motion_seq", "motion_seq_mask")
    found: torch.Tensor = model(*(batch[name] for name in names))
    return found


def train_theirs(
    peer: ModuleType,
    model: torch.nn.Module,
    groups: list[dict[str, Any]],
    forward: Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor],
    train: Batches,
    val: Batches,
) -> list[float]:
    """Val Pearson after each epoch of the script's ``run_epoch``; leaves the weights of the best, as it does."""
    optimizer, found = torch.optim.AdamW(groups, lr=LR, weight_decay=DECAY), []
    best = deepcopy(model.state_dict())
    for _ in range(EPOCHS):
        peer.run_epoch(model, train, peer.combined_loss, CPU, forward, optimizer, CLIP)
        found.append(peer.run_epoch(model, val, peer.combined_loss, CPU, forward, None, CLIP)["pearson"])
        if found[-1] == max(found):
            best = deepcopy(model.state_dict())
    model.load_state_dict(best)
    return found


def show(name: str, theirs: list[float], ours: TrainedRecipe) -> float:
    own = [entry["val_pearson"] for entry in ours.results[name].history]
    gap = max(abs(a - b) for a, b in zip(theirs, own, strict=True))
    spell = [" ".join(f"{r:9.6f}" for r in side) for side in (theirs, own)]
    print(f"{name:<24} authors {spell[0]}   ours {spell[1]}   {gap:.1e}")
    return gap


if __name__ == "__main__":
    main()
