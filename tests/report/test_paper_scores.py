from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from emi_ray.recipe.loading import load_recipe
from emi_ray.recipe.schema import Recipe
from emi_ray.reporting.paper_scores import (
    PAPER_CLIPS,
    PAPER_FEATURES,
    Basis,
    differences_from_paper,
    paper_score,
)
from emi_ray.schema import EMOTION_LABELS, clips_schema


def clips(train: int = PAPER_CLIPS["train"], val: int = PAPER_CLIPS["val"]) -> pa.Table:
    splits = ["train"] * train + ["val"] * val
    columns = {"clip_id": [f"{index:05d}" for index in range(len(splits))], "split": splits}
    schema = clips_schema(EMOTION_LABELS)
    nothing = pa.nulls(len(splits))
    return pa.table(
        [pa.array(columns[f.name]) if f.name in columns else nothing.cast(f.type) for f in schema],
        schema=schema,
    )


def basis(
    recipe: Recipe | None = None, kind: str = "vidmimic2", table: pa.Table | None = None, **features: Any
) -> Basis:
    recipe = recipe or load_recipe("f2")
    made_by: dict[str, Mapping[str, Any]] = {
        modality: {"extractor": PAPER_FEATURES[modality], "settings": {}} for modality in recipe.modalities
    }
    return Basis(recipe, made_by | features, kind, table if table is not None else clips())


def test_paper_stands_beside_a_run_on_its_features_its_split_and_its_clips() -> None:
    assert differences_from_paper(basis()) == []
    assert paper_score("f2") == pytest.approx(0.4386)
    named = load_recipe("t3-gte-mlp")
    assert differences_from_paper(basis(named)) == []


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (basis(audio={"extractor": "prosody", "settings": {}}), ["on other features"]),
        (basis(text={"extractor": "gte-base", "settings": {"weights": "/tmp/tiny"}}), ["on other features"]),
        (basis(load_recipe("t3-gte-mlp"), text={"extractor": "bert-large"}), ["on other features"]),
        (basis(text={"extractor": "gte-base", "settings": {"sequence": True}}), ["on other features"]),
        (basis(text={"extractor": "gte-base", "settings": {"layer": "mean"}}), ["on other features"]),
        (basis(motion={"extractor": "openface", "settings": {"min_confidence": 0.2}}), ["on other features"]),
        (basis(load_recipe("t3-gte-lstm"), text={"extractor": "gte-base"}), ["on other features"]),
        (basis(kind="demo"), ["on other clips"]),
        (basis(table=clips(100, 50)), ["on other clips"]),
        (basis(load_recipe("f2").model_copy(update={"split": "expanded"})), ["on another split"]),
        (basis(load_recipe("f3").model_copy(update={"split": "official"})), ["on another split"]),
        (basis(load_recipe("f2", ["training.epochs=3"])), ["with other settings"]),
        (
            basis(load_recipe("t3-gte-lstm"), text={"extractor": "gte-base-tokens"}),
            ["the paper does not say all its features"],
        ),
        (basis(load_recipe("second-place")), ["the paper does not say all its features"]),
        (basis(load_recipe("f2").model_copy(update={"name": "mine"})), ["with other settings"]),
    ],
)
def test_paper_does_not_stand_beside_any_other_run(run: Basis, why: list[str]) -> None:
    assert [reason for reason in differences_from_paper(run) if reason in why] == why


def test_settings_that_a_run_resolves_are_no_other_features() -> None:
    resolved = {"weights": "thenlper/gte-base", "revision": "c7c9", "dtype": "bfloat16"}
    assert differences_from_paper(basis(text={"extractor": "gte-base", "settings": resolved})) == []
    measured = {"binary": "/opt/FeatureExtraction", "min_confidence": 0.7, "time_limit_s": 60.0}
    assert differences_from_paper(basis(motion={"extractor": "openface", "settings": measured})) == []


def test_seed_and_spelling_of_features_are_no_other_settings() -> None:
    recipe = load_recipe("f2", ["training.seed=7", "encoders.text.features=gte-base"])
    assert differences_from_paper(basis(recipe)) == []
