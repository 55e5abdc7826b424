"""Score a run on perturbed validation clips: with noise in the audio, or errors in the transcripts.

The perturbed inputs pass through the same extractors as the run's own features. Only the perturbed modality is
extracted; for the others the features of the workspace are used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.io import wavfile

from emi_ray.corruptions import add_noise, with_word_errors
from emi_ray.errors import UserError
from emi_ray.evaluation import RunData, predict_from_stores, read_run, transcripts_of
from emi_ray.extraction.pending import what_changed
from emi_ray.extraction.run import extract
from emi_ray.extractors.base import fingerprint
from emi_ray.media.clip import unpack_clip
from emi_ray.media.isolation import DecodeProcess
from emi_ray.media.source import ClipSource
from emi_ray.model_extractors import config_of
from emi_ray.prediction import refuse_other_features
from emi_ray.results.runs import PERTURBED
from emi_ray.robustness import score_entry
from emi_ray.schema import MEDIA_COLUMNS, EncoderName
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.store.transcript_store import TranscriptStore
from emi_ray.training.data.input_hashes import read_transcripts
from emi_ray.training.run_files import without_nan
from emi_ray.wording import plural
from emi_ray.workspace import CLIPS, Workspace

SNR_DB = (20.0, 10.0, 5.0, 0.0)
WORD_ERROR_RATES = (0.1, 0.2, 0.4)
MAX_CLIPS = 200
SEED = 0


@dataclass(frozen=True)
class Condition:
    """One perturbation.

    Attributes:
        part: ``noise`` or ``word_errors``.
        level: signal-to-noise ratio in dB, or word error rate from 0 to 1.
    """

    part: str
    level: float

    @property
    def name(self) -> str:
        return f"{self.level:g} dB" if self.part == "noise" else f"{100 * self.level:g} % of words wrong"

    @property
    def folder(self) -> str:
        return f"{self.part}-{self.level:g}"


def measure_perturbed(
    workspace: Workspace,
    run: str,
    snr_db: Sequence[float] = SNR_DB,
    word_error_rates: Sequence[float] = WORD_ERROR_RATES,
    max_clips: int = MAX_CLIPS,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Score a run on perturbed validation clips, and write ``perturbed.json`` beside its model. Needs a Ray
    session.

    Args:
        run: ``recipe/seed``.
        snr_db: signal-to-noise ratios of the audio, see :func:`add_noise`.
        word_error_rates: from 0 to 1, see :func:`with_word_errors`.
        max_clips: maximum number of validation clips; if there are more, a sample is drawn with a fixed seed.
        on_progress: called with the number of conditions that are done, and the total number.

    Returns:
        ``noise`` and ``word_errors``, each a list that begins with the unperturbed score on the same clips. An
        entry has ``name``, ``num_clips``, ``val_pearson`` (mean over labels; None if undefined), and ``low`` and
        ``high`` of its 95 % interval. A list is empty if the run does not read the modality. In addition ``seed``
        and ``run_key``.

    Raises:
        UserError: as :func:`emi_ray.evaluation.read_run`, the run reads neither audio nor text, or it reads
            imported
            features, which cannot be extracted from perturbed clips.
    """
    found = read_run(workspace, run)
    subject = _Subject(workspace, run, found, max_clips)
    conditions = [Condition("noise", level) for level in snr_db if subject.streams_of("noise")]
    conditions += [
        Condition("word_errors", rate) for rate in word_error_rates if subject.streams_of("word_errors")
    ]
    if not conditions:
        raise UserError(f"Run {run} reads neither audio nor text: there is nothing to perturb.")
    # Raises the errors of all parts before the first extraction, which takes long.
    for part in {condition.part for condition in conditions}:
        subject.configs_of(part)
    # Another version of an extractor would change the features even without a perturbation.
    refuse_other_features(workspace, run, found.loaded)
    result: dict[str, Any] = {
        "noise": [],
        "word_errors": [],
        "seed": SEED,
        "run_key": found.loaded.description.run_key,
    }
    for done, condition in enumerate(conditions):
        on_progress(done, len(conditions))
        rows = result[condition.part]
        # The unperturbed score is on the same sample of clips, so it differs from the run's own score.
        if not rows:
            rows.append(subject.score("unperturbed", condition.part, {}, subject.texts))
        rows.append(subject.measure(condition))
    on_progress(len(conditions), len(conditions))
    workspace.write_json(f"{found.folder}/{PERTURBED}", without_nan(result))
    return result


