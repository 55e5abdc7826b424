"""Requirements on the source as a whole, such as the length of modules."""

import re
from configparser import ConfigParser
from pathlib import Path

import emi_ray

MOST_LINES = 300


def test_no_module_is_longer_than_300_lines():
    root = Path(emi_ray.__file__).parent
    lengths = {str(path.relative_to(root)): len(path.read_text().splitlines()) for path in root.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_the_architecture_page_lists_all_modules_in_the_order_of_their_layers():
    package = Path(emi_ray.__file__).parent
    root = package.parent
    contracts = ConfigParser()
    contracts.read(root / ".importlinter")
    layers = contracts["importlinter:contract:layers"]["layers"].split("\n")[::-1]
    level = {name.strip(): index for index, layer in enumerate(layers) for name in layer.split(":")}
    table = (root / "docs" / "architecture.md").read_text().split("| module | purpose |")[1].split("\n\n")[0]
    listed = [
        name for row in table.split("\n")[2:] for name in re.findall(r"`(\w+)(?:\.py|/)`", row.split("|")[1])
    ]
    modules = {
        path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(listed) == sorted(modules - {"__init__", "__main__"})
    assert [level[name] for name in listed] == sorted(level[name] for name in listed)
