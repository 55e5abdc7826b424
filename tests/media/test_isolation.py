"""Decoding in a child process that is killed in several ways."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from media_files import times, tone, write_video, write_wav

from emi_ray.config import FaceSettings, MediaSettings
from emi_ray.errors import EmiRayError, UserError
from emi_ray.media import isolation
from emi_ray.media.clip import pack_clip, unpack_clip
from emi_ray.media.decode import decode_clip
from emi_ray.media.isolation import FROM_THE_TABLE, DecodeProcess
from emi_ray.media.messages import read_message, write_message
from emi_ray.media.source import ClipSource

MEDIA = MediaSettings()
SIGHT_AND_SOUND = frozenset({"frames", "waveform"})


@pytest.fixture
def stuck(tmp_path):
    """A file whose opening does not end: Linux has other processes wait while this one holds a lease on it."""
    path = tmp_path / "stuck.mp4"
    path.write_bytes(b"x")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # tells the holder that somebody waits
    with path.open("r+b") as held:
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield str(path)
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def good(tmp_path):
    return str(write_video(tmp_path / "good.mp4", times(25), sound_s=1.0))


def pid_of(process):
    return process._child._process.pid


def keep_killing(process, sign, times, between=lambda: None):
    """Send a signal to the child, a little after it is ready; then to its successors."""

    def kill():
        killed = set()
        while len(killed) < times:
            child = process._child
            if child is None or not child._is_ready or child._process.pid in killed:
                time.sleep(0.02)
                continue
            time.sleep(0.3)
            between()
            os.kill(child._process.pid, sign)
            killed.add(child._process.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def is_running(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def await_true(condition, limit_s=20.0):
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def test_a_row_from_the_child_equals_one_made_here(good):
    source = ClipSource("a", video=good, transcript="bravo")
    needs = SIGHT_AND_SOUND | {"faces", "transcript"}
    with DecodeProcess(MEDIA, 60) as process:
        assert process.decode(source, needs) == pack_clip(decode_clip(source, MEDIA, needs))
        child = pid_of(process)
        with open(good, "rb") as file:
            as_bytes = process.decode(ClipSource("a", video=file.read()), SIGHT_AND_SOUND)
    assert as_bytes == pack_clip(decode_clip(ClipSource("a", video=good), MEDIA, SIGHT_AND_SOUND))
    assert not is_running(child)


@pytest.mark.slow
def test_a_clip_that_takes_too_long_fails_and_the_next_is_decoded(good, stuck):
    with DecodeProcess(MEDIA, 60) as process:
        process.decode(ClipSource("warm", video=good), SIGHT_AND_SOUND)
        process._time_limit_s = 0.5
        late = unpack_clip(process.decode(ClipSource("late", video=stuck), frozenset({"frames"})))
        assert late.failed == {"frames": "decoding took longer than 0.5 s"}
        process._time_limit_s = 60
        assert unpack_clip(process.decode(ClipSource("next", video=good), SIGHT_AND_SOUND)).frames


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_fails_the_clip_and_the_next_is_decoded(good, stuck, sign):
    with DecodeProcess(MEDIA, 60) as process:
        process.decode(ClipSource("warm", video=good), SIGHT_AND_SOUND)
        killing = keep_killing(process, sign, times=2)
        crashed = unpack_clip(process.decode(ClipSource("bad", video=stuck), frozenset({"frames", "faces"})))
        killing.join()
        assert set(crashed.failed) == {"frames", "faces"}
        assert crashed.failed["faces"].startswith(f"decoding crashed (signal {int(sign)}, {sign.name}")
        assert unpack_clip(process.decode(ClipSource("next", video=good), SIGHT_AND_SOUND)).frames


@pytest.mark.slow
def test_what_kills_the_decoder_once_costs_no_clip(good, stuck):
    with DecodeProcess(MEDIA, 60) as process:
        process.decode(ClipSource("warm", video=good), SIGHT_AND_SOUND)
        killing = keep_killing(process, signal.SIGKILL, 1, between=lambda: os.replace(good, stuck))
        clip = unpack_clip(process.decode(ClipSource("whole", video=stuck), frozenset({"frames"})))
        killing.join()
    assert clip.failed == {}
    assert clip.frames


def test_a_picture_that_never_ends_does_not_cost_the_sound(tmp_path, stuck):
    sound = str(write_wav(tmp_path / "a.wav", tone(0.5, 16000), 16000))
    (tmp_path / "of.csv").write_text("frame\n1\n")
    source = ClipSource(
        "a", video=stuck, audio=sound, transcript="bravo", openface_csv=str(tmp_path / "of.csv")
    )
    with DecodeProcess(MEDIA, 1.5) as process:
        clip = unpack_clip(
            process.decode(source, frozenset({"frames", "faces", "waveform", "transcript", "openface_csv"}))
        )
    assert set(clip.failed) == {"frames", "faces"}
    assert clip.waveform is not None
    assert clip.waveform.duration_s == 0.5
    assert clip.transcript == "bravo"
    assert clip.openface_csv == "frame\n1\n"


def test_what_nobody_foresaw_fails_the_clip_and_says_what_it_was(good):
    with DecodeProcess(MEDIA, 60) as process:
        strange = unpack_clip(process.decode(ClipSource("strange", video=5), frozenset({"frames"})))
        assert strange.failed["frames"].startswith("decoding failed (")
        assert unpack_clip(process.decode(ClipSource("next", video=good), SIGHT_AND_SOUND)).frames


@pytest.mark.slow
def test_a_child_that_died_between_clips_is_replaced_unnoticed(good):
    with DecodeProcess(MEDIA, 60) as process:
        process.decode(ClipSource("a", video=good), SIGHT_AND_SOUND)
        os.kill(pid_of(process), signal.SIGKILL)
        assert await_true(lambda: not process._child.is_alive())
        assert not unpack_clip(process.decode(ClipSource("b", video=good), SIGHT_AND_SOUND)).failed


def test_a_child_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(isolation.sys, "executable", "/bin/false")
    with (
        pytest.raises(EmiRayError, match=r"cannot be started: exit code 1\."),
        DecodeProcess(MEDIA, 5) as process,
    ):
        process.decode(ClipSource("a"), SIGHT_AND_SOUND)


def test_a_detector_that_cannot_be_had_is_the_users_mistake():
    media = MediaSettings(faces=FaceSettings(detector="yunet"))
    with DecodeProcess(media, 60) as process, pytest.raises(UserError, match="yunet_model"):
        process.decode(ClipSource("a"), frozenset({"faces"}))


PARENT = """
import sys, threading
from emi_ray.config import MediaSettings
from emi_ray.media.isolation import DecodeProcess
from emi_ray.media.source import ClipSource
process = DecodeProcess(MediaSettings(), 600)
process.decode(ClipSource("warm"), frozenset({"frames"}))
print(process._child._process.pid, flush=True)
process.decode(ClipSource("a", video=sys.argv[1]), frozenset({"frames"})) if sys.argv[1:] else sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_the_child_ends_when_its_parent_is_killed_even_in_the_middle_of_a_clip(stuck, busy):
    arguments = [sys.executable, "-c", PARENT, *([stuck] if busy else [])]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        assert is_running(child)
        parent.kill()
        assert await_true(lambda: not is_running(child), 5.0)


