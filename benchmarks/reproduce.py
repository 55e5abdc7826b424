"""Run `emi-ray reproduce` on a rendered corpus with random weights, kill it midway and start it again.

    python benchmarks/reproduce.py --clips 72 --seeds 2 --to DIR training.epochs=3

Checks that what was finished before the kill is not trained again, that every row of every table has a score of every
seed, and, where there is pdflatex, that the LaTeX compiles. Weights are those of `every_recipe.py`: the figures show
that the tables are filled, not how good the systems are.
"""

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from every_recipe import prepare

from emi_ray.reproduction import FOLDER, TITLES, recipes_of

TABLES = "3,4,5,ablation,rivals"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=72)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tables", default=TABLES)
    parser.add_argument("--kill-at", type=float, default=0.3, help="share of the runs that are finished then")
    parser.add_argument(
        "--to", type=Path, required=True, help="folder for the workspace; what is there is used"
    )
    parser.add_argument("settings", nargs="*", help="of all recipes, as training.epochs=3")
    options = parser.parse_args()
    root = options.to / "workspace"
    stand_ins = prepare(str(root), options.to / "checkpoints", options.clips)
    command = [sys.executable, "-m", "emi_ray", "reproduce", "-w", str(root), "--tables", options.tables]
    command += ["--seeds", str(options.seeds), f"encoders.text.backbone={stand_ins['gte-base'][1]}"]
    command += options.settings
    names = list(dict.fromkeys(name for table in options.tables.split(",") for name in recipes_of(table)))
    total = len(names) * options.seeds

    started = time.monotonic()
    driver = subprocess.Popen(command, start_new_session=True)
    while len(written(root)) < options.kill_at * total and driver.poll() is None:
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    print(f"\nkilled after {time.monotonic() - started:.0f} s: exit {driver.wait()}", flush=True)
    time.sleep(5)
    before = written(root)
    subprocess.run(command, check=True)
    repeated = [name for name, at in before.items() if written(root)[name] != at]
    print(
        f"finished before the kill: {len(before)} runs and encoders of {total} runs; trained twice: {repeated}"
    )

    rows = list(csv.DictReader((root / FOLDER / "tables.csv").open()))
    titles = [TITLES[table] for table in options.tables.split(",")]
    main_rows = [row for row in rows if row["table"] in titles]
    empty = [row["system"] for row in main_rows if row["seeds"] != str(options.seeds)]
    print(
        f"rows filled: {len(main_rows) - len(empty)} of {sum(len(recipes_of(t)) for t in options.tables.split(','))}"
    )
    print(f"rows not filled: {empty}")
    if shutil.which("pdflatex"):
        compile_latex(root / FOLDER)


def written(root: Path) -> dict[str, int]:
    """Return when each finished run and each encoder of stage 1 was written."""
    found = [*root.glob("runs/*/*/metrics.json"), *root.glob("encoders/**/*.safetensors")]
    return {str(path.relative_to(root)): os.stat(path).st_mtime_ns for path in found}


def compile_latex(folder: Path) -> None:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    print(f"pdflatex: exit {done.returncode}", *done.stdout.splitlines()[-3:], sep="\n  ")


if __name__ == "__main__":
    main()
