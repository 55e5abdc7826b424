"""Describe what happened to a clip while decoding, for the summary of a run."""

from collections.abc import Mapping

SENTENCES = {
    "truncated": "the media end earlier than their header says: what could be read was used",
    "packets_corrupt": "{} damaged packets were skipped",
    "frames_capped": "only the first {pictures_read} of video were read (media.max_frames)",
    "sound_capped": "only the first {sound_read} of audio were read (media.max_audio_s)",
    "video_choice": "several video streams: read was {}",
    "audio_choice": "several audio tracks: read was {}",
    "timestamps_repaired": "timestamps of {} frames were missing or wrong: they were replaced by even steps",
    "timestamps_jumped": "timestamps restarted {} times: the parts were joined without a gap",
    "frames_resized": "the size of the pictures changes: {} frames were fitted into the first one's",
    "frames_squared": "pixels that are not square: {} frames were stretched to what a player shows",
    "frames_turned": "{} frames were rotated or mirrored, as the file demands",
    "frames_deinterlaced": "interlaced video: {} frames were deinterlaced (one field kept, the other interpolated)",
    "frames_of_dolby_vision": "Dolby Vision: {} frames need metadata that is not read, so their colours are wrong",
    "frames_tone_mapped": "high dynamic range: {} frames were mapped to the range of a standard screen",
    "sound_filled_ms": "gaps in the audio: {} ms of silence were inserted",
    "sound_cut_ms": "overlapping audio: {} ms were removed",
    "sound_restarts": "timestamps of the audio went back {} times: the parts were joined without a gap",
    "sound_stamps_ignored": "timestamps of {} pieces of audio were wrong: they were ignored",
    "channels_cancelled": "two audio channels cancel each other: the louder one was used",
    "offset_removed": "the audio had an offset: its mean was subtracted",
    "sound_scaled": "the audio exceeded full scale: all of it was scaled down",
    "samples_clipped": "{} samples beyond full scale were clipped",
    "images_unreadable": "{} face images cannot be read",
    "crops_of_other_faces": "{} face images show other faces than the one with the most images, and were left out",
}
"""Sentences by note. ``{}`` is the value of the note; other names in braces are further notes."""


def remarks(notes: Mapping[str, int | str]) -> list[str]:
    """Return one sentence for each note that matters to a user."""
    return [SENTENCES[name].format(notes[name], **notes) for name in SENTENCES if notes.get(name)]
