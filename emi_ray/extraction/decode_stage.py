"""The first stage: decode media files to frames, face crops and waveform."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from emi_ray.config import MediaSettings
from emi_ray.extraction.batches import outcome
from emi_ray.extraction.pending import origin_column, todo_column
from emi_ray.extraction.stage import OUTCOME, Stage, not_mounted
from emi_ray.media.clip import table_of
from emi_ray.media.clip_notes import remarks
from emi_ray.media.isolation import FROM_THE_TABLE, DecodeProcess
from emi_ray.media.provenance import content_of
from emi_ray.media.source import ClipSource
from emi_ray.schema import MEDIA_COLUMNS, Modality, Need


class Decode(Stage):
    """Decode each clip once. Files are read in a child process, so that a file that crashes or hangs the decoder
    costs only its clip.

    Args:
        media: settings of decoding.
        needs: the inputs that each modality's extractor needs.
        transcribes: whether a later stage recognises the speech of clips without a transcript.
        time_limit_s: seconds that decoding one clip may take.
        memory_limit_gb: memory in GiB that decoding one clip may take.
        seen: some files of clips that the driver has seen. If this node sees none of them, its mount is missing, and
            no clip is to blame.
    """

    name = "decode"

    def __init__(
        self,
        media: MediaSettings,
        needs: Mapping[Modality, frozenset[Need]],
        transcribes: bool,
        time_limit_s: float,
        memory_limit_gb: float,
        seen: Sequence[str] = (),
    ) -> None:
        self._seen = seen
        self._needs = dict(needs)
        self._transcribes = transcribes
        self._decoder = DecodeProcess(media, time_limit_s, memory_limit_gb)
        if transcribes or not frozenset[Need]().union(*needs.values()) <= FROM_THE_TABLE:
            self._decoder.start()

    def process(self, batch: pa.Table) -> pa.Table:
        # One or two may have been deleted meanwhile.
        if len(self._seen) > 2 and not any(os.path.exists(path) for path in self._seen):
            raise not_mounted(self._seen[0])
        decoded, outcomes = [], []
        for row in batch.to_pylist():
            started = time.perf_counter()
            source = ClipSource(row["clip_id"], **{name: row[name] for name in MEDIA_COLUMNS})
            decoded.append(self._decoder.decode(source, self._needs_of(row)))
            seconds = time.perf_counter() - started
            remark = "\n".join(remarks(json.loads(decoded[-1]["notes"]))) or None
            outcomes.append([outcome("decode", "ok", remark, seconds, decoded[-1]["media_s"])])
        table = table_of(decoded)
        for name, column in _origins(batch, self._needs).items():
            table = table.append_column(name, column)
        return table.append_column("outcomes", pa.array(outcomes, pa.list_(OUTCOME)))

    def _needs_of(self, row: Mapping[str, Any]) -> frozenset[Need]:
        todo = [modality for modality in self._needs if row[todo_column(modality)] is not None]
        needs = frozenset[Need]().union(*(self._needs[modality] for modality in todo))
        # Speech is recognised from the waveform, even if no extractor asks for it.
        if self._transcribes and "transcript" in needs and row["transcript"] is None:
            needs |= {"waveform"}
        return needs


def _origins(batch: pa.Table, modalities: Iterable[Modality]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return the ``todo`` and ``origin`` columns of each modality, with the content hash of the inputs added to
    origins.

    Each set of inputs is hashed once per clip, even if several modalities share it.
    """
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    rows = batch.to_pylist()
    known: list[dict[str, str]] = [{} for _ in rows]
    for modality in modalities:
        todo, origin = todo_column(modality), origin_column(modality)
        for row, contents in zip(rows, known, strict=True):
            stamp = row[origin]
            if row[todo] is not None:
                # Hashed where the clip is decoded, because the files are in the page cache of this node then.
                if stamp not in contents:
                    contents[stamp] = content_of(stamp, row)
                row[origin] = f"{stamp}|{contents[stamp]}"
        columns[todo] = batch[todo]
        columns[origin] = pa.array([row[origin] for row in rows], pa.string())
    return columns
