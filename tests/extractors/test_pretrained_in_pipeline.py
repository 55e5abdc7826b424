import csv
from pathlib import Path

import av
import numpy as np
import pytest

from emi_ray.cli import main
from emi_ray.corpus.setup import init_workspace
from emi_ray.extraction.pending import store_of
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract, plan
from emi_ray.new_clips import place_of
from emi_ray.prediction import predict_new_clips, read_new_clips
from emi_ray.recipe.loading import load_recipe
from emi_ray.store.failures import read_failures
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.training.plan import plan_run
from emi_ray.training.run import execute_run
from emi_ray.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

GIVEN = "so i was really happy"


def write_pictures(path: Path) -> Path:
    """A clip of grey frames without a sound track."""
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for _ in range(5):
            film.mux(video.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8))))
        film.mux(video.encode())
    return path


@pytest.fixture(scope="module")
def workspace(
    demo_corpus: Path, dinov2: Path, wav2vec2: Path, bert: Path, whisper: Path, tmp_path_factory
) -> Workspace:
    """Four clips with a transcript, two without, and one without sound or transcript; tiny pretrained models."""
    with (demo_corpus / "clips.csv").open() as stream:
        rows = list(csv.DictReader(stream))[:6]
    for index, row in enumerate(rows):
        row["video"] = str(demo_corpus / row["video"])
        row["transcript"] = GIVEN if index < 4 else ""
        row["split"] = "val" if index == 3 else "train"
    folder = tmp_path_factory.mktemp("pretrained")
    mute = write_pictures(folder / "mute.mp4")
    rows.append({**rows[0], "clip_id": "mute", "video": str(mute), "transcript": ""})
    with (folder / "clips.csv").open("w") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    settings = [
        *("extractors.vision.name=dinov2-face", f"extractors.vision.settings.weights={dinov2}"),
        *("extractors.audio.name=wav2vec2", f"extractors.audio.settings.weights={wav2vec2}"),
        *("extractors.text.name=gte-base", f"extractors.text.settings.weights={bert}"),
        *("transcriber.name=whisper", f"transcriber.settings.weights={whisper}"),
        "transcriber.settings.vad=false",
    ]
    workspace = Workspace(str(folder / "workspace"))
    init_workspace(workspace, "table", str(folder / "clips.csv"), settings)
    extract(workspace, workspace.config())
    return workspace


def test_every_pretrained_extractor_runs_in_the_pipeline(workspace):
    specs = plan_pipeline(workspace, workspace.config()).specs
    for modality in ("vision", "audio"):
        assert len(store_of(workspace, specs[modality]).clip_ids()) == 6


def test_recognised_words_flow_into_the_text_extractor(workspace):
    pipeline = plan_pipeline(workspace, workspace.config())
    recognised = TranscriptStore(workspace, pipeline.transcriber.fingerprint).read()
    assert len(recognised) == 2
    done = store_of(workspace, pipeline.specs["text"]).clip_ids()
    assert len(done) == 4 + sum(bool(text.strip()) for text in recognised.values())


def test_a_clip_without_sound_and_transcript_is_missing_text_with_the_reason(workspace):
    text = store_of(workspace, plan_pipeline(workspace, workspace.config()).specs["text"])
    failures = {row["clip_id"]: row for row in read_failures(workspace, [text]).to_pylist()}
    assert failures["mute"]["stage"] == "missing"
    assert "nothing to recognise one from" in failures["mute"]["error"]


def test_what_was_recognised_is_not_recognised_again(workspace):
    config = workspace.config(["extractors.text.name=hashed-ngrams", "extractors.text.settings={}"])
    summary = extract(workspace, config, ["text"])
    assert "transcript" not in summary.stages
    assert summary.stages["text"].ok >= 4


def test_a_plan_measures_every_stage_and_writes_nothing(workspace):
    before = workspace.files("features", recursive=True)
    pools, measured = plan(workspace, workspace.config())
    stages = {"decode", "vision", "motion", "audio", "transcript", "text"}
    assert set(pools) == set(measured.seconds_per_clip) == stages
    assert workspace.files("features", recursive=True) == before


def test_speech_of_new_clips_is_recognised_for_a_fine_tuned_text_backbone(workspace, bert, demo_corpus):
    quick = ["training.epochs=1", "training.stop_on=val", f"encoders.text.backbone={bert}"]
    plan_of_run = plan_run(workspace, load_recipe("text-finetuned", quick), workspace.config(), 1)
    execute_run(plan_of_run, reuse_encoders=False)
    (clip, *_) = sorted((demo_corpus / "media").iterdir())
    new = read_new_clips(workspace, "text-finetuned/1", [str(clip)])
    predict_new_clips(workspace, new)
    fingerprint = new.models[0].description.transcriber["fingerprint"]
    recognised = TranscriptStore(place_of(workspace, new.run, new.sources), fingerprint).read()
    assert [*recognised] == new.clips["clip_id"].to_pylist()


def test_status_counts_the_recognised_transcripts_and_proposes_no_try_for_want_of_an_input(workspace, capsys):
    with pytest.raises(SystemExit) as end:
        main(["status", "-w", workspace.root])
    assert not end.value.code
    told = capsys.readouterr().out
    (row,) = [line for line in told.splitlines() if "recognised" in line]
    assert row.split()[2] == "2"
    assert "1 quarantined for want of an input, for example mute" in " ".join(told.split())
    assert "--retry-failed" not in told
