"""The settings of a workspace: validated once, then immutable; unknown keys are refused.

Settings that change *features* are in ``media`` and ``extractors``, and are part of fingerprints. ``extraction``
has settings of resources, which never change a feature.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from emi_ray.schema import Modality, Need
from emi_ray.settings import Settings

CorpusKind = Literal["vidmimic2", "table", "demo"]


class CorpusSettings(Settings):
    """The source of the clips; written by ``emi-ray init``."""

    kind: CorpusKind | Literal["features"] | None = None
    source: str | None = None
    labels: tuple[str, ...] | None = Field(
        None, description="columns that are labels; null: every other numeric column"
    )
    group: str | None = Field(
        "group", description="column with the person in a clip, so that splits keep people together"
    )
    encoding: str | None = Field(
        None, description="encoding of tables and transcripts that are not Unicode, for example cp1252"
    )
    label_ranges: dict[str, tuple[float, float]] = Field(
        default_factory=dict, description="label: [low, high]; by default the range in the training split"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        """Check that Python knows the encoding, and that it is a text encoding."""
        try:
            if name is not None:
                # Raises LookupError also for codecs that are not of text, such as base64.
                "a".encode(name)
        except LookupError:
            raise ValueError(
                "no such encoding: give one of Python's, for example cp1252, cp1251, shift_jis"
            ) from None
        return name


class FaceSettings(Settings):
    """How faces are detected, tracked and cropped."""

    detector: Literal["auto", "haar", "yunet"] = Field(
        "auto", description="auto: yunet if its weights are available, else haar; resolved when a run starts"
    )
    yunet_model: str | None = Field(
        None,
        description="Hugging Face id, or path of face_detection_yunet_*.onnx; null: opencv/face_detection_yunet",
    )
    yunet_revision: str | None = Field(None, description="commit, tag or branch; pinned to a commit when run")
    upright: bool = Field(False, description="rotate crops so that the eyes are level; needs yunet")
    detection_rate_hz: float = Field(
        1.0, gt=0, description="detections per second; in between a face is followed by its appearance"
    )
    margin: float = Field(0.25, ge=0, le=1, description="margin on each side, as a share of the face box")
    size_px: int = Field(224, ge=16, le=1024, description="side of the square crop")
    detection_side_px: int = Field(320, ge=64, description="longer side of frames for detection")

    def deciding(self) -> dict[str, Any]:
        """Return the settings that change a crop: without those of YuNet for Haar, and without the path of weights
        known by hash.
        """
        deciding = self.model_dump(mode="json")
        # Haar uses no weights, so naming some must not change its fingerprint.
        if self.detector == "haar":
            return {key: value for key, value in deciding.items() if not key.startswith("yunet_")}
        # The hash identifies the weights; their path may differ between nodes.
        if (self.yunet_revision or "").startswith("content:"):
            deciding["yunet_model"] = None
        return deciding

    def fits(self, made: Mapping[str, Any]) -> bool:
        """Return whether these settings could have made features with the deciding settings ``made``."""
        open_to_choice = {"yunet_model", "yunet_revision"} | (
            {"detector"} if self.detector == "auto" else set()
        )
        return all(
            made.get(key) == value for key, value in self.deciding().items() if key not in open_to_choice
        )

    def as_made(self, made: Mapping[str, Any]) -> "FaceSettings":
        """Return these settings with the detector and the weights of ``made``, deciding settings of features."""
        chosen = {key: made.get(key) or getattr(self, key) for key in ("detector", "yunet_model")}
        return self.model_copy(update={**chosen, "yunet_revision": made.get("yunet_revision")})


TrackerName = Literal["wandb", "mlflow", "tensorboard"]
"""Experiment trackers; see ``TRACKERS`` in ``tracking/``."""

DecoderName = Literal["ffmpeg"]
"""Programs that decode media; see ``DECODERS`` in ``media/decode.py``."""


class MediaSettings(Settings):
    """How media are decoded to frames, faces and a waveform."""

    decoder: DecoderName = Field("ffmpeg", description="decoder of the media")
    frame_rate_hz: float = Field(6.0, gt=0, description="sampled frames per second, by timestamp")
    max_frames: int = Field(
        400, ge=1, description="maximum number of sampled frames per clip; later ones are not decoded"
    )
    frame_side_px: int = Field(
        256, ge=16, description="shorter side of whole frames, for extractors that need them"
    )
    sample_rate_hz: Literal[16000] = 16000
    max_audio_s: float = Field(300.0, gt=0, description="maximum length of audio per clip in seconds")
    faces: FaceSettings = FaceSettings()

    def deciding(self, needs: Iterable[Need]) -> dict[str, Any]:
        """Return the settings that change the inputs of an extractor with these ``needs``, for its fingerprint."""
        needs = set(needs)
        keys: set[str] = set()
        if needs & {"frames", "faces"}:
            keys |= {"frame_rate_hz", "max_frames"}
        if "frames" in needs:
            keys |= {"frame_side_px"}
        if "faces" in needs:
            keys |= {"faces"}
        if "waveform" in needs:
            keys |= {"sample_rate_hz", "max_audio_s"}
        # Extractors that read only transcripts or tables do not depend on the decoder.
        if keys:
            keys |= {"decoder"}
        deciding = self.model_dump(include=keys, mode="json")
        if "faces" in keys:
            deciding["faces"] = self.faces.deciding()
        return deciding


class ExtractorSettings(Settings):
    """The extractor of a modality; ``settings`` are the extractor's own (see ``emi-ray extractors``)."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)


