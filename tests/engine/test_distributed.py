"""Two processes on a CPU: the same samples and the same gradients as one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import torch
torch.set_num_threads(1)
from minisw import processes
from minisw.grpo import train_grpo
from minisw.model import load_base
from minisw.recipe import JudgeKnobs, Lora, ModelKnobs
from minisw.rollout import Request, Sampler, Sampling

lm = load_base(ModelKnobs(autocast="", sampling_dtype="", device="cpu"))
prompts = [lm.chat(f"Tom has {n} apples and buys {n + 3}. How many has he?") for n in range(2, 7)]
sampler = Sampler(lm, 6)
samples = sampler.generate([Request(p, 3) for p in prompts], Sampling(12, 1.0), 1)
lm.new_adapter("judge", Lora(4, 8), 0)
knobs = JudgeKnobs(steps=2, prompts=4, group=4, lr=1e-2, max_new_tokens=10, kl=0.0, updates=2, temperature=1.0)
metrics = train_grpo(lm, "judge", prompts, lambda i, text: float(len(text) % 2), knobs, sampler, 200, 0)
weights = {name: p.flatten()[:50].tolist() for name, p in lm.adapter_parameters("judge").items()}
if processes.rank() == 0:
    out = {"samples": [[c.ids for c in g] for g in samples], "metrics": metrics, "weights": weights, "tokens": sampler.tokens}
    open(sys.argv[1], "w").write(json.dumps(out))
processes.barrier()
"""


def launched(count: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    many = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(29500 + os.getpid() % 1000)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.run(
        [sys.executable, *(many if count > 1 else []), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_two_processes_sample_and_learn_as_one(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = []
    for count in (1, 2):
        done = launched(count, tmp_path, str(program), f"out{count}.json")
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads((tmp_path / f"out{count}.json").read_text()))
    one, two = found
    assert one["samples"] == two["samples"] and one["tokens"] == two["tokens"]
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert a.keys() == b.keys() and all(a[key] == pytest.approx(b[key], abs=1e-4, rel=1e-3) for key in a)
    for name, values in one["weights"].items():
        assert values == pytest.approx(two["weights"][name], abs=2e-4)


SMALL = (
    "--problems.train 12 --problems.validation 8 --problems.test 4 --segment.samples 1 --segment.training.epochs 1 "
    "--segment.max-new-tokens 160 --annotate.problems 12 --annotate.samples 2 --annotate.branches 2 --annotate.max-solutions 4 "
    "--model.sampling-dtype= --model.autocast= --stage segment"
).split()


def test_a_stage_of_a_run_writes_the_same_files(tmp_path):
    folders = []
    for count in (1, 2):
        done = launched(count, tmp_path, "-m", "minisw.reproduce", "--out", f"run{count}", *SMALL)
        assert done.returncode == 0, done.stderr[-2000:]
        folders.append(tmp_path / f"run{count}" / "segment")
    names = [sorted(p.name for p in folder.rglob("*.jsonl")) for folder in folders]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        first, second = (next(folder.rglob(name)).read_text() for folder in folders)
        if name.startswith("base"):  # before any training: not even rounding differs in what is sampled in fp32
            assert first == second
        assert len(first.splitlines()) == len(second.splitlines())
