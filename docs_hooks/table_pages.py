"""Arrow schemas, extractors and recipes as Markdown tables."""

from typing import Any

import pyarrow as pa
from markdown_text import cell, code, table

from emi_ray.cli.extractors import default_weights
from emi_ray.extractors import EXTRACTORS
from emi_ray.extractors.pretrained.whisper import Whisper
from emi_ray.recipe.loading import load_recipe, recipe_names


def schema(found: pa.Schema) -> str:
    """One row a column of a Parquet file."""
    rows = [[code(each.name), code(str(each.type)), "may be null" if each.nullable else ""] for each in found]
    return table(["column", "type", ""], rows)


def extractors() -> str:
    """Every extractor and the recogniser of speech, with their default weights and licences."""
    kinds: list[Any] = [*EXTRACTORS.values(), Whisper]
    rows = [
        [
            code(kind.NAME),
            getattr(kind, "MODALITY", "transcript"),
            ", ".join(sorted(kind.NEEDS)),
            str(getattr(kind, "DIM", None) or "by the weights"),
            code(weights) if (weights := default_weights(kind)) else "none",
            cell(kind.LICENCE),
        ]
        for kind in kinds
    ]
    return table(["name", "modality", "needs", "numbers a step", "default weights", "licence"], rows)


def recipes() -> str:
    """Every recipe that is shipped, with what the paper reports for it."""
    return table(
        ["recipe", "title", "paper: val r", "paper: test r"], [_recipe(name) for name in recipe_names()]
    )


def _recipe(name: str) -> list[str]:
    recipe = load_recipe(name)
    paper = recipe.paper
    return [
        code(name),
        cell(recipe.title),
        _score(paper.val_pearson if paper else None),
        _score(paper.test_pearson if paper else None),
    ]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
