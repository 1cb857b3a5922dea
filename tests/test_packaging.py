"""What is installed: the packages of pyproject.toml, the embedded model in a wheel, and imports that need little."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(code: str, *paths: Path, **options) -> str:
    """What a fresh interpreter prints that finds modules in `paths` first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths or (ROOT,)))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_package_is_listed():
    folders = {p.parent for p in (ROOT / "minisw").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {*PROJECT["tool"]["setuptools"]["packages"]} == names | {f"minisw.data.{n}" for n in ("base", "results", "run")}


def test_the_tools_of_ci_are_pinned_and_installed_by_it():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    for extra in (PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]["dev"]):
        for requirement in extra:
            name = requirement.split(">")[0].split("[")[0]
            assert name in pinned, f"{name} has no version in constraints.txt"
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(command in script for command in ("ruff check", "lint-imports", "pytest"))
    assert all(os.access(ROOT / ".ci" / name, os.X_OK) for name in ("run", "notebooks"))


def test_the_layers_of_the_linter_name_every_module():
    layers = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers")["layers"]
    names = {name for layer in layers for name in layer.split(" : ")}
    package = ROOT / "minisw"
    modules = {f.stem for f in package.glob("*.py")} | {f.name for f in package.iterdir() if any(f.glob("*.py"))}
    assert names == modules - {"__init__"}
    independent = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "independence")["modules"]
    stages = {f"minisw.stages.{f.stem}" for f in (ROOT / "minisw" / "stages").glob("*.py")} - {"minisw.stages.__init__"}
    assert {*independent} == stages


@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="import-linter is not installed")
def test_no_import_points_upward_or_round_in_a_circle():
    tool = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(tool, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)
    assert done.returncode == 0, done.stdout


def test_pure_modules_load_neither_torch_nor_numpy():
    code = (
        "import sys, minisw, minisw.chunks, minisw.labels, minisw.verdicts, minisw.recipe, minisw.presets, minisw.records; "
        "print(*sorted({'torch', 'numpy', 'transformers', 'rich', 'tyro'} & {*sys.modules})); "
        "print(callable(minisw.open_run), callable(minisw.load_judge))"
    )
    assert python(code).splitlines() == ["", "True True"]


def test_the_command_line_loads_no_torch():
    assert python("import sys, minisw.cli; print('torch' in sys.modules)").strip() == "False"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of this checkout, built in a copy."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("minisw", "data/base", "data/results", "data/run"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, "./source"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


@pytest.mark.slow
def test_a_wheel_carries_all_code_the_embedded_model_the_run_that_ships_studies_and_the_style_sheet(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = {str(f.relative_to(ROOT)) for f in (ROOT / "minisw").rglob("*.py")}
    base = {f"minisw/data/base/{f.name}" for f in (ROOT / "data" / "base").iterdir() if f.is_file()}  # not first/
    assert {f"minisw/data/base/{n}" for n in ("model.safetensors", "tokenizer.json", "config.json")} <= base
    run = {f"minisw/{f.relative_to(ROOT)}" for f in (ROOT / "data" / "run").rglob("*") if f.is_file()}
    assert {f"minisw/data/run/{n}" for n in ("recipe.json", "judges/stepwiser/adapter_model.safetensors")} <= run
    results = ROOT / "data" / "results"
    read = [*(results / "gsm8k-0.5b").rglob("*.json"), *results.glob("study/*/results.json")]
    kept = {f"minisw/{f.relative_to(ROOT)}" for f in read}
    assert {f"minisw/data/results/{n}" for n in ("gsm8k-0.5b/evaluate/metrics.json", "study/ablations/results.json")} <= kept
    assert names == code | base | run | kept | {"minisw/py.typed", "minisw/report/style.css"}
    for name in base | run | kept:
        assert wheel.read(name) == (ROOT / Path(name).relative_to("minisw")).read_bytes()


@pytest.mark.slow
def test_an_installed_wheel_finds_the_embedded_model_and_the_run_that_ships_anywhere(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    code = (
        "import json, minisw, minisw.recipe as r; "
        "print(json.dumps([str(r.embedded_folder()), r.__file__, str(minisw.open_run().folder)]))"
    )
    (tmp_path / "empty").mkdir()
    found, package, run = json.loads(python(code, tmp_path / "site", cwd=tmp_path / "empty"))
    assert Path(run) == tmp_path / "site" / "minisw" / "data" / "run"
    assert Path(found) == tmp_path / "site" / "minisw" / "data" / "base" and Path(package).is_relative_to(tmp_path / "site")


def test_a_missing_embedded_model_is_one_line(tmp_path):
    shutil.copy(ROOT / "minisw" / "recipe.py", tmp_path / "recipe.py")
    code = "import recipe\ntry:\n    recipe.ModelKnobs().folder()\nexcept ValueError as error:\n    print(error)"
    printed = python(code, tmp_path, cwd=tmp_path)
    assert printed.count("\n") == 1 and "the embedded model (data/base/model.safetensors) is missing: " in printed
