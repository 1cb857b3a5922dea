"""An assignment is a folder: which functions of the package a student writes, for how many points, and how to test them.

notebooks/assignments/a2-values/
    assignment.toml   title, points, functions by dotted name, variants, the first lines of student.py
    handout.md        what students read; {{function.argument}} stands for a setting of the variant
    guide.py          a notebook (py:percent): the run that ships, the student's functions on it, and a figure to begin with
    relations.py      RELATIONS: for each function its relations, the anchor first (see relations.py here)
    mutants.py        MUTANTS: wrong versions that the relations must catch (see mutants.py here)
    extra.py          if there is one: reference functions that the package does not need, with the dotted name extra.NAME
"""

from __future__ import annotations

import importlib.util
import random
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path

from minisw.course.slices import sliced

FOLDER = Path(__file__).resolve().parents[2] / "notebooks" / "assignments"
BUG_POINTS, REPORT_POINTS = 10, 30


@dataclass(frozen=True)
class Function:
    """A function that students write, such as minisw.labels.abs_q."""

    dotted: str
    points: int

    @property
    def module(self) -> str:
        return self.dotted.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.dotted.rpartition(".")[2]


@dataclass(frozen=True)
class Assignment:
    """One assignment. `variants` has, for each dotted setting, the package's value and then other values.

    A setting is a default argument ("minisw.labels.rel_effective.n") or a constant of a module ("minisw.chunks.OPEN"). Settings
    that belong together share a key, separated by a space, and have lists of values. `sliced` assignments see only the graded
    functions of a module and what these use (slices.py).
    """

    name: str
    title: str
    folder: Path
    functions: tuple[Function, ...]
    preamble: str
    bugs: int
    variants: dict[str, list]
    hidden: tuple[Function, ...] = ()  # other functions that a submission cannot import, because they hold most of an answer
    sliced: bool = False

    def settings(self, variant: str) -> dict[str, object]:
        """The value of every setting in a variant. The variant "" has the package's values; others never have them."""
        rng, settings = random.Random(f"settings/{variant}"), {}
        for names, values in self.variants.items():
            value = rng.choice(values[1:]) if variant else values[0]
            settings |= zip(names.split(), value, strict=True) if " " in names else {names: value}
        return settings

    def filled(self, text: str, variant: str) -> str:
        """A text for students with the variant's values for {{function.argument}}, and its texts (tags) for the package's."""
        defaults = self.settings("")
        for dotted, value in self.settings(variant).items():
            text = text.replace("{{" + ".".join(dotted.split(".")[-2:]) + "}}", str(value))
            text = text.replace(defaults[dotted], value) if isinstance(value, str) else text
        return text

    def module_of(self, function: str) -> str:
        """The module of a graded function, which is given by its short name."""
        return next(f.module for f in self.functions if f.name == function)

    def source(self, module: str) -> str:
        """The text of a module of the package, or of one in the assignment's folder such as "extra"."""
        text = module_file(module, self.folder).read_text(encoding="utf-8")
        names = [f.name for f in self.functions if f.module == module]
        return sliced(text, names) if self.sliced and names else text

    def load(self, name: str) -> types.ModuleType:
        """The assignment's relations.py or mutants.py as a module."""
        spec = importlib.util.spec_from_file_location(f"{self.name}_{name}", self.folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def module_file(module: str, folder: Path | None = None) -> Path:
    """The file of a module: minisw.labels in the package, one without a dot in `folder`."""
    if "." not in module and module != "minisw":
        return folder / f"{module}.py"
    path = Path(__file__).resolve().parents[2].joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def read_assignment(folder: Path) -> Assignment:
    """The assignment in a folder. Raises ValueError if its points do not add up to 60."""
    data = tomllib.loads((folder / "assignment.toml").read_text(encoding="utf-8"))
    functions = tuple(Function(name, points) for name, points in data["functions"].items())
    if sum(f.points for f in functions) != 100 - BUG_POINTS - REPORT_POINTS:
        raise ValueError(f"{folder.name}/assignment.toml: the points of the functions must add up to 60")
    name, variants = folder.name.partition("-")[0], data.get("variants", {})
    hidden = tuple(Function(dotted, 0) for dotted in data.get("hidden", []))
    rest = (data["preamble"], data["bugs"], variants, hidden, data.get("sliced", False))
    return Assignment(name, data["title"], folder, functions, *rest)


def all_assignments(folder: Path = FOLDER) -> dict[str, Assignment]:
    """Every assignment by its short name ("a2"). Raises ValueError where there are none, as in an installed wheel."""
    found = [read_assignment(path.parent) for path in sorted(folder.glob("*/assignment.toml"))]
    if not found:
        raise ValueError(f"there are no assignments in {folder}: run this command from a checkout of the repository")
    return {assignment.name: assignment for assignment in found}
