"""Features, transcripts and failures that no longer belong to their clips' inputs are computed again, and no
others.
"""

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emi_ray.config import ExtractorSettings, MediaSettings, WorkspaceConfig
from emi_ray.extraction.pending import Work, origin_column, plan_work, store_of, todo_column
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extractors import TranscriberSpec, specify
from emi_ray.extractors.pretrained.whisper import WhisperSettings
from emi_ray.media.provenance import content_of
from emi_ray.schema import MEDIA_COLUMNS, Origin, clips_schema
from emi_ray.store.failures import Failure, read_failures, write_failures
from emi_ray.store.feature_layout import ClipFeatures
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.workspace import Workspace

SPECS = plan_pipeline(Workspace("unused"), WorkspaceConfig()).specs
TRANSCRIBER = TranscriberSpec(WhisperSettings(weights="none", revision="none"), MediaSettings())
HEARD = {"text": specify("text", ExtractorSettings(name="hashed-ngrams"), MediaSettings(), TRANSCRIBER)}


class Corpus:
    """Clips whose files hold whatever bytes a test gives them, and a workspace that stands in for extraction."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, Workspace(str(folder / "work"))
        self.rows: dict[str, dict[str, str | None]] = {}

    def add(self, clip_id: str, **media: str | bytes | None) -> None:
        row: dict[str, str | None] = {"clip_id": clip_id, "split": "train"}
        for column, value in media.items():
            row[column] = self.file(clip_id, column, value) if isinstance(value, bytes) else value
        self.rows[clip_id] = row

    def file(self, clip_id: str, column: str, content: bytes) -> str:
        path = self.folder / f"{clip_id}.{column}"
        path.write_bytes(content)
        return str(path)

    @property
    def clips(self) -> pa.Table:
        return pa.Table.from_pylist(list(self.rows.values()), schema=clips_schema([]))

    def plan(self, specs=SPECS, transcriber=None, **options) -> Work:
        return plan_work(self.workspace, self.clips, specs, transcriber, **options)

    def todo(self, specs=SPECS, transcriber=None, **options) -> dict[str, set[str]]:
        work = self.plan(specs, transcriber, **options)
        found = {
            row["clip_id"]: {modality for modality in specs if row[todo_column(modality)] is not None}
            for row in work.table.to_pylist()
        }
        return {clip_id: modalities for clip_id, modalities in found.items() if modalities}

    def extract(self, specs=SPECS, transcriber=None, fails: frozenset[str] = frozenset()) -> Work:
        """What the actors do, without media: a row for each clip and modality that is to do."""
        work = self.plan(specs, transcriber)
        work.discard_stale()
        for row in work.table.to_pylist():
            for modality, spec in specs.items():
                if row[todo_column(modality)] is None:
                    continue
                stamp = row[origin_column(modality)]
                origin = Origin(content_of(stamp, row), stamp)
                store = store_of(self.workspace, spec)
                store.create(spec.identity, 2)
                if row["clip_id"] in fails:
                    attempt = row[todo_column(modality)]
                    failure = Failure(
                        row["clip_id"], modality, store.fingerprint, "media", "broken", attempt, origin
                    )
                    write_failures(self.workspace, [failure])
                else:
                    values = np.full((1, 2), len(row["clip_id"]), np.float16)
                    store.write([ClipFeatures(row["clip_id"], values, np.zeros(1, np.float32), {}, origin)])
        return work


@pytest.fixture
def corpus(tmp_path):
    corpus = Corpus(tmp_path)
    for clip_id in ("a", "b", "c"):
        corpus.add(clip_id, video=b"film of " + clip_id.encode(), transcript=f"words of {clip_id}")
    corpus.extract()
    assert corpus.todo() == {}
    return corpus


def reasons(work: Work) -> dict[str, Counter[str]]:
    return dict(work.redone)


def test_a_film_that_was_overwritten_is_made_anew_in_what_reads_it_and_nothing_else(corpus):
    corpus.file("b", "video", b"another!")
    assert corpus.todo() == {"b": {"vision", "motion", "audio"}}
    work = corpus.extract()
    why = Counter({"the video file changed": 1})
    assert reasons(work) == {"vision": why, "motion": why, "audio": why}
    assert corpus.todo() == {}


def test_a_film_of_the_same_size_is_told_by_its_time_and_content(corpus):
    path = Path(str(corpus.rows["a"]["video"]))
    before = os.stat(path)
    path.write_bytes(b"film of z")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert corpus.todo() == {"a": {"vision", "motion", "audio"}}


def test_a_file_that_was_touched_copied_or_moved_has_not_changed(corpus, tmp_path):
    os.utime(str(corpus.rows["a"]["video"]), (1, 1))
    moved = tmp_path / "elsewhere.mp4"
    shutil.move(str(corpus.rows["b"]["video"]), moved)
    corpus.rows["b"]["video"] = str(moved)
    link = tmp_path / "link.mp4"
    link.symlink_to(shutil.copy(str(corpus.rows["c"]["video"]), tmp_path / "copy.mp4"))
    corpus.rows["c"]["video"] = str(link)
    work = corpus.plan()
    assert work.table.num_rows == 0
    assert not work.redone


def test_a_touched_file_is_read_once_and_then_known(corpus, monkeypatch):
    os.utime(str(corpus.rows["a"]["video"]), (1, 1))
    corpus.plan().discard_stale()
    monkeypatch.setattr("emi_ray.media.provenance._file_content", lambda path: pytest.fail(f"{path} is read"))
    assert corpus.todo() == {}


def test_a_corrected_transcript_is_made_anew_in_text_alone(corpus):
    corpus.rows["c"]["transcript"] = "other words"
    assert corpus.todo() == {"c": {"text"}}
    assert reasons(corpus.extract()) == {"text": Counter({"the transcript changed": 1})}
    assert corpus.todo() == {}


def test_a_transcript_that_was_taken_away_takes_its_features_along(corpus):
    corpus.rows["c"]["transcript"] = None
    work = corpus.plan()
    assert reasons(work) == {"text": Counter({"the transcript was taken out of the corpus": 1})}
    work.discard_stale()
    assert store_of(corpus.workspace, SPECS["text"]).clip_ids() == {"a", "b"}


def test_sound_in_a_file_of_its_own_replaces_that_of_the_film(corpus):
    corpus.rows["a"]["audio"] = corpus.file("a", "audio", b"clean sound")
    assert corpus.todo() == {"a": {"audio"}}
    assert reasons(corpus.extract()) == {"audio": Counter({"the sound file is read now": 1})}


def test_ready_crops_are_compared_image_by_image(corpus, tmp_path):
    crops = tmp_path / "crops"
    crops.mkdir()
    for index in range(3):
        (crops / f"{index}.jpg").write_bytes(bytes([index]))
    corpus.rows["a"]["faces_dir"] = str(crops)
    assert corpus.todo() == {"a": {"vision", "motion"}}
    corpus.extract()
    (crops / "1.jpg").write_bytes(b"\x09")
    assert corpus.todo() == {"a": {"vision", "motion"}}
    corpus.extract()
    (crops / "3.jpg").write_bytes(b"\x03")
    assert corpus.todo() == {"a": {"vision", "motion"}}
    corpus.extract()
    os.utime(crops / "0.jpg", (1, 1))
    assert corpus.todo() == {}


@pytest.mark.slow  # a store that is not there is asked for 25 s
def test_what_cannot_be_looked_at_is_kept(corpus):
    Path(str(corpus.rows["a"]["video"])).unlink()
    corpus.rows["b"]["video"] = "s3://no-such-bucket-of-mine/b.mp4?endpoint_override=127.0.0.1:9&scheme=http"
    assert corpus.todo() == {}


def test_a_quarantine_is_lifted_by_a_file_that_is_supplied_or_replaced_and_by_nothing_else(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add("absent", audio=str(tmp_path / "absent.wav"))
    corpus.add("broken", audio=b"no sound")
    corpus.add("other", audio=b"no sound either")
    audio = {"audio": SPECS["audio"]}
    corpus.extract(audio, fails=frozenset(corpus.rows))
    assert corpus.todo(audio) == {}
    assert set(corpus.todo(audio, retry_failed=True)) == {"absent", "broken", "other"}
    (tmp_path / "absent.wav").write_bytes(b"sound")
    corpus.file("broken", "audio", b"sound at last")
    os.utime(str(corpus.rows["other"]["audio"]), (1, 1))
    work = corpus.plan(audio)
    assert dict(work.lifted) == {
        "audio": Counter({"the sound file was supplied": 1, "the sound file changed": 1})
    }
    assert sorted(work.table["todo_audio"].to_pylist()) == [2, 2]
    corpus.extract(audio)
    assert corpus.todo(audio) == {}
    assert read_failures(corpus.workspace)["clip_id"].to_pylist() == ["other"]


def test_a_transcript_that_is_supplied_lifts_the_quarantine_of_text(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add("a", audio=b"sound")
    text = {"text": SPECS["text"]}
    corpus.extract(text, fails=frozenset("a"))
    assert corpus.todo(text) == {}
    corpus.rows["a"]["transcript"] = "words"
    assert corpus.todo(text) == {"a": {"text"}}


def test_a_clip_that_fails_with_its_new_file_keeps_no_features_of_the_old_one(corpus):
    corpus.file("a", "video", b"broken now")
    corpus.extract(fails=frozenset("a"))
    assert store_of(corpus.workspace, SPECS["audio"]).clip_ids() == {"b", "c"}
    assert corpus.todo() == {}


def test_recognised_words_and_their_features_go_with_their_sound(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add("a", audio=b"sound of a")
    corpus.add("b", audio=b"sound of b")
    recognised = TranscriptStore(corpus.workspace, TRANSCRIBER.fingerprint)
    origins = {
        row["clip_id"]: Origin(content_of(row["origin_text"], row), row["origin_text"])
        for row in corpus.plan(HEARD, TRANSCRIBER).table.to_pylist()
    }
    recognised.write({"a": "words of a", "b": "words of b"}, origins)
    corpus.extract(HEARD, TRANSCRIBER)
    assert corpus.todo(HEARD, TRANSCRIBER) == {}
    corpus.file("a", "audio", b"another voice")
    work = corpus.plan(HEARD, TRANSCRIBER)
    assert work.table.select(["clip_id", "transcript"]).to_pylist() == [{"clip_id": "a", "transcript": None}]
    assert reasons(work) == {"text": Counter({"the sound file changed": 1})}
    work.discard_stale()
    assert recognised.read() == {"b": "words of b"}
    corpus.rows["b"]["transcript"] = "what was really said"
    assert corpus.todo(HEARD, TRANSCRIBER)["b"] == {"text"}


def test_stale_rows_that_a_killed_run_left_are_found_again(corpus, monkeypatch):
    corpus.file("a", "video", b"another film")
    monkeypatch.setattr(Workspace, "delete", lambda self, path: None)
    corpus.plan().discard_stale()
    monkeypatch.undo()
    assert corpus.todo() == {"a": {"vision", "motion", "audio"}}
    corpus.extract()
    assert corpus.todo() == {}
    assert store_of(corpus.workspace, SPECS["audio"]).clip_ids() == {"a", "b", "c"}


def test_features_that_do_not_say_what_they_were_made_of_are_kept(corpus):
    store = store_of(corpus.workspace, SPECS["audio"])
    corpus.add("old", audio=b"sound")
    store.write([ClipFeatures("old", np.zeros((1, 2), np.float16), np.zeros(1, np.float32), {})])
    work = corpus.plan({"audio": SPECS["audio"]})
    assert work.table.num_rows == 0
    assert work.by_modality["audio"].features.uncomparable.sum() == 1


def test_every_media_column_is_part_of_what_features_are_made_of(tmp_path):
    corpus = Corpus(tmp_path)
    corpus.add("a", **{name: f"no {name}" for name in MEDIA_COLUMNS})
    inputs = {s.split(":")[0] for m in SPECS for s in corpus.plan().table[origin_column(m)].to_pylist()}
    assert inputs == {"audio", "faces_dir", "transcript"}
