"""What is asked of the source as a whole."""

from pathlib import Path

import emi_ray

MOST_LINES = 300


def test_no_module_is_longer_than_300_lines():
    root = Path(emi_ray.__file__).parent
    lengths = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}
