"""Raw clips that a model has never seen → predictions."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import write_csv

from emi_ray.config import ExtractionSettings, ExtractorSettings, MediaSettings, WorkspaceConfig
from emi_ray.corpus.files import absolute
from emi_ray.corpus.listing import Finding
from emi_ray.corpus.vidmimic2 import spelled_test_ids
from emi_ray.ensembles import describe_models, is_ensemble, load_ensemble
from emi_ray.errors import UserError
from emi_ray.evaluation import as_intensities, predict_corpus_clips, write_submission
from emi_ray.extraction import extract
from emi_ray.extraction.pending import what_changed
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extractors import find_extractor
from emi_ray.new_clips import Record, Round, Written, place_of, read_record, read_sources
from emi_ray.output import write_output
from emi_ray.schema import EncoderName, Label, Modality, Split
from emi_ray.training.checkpoint import LoadedModel, find_run, load_model
from emi_ray.workspace import CLIPS, Workspace


@dataclass(frozen=True)
class NewClips:
    """Clips that a model has never seen, checked, and the trained run that is to predict them.

    ``models`` are the run's own, or those of an ensemble's members. ``warnings`` say what is
    wrong with the clips, such as files that are not there.
    """

    run: str
    models: tuple[LoadedModel, ...]
    clips: pa.Table
    warnings: tuple[Finding, ...]
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """One row a clip.

    Attributes:
        table: ``clip_id``, one column a label as the model computed it, and ``modalities``, those that the clip has.
        labels: the columns, with the range of each.
        streams: what the model reads.
        place: where the features of clips that the model has never seen are kept; None for the workspace's own clips.
    """

    workspace: Workspace
    table: pa.Table
    labels: tuple[Label, ...]
    streams: tuple[EncoderName, ...]
    place: Workspace | None = None

    @property
    def intensities(self) -> pa.Table:
        """The table clipped to the ranges of the labels, with nulls for clips that have nothing the model reads."""
        return as_intensities(self.table, self.labels)

    @property
    def unknown(self) -> Sequence[str]:
        """Ids of the clips that have nothing the model reads."""
        rows = zip(self.table["clip_id"].to_pylist(), self.table["modalities"].to_pylist(), strict=True)
        return [clip_id for clip_id, modalities in rows if not modalities]

    def to_pandas(self) -> pd.DataFrame:
        """:attr:`intensities` as a data frame."""
        return self.intensities.to_pandas()

    def write_csv(self, to: str) -> None:
        """Write :attr:`intensities` to a path or URI."""
        sheet = BytesIO()
        write_csv(self.intensities, sheet)
        write_output(to, sheet.getvalue())
        self._remember(Written(absolute(to)))

    def write_submission(self, to: str, id_width: int | None = None) -> None:
        """Write a submission to the challenge: ``Filename`` and one column a label.

        Args:
            id_width: pad ids with zeros to so many digits; by default they are spelt as in the test list.
        """
        table = self.table if id_width is not None else as_test_list_spells(self.workspace, self.table)
        write_submission(table, to, self.labels, id_width)
        self._remember(Written(absolute(to), "submission", id_width))

    def _remember(self, written: Written) -> None:
        """Note where the predictions were written to, for the command that brings them up to date."""
        if self.place is not None:
            replace(read_record(self.place), written=written).write(self.place)


def read_new_clips(workspace: Workspace, run: str, sources: Sequence[str]) -> NewClips:
    """Check what is to be predicted and what by, before Ray starts.

    Args:
        run: ``recipe/seed``.
        sources: media files, folders of media files, or one table with transcripts beside the media. Of a table the
            ids, media and transcripts alone are read; its splits, groups and labels may be whatever they are.

    Raises:
        UserError: there is no such run, it reads features that were imported, or a source is not there or no media.
    """
    run = find_run(workspace, run).removeprefix("runs/")
    models = tuple(_models(workspace, run))
    for loaded in models:
        refuse_other_features(workspace, run, loaded)
    corpus = read_sources(workspace, sources)
    return NewClips(run, models, corpus.clips, corpus.warnings, tuple(sources))


def predict_new_clips(
    workspace: Workspace,
    new: NewClips,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """Extract the features that the run was trained on from new clips, and predict. Needs a Ray session.

    The features stay in ``predictions/`` of the workspace, so that the same command goes on where it stopped. It
    makes anew what belongs to files or transcripts that have changed since.

    Returns:
        As of :func:`emi_ray.evaluation.predict_from_stores`, one row a clip.
    """
    place = place_of(workspace, new.run, new.sources)
    place.write_table(CLIPS, new.clips)
    rounds = tuple(_extractions(new.models, workspace.config().extraction))
    record = Record(
        tuple(loaded.description.run_key for loaded in new.models), tuple(map(absolute, new.sources)), rounds
    )
    record.write(place)
    for each in rounds:
        place.write_config(each.config)
        extract(place, place.config(), each.modalities, on_progress=on_progress)
    predictions = _predict(workspace, new.run, place, new.clips)
    replace(record, finished=True).write(place)
    return predictions


def _extractions(models: Iterable[LoadedModel], settings: ExtractionSettings) -> Iterator[Round]:
    """The extractions that serve all models, each once."""
    done: list[Round] = []
    for loaded in models:
        for streams in _rounds(loaded):
            modalities = tuple(loaded.description.recipe.modality_of(stream) for stream in streams)
            found = Round(config_of(loaded, settings, streams), modalities)
            if found not in done:
                done.append(found)
                yield found


def predict_split(workspace: Workspace, run: str, split: Split) -> pa.Table:
    """Predict a split of the workspace's own corpus from its features.

    Raises:
        UserError: there is no such run, the split has no clip, or clips of it have other files or transcripts now
            than those that their features were made of.
    """
    clips = workspace.clips()
    find_run(workspace, run)
    chosen = clips.filter(pc.equal(clips["split"], split))
    if not chosen.num_rows:
        raise UserError(f"{workspace.root} has no clip in its {split} split: name clips with --clips.")
    for description in describe_models(workspace, run):
        for store in description.stores(workspace).values():
            if changed := what_changed(store, chosen):
                raise UserError(changed)
    return _predict(workspace, run, workspace, chosen)


def as_test_list_spells(workspace: Workspace, predictions: pa.Table) -> pa.Table:
    """Predictions with the ids as the challenge's own test list spells them, where it has one."""
    corpus = workspace.config().corpus
    spelled = spelled_test_ids(corpus.source) if corpus.kind == "vidmimic2" and corpus.source else {}
    ids = [spelled.get(clip_id, clip_id) for clip_id in predictions["clip_id"].to_pylist()]
    return predictions.set_column(0, "clip_id", pa.array(ids, pa.string()))


