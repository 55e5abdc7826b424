from dataclasses import dataclass
from xml.etree import ElementTree

import pytest
from fabricated_workspace import write_full

from emi_ray.report import build_report
from emi_ray.workspace import Workspace


@dataclass(frozen=True)
class Page:
    """A report that was built: its workspace, its HTML, and the same parsed."""

    workspace: Workspace
    html: str

    @property
    def tree(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.html)

    def table(self, name: str) -> list[list[str]]:
        """The cells of the body of the table with that id."""
        body = self.tree.find(f".//table[@id='{name}']/tbody")
        assert body is not None
        return [["".join(cell.itertext()) for cell in row] for row in body]


@pytest.fixture(scope="session")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    workspace = write_full(tmp_path_factory.mktemp("full"))
    build_report(workspace)
    return Page(workspace, workspace.read_text("report/index.html"))
