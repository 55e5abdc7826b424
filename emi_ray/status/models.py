"""Determine whether runs, encoders and studies were made from the present content of the workspace."""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.ensembles import ENSEMBLE
from emi_ray.errors import UserError
from emi_ray.recipe.loading import load_recipe, recipe_names
from emi_ray.recipe.schema import Recipe
from emi_ray.results.runs import DESCRIPTION, METRICS, run_folder
from emi_ray.results.studies import STUDY_SETTINGS, study_folder
from emi_ray.schema import labels_of
from emi_ray.settings import validate
from emi_ray.status.status_line import Line
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.training.checkpoint import ModelDescription
from emi_ray.training.data.feature_sources import find_stores
from emi_ray.training.data.input_hashes import CLIPS, read_inputs
from emi_ray.training.plan import plan_run, run_key
from emi_ray.tuning.settings import read_settings
from emi_ray.workspace import Workspace

_SETTLED = ("name", "title", "paper", "backbone_config", "backbone_revision", "code", "loss_code")
"""Fields of a recipe that are no settings: its description, and values that are resolved when it is trained."""


def run_lines(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, pending: Collection[str] = ()
) -> list[Line]:
    """Return one line per trained run: it is current if training it now would give the same result.

    Args:
        pending: fingerprints of features that the next extraction adds to or replaces.
    """
    return [
        _run_line(workspace, clips, config, f"{recipe}/{seed}", pending)
        for recipe in workspace.folders("runs")
        for seed in workspace.folders(f"runs/{recipe}")
        if not is_made_of_runs(workspace, run_folder(recipe, seed))
    ]


def is_made_of_runs(workspace: Workspace, folder: str) -> bool:
    """Return whether a folder under ``runs/`` belongs to an ensemble, finished or not.

    Members are copied there first.
    """
    return workspace.exists(f"{folder}/{ENSEMBLE}") or "members" in workspace.folders(folder)


def train_command(workspace: Workspace, run: str, made: Recipe | None = None) -> str:
    """Return the command that trains the run ``recipe/seed`` again.

    Args:
        made: the recipe that it was trained with; the command repeats the settings that differ from the shipped
            recipe.
    """
    recipe, _, seed = run.partition("/")
    if recipe not in recipe_names():
        return f"emi-ray train -w {workspace.quoted} {recipe}.yaml --seed {seed}"  # a recipe of the user
    settings = [shlex.quote(each) for each in _own_settings(workspace, made)] if made else []
    return " ".join([f"emi-ray train -w {workspace.quoted} {recipe} --seed {seed}", *settings])


def _own_settings(workspace: Workspace, made: Recipe) -> Iterator[str]:
    """Yield ``section.key=value`` for each setting that differs from the shipped recipe with the present defaults."""
    expected = load_recipe(made.name, (), workspace.config().recipe_defaults)
    return _differences(made.model_dump(mode="json"), expected.model_dump(mode="json"), "")