def built_in_extractors() -> dict[Modality, ExtractorSettings]:
    """Return the default extractors, which need no download."""
    return {
        "text": ExtractorSettings(name="hashed-ngrams"),
        "audio": ExtractorSettings(name="prosody"),
        "vision": ExtractorSettings(name="appearance"),
        "motion": ExtractorSettings(name="flow"),
    }


class StageSettings(Settings):
    """Resources of one pool of actors; null: chosen for the machine.

    Models on GPUs share processes: the smallest of their ``max_actors`` applies to all of them, and the largest of
    their ``num_gpus``, ``num_cpus`` and ``threads``. Stages on the CPU without a model share processes too; one for
    which any of these numbers is set has its own.
    """

    batch_size: int | None = Field(None, ge=1)
    max_actors: int | None = Field(None, ge=1)
    num_cpus: float | None = Field(None, gt=0)
    num_gpus: float | None = Field(None, ge=0, le=1, description="GPUs per process; 0: the stage uses no GPU")
    threads: int | None = Field(None, ge=1)


class ExtractionSettings(Settings):
    """How the pipeline runs. These settings never change a feature."""

    time_limit_s: float = Field(
        120.0, gt=0, description="seconds for reading, decoding and face tracking of one clip"
    )
    batch_limit_s: float = Field(
        300.0,
        gt=0,
        description="seconds for one batch of one extractor, not counting the loading of its model",
    )
    memory_limit_gb: float | None = Field(
        None,
        gt=0,
        description="memory limit in GiB of one batch of one extractor; null: half of the machine's memory",
    )
    wait_for_nodes_s: float = Field(
        600.0,
        ge=0,
        description="seconds to wait for a node when all nodes of a cluster are lost during a run",
    )
    decode_memory_gb: float = Field(
        1.75, ge=0.5, description="memory limit in GiB of each decoding process; a clip that needs more fails"
    )
    measure: bool = Field(
        True, description="measure each stage on a few clips before a long run, to size pools"
    )
    rows_per_block: int = Field(16, ge=1, description="clips per block")
    stages: dict[str, StageSettings] = Field(
        default_factory=dict,
        description="resources by stage: decode, vision, motion, audio, transcript, text",
    )


class WorkspaceConfig(Settings):
    """``emi_ray.yaml``.

    The sections ``training``, ``encoders``, ``fusion`` and ``objective`` override those of all recipes.
    """

    corpus: CorpusSettings = CorpusSettings()
    media: MediaSettings = MediaSettings()
    extractors: dict[Modality, ExtractorSettings] = Field(
        default_factory=built_in_extractors, description="extractor by modality; null leaves a modality out"
    )
    transcriber: ExtractorSettings | None = Field(
        None, description="speech recogniser for clips without a transcript: {name: whisper}"
    )
    extraction: ExtractionSettings = ExtractionSettings()
    tracking: tuple[TrackerName, ...] = Field(
        (),
        description="where train and tune send settings, losses and scores: any of wandb, mlflow, tensorboard",
    )
    training: dict[str, Any] = Field(default_factory=dict)
    encoders: dict[str, dict[str, Any]] = Field(default_factory=dict)
    fusion: dict[str, Any] = Field(default_factory=dict)
    objective: dict[str, Any] = Field(default_factory=dict)

    @property
    def recipe_defaults(self) -> dict[str, Any]:
        """The settings that override all recipes, by section."""
        return {name: getattr(self, name) for name in ("training", "encoders", "fusion", "objective")}

    @field_validator("extractors", mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        """Add the built-in extractor of modalities that are not mentioned."""
        if not isinstance(given, Mapping):
            return given
        return {
            name: value for name, value in {**built_in_extractors(), **given}.items() if value is not None
        }
