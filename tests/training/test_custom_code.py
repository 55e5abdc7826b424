"""Encoders and losses of a user's own: trained, recorded, found again, refused where they are missing or changed."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from planted import planted_workspace

import emi_ray
from emi_ray.config import WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.evaluation import evaluate_single_run
from emi_ray.losses import build_objective
from emi_ray.models.custom import CustomEncoder, changed_code
from emi_ray.models.sequences import PaddedGroup, padded
from emi_ray.recipe.loading import load_recipe
from emi_ray.recipe.sections import EncoderSettings, ObjectiveSettings
from emi_ray.status.models import run_lines
from emi_ray.training.plan import encoder_jobs, plan_run
from emi_ray.training.run import execute_run

CODE = '''
import torch
from torch import nn


class Peak(nn.Module):
    """The largest value of each feature over the steps of a clip, through one layer."""

    def __init__(self, feature_dim, width=8):
        super().__init__()
        self.embedding_dim = width
        self.layer = nn.Linear(feature_dim, width)

    def forward(self, values, mask):
        return self.layer(values.masked_fill(~mask[..., None], -torch.inf).amax(dim=1))


class WrongShape(Peak):
    def forward(self, values, mask):
        return super().forward(values, mask)[:, :3]


class WithoutDim(nn.Module):
    def __init__(self, feature_dim):
        super().__init__()


def cubic(predictions, targets):
    return (predictions - targets).abs().pow(3).nanmean()


def unreduced(predictions, targets):
    return predictions - targets


def no_module():
    pass
'''
RECIPE = """
title: Own encoder and own loss
encoders:
  text: {type: mlp, hidden: 8}
  audio: {type: "ours.parts:Peak", settings: {width: 6}, standardise: true}
fusion: {type: concat, hidden: 8}
objective: {ccc: 0.5, mse: 0, loss: "ours.parts:cubic", loss_weight: 2.0}
training: {epochs: 2}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The file of a package ``ours`` with a user's code, in the working directory."""
    for name in ("ours", "ours.parts"):
        sys.modules.pop(name, None)
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "parts.py").write_text(CODE)
    (tmp_path / "own.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    importlib.invalidate_caches()
    yield folder / "parts.py"
    for name in ("ours", "ours.parts"):
        sys.modules.pop(name, None)


def edit(module):
    module.write_text(module.read_text() + "\n# edited\n")
    importlib.invalidate_caches()
    sys.modules.pop("ours.parts", None)


def encoder(name: str, **settings: object) -> CustomEncoder:
    return CustomEncoder(4, EncoderSettings(type=f"ours.parts:{name}", settings=settings))


def test_a_run_with_own_code_is_trained_recorded_and_scored_again_from_its_files(module, tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=48, num_val=24)
    plan = plan_run(workspace, load_recipe("own.yaml"), WorkspaceConfig(), 1)
    assert len(plan.recipe.encoders["audio"].code) == len(plan.recipe.objective.loss_code) == 12
    metrics = execute_run(plan)
    assert evaluate_single_run(workspace, "own/1")["val"]["val_pearson"] == pytest.approx(
        metrics["val_pearson"]
    )
    recorded = workspace.read_json("runs/own/1/model.json")["recipe"]
    assert recorded["encoders"]["audio"]["type"] == "ours.parts:Peak"
    assert recorded["encoders"]["audio"]["code"] == plan.recipe.encoders["audio"].code
    assert recorded["objective"]["loss_code"] == plan.recipe.objective.loss_code
    assert emi_ray.load_model(workspace.path("runs/own/1")).run == "own/1"
    (line,) = run_lines(workspace, workspace.clips(), WorkspaceConfig())
    assert line.current == 1

    edit(module)
    (line,) = run_lines(workspace, workspace.clips(), WorkspaceConfig())
    assert line.stale == 1
    assert "encoders.audio.type = 'ours.parts:Peak': the source of its module has changed" in line.why[0]
    with pytest.raises(UserError, match=r"own/1 cannot be loaded: encoders\.audio.*has changed"):
        emi_ray.load_model(workspace.path("runs/own/1"))
    with pytest.raises(UserError, match=r"runs/own/1 cannot be loaded: encoders\.audio\.type.*has changed"):
        evaluate_single_run(workspace, "own/1")

    module.unlink()
    sys.modules.pop("ours.parts", None)
    with pytest.raises(UserError, match=r"'ours\.parts:Peak' cannot be imported: ModuleNotFoundError"):
        emi_ray.load_model(workspace.path("runs/own/1"))


def test_other_code_makes_other_runs_and_encoders_and_leaves_those_without_it(module, tmp_path):
    workspace = planted_workspace(tmp_path / "w", num_train=24, num_val=12)
    config, recipe = WorkspaceConfig(), load_recipe("own.yaml", ["objective.loss=null", "objective.mse=0.1"])
    before = plan_run(workspace, recipe, config, 1)
    edit(module)
    after = plan_run(workspace, recipe, config, 1)
    keys = [{job.modality: job.key for job in encoder_jobs(plan)} for plan in (before, after)]
    assert before.key != after.key
    assert keys[0]["audio"] != keys[1]["audio"]
    assert keys[0]["text"] == keys[1]["text"]


def test_an_own_encoder_never_sees_padding_and_a_clip_without_steps_is_zero(module):
    peak = encoder("Peak", width=5)
    assert peak.embedding_dim == 5
    values = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    group = PaddedGroup(values * mask[..., None], mask)
    short = PaddedGroup(values[:1, :2], mask[:1, :2])
    embedding = peak.encode(padded(group, present=mask.any(dim=1)))
    assert torch.equal(embedding[1], torch.zeros(5))
    alone = peak.encode(padded(short, present=torch.tensor([True])))
    torch.testing.assert_close(embedding[:1], alone)


def test_an_own_loss_is_added_with_its_weight_and_gets_unknown_targets(module):
    objective = ObjectiveSettings(ccc=0, mse=1.0, loss="ours.parts:cubic", loss_weight=2.0)
    predictions, targets = torch.tensor([[0.5], [0.5]]), torch.tensor([[0.0], [torch.nan]])
    assert build_objective(objective)(predictions, targets).item() == pytest.approx(0.25 + 2 * 0.125)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("encoders.audio.type=atention", r"did you mean 'attention'.*module:Class"),
        ("encoders.audio.hidden=16", r"encoders.audio.hidden = 16 has no effect: an encoder of your own"),
        ("encoders.text.settings={a: 1}", r"settings and code belong to an encoder of your own"),
        ("objective.loss=cubic", r"module:function"),
        ("training.bucket_batches=4", r"a loss of your own cannot compare"),
    ],
)
def test_settings_that_do_not_fit_own_code_are_refused(module, override, says):
    with pytest.raises(UserError, match=says):
        load_recipe("own.yaml", [override])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "encoders.audio.type=nowhere:Peak",
            r"^encoders\.audio\.type = 'nowhere:Peak' cannot be imported: Module",
        ),
        ("encoders.audio.type=ours.parts:Pek", r"has no attribute 'Pek'"),
        (
            "encoders.audio.type=ours.parts:cubic",
            r"'ours\.parts:cubic' is not a subclass of torch\.nn\.Module",
        ),
        ("objective.loss=ours.parts:Nothing", r"^objective\.loss = 'ours\.parts:Nothing' cannot be imported"),
    ],
)
def test_code_that_is_not_there_is_refused_when_a_run_is_planned(module, tmp_path, override, says):
    workspace = planted_workspace(tmp_path / "w", num_train=24, num_val=12)
    with pytest.raises(UserError, match=says):
        plan_run(workspace, load_recipe("own.yaml", [override]), WorkspaceConfig(), 1)
    with pytest.raises(UserError, match=says):
        emi_ray.train(workspace, "own.yaml", settings=[override])  # before Ray starts


