"""Features on disk: the only bridge between extraction and training.

One store is one folder, ``features/<modality>/<fingerprint>/``, of Parquet parts (``parts.py``) plus
``_extractor.json``, which says what the fingerprint is a hash of. Each row says what it was made of
(:class:`~emi_ray.schema.Origin`) and holds a hash of its features, so that whatever is made of them can tell whether
they are still the same. A part is named by the clips in it and by what they were made of, so a task that is run again
after a crash replaces its own part instead of adding a second; should a clip nevertheless stand in two parts, readers
take the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from emi_ray.errors import UserError
from emi_ray.feature_layout import ClipFeatures, as_bytes, features_table, modern, steps_of
from emi_ray.feature_precision import Precision
from emi_ray.parts import PART, RAW, PartFolder
from emi_ray.schema import FEATURE_COLUMNS, Modality, Origin
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
"""What is known of all clips of a store without their features."""


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
        """The parts, and the record of what they hold."""
        return PartFolder(self.workspace, self.folder, RECORD, self._modern)

    def is_described(self) -> bool:
        """Whether ``_extractor.json`` is there; a run that was killed at its very start leaves a bare folder."""
        try:
            return bool(self._description)
        except FileNotFoundError:
            return False

    def create(self, identity: Mapping[str, Any], feature_dim: int) -> None:
        """Write ``_extractor.json`` unless it is there."""
        if not self.is_described():
            description = {**identity, "feature_dim": feature_dim, "fingerprint": self.fingerprint}
            self.workspace.write_json(f"{self.folder}/_extractor.json", description)

    def settle_precision(self, precision: Precision, reason: str = "") -> None:
        """Say in which precision features are kept, and why, unless that is said already. It stays for ever: the rows
        of a store are alike."""
        if "dtype" in self._description:
            return
        del self.__dict__["_description"]  # another process may have said it since
        if "dtype" not in self._description:
            settled = {**self._description, "dtype": precision, "dtype_reason": reason}
            self.workspace.write_json(f"{self.folder}/_extractor.json", settled)
            self.__dict__["_description"] = settled

    def describe(self) -> dict[str, Any]:
        """The extractor's identity, ``feature_dim``, ``fingerprint``, and once it is settled ``dtype``."""
        return dict(self._description)

    @cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = self.workspace.read_json(f"{self.folder}/_extractor.json")
        return description

    @property
    def feature_dim(self) -> int:
        return int(self._description["feature_dim"])

    @property
    def dtype(self) -> np.dtype:
        """In which features are kept: float16, unless the store says otherwise."""
        try:
            return np.dtype(self._description.get("dtype", "float16"))
        except FileNotFoundError:
            return np.dtype("float16")

    def write(self, rows: Sequence[ClipFeatures], raw: bool = False) -> str | None:
        """Write one part with all of ``rows``, which all have the same D and the same extras; returns its path.

        Args:
            raw: features as one value of bytes a clip, which costs a tenth of the time. Merging makes lists of them.
        """
        if not rows:
            return None
        table = features_table(rows, self.dtype, {"emi_ray.fingerprint": self.fingerprint})
        names = (f"{row.clip_id} {row.origin.source}".rstrip() for row in rows)
        return self.held.write(as_bytes(table) if raw else table, names, RAW if raw else PART)

    def parts(self) -> list[str]:
        """Relative paths of the Parquet files, sorted."""
        return self.held.paths()

    def clip_ids(self) -> set[str]:
        """Ids of all clips that have features."""
        return set(self.held.record()["clip_id"].to_pylist())

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows in tables of bounded size, each clip once."""
        return self.held.tables(columns)

    def rows(self) -> Iterator[ClipFeatures]:
        """Clip by clip, for small jobs and tests; training reads :meth:`tables`."""
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
    """All stores of a modality in a workspace."""
    names = workspace.folders(f"features/{modality}")
    stores = [FeatureStore(workspace, modality, name) for name in names]
    return [store for store in stores if store.is_described()]


def find_store(
    workspace: Workspace,
    modality: Modality,
    *,
    extractor: str | None = None,
    fingerprint: str | None = None,
    held: Sequence[FeatureStore] | None = None,
) -> FeatureStore:
    """The one store of a modality that fits; narrowed by extractor name or fingerprint where given.

    Args:
        held: all stores of the modality, where they are known.

    Raises:
        UserError: there is none, or several fit; the message lists what there is.
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
    listing = ", ".join(f"{name} ({key})" for key, name in names.items()) or "none"
    problem = "several sets of" if fitting else "no"
    raise UserError(
        f"{workspace.root} holds {problem} {modality} features{wanted}; there are: {listing}. "
        + (
            f"Choose one: encoders.{modality}.features=FINGERPRINT."
            if fitting
            else f"Make them: emi-ray extract -w {workspace.quoted} --modalities {modality}."
        )
    )
