"""The whole cycle at a toy size on the embedded model: it runs, and a run killed in every stage ends in the same files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from minisw.cli import STAGES

TOY = (
    "--problems.train 100 --problems.validation 12 --problems.test 16 --problems.hard 4 --segment.training.epochs 4 "
    "--annotate.problems 16 --annotate.samples 6 --annotate.keep 3 --annotate.branches 2 --annotate.max-solutions 24 "
    "--judge.labels 24 --judge.passes 2 "
    "--judge.format-samples 1 --judge.steps 6 --judge.prompts 4 --judge.group 4 "
    "--classifier.max-epochs 2 --classifier.lrs 1e-3 --classifier.max-lrs 2 "
    "--evaluate.solutions 12 --evaluate.resamples 50 --search.problems 4 "
    "--search.votes 3 --search.tries 2 --judge.max-new-tokens 60"
).split()


def start(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "minisw.reproduce", "--out", str(folder), *TOY]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def products(folder: Path) -> dict[str, str]:
    """What a run leaves behind and must not depend on how often it was killed: all JSON but the one with times."""
    files = [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(files) if f.name != "run.json"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = start(folder)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said[-2000:]
    return folder


def test_the_cycle_ends_in_claims_and_a_report(whole):
    claims = {c["id"]: c for c in json.loads((whole / "claims.json").read_text())}
    assert len(claims) == 8 and claims["segment-fewer-chunks"]["measured"] < 1
    assert all(claim["measured"] is not None for claim in claims.values())
    facts = json.loads((whole / "run.json").read_text())
    assert all(facts["stages"][name]["finished"] for name in STAGES) and facts["stages"]["annotate"]["tokens"] > 0
    assert "<html" in (whole / "report.html").read_text()


def test_killed_in_every_stage_it_ends_in_the_same_files(whole, tmp_path):
    folder = tmp_path / "run"
    for name in STAGES[:-1]:
        process = start(folder)
        begin = time.time()
        while process.poll() is None and not any((folder / name).glob("*")) and time.time() - begin < 200:
            time.sleep(0.05)
        # in the judge's stage a little later: GRPO has then saved a step
        while name == "judge" and process.poll() is None and not (folder / "judge" / "judge.checkpoint").exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "claims.json").exists()
        if name == "judge":  # what was done before the kill is in the books
            booked = json.loads((folder / "run.json").read_text())["stages"]["judge"]
            assert booked["seconds"] > 0 and not booked["finished"]
    process = start(folder)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said[-2000:]
    expected, found = products(whole), products(folder)
    assert expected.keys() == found.keys()
    assert [name for name in expected if expected[name] != found[name]] == []