NOISY = """
import os
from emi_ray.media import worker
decode = worker.decode_clip
def noisy(*arguments):
    print("a library says hello", flush=True)
    os.write(1, b"and so does native code")
    return decode(*arguments)
worker.decode_clip = noisy
worker.main()
"""


def test_what_libraries_print_does_not_disturb_the_answers():
    with subprocess.Popen(
        [sys.executable, "-c", NOISY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as worker:
        write_message(worker.stdin, {"media": MEDIA.model_dump_json(), "memory_limit_gb": 2.0})
        assert read_message(worker.stdout) == {"ready": "yes"}
        write_message(
            worker.stdin, {"clip_id": "a", "transcript": "bravo", "needs": json.dumps(["transcript"])}
        )
        assert read_message(worker.stdout)["transcript"] == "bravo"
        worker.stdin.close()
        assert worker.wait(10) == 0
        assert b"a library says hello" in worker.stderr.read()


def test_the_child_imports_nothing_heavy():
    code = (
        "import sys, emi_ray.media.worker; print([m for m in ('ray', 'torch', 'pandas') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_messages_come_back_as_they_were(tmp_path):
    message = {"text": "é", "nothing": None, "bytes": b"\0\1", "empty": b"", "seconds": 1.5}
    with open(tmp_path / "pipe", "w+b") as stream:
        write_message(stream, message)
        write_message(stream, {})
        stream.seek(0)
        assert read_message(stream) == message
        assert read_message(stream) == {}
        with pytest.raises(EOFError):
            read_message(stream)


def test_packing_is_lossless_for_what_was_decoded(good):
    clip = decode_clip(ClipSource("a", video=good), MEDIA, SIGHT_AND_SOUND)
    again = unpack_clip(pack_clip(clip))
    np.testing.assert_array_equal(again.frames.pixels, clip.frames.pixels)
    np.testing.assert_array_equal(again.waveform.samples, clip.waveform.samples)
    assert again.notes == clip.notes


def test_a_clip_of_which_no_file_is_read_needs_no_child():
    with DecodeProcess(MEDIA, 60) as process:
        row = process.decode(ClipSource("a", transcript="hello", video="/nowhere.mp4"), FROM_THE_TABLE)
        assert (row["transcript"], row["video"]) == ("hello", "/nowhere.mp4")
        assert process._child is None
        process.decode(ClipSource("a", transcript="hello"), frozenset({"transcript", "frames"}))
        assert process._child is not None
