"""Features on disk: the only bridge between extraction and training.

A store is a folder, ``features/<modality>/<fingerprint>/``, of Parquet parts (``parts.py``), ``_extractor.json``, the
identity that the fingerprint is a hash of, and ``_precision.json``, the type of the features. Each row records its
inputs (:class:`~emi_ray.schema.Origin`) and a hash of its features, so that whatever is made from them can detect
changes.
A part is named by a hash of its clips and their inputs, so that a task that is repeated after a crash replaces its
own part. If a clip nevertheless has two rows, readers use the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.errors import UserError
from emi_ray.schema import FEATURE_COLUMNS, MODALITIES, Modality, Origin
from emi_ray.store.feature_layout import (
    ClipFeatures,
    as_bytes,
    features_table,
    modern,
    precision_of,
    steps_of,
)
from emi_ray.store.feature_precision import Precision
from emi_ray.store.part_listing import PART, RAW
from emi_ray.store.parts import PartFolder
from emi_ray.workspace import Workspace

RECORD = pa.schema(
    [
        pa.field("clip_id", pa.string(), False),
        pa.field("num_steps", pa.int32(), False),
        pa.field("source", pa.string(), False),
        pa.field("source_stamp", pa.string(), False),
        pa.field("digest", pa.string(), False),
    ]
)
"""Columns of a store without the features."""


@dataclass(frozen=True)
class FeatureStore:
    """Reads and writes the features of one extractor in one workspace."""

    workspace: Workspace
    modality: Modality
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"features/{self.modality}/{self.fingerprint}"

    @property
    def held(self) -> PartFolder:
        """The folder of parts."""
        return PartFolder(self.workspace, self.folder, RECORD, self._modern)

    def is_described(self) -> bool:
        """Return whether ``_extractor.json`` exists.

        A run that was killed at its very start leaves a folder without it.
        """
        try:
            return bool(self._description)
        except FileNotFoundError:
            return False

    def create(self, identity: Mapping[str, Any], feature_dim: int) -> None:
        """Write ``_extractor.json`` unless it exists."""
        if not self.is_described():
            description = {**identity, "feature_dim": feature_dim, "fingerprint": self.fingerprint}
            self.workspace.write_json(f"{self.folder}/_extractor.json", description)

    def describe_again(self, identity: Mapping[str, Any]) -> None:
        """Write ``_extractor.json`` and ``_precision.json`` again if one was deleted and there are features."""
        if not (parts := self.parts()) or self.is_settled:
            return
        with self.workspace.open_table(parts[0]) as file:
            schema = file.schema_arrow
        if (feature_dim := (schema.metadata or {}).get(b"emi_ray.feature_dim")) is not None:
            self.create(identity, int(feature_dim))
            precision = precision_of(schema)
            self.settle_precision(
                precision, "" if precision == "float16" else "like the features that were there"
            )

    @property
    def is_settled(self) -> bool:
        """Whether the precision of the features is recorded."""
        try:
            if "dtype" in self._description:
                return True
            del self.__dict__["_description"]  # read again: another process may have recorded it meanwhile
            return "dtype" in self._description
        except FileNotFoundError:
            return False

    def settle_precision(self, precision: Precision, reason: str = "") -> None:
        """Record the precision of the features with its reason, unless it is recorded already.

        It never changes afterwards.
        """
        if not self.is_settled:
            settled = {"dtype": precision, "dtype_reason": reason}
            # A file of its own: whoever describes the store meanwhile cannot write over it.
            self.workspace.write_json(f"{self.folder}/_precision.json", settled)
            self.__dict__["_description"] = {**self._description, **settled}

    def describe(self) -> dict[str, Any]:
        """Return the extractor's identity, ``feature_dim``, ``fingerprint``, and ``dtype`` if it is recorded.

        Raises:
            UserError: the description does not exist.
        """
        try:
            return dict(self._description)
        except FileNotFoundError:
            raise UserError(
                f"{self.workspace.shown(self.folder)}/_extractor.json does not exist. To write it again: emi-ray "
                f"extract -w {self.workspace.quoted} --modalities {self.modality}."
            ) from None

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = self.workspace.read_json(f"{self.folder}/_extractor.json")
        if "dtype" not in description:  # until 2026-11 both were one file
            with suppress(FileNotFoundError):
                description |= self.workspace.read_json(f"{self.folder}/_precision.json")
        return description

    @property
    def feature_dim(self) -> int:
        return int(self._description["feature_dim"])

    @property
    def dtype(self) -> np.dtype:
        """The type of stored features: float16, unless another one is recorded."""
        try:
            return np.dtype(self._description.get("dtype", "float16"))
        except FileNotFoundError:
            return np.dtype("float16")

    def write(self, rows: Sequence[ClipFeatures], raw: bool = False) -> str | None:
        """Write one part with all ``rows``, which have the same D and the same extras; returns its path.

        Args:
            raw: store features as one binary value per clip, which takes a tenth of the time. Merging converts them
                to lists.
        """
        if not rows:
            return None
        table = features_table(rows, self.dtype, {"emi_ray.fingerprint": self.fingerprint})
        names = (f"{row.clip_id} {row.origin.source}".rstrip() for row in rows)
        return self.held.write(as_bytes(table) if raw else table, names, RAW if raw else PART)

    def parts(self) -> list[str]:
        """Return the relative paths of the parts, sorted."""
        return self.held.paths()

    def clip_ids(self) -> set[str]:
        """Return the ids of all clips with features."""
        return set(self.held.record()["clip_id"].to_pylist())

    def tables(self, columns: Sequence[str] | None = None, keep_pages: bool = True) -> Iterator[pa.Table]:
        """Yield the rows in tables of limited size, each clip once; see :meth:`PartFolder.tables`."""
        # If the description named no precision, it is read again here, once instead of for each part.
        _ = self.is_settled
        return self.held.tables(columns, keep_pages)

    def rows(self) -> Iterator[ClipFeatures]:
        """Yield the rows one by one, for small jobs and tests; training reads :meth:`tables`."""
        for table in self.tables():
            extras = [name for name in table.column_names if name not in FEATURE_COLUMNS]
            for index in range(table.num_rows):
                row = table.slice(index, 1)
                yield ClipFeatures(
                    row["clip_id"][0].as_py(),
                    steps_of(row),
                    row["timestamps_s"].combine_chunks().flatten().to_numpy(),
                    {name: row[name].combine_chunks().flatten().to_numpy() for name in extras},
                    Origin(row["source"][0].as_py(), row["source_stamp"][0].as_py()),
                )

    def _modern(self, table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
        return modern(table, columns, pa.from_numpy_dtype(self.dtype))


def stores_of(workspace: Workspace, modality: Modality) -> list[FeatureStore]:
    """Return all stores of a modality in a workspace."""
    names = workspace.folders(f"features/{modality}")
    stores = [FeatureStore(workspace, modality, name) for name in names]
    return [store for store in stores if store.is_described()]


def full_stores(workspace: Workspace, modality: Modality) -> list[FeatureStore]:
    """Return the stores of a modality that have features."""
    return [store for store in stores_of(workspace, modality) if store.parts()]


def modalities_held(workspace: Workspace) -> list[Modality]:
    """Return the modalities of which a workspace has features."""
    return [modality for modality in MODALITIES if full_stores(workspace, modality)]


def find_store(
    workspace: Workspace,
    modality: Modality,
    *,
    extractor: str | None = None,
    fingerprint: str | None = None,
    held: Sequence[FeatureStore] | None = None,
) -> FeatureStore:
    """Return the only store of a modality that matches the extractor name and fingerprint, if given.

    Args:
        held: all stores of the modality, if they are known.

    Raises:
        UserError: none or several match; the message lists the stores.
    """
    held = [store for store in held or stores_of(workspace, modality) if store.parts()]
    names = {store.fingerprint: store.describe()["extractor"] for store in held}
    fitting = [
        store
        for store in held
        if extractor in (None, names[store.fingerprint]) and fingerprint in (None, store.fingerprint)
    ]
    if len(fitting) == 1:
        return fitting[0]
    wanted = f" of '{extractor or fingerprint}'" if extractor or fingerprint else ""
    listing = ", ".join(f"{name} ({key})" for key, name in names.items())
    others = modalities_held(workspace)
    if not others:
        raise UserError(
            f"{workspace.root} has no features yet. Extract them: emi-ray extract -w {workspace.quoted}."
        )
    problem = "several sets of" if fitting else "no"
    raise UserError(
        f"{workspace.root} has {problem} {modality} features{wanted}; available: {listing or ', '.join(others)}. "
        + (
            f"Choose one: encoders.{modality}.features=FINGERPRINT."
            if fitting
            else f"Extract them: emi-ray extract -w {workspace.quoted} --modalities {modality}."
        )
    )
