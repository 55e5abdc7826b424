"""The authors' public training script as a process of its own, on pickles of the same features.

The script is MimicMetrics' src/staged_fusion_training.py (github.com/Dinithipurna/MimicMetrics), unchanged.
It skips a stage whose checkpoint lies in its folder of results.
"""

import csv
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emi_ray.schema import EMOTIONS, Modality
from emi_ray.training.clip_data import ClipData
from emi_ray.training.rows import Rows

FOLDERS: dict[Modality, str] = {"text": "text", "audio": "audio", "vision": "face"}


@dataclass(frozen=True)
class AuthorsScript:
    """The script, and the folder of its inputs and results."""

    script: Path
    folder: Path

    def write_inputs(self, data: ClipData, rows: Rows) -> None:
        """One pickle a clip and modality, and one CSV a split."""
        for modality, name in FOLDERS.items():
            place, packed = self.folder / name, data.features[modality]
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

    def run(
        self, data: ClipData, epochs: Mapping[str, int], flags: Mapping[str, object]
    ) -> tuple[float, float]:
        """Seconds and best val Pearson of one run.

        Args:
            epochs: by stage: ``text``, ``audio``, ``vision``, ``fusion``.
            flags: further options of the script.
        """
        options: dict[str, object] = {f"{name}_dir": self.folder / name for name in FOLDERS.values()}
        options |= {"train_csv": self.folder / "train.csv", "valid_csv": self.folder / "valid.csv"}
        options |= {f"{stage}_epochs": number for stage, number in epochs.items()}
        options |= {f"{FOLDERS[m]}_input_dim": data.features[m].feature_dim for m in FOLDERS}
        options |= {
            "save_dir": self.folder / "saved",
            "log_dir": self.folder / "logs",
            "device": "cpu",
            **flags,
        }
        command = [sys.executable, str(self.script)]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{self.script} failed:\n{done.stderr[-2000:]}")
        seconds = time.perf_counter() - started
        told = json.loads((self.folder / "saved/fusion_no_motion_best_metadata.json").read_text())
        return seconds, told["best_val_pearson_avg"]
