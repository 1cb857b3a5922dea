"""The checks of the notebooks, on a small notebook that is broken in one way at a time, and on those of the repository."""

import json
from pathlib import Path

import pytest

pytest.importorskip("jupytext")

from minisw.course import __main__, notebooks

GOOD = """# %% [markdown]
# # 00 · Sums
#
# **You will be able to** add. **Time:** 1 minute. **Needs:** nothing.

# %%
from minisw import show
from minisw.labels import abs_q as rule
from math import pi

# %% [markdown]
# ## 1 Rules

# %%
print(rule((1, 0, 0.5)))
figure = None

# %% tags=["live"]
show.picture(
    figure,
    "An alt text",
)

# %% [markdown]
# ## Exercises
#
# 1. One.
# 2. Two.
# 3. Three.
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder of notebooks with one that is good."""
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00-sums.py").write_text(GOOD)
    return tmp_path / "notebooks"


def problems(folder: Path, old: str, new: str) -> list[str]:
    """What the structure check says of the good notebook with one passage replaced."""
    assert old in GOOD
    path = folder / "00-sums.py"
    path.write_text(GOOD.replace(old, new))
    return notebooks.structure(path)


def test_a_good_notebook_passes(folder):
    assert notebooks.structure(folder / "00-sums.py") == []
    cells = notebooks.read(folder / "00-sums.py")
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "markdown", "code", "code", "markdown"]
    assert cells[4].metadata["tags"] == ["live"]