def test_a_syntax_error_in_own_code_is_told_with_its_line(module, tmp_path):
    module.write_text("class Peak(:\n")
    importlib.invalidate_caches()
    says = changed_code(load_recipe("own.yaml", ["objective.loss=null"]))
    assert len(says) == 1
    assert "SyntaxError" in says[0]
    assert "parts.py, line 1" in says[0]


def test_an_encoder_or_a_loss_that_breaks_its_contract_is_named(module):
    with pytest.raises(UserError, match=r"cannot be built as Peak\(4, \*\*{'widht': 3}\).*'widht'"):
        encoder("Peak", widht=3)
    with pytest.raises(UserError, match="attribute embedding_dim"):
        encoder("WithoutDim")
    one = PaddedGroup(torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(UserError, match=r"forward returned \(2, 3\), not a tensor of shape \(2, 8\)"):
        encoder("WrongShape").encode(padded(one, present=torch.ones(2, dtype=torch.bool)))
    objective = ObjectiveSettings(ccc=0, mse=0, loss="ours.parts:unreduced")
    with pytest.raises(UserError, match=r"unreduced' returned shape \(2, 1\): return a tensor without"):
        build_objective(objective)(torch.ones(2, 1), torch.ones(2, 1))


def test_the_encoder_and_the_loss_of_the_page_can_be_trained(module, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "own_model.md"
    for language, file in (("python", "peak.py"), ("yaml", "peaks.yaml")):
        (block,) = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        (tmp_path / file).write_text(block)
    workspace = planted_workspace(tmp_path / "w", num_train=24, num_val=12)
    metrics = execute_run(
        plan_run(workspace, load_recipe("peaks.yaml", ["training.epochs=1"]), WorkspaceConfig(), 1)
    )
    assert set(metrics["stages"]) == {"text", "audio"}
