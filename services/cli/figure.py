"""A matplotlib figure that notebooks show inline, whatever backend is in force there."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """As `Figure`, with the PNG that IPython asks for."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png", dpi=96)
        return picture.getvalue()
