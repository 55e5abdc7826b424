"""Predict the labels of raw clips that a model has never seen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import write_csv

from emi_ray.config import ExtractionSettings, WorkspaceConfig
from emi_ray.corpus.files import absolute
from emi_ray.corpus.listing import Finding
from emi_ray.corpus.vidmimic2 import spelled_test_ids
from emi_ray.ensembles import describe_models, is_ensemble, load_ensemble
from emi_ray.errors import UserError
from emi_ray.evaluation import as_intensities, num_limited, predict_corpus_clips, write_submission
from emi_ray.extraction.pending import what_changed, what_lacks
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract
from emi_ray.model_extractors import config_of, extraction_rounds, recognition_config
from emi_ray.new_clips import Record, Round, Written, place_of, read_record, read_sources
from emi_ray.output import write_output
from emi_ray.schema import EncoderName, Label, Split
from emi_ray.store.failures import read_failures
from emi_ray.training.checkpoint import LoadedModel, find_run, load_model
from emi_ray.workspace import CLIPS, Workspace


@dataclass(frozen=True)
class NewClips:
    """Checked clips that a model has never seen, and the trained run that is to predict them.

    Attributes:
        models: the model of the run, or those of an ensemble's members.
        warnings: findings about the clips, for example files that do not exist.
    """

    run: str
    models: tuple[LoadedModel, ...]
    clips: pa.Table
    warnings: tuple[Finding, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """Predictions, one row per clip.

    Attributes:
        table: ``clip_id``, one column per label with the model's output, and ``modalities``, those that the clip
            has.
        labels: the labels with their ranges.
        streams: the encoders of the model.
        place: location of the features of new clips; None for the workspace's own clips.

    Examples:
        >>> found = emi_ray.predict("work", "text/1", "new.csv")
        >>> found.intensities["clip_id"].to_pylist(), found.unknown
        (['a', 'b'], [])
        >>> found.write_csv("intensities.csv")
    """

    workspace: Workspace
    table: pa.Table
    labels: tuple[Label, ...]
    streams: tuple[EncoderName, ...]
    place: Workspace | None = None

    @property
    def intensities(self) -> pa.Table:
        """The table with values clipped to the ranges of the labels, and nulls for clips without any input of the
        model.
        """
        return as_intensities(self.table, self.labels)

    @property
    def unknown(self) -> Sequence[str]:
        """Ids of the clips without any input of the model."""
        rows = zip(self.table["clip_id"].to_pylist(), self.table["modalities"].to_pylist(), strict=True)
        return [clip_id for clip_id, modalities in rows if not modalities]

    @property
    def limited(self) -> dict[str, int]:
        """Label → number of clips whose value is outside of the label's range, for labels with such clips."""
        return num_limited(self.table, self.labels)

    def reasons(self, clip_ids: Sequence[str]) -> dict[str, list[str]]:
        """Return why clips have no features: clip id → reasons without repetitions, for clips with a reason."""
        rows = read_failures(self.place or self.workspace).to_pylist()
        pairs = [(row["clip_id"], row["error"]) for row in rows if row["modality"] in self.streams]
        told = dict.fromkeys(pair for pair in pairs if pair[0] in clip_ids)  # without repetitions
        return {clip_id: [error for each, error in told if each == clip_id] for clip_id, _ in told}

    def to_pandas(self) -> pd.DataFrame:
        """Return :attr:`intensities` as a data frame."""
        return self.intensities.to_pandas()

    def write_csv(self, to: str) -> None:
        """Write :attr:`intensities` to a path or URI.

        Raises:
            UserError: the file cannot be written.
        """
        sheet = BytesIO()
        write_csv(self.intensities, sheet)
        write_output(to, sheet.getvalue())
        # Absolute, because emi-ray status may run in another working directory.
        self._remember(Written(absolute(to)))

    def write_submission(self, to: str, id_width: int | None = None) -> None:
        """Write a submission to the challenge: ``Filename`` and one column per label.

        Args:
            id_width: pad ids with zeros to this number of digits; by default ids have the spelling of the test
                list.

        Raises:
            UserError: the file cannot be written, or the predictions are not a valid submission.
        """
        table = self.table if id_width is not None else as_test_list_spells(self.workspace, self.table)
        write_submission(table, to, self.labels, id_width)
        self._remember(Written(absolute(to), "submission", id_width))

    def _remember(self, written: Written) -> None:
        """Record the file that the predictions were written to, for the command that updates them."""
        if self.place is not None:
            replace(read_record(self.place), written=written).write(self.place)


