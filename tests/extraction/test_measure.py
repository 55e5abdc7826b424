"""What is measured before a run: each stage on the clips that it has work for."""

import numpy as np
import pytest

from emi_ray.config import WorkspaceConfig
from emi_ray.extraction import measure as measuring
from emi_ray.extraction.measure import _measure
from emi_ray.media.clip import DecodedClip, Waveform


class Spec:
    """An extractor or recogniser that records the clips it is given."""

    def __init__(self, *needs: str) -> None:
        self.needs = frozenset(needs)
        self.seen: list[list[str]] = []

    def build(self):
        return self

    def extract(self, clips):
        self.seen.append([clip.clip_id for clip in clips])
        return clips

    def transcribe(self, clips):
        self.extract(clips)
        return [Words() for _ in clips]


class Words:
    text = "so happy"


class Plan:
    def __init__(self, transcriber, **specs: Spec) -> None:
        self.transcriber, self.specs, self.config = transcriber, specs, WorkspaceConfig()


@pytest.fixture
def clips(monkeypatch):
    sound = Waveform(np.zeros(32_000, np.float32), 16_000)
    made = [
        DecodedClip("spoken", waveform=sound, transcript="given"),
        DecodedClip("mute", waveform=sound),
        DecodedClip("silent"),
    ]
    monkeypatch.setattr(measuring, "_decode", lambda *_: (made, 0.5))
    monkeypatch.setattr(measuring, "take_up", lambda *_: None)
    monkeypatch.setattr(measuring, "limit_threads", lambda *_: None)
    return made


def test_speech_is_recognised_where_no_transcript_is_given_and_text_reads_both(clips):
    transcriber, text = Spec(), Spec("transcript")
    threads = {"decode": 1, "transcript": 1, "text": 1}
    seconds, media_s, num_clips = _measure(Plan(transcriber, text=text), [], threads, False)
    assert transcriber.seen == [["mute"]] * 2
    assert text.seen == [["spoken", "mute"]] * 2
    assert set(seconds) == {"decode", "transcript", "text"}
    assert (media_s, num_clips) == (4.0, 3)


def test_a_stage_that_no_clip_has_an_input_for_has_no_measured_time(clips):
    vision = Spec("frames")
    seconds, *_ = _measure(Plan(None, vision=vision), [], {"decode": 1, "vision": 1}, False)
    assert (set(seconds), vision.seen) == ({"decode"}, [])
