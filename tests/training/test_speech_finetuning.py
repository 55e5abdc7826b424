import numpy as np
import pytest
import torch
import transformers as hf
from planted import planted_workspace
from tiny_checkpoints import save_speech_model

from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run
from emi_ray.extractors.builtin.waveform import STEP, Sound, SoundSettings
from emi_ray.media.clip import DecodedClip, Waveform
from emi_ray.models.backbone import resolve_backbone
from emi_ray.models.sequences import PaddedGroup, padded
from emi_ray.models.speech_backbone import SpeechBackbone
from emi_ray.recipe.loading import load_recipe
from emi_ray.recipe.sections import EncoderSettings
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.checkpoint import load_model
from emi_ray.training.data.packed_reading import read_clip_data
from emi_ray.training.data.transcripts import resolve_backbones
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run

RATE_HZ = 16_000
FAMILIES = [("Wav2Vec2", "group"), ("Wav2Vec2", "layer"), ("WavLM", "group"), ("Hubert", "layer")]


def sound_of(steps, seed):
    return np.random.default_rng(seed).normal(0, 0.1, (steps, STEP)).astype(np.float32)


def batch_of(*sounds):
    longest = max(len(sound) for sound in sounds)
    values = torch.stack([torch.from_numpy(np.pad(s, ((0, longest - len(s)), (0, 0)))) for s in sounds])
    mask = torch.tensor([[step < len(sound) for step in range(longest)] for sound in sounds])
    return PaddedGroup(values, mask)


def settings_of(folder, **more):
    base = {
        "type": "finetune",
        "backbone": str(folder),
        "backbone_pooling": "mean",
        "hidden": 16,
        "dropout": 0,
    }
    return resolve_backbone(EncoderSettings(**base, **more), "audio")


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return save_speech_model(tmp_path_factory.mktemp("speech"), "Wav2Vec2", "layer")


@pytest.mark.parametrize(("family", "norm"), FAMILIES)
def test_hidden_states_are_those_of_a_direct_call_whatever_the_batch(tmp_path, family, norm):
    folder = save_speech_model(tmp_path, family, norm)
    encoder = SpeechBackbone(STEP, settings_of(folder)).eval()
    encoder.load_pretrained()
    sounds = [sound_of(steps, seed) for seed, steps in enumerate((50, 12, 31, 1))]
    model = hf.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = encoder.hidden(batch_of(*sounds))
        for row, sound in enumerate(sounds[:3]):
            samples = sound.reshape(-1)
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
            expected = model(torch.from_numpy(samples[None])).last_hidden_state[0]
            torch.testing.assert_close(hidden.values[row][hidden.mask[row]], expected, rtol=1e-3, atol=1e-4)
    assert hidden.mask.sum(dim=1).tolist() == [49, 11, 30, 1]


def test_only_the_transformer_learns_and_layers_nearer_to_the_input_more_slowly(speech):
    encoder = SpeechBackbone(STEP, settings_of(speech, backbone_lr_ratio=0.2, layer_decay=0.5))
    groups = encoder.parameter_groups()
    assert [group.lr_ratio for group in groups] == pytest.approx([1.0, 0.2, 0.1, 0.05, 0.025])
    grouped = {id(p) for group in groups for p in group.parameters}
    frozen = {n for n, p in encoder.named_parameters() if id(p) not in grouped}
    assert frozen
    assert all(name.startswith("backbone.feature_extractor.") for name in frozen)


def test_weights_are_float32_whatever_the_checkpoint_keeps(tmp_path, speech):
    hf.AutoModel.from_pretrained(speech).half().save_pretrained(tmp_path)
    hf.AutoFeatureExtractor.from_pretrained(speech).save_pretrained(tmp_path)
    assert hf.AutoConfig.from_pretrained(tmp_path).dtype == torch.float16
    encoder = SpeechBackbone(STEP, settings_of(tmp_path))
    encoder.load_pretrained()
    assert {tensor.dtype for tensor in encoder.state_dict().values()} == {torch.float32}


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, speech):
    config = hf.AutoConfig.from_pretrained(speech)
    hf.AutoModel.from_pretrained(speech).save_pretrained(tmp_path)
    hf.AutoFeatureExtractor.from_pretrained(speech).save_pretrained(tmp_path)
    config.num_hidden_layers += 1
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="which would be random"):
        SpeechBackbone(STEP, settings_of(tmp_path)).load_pretrained()


def test_no_more_sound_is_read_than_is_looked_at(workspace, speech):
    own = [f"encoders.audio.backbone={speech}", "encoders.audio.max_steps=15"]
    plan = plan_run(workspace, recipe_of("audio-finetuned", *own), WorkspaceConfig(), 1)
    whole, cut = read_clip_data(workspace, plan.stores).features["audio"], plan.read_data().features["audio"]
    np.testing.assert_array_equal(cut.lengths, np.minimum(whole.lengths, 15))
    assert len(cut.values) == cut.lengths.sum() < len(whole.values)
    for clip in (0, 7, 50):
        np.testing.assert_array_equal(cut.of(clip), whole.of(clip)[:15])


