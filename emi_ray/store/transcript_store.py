"""Transcripts that were recognised from audio; all text extractors use them.

``features/transcript/<fingerprint>/part-….parquet`` has ``clip_id``, ``transcript`` and the audio that it was
recognised from. An empty transcript means that nothing was recognised.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from emi_ray.schema import UNKNOWN, Origin
from emi_ray.store.part_rows import first_rows
from emi_ray.store.parts import PartFolder
from emi_ray.workspace import Workspace

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), False),
        pa.field("transcript", pa.string(), False),
        pa.field("source", pa.string(), False),
        pa.field("source_stamp", pa.string(), False),
    ]
)


@dataclass(frozen=True)
class TranscriptStore:
    """Reads and writes the transcripts of one recogniser in one workspace."""

    workspace: Workspace
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"features/transcript/{self.fingerprint}"

    @property
    def held(self) -> PartFolder:
        """The folder of parts."""
        return PartFolder(self.workspace, self.folder, SCHEMA, _modern)

    def create(self, identity: Mapping[str, Any]) -> None:
        """Write ``_extractor.json`` unless it exists."""
        if not self.workspace.exists(f"{self.folder}/_extractor.json"):
            description = {**identity, "fingerprint": self.fingerprint}
            self.workspace.write_json(f"{self.folder}/_extractor.json", description)

    def describe(self) -> dict[str, Any]:
        """Return the recogniser's identity and ``fingerprint``."""
        description: dict[str, Any] = self.workspace.read_json(f"{self.folder}/_extractor.json")
        return description

    def write(
        self, transcripts: Mapping[str, str], origins: Mapping[str, Origin] | None = None
    ) -> str | None:
        """Write one part, named by its clips and their audio; returns its path.

        Args:
            origins: the audio by clip id.
        """
        if not transcripts:
            return None
        made_from = {clip_id: (origins or {}).get(clip_id, UNKNOWN) for clip_id in transcripts}
        columns = [
            list(transcripts),
            list(transcripts.values()),
            [origin.source for origin in made_from.values()],
            [origin.stamp for origin in made_from.values()],
        ]
        table = pa.Table.from_arrays([pa.array(c, pa.string()) for c in columns], schema=SCHEMA)
        return self.held.write(table, (f"{clip_id} {o.source}".rstrip() for clip_id, o in made_from.items()))

    def read(self) -> dict[str, str]:
        """Return all transcripts by clip id."""
        rows = first_rows(self.held.record())
        return dict(zip(rows["clip_id"].to_pylist(), rows["transcript"].to_pylist(), strict=True))


def transcript_stores(workspace: Workspace) -> list[TranscriptStore]:
    """Return the stores of all recognisers that have been used in a workspace, sorted by name."""
    return [TranscriptStore(workspace, name) for name in workspace.folders("features/transcript")]


def _modern(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    """Convert a table to the present schema: until 2026-11 rows did not record their audio."""
    for field in SCHEMA:
        if field.name not in table.column_names and (columns is None or field.name in columns):
            table = table.append_column(field, pa.array([""] * table.num_rows, pa.string()))
    return table
