import hashlib
import subprocess
import sys

import numpy as np
import pytest

from emi_ray.errors import ClipError
from emi_ray.extractors.builtin.text import SENTIMENT_NAMES, HashedNgrams
from emi_ray.media.clip import DecodedClip

HAPPY = "I was so happy and proud of my sister when she won!"


def vector(transcript: str, **settings: int) -> np.ndarray:
    extractor = HashedNgrams(HashedNgrams.Settings(**settings))
    return extractor.extract([DecodedClip("a", transcript=transcript)])[0].values[0]


def test_a_transcript_is_one_step_of_unit_length():
    extractor = HashedNgrams(HashedNgrams.Settings())
    (features,) = extractor.extract([DecodedClip("a", transcript=HAPPY)])
    assert features.values.shape == (1, extractor.feature_dim) == (1, HashedNgrams.DIM)
    assert features.timestamps_s.tolist() == [0.0]
    assert np.linalg.norm(features.values) == pytest.approx(1, abs=1e-6)
    assert np.isfinite(features.values.astype(np.float16)).all()


@pytest.mark.parametrize("dim", [64, 300, 768])
def test_every_dimension_has_one_name(dim):
    extractor = HashedNgrams(HashedNgrams.Settings(dim=dim))
    assert len(set(extractor.feature_names())) == extractor.feature_dim == len(vector(HAPPY, dim=dim))


def test_another_process_gives_the_same_bits():
    program = (
        "import hashlib; from emi_ray.extractors.builtin.text import HashedNgrams; "
        "from emi_ray.media.clip import DecodedClip; "
        "extractor = HashedNgrams(HashedNgrams.Settings()); "
        f"features = extractor.extract([DecodedClip('a', transcript={HAPPY!r})])[0]; "
        "print(hashlib.blake2b(features.values.tobytes()).hexdigest())"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == hashlib.blake2b(vector(HAPPY).tobytes()).hexdigest()


def test_the_other_clips_of_a_batch_change_nothing():
    extractor = HashedNgrams(HashedNgrams.Settings())
    clips = [DecodedClip("a", transcript=HAPPY), DecodedClip("b", transcript="The bus was late.")]
    together = [features.values for features in extractor.extract(clips)]
    alone = [extractor.extract([clip])[0].values for clip in clips]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))


def test_similar_texts_are_closer_than_unlike_ones():
    alike = vector("We were happy and so proud when my sister won")
    unlike = vector("I cried because my old dog died and it hurt")
    assert vector(HAPPY) @ alike > 0.4 > 0.2 > vector(HAPPY) @ unlike


def test_forms_of_a_word_are_close():
    names = HashedNgrams(HashedNgrams.Settings()).feature_names()
    characters = [index for index, name in enumerate(names) if name.startswith("char_")]
    loved, lovely, trains = (vector(word)[characters] for word in ("loved", "lovely", "trains"))
    assert loved @ lovely > 0.3 * (loved @ loved)
    assert abs(loved @ trains) < 0.2 * (loved @ loved)


def test_function_words_weigh_less_than_others():
    base = vector("the dog was happy")
    assert base @ vector("a dog is happy") > base @ vector("the cat was angry")


@pytest.mark.parametrize("other", [HAPPY.upper(), HAPPY.replace(" ", "  \n"), HAPPY.replace("won", "ｗｏｎ")])
def test_case_space_and_unicode_variants_do_not_matter(other):
    assert np.array_equal(vector(other), vector(HAPPY))


def test_apostrophes_of_either_kind_are_one():
    assert np.array_equal(vector("I can’t"), vector("I can't"))


@pytest.mark.parametrize("mark", ["!", "?"])
def test_punctuation_shows_in_the_style(mark):
    column = {"!": "exclamations", "?": "questions"}[mark]
    index = HashedNgrams(HashedNgrams.Settings()).feature_names().index(column)
    assert vector(f"you won{mark}")[index] > vector("you won")[index] == 0


def sentiment(transcript: str) -> dict[str, float]:
    return dict(zip(SENTIMENT_NAMES, vector(transcript)[-len(SENTIMENT_NAMES) :], strict=True))


def test_the_lexicon_tells_glad_from_sad_and_heeds_negation():
    glad, sad, negated = map(sentiment, ("what a happy day", "what a sad day", "what a not happy day"))
    assert glad["compound"] > 0 > sad["compound"]
    assert glad["positive"] > 0 == sad["positive"]
    assert negated["compound"] < 0
    assert sentiment("so glad 😭")["least"] == 0 < sentiment("so glad")["most"]


def test_the_lexicon_says_nothing_of_what_it_does_not_know():
    assert set(sentiment("der zug fährt nach hause").values()) == {0.0}


@pytest.mark.parametrize("transcript", ["", "  \n\t", "...", "?!"])
def test_a_transcript_without_a_word_is_refused(transcript):
    with pytest.raises(ClipError, match=r"^text: "):
        vector(transcript)


@pytest.mark.parametrize("transcript", ["a", "嬉しい です", "x" * 5000, "la " * 3000, "42"])
def test_odd_texts_give_finite_unit_vectors(transcript):
    assert np.linalg.norm(vector(transcript)) == pytest.approx(1, abs=1e-6)