def test_recomputing_layers_to_save_memory_changes_no_gradient(speech):
    gradients, weights = [], None
    for recompute in (False, True):
        encoder = SpeechBackbone(STEP, settings_of(speech, gradient_checkpointing=recompute)).train()
        weights = weights or encoder.state_dict()
        encoder.load_state_dict(weights)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - SpecAugment draws from the global generator
        group = batch_of(sound_of(40, 0), sound_of(25, 1))
        encoder.encode(padded(group, present=torch.ones(2, dtype=torch.bool))).square().sum().backward()
        gradients.append(encoder.backbone.encoder.layers[0].feed_forward.output_dense.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_the_waveform_comes_back_from_its_steps():
    samples = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    clip = DecodedClip("a", waveform=Waveform(samples, RATE_HZ))
    (found,) = Sound(SoundSettings()).extract([clip])
    assert found.values.shape == (4, STEP)
    flat = found.values.reshape(-1).astype(np.float32)
    np.testing.assert_allclose(flat[:1000], samples, rtol=1e-3, atol=1e-6)
    assert not flat[1000:].any()
    np.testing.assert_allclose(found.timestamps_s, [0.01, 0.03, 0.05, 0.07], atol=1e-6)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Clips that are the noisier the more joy they show; every tenth is without sound."""
    workspace = planted_workspace(tmp_path_factory.mktemp("w"), num_train=96, num_val=48)
    store = FeatureStore(workspace, "audio", "sound0000000")
    store.create({"extractor": "waveform", "modality": "audio"}, STEP)
    clips = workspace.clips().to_pylist()
    random = np.random.default_rng(0)
    times = np.arange(25 * STEP) / RATE_HZ
    rows = []
    for row, clip in enumerate(clips):
        if row % 10 != 9:
            joy = clip["Joy"] or 0
            samples = (1 - joy) * np.sin(2 * np.pi * 300 * times) + 2 * joy * random.normal(0, 1, len(times))
            values = (0.3 * samples).astype(np.float16).reshape(-1, STEP)[: random.integers(12, 26)]
            rows.append(ClipFeatures(clip["clip_id"], values, np.zeros(len(values), np.float32), {}))
    store.write(rows)
    return workspace


def recipe_of(name, *overrides):
    quick = ["training.epochs=2", "training.batch_size=16", "training.lr=5e-3", "training.amp=false"]
    return load_recipe(name, [*quick, *overrides])


def train(workspace, recipe):
    return execute_run(plan_run(workspace, recipe, WorkspaceConfig(), 1), reuse_encoders=False)


def test_a_speech_model_learns_end_to_end_and_its_run_is_rebuilt_without_it(workspace, speech):
    lively = ["training.epochs=16", "training.patience=null", "training.lr=2e-3"]
    own = [
        f"encoders.audio.backbone={speech}",
        "encoders.audio.backbone_lr_ratio=1",
        "encoders.audio.dropout=0",
    ]
    metrics = train(workspace, recipe_of("audio-finetuned", *lively, *own))
    assert metrics["val_pearson_joy"] > 0.5
    assert metrics["num_missing"]["audio"] > 0
    result = evaluate_single_run(workspace, "audio-finetuned/1", ["val"])
    assert result["val"]["val_pearson"] == pytest.approx(metrics["val_pearson"], abs=1e-6)
    loaded = load_model(workspace, "audio-finetuned")
    pretrained = hf.AutoModel.from_pretrained(speech).state_dict()
    trained = loaded.model.encoder.backbone.state_dict()
    changed = {name for name in pretrained if not torch.equal(pretrained[name], trained[name])}
    assert any(name.startswith("encoder.layers.0.") for name in changed)
    assert not any(name.startswith("feature_extractor.") for name in changed)


def test_text_asks_the_hidden_states_of_a_speech_model_that_learns(workspace, speech):
    backbones = [f"encoders.audio.backbone={speech}", "encoders.text={type: mean, projection: none}"]
    recipe = recipe_of("first-place-finetuned-both", *backbones, "fusion.hidden=16")
    metrics = train(workspace, recipe)
    assert np.isfinite(metrics["val_pearson"])
    model = load_model(workspace, "first-place-finetuned-both").model
    assert list(model.speech) == ["audio"]
    grouped = [id(p) for group in model.parameter_groups() for p in group.parameters]
    assert len(grouped) == len(set(grouped))
    assert evaluate_single_run(workspace, "first-place-finetuned-both/1", ["val"])["val"]["num_val"] == 48


def test_mistakes_about_speech_models_are_refused_with_a_remedy(tmp_path, workspace, speech):
    bert = tmp_path / "bert"
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    hf.BertModel(hf.BertConfig(vocab_size=9, **shape)).save_pretrained(bert)
    with pytest.raises(UserError, match="audio needs one of wav2vec2"):
        resolve_backbones(recipe_of("audio-finetuned", f"encoders.audio.backbone={bert}"))
    with pytest.raises(UserError, match="text needs a text encoder"):
        resolve_backbones(recipe_of("text-finetuned", f"encoders.text.backbone={speech}"))
    with pytest.raises(UserError, match="no class token"):
        recipe_of("audio-finetuned", "encoders.audio.backbone_pooling=cls")
    own = f"encoders.audio.backbone={speech}"
    with pytest.raises(UserError, match="needs features of 'waveform'"):
        train(workspace, recipe_of("audio-finetuned", own, "encoders.audio.features=planted-audio"))
    with pytest.raises(UserError, match="needs other features than 'waveform'"):
        train(workspace, recipe_of("audio", "encoders.audio.features=waveform"))
    with pytest.raises(UserError, match="cannot be combined with standardise or recurrent"):
        recipe_of("audio-finetuned", "encoders.audio.standardise=true")
    bare = planted_workspace(tmp_path / "bare", num_train=8, num_val=4)
    with pytest.raises(UserError, match="extractors.audio.name=waveform"):
        train(bare, recipe_of("audio-finetuned", own))
