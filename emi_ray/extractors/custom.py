"""Extractors of users: classes named as ``module:Class``, or registered by an installed package.

    # faces/gaze.py, importable on every node
    class Gaze(Extractor):
        NAME, MODALITY, NEEDS, Settings = "gaze", "vision", frozenset({"faces"}), Settings
        feature_dim = 2

        def extract(self, clips):
            return [Features(my_gaze(clip.faces.crops), clip.faces.timestamps_s) for clip in clips]

Select it with ``extractors.vision.name=faces.gaze:Gaze``. A package registers it under a short name in its
``pyproject.toml``:

    [project.entry-points."emi_ray.extractors"]
    gaze = "faces.gaze:Gaze"
"""

from functools import cache
from importlib.metadata import entry_points

from emi_ray.custom_code import import_custom
from emi_ray.errors import UserError
from emi_ray.extractors.base import Extractor
from emi_ray.schema import MODALITIES, NEEDS

GROUP = "emi_ray.extractors"
_DECLARED = ("NAME", "MODALITY", "NEEDS", "Settings")


def is_own(name: str) -> bool:
    """Return whether ``name`` has the form ``module:Class`` or is the name of an entry point."""
    return ":" in name or name in registered()


@cache
def registered() -> dict[str, str]:
    """Return the extractors that installed packages register: name → ``module:Class``."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


def load_own(name: str, where: str) -> type[Extractor]:
    """Import the extractor class that ``name`` stands for.

    Raises:
        UserError: it cannot be imported, or is not a complete extractor. The message begins with ``where``.
    """
    found = import_custom(registered().get(name, name), f"{where}.name")
    if not (isinstance(found, type) and issubclass(found, Extractor)):
        raise UserError(f"{where}.name = '{name}' is not a subclass of emi_ray.extractors.Extractor.")
    lacking = [field for field in _DECLARED if not hasattr(found, field)]
    if lacking:
        raise UserError(f"{where}.name = '{name}' lacks the class attribute {lacking[0]}.")
    if found.MODALITY not in MODALITIES or not set(found.NEEDS) <= set(NEEDS):
        raise UserError(
            f"{where}.name = '{name}' has MODALITY = {found.MODALITY!r} and NEEDS = {sorted(found.NEEDS)}: choose "
            f"from {', '.join(MODALITIES)}, and from {', '.join(NEEDS)}."
        )
    return found
