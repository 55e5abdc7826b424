"""Open paths and URIs: file systems that tolerate outages, and explanations of their errors.

S3 is opened here and not by ``pyarrow.fs.FileSystem.from_uri``, which supports neither time limits nor spaces, and
expects secrets in the URI. Credentials come only from the environment, ``~/.aws`` or the machine's role.
"""

import errno
import functools
import os
import re
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import pyarrow as pa
from pyarrow import fs

from emi_ray.errors import EmiRayError, UserError
from emi_ray.time_limit import within

RETRIES = 10
"""Number of retries. The pauses between them begin at 25 ms and double, so that an outage of 25 s is tolerated."""

REACH_WITHIN_S = 23.0
"""Time that a storage which answers may be too busy when a command begins."""

ANSWER_WITHIN_S = 10.0
"""Time without any answer (a closed port, or silence) after which a command gives up at its start. The usual cause is
a misspelt address."""

_READ_TIMEOUT_S = 15.0
_CONNECT_TIMEOUT_S = 5.0
_ASK_TIMEOUT_S = 4.0

_S3 = re.compile(r"s3://(?P<bucket>[^/?]*)(?P<key>/[^?]*)?(?:\?(?P<query>.*))?", re.DOTALL)
_S3_OPTIONS = ("region", "scheme", "endpoint_override", "force_virtual_addressing")
_CREDENTIALS = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?!anonymous@)(?!(?:(?<=abfs://)|(?<=abfss://))[^:/@\s]*@)[^/@\s'\"?#]*@(?=[^/\s])",
    re.IGNORECASE,
)
"""User names and passwords; ``gs://anonymous@bucket`` and ``abfs://container@account`` have none."""
_ONE_SLASH = re.compile(r"(s3a?|s3n|gs|gcs|hdfs|viewfs|abfss?|https?|hf|file):/?(?!/)(?P<rest>.*)", re.DOTALL)

_RIGHTS = "s3:ListBucket on the bucket, s3:GetObject, s3:PutObject and s3:DeleteObject on what is in it"
_WHERE_KEYS_ARE = (
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE with ~/.aws, or the machine's role"
)
_OUTAGE_WORDS = (
    "NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING|"
    r"HTTP status 5\d\d|HTTP status 429"
)
_KEY_WORDS = (
    "INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH|INVALID_SIGNATURE|EXPIRED_TOKEN|INVALID_CLIENT_TOKEN_ID|"
    "UNRECOGNIZED_CLIENT|MISSING_AUTHENTICATION_TOKEN|ExpiredToken|InvalidToken|HTTP status 400"
)
_OUTAGES = (
    errno.ETIMEDOUT,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
)


class StorageError(EmiRayError):
    """The storage cannot be reached or refuses our credentials, so that nothing about its files is known."""


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system and path of a local path or URI. A path without a scheme is local, and made absolute.

    Raises:
        UserError: ``pyarrow.fs`` does not support the URI, or it contains credentials.
        StorageError: the storage does not answer.
    """
    if (slashes := _ONE_SLASH.fullmatch(uri)) and "://" not in uri:
        scheme = uri.partition(":")[0]
        raise UserError(f"{uri}: a URI has two slashes: {scheme}://{slashes['rest'].lstrip('/')}")
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(uri)!r}: the name is not UTF-8 text. Rename it.") from None
    if "://" not in uri:
        return fs.LocalFileSystem(), str(_absolute(_at_home(uri)))
    if without_credentials(uri) != uri:
        raise UserError(
            f"{without_credentials(uri)} was given with credentials in the URI, which would be printed and stored. "
            f"Remove them and set them as {_WHERE_KEYS_ARE}."
        )
    if "#" in uri:
        raise UserError(f"{uri}: '#' ends a URI. If it is part of a name, write %23.")
    try:
        if uri.startswith("s3://"):
            return _open_s3(uri)
        if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
            # Without this option Google's client repeats failed requests for many minutes.
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={0.8 * ANSWER_WITHIN_S:.0f}"
        return within(ANSWER_WITHIN_S, lambda: fs.FileSystem.from_uri(uri))
    except TimeoutError:
        raise StorageError(
            f"{uri} does not answer within {ANSWER_WITHIN_S:.0f} s. Check the network."
        ) from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ImportError) as error:
        raise UserError(f"{uri}: {error}. Give a local path, or a URI such as s3://bucket/folder.") from None
    except OSError as error:
        reason = str(error).partition("\n")[0]
        needs = " Hadoop's libhdfs and a Java runtime are required." if "libjvm" in reason else ""
        raise UserError(f"{uri} cannot be opened: {reason}.{needs}") from None


def _at_home(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and no such user
        raise UserError(
            f"{path}: ~ cannot be replaced, because there is no home folder. Give the whole path."
        ) from None


def _absolute(path: Path) -> Path:
    """Make a path absolute.

    Links are not resolved, because files beside a link are looked up beside it, and its suffix is that of the
    content. Only the part up to the last ``..`` is resolved, like the operating system does.
    """
    path = path.absolute()
    parts = path.parts
    if ".." not in parts:
        return path
    last = len(parts) - parts[::-1].index("..")
    return Path(*parts[:last]).resolve().joinpath(*parts[last:])


def without_credentials(text: str) -> str:
    """Return a URI, or a text with URIs, without user names and passwords before ``@``."""
    return _CREDENTIALS.sub(r"\g<scheme>", text)


def is_outage(error: OSError) -> bool:
    """Return whether the storage itself is unreachable or refuses our credentials, in contrast to a missing file."""
    if error.errno in _OUTAGES:
        return True
    return bool(re.search(f"{_OUTAGE_WORDS}|{_KEY_WORDS}", str(error)))


def explain(error: OSError) -> str:
    """Explain a storage error in a sentence with its remedy."""
    text = without_credentials(str(error))
    found = re.search(r"bucket '([^']*)'", text)
    bucket = f"s3://{found[1]}" if found else "the object store"
    if "AWS Error" not in text:
        return _explain_local(error, text)
    if "NO_SUCH_BUCKET" in text:
        return f"There is no bucket {bucket}. Check its name, and the endpoint and region that are set."
    if re.search(_KEY_WORDS, text):
        return f"{bucket} refuses the credentials that are set here ({_aws_code(text)}). Check {_WHERE_KEYS_ARE}."
    if "ACCESS_DENIED" in text:
        return f"{bucket} denies access. The credentials ({_WHERE_KEYS_ARE}) need {_RIGHTS}."
    if re.search(r"HTTP status 30\d|PERMANENT_REDIRECT|AUTHORIZATION_HEADER_MALFORMED", text):
        return f"{bucket} is in another region. Set AWS_REGION, or append ?region=… to the URI."
    if re.search(_OUTAGE_WORDS, text):
        return (
            f"{bucket} cannot be reached ({_aws_code(text)}). Check the endpoint (AWS_ENDPOINT_URL) and the network, "
            f"then repeat the command to continue."
        )
    return text


def in_words(error: BaseException | None) -> str:
    """Describe any error in a sentence: storage errors with a remedy, our own errors as they are, others with their
    type.
    """
    if isinstance(error, OSError):
        return explain(error)
    return str(error) if isinstance(error, EmiRayError) else f"{type(error).__name__}: {error}"


def _explain_local(error: OSError, text: str) -> str:
    where = without_credentials(str(error.filename)) if error.filename else ""
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return f"{where or text} may not be written or read by this user. Check its owner and permissions."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"There is no space left{f' for {where}' if where else ''}. Free space, and repeat the command."
        )
    return text


def _aws_code(text: str) -> str:
    code = re.search(r"AWS Error (.+?) during", text)
    detail = re.search(r"curlCode: \d+, ([^;]*)", text)
    return detail[1] if detail else code[1] if code else "no reason given"


def _open_s3(uri: str) -> tuple[fs.FileSystem, str]:
    parts = _S3.fullmatch(uri)
    if parts is None or not parts["bucket"]:
        raise UserError(f"{uri}: the bucket is missing. Write s3://bucket/folder.")
    path = f"{parts['bucket']}{unquote(parts['key'] or '')}".rstrip("/")
    return _s3(os.getpid(), parts["bucket"], _options_of(uri)), path


def _options_of(uri: str) -> tuple[tuple[str, str], ...]:
    """Return the options after ``?``, and the endpoint from the environment.

    Raises:
        UserError: an option does not exist.
    """
    parts = _S3.fullmatch(uri)
    options = dict(parse_qsl(parts["query"] or "")) if parts else {}
    for name in options:
        if name not in _S3_OPTIONS:
            raise UserError(
                f"{without_credentials(uri)}: '{name}' is not an option of an S3 URI; options are "
                f"{', '.join(_S3_OPTIONS)}. A '?' in a name is written %3F."
            )
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if url and "endpoint_override" not in options:
        scheme, _, host = url.rpartition("://")
        options |= {"scheme": scheme or "https", "endpoint_override": host.rstrip("/")}
    return tuple(sorted(options.items()))


@functools.lru_cache(maxsize=64)
def _s3(
    process: int, bucket: str, options: tuple[tuple[str, str], ...], patient: bool = True
) -> fs.S3FileSystem:
    """Return a file system with its own connections for each process and bucket."""
    settings = dict(options)
    region = settings.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region is None and "endpoint_override" not in settings:
        region = _region_of(bucket)
    return fs.S3FileSystem(
        region=region or "us-east-1",
        scheme=settings.get("scheme"),
        endpoint_override=settings.get("endpoint_override"),
        force_virtual_addressing=settings.get("force_virtual_addressing", "").lower() in ("1", "true"),
        connect_timeout=_CONNECT_TIMEOUT_S if patient else _ASK_TIMEOUT_S,
        request_timeout=_READ_TIMEOUT_S if patient else _ASK_TIMEOUT_S,
        retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=RETRIES if patient else 0),
        allow_delayed_open=True,  # a small file is one request, and never a half-finished upload
        background_writes=True,
    )


def _region_of(bucket: str) -> str:
    try:
        return within(ANSWER_WITHIN_S, lambda: str(fs.resolve_s3_region(bucket)))
    except TimeoutError:
        raise StorageError(
            f"s3://{bucket}: Amazon does not answer within {ANSWER_WITHIN_S:.0f} s. Check the network; set "
            f"AWS_ENDPOINT_URL if the storage is not Amazon's."
        ) from None
    except OSError as error:
        if "not found" in str(error):
            raise UserError(f"There is no bucket s3://{bucket}. Check its name.") from None
        raise UserError(
            f"s3://{bucket}: its region cannot be determined ({_aws_code(str(error))}). Set AWS_REGION, and "
            f"AWS_ENDPOINT_URL if the storage is not Amazon's."
        ) from None


def ask_s3(path: str, named: str, is_first: bool = True) -> None:
    """Check that an S3 bucket answers and grants access; once per process and bucket.

    Args:
        is_first: False if another process of the command has had an answer, so that silence is an outage.

    Raises:
        UserError: the bucket does not exist, or access is denied.
        StorageError: there is no answer within :data:`ANSWER_WITHIN_S`, or no usable one within
            :data:`REACH_WITHIN_S`.
    """
    _ask(os.getpid(), path.partition("/")[0], _options_of(named), without_credentials(named), is_first)


@functools.lru_cache(maxsize=64)
def _ask(process: int, bucket: str, options: tuple[tuple[str, str], ...], named: str, is_first: bool) -> None:
    impatient = _s3(process, bucket, options, patient=False)
    began, pause_s = time.monotonic(), 0.25
    while True:
        try:
            impatient.get_file_info(fs.FileSelector(bucket, recursive=False))
            return
        except OSError as error:
            reason = f"{named}: {explain(error)}"
            if re.search(_KEY_WORDS, str(error)) or not is_outage(error):
                raise UserError(reason) from None
            is_silent = is_first and "NETWORK_CONNECTION" in str(error)
            patience_s = ANSWER_WITHIN_S - _ASK_TIMEOUT_S if is_silent else REACH_WITHIN_S
            if time.monotonic() - began + pause_s > patience_s:
                raise StorageError(reason) from None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)
