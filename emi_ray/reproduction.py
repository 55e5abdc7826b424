"""The papers' tables filled with runs of a workspace: our scores, the papers', and why they may not be comparable."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np

from emi_ray.comparison import System as ComparedSystem
from emi_ray.comparison import codes_of_clips, compare
from emi_ray.config import WorkspaceConfig
from emi_ray.errors import EmiRayError, UserError, choices
from emi_ray.metrics import mean_score, pearson
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.recipe.schema import Recipe
from emi_ray.reporting.formatting import UNKNOWN, format_score, signed
from emi_ray.reporting.paper_scores import LABEL_SCORES, Basis, differences_from_paper, paper_score
from emi_ray.reporting.text_tables import TextTable, csv_text, latex_document, markdown
from emi_ray.resampling import sample_scores, score_estimate
from emi_ray.results.predictions import ScoredPredictions, read_scored_predictions
from emi_ray.results.runs import DESCRIPTION, run_folder
from emi_ray.schema import EMOTIONS
from emi_ray.training.runs import RunRequest, RunResult, train_runs
from emi_ray.workspace import Workspace

FOLDER = "reproduction"
FIRST_SEED = 42

TITLES = {
    "3": "Table 3: one modality alone",
    "4": "Table 4: encoders of the staged system",
    "5": "Table 5: fusion",
    "ablation": "Ablation: staged, joint, frozen",
    "rivals": "Other systems",
    "twins": "The paper's systems with our settings",
}
_PAPERS_OWN = {
    "4": ("text-faithful", "audio-faithful", "vision-faithful", "motion-faithful"),
    "5": ("f1-faithful", "paper-faithful", "f3-faithful", "f4-faithful", "f5-faithful"),
    "twins": ("text", "audio", "vision", "motion", "f1", "f2", "f3", "f4", "f5"),
}
"""A row of the paper is filled by the recipe that keeps to the paper. Its twin with our settings (standardised
features, best epoch selected on a held-out part of train) is in a table of its own."""

_RIVALS = (
    "second-place",
    "first-place",
    "first-place-vad",
    "first-place-finetuned",
    "text-finetuned",
    "late-fusion",
    "ours",
)
_COMPARED = ("5", "ablation", "rivals")
"""Tables whose systems are also compared in pairs."""


@dataclass(frozen=True)
class Row:
    """One system with all its seeds.

    Attributes:
        recipe: name of the recipe.
        title: title of the recipe.
        answers: predictions by seed.
        reasons: why the paper's score is not comparable; empty if it is.
        problem: why the system could not be trained; empty if it was.
    """

    recipe: str
    title: str
    answers: Mapping[str, ScoredPredictions]
    reasons: tuple[str, ...]
    problem: str

    @property
    def scores(self) -> list[float]:
        """Pearson's r of each seed, as mean over labels."""
        return [mean_score("pearson", each.predicted, each.true) for each in self.answers.values()]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores)) if self.answers else nan


def recipes_of(table: str) -> list[str]:
    """Return the names of the recipes whose runs fill a table.

    Raises:
        UserError: there is no such table.
    """
    if table not in TITLES:
        raise UserError(f"--tables {table}: {choices(table, list(TITLES))}")
    # The titles and tables are those of the shipped files, without overrides.
    shipped = {name: load_recipe(name) for name in recipe_names()}
    if table == "rivals":
        return [name for name in _RIVALS if name in shipped]
    if table == "ablation":
        return [name for name in shipped if name.startswith("ablation")]
    if table in _PAPERS_OWN:
        return list(_PAPERS_OWN[table])
    return [name for name, recipe in shipped.items() if recipe.paper and recipe.paper.table == int(table)]


