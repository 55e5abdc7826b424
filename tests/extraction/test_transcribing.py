"""The stage that transcribes audio, in this process and with a fake recogniser."""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from emi_ray.extraction.pools import Pool
from emi_ray.extraction.run_record import _stage as recorded_stage
from emi_ray.extraction.stage import OUTCOME
from emi_ray.extraction.summary import ExtractionSummary
from emi_ray.extraction.transcribe_stage import NO_SPEECH, Transcribe
from emi_ray.extraction.watchdog import Limits
from emi_ray.extractors.pretrained.whisper import Heard
from emi_ray.media.clip import DecodedClip, Waveform, pack_clip, table_of
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.workspace import CONFIG, Workspace


class Recogniser:
    """Hears words, no words or no speech, as the clip's id says."""

    identity, fingerprint = {"extractor": "made up"}, "0123456789ab"

    def build(self) -> "Recogniser":
        return self

    def transcribe(self, clips: Sequence[DecodedClip]) -> list[Heard]:
        answers = {"words": Heard("so happy"), "mumble": Heard(""), "music": Heard("", has_speech=False)}
        return [answers[clip.clip_id] for clip in clips]


def batch(ids: Sequence[str]) -> pa.Table:
    """Clips with a second of sound and no transcript, as they come out of decoding."""
    sound = Waveform(np.zeros(16_000, np.float32), 16_000)
    table = table_of([pack_clip(DecodedClip(clip_id, waveform=sound)) for clip_id in ids])
    more = {
        "todo_text": pa.array([1] * len(ids), pa.int32()),
        "origin_text": pa.array(["stamp|content"] * len(ids)),
        "outcomes": pa.array([[]] * len(ids), pa.list_(OUTCOME)),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table


def test_a_clip_without_speech_has_an_empty_transcript_and_is_counted(tmp_path):
    workspace, recogniser = Workspace(str(tmp_path)), Recogniser()
    workspace.write_text(CONFIG, "")
    pool = Pool(batch_size=3, max_actors=1, num_cpus=1, num_gpus=0, threads=1)
    keep = ["clip_id", "transcript", "missing"]
    stage = Transcribe(workspace, recogniser, keep, pool, Limits(60.0, 2**40))  # type: ignore[arg-type]
    told = stage(batch(["words", "mumble", "music"]))
    assert told["transcript"].to_pylist() == ["so happy", None, None]
    reasons = [json.loads(missing).get("transcript", "") for missing in told["missing"].to_pylist()]
    assert reasons[0] == ""
    assert "no words were recognised" in reasons[1]
    assert NO_SPEECH in reasons[2]
    assert TranscriptStore(workspace, recogniser.fingerprint).read() == {
        "words": "so happy",
        "mumble": "",
        "music": "",
    }
    summary = ExtractionSummary()
    summary.add_table(told)
    assert summary.stages["transcript"].ok == 3
    assert summary.stages["transcript"].remarks == {NO_SPEECH: 1}
    assert recorded_stage(summary, "transcript")["remarks"] == {NO_SPEECH: 1}
