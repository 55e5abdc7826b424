import pytest

from emi_ray.reporting.plot_style import DARK_PALETTE, PALETTE, panel_grid, report_style
from emi_ray.reporting.svg import inline_svg


def test_every_colour_of_the_light_page_has_a_dark_one() -> None:
    assert set(DARK_PALETTE) == set(PALETTE)
    assert len(set(PALETTE.values())) == len(PALETTE)


def test_palette_colours_become_variables_and_text_stays_text() -> None:
    with report_style():
        figure, panels = panel_grid(1, 1, panel_height_in=1)
        panels[0].set_title("50 $ & <more>", color=PALETTE["ink"])
        svg = inline_svg(figure, "name", 'a "quoted" description')
    assert "50 $ &amp; &lt;more&gt;" in svg
    assert "var(--ink)" in svg
    assert PALETTE["ink"] not in svg
    assert "<style" not in svg


def test_panels_never_overlap_and_stay_inside() -> None:
    figure, panels = panel_grid(7, num_columns=3, panel_height_in=1.5)
    boxes = [panel.get_position() for panel in panels]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 1 and box.y1 <= 1 for box in boxes)
    assert not any(a.overlaps(b) for index, a in enumerate(boxes) for b in boxes[:index])
    assert figure.get_figwidth() == pytest.approx(11.25)
