"""What ``ray job submit --working-dir .`` sends."""

import random
import shutil
import subprocess
import zipfile
from pathlib import Path

from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).parents[2]


def test_the_upload_is_small_whatever_lies_about(tmp_path):
    """A copy of the tree with a repository, an environment and workspaces of any name beside it."""
    tree = tmp_path / "tree"
    kept = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in filter(lambda name: (ROOT / name).exists(), kept):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for bulky in (".git/objects/pack/x.pack", ".venv/lib/big.so", "demo/features/audio/x/part-1.parquet"):
        (tree / bulky).parent.mkdir(parents=True)
        (tree / bulky).write_bytes(random.randbytes(3 << 20))
    for name in (
        "features/vision/f/part.parquet",
        "runs/f2/42/model.safetensors",
        "studies/s/journal.log",
        "report/index.html",
        "clips/00001.mp4",
    ):
        (tree / "my own project" / name).parent.mkdir(parents=True)
        (tree / "my own project" / name).write_bytes(random.randbytes(3 << 20))
    (tree / "encoders").mkdir()
    (tree / "encoders/peak.py").write_text("class Peak: ...")  # an encoder of the user's own
    archive = tmp_path / "upload.zip"
    create_package(str(tree), archive, include_gitignore=True)
    assert archive.stat().st_size < 2 << 20
    held = set(zipfile.ZipFile(archive).namelist())
    package = {name for name in kept if name.startswith("emi_ray/") and name.endswith(".py")}
    assert package <= held
    assert {"jobs/extract.py", "search_spaces/fusion.yaml", "encoders/peak.py"} <= held
