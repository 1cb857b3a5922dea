"""What notebooks show: sources as fenced Markdown, pictures with alt texts of the right length."""

import subprocess
import sys
import warnings

import pytest

from minisw import show
from minisw.labels import abs_q
from minisw.policy import Policy

pytest.importorskip("IPython")


def test_a_source_is_fenced_and_names_its_file():
    text = show.source(abs_q).data
    assert text.startswith("`minisw/labels.py`\n\n```python\ndef abs_q(q: Sequence[float]) -> list[bool]:\n")
    assert text.endswith("    return [after > 0 for after in q[1:]]\n```")
    assert show.source(Policy.propose).data.startswith("`minisw/policy.py`\n\n```python\ndef propose(\n    self,")


def test_a_picture_is_a_png_with_its_alt_text_and_is_closed():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = plt.figure()
    image = show.picture(figure, "  " + "x" * 40 + " ")
    assert image.data.startswith(b"\x89PNG") and image.alt == "x" * 40
    assert not plt.fignum_exists(figure.number)


def test_a_slow_legend_is_no_warning_but_others_are(monkeypatch):
    import matplotlib.pyplot as plt

    figure, told = plt.figure(), ['Creating legend with loc="best" can be slow with large amounts of data.', "another"]
    monkeypatch.setattr(figure, "savefig", lambda *args, **options: [warnings.warn(text, stacklevel=1) for text in told])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        show.picture(figure, "x" * 40)
    assert [str(warning.message) for warning in seen] == ["another"]


@pytest.mark.parametrize("length, allowed", [(39, False), (40, True), (300, True), (301, False)])
def test_an_alt_text_has_40_to_300_characters(length, allowed):
    import matplotlib.pyplot as plt

    figure = plt.figure()
    if allowed:
        assert show.picture(figure, "x" * length).alt
    else:
        with pytest.raises(ValueError, match=f"the alt text has {length} characters: say the picture's finding in 40 to 300"):
            show.picture(figure, " x" + "x" * (length - 1) + " ")
    plt.close("all")


def test_importing_the_package_keeps_tqdm_quiet_in_notebooks():
    code = "import minisw, warnings; warnings.warn('IProgress not found. Please update'); warnings.warn('another')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert "IProgress" not in told.replace(code, "") and "another" in told
