"""A trained judge to use: load it by its folder, give it a problem and steps, get verdicts.

    from minisw import load_judge
    for judgment in load_judge("runs/tiny-0/judge/judge").judge(problem, steps): ...

    python -m minisw.judge --adapter runs/tiny-0/judge/judge problem.json
    python -m minisw.judge --adapter runs/tiny-0/judge/judge --merge FOLDER     # one model, adapter added into the weights

`problem.json` holds {"problem": "…", "steps": ["…", …]}, or a list of such (ProcessBench's own files are).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from minisw.judges.saved import load_judge, merge


def read_problems(path: Path) -> list[dict]:
    """Problems with steps out of a JSON file. Raises ValueError where it is another thing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    found = found if isinstance(found, list) else [found]
    for one in found:
        if not (
            isinstance(one, dict)
            and isinstance(one.get("problem"), str)
            and isinstance(one.get("steps"), list)
            and all(isinstance(step, str) for step in one["steps"])
        ):
            raise ValueError(f'{path} must hold {{"problem": "…", "steps": ["…", …]}}, or a list of such')
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m minisw.judge", description="Judge the steps of solutions.")
    parser.add_argument("problem", type=Path, nargs="?", help='JSON: {"problem": "…", "steps": ["…", …]}, or a list of such')
    parser.add_argument("--adapter", required=True, help="folder of a saved judge")
    parser.add_argument("--model", default="", help="folder or hub name of the base, where it is not where the judge says")
    parser.add_argument(
        "--four-bit",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="the base in 4 bits, or not, whatever the judge says",
    )
    parser.add_argument("--votes", type=int, default=1, help="sampled verdicts a step, of which the majority counts")
    parser.add_argument("--merge", type=Path, help="write the judge as one model to this folder, and judge nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON line a step")
    given = parser.parse_args()
    try:
        changes = {"name": given.model} if given.model else {}
        if given.four_bit is not None:
            changes["four_bit"] = given.four_bit
        if given.merge:
            merge(given.adapter, given.merge, **changes)
            return
        if given.problem is None:
            raise ValueError("give a JSON file with a problem and its steps")
        problems = read_problems(given.problem)
        judge = load_judge(given.adapter, **changes)
        for one in problems:
            judgments = judge.judge(one["problem"], one["steps"], given.votes)
            for number, (step, j) in enumerate(zip(one["steps"], judgments, strict=True), 1):
                if given.json:
                    print(json.dumps({"step": number, **dataclasses.asdict(j)}, ensure_ascii=False))
                    continue
                verdict = {True: "Positive", False: "Negative", None: "unreadable"}[j.verdict]
                print(f"{number}. {' '.join(step.split())}\n   {verdict}, P(Positive) {j.p_positive:.2f}")
                print("   " + j.analysis.strip().replace("\n", "\n   ") + "\n")
    except (ValueError, OSError) as error:
        print(f"minisw: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
