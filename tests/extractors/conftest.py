"""Tiny checkpoints with random weights, written by ``save_pretrained`` as real ones are."""

import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from tiny_checkpoints import SMALL, WORDS, enliven, save_image_processor, save_speech_model, save_whisper


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def dinov2(checkpoints: Path) -> Path:
    torch.manual_seed(0)
    model = hf.Dinov2Model(hf.Dinov2Config(**SMALL, image_size=56, patch_size=14))
    enliven(model)
    model.save_pretrained(checkpoints / "dinov2")
    crop = {"height": 56, "width": 56}
    save_image_processor(
        checkpoints / "dinov2",
        "BitImageProcessor",
        size={"shortest_edge": 64},
        crop_size=crop,
        do_center_crop=True,
    )
    return checkpoints / "dinov2"


@pytest.fixture(scope="session")
def vit(checkpoints: Path) -> Path:
    """As trpakov's: a classifier, whose backbone has no pooler."""
    torch.manual_seed(0)
    model = hf.ViTForImageClassification(hf.ViTConfig(**SMALL, image_size=32, patch_size=8))
    enliven(model)
    model.save_pretrained(checkpoints / "vit")
    half = [0.5, 0.5, 0.5]
    size = {"height": 32, "width": 32}
    save_image_processor(
        checkpoints / "vit", "ViTImageProcessor", size=size, resample=2, image_mean=half, image_std=half
    )
    return checkpoints / "vit"


@pytest.fixture(scope="session")
def wav2vec2(checkpoints: Path) -> Path:
    return save_speech_model(checkpoints / "wav2vec2", "Wav2Vec2", "group")


@pytest.fixture(scope="session")
def hubert(checkpoints: Path) -> Path:
    return save_speech_model(checkpoints / "hubert", "Hubert", "layer")


@pytest.fixture(scope="session")
def wavlm(checkpoints: Path) -> Path:
    return save_speech_model(checkpoints / "wavlm", "WavLM", "layer")


def make_tokenizer(**settings: str) -> hf.BertTokenizer:
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return hf.BertTokenizer(vocab=vocabulary, model_max_length=40, **settings)


@pytest.fixture(scope="session")
def tokenizer() -> hf.BertTokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def bert(checkpoints: Path, tokenizer: hf.BertTokenizer) -> Path:
    torch.manual_seed(0)
    model = hf.BertModel(hf.BertConfig(**SMALL, vocab_size=len(tokenizer), max_position_embeddings=40))
    enliven(model)
    model.save_pretrained(checkpoints / "bert")
    tokenizer.save_pretrained(checkpoints / "bert")
    return checkpoints / "bert"


@pytest.fixture(scope="session")
def bert_padding_left(bert: Path, checkpoints: Path) -> Path:
    folder = shutil.copytree(bert, checkpoints / "bert-padding-left")
    make_tokenizer(padding_side="left").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama_padding_left(tokenizer: hf.BertTokenizer, checkpoints: Path) -> Path:
    """A causal model, in which a token sees only those before it."""
    folder = checkpoints / "llama-padding-left"
    torch.manual_seed(0)
    model = hf.LlamaModel(hf.LlamaConfig(**SMALL, vocab_size=len(tokenizer), pad_token_id=0))
    enliven(model)
    model.save_pretrained(folder)
    make_tokenizer(padding_side="left").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whisper(checkpoints: Path) -> Path:
    return save_whisper(checkpoints / "whisper")
