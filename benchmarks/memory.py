"""Peak memory of an extraction over few clips, over ten times as many, and with very large clips among them.

    python benchmarks/memory.py --clips CORPUS/media --num 200 --giants

Memory is the proportional set size of all processes of the command (what they share, the object store included, is
counted once), read every quarter of a second from /proc.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import av
import numpy as np
import psutil

FACTOR = 10


def write_table(path: Path, media: list[Path], num: int, extra: list[Path]) -> None:
    """Write a table of ``num`` clips that use ``media`` in turn, with ``extra`` evenly spread among them."""
    chosen = [media[index % len(media)] for index in range(num)]
    for position, clip in enumerate(extra):
        chosen.insert((position + 1) * num // (len(extra) + 1), clip)
    with path.open("w") as stream:
        writer = csv.writer(stream)
        writer.writerow(["clip_id", "split", "video", "transcript"])
        writer.writerows([f"{i:06d}", "test", str(clip), "a few words"] for i, clip in enumerate(chosen))


def render_giant(target: Path, pattern: Path, num_frames: int, seconds: float) -> Path:
    """Render ``num_frames`` pictures, those of ``pattern`` in turn, over ``seconds`` of audio."""
    with av.open(str(pattern)) as source:
        pictures = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    with av.open(str(target), "w") as film:
        video = film.add_stream(
            "libx264", rate=max(1, round(num_frames / seconds)), options={"preset": "ultrafast"}
        )
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = "yuv420p"
        sound = film.add_stream("aac", rate=16000, layout="mono")
        for index in range(num_frames):
            film.mux(
                video.encode(av.VideoFrame.from_ndarray(pictures[index % len(pictures)], format="rgb24"))
            )
        film.mux(video.encode())
        noise = np.random.default_rng(0).normal(0, 0.05, (1, 16000)).astype(np.float32)
        for second in range(int(seconds)):
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, second * 16000
            film.mux(sound.encode(frame))
        film.mux(sound.encode())
    return target


def peak_bytes(command: list[str]) -> int:
    """Run a command; return the peak of the sum of its processes' proportional set sizes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    over, peak = threading.Event(), 0
    threading.Thread(target=lambda: (process.wait(), over.set()), daemon=True).start()
    while not over.wait(0.25):
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        peak = max(peak, sum(map(pss, family)))
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return peak


def pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def measure(name: str, table: Path, folder: Path) -> int:
    emi_ray = [sys.executable, "-m", "emi_ray"]
    workspace = str(folder / name)
    subprocess.run(
        [*emi_ray, "init", "-w", workspace, "--corpus", "table", "--source", str(table)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    peak = peak_bytes([*emi_ray, "extract", "-w", workspace])
    print(f"{name}: {peak / 1e9:.2f} GB", flush=True)
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=Path, required=True, help="folder of clips")
    parser.add_argument("--num", type=int, default=200, help="clips of the smaller run")
    parser.add_argument("--giants", action="store_true", help="a third run with two giant clips")
    options = parser.parse_args()
    media = sorted(path.resolve() for path in options.clips.iterdir())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count, label in ((options.num, "few"), (options.num * FACTOR, "many")):
            write_table(folder / f"{label}.csv", media, count, [])
        few, many = (measure(label, folder / f"{label}.csv", folder) for label in ("few", "many"))
        print(f"{options.num * FACTOR} clips against {options.num}: {many / few - 1:+.1%}")
        if options.giants:
            giants = [
                render_giant(folder / "long.mp4", media[0], 12_500, 12_500 / 12),
                render_giant(folder / "twenty_minutes.mp4", media[0], 1_200, 1_200),
            ]
            write_table(folder / "giants.csv", media, options.num, giants)
            measure("giants", folder / "giants.csv", folder)


if __name__ == "__main__":
    main()
