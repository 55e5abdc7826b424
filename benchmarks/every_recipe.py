"""Train every shipped recipe with `emi-ray train` on a rendered corpus; print its score beside that of its paper.

    python benchmarks/every_recipe.py --clips 120 --to DIR

Weights of the papers cannot be had everywhere, and tell nothing about drawn faces: checkpoints of the same
classes with few, random weights stand in for them. So the pretrained recipes show here that they run, not how
good they are. Recipes of built-in features are trained beside them, in the same workspace.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers as hf

from emi_ray.extractors.pretrained.speech_models import EmotionModel
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.reporting.paper_scores import paper_score
from emi_ray.workspace import Workspace

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SPEECH = {
    **SMALL,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument(
        "--to", type=Path, required=True, help="folder for the workspace; what is there is used"
    )
    parser.add_argument("settings", nargs="*", help="of all recipes, as training.epochs=3")
    options = parser.parse_args()
    workspace = str(options.to / "workspace")
    stand_ins = prepare(workspace, options.to / "checkpoints", options.clips)
    plain = [name for name in recipe_names() if "finetuned" not in name]
    defaults = ("appearance", "prosody", "hashed-ngrams", "flow")
    modalities = ("vision", "audio", "text", "motion")
    built_in = [f"encoders.{m}.features={name}" for m, name in zip(modalities, defaults, strict=True)]
    text = f"encoders.text.backbone={stand_ins['gte-base'][1]}"
    audio, emotion = (f"encoders.audio.backbone={stand_ins[n][1]}" for n in ("wav2vec2", "wav2vec2-emotion"))
    commands = [(names, built_in) for names in by_modalities([n for n in plain if not needs_extractor(n)])]
    commands += [([name for name in plain if needs_extractor(name)], [])]
    commands += [(["text-finetuned"], [text]), (["audio-finetuned"], [audio])]
    commands += [(["first-place-finetuned"], [*built_in[:2], text])]
    commands += [(["first-place-finetuned-both"], [built_in[0], text, emotion])]
    for names, settings in commands:
        own = [s for s in settings if s.split(".")[1] in load_recipe(names[0]).encoders]
        emi_ray("train", "-w", workspace, *names, *own, *options.settings)
    emi_ray("report", "-w", workspace)
    runs = Workspace(workspace).read_json("report/scores.json")["runs"]
    trained = {run["recipe"]: run for run in runs}
    print(f"\n{'recipe':<40}{'val r':>8}{'paper, on other features':>26}")
    for name in recipe_names():
        print(f"{name:<40}{trained[name]['val_pearson']:>8.3f}{paper_score(name) or '–':>26}")


def prepare(workspace: str, checkpoints: Path, clips: int) -> dict[str, tuple[str, Path]]:
    """Render a corpus and extract the features of all recipes' extractors; return the substitute checkpoints."""
    if not Workspace(workspace).exists("emi_ray.yaml"):
        emi_ray("demo", "-w", workspace, "--clips", str(clips))
    texts = [text for text in Workspace(workspace).clips()["transcript"].to_pylist() if text]
    stand_ins = save_stand_ins(checkpoints, texts)
    for name in named_extractors():
        modality, folder = stand_ins[name]
        chosen = [f"extractors.{modality}.name={name}", f"extractors.{modality}.settings.weights={folder}"]
        emi_ray("extract", "-w", workspace, "--modalities", modality, *chosen)
    emi_ray("extract", "-w", workspace, "--modalities", "audio", "extractors.audio.name=waveform")
    return stand_ins


def emi_ray(*arguments: str) -> None:
    print("$ emi-ray", " ".join(arguments), flush=True)
    subprocess.run([sys.executable, "-m", "emi_ray", *arguments], check=True)


def named_extractors() -> list[str]:
    """Return the extractors that recipes ask for by name."""
    encoders = [e for name in recipe_names() for e in load_recipe(name).encoders.values()]
    return sorted({encoder.features for encoder in encoders if encoder.features})


def needs_extractor(recipe: str) -> bool:
    return any(encoder.features for encoder in load_recipe(recipe).encoders.values())


def by_modalities(names: Sequence[str]) -> list[list[str]]:
    """Group recipes by their modalities, because settings apply to all recipes of a command."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        groups.setdefault(tuple(load_recipe(name).encoders), []).append(name)
    return list(groups.values())


def save_stand_ins(folder: Path, texts: Sequence[str]) -> dict[str, tuple[str, Path]]:
    """Save a small checkpoint for every extractor that recipes name; return (modality, folder) by extractor name."""
    torch.manual_seed(0)
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *sorted({w for t in texts for w in t.lower().split()}),
    ]
    tokenizer = hf.BertTokenizer(vocab={word: i for i, word in enumerate(words)}, model_max_length=128)
    bert = hf.BertModel(hf.BertConfig(**SMALL, vocab_size=len(words), max_position_embeddings=128))
    dinov2 = hf.Dinov2Model(hf.Dinov2Config(**SMALL, image_size=56, patch_size=14))
    vit = hf.ViTModel(hf.ViTConfig(**SMALL, image_size=32, patch_size=8))
    speech = hf.Wav2Vec2Model(hf.Wav2Vec2Config(**SPEECH))
    emotion = EmotionModel(hf.Wav2Vec2Config(**SPEECH, num_labels=3))
    parts = {
        "bert": (bert, tokenizer),
        "dinov2": (
            dinov2,
            hf.BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}),
        ),
        "vit": (vit, hf.ViTImageProcessor(size={"height": 32, "width": 32})),
        "wav2vec2": (speech, hf.Wav2Vec2FeatureExtractor()),
        "emotion": (emotion, hf.Wav2Vec2FeatureExtractor()),
    }
    for name, (model, processor) in parts.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return {
        "bert-large": ("text", folder / "bert"),
        "gte-base": ("text", folder / "bert"),
        "gte-base-tokens": ("text", folder / "bert"),
        "dinov2-face": ("vision", folder / "dinov2"),
        "dinov2-frame": ("vision", folder / "dinov2"),
        "vit-face": ("vision", folder / "vit"),
        "wav2vec2": ("audio", folder / "wav2vec2"),
        "wav2vec2-emotion": ("audio", folder / "emotion"),
    }


if __name__ == "__main__":
    main()
