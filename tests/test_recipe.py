"""Recipes: what is written can be read back, presets are sound, and every knob is explained."""

import ast
import dataclasses
import json
from pathlib import Path

import pytest

from minisw import recipe as recipe_module
from minisw.cli import check
from minisw.presets import PRESETS
from minisw.recipe import Recipe, embedded_folder


def changed(*path: str, value: object = None, drop: bool = False) -> dict:
    """The JSON of the default recipe with one field changed, added or dropped."""
    values = Recipe().to_json()
    inner = values
    for name in path[:-1]:
        inner = inner[name]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return values


@pytest.mark.parametrize("preset", PRESETS)
def test_a_recipe_is_read_back_as_it_was_written(preset, tmp_path):
    recipe = dataclasses.replace(PRESETS[preset], seed=7)
    recipe = dataclasses.replace(recipe, problems=dataclasses.replace(recipe.problems, data_dir=Path("some") / "folder"))
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.to_json()))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json(tmp_path / "recipe.json") == Recipe.from_json(str(tmp_path / "recipe.json")) == recipe


def test_types_are_restored():
    recipe = Recipe.from_json(changed("judge", "kl", value=0))  # JSON written by hand may have 0 for 0.0
    assert isinstance(recipe.judge.kl, float) and isinstance(recipe.classifier.lrs, tuple)
    assert recipe.problems.data_dir is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("judge", "stepz", value=3), "judge has the unknown field 'stepz'"),
        (changed("referee", value={}), "recipe has the unknown field 'referee'"),
        (changed("classifier", "epochs", value=2), "classifier has the unknown field 'epochs'"),
        (changed("judge", "steps", drop=True), "judge lacks the field 'steps'"),
        (changed("search", drop=True), "recipe lacks the field 'search'"),
        (changed("judge", "steps", value="many"), "judge: steps is 'many', which is not int"),
        (changed("judge", "steps", value=True), "judge: steps is True, which is not int"),
        (changed("judge", "balanced", value=1), "judge: balanced is 1, which is not bool"),
        (changed("judge", "lr", value=None), "judge: lr is None, which is not float"),
        (changed("model", "dtype", value="fp8"), "model: dtype is 'fp8', which is not 'auto' or 'fp32'"),
        (changed("classifier", "lrs", value=0.1), "classifier: lrs is 0.1"),
        (changed("classifier", "lrs", value=["x"]), "classifier: lrs is 'x', which is not float"),
        (changed("evaluate", "parts", value=["aime"]), "evaluate: parts is 'aime', which is not 'gsm8k' or"),
        (changed("segment", "training", value=3), "training is 3, which is not Training"),
        (changed("problems", "data_dir", value=3), "data_dir is 3, which is not Path"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_in_one_line(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.from_json(values)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_recipe_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot read the recipe .*No such file"):
        Recipe.from_json(tmp_path / "recipe.json")
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        Recipe.from_json(tmp_path / "recipe.json")
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(ValueError, match="which is not Recipe"):
        Recipe.from_json(tmp_path / "recipe.json")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes_the_checks_and_has_its_own_name(preset):
    check(PRESETS[preset])
    assert PRESETS[preset].preset == preset


def test_presets_for_real_problems_annotate_no_more_than_they_teach_in_the_small():
    smoke = PRESETS["smoke"]
    assert smoke.annotate.problems <= smoke.problems.train  # minutes, not hours
    assert PRESETS["paper"].problems.train == 20_000 and PRESETS["paper"].annotate.problems == 40_000


def test_the_embedded_model_is_found():
    assert (embedded_folder() / "tokenizer.json").is_file()
    assert Recipe().model.folder() == str(embedded_folder())
    assert dataclasses.replace(Recipe().model, name="some/model").folder() == "some/model"


def test_every_knob_has_a_help_text():
    tree = ast.parse(Path(recipe_module.__file__).read_text(encoding="utf-8"))
    without = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                is_help = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                nested = isinstance(field, ast.AnnAssign) and getattr(field.annotation, "id", "")[:1].isupper()
                if isinstance(field, ast.AnnAssign) and not is_help and not nested:
                    without.append(f"{node.name}.{field.target.id}")
    assert without == []
