"""A trained model on disk: ``model.safetensors`` has the weights, ``model.json`` everything else.

These two files are sufficient to load the model and to check that features are those that it was trained on.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save

from emi_ray.config import MediaSettings
from emi_ray.damage import naming_damage
from emi_ray.errors import UserError, choices
from emi_ray.models.backbone import TOKEN_DIM
from emi_ray.models.build import TrainableModel, build_model
from emi_ray.models.custom import require_unchanged_code
from emi_ray.recipe.schema import Recipe
from emi_ray.results.runs import DESCRIPTION
from emi_ray.schema import EncoderName, Label
from emi_ray.settings import Settings, validate
from emi_ray.store.feature_store import FeatureStore
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.transcripts import TOKENIZER, parse_tokenizer, with_tokens
from emi_ray.workspace import Workspace

WEIGHTS = "model.safetensors"

_KEY = "run_key"
"""Metadata of the weights: the run to which they belong."""


class ModelDescription(Settings):
    """The content of ``model.json``.

    Attributes:
        recipe: the resolved recipe, with all overrides applied.
        seed: random seed of the run.
        labels: names and ranges of the labels, in the order of the model's outputs.
        extractors: by encoder, the ``_extractor.json`` of the features that it was trained on: ``extractor``,
            ``settings``, ``fingerprint``, ``feature_dim``, …
        media: settings of the decoding.
        versions: versions of Python and of the libraries.
        run_key: hash of everything that determines the run.
        inputs: hashes of the inputs: ``clips``, and one for each encoder.
        transcriber: for a fine-tuned text backbone, description of the speech recogniser, with its ``fingerprint``,
            whose transcripts replaced those that the corpus lacks; else None.
    """

    recipe: Recipe
    seed: int
    labels: tuple[Label, ...]
    extractors: dict[EncoderName, dict[str, Any]]
    media: MediaSettings
    versions: dict[str, str]
    run_key: str
    inputs: dict[str, str] = Field(default_factory=dict)
    transcriber: dict[str, Any] | None = None

    @property
    def recogniser_of_features(self) -> dict[str, Any] | None:
        """Description of the speech recogniser whose transcripts the text features were extracted from; else None."""
        recognisers = (extractor.get("transcriber") for extractor in self.extractors.values())
        return next(filter(None, recognisers), None)

    def fingerprint(self, stream: EncoderName) -> str:
        """Return the fingerprint of the features of an encoder."""
        return str(self.extractors[stream]["fingerprint"])

    def feature_dim(self, stream: EncoderName) -> int:
        """Return the dimensions D of each step that an encoder reads, including its ``extras``."""
        return int(self.extractors[stream]["feature_dim"]) + len(self.recipe.encoders[stream].extras)

    def stores(self, workspace: Workspace) -> dict[EncoderName, FeatureStore]:
        """Return the feature store of each encoder in a workspace; a store may be empty."""
        return {
            stream: FeatureStore(workspace, self.recipe.modality_of(stream), self.fingerprint(stream))
            for stream in self.extractors
        }


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its description, and the tokenizer of its text backbone as text."""

    model: TrainableModel
    description: ModelDescription
    tokenizer: str | None = None

    def tokens(self, data: ClipData, transcripts: Mapping[str, str]) -> ClipData:
        """Add the tokens of transcripts to clips, if the model has a fine-tuned text backbone."""
        if self.tokenizer is None:
            return data
        return with_tokens(data, self.description.recipe, transcripts, parse_tokenizer(self.tokenizer))

    def require(self, stores: Mapping[EncoderName, FeatureStore]) -> None:
        """Check that the given stores have the features that the model was trained on.

        Encoders without a store are not checked; their input counts as missing.

        Raises:
            UserError: a store has another fingerprint, or belongs to no encoder of the model.
        """
        for modality, store in stores.items():
            if modality not in self.description.extractors:
                raise UserError(
                    f"The model has no {modality} encoder: {choices(modality, self.description.extractors)}"
                )
            expected = self.description.fingerprint(modality)
            if store.fingerprint != expected:
                extractor = self.description.extractors[modality].get("extractor", "?")
                raise UserError(
                    f"{store.workspace.path(store.folder)}: the model was trained on {modality} features "
                    f"{expected} ('{extractor}') and cannot read {store.fingerprint}. "
                    "Extract with the extractor and media settings that its model.json names."
                )


