"""Media that would open other media."""

import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import av
import cv2
import pytest
from av.format import ContainerFormat, Flags
from made_media import decode, picture, sine, write_film, write_sound

from emi_ray.config import MediaSettings
from emi_ray.media import containers

MEDIA = MediaSettings()


def demuxers() -> list[ContainerFormat]:
    """All of FFmpeg's, listed from the library."""
    found = []
    for name in sorted(av.formats_available):
        try:
            form = ContainerFormat(name, "r")
        except ValueError:
            continue  # it only writes
        found.append(form)
    return found


OPENS_OTHERS = {
    *(
        "concat",
        "hls",
        "dash",
        "imf",
        "webm_dash_manifest",
        "image2",
        "lavfi",
        "sdp",
        "rtp",
        "rtsp",
        "sap",
        "vobsub",
    ),
    *(
        "alsa",
        "fbdev",
        "kmsgrab",
        "oss",
        "x11grab",
        "video4linux2,v4l2",
        "v4l2",
        "avfoundation",
        "dshow",
        "gdigrab",
    ),
    *("libcdio", "dvdvideo", "bluray", "avisynth", "vapoursynth", "svg_pipe", "ffmetadata", "image2pipe"),
}
"""Demuxers of any build of FFmpeg 4 to 8 that open further files, devices or the network, or can be made to."""


def test_no_demuxer_that_opens_anything_itself_is_allowed():
    allowed = set(containers.FORMATS)
    assert not allowed & OPENS_OTHERS
    for form in demuxers():
        if form.flags & (Flags.no_file.value | Flags.need_number.value):
            assert not allowed & set(form.name.split(",")), form.name


def test_every_demuxer_that_is_allowed_is_in_the_library():
    known = {name for form in demuxers() for name in form.name.split(",")}
    assert set(containers.FORMATS) <= known | {
        "hevc",
        "vvc",
        "evc",
        "apv",
        "lc3",
        "iamf",
        "ac4",
        "osq",
        "qoi_pipe",
    }