def _differences(made: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> Iterator[str]:
    for key, value in made.items():
        path = f"{where}{key}"
        if key in _SETTLED or value == expected.get(key):
            continue
        if isinstance(value, Mapping) and isinstance(expected.get(key), Mapping):
            yield from _differences(value, expected[key], f"{path}.")
        else:
            # JSON is also YAML, as which settings are parsed.
            yield f"{path}={json.dumps(value)}"


def _run_line(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, run: str, pending: Collection[str]
) -> Line:
    command = train_command(workspace, run)
    folder = f"runs/{run}"
    if not (workspace.exists(f"{folder}/{METRICS}") and workspace.exists(f"{folder}/{DESCRIPTION}")):
        return Line("runs", run, missing=1, why=("it is not finished",), command=command)
    path = f"{folder}/{DESCRIPTION}"
    try:
        made = validate(ModelDescription, workspace.read_json(path), workspace.path(path))
    except UserError as error:
        return Line("runs", run, stale=1, why=(f"it was made by another version: {error}",), command=command)
    why = stale_because(workspace, clips, config, made)
    streams = [stream for stream in made.extractors if made.fingerprint(stream) in pending]
    why += [f"{stream} features must be extracted first" for stream in streams]
    if made.transcriber and made.transcriber["fingerprint"] in pending:
        why.append("transcripts must be recognised first")
    if not why:
        return Line("runs", run, current=1)
    return Line("runs", run, stale=1, why=tuple(why), command=train_command(workspace, run, made.recipe))


def stale_because(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, made: ModelDescription
) -> list[str]:
    """Return what has changed of the inputs of a run; empty if training it now would give the same result."""
    if not made.inputs:
        return ["its inputs were not recorded"]
    transcripts = made.transcriber and TranscriptStore(workspace, made.transcriber["fingerprint"])
    now = read_inputs(clips, made.recipe, made.stores(workspace), transcripts or None)
    # The recipe holds the hash of the code at training, so run_key would not notice a change.
    if made.recipe.has_custom_code:
        from emi_ray.models.custom import changed_code  # imports torch

        if changed := changed_code(made.recipe):
            return [why.rstrip(".") for why in changed]
    if run_key(made.recipe, made.seed, now) == made.run_key:
        return list(_other_extractors(workspace, config, made))
    changed = []
    if made.inputs.get(CLIPS) != now[CLIPS]:
        labels = labels_of(clips.schema)
        changed.append(
            "labels, their ranges or their order have changed"
            if labels != made.labels
            else "clips, splits, groups or values of labels have changed"
        )
    for name, value in now.items():
        if name != CLIPS and made.inputs.get(name) != value:
            what = "transcripts" if name == made.recipe.transcript_stream else f"{name} features"
            changed.append(f"{what} have changed")
    return changed or ["it was trained by another version of the training code"]


def _other_extractors(workspace: Workspace, config: WorkspaceConfig, made: ModelDescription) -> Iterator[str]:
    """Yield encoders that would read other features now, because the extractor or its settings have changed."""
    try:
        stores = find_stores(workspace, made.recipe, config)
    except UserError:  # the features are ambiguous or missing: training reports that
        return
    for stream, store in stores.items():
        if store.fingerprint != made.fingerprint(stream):
            yield f"{stream} would be trained on the features {store.fingerprint} of the extractor configured now"


def encoder_line(workspace: Workspace, runs: Sequence[Line]) -> list[Line]:
    """Return a line on finished stage-1 encoders; they are current if a current run uses them."""
    present = {
        path.rpartition("/")[2].partition(".")[0]
        for modality in workspace.folders("encoders")
        for path in workspace.files(f"encoders/{modality}")
    }
    if not present:
        return []
    used: dict[bool, set[str]] = {True: set(), False: set()}
    for line in runs:
        path = f"runs/{line.name}/{METRICS}"
        stages = workspace.read_json(path).get("stages", {}) if workspace.exists(path) else {}
        # An encoder may serve several runs; one current run is enough.
        used[bool(line.current)] |= {stage["encoder"] for stage in stages.values() if stage.get("encoder")}
    current = present & used[True]
    stale = present & used[False] - current
    others = len(present) - len(current) - len(stale)
    why = (f"{others} belong to studies or to runs that were replaced",) if others else ()
    return [Line("encoders", "stage 1", current=len(current), stale=len(stale), why=why)]


def study_lines(
    workspace: Workspace, config: WorkspaceConfig, has_new_corpus: bool, pending: Collection[str]
) -> Iterator[Line]:
    """Yield one line per study: it is current if further trials would be comparable with its existing ones.

    Args:
        has_new_corpus: whether the source of the corpus has changed since the workspace read it.
        pending: fingerprints of features that must be extracted before anything reads them.
    """
    for name in workspace.folders("studies"):
        if not workspace.exists(f"{study_folder(name)}/{STUDY_SETTINGS}"):
            continue
        try:
            settings = read_settings(workspace, name)
            recipe = settings.recipe
            planned = plan_run(workspace, recipe, config, recipe.training.seed)
            waits = has_new_corpus or any(store.fingerprint in pending for store in planned.stores.values())
            is_current = planned.key == settings.data_key and not waits
        except UserError as error:
            yield Line("studies", name, stale=1, why=(str(error),))
            continue
        why = (
            ""
            if is_current
            else "clips, labels or features have changed: continue under another name (--study)"
        )
        yield Line("studies", name, current=is_current, stale=not is_current, why=(why,) if why else ())
