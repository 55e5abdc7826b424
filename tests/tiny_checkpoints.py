"""Tiny checkpoints with random weights, saved as real ones are, and clips to run them on."""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
import transformers as hf

from emi_ray.media.clip import DecodedClip, Faces, Frames, Waveform

RATE_HZ = 16_000
WORDS = ("so", "i", "was", "really", "happy", "you", "know", "and", "then", "she", "laughed", "too")

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
_CONVOLUTIONS = {
    "conv_dim": (12,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "num_codevectors_per_group": 4,
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def save_image_processor(folder: Path, kind: str, **wanted: object) -> None:
    """An image processor's file: bicubic unless said otherwise."""
    steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3, **_IMAGENET}
    description = {"image_processor_type": kind, "rescale_factor": 1 / 255, **steps, **wanted}
    (folder / "preprocessor_config.json").write_text(json.dumps(description))


def save_speech_model(folder: Path, family: str, norm: str, lively: bool = True) -> Path:
    """A tiny wav2vec 2.0-like model.

    Args:
        norm: ``group`` as the base models have it, ``layer`` as the large ones.
        lively: larger random weights than at initialisation.
    """
    settings = {**SMALL, **_CONVOLUTIONS, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    torch.manual_seed(1)
    config = getattr(hf, f"{family}Config")(**settings)
    model = getattr(hf, f"{family}Model")(config)
    if lively:
        enliven(model)
    model.save_pretrained(folder)
    processor = hf.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer")
    processor.save_pretrained(folder)
    return folder


def enliven(model: torch.nn.Module) -> None:
    """Larger random weights than at initialisation, so that every part of the model matters to its output."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
        else:
            parameter.data += torch.randn_like(parameter) * 0.1


def voice(seconds: float, seed: int) -> Waveform:
    """Something like speech: a wavering tone with noise, in bursts."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    tone = np.sin(2 * np.pi * (120 + 40 * seed) * times + 3 * np.sin(2 * np.pi * 2 * times))
    samples = 0.2 * tone * (1 + np.sin(2 * np.pi * 3 * times)) + 0.02 * generator.normal(size=len(times))
    return Waveform(samples.astype(np.float32), RATE_HZ)


def images(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """(count, height, width, 3) uint8: blotches rather than noise, so that resizing has something to keep."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    large = coarse.repeat(-(-height // 7), axis=1).repeat(-(-width // 7), axis=2)
    return np.ascontiguousarray(large[:, :height, :width])


def make_clip(seed: int, num_images: int = 3, seconds: float = 1.0, side: int = 48) -> DecodedClip:
    """A clip with every input of its own."""
    times = np.arange(num_images, dtype=np.float32) / 6
    crops = images(num_images, side, side, seed)
    boxes, detected = np.zeros((num_images, 4), np.float32), np.ones(num_images, bool)
    faces = Faces(crops, boxes, times, detected, np.arange(num_images) == 0)
    words = np.random.default_rng(seed).choice(WORDS, 3 + 4 * seed)
    return DecodedClip(
        f"clip{seed}",
        frames=Frames(images(num_images, 90, 120, seed + 100), times),
        faces=faces,
        waveform=voice(seconds, seed),
        transcript=" ".join(words),
    )


def save_whisper(folder: Path) -> Path:
    """A tiny multilingual Whisper that can only say words of ``WORDS``."""
    words = [f"Ġ{word}" for word in WORDS]
    ordinary = [*words, *"Ġabcdefghijklmnopqrstuvwxyz", "<|endoftext|>"]
    control = ["startoftranscript", "en", "es", "translate", "transcribe", "startofprev", "nospeech"]
    control = [f"<|{name}|>" for name in [*control, "notimestamps"]]
    timestamps = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    vocabulary = {token: index for index, token in enumerate([*ordinary, *control, *timestamps])}
    tokenizer = hf.WhisperTokenizer(vocab=vocabulary, merges=[], additional_special_tokens=control)
    hf.WhisperProcessor(hf.WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    end, start = vocabulary["<|endoftext|>"], vocabulary["<|startoftranscript|>"]
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_target_positions": 40}
    parts = itertools.product(("encoder", "decoder"), ("layers", "attention_heads"))
    layers = {"_".join(part): 2 for part in parts}
    specials = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), end)
    torch.manual_seed(0)
    model = hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(
            **sizes,
            **layers,
            **specials,
            vocab_size=len(vocabulary),
            decoder_start_token_id=start,
            begin_suppress_tokens=[],
        )
    )
    enliven(model)
    model.get_input_embeddings().weight.data[len(words) :] *= 0.1  # tied to the output: words are likeliest
    model.generation_config = hf.GenerationConfig(
        is_multilingual=True,
        lang_to_id={token: vocabulary[token] for token in ("<|en|>", "<|es|>")},
        task_to_id={task: vocabulary[f"<|{task}|>"] for task in ("translate", "transcribe")},
        no_timestamps_token_id=vocabulary["<|notimestamps|>"],
        prev_sot_token_id=vocabulary["<|startofprev|>"],
        suppress_tokens=list(range(len(words), len(vocabulary) - len(timestamps))),
        max_initial_timestamp_index=50,
        max_length=12,
        decoder_start_token_id=start,
        **specials,
    )
    model.save_pretrained(folder)
    return folder
