"""The weights of YuNet: a Hugging Face id, pinned to a commit, or a local file, identified by its content."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from emi_ray.config import FaceSettings, MediaSettings
from emi_ray.errors import UserError
from emi_ray.pretrained_weights.checkpoint import CONTENT, HUB_TIMEOUT_S, first_sentence, hub_answers

HUB_ID = "opencv/face_detection_yunet"
FILE = "face_detection_yunet_2023mar.onnx"


def settle_faces(settings: FaceSettings) -> FaceSettings:
    """Return ``settings`` with a definite detector and exact weights.

    ``auto`` means YuNet if its weights are a local file or in the Hugging Face cache, otherwise Haar. The hub is
    accessed only for ``detector: yunet``.

    Raises:
        UserError: YuNet is chosen and its weights are not available, or upright crops are chosen without YuNet.
    """
    detector = settings.detector
    if detector == "auto":
        detector = "yunet" if _local(settings) or _cached(settings) else "haar"
    if detector == "haar":
        if settings.upright:
            raise UserError(
                "media.faces.upright = true needs the landmarks of YuNet, whose weights are not available. Set "
                "media.faces.detector=yunet, or media.faces.yunet_model to its file."
            )
        return settings.model_copy(update={"detector": "haar"})
    path = locate(settings)
    exact = {"yunet_model": str(path), "yunet_revision": CONTENT + _digest(path)}
    if not _local(settings):
        exact = {"yunet_model": settings.yunet_model or HUB_ID, "yunet_revision": path.parent.name}
    return settings.model_copy(update={"detector": "yunet", **exact})


def settle_media(settings: MediaSettings) -> MediaSettings:
    """Return ``settings`` with a definite face detector.

    Raises:
        UserError: as :func:`settle_faces`.
    """
    return settings.model_copy(update={"faces": settle_faces(settings.faces)})


def locate(settings: FaceSettings) -> Path:
    """Return the local file of the weights, downloaded if necessary.

    Raises:
        UserError: the weights are not available, or have changed since they were pinned.
    """
    local = _local(settings)
    if local is None:
        return _cached(settings) or _download(settings)
    if not local.is_file():
        _refuse(settings, f"the file {local} does not exist.")
    revision = settings.yunet_revision
    if revision and revision != CONTENT + _digest(local):
        _refuse(settings, f"the content of {local} does not match yunet_revision = '{revision}'.")
    return local


def _local(settings: FaceSettings) -> Path | None:
    """Return the path that the settings name; None if they name an id of the hub."""
    model = settings.yunet_model
    return Path(model).expanduser().resolve() if model and model.endswith(".onnx") else None


def _cached(settings: FaceSettings) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name = settings.yunet_model or HUB_ID
    try:
        found = try_to_load_from_cache(name, FILE, revision=settings.yunet_revision)
    except HFValidationError:
        _refuse(settings, "this is neither an id of the hub nor a file that ends in .onnx.")
    return Path(found) if isinstance(found, str) else None


def _download(settings: FaceSettings) -> Path:
    from huggingface_hub import hf_hub_download

    if not hub_answers():
        _refuse(settings, "they are not in the Hugging Face cache, and the hub does not answer.")
    name = settings.yunet_model or HUB_ID
    try:
        return Path(hf_hub_download(name, FILE, revision=settings.yunet_revision, etag_timeout=HUB_TIMEOUT_S))
    except (OSError, ValueError) as error:
        _refuse(settings, first_sentence(error))


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _digest_of(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()[:16]


def _refuse(settings: FaceSettings, problem: str) -> NoReturn:
    raise UserError(
        f"media.faces.detector = 'yunet': its weights, media.faces.yunet_model = "
        f"'{settings.yunet_model or HUB_ID}', are not available: {problem} Give the path of {FILE}, or run `hf "
        f"download {HUB_ID}` where there is a network and copy its cache (HF_HOME) here, or set "
        f"media.faces.detector=haar."
    )
