"""Whether runs, encoders and studies were made of what the workspace holds now."""

import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from emi_ray.config import WorkspaceConfig
from emi_ray.ensembles import ENSEMBLE
from emi_ray.errors import UserError
from emi_ray.recipe import Recipe, load_recipe, recipe_names
from emi_ray.schema import labels_of
from emi_ray.settings import validate
from emi_ray.status.status_line import Line
from emi_ray.training.checkpoint import DESCRIPTION, ModelDescription
from emi_ray.training.data.feature_sources import find_stores
from emi_ray.training.data.input_hashes import CLIPS, read_inputs
from emi_ray.training.plan import METRICS, plan_run, run_key
from emi_ray.transcript_store import TranscriptStore
from emi_ray.tuning.settings import read_settings
from emi_ray.workspace import Workspace

_SETTLED = ("name", "title", "paper", "backbone_config", "backbone_revision")
"""What a recipe says of itself, and what is settled when it is trained: no settings to give."""


def run_lines(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, pending: Collection[str] = ()
) -> list[Line]:
    """One line a trained run: whether training it now would give the same.

    Args:
        pending: fingerprints of features that the next extraction adds to or makes anew.
    """
    return [
        _run_line(workspace, clips, config, f"{recipe}/{seed}", pending)
        for recipe in workspace.folders("runs")
        for seed in workspace.folders(f"runs/{recipe}")
        if not is_made_of_runs(workspace, f"runs/{recipe}/{seed}")
    ]


def is_made_of_runs(workspace: Workspace, folder: str) -> bool:
    """Whether a folder under ``runs/`` is an ensemble's, finished or not: its members are copied there first."""
    return workspace.exists(f"{folder}/{ENSEMBLE}") or "members" in workspace.folders(folder)


def train_command(workspace: Workspace, run: str, made: Recipe | None = None) -> str:
    """What trains the run ``recipe/seed`` again.

    Args:
        made: the recipe that it was trained by; the command repeats the settings in which it differs from the
            shipped one.
    """
    recipe, _, seed = run.partition("/")
    if recipe not in recipe_names():
        return f"emi-ray train -w {workspace.quoted} {recipe}.yaml --seed {seed}"  # a file of the user's own
    settings = [shlex.quote(each) for each in _own_settings(workspace, made)] if made else []
    return " ".join([f"emi-ray train -w {workspace.quoted} {recipe} --seed {seed}", *settings])


def _own_settings(workspace: Workspace, made: Recipe) -> Iterator[str]:
    """``section.key=value`` of each setting that differs from what the shipped recipe would be trained by now."""
    own = load_recipe(made.name, (), workspace.config().recipe_defaults)
    return _differences(made.model_dump(mode="json"), own.model_dump(mode="json"), "")


def _differences(made: Mapping[str, Any], own: Mapping[str, Any], where: str) -> Iterator[str]:
    for key, value in made.items():
        path = f"{where}{key}"
        if key in _SETTLED or value == own.get(key):
            continue
        if isinstance(value, Mapping) and isinstance(own.get(key), Mapping):
            yield from _differences(value, own[key], f"{path}.")
        else:
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
        return Line("runs", run, stale=1, why=(f"another version made it: {error}",), command=command)
    why = stale_because(workspace, clips, config, made)
    streams = [stream for stream in made.extractors if made.fingerprint(stream) in pending]
    why += [f"{stream} features are to be extracted first" for stream in streams]
    if made.transcriber and made.transcriber["fingerprint"] in pending:
        why.append("transcripts are to be recognised first")
    if not why:
        return Line("runs", run, current=1)
    return Line("runs", run, stale=1, why=tuple(why), command=train_command(workspace, run, made.recipe))


def stale_because(
    workspace: Workspace, clips: pa.Table, config: WorkspaceConfig, made: ModelDescription
) -> list[str]:
    """What has changed of that which a run was made of; nothing where training it now would give the same."""
    if not made.inputs:
        return ["it does not say what it was made of"]
    transcripts = made.transcriber and TranscriptStore(workspace, made.transcriber["fingerprint"])
    now = read_inputs(clips, made.recipe, made.stores(workspace), transcripts or None)
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
    return changed or ["another version of the training code made it"]


def _other_extractors(workspace: Workspace, config: WorkspaceConfig, made: ModelDescription) -> Iterator[str]:
    """Encoders that would read other features now, because another extractor, or other settings of it, are set."""
    try:
        stores = find_stores(workspace, made.recipe, config)
    except UserError:  # it is not told which would be read: training says what is lacking
        return
    for stream, store in stores.items():
        if store.fingerprint != made.fingerprint(stream):
            yield f"{stream} would be trained on the features {store.fingerprint} of the extractor that is set now"


def encoder_line(workspace: Workspace, runs: Sequence[Line]) -> list[Line]:
    """Finished stage-1 encoders: current where a run that is current was made of them."""
    held = {
        path.rpartition("/")[2].partition(".")[0]
        for modality in workspace.folders("encoders")
        for path in workspace.files(f"encoders/{modality}")
    }
    if not held:
        return []
    used: dict[bool, set[str]] = {True: set(), False: set()}
    for line in runs:
        path = f"runs/{line.name}/{METRICS}"
        stages = workspace.read_json(path).get("stages", {}) if workspace.exists(path) else {}
        used[bool(line.current)] |= {stage["encoder"] for stage in stages.values() if stage.get("encoder")}
    current = held & used[True]
    stale = held & used[False] - current
    others = len(held) - len(current) - len(stale)
    why = (f"{others} belong to searches, or to runs that were replaced",) if others else ()
    return [Line("encoders", "stage 1", current=len(current), stale=len(stale), why=why)]


def study_lines(
    workspace: Workspace, config: WorkspaceConfig, has_new_corpus: bool, pending: Collection[str]
) -> Iterator[Line]:
    """One line a study: whether further trials would compare with those that it has.

    Args:
        has_new_corpus: whether the corpus says something else now than the workspace has read.
        pending: fingerprints of features that are to be extracted before anything reads them.
    """
    for name in workspace.folders("studies"):
        if not workspace.exists(f"studies/{name}/study.json"):
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
            "" if is_current else "clips, labels or features have changed: go on under another name (--study)"
        )
        yield Line("studies", name, current=is_current, stale=not is_current, why=(why,) if why else ())
