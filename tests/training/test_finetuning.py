import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers as hf
from planted import planted_data, planted_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run, predict_from_stores
from emi_ray.models.build import build_model
from emi_ray.recipe.loading import load_recipe
from emi_ray.settings import dump_yaml
from emi_ray.training.checkpoint import load_model
from emi_ray.training.data.batching import Batcher
from emi_ray.training.data.transcripts import resolve_backbones, with_tokens
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.search_space import SearchSpace
from emi_ray.tuning.settings import RecipeSource, StudySettings, check_space
from emi_ray.tuning.tuning_data import read_tuning_data

WORDS = [f"word{index}" for index in range(24)]
LIVELY = [
    "training.epochs=12",
    "encoders.text.backbone_lr_ratio=1",
    "encoders.text.backbone_pooling=mean",
    "encoders.text.dropout=0",
]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny BERT with random weights, and its tokenizer."""
    folder = tmp_path_factory.mktemp("backbone")
    vocabulary = {
        word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    }
    hf.BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = hf.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **shape, **no_dropout)
    hf.BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Clips whose words tell their labels; every tenth has no transcript."""
    workspace = planted_workspace(tmp_path_factory.mktemp("w"), num_train=96, num_val=48)
    clips = workspace.clips()
    joy = np.nan_to_num(np.array(clips["Joy"].to_pylist(), dtype=float))
    words = [" ".join(WORDS[: 1 + round(8 * value)]) for value in joy]
    texts = [None if row % 10 == 9 else text for row, text in enumerate(words)]
    place = clips.schema.get_field_index("transcript")
    workspace.write_table(
        "clips.parquet", clips.set_column(place, clips.schema.field(place), pa.array(texts))
    )
    return workspace


def recipe_of(backbone, *overrides, name="text-finetuned"):
    quick = ["training.epochs=3", "training.batch_size=16", "training.lr=5e-3"]
    return load_recipe(name, [f"encoders.text.backbone={backbone}", *quick, *overrides])


def train(workspace, recipe):
    return execute_run(plan_run(workspace, recipe, WorkspaceConfig(), 1), reuse_encoders=False)


