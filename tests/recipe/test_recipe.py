import pytest

from emi_ray.errors import UserError
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.settings import dump_yaml


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads_under_its_own_name(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.paper is not None


def test_the_shipped_recipes_carry_the_numbers_of_the_paper():
    f2 = load_recipe("f2")
    assert f2.modalities == ("text", "audio", "vision", "motion")
    assert [f2.encoders[m].hidden for m in f2.modalities] == [384, 384, 384, 128]
    assert {f2.encoders[m].dropout for m in f2.modalities} == {0.45}
    assert f2.fusion is not None
    assert (f2.fusion.hidden, f2.fusion.modality_dropout, f2.fusion.encoder_lr_ratio) == (384, 0.3, 0.05)
    assert (f2.objective.ccc, f2.objective.mse) == (0.7, 0.3)
    training = f2.training
    assert (training.lr, training.weight_decay, training.grad_clip) == (2e-4, 1e-2, 1.0)
    assert (training.batch_size, training.epochs, training.patience, training.seed) == (16, 50, 10, 42)
    assert f2.training_of(f2.encoders["motion"]).epochs == 100
    assert load_recipe("f1").modalities == ("text", "audio", "vision")


def test_an_override_reaches_its_setting():
    recipe = load_recipe(
        "f2", ["fusion.hidden=128", "encoders.text.hidden=64", "objective.ccc=0.5", "training.lr=1e-3"]
    )
    assert recipe.fusion is not None
    assert (recipe.fusion.hidden, recipe.encoders["text"].hidden) == (128, 64)
    assert (recipe.objective.ccc, recipe.training.lr) == (0.5, 1e-3)


def test_training_settings_of_the_user_win_over_stage_settings_of_the_recipe():
    recipe = load_recipe("f2", ["training.epochs=3"])
    assert recipe.training_of(recipe.encoders["motion"]).epochs == 3
    recipe = load_recipe("f2", [], {"training": {"epochs": 3}})
    assert recipe.training_of(recipe.encoders["motion"]).epochs == 3
    recipe = load_recipe("f2", ["training.epochs=3", "encoders.motion.epochs=5"])
    assert recipe.training_of(recipe.encoders["motion"]).epochs == 5


def test_the_command_line_wins_over_the_workspace_which_wins_over_the_recipe():
    workspace = {"training": {"epochs": 7, "lr": 1e-3}, "encoders": {"text": {"hidden": 32}}}
    recipe = load_recipe("text", ["training.epochs=2"], workspace)
    assert (recipe.training.epochs, recipe.training.lr, recipe.encoders["text"].hidden) == (2, 1e-3, 32)


def test_workspace_settings_of_parts_that_a_recipe_lacks_are_passed_over():
    recipe = load_recipe("text", [], {"encoders": {"motion": {"hidden": 2}}, "fusion": {"hidden": 8}})
    assert recipe.modalities == ("text",)
    assert recipe.fusion is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=3", "did you mean 'epochs'"),
        ("fusion.hiden=3", "did you mean 'hidden'"),
        ("encoders.text.hiden=3", "did you mean 'hidden'"),
        ("encoders.motoin.hidden=3", "did you mean 'motion'"),
        ("objective.cc=1", "did you mean 'ccc'"),
        ("trainin.epochs=1", "did you mean 'training'"),
        ("training.epochs=0", "training.epochs = 0"),
        ("training.epochs", "section.key=value"),
    ],
)
def test_a_wrong_override_is_refused_with_a_remedy(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe("f2", [override])


def test_an_override_cannot_add_a_part_to_a_recipe():
    with pytest.raises(UserError, match="no motion encoder"):
        load_recipe("f1", ["encoders.motion.type=attention"])
    with pytest.raises(UserError, match="no fusion"):
        load_recipe("text", ["fusion.hidden=2"])


def test_an_unknown_recipe_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'vision'"):
        load_recipe("visoin")


def test_a_recipe_loads_from_any_file(tmp_path):
    path = tmp_path / "Mine.yaml"
    path.write_text("title: Mine\nencoders: {audio: {type: mean}}\n")
    assert load_recipe(str(path)).name == "mine"
    path.write_text("title: Mine\nencoders: {audio: {type: mean}, text: {type: mlp}}\n")
    with pytest.raises(UserError, match="fusion"):
        load_recipe(str(path))
    with pytest.raises(UserError, match="no recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_an_objective_without_weights_is_refused():
    with pytest.raises(UserError, match="every loss weight is 0"):
        load_recipe("text", ["objective.ccc=0", "objective.mse=0"])


STREAMS = """
title: Two backbones
encoders:
  text: {type: mlp}
  frame: {modality: vision, type: attention}
  face: {modality: vision, type: attention}
fusion: {type: concat}
"""


def test_encoders_may_have_names_of_their_own_and_say_their_modality(tmp_path):
    path = tmp_path / "two.yaml"
    path.write_text(STREAMS)
    recipe = load_recipe(str(path), ["encoders.face.hidden=32"], {"encoders": {"face": {"dropout": 0.1}}})
    assert recipe.streams == ("text", "frame", "face")
    assert recipe.modalities == ("text", "vision")
    assert (recipe.encoders["face"].hidden, recipe.encoders["face"].dropout) == (32, 0.1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("modality: vision, type", "type", "encoders.frame is not named after a modality"),
        ("modality: vision, type", "modality: smell, type", "encoders.frame.modality"),
        ("text: {", "text: {modality: audio, ", "cannot be called text"),
        ("frame:", "fusion:", "give the encoder another name"),
        ("frame:", "fr.ame:", "fr.ame"),
        ("type: concat", "type: text_anchored", "'steps'"),
    ],
)
def test_an_encoder_without_a_sensible_name_or_modality_is_refused(tmp_path, old, new, message):
    path = tmp_path / "two.yaml"
    path.write_text(STREAMS.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "override"),
    [
        ("first-place", "fusion.latents={audio: 3}"),
        ("first-place", "fusion.folds=7"),
        ("first-place", "encoders.audio.hidden=64"),
        ("first-place", "encoders.text.hidden=64"),
        ("first-place", "encoders.audio.lr=1e-3"),
        ("first-place", "training.plateau_patience=5"),
        ("first-place", "objective.memory=64"),
        ("f2", "fusion.heads=2"),
        ("f2", "fusion.latents={sound: 3}"),
        ("f1", "fusion.latents={motion: 3}"),
        ("f2", "objective.latent_prior=0.1"),
        ("f2", "objective.huber_delta=0.5"),
        ("f2", "training.warmup_epochs=2"),
        ("f2", "encoders.audio.recurrent_layers=3"),
        ("f2", "encoders.audio.layer_decay=0.5"),
        ("f5", "fusion.encoder_lr_ratio=0.1"),
        ("f5", "encoders.text.fusion_lr_ratio=0.1"),
        ("text", "encoders.text.fusion_lr_ratio=0.1"),
        ("first-place", "encoders.audio.fusion_lr_ratio=0.1"),
        ("f2", "objective.auxiliary=0.5,objective.ccc=0,objective.mse=0,objective.hurdle=1"),
        ("first-place", "encoders.text.dropout=0.2"),
        ("text-finetuned", "encoders.text.features=gte-base"),
        ("audio-finetuned", "encoders.audio.extras=[valence]"),
        ("text", "objective.auxiliary=0.5"),
        ("text", "stages=joint"),
        ("second-place", "encoders.audio.missing=zero"),
        ("first-place", "encoders.text.missing=zero"),
        ("late-fusion", "encoders.text.missing=zero"),
        ("first-place", "fusion.encoder_lr_ratio=1.0"),
        ("late-fusion", "fusion.hidden=64"),
        ("late-fusion", "fusion.lr=1e-3"),
        ("late-fusion", "objective.auxiliary=0.5"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(name, override):
    path = override.partition("=")[0]
    with pytest.raises(UserError, match=path) as refusal:
        load_recipe(name, override.split(","))
    if "sound" not in override:
        assert "has no effect" in str(refusal.value)


def test_a_fine_tuned_text_encoder_of_a_text_anchored_fusion_keeps_its_projection():
    settings = ["backbone_pooling=mean", "projection=mlp", "hidden=96", "dropout=0.2"]
    recipe = load_recipe("first-place-finetuned", [f"encoders.text.{setting}" for setting in settings])
    assert recipe.encoders["text"].hidden == 96


def test_what_a_workspace_sets_for_all_recipes_is_passed_over_where_nothing_reads_it():
    workspace = {"fusion": {"hidden": 64}, "training": {"plateau_patience": 6}}
    assert load_recipe("late-fusion", [], workspace) == load_recipe(
        "late-fusion", ["training.plateau_patience=6"]
    )
    assert load_recipe("f2", [], workspace).fusion.hidden == 64
    assert load_recipe("first-place", [], workspace).training == load_recipe("first-place").training


@pytest.mark.parametrize("name", ["f2", "first-place", "ours", "late-fusion", "text-finetuned"])
def test_a_recipe_that_spells_out_every_setting_is_read_as_it_stands(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / f"{name}.yaml"
    path.write_text(dump_yaml(recipe))
    assert load_recipe(str(path)) == recipe


def test_an_override_of_the_stages_replaces_what_the_recipe_says_of_stages_of_its_own():
    recipe = load_recipe("f1", ["stages=joint"])
    assert recipe.stages == "joint"
    assert recipe.encoders["text"].missing == "skip"
    with pytest.raises(UserError, match=r"encoders.text.missing = 'zero' has no effect"):
        load_recipe("f1", ["stages=joint", "encoders.text.missing=zero"])
