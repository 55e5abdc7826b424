"""Inputs of `extraction.py`: workspaces of clips, models of base size, face crops and large pictures."""

from collections.abc import Sequence
from pathlib import Path

import av
import cv2
import pyarrow as pa
import torch
import transformers

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.manifest import validate_corpus
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource
from emi_ray.schema import Modality
from emi_ray.settings import validate
from emi_ray.workspace import CLIPS, Workspace

TRANSCRIPT = "so I was walking home and then I saw what she had done and it made me really happy"


def save_models(folder: Path) -> dict[Modality, list[str]]:
    """Save base-size checkpoints with random weights; return the settings that make extractors use them."""
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(image_size=518)).save_pretrained(folder / "dinov2")
    transformers.BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    ).save_pretrained(folder / "dinov2")
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).save_pretrained(folder / "wav2vec2")
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder / "wav2vec2")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(TRANSCRIPT.lower().split()))]
    tokenizer = transformers.BertTokenizer(
        vocab={word: i for i, word in enumerate(words)}, model_max_length=512
    )
    transformers.BertModel(transformers.BertConfig()).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    names = {
        "vision": ("dinov2-face", "dinov2"),
        "audio": ("wav2vec2", "wav2vec2"),
        "text": ("gte-base", "bert"),
    }
    return {
        modality: [
            f"extractors.{modality}.name={name}",
            f"extractors.{modality}.settings.weights={folder / weights}",
        ]
        for modality, (name, weights) in names.items()
    }


def save_crops(media: Sequence[str], folder: Path, config: WorkspaceConfig) -> list[str]:
    """Save the tracked faces of each clip as JPEG files, one folder per clip, as Hume-Vidmimic2 provides them."""
    folders = []
    for path in media:
        folders.append(str(folder / Path(path).stem))
        Path(folders[-1]).mkdir(parents=True)
        clip = decode_clip(ClipSource("", path), config.media, frozenset({"faces"}))
        for index, crop in enumerate(clip.faces.crops if clip.faces else []):
            cv2.imwrite(f"{folders[-1]}/{index:05d}.jpg", crop[..., ::-1])
    return folders


def new_workspace(
    folder: Path, media: Sequence[str], settings: Sequence[str], repeats: int = 1, crops: Sequence[str] = ()
) -> tuple[Workspace, WorkspaceConfig]:
    """A workspace over some clips, each with a transcript and taken ``repeats`` times.

    Args:
        crops: folders of ready face crops; with them the clips have no video.
    """
    workspace = Workspace(str(folder))
    clips = pa.concat_tables([validate_corpus(read_media(media), CorpusSettings()).clips] * repeats)
    ids = pa.array([f"{index:06d}" for index in range(clips.num_rows)])
    clips = clips.set_column(0, clips.schema.field(0), ids)
    column = clips.schema.get_field_index("transcript")
    texts = [f"{TRANSCRIPT} {'and then ' * (index % 7)}" for index in range(clips.num_rows)]
    clips = clips.set_column(column, clips.schema.field(column), [texts])
    if crops:
        for name, values in (("faces_dir", [*crops] * repeats), ("video", [None] * len(ids))):
            place = clips.schema.get_field_index(name)
            clips = clips.set_column(place, clips.schema.field(place), [pa.array(values, pa.string())])
    workspace.write_table(CLIPS, clips)
    config = validate(WorkspaceConfig, {}, "benchmark", settings)
    workspace.write_config(config)
    return workspace, config


def spread(items: Sequence[str], num: int) -> list[str]:
    """Return ``num`` evenly spaced items, because files are often sorted by a property of the clips."""
    return [items[index * len(items) // num] for index in range(min(num, len(items)))]


def enlarge(source: str, target: Path) -> str:
    """Scale a clip's pictures to 1080p and keep its audio."""
    with av.open(source) as original, av.open(str(target), "w") as film:
        pictures = original.streams.video[0]
        video = film.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 1920, 1080, "yuv420p"
        sound = film.add_stream_from_template(original.streams.audio[0])
        for packet in original.demux():
            if packet.dts is None:
                continue
            if packet.stream is pictures:
                for frame in packet.decode():
                    film.mux(video.encode(frame.reformat(1920, 1080, "yuv420p")))
            elif packet.stream.type == "audio":
                packet.stream = sound
                film.mux(packet)
        film.mux(video.encode())
    return str(target)