class _Subject:
    """The run, its clips, and the location of their perturbed features."""

    def __init__(self, workspace: Workspace, run: str, found: RunData, max_clips: int) -> None:
        self._workspace, self._run, self._found = workspace, run, found
        val = found.rows.val
        if len(val) > max_clips:
            val = np.sort(np.random.default_rng(SEED).choice(val, max_clips, replace=False))
        self._rows = val
        self._ids = [str(clip_id) for clip_id in found.data.clip_ids[val]]
        clips = workspace.clips()
        places = pc.index_in(pa.array(self._ids), value_set=clips["clip_id"].combine_chunks())
        self._clips = clips.take(places)
        for store in found.loaded.description.stores(workspace).values():
            # The other modalities come from the workspace, so their features must belong to the present files.
            if changed := what_changed(store, self._clips):
                raise UserError(changed)
        recognised = transcripts_of(workspace, found.loaded) or _recognised(workspace, found)
        texts = read_transcripts(self._clips, recognised)
        self.texts = {clip_id: texts[clip_id] for clip_id in self._ids if texts.get(clip_id)}
        # With repetitions, so that wrong words are as frequent as they are in the clips.
        self._vocabulary = [word for text in texts.values() for word in (text or "").split()]

    def streams_of(self, part: str) -> list[EncoderName]:
        """Return the encoders that read the perturbed modality."""
        description, recipe = self._found.loaded.description, self._found.loaded.description.recipe
        modality = "audio" if part == "noise" else "text"
        streams = [stream for stream in description.extractors if recipe.modality_of(stream) == modality]
        tuned = recipe.transcript_stream
        return [*streams, tuned] if part == "word_errors" and tuned else streams

    def configs_of(self, part: str) -> list[tuple[EncoderName, Any]]:
        """Return, by encoder, the configuration with which its extractor reproduces the features that it was
        trained on.

        Raises:
            UserError: as :func:`emi_ray.model_extractors.config_of`.
        """
        settings = self._workspace.config().extraction
        extracted = [s for s in self.streams_of(part) if s in self._found.loaded.description.extractors]
        return [(stream, config_of(self._found.loaded, settings, [stream])) for stream in extracted]

    def measure(self, condition: Condition) -> dict[str, Any]:
        """Perturb the clips, extract features and score the run. The extracted features are deleted afterwards."""
        folder = f"perturbed/{self._run}/{condition.folder}"
        place = self._workspace.inner(folder)
        texts = self.texts if condition.part == "noise" else self._wrong_texts(condition.level)
        clips = (
            self._noisy_clips(place, condition.level)
            if condition.part == "noise"
            else self._with_texts(texts)
        )
        place.write_table(CLIPS, clips)
        recipe, stores = self._found.loaded.description.recipe, {}
        # One extraction for each encoder, because several may read the modality with other extractors.
        for stream, config in self.configs_of(condition.part):
            place.write_config(config)
            extract(place, place.config(), [recipe.modality_of(stream)])
            stores[stream] = self._found.loaded.description.stores(place)[stream]
        entry = self.score(condition.name, condition.part, stores, texts)
        # A clip without the modality is not a failure of the perturbation.
        failed = [
            f for f in read_failures(place, list(stores.values())).to_pylist() if f["stage"] != "missing"
        ]
        if failed:
            entry["name"] += (
                f"; {plural(len({f['clip_id'] for f in failed}), 'clip')} failed: counted as missing"
            )
        self._workspace.delete(folder)
        return entry

    def score(
        self, name: str, part: str, stores: Mapping[EncoderName, FeatureStore], texts: Mapping[str, str]
    ) -> dict[str, Any]:
        """Score the run on the clips that have the modality, with the features of some encoders replaced."""
        loaded = self._found.loaded
        table = predict_from_stores(
            loaded, {**loaded.description.stores(self._workspace), **stores}, self._ids, texts
        )
        labels = [label.name for label in loaded.description.labels]
        has_it = self._present(part)
        predicted = np.stack([table[label].to_numpy() for label in labels], axis=1)[has_it]
        true = self._found.data.targets[self._rows][has_it]
        clip_ids = [self._ids[index] for index in np.flatnonzero(has_it)]
        return score_entry(self._workspace, name, clip_ids, predicted, true)

    def _present(self, part: str) -> np.ndarray:
        """Return (N,) bool: whether each clip has the modality that is perturbed."""
        streams = self.streams_of(part)
        present = [self._found.data.features[stream].present[self._rows] for stream in streams]
        return np.any(present, axis=0)

    def _wrong_texts(self, rate: float) -> dict[str, str]:
        spoiled = {
            clip_id: with_word_errors(text, rate, self._vocabulary, _random(clip_id))
            for clip_id, text in self.texts.items()
        }
        return {clip_id: text for clip_id, text in spoiled.items() if text}

    def _with_texts(self, texts: Mapping[str, str]) -> pa.Table:
        """Return the clips with these transcripts, without media, which text extractors do not read."""
        clips = self._without_media()
        return _with_column(clips, "transcript", [texts.get(clip_id) for clip_id in self._ids])

    def _noisy_clips(self, place: Workspace, snr_db: float) -> pa.Table:
        """Return the clips with only their audio, with noise, in WAV files of the folder ``place``."""
        paths: list[str | None] = [None] * len(self._ids)
        for index, samples in self._sounds():
            name = f"sounds/{index:06d}.wav"
            content = BytesIO()
            # The decoder has resampled to media.sample_rate_hz, which is always 16,000.
            wavfile.write(content, 16_000, add_noise(samples, snr_db, _random(self._ids[index])))
            place.write_bytes(name, content.getvalue())
            # Behind a URI, the path of a clip must have its scheme.
            paths[index] = place.path(name) if place.is_local else place.inner(name).root
        return _with_column(self._without_media(), "audio", paths)

    def _sounds(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the audio of each clip that has one, with its index among the clips."""
        [(_, config), *_] = self.configs_of("noise")
        limits = self._workspace.config().extraction
        with DecodeProcess(config.media, limits.time_limit_s, limits.decode_memory_gb) as decoder:
            for index, row in enumerate(self._clips.select(["clip_id", *MEDIA_COLUMNS]).to_pylist()):
                clip = unpack_clip(decoder.decode(ClipSource(**row), frozenset({"waveform"})))
                if clip.waveform is not None:
                    yield index, clip.waveform.samples

    def _without_media(self) -> pa.Table:
        clips = self._clips
        for name in MEDIA_COLUMNS:
            if name in clips.column_names:
                clips = _with_column(clips, name, [None] * clips.num_rows)
        return clips


def _recognised(workspace: Workspace, found: RunData) -> TranscriptStore | None:
    """Return the recognised transcripts that the run's text features were made from; None without a recogniser."""
    recogniser = found.loaded.description.recogniser_of_features
    return TranscriptStore(workspace, fingerprint(recogniser)) if recogniser else None


def _with_column(table: pa.Table, name: str, values: Sequence[str | None]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, pa.string()))


def _random(clip_id: str) -> np.random.Generator:
    """Return the random generator of a clip, the same for every level and every call."""
    # Independent of the order of clips, and of which other clips are in the sample.
    return np.random.default_rng([SEED, *clip_id.encode()])
