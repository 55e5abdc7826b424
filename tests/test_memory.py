import psutil
import pytest

from emi_ray import memory

MIB = 2**20


@pytest.fixture
def container(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("limit", "usage", "statistics"),
    [
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_memory_of_a_container_is_its_limit_and_cached_files_are_available(
    container, limit, usage, statistics
):
    (container / "memory").mkdir()
    (container / limit).write_text(f"{100 * MIB}\n")
    (container / usage).write_text(f"{90 * MIB}\n")
    (container / statistics).write_text(f"anon {10 * MIB}\ninactive_file {70 * MIB}\n")
    assert memory.total_memory() == 100 * MIB
    assert memory.available_memory() == 80 * MIB


@pytest.mark.parametrize("limit", [None, "max"])
def test_without_a_limit_the_memory_is_that_of_the_machine(container, limit):
    if limit:
        (container / "memory.max").write_text(limit)
        (container / "memory.current").write_text("1")
    assert memory.total_memory() == psutil.virtual_memory().total
    assert memory.available_memory() > 0
