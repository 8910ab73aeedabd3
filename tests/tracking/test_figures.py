"""Pictures of figures, and the block in which one stands for all of a name."""

from __future__ import annotations

from matplotlib.figure import Figure

from thunderstone.tracking.figures import drawn_once, pixels, render


def filled(colour: str) -> Figure:
    figure = Figure(figsize=(1, 1), dpi=20, facecolor=colour)
    figure.set_layout_engine("none")
    return figure


def test_a_picture_has_the_figures_size_and_colours() -> None:
    image = pixels(render(filled("red"), "sam/spectrum"))
    assert image.shape == (20, 20, 3)
    assert (image == [255, 0, 0]).all()


def test_within_the_block_the_first_of_a_name_stands_for_the_others() -> None:
    pictures: dict[str, bytes] = {}
    with drawn_once(pictures):
        first = render(filled("red"), "sam/spectrum")
        assert render(filled("blue"), "sam/spectrum") == first
        other = render(filled("blue"), "sam/path")
    assert pictures == {"sam/spectrum": first, "sam/path": other}
    assert other != first
    assert render(filled("blue"), "sam/spectrum") == other
