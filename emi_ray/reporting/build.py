"""Building the report of a workspace: ``report/index.html`` and ``report/scores.json``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import emi_ray
from emi_ray.reporting import formatting
from emi_ray.reporting.collect import FailureKind, FeatureSet, Material, collect
from emi_ray.reporting.comparison_section import build_comparison
from emi_ray.reporting.corpus_plots import coverage_bars, step_histograms
from emi_ray.reporting.corpus_section import build_corpus_section
from emi_ray.reporting.extraction_section import build_extraction_tables
from emi_ray.reporting.headline import headline
from emi_ray.reporting.plot_style import DARK_PALETTE, PALETTE
from emi_ray.reporting.ranking import same_clips
from emi_ray.reporting.run_section import build_run_sections
from emi_ray.reporting.scores_section import build_scores_section, scores_json
from emi_ray.reporting.study_section import build_study_sections
from emi_ray.reporting.svg import printable
from emi_ray.settings import dump_yaml
from emi_ray.workspace import Workspace

INDEX = "report/index.html"
SCORES = "report/scores.json"

_MAX_FAILURE_KINDS = 60


def build_report(workspace: Workspace) -> dict[str, Any]:
    """Write the report of a workspace. Parts that do not exist yet are left out.

    Returns:
        ``html`` and ``json``: the paths of the two files; ``scores``: the content of ``scores.json``.

    Raises:
        UserError: ``emi_ray.yaml`` or a ``recipe.yaml`` is invalid.
    """
    material = collect(workspace)
    scores = scores_json(material)
    workspace.write_json(SCORES, scores)
    # Last, because rendering can fail and the scores are of use without the page.
    workspace.write_text(INDEX, render(material))
    return {"html": workspace.path(INDEX), "json": workspace.path(SCORES), "scores": scores}


def render(material: Material) -> str:
    """Render the page as HTML that is also well-formed XML."""
    systems = build_run_sections(material)
    same = same_clips(material.workspace, material.runs)
    template = _environment().get_template("index.html.j2")
    page: str = template.render(
        title=f"Emotional mimicry intensity: {_corpus_name(material)}",
        headline=headline(material, same),
        facts=_facts(material),
        scores=build_scores_section(material, same),
        comparison=build_comparison(material, same),
        systems=systems,
        num_undrawn=len(material.runs) - len(systems),
        studies=build_study_sections(material.workspace),
        corpus=None if material.clips is None else build_corpus_section(material.clips),
        features=_features(material),
        extractions=build_extraction_tables(material.workspace),
        making=_making(material),
        commands=_commands(material.place),
        light=PALETTE,
        dark=DARK_PALETTE,
        version=emi_ray.__version__,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        root=material.workspace.root,
    )
    return printable(page)


def _environment() -> Environment:
    """Create the template environment: all values are escaped, and an undefined name is an error."""
    environment = Environment(
        loader=PackageLoader("emi_ray", "reporting"),
        autoescape=True,
        # A misspelt name in the template must not become an empty place in the page.
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "score": formatting.format_score,
        "grouped": formatting.grouped,
        "heat": formatting.heat,
    }
    return environment


def _corpus_name(material: Material) -> str:
    names = {"vidmimic2": "Hume-Vidmimic2", "demo": "demo corpus", "features": "imported features"}
    kind = material.corpus_kind or "no corpus"
    source = material.config.corpus.source if material.config else None
    return names.get(kind, source or kind)


def _facts(material: Material) -> list[tuple[str, str]]:
    facts = [("workspace", material.workspace.root), ("runs", formatting.grouped(len(material.runs)))]
    if material.clips is not None:
        facts.insert(0, ("clips", formatting.grouped(material.clips.num_rows)))
        facts.insert(1, ("labels", ", ".join(material.label_names)))
    return facts


def _commands(place: str) -> dict[str, str]:
    return {
        "init": f"emi-ray init {place} --corpus table --source clips.csv",
        "extract": f"emi-ray extract {place}",
        "train": f"emi-ray train {place} f2",
    }


@dataclass(frozen=True)
class FeaturesSection:
    """Content of the section on features; ``num_more`` kinds of failure are not listed."""

    sets: Sequence[FeatureSet]
    coverage: str | None
    steps: str | None
    failures: Sequence[FailureKind]
    num_more: int


def _features(material: Material) -> FeaturesSection:
    sets = material.feature_sets
    filled = [each for each in sets if len(each.num_steps)]
    several = [each for each in filled if each.num_steps.max() > 1]
    return FeaturesSection(
        sets=sets,
        coverage=coverage_bars("coverage", sets) if sets else None,
        steps=step_histograms("steps", several) if several else None,
        failures=material.failures[:_MAX_FAILURE_KINDS],
        num_more=max(0, len(material.failures) - _MAX_FAILURE_KINDS),
    )


def _making(material: Material) -> list[tuple[str, str]]:
    """Return titles and texts on how results were made: settings, extractors, recipes and versions of runs."""
    parts = []
    if material.config:
        parts.append(("Settings of the workspace (emi_ray.yaml)", dump_yaml(material.config)))
    for each in material.feature_sets:
        title = f"Extractor of {each.modality}: {each.extractor}, fingerprint {each.fingerprint}"
        parts.append((title, json.dumps(each.description, indent=2)))
    # Runs are sorted, the best first; going backwards, the best run of each recipe is kept.
    drawn = {run.recipe: run for run in reversed(material.runs)}
    for run in reversed(drawn.values()):
        if run.recipe_yaml:
            parts.append((f"Recipe as it was resolved: {run.name}", run.recipe_yaml))
        if run.versions:
            parts.append((f"Versions: {run.name}", json.dumps(run.versions, indent=2)))
    return parts