@pytest.fixture
def listener():
    """A server's port, and the list of those who connected."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.1)
    visits: list[object] = []
    stop = threading.Event()

    def listen():
        while not stop.is_set():
            try:
                connection, address = server.accept()
            except TimeoutError:
                continue
            visits.append(address)
            connection.close()

    thread = threading.Thread(target=listen)
    thread.start()
    yield server.getsockname()[1], visits
    stop.set()
    thread.join()
    server.close()


def playlists(url: str, secret: str) -> dict[str, bytes]:
    """By kind: a file that names another one, or an address."""
    local, remote = f"file:{secret}", f"{url}/x.ts"
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{remote}\n#EXT-X-ENDLIST\n".encode(),
        "hls, local": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{local}\n#EXT-X-ENDLIST\n".encode(),
        "hls, key": (
            f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:9,\n{local}\n'
        ).encode(),
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "concat, remote": f"ffconcat version 1.0\nfile '{remote}'\n".encode(),
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
        "dash": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
            f'<AdaptationSet mimeType="video/mp4"><Representation id="1"><BaseURL>{remote}</BaseURL>'
            "</Representation></AdaptationSet></Period></MPD>"
        ).encode(),
        "imf": (
            '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">'
            f"<Id>urn:uuid:1</Id><ExternalId>{remote}</ExternalId></CompositionPlaylist>"
        ).encode(),
        "smil": f'<smil><body><video src="{remote}"/></body></smil>'.encode(),
        "asx": f'<asx version="3.0"><entry><ref href="{remote}"/></entry></asx>'.encode(),
        "pls": f"[playlist]\nFile1={remote}\nNumberOfEntries=1\n".encode(),
        "svg": (
            '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
            f'<image href="{local}" width="9" height="9"/></svg>'
        ).encode(),
        "lavfi": f"movie={secret}".encode(),
        "vobsub": b"# VobSub index file, v7 (do not modify this line!)\nsize: 9x9\nid: en, index: 0\n"
        b"timestamp: 00:00:00:000, filepos: 000000000\n",
        "rtsp": b"RTSP/1.0 301\r\nLocation: " + remote.replace("http", "rtsp").encode() + b"\r\n\r\n",
        "ffmetadata": b";FFMETADATA1\ntitle=x\n",
        "mov with a reference": movie_with_reference(secret),
    }


def movie_with_reference(secret: str) -> bytes:
    """A QuickTime file whose samples lie in another file, named by an alias (``dref``)."""

    def box(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", 8 + len(data)) + kind + data

    name = secret.encode()
    alias = (
        bytes(150)
        + struct.pack(">hh", 2, len(name))
        + name
        + bytes(len(name) % 2)
        + struct.pack(">hh", -1, 0)
    )
    dref = box(b"dref", struct.pack(">II", 0, 1) + box(b"alis", bytes(4) + alias))
    entry = box(b"sowt", bytes(6) + struct.pack(">HHHIHHHHI", 1, 0, 0, 0, 1, 16, 0, 0, 16000 << 16))
    table = (
        box(b"stsd", struct.pack(">II", 0, 1) + entry)
        + box(b"stts", struct.pack(">IIII", 0, 1, 1000, 1))
        + box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 1000, 1))
        + box(b"stsz", struct.pack(">III", 0, 2, 1000))
        + box(b"stco", struct.pack(">III", 0, 1, 0))
    )
    handler = box(b"hdlr", bytes(8) + b"soun" + bytes(13))
    information = box(b"minf", box(b"smhd", bytes(8)) + box(b"dinf", dref) + box(b"stbl", table))
    media = box(
        b"mdia", box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 16000, 1000, 0, 0)) + handler + information
    )
    track = box(b"trak", box(b"tkhd", struct.pack(">I", 1) + bytes(80)) + media)
    header = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 62) + bytes(80))
    return box(b"ftyp", b"qt  " + bytes(4)) + box(b"moov", header + track) + box(b"mdat", bytes(16))


SUFFIXES = {
    "hls": ".m3u8",
    "concat": ".ffconcat",
    "sdp": ".sdp",
    "dash": ".mpd",
    "imf": ".xml",
    "smil": ".smil",
    "asx": ".asx",
    "pls": ".pls",
    "svg": ".svg",
    "vobsub": ".idx",
    "mov with a reference": ".mov",
}
BORROWED = (".mp4", ".wav", ".mkv", ".png", ".ts", ".m3u8", ".jpg", "")


def plant(folder: Path, url: str) -> list[Path]:
    """Every kind under its own and under borrowed suffixes, beside a film that any of them could open."""
    secret = write_film(folder / "secret.mkv", [picture()] * 3)
    shutil.copy(secret, folder / "secret.sub")
    files = []
    for kind, content in playlists(url, str(secret)).items():
        for suffix in {SUFFIXES.get(kind.partition(",")[0], ".txt"), *BORROWED}:
            files.append(folder / f"{kind.replace(' ', '_').replace(',', '')}{suffix}")
            files[-1].write_bytes(content)
    for name in ("frame%03d.png", "frame*.jpg", "secret.idx"):
        files.append(folder / name)
        files[-1].write_bytes(playlists(url, str(secret))["vobsub"])
    for number in range(3):
        cv2.imwrite(str(folder / f"frame{number:03}.png"), picture())
    return files


def test_media_that_name_other_media_are_refused_and_open_nothing(tmp_path, listener):
    port, visits = listener
    for path in plant(tmp_path, f"http://127.0.0.1:{port}"):
        clip = decode(path, "frames", "waveform")
        assert clip.frames is None, path
        assert clip.waveform is None, path
        assert clip.failed, path
    assert not visits


def test_a_playlist_is_called_what_it_is(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"ffconcat version 1.0\nfile 'secret.mkv'\n")
    reason = decode(tmp_path / "x.mp4", "frames").failed["frames"]
    assert reason.startswith("not a media file but of FFmpeg's kind 'concat': playlists, manifests")


TRACED = """
import sys
from emi_ray.config import MediaSettings
from emi_ray.media.decode import decode_clip
from emi_ray.media.source import ClipSource
for path in sys.argv[1:]:
    clip = decode_clip(ClipSource("a", video=path), MediaSettings(), frozenset({"frames", "waveform"}))
    assert clip.frames is None and clip.waveform is None, path
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_system_call_opens_or_sends_anything(tmp_path):
    files = plant(tmp_path, "http://127.0.0.1:9")
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-o",
        str(trace),
        "-e",
        "trace=open,openat,openat2,socket,connect,sendto,execve",
    ]
    run = subprocess.run(
        [*command, sys.executable, "-c", TRACED, *map(str, files)], capture_output=True, text=True
    )
    if "PTRACE" in run.stderr or "ptrace" in run.stderr:
        pytest.skip("this machine does not let strace trace")
    assert run.returncode == 0, run.stderr
    calls = [
        line for line in trace.read_text().splitlines() if "resumed" not in line and "execve" not in line
    ]
    own = {f'"{path}"' for path in files}
    opened = [line for line in calls if str(tmp_path) in line and not any(name in line for name in own)]
    assert not opened
    assert sum(any(name in line for name in own) for line in calls) >= len(files)
    assert not [line for line in calls if "AF_INET" in line]


def test_ordinary_media_still_open(tmp_path):
    for suffix in ("mp4", "mkv", "avi", "mov", "ts", "flv", "webm"):
        codec = "libvpx" if suffix == "webm" else "libx264"
        film = write_film(tmp_path / f"a.{suffix}", [picture()] * 5, codec=codec)
        assert decode(film, "frames").frames, suffix
    codecs = {
        "wav": "pcm_s16le",
        "flac": "flac",
        "mp3": "mp3",
        "m4a": "aac",
        "ogg": "libopus",
        "opus": "libopus",
    }
    for suffix, codec in {
        **codecs,
        "aiff": "pcm_s16be",
        "au": "pcm_s16be",
        "caf": "pcm_s16le",
        "mka": "aac",
    }.items():
        path = write_sound(tmp_path / f"a.{suffix}", sine(0.5), codec=codec)
        assert decode(None, "waveform", audio=str(path)).waveform, suffix
    for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff"):
        cv2.imwrite(str(tmp_path / f"a{suffix}"), picture())
        assert decode(tmp_path / f"a{suffix}", "frames").frames, suffix