def read_new_clips(workspace: Workspace, run: str, sources: Sequence[str]) -> NewClips:
    """Check the clips and the run before Ray starts.

    Args:
        run: ``recipe/seed``.
        sources: media files, folders of media files, or one table with media and transcripts. Only ids, media and
            transcripts of a table are read; its splits, groups and labels are ignored.

    Raises:
        UserError: the run does not exist, it reads imported features, or a source does not exist or is not media.
    """
    run = find_run(workspace, run).removeprefix("runs/")
    models = tuple(_models(workspace, run))
    for loaded in models:
        refuse_other_features(workspace, run, loaded)
    # Read after the run was checked, because listing many files behind a URI takes long.
    corpus = read_sources(workspace, sources)
    if _lacks_transcripts(corpus.clips):
        for loaded in models:
            _refuse_other_transcripts(workspace, run, loaded)
    return NewClips(run, models, corpus.clips, corpus.warnings, tuple(sources))


def predict_new_clips(
    workspace: Workspace,
    new: NewClips,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Extract the features that the run was trained on from new clips, and predict. Needs a Ray session.

    The features are stored in ``predictions/`` of the workspace, so that an interrupted command can be continued.
    Features of files or transcripts that have changed are extracted again.

    Returns:
        The table of :func:`emi_ray.evaluation.predict_from_stores`, one row per clip.
    """
    place = place_of(workspace, new.run, new.sources)
    place.write_table(CLIPS, new.clips)
    rounds = tuple(_extractions(new.models, workspace.config().extraction, _lacks_transcripts(new.clips)))
    record = Record(
        tuple(loaded.description.run_key for loaded in new.models), tuple(map(absolute, new.sources)), rounds
    )
    # Written before the extraction, so that status can tell how to finish an interrupted one.
    record.write(place)
    # The place has a configuration of its own: that of the model, not that of the workspace.
    if not rounds:
        place.write_config(WorkspaceConfig())
    for each in rounds:
        place.write_config(each.config)
        extract(place, place.config(), each.modalities, on_progress=on_progress)
    predictions = _predict(workspace, new.run, place, new.clips)
    replace(record, finished=True).write(place)
    return predictions


def _lacks_transcripts(clips: pa.Table) -> bool:
    """Return whether speech must be recognised for some clips, if the model reads their words."""
    return not all((text or "").strip() for text in clips["transcript"].to_pylist())


def _extractions(
    models: Iterable[LoadedModel], settings: ExtractionSettings, recognise: bool
) -> Iterator[Round]:
    """Yield the extractions that all models need, each once."""
    done: list[Round] = []
    for loaded in models:
        for found in _rounds_of(loaded, settings, recognise):
            if found not in done:
                done.append(found)
                yield found


def _rounds_of(loaded: LoadedModel, settings: ExtractionSettings, recognise: bool) -> Iterator[Round]:
    for streams in extraction_rounds(loaded):
        modalities = tuple(loaded.description.recipe.modality_of(stream) for stream in streams)
        yield Round(config_of(loaded, settings, streams), modalities)
    recognition = recognition_config(loaded, settings)
    if recognise and recognition is not None:
        yield Round(recognition, ("text",))


def predict_split(workspace: Workspace, run: str, split: Split) -> pa.Table:
    """Predict a split of the workspace's own corpus from its features.

    Raises:
        UserError: the run does not exist, the split has no clips, or the files or transcripts of its clips
            have changed since their features were extracted, or some of its clips are not extracted yet.
    """
    clips = workspace.clips()
    # Raises the error for an unknown run before the one for an empty split.
    find_run(workspace, run)
    chosen = clips.filter(pc.equal(clips["split"], split))
    if not chosen.num_rows:
        raise UserError(f"{workspace.root} has no clips in its {split} split: give clips with --clips.")
    if problem := problem_of_features(workspace, run, chosen):
        raise UserError(problem)
    return _predict(workspace, run, workspace, chosen)


def problem_of_features(workspace: Workspace, run: str, clips: pa.Table) -> str:
    """Return a sentence on clips of the corpus whose features, which a run reads, are stale or not extracted yet;
    "" if there are none.
    """
    for description in describe_models(workspace, run):
        for store in description.stores(workspace).values():
            if problem := what_changed(store, clips) or what_lacks(store, clips):
                return problem
    return ""


def as_test_list_spells(workspace: Workspace, predictions: pa.Table) -> pa.Table:
    """Return predictions with the ids in the spelling of the challenge's test list, if there is one."""
    corpus = workspace.config().corpus
    spelled = spelled_test_ids(corpus.source) if corpus.kind == "vidmimic2" and corpus.source else {}
    # Clip ids of the workspace are padded with zeros, but the list may spell them without.
    ids = [spelled.get(clip_id, clip_id) for clip_id in predictions["clip_id"].to_pylist()]
    return predictions.set_column(0, "clip_id", pa.array(ids, pa.string()))


def refuse_other_features(workspace: Workspace, run: str, loaded: LoadedModel) -> None:
    """Check that the features which the model reads can be extracted from new clips here.

    Raises:
        UserError: as :func:`config_of` and ``plan_pipeline``, or this version of the extractor makes other
            features.
    """
    description = loaded.description
    for streams in extraction_rounds(loaded):
        # Resources do not change a feature, so the default ones do for a check.
        config = config_of(loaded, ExtractionSettings(), streams)
        modalities = {stream: description.recipe.modality_of(stream) for stream in streams}
        specs = plan_pipeline(workspace, config, modalities.values()).specs
        for stream, modality in modalities.items():
            if specs[modality].fingerprint != description.fingerprint(stream):
                raise UserError(
                    f"Run {run} was trained on {stream} features {description.fingerprint(stream)} of another "
                    f"version of '{description.extractors[stream]['extractor']}'; this version makes "
                    f"{specs[modality].fingerprint}. Extract and train it again: emi-ray status -w {workspace.quoted}"
                )


def _refuse_other_transcripts(workspace: Workspace, run: str, loaded: LoadedModel) -> None:
    recognition, trained_on = recognition_config(loaded, ExtractionSettings()), loaded.description.transcriber
    if recognition is None or trained_on is None:
        return
    here = plan_pipeline(workspace, recognition, ["text"]).transcriber
    if here is None or here.fingerprint != trained_on["fingerprint"]:
        raise UserError(
            f"Run {run} was trained on transcripts {trained_on['fingerprint']} of another version of "
            f"'{trained_on['extractor']}'. Extract and train it again: emi-ray status -w {workspace.quoted}"
        )


def _models(workspace: Workspace, run: str) -> Sequence[LoadedModel]:
    """Return the model of a run, or those of an ensemble's members."""
    if is_ensemble(workspace, run):
        return load_ensemble(workspace, run).members
    return [load_model(workspace, run)]


def _predict(workspace: Workspace, run: str, place: Workspace, clips: pa.Table) -> pa.Table:
    """Predict clips with a run of a workspace from the features in the same or another location."""
    if not is_ensemble(workspace, run):
        return predict_corpus_clips(place, load_model(workspace, run), clips)
    loaded = load_ensemble(workspace, run)
    return loaded.combine([predict_corpus_clips(place, member, clips) for member in loaded.members])
