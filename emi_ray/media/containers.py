"""Restrict media files: they contain their media, open no other files, and fit into memory.

FFmpeg also reads playlists, manifests, scripts and devices, which open other files or the network. Which of its
demuxers do so changes from version to version. Therefore the permitted demuxers are listed, and all others are
refused before they read a byte.
"""

import io
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError

from emi_ray.media.source import UnreadableError

READ_BYTES = 1 << 18
"""Bytes per read: enough that a file in an object store does not cost thousands of requests."""
MAX_PIXELS = 1 << 26
"""Pixels of the largest picture that is decoded, 8192 x 8192; FFmpeg refuses larger ones before it allocates them."""

FORMATS = (
    # audio and video
    *(
        "mov",
        "matroska",
        "avi",
        "asf",
        "asf_o",
        "flv",
        "live_flv",
        "kux",
        "mpegts",
        "mpeg",
        "ogg",
        "nut",
        "nuv",
    ),
    *("mxf", "gxf", "lxf", "rm", "wtv", "dv", "dhav", "swf", "ty", "pva", "nsv", "yuv4mpegpipe", "ivf"),
    # video and images only
    *("mpegvideo", "m4v", "h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "vc1", "vc1test", "dirac"),
    *("cavsvideo", "avs2", "avs3", "evc", "apv", "dnxhd", "mjpeg", "mjpeg_2000", "smjpeg", "mpjpeg"),
    *("gif", "apng", "jpegxl_anim", "ico", "bmp_pipe", "exr_pipe", "gif_pipe", "hdr_pipe", "j2k_pipe"),
    *(
        "jpeg_pipe",
        "jpegls_pipe",
        "jpegxl_pipe",
        "pam_pipe",
        "pbm_pipe",
        "pgm_pipe",
        "pgmyuv_pipe",
        "png_pipe",
    ),
    *("ppm_pipe", "qoi_pipe", "sgi_pipe", "sunrast_pipe", "tiff_pipe", "webp_pipe"),
    # audio only
    *("wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "loas", "ac3", "ac4", "eac3", "dts", "dtshd"),
    *(
        "truehd",
        "mlp",
        "amr",
        "amrnb",
        "amrwb",
        "ape",
        "wv",
        "tta",
        "tak",
        "mpc",
        "mpc8",
        "oma",
        "qcp",
        "gsm",
    ),
    *(
        "sln",
        "g722",
        "g723_1",
        "g729",
        "ilbc",
        "lc3",
        "voc",
        "sox",
        "ircam",
        "nistsphere",
        "shn",
        "sds",
        "avr",
    ),
    *("iff", "xwma", "dsf", "iamf", "bonk", "osq", "spdif"),
)
"""The permitted demuxers of FFmpeg: each reads the media in the file and opens nothing else."""

MAX_STREAMS = 1000
"""Maximum number of streams in a file; FFmpeg's default."""
LIMITS = {"max_pixels": str(MAX_PIXELS)}
"""Options for every decoder, including those that FFmpeg uses to probe a file."""

WAV_OPTIONS = {"max_probe_packets": "4"}
"""Number of packets in which FFmpeg searches the samples of a WAV file for DTS. By default it searches megabytes,
which takes longer than decoding."""

SLOW_PCM_OPTIONS = {"max_size": "16384", "max_probe_packets": "1"}
"""Options for WAV files with few bytes per second, of which FFmpeg makes some hundred packets for a clip by default.
One packet has as many bytes as it would search otherwise."""

_PCM, _FLOAT, _FEW_BYTES_PER_S = 1, 3, 64_000


def open_container(file: BinaryIO) -> InputContainer:
    """Open a self-contained media file.

    FFmpeg does not get the name of the file, because some demuxers treat it as a pattern or address of further
    files. It gets only the suffix, by which a few formats without a header are recognised. No file that the file
    refers to is opened.

    Raises:
        UnreadableError: FFmpeg cannot read the file, or it is a playlist, a manifest or the like.
    """
    options = {
        "format_whitelist": ",".join(FORMATS),
        # The file is read through Python, so FFmpeg needs no protocol of its own.
        "protocol_whitelist": "none",
        "max_streams": str(MAX_STREAMS),
    }
    options |= LIMITS
    if av.logging.get_level() is None:
        av.logging.set_level(av.logging.PANIC)  # prints nothing, but attaches FFmpeg's last message to errors
    try:
        options |= _wav_options(file)
        return av.open(
            _Nameless(file),
            "r",
            options=options,
            metadata_errors="replace",
            buffer_size=READ_BYTES,
            io_open=_refuse,
        )
    except UnreadableError:
        raise
    except (FFmpegError, OSError, ValueError, MemoryError) as error:
        raise UnreadableError(_why_not(error)) from error


def _wav_options(file: BinaryIO) -> dict[str, str]:
    """Return options for a file that is positioned at its start, if it is a WAV file."""
    head = file.read(36)
    file.seek(0)
    if len(head) < 36 or head[:4] not in (b"RIFF", b"RF64") or head[8:12] != b"WAVE":
        return {}
    tag, bytes_per_s = int.from_bytes(head[20:22], "little"), int.from_bytes(head[28:32], "little")
    # Packets of compressed sound must stay small: after a damaged block, FFmpeg discards the rest of its packet.
    is_slow_pcm = head[12:16] == b"fmt " and tag in (_PCM, _FLOAT) and bytes_per_s <= _FEW_BYTES_PER_S
    return SLOW_PCM_OPTIONS if is_slow_pcm else WAV_OPTIONS


def explain(error: Exception) -> str:
    """Return FFmpeg's message for an error, without numbers and addresses."""
    log = getattr(error, "log", None)
    words = log[2] if log else ""
    if "exceeds specified max pixel count" in words or "Invalid image size" in words:
        return f"a picture of more than {MAX_PIXELS:,} pixels"
    return getattr(error, "strerror", None) or str(error)


def _why_not(error: Exception) -> str:
    log = getattr(error, "log", None)
    if isinstance(error, ArgumentError) and log and "not on whitelist" in log[2]:
        return (
            f"not a media file but of FFmpeg's kind '{log[1]}': playlists, manifests, devices and other kinds that "
            "may open further files are not read"
        )
    if isinstance(error, MemoryError):
        return (
            f"its header declares more than {MAX_STREAMS:,} streams, or tables that do not fit into the memory that "
            "decoding may take"
        )
    return f"not a media file that ffmpeg can read ({explain(error)})"


def _refuse(url: str, flags: int, options: dict[str, Any]) -> Any:
    """Refuse to open a further file; FFmpeg calls this."""
    raise UnreadableError("the file names another file, and only the media that a file holds itself are read")


class _Nameless(io.RawIOBase):
    """A file that reveals only its suffix."""

    def __init__(self, file: BinaryIO) -> None:
        name = getattr(file, "name", "")
        suffix = PurePosixPath(name).suffix.lower() if isinstance(name, str) else ""
        # A suffix with other characters could be part of a pattern for FFmpeg.
        self.name = f"media{suffix}" if suffix[1:].isalnum() else "media"
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
