import pytest
from pydantic import ValidationError

from emi_ray.config import MediaSettings, WorkspaceConfig
from emi_ray.errors import UserError
from emi_ray.settings import apply_overrides, dump_yaml, read_yaml, validate


def test_a_dumped_configuration_reads_back_the_same():
    config = WorkspaceConfig()
    assert validate(WorkspaceConfig, read_yaml(dump_yaml(config), "x"), "x") == config


def test_scientific_notation_is_a_number():
    assert read_yaml("lr: 1e-4", "x") == {"lr": 1e-4}
    assert apply_overrides({}, ["training.lr=1e-4"]) == {"training": {"lr": 1e-4}}


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("media.fases.margin=0.1", "unknown setting 'media.fases': did you mean 'faces'"),
        ("media.faces.margn=0.1", "unknown setting 'media.faces.margn': did you mean 'margin'"),
        ("extractors.vision.nam=dinov2", "did you mean 'name'"),
        ("extractors.visoin.name=dinov2-face", "unknown setting 'extractors.visoin': did you mean 'vision'"),
        ("media.frame_rate_hz=-1", "media.frame_rate_hz = -1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_right_one(override, hint):
    values = apply_overrides(WorkspaceConfig().model_dump(mode="json"), [override])
    with pytest.raises(UserError, match=hint):
        validate(WorkspaceConfig, values, "emi_ray.yaml")


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.lr.x=1"])
def test_an_override_that_is_no_setting_is_refused(override):
    with pytest.raises(UserError, match=r"section|value"):
        apply_overrides({"training": {"lr": 1}}, [override])


def test_overrides_leave_the_original_alone():
    original = {"training": {"lr": 1}}
    apply_overrides(original, ["training.lr=2"])
    assert original == {"training": {"lr": 1}}


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        MediaSettings().max_frames = 3


def test_only_what_an_extractor_sees_enters_its_fingerprint():
    media = MediaSettings()
    assert set(media.deciding({"waveform"})) == {"decoder", "sample_rate_hz", "max_audio_s"}
    assert set(media.deciding({"faces"})) == {"decoder", "frame_rate_hz", "max_frames", "faces"}
    assert media.deciding({"transcript"}) == {}


def test_a_modality_that_is_not_mentioned_keeps_its_built_in_extractor():
    given = {"extractors": {"vision": {"name": "dinov2-face"}, "motion": None}}
    extractors = validate(WorkspaceConfig, given, "x").extractors
    names = {modality: extractor.name for modality, extractor in extractors.items()}
    assert names == {"text": "hashed-ngrams", "audio": "prosody", "vision": "dinov2-face"}
