"""What one may rely on of ``import emi_ray``, without Ray."""

import subprocess
import sys

import pytest

import emi_ray


def test_every_public_name_is_there_and_documented():
    for name in emi_ray.__all__:
        assert getattr(emi_ray, name).__doc__, name
    assert set(dir(emi_ray)) == {*emi_ray.__all__, "__version__"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = emi_ray.nothing


@pytest.mark.parametrize("module", ["emi_ray", "emi_ray.api.training", "emi_ray.cli"])
def test_importing_is_cheap(module):
    """The command line shows its first line before Ray and torch are imported."""
    heavy = ["torch", "ray", "pandas", "optuna", "matplotlib", "transformers", "cv2", "av", "librosa"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_settings_are_a_mapping_or_a_list():
    from emi_ray.api.inputs import overrides_of

    wanted = ["training.epochs=3", "encoders.text.hidden=16"]
    assert overrides_of(wanted) == wanted
    assert overrides_of({"training.epochs": 3, "corpus.labels": ["Joy"]}) == [
        "training.epochs=3",
        'corpus.labels=["Joy"]',
    ]
    with pytest.raises(emi_ray.UserError, match="give a list"):
        overrides_of("training.epochs=3")


def test_a_model_is_named_by_the_folder_of_its_run(tmp_path):
    with pytest.raises(emi_ray.UserError, match="WORKSPACE/runs/RECIPE/SEED"):
        emi_ray.load_model(tmp_path)


def test_the_command_says_its_version():
    done = subprocess.run(
        [sys.executable, "-m", "emi_ray", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"emi-ray {emi_ray.__version__}"
