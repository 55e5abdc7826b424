import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import read_corpus
from emi_ray.corpus.statistics import LabelStatistics, describe, label_statistics

ROWS = """clip_id,split,video,transcript,Joy,Amusement
1,train,a.mp4,hello,0.5,0
2,train,b.mp4,,0,1
3,train,,hi,1,0.25
4,val,a.mp4,hi,0,
5,val,a.mp4,hi,0.25,0.5
6,test,a.mp4,,,
"""


def test_splits_count_clips_media_and_modalities(table) -> None:
    train = describe(table(ROWS).clips).splits["train"]
    assert (train.num_clips, train.num_labelled) == (3, 3)
    assert train.media == {"video": 2, "audio": 0, "transcript": 2, "faces_dir": 0, "openface_csv": 0}
    assert train.modalities == {"text": 2, "audio": 2, "vision": 2, "motion": 2}
    assert train.missing_text_share == pytest.approx(1 / 3)


def test_labels_are_summed_up_over_the_clips_that_have_them(table) -> None:
    splits = describe(table(ROWS).clips).splits
    assert splits["train"].labels["Joy"] == LabelStatistics(
        3, pytest.approx(0.5), pytest.approx(np.std([0.5, 0, 1])), pytest.approx(1 / 3)
    )
    assert splits["val"].labels["Amusement"].num_labelled == 1
    assert splits["test"].labels["Joy"] == LabelStatistics(0, None, None, None)


def test_the_zero_share_is_that_of_the_low_end() -> None:
    assert label_statistics(np.array([-1, -1, 0, 1.0]), low=-1).zero_share == 0.5


def test_shift_and_correlation_agree_with_scipy(table) -> None:
    found = describe(table(ROWS).clips)
    expected = stats.ks_2samp([0.5, 0, 1], [0, 0.25], method="asymp")
    assert found.shifts["Joy"].statistic == pytest.approx(expected.statistic)
    assert found.shifts["Joy"].p_value == pytest.approx(expected.pvalue)
    pairs = ([0.5, 0, 1, 0.25], [0, 1, 0.25, 0.5])
    assert found.correlations[0][1] == pytest.approx(stats.pearsonr(*pairs).statistic)
    assert found.correlations[0][0] == pytest.approx(1)


def test_a_constant_label_has_no_correlation(table) -> None:
    text = "clip_id,split,video,x,y\n1,train,a.mp4,1,5\n2,train,a.mp4,2,5\n3,train,a.mp4,3,5\n"
    assert describe(table(text).clips).correlations[0][1] is None


def test_everything_can_be_written_as_strict_json(table, vidmimic2: Path) -> None:
    unlabelled = table("clip_id,video\n1,a.mp4\n").clips
    hume = read_corpus("vidmimic2", str(vidmimic2), CorpusSettings()).clips
    for clips in (unlabelled, hume, table(ROWS).clips, hume.slice(0, 1)):
        json.dumps(asdict(describe(clips)), allow_nan=False)
