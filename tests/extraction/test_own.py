import pytest
from pydantic import BaseModel

from emi_ray.config import ExtractorSettings, MediaSettings
from emi_ray.errors import UserError
from emi_ray.extractors import ExtractorSpec, check_settings, specify
from tests.cluster.faulty import Faulty

NAME = "tests.cluster.faulty:Faulty"


def spec_of(kind: type, settings: BaseModel) -> ExtractorSpec:
    return ExtractorSpec(kind, settings, MediaSettings(), name=NAME)


def test_an_extractor_of_ones_own_is_named_by_module_and_class():
    spec = specify("text", ExtractorSettings(name=NAME, settings={"seconds": 0.5}), MediaSettings())
    assert spec.kind is Faulty
    assert spec.settings.seconds == 0.5
    assert spec.identity["extractor"] == NAME
    assert len(spec.identity["code"]) == 12


def test_other_code_makes_another_fingerprint(monkeypatch):
    before = specify("text", ExtractorSettings(name=NAME), MediaSettings()).fingerprint
    monkeypatch.setattr("emi_ray.custom_code.inspect.getsource", lambda _: "other code")
    assert specify("text", ExtractorSettings(name=NAME), MediaSettings()).fingerprint != before


@pytest.mark.parametrize(
    ("modality", "name", "words"),
    [
        ("text", "nowhere:Thing", "No module named 'nowhere'"),
        ("text", "tests.cluster.faulty:Absent", "no attribute 'Absent'"),
        ("text", "tests.cluster.faulty:FaultySettings", "not a subclass of emi_ray.extractors.Extractor"),
        ("vision", NAME, "is for text"),
        ("text", ":", "cannot be imported"),
    ],
)
def test_what_is_no_extractor_is_refused_with_the_setting_named(modality, name, words):
    with pytest.raises(UserError, match=rf"extractors\.{modality}\.name = '{name}'.*{words}"):
        check_settings(modality, ExtractorSettings(name=name))
