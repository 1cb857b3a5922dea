"""What notebooks show: the source of a function, and pictures with alt texts."""

from __future__ import annotations

import inspect
import io
import textwrap
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.display import Image, Markdown
    from matplotlib.figure import Figure

SHORTEST_ALT, LONGEST_ALT = 40, 300  # characters: an alt text says the finding, and a screen reader reads all of it
DPI = 100


def source(function: Callable | type) -> Markdown:
    """The source of a function, method or class of the package, as a fenced block of Markdown, with the file it is in."""
    from IPython.display import Markdown

    code = textwrap.dedent(inspect.getsource(function)).strip()
    file = inspect.unwrap(function).__module__.replace(".", "/")
    return Markdown(f"`{file}.py`\n\n```python\n{code}\n```")


def picture(figure: Figure, alt: str) -> Image:
    """The figure as a PNG with an alt text that says its finding. The figure is closed, so that a notebook shows it once.

    Raises ValueError unless the alt text has 40 to 300 characters.
    """
    import matplotlib.pyplot as plt
    from IPython.display import Image

    if not SHORTEST_ALT <= len(alt.strip()) <= LONGEST_ALT:
        raise ValueError(
            f"the alt text has {len(alt.strip())} characters: say the picture's finding in {SHORTEST_ALT} to {LONGEST_ALT}"
        )
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # the place of a legend is searched, and on a busy machine that is said to be slow
        warnings.filterwarnings("ignore", message="Creating legend with loc")
        figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    return Image(buffer.getvalue(), format="png", alt=alt.strip())
