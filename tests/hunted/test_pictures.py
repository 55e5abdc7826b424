"""Pictures that were once seen otherwise than a person sees them."""

from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from av.sidedata.sidedata import Type
from made_media import decode, picture, write_film

from emi_ray.media.clip import DecodedClip
from emi_ray.media.clip_notes import remarks
from emi_ray.media.pictures import UPRIGHT, Orientation, RgbConverter, needs_dolby_metadata
from emi_ray.media.tone_mapping import HLG, PQ, ToneMapper


def roundness(clip: DecodedClip) -> float:
    """Height over width of the white disc."""
    disc = np.argwhere(clip.frames.pixels[0].min(axis=2) > 200)
    height, width = np.ptp(disc, axis=0) + 1
    return height / width


@pytest.mark.parametrize("aspect", [(2, 1), (1, 2), (4, 3), (3, 4), (16, 15)])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_pixels_become_square(tmp_path, aspect, suffix):
    plain = picture(160, 120)
    wide = Fraction(*aspect)
    # The coded picture is narrower (or lower) by what the pixels are wider (or higher).
    width, height = (round(160 / wide / 2) * 2, 120) if wide > 1 else (160, round(120 * wide / 2) * 2)
    film = write_film(
        tmp_path / f"a.{suffix}",
        [cv2.resize(plain, (width, height), interpolation=cv2.INTER_AREA)] * 3,
        aspect=wide,
    )
    clip = decode(film, "frames")
    rows, columns = clip.frames.pixels.shape[1:3]
    assert columns / rows == pytest.approx(160 / 120, rel=0.03)
    assert roundness(clip) == pytest.approx(1.0, abs=0.08)
    assert clip.notes["frames_squared"] == 1
    assert any("not square" in sentence for sentence in remarks(clip.notes))


def test_square_pixels_and_absurd_ones_are_left_alone(tmp_path):
    for name, aspect in (("a.mp4", Fraction(1, 1)), ("b.mp4", Fraction(200, 1))):
        clip = decode(write_film(tmp_path / name, [picture(96, 64)] * 3, aspect=aspect), "frames")
        assert clip.frames.pixels.shape[1:3] == (64, 96)
        assert "frames_squared" not in clip.notes


