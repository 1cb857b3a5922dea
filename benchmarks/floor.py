"""How close decoding is to the machine's limit, and how its cost grows with the size of the work.

    python -m benchmarks.floor [--setting embedded]

The limit of one decoding step is the larger of two times: bytes of weights and cache over the measured copy bandwidth, and
operations over the measured rate of matrix products of the model's own shapes. A position that prompts have in common counts
once, because it need be read only once: the limit belongs to the work, whatever the implementation.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.works import SEED, SETTINGS, Setting, judge_prompts, load, setting
from minisw.engine.machine import hardware, versions
from minisw.engine.requests import Request, Sampling, shared_prefixes
from minisw.engine.sampler import Sampler
from minisw.report.charts import line_chart
from minisw.report.html import Html, element
from minisw.report.page import style


def best(work, repeats: int = 7) -> float:
    """Seconds of the fastest of some repetitions."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def copy_bandwidth() -> float:
    """Bytes read and written per second by a copy of 256 MB."""
    source = torch.empty(64 << 20, dtype=torch.float32).normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source))


def matmul_rate(rows: int, config, dtype: torch.dtype) -> float:
    """Operations per second of the model's largest matrix product with `rows` rows."""
    x = torch.randn(rows, config.hidden_size).to(dtype)
    w = torch.randn(config.intermediate_size, config.hidden_size).to(dtype)
    return 2 * rows * w.numel() / best(lambda: [x @ w.T for _ in range(20)]) * 20


def decode(s: Setting, group: int) -> dict:
    """Decoding with all slots busy, `group` rows for each prompt, without the prefill: seconds per step, and the limit."""
    lm = load(s)
    rows, config = s.model.slots - s.model.slots % group, lm.causal_lm.config
    dtype = lm.sampling_dtype or lm.causal_lm.dtype
    prompts = judge_prompts(s, lm, rows // group)
    sampler = Sampler(lm, rows, s.model.prefill_tokens)
    requests = [Request(p, group) for p in prompts]
    long, short = s.completion, 4
    took = {n: best(lambda n=n: sampler.generate(requests, Sampling(n, 0.0), SEED), 3) for n in (long, short)}
    step = (took[long] - took[short]) / (long - short)
    weights = sum(p.numel() for p in lm.causal_lm.parameters())
    if config.tie_word_embeddings is False:
        weights -= config.vocab_size * config.hidden_size  # only a few rows of the input embeddings are read
    prefix, own = sum(map(len, prompts)) / len(prompts), (long + short) / 2
    distinct = 0  # tokens in the cache, a shared prefix counted once
    for shared in shared_prefixes(requests):
        distinct += len(shared.ids) + sum(len(prompts[i]) - common for i, common in shared.members.items())
    head = config.hidden_size // config.num_attention_heads
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * head  # numbers in the cache
    moved = (weights + position * (distinct + own * rows)) * (torch.finfo(dtype).bits // 8)
    operations = 2 * rows * weights + 4 * config.num_hidden_layers * config.num_attention_heads * head * (prefix + own) * rows
    bandwidth, rate = copy_bandwidth(), matmul_rate(rows, config, dtype)
    limit = max(moved / bandwidth, operations / rate)
    return {
        "rows": rows,
        "group": group,
        "prefix": prefix,
        "distinct_positions": distinct,
        "own": own,
        "seconds_a_step": step,
        "tokens_per_second": rows / step,
        "bytes": moved,
        "bandwidth": bandwidth,
        "seconds_by_bytes": moved / bandwidth,
        "operations": operations,
        "rate": rate,
        "seconds_by_operations": operations / rate,
        "share_of_the_limit": limit / step,
    }


def growth(s: Setting) -> dict[str, list[tuple[int, float]]]:
    """Seconds while one size grows and the others stay: branches M, number of prompts, length of a completion."""
    lm = load(s)
    sampler = Sampler(lm, s.model.slots, s.model.prefill_tokens)

    def seconds(prompts: int, branches: int, length: int) -> float:
        requests = [Request(p, branches) for p in judge_prompts(s, lm, prompts)]
        return best(lambda: sampler.generate(requests, Sampling(length, 1.0), SEED), 2)

    return {
        "branches M": [(m, seconds(16, m, 48)) for m in (4, 8, 16, 32, 64)],
        "solutions": [(n, seconds(n, 4, 48)) for n in (50, 100, 200, 400, 800)],
        "length": [(n, seconds(32, 8, n)) for n in (24, 48, 96)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="embedded", choices=tuple(SETTINGS))
    parser.add_argument("--model", default="")
    parser.add_argument("--gguf-file", default="")
    parser.add_argument("--out", type=Path, default=Path("data/results/benchmarks"))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    s = setting(chosen.setting, chosen.model, chosen.gguf_file)
    result: dict = {"hardware": hardware(), "versions": versions(), "decode": [decode(s, 1), decode(s, 8)]}
    if chosen.setting == "embedded":
        result["growth"] = growth(s)
        charts = [
            line_chart(f"Seconds by {name}", {"measured": points, "in proportion": proportional(points)}, name, "Sampling alone.")
            for name, points in result["growth"].items()
        ]
        head = element("head", Html('<meta charset="utf-8">'), element("title", "How the cost grows"), element("style", style()))
        page = element("html", head, element("body", element("h1", "How the cost grows with the work"), *charts), lang="en")
        (chosen.out / "growth.html").write_text("<!doctype html>\n" + page + "\n", encoding="utf-8")
    (chosen.out / f"floor-{chosen.setting}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["decode"], indent=1))


def proportional(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The points of a cost that is proportional to the size, from the first point on."""
    (first, seconds), *_ = points
    return [(n, seconds * n / first) for n, _ in points]


if __name__ == "__main__":
    main()
