"""The authors' public training script as a process of its own, on pickles of the same features.

The script is MimicMetrics' src/staged_fusion_training.py (github.com/Dinithipurna/MimicMetrics), unchanged.
It skips a stage whose checkpoint is already in its folder of results.
"""

import csv
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emi_ray.schema import EMOTIONS, Modality
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import Rows

FOLDERS: dict[Modality, str] = {"text": "text", "audio": "audio", "vision": "face", "motion": "motion_seq"}

_STAMP = r"^(\d\S+ \S+) - "
_BEGUN = re.compile(_STAMP + r"(?:--- Stage: (\w+) |Total trainable parameters)")
_EPOCH = re.compile(_STAMP + r"\[(\w+)\] Epoch (\d+)/\d+ .*Val Pearson(?:\(avg\))?: (-?[\d.]+|nan)")


class Epoch(NamedTuple):
    stage: str
    seconds: float
    val_pearson: float


@dataclass(frozen=True)
class AuthorsScript:
    """The script, the folder of its inputs and results, and the modalities that it reads."""

    script: Path
    folder: Path
    modalities: Sequence[Modality] = ("text", "audio", "vision")

    def write_inputs(self, data: ClipData, rows: Rows) -> None:
        """Write one pickle per clip and modality, and one CSV file per split."""
        for modality in self.modalities:
            place, packed = self.folder / FOLDERS[modality], data.features[modality]
            place.mkdir(parents=True)
            for row in np.concatenate([rows.train, rows.val]):
                if packed.present[row]:
                    with (place / f"{data.clip_ids[row]}.pkl").open("wb") as stream:
                        pickle.dump(packed.of(row).astype(np.float32), stream, protocol=5)
        for name, chosen in (("train", rows.train), ("valid", rows.val)):
            with (self.folder / f"{name}.csv").open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["Filename", *EMOTIONS])
                writer.writerows([data.clip_ids[row], *data.targets[row]] for row in chosen)

    def run(self, data: ClipData, epochs: Mapping[str, int], flags: Mapping[str, object]) -> list[Epoch]:
        """Its epochs, timed by the stamps of its log.

        Args:
            epochs: by stage: a modality, or ``fusion``.
            flags: further options of the script.
        """
        folders = [FOLDERS[modality] for modality in self.modalities]
        options: dict[str, object] = {f"{name}_dir": self.folder / name for name in folders}
        options |= {"train_csv": self.folder / "train.csv", "valid_csv": self.folder / "valid.csv"}
        options |= {f"{stage}_epochs": number for stage, number in epochs.items()}
        widths = {m: data.features[m].feature_dim for m in self.modalities if m != "motion"}
        options |= {f"{FOLDERS[m]}_input_dim": width for m, width in widths.items()}
        options |= {"save_dir": self.folder / "saved", "log_dir": self.folder / "logs", "device": "cpu"}
        command = [sys.executable, str(self.script)]
        if "motion" in self.modalities:
            command += ["--use_motion_seq"]
        for name, value in {**options, **flags}.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.script} failed:\n{done.stderr[-2000:]}")
        return list(_epochs(done.stdout))


def _epochs(log: str) -> Iterator[Epoch]:
    last = None
    for line in log.splitlines():
        if begun := _BEGUN.match(line):
            last = _moment(begun[1])
        elif (ended := _EPOCH.match(line)) and last is not None:
            now = _moment(ended[1])
            yield Epoch(ended[2], (now - last).total_seconds(), float(ended[4]))
            last = now


def _moment(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f")
