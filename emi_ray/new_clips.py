"""Clips that a model has never seen: how they are read, and where what is made of them is kept.

What was extracted for one run and one set of ``sources`` lies in one folder, ``predictions/RUN/DIGEST`` of the
workspace. The sources alone name it, not what they hold: when a file is overwritten or a table is corrected, the same
command finds the folder again, and makes anew only what belongs to other content.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.corpus.files import absolute
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.manifest import Corpus, validate_corpus
from emi_ray.corpus.table import read_clips
from emi_ray.errors import UserError
from emi_ray.schema import Modality
from emi_ray.settings import validate
from emi_ray.workspace import Workspace, suffix_of

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
RECORD = "prediction.json"


@dataclass(frozen=True)
class Round:
    """One extraction of those that a prediction needs: one extractor of each modality."""

    config: WorkspaceConfig
    modalities: tuple[Modality, ...]


@dataclass(frozen=True)
class Written:
    """Where predictions were written to: an absolute path or a URI, and the options of ``emi-ray predict``."""

    to: str
    form: str = "table"
    id_width: int | None = None


@dataclass(frozen=True)
class Record:
    """``prediction.json``: what a prediction was made by and of.

    Attributes:
        run_keys: of the model, or of the members of an ensemble in their order.
        sources: absolute paths and URIs, as :func:`read_sources` takes them.
        finished: whether it came to its end.
        written: the last place that the predictions were written to.
    """

    run_keys: tuple[str, ...]
    sources: tuple[str, ...]
    rounds: tuple[Round, ...]
    finished: bool = False
    written: Written | None = None

    def write(self, place: Workspace) -> None:
        rounds = [
            {"config": each.config.model_dump(mode="json"), "modalities": list(each.modalities)}
            for each in self.rounds
        ]
        values = {
            "run_keys": list(self.run_keys),
            "sources": list(self.sources),
            "rounds": rounds,
            "finished": self.finished,
            "written": self.written and asdict(self.written),
        }
        place.write_json(RECORD, values)


def read_record(place: Workspace) -> Record:
    """What :meth:`Record.write` wrote.

    Raises:
        UserError: another version wrote it.
    """
    values = place.read_json(RECORD)
    where = place.path(RECORD)
    if "rounds" not in values:
        raise UserError(f"{where} was written by another version: predict these clips again.")
    rounds = [
        Round(validate(WorkspaceConfig, each["config"], where), tuple(each["modalities"]))
        for each in values["rounds"]
    ]
    written = values["written"] and Written(**values["written"])
    return Record(
        tuple(values["run_keys"]), tuple(values["sources"]), tuple(rounds), values["finished"], written
    )


def read_sources(workspace: Workspace, sources: Sequence[str]) -> Corpus:
    """The clips that media files, folders of media files, or one table name.

    Of a table the ids, media and transcripts alone are read; its splits, groups and labels may be whatever they are.

    Raises:
        UserError: a source is not there, is no media, or is a table that cannot be read.
    """
    if len(sources) == 1 and suffix_of(sources[0]) in TABLE_SUFFIXES:
        listing = read_clips(sources[0], workspace.config().corpus.encoding)
    else:
        listing = read_media(sources)
    return validate_corpus(listing, CorpusSettings())


def place_of(workspace: Workspace, run: str, sources: Sequence[str]) -> Workspace:
    """Where the features of these sources lie for this run."""
    named = "\n".join(map(absolute, sources))
    return workspace.inner(f"predictions/{run}/{hashlib.blake2b(named.encode(), digest_size=6).hexdigest()}")
