"""Solve your own problems by a search that a trained judge steers.

    python -m minisw.search --policy runs/tiny-0/segment/policy --judge runs/tiny-0/judges/stepwiser \\
        --method chunk_reset --budget 2000 problems.jsonl --out answers.jsonl

One problem a line: {"question": "…"}, and optionally its "answer", to measure accuracy, and an "id" (else its line number).
--budget is in tokens of policy and judge per problem, on average over a batch; minisw/search/methods.py says how each method
spends it. Answers are written in the order of the problems, a batch at a time (`records.Answer`; "correct" is null where the
problem has no answer). An interrupted search resumes: rerun the same command. Its answers do not change, because the random
numbers of a batch depend only on the seed and the ids of its problems.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from minisw.evaluate import stats
from minisw.judges.base import seeds_from
from minisw.options import Parser
from minisw.problems.own import read_problems
from minisw.progress import progress
from minisw.records import Answer, Problem, write_text
from minisw.search.budget import flops_of, tokens
from minisw.search.files import digest, finished_answers
from minisw.search.loading import load_search
from minisw.search.methods import METHODS


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m minisw.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("problems", type=Path, metavar="PROBLEMS", help="the problems, JSON Lines")
    parser.add_argument("--policy", type=Path, required=True, metavar="FOLDER", help="a run's segment/policy")
    parser.add_argument("--judge", type=Path, required=True, metavar="FOLDER", help="a saved judge, such as judges/stepwiser")
    parser.add_argument("--method", choices=METHODS, required=True, help="how to search")
    parser.add_argument("--budget", type=int, required=True, metavar="TOKENS", help="per problem, policy and judge together")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the answers, JSON Lines")
    parser.add_argument("--votes", type=int, default=1, metavar="N", help="verdicts that the judge samples for each step")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="problems searched at once (default 32)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything random (default 0)")
    return parser


def run(options: argparse.Namespace) -> None:
    """Search and write; prints accuracy and cost. Raises ValueError for whatever is wrong with the options."""
    for flag, least in (("budget", 1), ("votes", 1), ("batch", 1), ("seed", 0)):
        if getattr(options, flag) < least:
            raise ValueError(f"--{flag} is {getattr(options, flag)}: it must be at least {least}")
    problems = read_problems(options.problems)
    folders = {name: str(getattr(options, name).resolve()) for name in ("policy", "judge")}
    settings = {key: getattr(options, key) for key in ("method", "budget", "votes", "batch", "seed")}
    answers = finished_answers(options.out, {"problems": digest(problems), **folders, **settings}, problems)
    policy, judge = load_search(options.policy, options.judge, options.votes)
    with progress(Console(stderr=True), options.method, len(problems)) as tick:
        tick(len(answers))
        for first in range(len(answers), len(problems), options.batch):
            batch = problems[first : first + options.batch]
            seed = seeds_from(options.seed)("/".join(p.id for p in batch))
            answers += METHODS[options.method](batch, policy, judge, options.budget, seed, tick)
            write_text(options.out, "".join(_row(a, p) for a, p in zip(answers, problems, strict=False)))
    sizes = [context.lm.causal_lm.num_parameters() for context in (policy, judge.context)]
    print(summary(problems, answers, *sizes))


def _row(answer: Answer, problem: Problem) -> str:
    """One line of the output."""
    unknown = {} if problem.answer else {"correct": None}
    return json.dumps({**dataclasses.asdict(answer), **unknown}, ensure_ascii=False) + "\n"


def summary(problems: Sequence[Problem], answers: Sequence[Answer], policy_parameters: int, judge_parameters: int) -> str:
    """Accuracy where it is known, and the mean cost of a problem, in one line."""
    known = [a.correct for a, p in zip(answers, problems, strict=True) if p.answer]
    accuracy = f", {sum(known)} of {len(known)} right" if known else ""
    cost = stats.mean([tokens(a) for a in answers])
    of_judge = stats.mean([a.judge_tokens for a in answers])
    compute = stats.mean([flops_of(a, policy_parameters, judge_parameters) for a in answers])
    spent = f"{cost:.0f} tokens per problem, {of_judge:.0f} of them the judge's; {compute:.2g} FLOPs"
    return f"{len(answers)} problems{accuracy}; {spent}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. A mistake of the user ends it with one line and exit status 2."""
    try:
        run(_parser().parse_args(arguments))
    except (ValueError, OSError) as error:
        print(f"minisw: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
