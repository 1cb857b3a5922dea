"""The whole cycle at a toy size on the embedded model: once from start to end, and once killed at eleven points.

The points are named writes, not times (tests/run_and_kill.py), so both runs are the same on every machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minisw.pipeline import stages_of
from minisw.recipe import Recipe
from minisw.report.claims import CLAIMS

STAGES = stages_of(Recipe())
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")]

TOY = (  # fewer solutions in stages 1 and 2 would leave no labels
    "--problems.train 40 --problems.validation 8 --problems.test 4 --problems.hard 1 "
    "--segment.samples 2 --segment.training.epochs 6 --segment.training.batch 4 "
    "--annotate.problems 10 --annotate.samples 6 --annotate.keep 3 --annotate.branches 2 --annotate.max-solutions 12 "
    "--judge.labels 12 --judge.passes 1 --judge.steps 2 --judge.prompts 3 --judge.group 2 --judge.max-new-tokens 60 "
    "--classifier.max-epochs 1 --classifier.lrs 1e-3 --classifier.max-lrs 2 --evaluate.solutions 4 --evaluate.resamples 20 "
    "--judge.rs-samples 4 --evaluate.samples 2 --evaluate.pass-samples 2 "
    "--search.problems 2 --search.votes 2 --search.tries 2"
).split()
KILLS = [
    "segment/base-train.jsonl.parts/00000.jsonl",  # between two shards
    "segment/policy.checkpoint#2",  # in SFT
    "segment/policy/adapter_model.safetensors",  # while an adapter is saved
    "annotate/train.jsonl.parts/00001.jsonl",  # between two shards of rollouts
    "annotate/train.jsonl",  # shards are joined and not yet removed
    "judges/discriminative.checkpoint",  # between two learning rates
    "judges/stepwiser.checkpoint",  # between two GRPO steps
    "judges/stepwiser_tenth-curve.json",  # a training is finished and its checkpoint not yet removed
    "evaluate/discriminative.jsonl",  # between two judges
    "search/chunk-reset-tries.jsonl",  # tries are written, their answers are not
    "claims.json",  # in the report
]


def start(folder: Path, kills: list[str]) -> subprocess.Popen:
    script = Path(__file__).with_name("run_and_kill.py")
    command = [sys.executable, str(script), str(folder / "log.json"), json.dumps(kills), "--out", str(folder / "run"), *TOY]
    path = os.pathsep.join([str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with open(folder / "output.txt", "w") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of the uninterrupted and of the killed run; both are made at once, each on a core."""
    folders = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    processes = [start(folder, kills) for folder, kills in zip(folders, ([], KILLS), strict=True)]
    for folder, process in zip(folders, processes, strict=True):
        assert process.wait(timeout=1800) == 0, (folder / "output.txt").read_text()[-3000:]
    return folders


def products(folder: Path) -> dict[str, bytes]:
    """All that a run leaves behind but its times."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    return {name: content for name, content in files.items() if name not in ("run.json", "report.html", ".lock")}


def test_the_cycle_ends_in_claims_and_a_report(runs):
    folder = runs[0] / "run"
    claims = json.loads((folder / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == [spec.id for spec in CLAIMS]
    assert all(claim["measured"] is not None for claim in claims)
    facts = json.loads((folder / "run.json").read_text())
    assert all(facts["stages"][name]["finished"] for name in STAGES) and facts["stages"]["annotate"]["tokens"] > 0
    assert "<html" in (folder / "report.html").read_text()


def test_a_run_that_is_killed_everywhere_leaves_the_same_files(runs):
    whole, killed = (products(folder / "run") for folder in runs)
    assert whole.keys() == killed.keys()  # nothing is missing, and no checkpoint, shard or scratch file is left over
    assert [name for name in whole if whole[name] != killed[name]] == []
    facts = json.loads((runs[1] / "run" / "run.json").read_text())
    assert all(entry["finished"] and entry["seconds"] > 0 for entry in facts["stages"].values())
    assert list(facts["stages"]) == list(STAGES)


def test_what_was_finished_before_a_kill_is_not_made_again(runs):
    whole, last = (json.loads((folder / "log.json").read_text()) for folder in runs)
    assert [name for name in KILLS if name.partition("#")[0] not in whole] == []
    again = {name for name in last if not name.startswith(("run.json", "claims.json", "report"))}
    assert again == set()  # the last process was started after the kill in the report
