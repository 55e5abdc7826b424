"""Media that would not fit into memory."""

import struct
import subprocess
import sys
import zlib

import pytest
from made_media import decode, picture, write_film

from emi_ray.config import MediaSettings
from emi_ray.media.messages import read_message, write_message

MEDIA = MediaSettings()


def png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel: some 100 bytes a million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_picture_that_is_too_large_is_refused(side):
    reason = decode(png(side, side), "frames").failed["frames"]
    assert "pixels" in reason or "Invalid data" in reason


def test_ready_crops_that_are_too_large_are_unreadable_and_a_long_strip_is_a_crop(tmp_path):
    (tmp_path / "1.png").write_bytes(png(20_000, 20_000))
    (tmp_path / "2.png").write_bytes(png(30_000, 2))
    (tmp_path / "3.png").write_bytes(b"GIF89a not a png")
    clip = decode(None, "faces", faces_dir=str(tmp_path))
    assert clip.notes["images_unreadable"] == 2
    assert clip.faces.crops.shape == (1, 224, 224, 3)


def test_a_film_that_declares_huge_pictures_is_refused(tmp_path):
    data = bytearray(write_film(tmp_path / "a.mkv", [picture(96, 64)] * 3, codec="ffv1").read_bytes())
    position = data.index(bytes([0xB0, 0x81, 96]))  # PixelWidth, one byte long
    data[position : position + 6] = bytes([0xB0, 0x84]) + (60_000).to_bytes(4, "big")
    clip = decode(bytes(data), "frames")
    assert clip.frames is None
    assert clip.failed["frames"]


GREEDY = """
import numpy as np
from emi_ray.media import worker
worker.decode_clip = lambda source, media, needs: np.ones(int(float(source.transcript) * 2**27))
worker.pack_clip = lambda array: {"bytes": array.nbytes}
worker.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_the_operating_system_refuses_memory_beyond_the_limit_and_the_next_clip_is_decoded():
    with subprocess.Popen(
        [sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        write_message(child.stdin, {"media": MEDIA.model_dump_json(), "memory_limit_gb": 0.5})
        assert read_message(child.stdout) == {"ready": "yes"}

        def answer(gigabytes):
            write_message(child.stdin, {"clip_id": "a", "transcript": str(gigabytes), "needs": "[]"})
            return read_message(child.stdout)

        assert answer(0.125) == {"bytes": 2**27}
        assert answer(1) == {"error": "it needs more memory than extraction.decode_memory_gb allows"}
        assert answer(0.125) == {"bytes": 2**27}
        child.stdin.close()
