"""Check that a storage answers when a command first uses it, to fail with a message in time instead of waiting.

For S3 we set time limits. The libraries of other stores wait for minutes, or for ever if a server has accepted the
connection but does not answer.
"""

import functools
import os
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from emi_ray import storage
from emi_ray.storage import StorageError, ask_s3, without_credentials
from emi_ray.time_limit import within

_CONNECT_TIMEOUT_S = 5.0

_REMEDIES = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or gcloud auth application-default login; a public bucket is "
    "gs://anonymous@bucket",
    "abfs": "az login, or AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET",
    "hdfs": "HADOOP_CONF_DIR and kinit",
    "hf": "HF_ENDPOINT, hf auth login; or download the data set and give its folder",
}
"""By kind of storage: how to get access."""

_REASONS = (
    r"CURL error \[\d+\]=(.*?)(?: error_info|[}\n]|$)",
    r"HTTP/?\s*code=(\d+)",
    r"last message of (.*?)(?: error_info|[}\n]|$)",
    r"^(?:\[Errno -?\d+\] )?(.*?)(?:\n|$)",
)
"""Patterns that find the reason in a library's message, the most specific first."""


def require_in_reach(filesystem: fs.FileSystem, path: str, named: str, is_first: bool = True) -> None:
    """Check that a storage answers and grants access; once per process and bucket.

    Args:
        path: a file or folder in the spelling of ``filesystem``.
        named: its URI.
        is_first: False if another process of the command has had an answer.

    Raises:
        UserError: the bucket does not exist, or access is denied.
        StorageError: there is no answer within ``storage.ANSWER_WITHIN_S``, or no usable one.
    """
    if isinstance(filesystem, fs.S3FileSystem):
        ask_s3(path, named, is_first)
    elif not isinstance(filesystem, fs.LocalFileSystem):
        place = without_credentials(named)
        store = (os.getpid(), _server(place))
        if store not in _ANSWERED:
            _ask(filesystem, path, place)
            _ANSWERED.add(store)


_ANSWERED: set[tuple[int, str]] = set()
"""Process and server or bucket of each storage that has answered."""


def _server(uri: str) -> str:
    """Return scheme and authority; for the Hugging Face hub also the repository, because access is granted per
    repository.
    """
    parts = urlsplit(uri)
    repository = "/".join(parts.path.split("/")[:3]) if parts.scheme == "hf" else ""
    return f"{parts.scheme}://{parts.netloc}{repository}?{parts.query}"


def _ask(filesystem: fs.FileSystem, path: str, named: str) -> None:
    """Look up one path; whether it exists does not matter."""
    if named.startswith("hf://"):
        _find_hub(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), named)
    limit_s = storage.ANSWER_WITHIN_S
    try:
        within(limit_s, lambda: filesystem.get_file_info(path))
    except TimeoutError:
        raise StorageError(f"{named} does not answer within {limit_s:.0f} s. {_remedy(named)}") from None
    except _errors_of(named) as error:
        raise StorageError(
            f"{named} cannot be reached, or denies access ({_reason(error)}). {_remedy(named)}"
        ) from None


def _errors_of(named: str) -> tuple[type[Exception], ...]:
    """Return the exceptions that a storage's library raises if it gets no answer.

    The library of the hub passes on exceptions of its HTTP client, which are not OSErrors. Its own error has both
    as bases.
    """
    if not named.startswith("hf://"):
        return OSError, ValueError, pa.ArrowException
    from huggingface_hub.errors import HfHubHTTPError

    bases: tuple[Any, ...] = HfHubHTTPError.__bases__
    return OSError, ValueError, *bases


@functools.cache
def _find_hub(endpoint: str, named: str) -> None:
    """Check that the Hugging Face hub can be connected to. Behind a proxy this is not checked."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    place = urlsplit(endpoint)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        socket.create_connection((place.hostname or endpoint, port), _CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise StorageError(
            f"{named}: the Hugging Face hub at {endpoint} cannot be reached ({error}). Check the network and "
            "HF_ENDPOINT, or download the data set and give its folder."
        ) from None


def _reason(error: Exception) -> str:
    text = without_credentials(str(error))
    found = next(match[1] for pattern in _REASONS if (match := re.search(pattern, text)))
    return found.strip().rstrip(".")[:200] or type(error).__name__


def _remedy(named: str) -> str:
    scheme = named.partition("://")[0]
    kind = {"gcs": "gs", "abfss": "abfs", "viewfs": "hdfs"}.get(scheme, scheme)
    access = f" and your access ({_REMEDIES[kind]})" if kind in _REMEDIES else ""
    return f"Check its name, the network{access}."
