import csv
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from emi_ray.corpus.demo import ClipPlan, draw_clips, render_demo
from emi_ray.corpus.demo.labels import MEANS, ZERO_SHARES
from emi_ray.corpus.demo.plan import FIDELITY
from emi_ray.errors import UserError
from emi_ray.schema import EMOTIONS, MODALITIES

NUM_CLIPS = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_demo(tmp_path_factory.mktemp("demo"), NUM_CLIPS, seed=3, workers=1).parent


@pytest.fixture(scope="module")
def many_clips() -> list[ClipPlan]:
    return draw_clips(5000, seed=0)


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "clips.csv").open() as stream:
        return list(csv.DictReader(stream))


def read_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def labels_of(clips: list[ClipPlan]) -> np.ndarray:
    return np.array([clip.labels for clip in clips])


def test_every_clip_has_an_h264_and_an_aac_stream_of_its_duration(corpus: Path) -> None:
    for plan in draw_clips(NUM_CLIPS, seed=3):
        with av.open(str(corpus / "media" / f"{plan.clip_id}.mp4")) as container:
            picture, sound = container.streams.video[0], container.streams.audio[0]
            assert picture.codec_context.name == "h264"
            assert sound.codec_context.name == "aac"
            assert float(picture.duration * picture.time_base) == pytest.approx(plan.duration_s, abs=0.1)
            assert float(sound.duration * sound.time_base) == pytest.approx(plan.duration_s, abs=0.15)


def test_the_bundled_cascade_finds_the_face_and_nothing_else(corpus: Path) -> None:
    cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}haarcascade_frontalface_default.xml")
    found = []
    for path in sorted((corpus / "media").glob("*.mp4")):
        for frame in read_frames(path)[::4]:
            grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            found.append(len(cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5)))
    assert np.mean(np.array(found) == 1) >= 0.9


def test_the_voice_is_neither_silent_nor_clipped(corpus: Path) -> None:
    for path in sorted((corpus / "media").glob("*.mp4")):
        with av.open(str(path)) as container:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert 1e-3 < np.sqrt(np.mean(sound**2)) < 0.6
        assert np.abs(sound).max() < 1.2


def test_the_table_names_media_and_labels_and_nothing_that_was_planted(corpus: Path) -> None:
    rows = read_table(corpus)
    assert list(rows[0]) == ["clip_id", "split", "video", "transcript", *EMOTIONS]
    assert all((corpus / row["video"]).is_file() for row in rows)
    assert set(json.loads((corpus / "planted.json").read_text())["clips"][0]["cues"]) == set(MODALITIES)


def test_labels_are_published_for_all_splits_but_test(corpus: Path) -> None:
    for row in read_table(corpus):
        values = [row[name] for name in EMOTIONS]
        if row["split"] == "test":
            assert values == [""] * 6
        else:
            assert all(0 <= float(value) <= 1 for value in values)


def test_a_second_call_renders_nothing_and_replaces_only_what_is_gone(corpus: Path) -> None:
    videos = sorted((corpus / "media").glob("*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in videos}
    gone, content = videos[0], videos[0].read_bytes()
    gone.unlink()
    done: list[int] = []
    render_demo(corpus, NUM_CLIPS, seed=3, workers=1, on_clip=done.append)
    assert done == [NUM_CLIPS]
    assert gone.read_bytes() == content
    assert all(path.stat().st_mtime_ns == before[path] for path in videos[1:])


def test_another_corpus_is_never_mixed_into_a_folder(corpus: Path) -> None:
    with pytest.raises(UserError, match="another seed, size or version"):
        render_demo(corpus, NUM_CLIPS, seed=4, workers=1)


def test_same_seed_same_plans_and_another_seed_other_plans() -> None:
    assert draw_clips(20, seed=1) == draw_clips(20, seed=1)
    assert draw_clips(20, seed=1) != draw_clips(20, seed=2)


def test_labels_are_fractions_of_the_raters(many_clips: list[ClipPlan]) -> None:
    votes = labels_of(many_clips) * np.array([[clip.num_raters] for clip in many_clips])
    np.testing.assert_allclose(votes, np.round(votes), atol=1e-9)
    assert votes.min() == 0
    assert labels_of(many_clips).max() <= 1


def test_labels_have_the_published_zero_shares_means_and_correlations(many_clips: list[ClipPlan]) -> None:
    labels = labels_of(many_clips)
    np.testing.assert_allclose((labels == 0).mean(axis=0), list(ZERO_SHARES.values()), atol=0.02)
    np.testing.assert_allclose(labels.mean(axis=0), list(MEANS.values()), atol=0.01)
    expected = np.eye(6)
    excitement, joy = EMOTIONS.index("Excitement"), EMOTIONS.index("Joy")
    expected[excitement, joy] = expected[joy, excitement] = 0.23
    np.testing.assert_allclose(np.corrcoef(labels.T), expected, atol=0.05)


def test_splits_durations_and_missing_transcripts_are_as_documented(many_clips: list[ClipPlan]) -> None:
    splits = [clip.split for clip in many_clips]
    assert [splits.count(split) for split in ("train", "val", "test")] == [3000, 1500, 500]
    durations_s = np.array([clip.duration_s for clip in many_clips])
    assert np.median(durations_s) == pytest.approx(2.5, rel=0.1)
    assert durations_s.min() >= 0.4
    assert durations_s.max() <= 18
    assert np.mean([clip.transcript is None for clip in many_clips]) == pytest.approx(0.06, abs=0.015)


def test_cues_foretell_labels_in_the_published_order(many_clips: list[ClipPlan]) -> None:
    labels = labels_of(many_clips)
    reach = [np.mean(correlations(cues_of(many_clips, modality), labels)) for modality in MODALITIES]
    assert reach == sorted(reach, reverse=True)
    assert reach[-1] > 0.15


def test_every_modality_shows_intensities_with_its_fidelity_and_none_else() -> None:
    clips = [clip for clip in draw_clips(480, seed=5) if clip.split == "val"]
    intensity = np.array([clip.intensity for clip in clips])
    chance = {m: cues_of(clips, m) - FIDELITY[m] * intensity for m in MODALITIES}
    for modality in MODALITIES:
        np.testing.assert_allclose(
            correlations(cues_of(clips, modality), intensity), FIDELITY[modality], atol=1e-5
        )
    np.testing.assert_allclose(correlations(chance["text"], chance["audio"]), 0, atol=1e-5)


def cues_of(clips: list[ClipPlan], modality: str) -> np.ndarray:
    return np.array([clip.cues[modality] for clip in clips])


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)])