def refuse_other_features(workspace: Workspace, run: str, loaded: LoadedModel) -> None:
    """Make sure that the features which the model reads can be made of new clips here.

    Raises:
        UserError: as :func:`config_of` and ``plan_pipeline``, or this version's extractor makes other features.
    """
    description = loaded.description
    for streams in _rounds(loaded):
        config = config_of(loaded, ExtractionSettings(), streams)
        modalities = {stream: description.recipe.modality_of(stream) for stream in streams}
        specs = plan_pipeline(workspace, config, modalities.values()).specs if streams else {}
        for stream, modality in modalities.items():
            if specs[modality].fingerprint != description.fingerprint(stream):
                raise UserError(
                    f"Run {run} was trained on {stream} features {description.fingerprint(stream)} of another "
                    f"version of '{description.extractors[stream]['extractor']}'; this version makes "
                    f"{specs[modality].fingerprint}. Extract and train it again: emi-ray status -w {workspace.quoted}"
                )


def _rounds(loaded: LoadedModel) -> list[list[EncoderName]]:
    """The model's encoders in as few extractions as serve them all: one reads one extractor of each modality."""
    rounds: list[dict[Modality, str]] = []
    chosen: list[list[EncoderName]] = []
    description = loaded.description
    for stream in description.extractors:
        modality, fingerprint = description.recipe.modality_of(stream), description.fingerprint(stream)
        place = next(
            (i for i, r in enumerate(rounds) if r.get(modality, fingerprint) == fingerprint), len(rounds)
        )
        if place == len(rounds):
            rounds.append({})
            chosen.append([])
        if modality not in rounds[place]:
            rounds[place][modality] = fingerprint
            chosen[place].append(stream)
    return chosen or [[]]


def config_of(
    loaded: LoadedModel, extraction: ExtractionSettings, streams: Sequence[EncoderName] | None = None
) -> WorkspaceConfig:
    """The configuration under which the model's extractors have the fingerprints that it was trained on.

    Args:
        streams: the encoders whose extractors it names, one of a modality; by default all.

    Raises:
        UserError: it was trained on features that were imported: nothing here can make more of them.
    """
    for modality, identity in loaded.description.extractors.items():
        if find_extractor(identity["extractor"]) is None:
            raise UserError(
                f"The model was trained on imported {modality} features ({identity['extractor']}), which cannot be "
                f"extracted from clips here. Import those of the new clips into the workspace, under the test "
                f"split, and leave --clips out."
            )
    identities = loaded.description.extractors
    modality_of = loaded.description.recipe.modality_of
    extractors: dict[Modality, ExtractorSettings] = {
        modality_of(stream): ExtractorSettings(
            name=identities[stream]["extractor"], settings=identities[stream]["settings"]
        )
        for stream in (identities if streams is None else streams)
    }
    transcriber = loaded.description.recogniser_of_features
    return WorkspaceConfig(
        media=_media_of(loaded),
        extractors=extractors,
        extraction=extraction,
        transcriber=transcriber
        and ExtractorSettings(name=transcriber["extractor"], settings=transcriber["settings"]),
    )


def _media_of(loaded: LoadedModel) -> MediaSettings:
    """The model's settings of media, with the face detector that its features were made with."""
    media = loaded.description.media
    for identity in loaded.description.extractors.values():
        if faces := identity.get("media", {}).get("faces"):
            return media.model_copy(update={"faces": media.faces.as_made(faces)})
    return media


def _models(workspace: Workspace, run: str) -> Sequence[LoadedModel]:
    """The model of a run; of an ensemble, those of its members."""
    if is_ensemble(workspace, run):
        return load_ensemble(workspace, run).members
    return [load_model(workspace, run)]


def _predict(workspace: Workspace, run: str, place: Workspace, clips: pa.Table) -> pa.Table:
    """Predict clips by a run of a workspace from the features that another place, or the same, holds."""
    if not is_ensemble(workspace, run):
        return predict_corpus_clips(place, load_model(workspace, run), clips)
    loaded = load_ensemble(workspace, run)
    return loaded.combine([predict_corpus_clips(place, member, clips) for member in loaded.members])
