"""The modules of the method's definitions are pure Python and quick to import."""

import json
import subprocess
import sys

PURE = ("minisw.chunks", "minisw.labels", "minisw.verdicts", "minisw.prompts", "minisw.records", "minisw.recipe")
HEAVY = {"torch", "numpy", "transformers", "peft", "accelerate", "datasets", "rich", "tyro"}

SCRIPT = """
import importlib, json, sys, time
begin = time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps({"seconds": time.process_time() - begin, "modules": sorted(sys.modules)}))
"""


def imported(*names: str) -> dict:
    """Modules loaded by importing `names` in a new interpreter, and the CPU seconds that it took."""
    return json.loads(subprocess.run([sys.executable, "-c", SCRIPT, *names], capture_output=True, text=True, check=True).stdout)


def test_pure_modules_load_no_heavy_library():
    loaded = imported(*PURE)["modules"]
    assert set(PURE) <= set(loaded)
    assert not HEAVY & set(loaded)


def test_pure_modules_do_not_import_those_above_them():
    ours = {name for name in imported(*PURE)["modules"] if name.startswith("minisw")}
    assert ours == {"minisw", *PURE}


def test_pure_modules_import_in_under_a_third_of_a_second():
    assert min(imported("minisw.chunks", "minisw.labels", "minisw.verdicts")["seconds"] for _ in range(3)) < 0.3
