"""Build and check the notebooks. NN-name.py (py:percent) is written by hand; NN-name.ipynb beside it is its executed copy.

    python -m minisw.course notebooks [NN-name …]     execute them, and check what came out
    python -m minisw.course notebooks --check         execute nothing
    python -m minisw.course notebooks --compare       execute them in an empty folder, and compare with the copies (.ci/notebooks)

A check reports, by notebook and cell:

- cells that are too long, and names of the package that a notebook redefines instead of importing them
- pictures without an alt text, headings that leave out a level, a beginning or exercises that are missing
- in the executed copy: other sources than the .py file's, cells that were not run, errors, stderr, alt texts, too many bytes
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

from minisw.records import write_json, write_text
from minisw.show import LONGEST_ALT, SHORTEST_ALT

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
CODE_LINES, CODE_COLUMNS, TEXT_WORDS = 25, 100, 150  # most of one cell
BYTES = 1_000_000  # most of one executed notebook
SECONDS, MEMORY_GB = 300, 2.0  # most of one notebook
LIVE = "live"  # the tag of cells that sample or train: their outputs depend on the CPU, their asserts must hold
PEAK = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # kB, of the kernel itself
BEGINNING = ("**You will be able to**", "**Time:**", "**Needs:**")  # in the first cell
EXERCISES = 3
NEEDED = "the notebooks need jupytext, nbclient and ipykernel: pip install 'minisw[course]'"


def main(names: Sequence[str], check: bool) -> int:
    """Build the notebooks with these names (all without any), or only check them; returns 1 if there are problems, else 0.

    Raises ValueError for a name that there is no notebook of, and without the packages of extra "course".
    """
    found, paths = [], chosen(names, FOLDER)
    for path in paths:
        found += structure(path)
        if not check and not found:
            build(path)
        found += pairing(path)
    print(*found, f"{len(paths)} notebooks, {len(found)} problems", sep="\n")
    return 1 if found else 0


def chosen(names: Sequence[str], folder: Path) -> list[Path]:
    """The .py files of the notebooks with these names, or of all in the folder. Raises ValueError for an unknown name."""
    there = {path.stem: path for path in sorted(folder.glob("[0-9]*.py"))}
    for name in names:
        if name not in there:
            raise ValueError(f"there is no notebook {name!r}: choose from {', '.join(there)}")
    return [there[name] for name in names or there]


def read(path: Path) -> list:
    """The cells of a py:percent file, as nbformat has them (`cell_type`, `source`, `metadata`)."""
    try:
        import jupytext
    except ImportError:
        raise ValueError(NEEDED) from None
    return jupytext.read(path, fmt="py:percent").cells


# --- building ------------------------------------------------------------------------------------------------------------


def build(path: Path) -> None:
    """Execute a notebook in the folder above its own, and write the .ipynb beside it.

    The file depends on the outputs alone: it has no times and no random ids. Raises what `execute` raises.
    """
    write_text(path.with_suffix(".ipynb"), execute(path, path.parent.parent)[0])


def execute(path: Path, folder: Path) -> tuple[str, float]:
    """Execute a notebook in a fresh kernel in `folder`: the text of the .ipynb, and the kernel's peak memory in GB.

    Raises ValueError if a cell fails, and TimeoutError if one takes more than `SECONDS`.
    """
    try:
        import nbclient
        import nbformat
    except ImportError:
        raise ValueError(NEEDED) from None
    notebook = nbformat.v4.new_notebook(cells=[*read(path), nbformat.v4.new_code_cell(PEAK)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    options = {"timeout": SECONDS, "startup_timeout": SECONDS, "kernel_name": "python3", "record_timing": False}
    client = nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options)
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise ValueError(f"{path.name}: a cell failed with {error.ename}: {error.evalue}") from None
    peak = int(notebook.cells.pop().outputs[0].text) / 1e6
    notebook.metadata.language_info = {"name": "python"}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return nbformat.writes(notebook) + "\n", peak


# --- a second execution, compared with the copy --------------------------------------------------------------------------------


def compare(names: Sequence[str], folder: Path, table: Path | None) -> int:
    """Execute notebooks of `folder`, each in an empty folder, and compare them with their copies; 1 if there are problems.

    `table` gets time, peak memory and problems of each notebook as JSON, after every one of them.
    """
    rows = []
    for path in chosen(names, folder):
        begin, peak = time.monotonic(), 0.0
        with tempfile.TemporaryDirectory() as empty:
            try:
                text, peak = execute(path, Path(empty))
                problems = [*pairing(path), *differences(path.stem, text, path.with_suffix(".ipynb").read_text("utf-8"))]
            except (ValueError, OSError) as error:  # TimeoutError is an OSError
                problems = [f"{path.stem}: {error}"]
        seconds = time.monotonic() - begin
        if seconds > SECONDS:
            problems.append(f"{path.stem}: {seconds:.0f} s, at most {SECONDS}")
        if peak > MEMORY_GB:
            problems.append(f"{path.stem}: {peak:.2f} GB of memory, at most {MEMORY_GB}")
        rows.append({"notebook": path.stem, "seconds": round(seconds, 1), "peak_gb": round(peak, 2), "problems": problems})
        print(f"{path.stem}: {seconds:.0f} s, {peak:.2f} GB", *problems, sep="\n    ", flush=True)
        if table:
            write_json(table, rows)
    return 1 if any(row["problems"] for row in rows) else 0


def differences(name: str, executed: str, copy: str) -> list[str]:
    """What a second execution did otherwise than the copy, both as texts of .ipynb files: a sentence for each such cell.

    The printed text of a cell must be equal unless the cell has the tag "live"; pictures are not compared, as fonts differ.
    """
    if len(executed.encode()) > BYTES:
        return [f"{name}: {len(executed.encode())} bytes, at most {BYTES}"]
    pairs, found = zip(json.loads(executed)["cells"], json.loads(copy)["cells"], strict=False), []
    for number, (new, old) in enumerate(pairs, 1):
        if new["cell_type"] == "code":
            found += [f"{name}, cell {number}: {sentence}" for sentence in _outputs(new)]
            if LIVE not in new["metadata"].get("tags", ()) and printed(new) != printed(old):
                found.append(f"{name}, cell {number}: prints {_first_change(printed(old), printed(new))}")
    return found


def printed(cell: dict) -> str:
    """All text that a cell put out, printed or as its value."""
    texts = [part for output in cell["outputs"] for part in (output.get("text"), *_of_data(output.get("data", {})))]
    return "".join("".join(text) for text in texts if text)


def _of_data(data: dict) -> list:
    return [value for kind, value in sorted(data.items()) if kind.startswith("text/")]


def _first_change(old: str, new: str) -> str:
    """The first line that differs, as it was and as it is."""
    lines = zip_longest(old.splitlines(), new.splitlines(), fillvalue="(nothing)")
    before, after = next(((a, b) for a, b in lines if a != b), (old, new))
    return f"{after[:60]!r}, not {before[:60]!r}"


# --- structure of the .py file ---------------------------------------------------------------------------------------------


def structure(path: Path) -> list[str]:
    """What is wrong with a notebook's cells, a sentence each."""
    cells = read(path)
    found = [f"{path.name}: {sentence}" for sentence in _frame(cells)]
    found += [f"{path.name}: {sentence}" for sentence in _headings(cells)]
    imported: dict[str, int] = {}  # name: number of the cell that imports it
    for number, cell in enumerate(cells, 1):
        sentences = _text(cell.source) if cell.cell_type == "markdown" else _code(cell.source, imported, number)
        found += [f"{path.name}, cell {number}: {sentence}" for sentence in sentences]
    return found


