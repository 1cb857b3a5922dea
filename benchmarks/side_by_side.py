"""Time and memory of this package beside those of the usual tools (the "peers") for the same work.

    python -m benchmarks.side_by_side                    the embedded base
    python -m benchmarks.side_by_side --setting 0.5b --model FOLDER --gguf-file FILE
    python -m benchmarks.side_by_side --show             print the table of earlier measurements

Every measurement runs in its own process. Runs of ours and of the peer alternate, and the table compares medians, because
the speed of a machine varies over time. Writes data/results/benchmarks/SETTING.json. Needs the extra `bench` (TRL):
pip install -c constraints.txt -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from minisw.engine.machine import hardware, versions

# work: (peer, what is compared, highest ratio ours / peer that we accept)
TABLE = {
    "grpo": ("TRL GRPOTrainer, transformers' generation", "seconds per step", 0.5),
    "annotate": ("model.generate on every (prefix, branch), length-sorted", "seconds", 0.25),
    "judge": ("model.generate, length-sorted", "seconds", 0.5),
    "logprobs": ("log-softmax over all logits at once, vocabulary 151,936, 8 × 512", "seconds", 1.5),
}
BARS_REAL = {"annotate": 0.5}  # with a real model
MEMORY_BARS = {"grpo": 0.6, "logprobs": 0.25}


def measure(work: str, side: str, setting: str, model: list[str]) -> dict:
    """Measure one side in a process of its own. Raises RuntimeError, with the process's last lines, if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.works", work, side, setting, *model], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{work} {side}: {' '.join(done.stderr.strip().splitlines()[-3:])}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(work: str, setting: str, model: list[str], rounds: int, measure: Callable[..., dict] = measure) -> dict:
    """Measure both sides in turn, `rounds` times; returns medians and ratios. `time_ratio` is per token."""
    measured: dict[str, list[dict]] = {"ours": [], "peer": []}
    for number in range(rounds):
        for side in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            last = measure(work, side, setting, model)
            measured[side].append(last)
            print(
                f"  {work} {side} {number + 1}: {statistics.median(last['seconds']):.2f} s, {last['peak_gb']:.2f} GB",
                file=sys.stderr,
                flush=True,
            )
    seconds = {side: statistics.median(t for run in runs for t in run["seconds"]) for side, runs in measured.items()}
    # `added_gb`: memory that the work adds, for works that are small beside the process itself
    peak = {side: statistics.median(run.get("added_gb", run["peak_gb"]) for run in runs) for side, runs in measured.items()}
    tokens = {side: runs[0]["tokens"] for side, runs in measured.items()}
    return {
        "work": work,
        "peer": TABLE[work][0],
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": {side: tokens[side] / seconds[side] for side in seconds},
        "peak_gb": peak,
        "time_ratio": (seconds["ours"] / tokens["ours"]) / (seconds["peer"] / tokens["peer"]),
        "memory_ratio": peak["ours"] / peak["peer"],
        "runs": measured,
    }


def table(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    head = ("work", "peer", "ours, s", "peer, s", "time, ours / peer", "bar", "memory, ours / peer", "bar", "tokens/s, ours")
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append(
            (
                row["work"],
                row["peer"],
                f"{row['seconds']['ours']:.2f}",
                f"{row['seconds']['peer']:.2f}",
                f"**{row['time_ratio']:.2f}**",
                f"≤ {row['bar']}",
                f"{row['memory_ratio']:.2f}",
                f"≤ {row['memory_bar']}" if row["memory_bar"] else "",
                f"{row['tokens_per_second']['ours']:.0f}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="embedded", choices=("embedded", "0.5b"))
    parser.add_argument("--only", nargs="+", default=list(TABLE), choices=list(TABLE))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="", help="folder or hub name of the real model")
    parser.add_argument("--gguf-file", default="")
    parser.add_argument("--out", type=Path, default=Path("data/results/benchmarks"))
    parser.add_argument("--show", action="store_true", help="print the table of earlier measurements, and measure nothing")
    chosen = parser.parse_args()
    model = [part for part in (chosen.model, chosen.gguf_file) if part]
    chosen.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    path = chosen.out / f"{chosen.setting}.json"
    if path.exists():  # keep the results of works that are not measured now
        rows = [row for row in json.loads(path.read_text(encoding="utf-8"))["rows"] if row["work"] not in chosen.only]
    if chosen.show:
        if not path.exists():
            raise SystemExit(f"no results in {path}: measure first")
        print(table(json.loads(path.read_text(encoding="utf-8"))["rows"]))
        return
    if "grpo" in chosen.only and importlib.util.find_spec("trl") is None:
        raise SystemExit("benchmarks: TRL is not installed: pip install -c constraints.txt -e '.[bench]'")
    for work in chosen.only:
        try:
            row = compare(work, chosen.setting, model, chosen.rounds)
        except RuntimeError as error:
            raise SystemExit(f"benchmarks: {error}") from None
        row["bar"], row["memory_bar"] = (BARS_REAL if model else {}).get(work, TABLE[work][2]), MEMORY_BARS.get(work)
        rows.append(row)
        rows.sort(key=lambda row: list(TABLE).index(row["work"]))
        result = {"setting": chosen.setting, "hardware": hardware(), "versions": versions(), "rows": rows}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
