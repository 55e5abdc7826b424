"""Describe what happened to a clip while decoding, for the summary of a run."""

from collections.abc import Mapping

SENTENCES = {
    "truncated": "the media end earlier than their header says: what could be read was used",
    "packets_corrupt": "damaged packets were skipped: {}",
    "frames_capped": "only the first {pictures_read} of video were read (media.max_frames)",
    "sound_capped": "only the first {sound_read} of audio were read (media.max_audio_s)",
    "video_choice": "several video streams: read was {}",
    "audio_choice": "several audio tracks: read was {}",
    "timestamps_repaired": "frames whose timestamps were missing or wrong, and were replaced by even steps: {}",
    "timestamps_jumped": "timestamps restarted, and the parts were joined without a gap: {} x",
    "frames_resized": "the size of the pictures changes; frames that were fitted into that of the first: {}",
    "frames_squared": "pixels are not square; frames that were stretched to what a player shows: {}",
    "frames_turned": "frames that were rotated or mirrored, as the file demands: {}",
    "frames_deinterlaced": "interlaced video; frames of which one field was kept and the other interpolated: {}",
    "frames_of_dolby_vision": "Dolby Vision; frames with wrong colours, because their metadata is not read: {}",
    "frames_tone_mapped": "high dynamic range; frames that were mapped to the range of a standard screen: {}",
    "sound_filled_ms": "gaps in the audio: {} ms of silence were inserted",
    "sound_cut_ms": "overlapping audio: {} ms were removed",
    "sound_restarts": "timestamps of the audio went back, and the parts were joined without a gap: {} x",
    "sound_stamps_ignored": "pieces of audio whose timestamps were wrong and were ignored: {}",
    "channels_cancelled": "two audio channels cancel each other: the louder one was used",
    "offset_removed": "the audio had an offset: its mean was subtracted",
    "sound_scaled": "the audio exceeded full scale: all of it was scaled down",
    "samples_clipped": "samples beyond full scale were clipped: {}",
    "images_unreadable": "face images that cannot be read: {}",
    "crops_of_other_faces": "face images of other faces than the one with the most images, which were left out: {}",
}
"""Sentences by note. ``{}`` is the value of the note; other names in braces are further notes."""


def remarks(notes: Mapping[str, int | str]) -> list[str]:
    """Return one sentence for each note that matters to a user."""
    return [SENTENCES[name].format(notes[name], **notes) for name in SENTENCES if notes.get(name)]