def load_recipes(
    tables: Sequence[str],
    overrides: Sequence[str] = (),
    defaults: Mapping[str, Any] | None = None,
    any_features: bool = False,
) -> dict[str, Recipe]:
    """Load the recipes of some tables, by name. A recipe ignores overrides for sections that it does not have.

    Args:
        tables: keys of :data:`TITLES`.
        overrides, defaults, any_features: as of :func:`emi_ray.recipe.loading.load_recipe`.

    Raises:
        UserError: there is no such table, or none of the recipes accepts an override.
    """
    names = list(dict.fromkeys(recipe for table in tables for recipe in recipes_of(table)))
    taken = {override: [name for name in names if _takes(name, override) is None] for override in overrides}
    for override, takers in taken.items():
        if not takers and (problem := _takes(names[0], override)) is not None:
            raise problem
    return {
        name: load_recipe(name, [o for o, takers in taken.items() if name in takers], defaults, any_features)
        for name in names
    }


def reproduce(
    workspace: Workspace,
    tables: Sequence[str],
    recipes: Mapping[str, Recipe],
    num_seeds: int,
    config: WorkspaceConfig,
    train: Callable[..., list[RunResult]] = train_runs,
    **hooks: Any,
) -> list[TextTable]:
    """Train the missing runs and write the tables.

    Replaces ``reproduction/tables.md``, ``tables.tex`` and ``tables.csv`` in the workspace. A recipe that cannot be
    trained keeps its row, with the reason. Needs a Ray session.

    Args:
        workspace: holds the features and the runs.
        tables: keys of :data:`TITLES`.
        recipes: the recipes of these tables, from :func:`load_recipes`.
        num_seeds: number of seeds of each recipe, from :data:`FIRST_SEED` upwards.
        config: settings of the workspace.
        train: trains runs; see :func:`emi_ray.training.runs.train_runs`.
        hooks: further arguments of ``train``.

    Raises:
        UserError: there is no such table.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + num_seeds)
    requests = [RunRequest(recipe, seed) for recipe in recipes.values() for seed in seeds]
    results = train(workspace, requests, config, **hooks)
    rows = {name: _row(workspace, recipe, seeds, results) for name, recipe in recipes.items()}
    made: list[TextTable] = []
    for table in tables:
        selected = [rows[name] for name in recipes_of(table)]
        made.append(_table(workspace, TITLES[table], selected))
        if table == "4":
            made += _by_label(selected)
        if table in _COMPARED:
            made += _differences(workspace, TITLES[table], selected)
    workspace.write_text(f"{FOLDER}/tables.md", markdown(made))
    workspace.write_text(f"{FOLDER}/tables.csv", csv_text(made))
    workspace.write_text(f"{FOLDER}/tables.tex", latex_document(made, "Reproduction"))
    return made


def _row(workspace: Workspace, recipe: Recipe, seeds: Sequence[int], results: Sequence[RunResult]) -> Row:
    selected = [result for result in results if result.recipe.name == recipe.name]
    problems = [str(result.problem) for result in selected if result.problem is not None]
    trained = {str(r.seed): run_folder(recipe.name, r.seed) for r in selected if r.metrics is not None}
    answers = {seed: read_scored_predictions(workspace, folder) for seed, folder in trained.items()}
    scored = {seed: each for seed, each in answers.items() if each is not None}
    reasons: list[str] = []
    if scored:
        description = workspace.read_json(f"{trained[next(iter(scored))]}/{DESCRIPTION}")
        basis = Basis(recipe, description["extractors"], workspace.config().corpus.kind, workspace.clips())
        reasons = differences_from_paper(basis)
    if len(scored) < len(seeds):
        problems.append(f"{len(scored)} of {len(seeds)} seeds")
    return Row(recipe.name, recipe.title, scored, tuple(reasons), "; ".join(dict.fromkeys(problems)))


def _table(workspace: Workspace, title: str, rows: Sequence[Row]) -> TextTable:
    headings = [
        "system",
        "ours",
        "95 % interval",
        "seeds",
        "clips",
        "paper",
        "ours − paper",
        "not comparable: run",
    ]
    note = (
        "Validation Pearson r, mean over labels. Ours: mean ± standard deviation over seeds, and a 95 % interval "
        "from a bootstrap over people (or clips) and seeds. A difference from a paper is meaningful only if the last "
        "column names no reason against it."
    )
    return TextTable(title, headings, [_cells(workspace, row) for row in rows], note)


def _cells(workspace: Workspace, row: Row) -> list[str]:
    paper = paper_score(row.recipe)
    name = f"{row.recipe}: {row.title}"
    shown = format_score(paper, 4)
    if not row.answers:
        return [name, UNKNOWN, UNKNOWN, "0", UNKNOWN, shown, UNKNOWN, row.problem or "not trained"]
    scores, mean = row.scores, row.mean
    deviation = f" ± {format_score(float(np.std(scores, ddof=1)), 4)}" if len(scores) > 1 else ""
    first = next(iter(row.answers.values()))
    codes = codes_of_clips(workspace, first.clip_ids)
    found = score_estimate(
        sample_scores([each.predicted for each in row.answers.values()], first.true, codes)
    )[-1]
    gap = signed(mean - paper, 4) if paper is not None else UNKNOWN
    why = (
        "; ".join([*row.reasons, *([row.problem] if row.problem else [])])
        if paper is not None
        else row.problem
    )
    reach = UNKNOWN if isnan(found.low) else f"{format_score(found.low)} to {format_score(found.high)}"
    return [
        name,
        f"{format_score(mean, 4)}{deviation}",
        reach,
        str(len(scores)),
        f"{len(first.clip_ids):,}",
        shown,
        gap,
        why or UNKNOWN,
    ]


def _by_label(rows: Sequence[Row]) -> list[TextTable]:
    """Build the part of table 4 with r of each emotion: ours, and the paper's in brackets."""
    filled = [row for row in rows if row.answers and _of_table_4(row.recipe) in LABEL_SCORES]
    if not filled or any(set(EMOTIONS) - set(next(iter(row.answers.values())).labels) for row in filled):
        return []
    lines = []
    for row in filled:
        selected = [
            dict(zip(each.labels, pearson(each.predicted, each.true), strict=True))
            for each in row.answers.values()
        ]
        means = [float(np.mean([each[label] for each in selected])) for label in EMOTIONS]
        pairs = zip(means, LABEL_SCORES[_of_table_4(row.recipe)], strict=True)
        lines.append(
            [row.recipe, *(f"{format_score(ours)} ({format_score(theirs)})" for ours, theirs in pairs)]
        )
    note = "Our mean over seeds, and the paper's score in brackets. The table above says if they are not comparable."
    return [TextTable("Table 4 by label", ["system", *EMOTIONS], lines, note)]


