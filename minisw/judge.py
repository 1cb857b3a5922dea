"""Use a trained judge: give it a problem and steps, get verdicts.

    from minisw import load_judge
    for judgment in load_judge("runs/tiny-0/judges/stepwiser").judge(problem, steps): ...

    python -m minisw.judge --adapter runs/tiny-0/judges/stepwiser problem.json
    python -m minisw.judge --adapter runs/tiny-0/judges/stepwiser --merge FOLDER   # one model, the adapter added into the weights

`problem.json` holds {"problem": "…", "steps": ["…", …]} or a list of such objects, as ProcessBench's files do.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from minisw.judges.saved import LoadedJudge, load_judge, merge
from minisw.options import Parser

VERDICTS = {True: "Positive", False: "Negative", None: "unreadable"}


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = Parser(prog="python -m minisw.judge", description="Judge the steps of solutions.", allow_abbrev=False)
    options.add_argument("problem", type=Path, nargs="?", help='JSON: {"problem": "…", "steps": ["…", …]}, or a list of such')
    options.add_argument("--adapter", required=True, help="folder of a saved judge")
    options.add_argument("--model", default="", help="folder or hub name of the base, if it is not where the judge's files say")
    options.add_argument(
        "--four-bit",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="load the base in 4 bits, or not, whatever the judge's files say",
    )
    options.add_argument("--votes", type=int, default=1, help="replies sampled for each step; the majority's verdict counts")
    options.add_argument("--merge", type=Path, help="write the judge as one model to this folder, and judge nothing")
    options.add_argument("--json", action="store_true", help="print one JSON line for each step")
    return options


def read_problems(path: Path) -> list[dict]:
    """The problems with steps in a JSON file. Raises ValueError, in one line, if it holds anything else."""
    try:
        problems = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON") from None
    problems = problems if isinstance(problems, list) else [problems]
    if not problems or not all(map(_is_problem, problems)):
        raise ValueError(f'{path} must hold {{"problem": "…", "steps": ["…", …]}}, or a list of such objects')
    return problems


def _is_problem(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("problem"), str)
        and isinstance(value.get("steps"), list)
        and all(isinstance(step, str) for step in value["steps"])
    )


def print_judgments(judge: LoadedJudge, problem: dict, votes: int, as_json: bool) -> None:
    """Judge one problem's steps and print a paragraph, or a JSON line, for each."""
    judgments = judge.judge(problem["problem"], problem["steps"], votes)
    for number, (step, j) in enumerate(zip(problem["steps"], judgments, strict=True), 1):
        if as_json:
            print(json.dumps({"step": number, **dataclasses.asdict(j)}, ensure_ascii=False))
            continue
        print(f"{number}. {' '.join(step.split())}\n   {VERDICTS[j.verdict]}, P(Positive) {j.p_positive:.2f}")
        print("   " + j.analysis.strip().replace("\n", "\n   ") + "\n")


def run(arguments: Sequence[str]) -> None:
    """Judge or merge as the arguments say. Raises ValueError or OSError for whatever is wrong with them."""
    options = parser().parse_args(arguments)
    changes: dict[str, object] = {"name": options.model} if options.model else {}
    if options.four_bit is not None:
        changes["four_bit"] = options.four_bit
    if options.merge:
        merge(options.adapter, options.merge, **changes)
        return
    if options.problem is None:
        raise ValueError("give a JSON file with a problem and its steps")
    problems = read_problems(options.problem)
    judge = load_judge(options.adapter, **changes)
    for problem in problems:
        print_judgments(judge, problem, options.votes, options.json)


def main() -> None:
    try:
        run(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"minisw: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
