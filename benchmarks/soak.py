"""Check that speed and memory stay constant in a long extraction of thousands of small clips, text and audio.

    python benchmarks/soak.py --clips 10000

Memory is the unique set size of the driver and of all of the command's processes together, read every second. The
slope is that of a straight line through the second half of the readings, a thousand clips. A clip is
done when its features of both modalities have appeared. The pace is that of tenths of the clips; processes are still
starting during the first. Further clips follow the measured ones, because decoding is thousands of clips ahead of the
models, and leaves them its core when it has ended.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from emi_ray.workspace import Workspace

FURTHER_CLIPS = 4_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=10_000)
    num = parser.parse_args().clips
    with tempfile.TemporaryDirectory(prefix="emi-ray-soak-") as name:
        folder = Path(name)
        table = _write_corpus(folder, num + FURTHER_CLIPS)
        emi_ray, place = [sys.executable, "-m", "emi_ray"], ["-w", str(folder / "w")]
        told = ["--corpus", "table", "--source", str(table)]
        subprocess.run([*emi_ray, "init", *place, *told], check=True, stdout=subprocess.DEVNULL)
        settings = ["extraction.measure=false", "--modalities", "text,audio"]
        driver = subprocess.Popen([*emi_ray, "extract", *place, *settings], stdout=subprocess.DEVNULL)
        readings = _watch(driver, Workspace(str(folder / "w")))
        print(f"exit code {driver.returncode}, {readings[-1][0] - readings[0][0]:.0f} s")
        _tell(readings, num)


def _write_corpus(folder: Path, num: int) -> Path:
    """Write audio files of a third of a second, each used for many clips, and one sentence per clip."""
    import av

    draw = np.random.default_rng(0)
    for index in range(20):
        with av.open(str(folder / f"{index}.wav"), "w") as file:
            stream = file.add_stream("pcm_s16le", rate=16000, layout="mono")
            noise = (draw.normal(0, 3000, (1, 5333))).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            frame.sample_rate = 16000
            file.mux(stream.encode(frame))
            file.mux(stream.encode())
    with (folder / "clips.csv").open("w") as stream:
        rows = csv.writer(stream)
        rows.writerow(["clip_id", "split", "audio", "transcript"])
        rows.writerows([f"{i:06}", "test", f"{i % 20}.wav", f"word {i} and word {i * 7}"] for i in range(num))
    return folder / "clips.csv"


Reading = tuple[float, int, int, int]
"""Time in s, clips done, bytes of the driver, bytes of all processes."""


def _watch(driver: "subprocess.Popen[bytes]", workspace: Workspace) -> list[Reading]:
    over = threading.Event()
    threading.Thread(target=lambda: (driver.wait(), over.set()), daemon=True).start()
    seen: set[Path] = set()
    done: dict[str, set[str]] = {"text": set(), "audio": set()}
    readings: list[Reading] = []
    while not over.wait(1.0):
        for modality, clips in done.items():
            for part in {*Path(workspace.root).glob(f"features/{modality}/*/part-*.parquet")} - seen:
                # A part that has been merged meanwhile is gone: its clips are in another part.
                with suppress(FileNotFoundError):
                    clips.update(
                        pq.read_table(part, columns=["clip_id"], partitioning=None)["clip_id"].to_pylist()
                    )
                seen.add(part)
        whole, own = 0, 0
        for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
            try:
                size = process.memory_full_info().uss
            except psutil.Error:
                continue
            whole += size
            own = size if process.pid == driver.pid else own
        finished = min(map(len, done.values()))
        readings.append((time.monotonic(), finished, own, whole))
    return readings


def _tell(readings: list[Reading], num: int) -> None:
    times, done, own, whole = (np.array(column, dtype=float) for column in zip(*readings, strict=True))
    flowing = (done > 0.02 * num) & (done < 0.99 * num)
    for name, column in (("driver", own), ("all processes", whole)):
        second_half = flowing & (done > num / 2)
        slope = np.polyfit(done[second_half], column[second_half], 1)[0] * 1000
        first, last = (column[flowing & part].mean() / 2**20 for part in (done < num / 5, done > 0.8 * num))
        print(
            f"{name}: {first:.0f} MiB in the first fifth, {last:.0f} in the last, {slope / 2**20:+.2f} a 1,000 clips"
        )

    def rate(low: float, high: float) -> float:
        began, ended = np.interp([low * num, high * num], done, times)
        return float((high - low) * num / (ended - began))

    tenths = [rate(tenth / 10 + 0.005, (tenth + 1) / 10 - 0.005) for tenth in range(10)]
    print("clips/s by tenths of the clips: " + ", ".join(f"{each:.0f}" for each in tenths))


if __name__ == "__main__":
    main()