def _of_table_4(recipe: str) -> str:
    """Return the modality that a recipe of table 4 reads, for example ``text`` for ``text-faithful``."""
    return recipe.removesuffix("-faithful")


def _differences(workspace: Workspace, title: str, rows: Sequence[Row]) -> list[TextTable]:
    systems = [ComparedSystem(row.recipe, row.answers) for row in rows if row.answers]
    try:
        found = compare(workspace, systems)
    except EmiRayError:
        return []  # fewer than two systems, or no common clips; the table above shows the reason
    lines = [
        [
            f"{pair.first} − {pair.second}",
            signed(pair.mean.value, 4),
            f"{signed(pair.mean.low, 4)} to {signed(pair.mean.high, 4)}",
            format_score(pair.p_value),
        ]
        for pair in found.pairs
    ]
    headings = ["systems", "difference", "95 % interval", "p, corrected"]
    return [TextTable(f"{title}, differences", headings, lines, " ".join(found.notes))]


def _takes(name: str, override: str) -> UserError | None:
    """Return the error with which a recipe refuses an override, or None if it accepts the override."""
    section, *rest = override.partition("=")[0].split(".")
    # Any encoder accepts a backbone as a setting, but only type finetune uses it.
    if section == "encoders" and rest[-1:] == ["backbone"]:
        encoder = load_recipe(name).encoders.get(rest[0])
        if encoder is None or encoder.type != "finetune":
            return UserError(f"{override}: recipe {name} does not fine-tune a {rest[0]} backbone.")
    try:
        load_recipe(name, [override])
    except UserError as error:
        return error
    return None