def with_matrix(path, matrix):
    """The MP4 file with another display matrix in its track header: (a, b, c, d) of whole numbers."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and ids, layer to reserved
    a, b, c, d = (value << 16 for value in matrix)
    values = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4")
    assert np.frombuffer(data[start : start + 36], ">i4")[8] == 1 << 30
    data[start : start + 36] = values.tobytes()
    return bytes(data)


MATRICES = {
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down, mirrored": (1, 0, 0, -1),
    "half a turn": (-1, 0, 0, -1),
    "a quarter right": (0, 1, -1, 0),
    "a quarter left": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed, half a turn": (0, -1, -1, 0),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_all_eight_display_matrices_are_carried_out(tmp_path, kind):
    """The expected picture is made by mapping each coordinate as ISO/IEC 14496-12 says."""
    plain = picture(96, 64)
    film = write_film(tmp_path / "a.mp4", [plain] * 3)
    clip = decode(with_matrix(film, MATRICES[kind]), "frames")
    a, b, c, d = MATRICES[kind]
    rows, columns = np.indices(plain.shape[:2])
    to_column, to_row = a * columns + c * rows, b * columns + d * rows
    to_column, to_row = to_column - to_column.min(), to_row - to_row.min()
    expected = np.zeros((to_row.max() + 1, to_column.max() + 1, 3), np.uint8)
    expected[to_row, to_column] = plain
    seen = clip.frames.pixels[0]
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(int) - expected).mean() < 3
    assert clip.notes.get("frames_turned", 0) == (0 if kind == "upright" else 1)


def test_pixels_that_are_not_square_are_made_so_before_a_quarter_turn(tmp_path):
    film = write_film(tmp_path / "a.mp4", [cv2.resize(picture(160, 120), (80, 120))] * 3, aspect=Fraction(2))
    clip = decode(with_matrix(film, MATRICES["a quarter right"]), "frames")
    assert clip.frames.pixels.shape[1:3] == (160, 120)
    assert roundness(clip) == pytest.approx(1.0, abs=0.08)


def hdr_film(path, pixels, transfer, white_nits=203.0):
    """What a screen of gamma 2.2 shows of ``pixels``, at ``white_nits``, in HEVC with 10 bits in PQ or HLG."""
    light = (pixels.astype(float) / 255) ** 2.2
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    nits = white_nits * np.clip(light @ to_2020.T, 0, None)
    if transfer == PQ:
        power = (nits / 10000) ** (2610 / 16384)
        signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    else:
        luminance = np.maximum(nits @ [0.2627, 0.6780, 0.0593], 1e-9)[..., np.newaxis] / 1000
        scene = nits / 1000 * luminance ** (1 / 1.2 - 1)
        logarithmic = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        signal = np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithmic)
    red, green, blue = np.moveaxis(signal, -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none:crf=8"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = (
            transfer,
            9,
            9,
            1,
        )
        for index in range(3):
            frame = av.VideoFrame(stream.width, stream.height, "yuv420p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                values = (
                    values if plane.width == stream.width else cv2.resize(values, (plane.width, plane.height))
                )
                rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                rows[:, : plane.width] = np.round(values)
                plane.update(rows)
            frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = transfer, 9, 9, 1
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_high_dynamic_range_looks_as_its_plain_twin(tmp_path, transfer):
    rng = np.random.default_rng(1)
    plain = cv2.resize(rng.integers(0, 256, (8, 12, 3), np.uint8), (192, 128), interpolation=cv2.INTER_CUBIC)
    clip = decode(hdr_film(tmp_path / "a.mkv", plain, transfer), "frames")
    seen = clip.frames.pixels[0]
    assert seen.std() == pytest.approx(plain.std(), rel=0.05)
    assert np.abs(seen.astype(int) - plain).mean() < 8
    assert clip.notes["frames_tone_mapped"] == 1
    assert any("high dynamic range" in sentence for sentence in remarks(clip.notes))


def test_highlights_above_white_are_rolled_off_and_order_is_kept():
    signal = np.linspace(0, 0.7518, 512)  # 0 to 1,000 nits in PQ
    ramp = np.round(65535 * np.repeat(signal[np.newaxis, :, np.newaxis], 3, axis=2)).astype(np.uint16)
    seen = ToneMapper(PQ)(np.repeat(ramp, 8, axis=0))[0, :, 0].astype(int)
    assert (np.diff(seen) >= 0).all()
    assert seen[0] == 0
    assert seen[-1] >= 250
    assert len(np.unique(seen[384:])) > 20  # highlights are not all white


def test_frames_of_another_shape_are_bordered_and_never_squeezed():
    convert = RgbConverter(lambda width, height: 1.0)
    first = av.VideoFrame.from_ndarray(picture(120, 60), format="rgb24")
    later = av.VideoFrame.from_ndarray(np.full((90, 60, 3), 200, np.uint8), format="rgb24")
    assert convert(first, 1.0).shape == (60, 120, 3)
    bordered = convert(later, 1.0)
    assert bordered.shape == (60, 120, 3)
    assert bordered[30, 60].tolist() == [200, 200, 200]
    assert not bordered[:, :39].any()
    assert convert.notes["frames_resized"] == 1


def test_an_orientation_is_a_view():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert Orientation(True, True, False).apply(pixels).base is not None
    np.testing.assert_array_equal(UPRIGHT.apply(pixels), pixels)


def photograph(pixels, orientation):
    """A JPEG whose EXIF says how its camera was held."""
    tiff = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation]) + bytes(6)
    data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return data[:2] + b"\xff\xe1" + (len(tiff) + 2).to_bytes(2, "big") + tiff + data[2:]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_photographs_are_turned_as_their_camera_says(tmp_path, orientation, turns):
    plain = picture(96, 64)
    (tmp_path / "1.jpg").write_bytes(photograph(plain, orientation))
    upright = np.rot90(plain, turns)
    seen = decode(tmp_path / "1.jpg", "frames").frames.pixels[0]
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).mean() < 4
    crop = decode(None, "faces", faces_dir=str(tmp_path)).faces.crops[0]
    assert np.abs(cv2.resize(crop, (96, 96)).astype(int) - square(upright)).mean() < 12


def square(pixels):
    """The picture in a square of 96 pixels, its border repeated."""
    border = 96 - np.array(pixels.shape[:2])
    (above, left), (below, right) = border // 2, border - border // 2
    return cv2.copyMakeBorder(pixels, above, below, left, right, cv2.BORDER_REPLICATE)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg2video", {"flags": "+ildct+ilme"}),
        ("libx264", {"x264-params": "interlaced=1:tff=1"}),
    ],
)
def test_of_interlaced_frames_the_lines_of_one_moment_are_seen(tmp_path, codec, options):
    """A disc that moves by 24 pixels from one field to the next: combed edges as decoded, none as seen."""
    rows, columns = np.mgrid[:96, :160]

    def disc(middle):
        inside = (columns - middle) ** 2 + (rows - 48) ** 2 < 30**2
        return np.repeat(np.where(inside, 220, 40).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)

    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 96, "yuv420p", 4_000_000
        for index in range(25):
            pixels = np.where(rows[:, :, np.newaxis] % 2 == 0, disc(60 + index), disc(84 + index))
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    clip = decode(tmp_path / "a.mkv", "frames")
    assert clip.notes["frames_deinterlaced"] == len(clip.frames.pixels) == 6
    for pixels, time_s in zip(clip.frames.pixels, clip.frames.timestamps_s, strict=True):
        moments = [disc(middle + round(time_s * 25)) for middle in (60, 84)]
        assert min(np.abs(pixels.astype(int) - moment).mean() for moment in moments) < 4
    assert any(
        sentence.startswith("interlaced video;") and sentence.endswith(": 6")
        for sentence in remarks(clip.notes)
    )


def test_progressive_frames_are_left_as_they_are(tmp_path):
    clip = decode(write_film(tmp_path / "a.mkv", [picture()] * 10), "frames")
    assert "frames_deinterlaced" not in clip.notes


def test_dolby_vision_that_needs_its_metadata_is_said():
    def frame(colorspace, *kinds):
        return SimpleNamespace(
            colorspace=colorspace, side_data=[SimpleNamespace(type=kind) for kind in kinds]
        )

    assert needs_dolby_metadata(frame(15))
    assert needs_dolby_metadata(frame(2, Type.DOVI_METADATA))
    assert not needs_dolby_metadata(frame(9, Type.DOVI_METADATA))
    assert not needs_dolby_metadata(frame(2, Type.DISPLAYMATRIX))
    assert "wrong colours" in remarks({"frames_of_dolby_vision": 6})[0]
