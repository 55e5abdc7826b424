"""Small corpora as tables that hunted tests write."""

from pathlib import Path

from emi_ray.config import CorpusSettings
from emi_ray.corpus.manifest import Corpus, read_corpus


def read_text_table(folder: Path, text: str | bytes, **settings: object) -> Corpus:
    """Write a CSV file with ``a.mp4`` and ``b.mp4`` beside it, and read it as a corpus."""
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_bytes(name.encode())
    path = folder / "clips.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_corpus("table", str(path), CorpusSettings.model_validate(settings))


def messages(corpus: Corpus) -> str:
    """All that was remarked, a line each."""
    return "\n".join(map(str, corpus.findings))
