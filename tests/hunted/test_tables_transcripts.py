"""Transcripts of any script: what tells words apart is kept."""

import numpy as np
import pytest

from emi_ray.errors import ClipError
from emi_ray.extractors.builtin.text import HashedNgrams, normalized, words_of
from emi_ray.media.clip import DecodedClip


def vector(transcript: str) -> np.ndarray:
    extractor = HashedNgrams(HashedNgrams.Settings())
    return extractor.extract([DecodedClip("a", transcript=transcript)])[0].values[0]


def words(transcript: str) -> list[str]:
    return words_of(normalized(transcript))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don’t KNOW, really...", ["i", "don't", "know", "really", "..."]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("العَرَبِيَّة جميلة؟", ["العَرَبِيَّة", "جميلة"]),
        ("我很高兴。", ["我", "很", "高", "兴"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("한국어가 좋아요", ["한국어가", "좋아요"]),
        ("ok 😭👍🏽", ["ok", "😭", "👍🏽"]),
        ("👩‍👩‍👧 🇩🇪", ["👩‍👩‍👧", "🇩🇪"]),
        ("C++ or C#, $5 or €5", ["c", "++", "or", "c", "#", "$", "5", "or", "€", "5"]),
        ("fine :( (really), yes:)", ["fine", ":(", "really", "yes", ":)"]),
        ("what?! 3.14 “quoted.”", ["what", "?!", "3.14", "quoted"]),
    ],
)
def test_words_are_those_of_the_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ok", "ok 😭"),
        ("ok 😂", "ok 😭"),
        ("👍🏽", "👍🏿"),
        ("कि", "की"),
        ("มา", "มี"),
        ("C++", "C#"),
        ("fine :)", "fine :("),
        ("love <3", "love 3"),
        ("well ...", "well"),
        ("עֶרֶב", "עָרֵב"),
        ("🇩🇪", "🇫🇷"),
    ],
)
def test_different_transcripts_have_different_features(one: str, other: str) -> None:
    assert not np.array_equal(vector(one), vector(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cafe\u0301 ❤\ufe0f", "CAFÉ ❤"),
        ("a\u00adway", "away"),
        ("\ufeffso happy", "so happy"),
        ("ﬁne ｆｉｎｅ", "fine fine"),
        ("\u202aso\u202c happy", "so happy"),
    ],
)
def test_variants_that_look_alike_have_the_same_features(one: str, other: str) -> None:
    assert np.array_equal(vector(one), vector(other))


@pytest.mark.parametrize("transcript", ["😭", "哈", "☀", ":)"])
def test_one_sign_can_be_all_that_is_said(transcript: str) -> None:
    assert np.isfinite(vector(transcript)).all()


@pytest.mark.parametrize("transcript", ["", " \u200b\n", "...", "?!", ". ."])
def test_marks_alone_say_nothing(transcript: str) -> None:
    with pytest.raises(ClipError, match="empty|no word"):
        vector(transcript)
