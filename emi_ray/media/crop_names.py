"""Determine the order of face crops in a folder, and which of them show another face, from their file names."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath

from emi_ray.media.source import UnreadableError

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)")
_FACE_WORDS = ("face", "det", "person", "track", "id")
_FRAME_WORDS = ("frame", "img", "image", "fr", "time", "t", "ms", "pts")


def order_crops(names: Sequence[str]) -> tuple[list[str], int]:
    """Sort the file names of one face's crops by time.

    All names must have one pattern (``frame_12.jpg``) in which only numbers differ. A single number that changes is
    the number of the frame. With two numbers, the words before them tell which is the face's (``det_0_12``,
    ``frame12_face0``). Without words, a number that is unique in every name is the frame's; otherwise it is the
    first, if it has at least as many values as the second (``{frame}_{face}.jpg``). If there are several faces, the
    one with the most images is used, or the lowest number if two have equally many.

    Returns:
        The sorted names, and the number of images of other faces.

    Raises:
        UnreadableError: the names do not determine the order.
    """
    if len(names) < 2:
        return list(names), 0
    # re.split with a group returns words at even places and numbers at odd ones.
    parts = {name: _NUMBER.split(PurePosixPath(name).stem.lower()) for name in names}
    patterns = Counter(tuple(part[::2]) for part in parts.values())
    if len(patterns) > 1:
        examples = [
            next(n for n, part in parts.items() if tuple(part[::2]) == pattern) for pattern in patterns
        ]
        raise _unclear(f"names of several patterns ('{examples[0]}', '{examples[1]}')")
    words = next(iter(patterns))
    fields = [
        [float(part[place]) for part in parts.values()]
        for place in range(1, len(next(iter(parts.values()))), 2)
    ]
    varying = [index for index, values in enumerate(fields) if len(set(values)) > 1]
    frame, face = _roles(words, fields, varying, names)
    chosen = list(range(len(names)))
    if face is not None:
        counts = Counter(fields[face])
        kept = min(counts, key=lambda value: (-counts[value], value))
        chosen = [index for index in chosen if fields[face][index] == kept]
    ordered = sorted(chosen, key=lambda index: fields[frame][index])
    for one, other in pairwise(ordered):
        if fields[frame][one] == fields[frame][other]:
            raise _unclear(f"'{names[one]}' and '{names[other]}' are of one frame")
    return [names[index] for index in ordered], len(names) - len(ordered)


def _roles(
    words: Sequence[str], fields: Sequence[Sequence[float]], varying: Sequence[int], names: Sequence[str]
) -> tuple[int, int | None]:
    """Return the indices of the numbers of the frame and of the face; the latter is None if there is one image per
    frame.
    """
    if not varying:
        raise _unclear("names without a number that changes")
    if len(varying) == 1:
        return varying[0], None
    faces = [index for index in varying if _last_word(words[index]) in _FACE_WORDS]
    frames = [index for index in varying if _last_word(words[index]) in _FRAME_WORDS]
    others = [index for index in varying if index not in faces]
    frame = frames[0] if len(frames) == 1 else others[0] if len(faces) == 1 and len(others) == 1 else None
    if frame is None:
        unique = [index for index in varying if len(set(fields[index])) == len(names)]
        if len(unique) == 1:
            return unique[0], None
        first, second = varying[0], varying[1]
        if unique or len(varying) > 2 or len(set(fields[first])) < len(set(fields[second])):
            raise _unclear(f"names with {len(varying)} numbers that change ('{names[0]}', '{names[1]}')")
        frame = first
    if len(set(fields[frame])) == len(names):
        return frame, None
    left = [index for index in varying if index != frame]
    if faces or len(left) == 1:
        return frame, (faces or left)[0]
    raise _unclear(f"several images a frame ('{names[0]}', '{names[1]}')")


def _last_word(text: str) -> str:
    return next(iter(re.findall(r"[a-z]+", text)[-1:]), "")


def _unclear(what: str) -> UnreadableError:
    return UnreadableError(
        f"the face images have {what}, so that their order in time is not known. Name them by the number of their "
        "frame: 1.jpg, 2.jpg, or {frame}_{face}.jpg"
    )
