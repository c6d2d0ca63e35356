"""Looking at a drawn figure."""

from __future__ import annotations

from matplotlib.text import Text


def overlaps(figure):
    figure.draw_without_rendering()
    for axis in figure.axes:
        # An annotation's own extent has its arrow in it.
        boxes = [Text.get_window_extent(t) for t in axis.texts if t.get_text()]
        for i, one in enumerate(boxes):
            for other in boxes[i + 1 :]:
                if one.overlaps(other):
                    return True
    return False