def _text(source: str) -> Iterable[str]:
    words = len(source.split())
    if words > TEXT_WORDS:
        yield f"{words} words of text, at most {TEXT_WORDS}"


def _code(source: str, imported: dict[str, int], number: int) -> Iterable[str]:
    """Problems of one code cell; adds what it imports from minisw to `imported`."""
    lines = source.splitlines()
    if len(lines) > CODE_LINES:
        yield f"{len(lines)} lines of code, at most {CODE_LINES}"
    longest = max(map(len, lines), default=0)
    if longest > CODE_COLUMNS:
        yield f"a line of {longest} columns, at most {CODE_COLUMNS}"
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minisw":
            imported |= {alias.asname or alias.name: number for alias in node.names}
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "show.picture" and len(node.args) + len(node.keywords) < 2:
            yield "a picture without an alt text"
    for name in _defined(tree):
        if name in imported or name in package_names():
            yield f"redefines {name!r} of the package: import it"
    for name in _assigned(tree):
        if name in imported:
            yield f"assigns to {name!r}, which cell {imported[name]} imports from the package"


def _defined(tree: ast.Module) -> list[str]:
    """Functions and classes that a cell defines. Methods are not among them: they hide no name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    methods = {id(node) for owner in ast.walk(tree) if isinstance(owner, ast.ClassDef) for node in owner.body}
    return [node.name for node in ast.walk(tree) if isinstance(node, kinds) and id(node) not in methods]


def _assigned(tree: ast.Module) -> list[str]:
    """Names that a cell assigns to outside functions, in the order of the first assignment."""
    inner = {id(node) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for node in ast.walk(f)}
    names = [
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in inner
    ]
    return list(dict.fromkeys(names))


@cache
def package_names() -> frozenset[str]:
    """The public functions and classes at the top of the modules of minisw."""
    package = Path(__file__).resolve().parents[1]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")]
    kinds = (ast.FunctionDef, ast.ClassDef)
    names = {node.name for tree in trees for node in tree.body if isinstance(node, kinds)}
    return frozenset(name for name in names if not name.startswith("_"))


def _frame(cells: Sequence) -> Iterable[str]:
    """Whether a notebook begins with what it teaches, costs and needs, and ends with its exercises."""
    first = cells[0].source if cells and cells[0].cell_type == "markdown" else ""
    for word in BEGINNING:
        if word not in first:
            yield f"the first cell does not say {word.strip('*')!r}"
    last = cells[-1].source if cells else ""
    count = len(re.findall(r"^\d+\. ", last, re.M))
    if not last.startswith("## Exercises") or count != EXERCISES:
        yield f"the last cell is not '## Exercises' with {EXERCISES} of them"


def _headings(cells: Sequence) -> Iterable[str]:
    """One heading of level 1, at the beginning; after it no heading is more than one level below the one before."""
    texts = [re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S) for cell in cells if cell.cell_type == "markdown"]
    levels = [(len(marks), title) for text in texts for marks, title in re.findall(r"^(#+) (.*)$", text, re.M)]
    if [level for level, _ in levels[:1]] != [1] or [level for level, _ in levels].count(1) != 1:
        yield "not exactly one heading of level 1, as the first one"
    for (before, _), (level, title) in zip(levels, levels[1:], strict=False):
        if level > before + 1:
            yield f"heading {title!r} has level {level} after level {before}"


# --- pairing with the executed copy ----------------------------------------------------------------------------------------


def pairing(path: Path) -> list[str]:
    """What is wrong with the executed copy of a notebook, a sentence each."""
    copy = path.with_suffix(".ipynb")
    if not copy.is_file():
        return [f"{copy.name} is missing: build it with python -m minisw.course notebooks {path.stem}"]
    found = [f"{copy.name}: {copy.stat().st_size} bytes, at most {BYTES}"] if copy.stat().st_size > BYTES else []
    executed, written = json.loads(copy.read_text(encoding="utf-8"))["cells"], read(path)
    sources = ["".join(cell["source"]) for cell in executed]
    if sources != [cell.source for cell in written]:
        return [*found, f"{copy.name}: its cells are not those of {path.name}: build it again"]
    for number, cell in enumerate(executed, 1):
        if cell["cell_type"] == "code":
            found += [f"{copy.name}, cell {number}: {sentence}" for sentence in _outputs(cell)]
    return found


def _outputs(cell: dict) -> Iterable[str]:
    if cell["execution_count"] is None:
        yield "was not executed"
    for output in cell["outputs"]:
        if output["output_type"] == "error":
            yield f"ended with {output['ename']}"
        if output.get("name") == "stderr":
            yield "wrote to stderr"
        if "image/png" in output.get("data", {}):
            alt = output["metadata"].get("image/png", {}).get("alt", "")
            if not SHORTEST_ALT <= len(alt) <= LONGEST_ALT:
                yield f"a picture with an alt text of {len(alt)} characters, not {SHORTEST_ALT} to {LONGEST_ALT}"