def test_a_backbone_learns_end_to_end_and_its_run_is_rebuilt_without_it(workspace, backbone):
    metrics = train(workspace, recipe_of(backbone, *LIVELY))
    assert metrics["val_pearson_joy"] > 0.5
    result = evaluate_single_run(workspace, "text-finetuned/1", ["val"])
    assert result["val"]["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-6)
    loaded = load_model(workspace, "text-finetuned")
    few, many = WORDS[0], " ".join(WORDS[:9])
    table = predict_from_stores(loaded, {}, ["a", "b", "c"], {"a": few, "b": many})
    assert table["Joy"][1].as_py() > table["Joy"][0].as_py()
    assert table["modalities"].to_pylist() == ["text", "text", ""]
    pretrained = hf.AutoModel.from_pretrained(backbone).state_dict()
    trained = loaded.model.encoder.backbone.state_dict()
    layers = [name for name in pretrained if ".layer." in name and name.endswith("dense.weight")]
    assert layers
    assert not any(torch.equal(pretrained[name], trained[name]) for name in layers)


def test_a_backbone_is_not_scored_on_other_transcripts(workspace, backbone):
    train(workspace, recipe_of(backbone, "training.epochs=1"))
    evaluate_single_run(workspace, "text-finetuned/1")
    clips = workspace.clips()
    place = clips.schema.get_field_index("transcript")
    texts = clips["transcript"].to_pylist()
    texts[0], texts[1] = "word3 word9", None
    other = clips.set_column(place, clips.schema.field(place), pa.array(texts))
    try:
        workspace.write_table("clips.parquet", other)
        with pytest.raises(UserError, match="features that have changed since: text of 2 clips"):
            evaluate_single_run(workspace, "text-finetuned/1")
    finally:
        workspace.write_table("clips.parquet", clips)


def test_layers_nearer_to_the_input_learn_more_slowly(backbone):
    recipe = resolve_backbones(recipe_of(backbone, "encoders.text.layer_decay=0.5"))
    model = build_model(recipe, {"text": 1}, 6)
    ratios = [group.lr_ratio for group in model.parameter_groups()]
    assert ratios == pytest.approx([1.0, 1.0, 0.2, 0.1, 0.05, 0.025][: len(ratios)])
    grouped = [id(p) for group in model.parameter_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_recomputing_layers_to_save_memory_changes_no_gradient(backbone):
    data = planted_data(num_train=6, num_val=2)
    texts = {str(clip_id): " ".join(WORDS[: 2 + row]) for row, clip_id in enumerate(data.clip_ids)}
    gradients, weights = [], None
    for recompute in ("false", "true"):
        settings = [f"encoders.text.gradient_checkpointing={recompute}", "encoders.text.dropout=0"]
        recipe = resolve_backbones(recipe_of(backbone, *settings))
        model = build_model(recipe, {"text": 1}, 6).train()
        weights = weights or model.state_dict()
        model.load_state_dict(weights)
        batcher = Batcher(with_tokens(data, recipe, texts), ["text"], torch.device("cpu"))
        model(batcher.inputs(np.arange(8))).square().sum().backward()
        gradients.append(model.encoder.backbone.embeddings.word_embeddings.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_texts_are_cut_to_the_positions_of_the_backbone(backbone):
    recipe = resolve_backbones(recipe_of(backbone, "encoders.text.max_steps=100"))
    data = planted_data(num_train=1, num_val=1)
    texts = dict.fromkeys(map(str, data.clip_ids), " ".join(WORDS * 4))
    assert with_tokens(data, recipe, texts).features["text"].lengths.tolist() == [64, 64]


def test_a_backbone_trains_under_the_first_places_fusion(workspace, backbone):
    small = ["fusion.hidden=16", "training.epochs=1"]
    metrics = train(workspace, recipe_of(backbone, *small, name="first-place-finetuned"))
    assert np.isfinite(metrics["val_pearson"])
    assert metrics["num_missing"]["text"] > 0


def test_a_folder_is_found_from_wherever_workers_run(backbone, monkeypatch):
    monkeypatch.chdir(Path(backbone).parent)
    recipe = resolve_backbones(recipe_of(Path(backbone).name))
    assert recipe.encoders["text"].backbone == backbone


def test_other_weights_in_the_same_folder_are_another_run(tmp_path, workspace, backbone):
    folder = shutil.copytree(backbone, tmp_path / "backbone")
    before = plan_run(workspace, recipe_of(folder), WorkspaceConfig(), 1)
    assert plan_run(workspace, recipe_of(folder), WorkspaceConfig(), 1).key == before.key
    model = hf.AutoModel.from_pretrained(folder)
    model.embeddings.word_embeddings.weight.data.add_(1)
    model.save_pretrained(folder)
    assert plan_run(workspace, recipe_of(folder), WorkspaceConfig(), 1).key != before.key
    with pytest.raises(UserError, match="no longer match"):
        execute_run(before)


def test_the_recipe_of_a_run_takes_other_weights(tmp_path, backbone):
    path = tmp_path / "mine.yaml"
    path.write_text(dump_yaml(resolve_backbones(recipe_of(backbone))))
    other = shutil.copytree(backbone, tmp_path / "other")
    hf.AutoModel.from_pretrained(other).half().save_pretrained(other)
    own = resolve_backbones(load_recipe(str(path))).encoders["text"]
    changed = resolve_backbones(load_recipe(str(path), [f"encoders.text.backbone={other}"])).encoders["text"]
    assert own.backbone == backbone
    assert changed.backbone == str(other)
    assert changed.backbone_revision not in (None, own.backbone_revision)


def test_settings_of_a_backbone_can_be_searched(workspace, backbone):
    quick = ("training.epochs=2", "training.batch_size=16")
    source = RecipeSource("text-finetuned", (f"encoders.text.backbone={backbone}", *quick), {})
    plan = plan_run(workspace, source.original, WorkspaceConfig(), 1)
    space = SearchSpace.model_validate({"parameters": {"encoders.text.layer_decay": {"uniform": [0.5, 1.0]}}})
    settings = StudySettings(recipe=source.original, space=space, data_key=plan.key)
    check_space(source, space)
    trial = source.load({"encoders.text.layer_decay": 0.6})
    assert np.isfinite(score_recipe(trial, read_tuning_data(plan, settings), "val_pearson").value)


def test_a_backbone_that_is_not_there_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match="encoders.text.backbone"):
        resolve_backbones(recipe_of(str(tmp_path / "none")))


def test_a_corpus_without_transcripts_is_refused_with_a_remedy(tmp_path, backbone):
    bare = planted_workspace(tmp_path, num_train=8, num_val=4)
    with pytest.raises(UserError, match="No clip has a transcript"):
        train(bare, recipe_of(backbone))
