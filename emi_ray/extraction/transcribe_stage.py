"""The stage that recognises the speech of clips without a transcript."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from emi_ray.errors import EmiRayError
from emi_ray.extraction.batches import Attempt
from emi_ray.extraction.broken_stage import BrokenStage
from emi_ray.extraction.pending import origin_column, origin_of, todo_column, tried_before
from emi_ray.extraction.pools import Pool
from emi_ray.extraction.runner import Runner
from emi_ray.extraction.stage import ALWAYS, Stage, require_workspace, take_up, with_outcomes
from emi_ray.extraction.watchdog import Limits
from emi_ray.extractors import TranscriberSpec
from emi_ray.extractors.pretrained.whisper import Heard
from emi_ray.extractors.turns import Turn
from emi_ray.media.clip import DecodedClip, rows_of, unpack_clip
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.workspace import Workspace

NO_SPEECH = "no speech was found in the sound (transcriber.settings.vad)"


class Transcribe(Stage):
    """Run Whisper on clips whose text features are missing and that have no transcript; pass on the columns in
    ``keep``.
    """

    name = "transcript"

    def __init__(
        self,
        workspace: Workspace,
        spec: TranscriberSpec,
        keep: Sequence[str],
        pool: Pool,
        limits: Limits,
        careful: bool = False,
    ) -> None:
        take_up(pool.threads, pool.num_gpus > 0)
        self._spec = spec
        self._store = TranscriptStore(workspace, spec.fingerprint)
        self._keep = [*keep, "outcomes"]
        self._broken = BrokenStage(has_worked=lambda: bool(self._store.held.stamps()))
        self._turn = Turn(may_lend=False)
        self._runner: Runner[Heard] = Runner(
            partial(TranscriberTool, spec), self.name, limits, pool.batch_size, careful, pool.batches_at_once
        )

    def process(self, batch: pa.Table) -> pa.Table:
        text_columns = [todo_column("text"), origin_column("text")]
        rows = rows_of(batch.select([*ALWAYS, *text_columns, "transcript", "waveform"]))
        mute = [row for row in rows if row[todo_column("text")] is not None and _wants_sound(row)]
        heard = [row for row in mute if row["waveform"] is not None]
        if heard:
            require_workspace(self._store.workspace)
            self._store.create(self._spec.identity)
        clips = [unpack_clip(row) for row in heard]
        with self._turn:
            results = self._runner.run(clips)
        origins = {row["clip_id"]: origin_of(row[origin_column("text")]) for row in heard}
        self._store.write({r.clip_id: r.result.text for r in results if r.result is not None}, origins)
        if broken := self._broken.found_in(results, tried_before(batch, todo_column("text"))):
            raise EmiRayError(broken)
        by_id = {result.clip_id: result for result in results}
        told = [_told(row, by_id.get(row["clip_id"])) if row in mute else row for row in rows]
        for name in ("transcript", "missing", "failed"):
            column = pa.array([row[name] for row in told], pa.string())
            batch = batch.set_column(batch.schema.get_field_index(name), name, column)
        outcomes = {
            each.clip_id: each.outcome(
                self.name, [NO_SPEECH] if each.result and not each.result.has_speech else []
            )
            for each in results
        }
        return with_outcomes(batch, outcomes).select(self._keep)


class TranscriberTool:
    """Whisper as a :class:`~emi_ray.extraction.batches.Tool`."""

    feature_dim: int | None = None

    def __init__(self, spec: TranscriberSpec) -> None:
        self._whisper = spec.build()

    def __call__(self, clips: Sequence[DecodedClip]) -> list[Heard]:
        return self._whisper.transcribe(clips)

    def use_less_memory(self) -> bool:
        return self._whisper.use_less_memory()


def _wants_sound(row: Mapping[str, Any]) -> bool:
    """Return whether the clip needs speech recognition.

    A transcript that was recognised earlier as empty is final.
    """
    return row["transcript"] is None and "empty" not in json.loads(row["missing"]).get("transcript", "")


def _told(row: Mapping[str, Any], result: Attempt[Heard] | None) -> dict[str, Any]:
    """Return a row with its transcript, or with the reason why there is none."""
    missing, failed = json.loads(row["missing"]), json.loads(row["failed"])
    transcript = result.result.text if result and result.result else None
    if result is None and "waveform" in failed:
        failed["transcript"] = f"no transcript is given, and the sound cannot be read: {failed['waveform']}"
    elif result is None:
        why = missing.get("waveform", "no sound")
        missing["transcript"] = f"no transcript is given, and there is nothing to recognise one from: {why}"
    elif result.failure is not None:
        failed["transcript"] = result.failure[1]
    elif result.result is not None and not result.result.has_speech:
        missing["transcript"] = f"no transcript is given, and {NO_SPEECH}"
    elif not transcript:
        missing["transcript"] = "no transcript is given, and no words were recognised in the sound"
    return {
        **row,
        "transcript": transcript or None,
        "missing": json.dumps(missing),
        "failed": json.dumps(failed),
    }