def save_model(
    workspace: Workspace,
    folder: str,
    model: TrainableModel,
    description: ModelDescription,
) -> None:
    """Write both files. The description is written last: if it exists, the weights do as well."""
    # safetensors refuses tensors that share memory, as tied weights of an own encoder do.
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()
    }
    workspace.write_bytes(f"{folder}/{WEIGHTS}", save(weights, {_KEY: description.run_key}))
    workspace.write_json(f"{folder}/{DESCRIPTION}", description.model_dump(mode="json"))


def load_model(workspace: Workspace, run: str) -> LoadedModel:
    """Load the model of a run, using only the files of its folder.

    Args:
        run: ``f2/42``, or ``f2`` if that recipe has only one seed.

    Raises:
        UserError: there is no such run, it is not finished, or an incompatible version of the package wrote it.
    """
    return load_folder(workspace, find_run(workspace, run))


def load_folder(workspace: Workspace, folder: str) -> LoadedModel:
    """Load a model from the files of a folder.

    Raises:
        UserError: the folder has no finished model, or an incompatible version of the package wrote it.
    """
    description = read_model_description(workspace, folder)
    recipe = description.recipe
    require_unchanged_code(recipe, workspace.path(folder))
    # A text backbone reads token ids and not extracted features, so no extractor states its dimension.
    dims = {name: description.feature_dim(name) for name in description.extractors}
    if recipe.transcript_stream is not None:
        dims[recipe.transcript_stream] = TOKEN_DIM
    model = build_model(recipe, dims, len(description.labels))
    data = workspace.read_bytes(f"{folder}/{WEIGHTS}")
    with naming_damage(workspace.shown(f"{folder}/{WEIGHTS}"), SafetensorError):
        weights, run_key = load(data), metadata_of(data).get(_KEY, description.run_key)
    if run_key != description.run_key:
        raise UserError(
            f"{workspace.path(folder)} is being replaced by another training: its weights are those of another run "
            "than its description. Wait until the training has ended, or train it again with emi-ray train."
        )
    try:
        model.load_state_dict(weights)
    # torch raises RuntimeError for missing, unexpected and misshapen parameters alike.
    except RuntimeError:
        made_by = description.versions.get("emi_ray", "unknown")
        raise UserError(
            f"{workspace.path(folder)} was trained by emi_ray {made_by}, whose models are incompatible with this "
            f"version: train it again with emi-ray train --force."
        ) from None
    tokenizer = workspace.read_text(f"{folder}/{TOKENIZER}") if recipe.transcript_stream else None
    return LoadedModel(model.eval(), description, tokenizer)


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file; an empty dictionary if it has none."""
    size = int.from_bytes(data[:8], "little")
    found: dict[str, str] = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    return found


def read_model_description(workspace: Workspace, folder: str) -> ModelDescription:
    """Read ``model.json`` of a folder.

    Raises:
        UserError: the folder has no finished model, or an incompatible version of the package wrote it.
    """
    path = f"{folder}/{DESCRIPTION}"
    if not workspace.exists(path):
        raise UserError(f"{workspace.path(folder)} has no trained model yet: finish it with emi-ray train.")
    return validate(ModelDescription, workspace.read_json(path), workspace.path(path))


def find_run(workspace: Workspace, run: str) -> str:
    """Return the folder ``runs/<recipe>/<seed>`` of a run that is given as ``f2/42``, ``runs/f2/42`` or ``f2``.

    Raises:
        UserError: no run, or more than one, has that name.
    """
    known = [
        f"{recipe}/{seed}"
        for recipe in workspace.folders("runs")
        for seed in workspace.folders(f"runs/{recipe}")
    ]
    name = run.strip("/").removeprefix("runs/")
    # "f2/42" must match entirely; "f2" matches all seeds of the recipe.
    fitting = [candidate for candidate in known if name in (candidate, candidate.rpartition("/")[0])]
    if len(fitting) == 1:
        return f"runs/{fitting[0]}"
    if not known:
        raise UserError(f"{workspace.root} has no runs yet: train one with emi-ray train.")
    if fitting:
        raise UserError(
            f"{workspace.root} has several runs of '{run}': choose from: {', '.join(sorted(fitting))}."
        )
    raise UserError(f"No run is called '{run}' in {workspace.root}: {choices(name, known)}")


def versions() -> dict[str, str]:
    """Return the versions that results may depend on: Python and the numerical libraries, and torch's threads."""
    libraries = ("emi_ray", "torch", "numpy", "pyarrow", "ray")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in libraries},
        "threads": str(torch.get_num_threads()),
    }
