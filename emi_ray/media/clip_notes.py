"""What happened to a clip on the way, in sentences for the summary of a run."""

from collections.abc import Mapping

SENTENCES = {
    "truncated": "the media end earlier than they say: what could be read was used",
    "packets_corrupt": "{} damaged packets were skipped",
    "frames_capped": "only the first {pictures_read} of pictures were read (media.max_frames)",
    "sound_capped": "only the first {sound_read} of sound were read (media.max_audio_s)",
    "video_choice": "more than one video stream: read was {}",
    "audio_choice": "more than one sound track: read was {}",
    "timestamps_repaired": "timestamps of {} frames were missing or went back: even steps took their place",
    "timestamps_jumped": "timestamps started anew {} times: the clip goes on where it was",
    "frames_resized": "the size of the pictures changes: {} frames were fitted into the first one's",
    "frames_squared": "pixels that are not square: {} frames were stretched to what a player shows",
    "frames_turned": "{} frames were turned or mirrored as the file asks",
    "frames_deinterlaced": "interlaced film: of {} frames the lines of one moment were kept and the others filled in",
    "frames_of_dolby_vision": "Dolby Vision: {} frames need metadata that is not read, so their colours are wrong",
    "frames_tone_mapped": "high dynamic range: {} frames were mapped to the range of a standard screen",
    "sound_filled_ms": "gaps in the sound: {} ms of silence were put in",
    "sound_cut_ms": "sound that is there twice: {} ms were cut",
    "sound_restarts": "timestamps of the sound went back {} times: it goes on without a break",
    "channels_cancelled": "two channels cancel each other: the louder one was taken",
    "offset_removed": "the sound's zero line was off: its mean was subtracted",
    "sound_scaled": "the sound went beyond full scale: all of it was scaled down",
    "samples_clipped": "{} samples beyond full scale were clipped",
    "images_unreadable": "{} face images cannot be read",
    "crops_of_other_faces": "{} face images are of other faces than the one with most images, and were left out",
}
"""By note; ``{}`` is its count, other names in braces are those of further notes."""


def remarks(notes: Mapping[str, int | str]) -> list[str]:
    """One sentence for each note that a user should hear of; how many frames were decoded is none of these."""
    return [SENTENCES[name].format(notes[name], **notes) for name in SENTENCES if notes.get(name)]
