"""Several processes give the same samples, gradients and files as one; here two, on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minisw
from minisw.engine import distributed

ROOT = Path(minisw.__file__).parents[1]


@pytest.fixture
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)


def test_one_process_shares_nothing() -> None:
    assert (distributed.count(), distributed.rank(), distributed.local_rank()) == (1, 0, 0)
    assert distributed.shard([1, 2, 3]) == [1, 2, 3]
    assert distributed.all_gather({"a": 1}) == [{"a": 1}] and distributed.broadcast("x") == "x"
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)
    distributed.all_reduce_gradients([p])
    distributed.barrier()
    assert p.grad.tolist() == [1, 1]


def test_every_item_goes_to_one_process(monkeypatch: pytest.MonkeyPatch, second_of_three: None) -> None:
    items, shares = list(range(8)), []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        shares.append(distributed.shard(items))
    assert shares[1] == [1, 4, 7] and sorted(sum(shares, [])) == items


def test_a_long_wait_is_no_failure(monkeypatch: pytest.MonkeyPatch, second_of_three: None) -> None:
    """NCCL's own limit is 10 minutes; sampling and writing on rank 0 take longer."""
    given = []
    monkeypatch.setattr(distributed, "PartialState", lambda **options: given.append(options))
    distributed._state.cache_clear()
    try:
        monkeypatch.setattr(distributed, "gather_object", lambda values: values)
        distributed.all_gather(1)
        distributed.all_gather(2)
    finally:
        distributed._state.cache_clear()
    (options,) = given  # joined once
    assert options["timeout"].total_seconds() >= 3600 * 4 and options["cpu"] == (not torch.cuda.is_available())


def test_gradients_become_sums(monkeypatch: pytest.MonkeyPatch, second_of_three: None) -> None:
    """A parameter without a gradient counts as zero, and gets the others' sum."""
    monkeypatch.setattr(distributed, "_state", lambda: None)
    monkeypatch.setattr(distributed, "reduce", lambda flat, how: flat + 10 if how == "sum" else None)
    a, b = torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(3))
    a.grad = torch.arange(4.0).view(2, 2)
    distributed.all_reduce_gradients(iter([a, b]))
    assert a.grad.tolist() == [[10, 11], [12, 13]] and b.grad.tolist() == [10, 10, 10]


PROGRAM = """
import json, sys
import torch
torch.set_num_threads(1)
from minisw.engine import distributed
from minisw.engine.loading import load_base
from minisw.engine.requests import Request, Sampling
from minisw.engine.sampler import Sampler
from minisw.recipe import JudgeKnobs, Lora, ModelKnobs
from minisw.training.grpo import train_grpo

lm = load_base(ModelKnobs(autocast="", sampling_dtype="", device="cpu"))
prompts = [lm.chat(f"Tom has {n} apples and buys {n + 3}. How many has he?") for n in range(2, 7)]
sampler = Sampler(lm, 6)
samples = sampler.generate([Request(p, 3) for p in prompts], Sampling(12, 1.0), 1)
lm.new_adapter("judge", Lora(4, 8), 0)
knobs = JudgeKnobs(steps=2, prompts=4, group=4, lr=1e-2, max_new_tokens=10, kl=0.0, updates=2, temperature=1.0)
metrics = train_grpo(lm, "judge", prompts, lambda i, text: float(len(text) % 2), knobs, sampler, 200, 0)
weights = {name: p.flatten()[:50].tolist() for name, p in lm.adapter_parameters("judge").items()}
everywhere = distributed.all_gather([distributed.rank(), weights])
assert [rank for rank, _ in everywhere] == list(range(distributed.count()))
assert all(other == everywhere[0][1] for _, other in everywhere)  # all processes go on with the same weights
assert distributed.broadcast(distributed.rank()) == 0
if distributed.rank() == 0:
    out = {"samples": [[c.ids for c in g] for g in samples], "metrics": metrics, "weights": weights, "tokens": sampler.tokens}
    open(sys.argv[1], "w").write(json.dumps(out))
distributed.barrier()
"""


def launch(count: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", str(29500 + os.getpid() % 1000)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *(torchrun if count > 1 else []), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_sample_and_learn_as_one(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    results = []
    for count in (1, 2):
        done = launch(count, tmp_path, str(program), f"out{count}.json")
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads((tmp_path / f"out{count}.json").read_text(encoding="utf-8")))
    one, two = results
    assert one["samples"] == two["samples"] and one["tokens"] == two["tokens"]
    for a, b in zip(one["metrics"], two["metrics"], strict=True):
        assert a.keys() == b.keys() and all(a[key] == pytest.approx(b[key], abs=1e-4, rel=1e-3) for key in a)
    for name, values in one["weights"].items():
        assert values == pytest.approx(two["weights"][name], abs=2e-4)


SMALL = (
    "--problems.train 12 --problems.validation 8 --problems.test 4 --segment.samples 1 --segment.training.epochs 1 "
    "--policy.max-text-tokens 200 --annotate.problems 12 --annotate.samples 2 --annotate.branches 2 --annotate.max-solutions 4 "
    "--model.sampling-dtype= --model.autocast= --stage segment"
).split()


@pytest.mark.slow
def test_a_stage_of_a_run_writes_the_same_files(tmp_path: Path) -> None:
    folders = []
    for count in (1, 2):
        done = launch(count, tmp_path, "-m", "minisw.reproduce", "--out", f"run{count}", *SMALL)
        assert done.returncode == 0, done.stderr[-2000:]
        folders.append(tmp_path / f"run{count}" / "segment")
    names = [sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jsonl")) for folder in folders]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        first, second = ((folder / name).read_text(encoding="utf-8") for folder in folders)
        if Path(name).name.startswith("base"):  # sampled before any training, in fp32: equal to the last digit
            assert first == second
        assert len(first.splitlines()) == len(second.splitlines())
