"""Transcripts that were recognised from sound: a feature of their own, read by every text extractor.

``features/transcript/<fingerprint>/part-….parquet`` holds ``clip_id`` and ``transcript``; an empty transcript says
that nothing was recognised.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from emi_ray.workspace import Workspace

SCHEMA = pa.schema([pa.field("clip_id", pa.string(), False), pa.field("transcript", pa.string(), False)])


@dataclass(frozen=True)
class TranscriptStore:
    """Reads and writes the transcripts of one recogniser in one workspace."""

    workspace: Workspace
    fingerprint: str

    @property
    def folder(self) -> str:
        return f"features/transcript/{self.fingerprint}"

    def create(self, identity: Mapping[str, Any]) -> None:
        """Write ``_extractor.json`` unless it is there."""
        if not self.workspace.exists(f"{self.folder}/_extractor.json"):
            description = {**identity, "fingerprint": self.fingerprint}
            self.workspace.write_json(f"{self.folder}/_extractor.json", description)

    def write(self, transcripts: Mapping[str, str]) -> None:
        """Write one part, named by its clips."""
        if not transcripts:
            return
        name = hashlib.blake2b("\n".join(sorted(transcripts)).encode(), digest_size=8).hexdigest()
        columns = [list(transcripts), list(transcripts.values())]
        table = pa.Table.from_arrays([pa.array(c, pa.string()) for c in columns], schema=SCHEMA)
        self.workspace.write_table(f"{self.folder}/part-{name}.parquet", table)

    def read(self) -> dict[str, str]:
        """All transcripts by clip id."""
        parts = [path for path in self.workspace.files(self.folder) if path.endswith(".parquet")]
        tables = [SCHEMA.empty_table(), *map(self.workspace.read_table, parts)]
        whole = pa.concat_tables(tables)
        return dict(zip(whole["clip_id"].to_pylist(), whole["transcript"].to_pylist(), strict=True))


def transcript_stores(workspace: Workspace) -> list[TranscriptStore]:
    """Of every recogniser that has been used in a workspace, in the order of their names."""
    return [TranscriptStore(workspace, name) for name in workspace.folders("features/transcript")]
