"""A trained model on disk: ``model.safetensors`` for the weights, ``model.json`` for everything else.

The two files rebuild the model and say which features it may be given.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import load, save

from emi_ray.config import MediaSettings
from emi_ray.errors import UserError, choices
from emi_ray.feature_store import FeatureStore
from emi_ray.models.backbone import TOKEN_DIM
from emi_ray.models.build import System, build_model
from emi_ray.recipe import Recipe
from emi_ray.schema import Label, Stream
from emi_ray.settings import Settings, validate
from emi_ray.training.clip_data import ClipData
from emi_ray.training.transcripts import TOKENIZER, parse_tokenizer, with_tokens
from emi_ray.workspace import Workspace

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"


class ModelDescription(Settings):
    """``model.json``.

    Attributes:
        recipe: resolved, all overrides applied.
        labels: names and ranges, in the order of the model's outputs.
        extractors: by encoder, what ``_extractor.json`` says of the features it was trained on:
            ``extractor``, ``settings``, ``fingerprint``, ``feature_dim``, …
        media: how the corpus was decoded.
        run_key: hash of all that determines the run.
        inputs: hashes of what it read: ``clips``, and one a modality.
        transcriber: what a fine-tuned text backbone had its texts from where the corpus gave none: the identity of
            the recogniser, with its ``fingerprint``.
    """

    recipe: Recipe
    seed: int
    labels: tuple[Label, ...]
    extractors: dict[Stream, dict[str, Any]]
    media: MediaSettings
    versions: dict[str, str]
    run_key: str
    inputs: dict[str, str] = Field(default_factory=dict)
    transcriber: dict[str, Any] | None = None

    def fingerprint(self, stream: Stream) -> str:
        return str(self.extractors[stream]["fingerprint"])

    def feature_dim(self, stream: Stream) -> int:
        """Numbers a step that an encoder reads, its ``extras`` included."""
        return int(self.extractors[stream]["feature_dim"]) + len(self.recipe.encoders[stream].extras)

    def stores(self, workspace: Workspace) -> dict[Stream, FeatureStore]:
        """Where a workspace holds, or would hold, the features of each encoder."""
        return {
            stream: FeatureStore(workspace, self.recipe.modality_of(stream), self.fingerprint(stream))
            for stream in self.extractors
        }


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, and what is known of it."""

    model: System
    description: ModelDescription
    tokenizer: str | None = None

    def tokens(self, data: ClipData, transcripts: Mapping[str, str]) -> ClipData:
        """The same clips with the tokens of their transcripts, where the model has a fine-tuned text backbone."""
        if self.tokenizer is None:
            return data
        return with_tokens(data, self.description.recipe, transcripts, parse_tokenizer(self.tokenizer))

    def require(self, stores: Mapping[Stream, FeatureStore]) -> None:
        """Check that the stores hold the features that the model was trained on.

        Raises:
            UserError: a store has another fingerprint. Modalities that are not given count as missing.
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
    model: System,
    description: ModelDescription,
) -> None:
    """Write both files; the description last, so that where it stands the weights stand too."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    workspace.write_bytes(f"{folder}/{WEIGHTS}", save(weights))
    workspace.write_json(f"{folder}/{DESCRIPTION}", description.model_dump(mode="json"))


def load_model(workspace: Workspace, run: str) -> LoadedModel:
    """Rebuild a model from the files of its run alone.

    Args:
        run: ``f2/42``, or ``f2`` where that recipe has one seed only.

    Raises:
        UserError: there is no such run, it has not finished, or another version of the package made it.
    """
    return load_folder(workspace, find_run(workspace, run))


def load_folder(workspace: Workspace, folder: str) -> LoadedModel:
    """Rebuild a model from the files of a folder.

    Raises:
        UserError: no finished model is there, or another version of the package made it.
    """
    description = read_model_description(workspace, folder)
    recipe = description.recipe
    dims = {name: description.feature_dim(name) for name in description.extractors}
    if recipe.transcript_stream is not None:
        dims[recipe.transcript_stream] = TOKEN_DIM
    model = build_model(recipe, dims, len(description.labels))
    try:
        model.load_state_dict(load(workspace.read_bytes(f"{folder}/{WEIGHTS}")))
    except RuntimeError:
        made_by = description.versions.get("emi_ray", "unknown")
        raise UserError(
            f"{workspace.path(folder)} was trained by emi_ray {made_by}, whose models had other parts: train it "
            f"again with emi-ray train --force."
        ) from None
    tokenizer = workspace.read_text(f"{folder}/{TOKENIZER}") if recipe.transcript_stream else None
    return LoadedModel(model.eval(), description, tokenizer)


def read_model_description(workspace: Workspace, folder: str) -> ModelDescription:
    """``model.json`` of a folder.

    Raises:
        UserError: no finished model is there, or another version of the package made it.
    """
    path = f"{folder}/{DESCRIPTION}"
    if not workspace.exists(path):
        raise UserError(f"{workspace.path(folder)} holds no trained model yet: finish it with emi-ray train.")
    return validate(ModelDescription, workspace.read_json(path), workspace.path(path))


def find_run(workspace: Workspace, run: str) -> str:
    """The folder ``runs/<recipe>/<seed>`` that ``f2/42``, ``runs/f2/42`` or ``f2`` means.

    Raises:
        UserError: no run is called so, or several are.
    """
    known = [
        f"{recipe}/{seed}"
        for recipe in workspace.folders("runs")
        for seed in workspace.folders(f"runs/{recipe}")
    ]
    name = run.strip("/").removeprefix("runs/")
    fitting = [candidate for candidate in known if name in (candidate, candidate.rpartition("/")[0])]
    if len(fitting) == 1:
        return f"runs/{fitting[0]}"
    if not known:
        raise UserError(f"{workspace.root} has no runs yet: train one with emi-ray train.")
    problem = "Several runs are" if fitting else "No run is"
    raise UserError(f"{problem} called '{run}' in {workspace.root}: {choices(name, fitting or known)}")


def versions() -> dict[str, str]:
    """What the result may depend on: Python and the numerical libraries."""
    libraries = ("emi_ray", "torch", "numpy", "pyarrow", "ray")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in libraries},
        "threads": str(torch.get_num_threads()),
    }