BROKEN = {
    "too many words": ("Rules", "Rules" + " word" * 148, "cell 3: 151 words of text, at most 150"),
    "too many lines": ("figure = None", "x = 1\n" * 25, "cell 4: 26 lines of code, at most 25"),
    "too long a line": ("figure = None", "x = '" + "y" * 95 + "'", "cell 4: a line of 101 columns, at most 100"),
    "no alt text": ('\n    "An alt text",', "", "cell 5: a picture without an alt text"),
    "a function of the package": ("figure = None", "def abs_q(): ...", "cell 4: redefines 'abs_q' of the package: import it"),
    "a class of the package": ("figure = None", "class Policy: ...", "cell 4: redefines 'Policy' of the package: import it"),
    "an imported name, defined": ("figure = None", "def rule(): ...", "cell 4: redefines 'rule' of the package: import it"),
    "an imported name": ("figure = None", "rule = 1", "cell 4: assigns to 'rule', which cell 2 imports from the package"),
    "in a loop": ("figure = None", "for show in (): ...", "cell 4: assigns to 'show', which cell 2 imports from the package"),
    "a heading of level 3": ("## 1 Rules", "### Rules", "heading 'Rules' has level 3 after level 1"),
    "two first headings": ("## 1 Rules", "# Rules", "not exactly one heading of level 1, as the first one"),
    "no first heading": ("# # 00 · Sums", "# ## 00 · Sums", "not exactly one heading of level 1, as the first one"),
    "no needs": ("**Needs:** nothing.", "", "the first cell does not say 'Needs:'"),
    "no time": ("**Time:** 1 minute.", "", "the first cell does not say 'Time:'"),
    "no aim": ("**You will be able to** add.", "", "the first cell does not say 'You will be able to'"),
    "two exercises": ("# 3. Three.", "", "the last cell is not '## Exercises' with 3 of them"),
    "four exercises": ("# 3. Three.", "# 3. Three.\n# 4. Four.", "the last cell is not '## Exercises' with 3 of them"),
    "no exercises": ("## Exercises", "## More", "the last cell is not '## Exercises' with 3 of them"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_refused_by_name(name, folder):
    old, new, sentence = BROKEN[name]
    found = problems(folder, old, new)
    (line,) = found
    assert line.startswith("00-sums.py") and line.endswith(sentence)


ALLOWED = {
    "as many words": ("Rules", "Rules" + " word" * 147),
    "as many lines": ("figure = None", "x = 1\n" * 23 + "x = 1"),
    "as long a line": ("figure = None", "x = '" + "y" * 94 + "'"),
    "a name of another package": ("figure = None", "pi = 3"),
    "a name inside a function": ("figure = None", "def own():\n    rule = 1\n    return rule"),
    "a method": ("figure = None", "class Own:\n    def abs_q(self): ..."),
    "a heading in a fence": ("# ## 1 Rules", "# ## 1 Rules\n#\n# ```\n# #### no heading\n# ```"),
    "a keyword": ('"An alt text"', 'alt="An alt text"'),
    "a heading back up": ("# ## 1 Rules", "# ## 1 Rules\n#\n# ### Deep"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_at_a_bound_is_allowed(name, folder):
    assert problems(folder, *ALLOWED[name]) == []


def test_public_names_of_the_package_are_known():
    names = notebooks.package_names()
    assert {"abs_q", "Policy", "open_run", "train_grpo"} <= names and not any(name.startswith("_") for name in names)


# --- the executed copy -------------------------------------------------------------------------------------------------------


def executed(folder: Path) -> dict:
    """The executed copy of the good notebook, as a kernel would have made it."""
    cells = []
    for cell in notebooks.read(folder / "00-sums.py"):
        cells.append({"cell_type": cell.cell_type, "source": cell.source.splitlines(keepends=True), "metadata": {}})
        if cell.cell_type == "code":
            cells[-1] |= {"execution_count": 1, "outputs": []}
    cells[3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "[False, True]"}]
    data = {"output_type": "execute_result", "data": {"image/png": "AAAA"}, "metadata": {"image/png": {"alt": "x" * 40}}}
    cells[4]["outputs"] = [data]
    return {"cells": cells}


def pairing(folder: Path, notebook: dict) -> list[str]:
    (folder / "00-sums.ipynb").write_text(json.dumps(notebook))
    return notebooks.pairing(folder / "00-sums.py")


def test_a_faithful_copy_passes_and_a_missing_one_says_how_to_build_it(folder):
    missing = "00-sums.ipynb is missing: build it with python -m minisw.course notebooks 00-sums"
    assert notebooks.pairing(folder / "00-sums.py") == [missing]
    assert pairing(folder, executed(folder)) == []


@pytest.mark.parametrize("length, allowed", [(39, False), (40, True), (300, True), (301, False)])
def test_alt_texts_of_outputs_have_their_length(folder, length, allowed):
    notebook = executed(folder)
    notebook["cells"][4]["outputs"][0]["metadata"]["image/png"]["alt"] = "x" * length
    sentence = f"00-sums.ipynb, cell 5: a picture with an alt text of {length} characters, not 40 to 300"
    assert pairing(folder, notebook) == ([] if allowed else [sentence])


def test_each_fault_of_a_copy_is_refused_by_name(folder, monkeypatch):
    for change, sentence in [
        (lambda cells: cells[4]["outputs"][0].pop("metadata") and cells[4]["outputs"][0].update(metadata={}), "alt text of 0"),
        (lambda cells: cells[1].update(execution_count=None), "cell 2: was not executed"),
        (lambda cells: cells[3]["outputs"].append({"output_type": "error", "ename": "KeyError"}), "cell 4: ended with KeyError"),
        (lambda cells: cells[3]["outputs"][0].update(name="stderr"), "cell 4: wrote to stderr"),
        (lambda cells: cells[3].update(source=["print(2)"]), "its cells are not those of 00-sums.py: build it again"),
        (lambda cells: cells.pop(), "its cells are not those of 00-sums.py: build it again"),
    ]:
        notebook = executed(folder)
        change(notebook["cells"])
        (line,) = pairing(folder, notebook)
        assert line.startswith("00-sums.ipynb") and sentence in line
    size = len(json.dumps(executed(folder)))
    monkeypatch.setattr(notebooks, "BYTES", size)
    assert pairing(folder, executed(folder)) == []
    monkeypatch.setattr(notebooks, "BYTES", size - 1)
    assert pairing(folder, executed(folder)) == [f"00-sums.ipynb: {size} bytes, at most {size - 1}"]


def test_the_command_checks_and_builds(folder, capsys, monkeypatch):
    built = []

    def build(path: Path) -> None:
        built.append(path.name)
        pairing(folder, executed(folder))

    monkeypatch.setattr(notebooks, "build", build)
    assert __main__.main(["notebooks", "--check"]) == 1 and built == []
    assert capsys.readouterr().out.splitlines()[-1] == "1 notebooks, 1 problems"
    assert __main__.main(["notebooks"]) == 0 and built == ["00-sums.py"]
    assert capsys.readouterr().out == "1 notebooks, 0 problems\n"
    assert __main__.main(["notebooks", "--check", "00-sums"]) == 0
    assert __main__.main(["notebooks", "01-none"]) == 2
    assert capsys.readouterr().err == "there is no notebook '01-none': choose from 00-sums\n"
    (folder / "00-sums.py").write_text(GOOD.replace("figure = None", "rule = 1"))
    assert __main__.main(["notebooks"]) == 1 and built == ["00-sums.py"]  # a broken notebook is not executed


@pytest.mark.slow
def test_a_notebook_is_executed_in_a_fresh_kernel(folder):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    text = GOOD.replace("from minisw import show\nfrom minisw.labels import abs_q as rule\n", "")
    text = text.replace("rule((1, 0, 0.5))", "7 * 6")
    path = folder / "00-sums.py"
    path.write_text(text.replace('show.picture(\n    figure,\n    "An alt text",\n)', "import os\nprint(os.getcwd())"))
    notebooks.build(path)
    first = path.with_suffix(".ipynb").read_text()
    text_again, peak = notebooks.execute(path, folder.parent)
    assert text_again == first and 0.01 < peak < 1
    cells = json.loads(first)["cells"]
    assert "42\n" in "".join(cells[3]["outputs"][0]["text"])
    assert "".join(cells[4]["outputs"][0]["text"]) == f"{folder.parent}\n"
    assert [cell["id"] for cell in cells] == [f"cell-{n}" for n in range(6)] and notebooks.pairing(path) == []
    notebooks.build(path)
    assert path.with_suffix(".ipynb").read_text() == first
    path.write_text(text.replace("figure = None", "figure = {}['none']"))
    with pytest.raises(ValueError, match="00-sums.py: a cell failed with KeyError: 'none'"):
        notebooks.build(path)
    assert path.with_suffix(".ipynb").read_text() == first


# --- a second execution ------------------------------------------------------------------------------------------------------


def differences(folder: Path, *changes) -> list[str]:
    """What `notebooks.differences` finds if a second execution differs from the first by some changes of its cells."""
    old, new = executed(folder), executed(folder)
    for change in changes:
        change(new["cells"])
    return notebooks.differences("00-sums", json.dumps(new), json.dumps(old))


def test_a_second_execution_must_print_the_same(folder):
    def other(cells):
        cells[3]["outputs"][0]["text"] = ["[False, False]"]

    def live(cells):
        cells[3]["metadata"] = {"tags": ["live"]}

    assert differences(folder) == [] == differences(folder, other, live)
    assert differences(folder, other) == ["00-sums, cell 4: prints '[False, False]', not '[False, True]'"]
    (line,) = differences(folder, lambda cells: cells[3].update(outputs=[]))
    assert line.endswith("prints '(nothing)', not '[False, True]'")
    error = {"output_type": "stream", "name": "stderr", "text": "careful"}  # not in a live cell either
    found = differences(folder, live, lambda cells: cells[3]["outputs"].append(error))
    assert found == ["00-sums, cell 4: wrote to stderr"]


def test_values_are_compared_like_prints_and_pictures_are_not(folder):
    def table(text):
        return lambda cells: cells[3].update(
            outputs=[{"output_type": "execute_result", "data": {"text/markdown": text}, "metadata": {}}]
        )

    assert differences(folder, table("[False, True]")) == []
    assert differences(folder, table("| a |")) == ["00-sums, cell 4: prints '| a |', not '[False, True]'"]
    assert differences(folder, lambda cells: cells[4]["outputs"][0]["data"].update({"image/png": "BBBB"})) == []


def test_a_second_execution_must_be_small(folder, monkeypatch):
    size = len(json.dumps(executed(folder)))
    monkeypatch.setattr(notebooks, "BYTES", size)
    assert differences(folder) == []
    monkeypatch.setattr(notebooks, "BYTES", size - 1)
    assert differences(folder) == [f"00-sums: {size} bytes, at most {size - 1}"]


def test_the_comparison_has_a_row_for_each_notebook_and_bars_for_time_and_memory(folder, capsys, monkeypatch):
    (folder / "01-more.py").write_text(GOOD)
    pairing(folder, executed(folder))
    (folder / "01-more.ipynb").write_text((folder / "00-sums.ipynb").read_text())
    places = []

    def execute(path: Path, place: Path) -> tuple[str, float]:
        places.append(place)
        assert not list(place.iterdir())
        if path.stem == "01-more":
            raise ValueError("01-more.py: a cell failed with KeyError: 'none'")
        return json.dumps(executed(folder)), 1.234

    monkeypatch.setattr(notebooks, "execute", execute)
    table, command = folder / "table.json", ["notebooks", "--compare", "--folder", str(folder)]
    assert __main__.main([*command, "--json", str(table)]) == 1
    first, second = json.loads(table.read_text())
    assert first == {"notebook": "00-sums", "seconds": first["seconds"], "peak_gb": 1.23, "problems": []}
    assert second["problems"] == ["01-more: 01-more.py: a cell failed with KeyError: 'none'"]
    assert len({*places}) == 2 and not any(place.exists() for place in places)
    assert __main__.main([*command, "00-sums"]) == 0
    for name, bar in {"MEMORY_GB": 1.2, "SECONDS": -1}.items():
        with monkeypatch.context() as patch:
            patch.setattr(notebooks, name, bar)
            assert __main__.main([*command, "00-sums"]) == 1
            assert f"at most {bar}" in capsys.readouterr().out
    assert __main__.main([*command, "02-none"]) == 2


# --- those of the repository -------------------------------------------------------------------------------------------------


def test_the_notebooks_of_the_repository_are_in_order():
    paths = sorted(notebooks.FOLDER.glob("[0-9]*.py"))
    assert {"00-tour", "02-annotate", "03-grpo-judge", "04-other-judges", "05-search"} <= {path.stem for path in paths}
    assert [sentence for path in paths for sentence in notebooks.structure(path)] == []
    copies = [path for path in paths if path.with_suffix(".ipynb").is_file()]
    assert [sentence for path in copies for sentence in notebooks.pairing(path)] == []
