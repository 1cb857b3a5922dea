"""Set the kit as course work: hand out an assignment, grade submissions, test the tests.

    python -m minisw.course list
    python -m minisw.course make a2 OUT [--variant TEXT]       what students get; --format nbgrader: a source notebook
    python -m minisw.course check a2 SUBMISSION                students try their functions; no secret is needed
    python -m minisw.course grade a2 SUBMISSION [--json FILE]  a student.py, a folder or a zip
    python -m minisw.course gradebook a2 FOLDER --csv FILE     every submission in a folder; interrupted, it resumes
    python -m minisw.course mutants [a2] [--json FILE]         every wrong version is caught, every relation catches one
    python -m minisw.course ship RUN OUT                       a slim copy of a finished run, such as data/run
    python -m minisw.course notebooks [--check | --compare]    build notebooks/*.ipynb from *.py, check, or execute and compare

Submissions run in a closed process (minisw/verify/remote.py). Where this machine cannot close one, --unsafe does without
what it lacks.
Exit status: 0 graded, 2 bad input, 3 the reference fails on this machine and nothing was graded.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path

from minisw.course import grade, gradebook, mutants, nbgrader, notebooks, ship, table
from minisw.course.assignments import Assignment, all_assignments
from minisw.course.relations import NOT_TRIED
from minisw.course.skeleton import student_file
from minisw.records import write_json
from minisw.verify.sandbox import SandboxMissing

CHECK = """\"\"\"Try your functions and your counterexamples: python check.py\"\"\"

import sys
from pathlib import Path

from minisw.course.__main__ import main

sys.exit(main(["check", {name!r}, str(Path(__file__).parent), "--variant", {variant!r}]))
"""
REPORT = "# {title}: report\n\n## Question\n\n## Method\n\n## Figure, with intervals\n\n## Conclusion, and its limits\n"


def make(assignment: Assignment, out: Path, variant: str = "", form: str = "py") -> None:
    """Write what students get: neither a reference nor a grading seed. In the form "nbgrader", what the teacher gives to it.

    Raises ValueError if there is one already.
    """
    handout, guide = ((assignment.folder / name).read_text(encoding="utf-8") for name in ("handout.md", "guide.py"))
    files = {"handout.md": assignment.filled(handout, variant), "guide.ipynb": nbgrader.ipynb(nbgrader.percent_cells(guide))}
    if form == "nbgrader":
        files |= {f"{assignment.name}.ipynb": nbgrader.source_notebook(assignment, variant)}
    else:
        empty = {name: [] for name in mutants.bugs(assignment, variant)}
        files |= {
            "student.py": student_file(assignment, variant),
            "bugs.py": mutants.bugs_file(assignment, variant),
            "counterexamples.json": json.dumps(empty, indent=2) + "\n",
            "report.md": REPORT.format(title=assignment.title),
            "check.py": CHECK.format(name=assignment.name, variant=variant),
        }
    for name in ("student.py", f"{assignment.name}.ipynb"):
        if name in files and (out / name).exists():
            raise ValueError(f"{out} has a {name} already: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")


def show(result: dict) -> str:
    """A result as text: a line for each part, and a line for each relation that failed."""
    lines = []
    for part in result["parts"]:
        lines.append(f"{part['name']:<24} {part['points']:>4} of {part['of']:<3} {part['status']}")
        told = {name: sentence for name, sentence in part["failed"].items() if sentence != NOT_TRIED}
        lines += [f"    {name.replace('_', ' ')}: {sentence}" for name, sentence in told.items()]
    return "\n".join([*lines, f"{'automatic':<24} {result['automatic']:>4} of {result['of']['automatic']}"])


def parser() -> argparse.ArgumentParser:
    main, options = argparse.ArgumentParser(prog="python -m minisw.course"), argparse.ArgumentParser(add_help=False)
    options.add_argument("--variant", default="", help="a text, such as the year: other settings and other bugs")
    options.add_argument("--unsafe", action="store_true", help="do without the protections that this machine lacks")
    commands = main.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    for name, target in {"make": "out", "check": "submission", "grade": "submission", "gradebook": "folder"}.items():
        command = commands.add_parser(name, parents=[options])
        command.add_argument("assignment")
        command.add_argument(target, type=Path)
        if name == "make":
            command.add_argument("--format", choices=("py", "nbgrader"), default="py", help="a file, or a notebook for nbgrader")
        if name in ("grade", "gradebook"):
            command.add_argument("--seed", type=int, help="of the random inputs; a result names its seed")
        if name == "grade":
            command.add_argument("--json", type=Path, help="write the result here")
        if name == "gradebook":
            command.add_argument("--csv", type=Path, required=True)
            command.add_argument("--jobs", type=int, default=2)
    command = commands.add_parser("mutants")
    command.add_argument("assignment", nargs="?")
    command.add_argument("--json", type=Path)
    command = commands.add_parser("ship")
    command.add_argument("run", type=Path)
    command.add_argument("out", type=Path)
    command = commands.add_parser("notebooks")
    command.add_argument("names", nargs="*", help="such as 00-tour; all of them if none is given")
    command.add_argument("--check", action="store_true", help="execute nothing: check structure and pairing")
    command.add_argument("--compare", action="store_true", help="write no notebook: execute and compare with those that exist")
    command.add_argument("--folder", type=Path, default=notebooks.FOLDER, help="of the notebooks to compare")
    command.add_argument("--json", type=Path, help="write time, memory and problems of a comparison here")
    return main


def run(args: argparse.Namespace) -> int:
    if args.command == "ship":
        print(f"{args.out}: {ship.ship(args.run, args.out) / 1e6:.1f} MB")
        return 0
    if args.command == "notebooks":
        return notebooks.compare(args.names, args.folder, args.json) if args.compare else notebooks.main(args.names, args.check)
    assignments = all_assignments()
    if args.command == "list":
        for a in assignments.values():
            print(f"{a.name}  {a.title}: {len(a.functions)} functions")
        return 0
    if args.assignment and args.assignment not in assignments:
        raise ValueError(f"there is no assignment {args.assignment!r}: choose one of {', '.join(assignments)}")
    if args.command == "mutants":
        chosen = [assignments[args.assignment]] if args.assignment else assignments.values()
        rows = [row for a in chosen for row in table.rows(a)]
        if args.json:
            write_json(args.json, rows)
        problems = table.problems(rows)
        print(*problems, f"{len(rows)} mutants, {len(problems)} problems", sep="\n")
        return 1 if problems else 0
    assignment = assignments[args.assignment]
    if args.command == "make":
        make(assignment, args.out, args.variant, args.format)
    elif args.command == "gradebook":
        if not args.folder.is_dir():
            raise ValueError(f"{args.folder} is not a folder")
        gradebook.grade_folder(
            assignment, args.folder, args.csv, args.jobs, seed=args.seed, variant=args.variant, unsafe=args.unsafe
        )
    else:
        check = args.command == "check"  # a student's own code may run on a machine that cannot contain it
        seed = 0 if check else args.seed if args.seed is not None else secrets.randbelow(1 << 32)
        texts = grade.read_submission(args.submission)
        result = grade.grade(assignment, texts, seed, args.variant, unsafe=check or args.unsafe)
        if args.command == "grade" and args.json:
            write_json(args.json, result)
        print(show(result))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    try:
        return run(parser().parse_args(argv))
    except (ValueError, OSError, SandboxMissing) as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:  # the reference fails, or no process for submissions starts
        print(error, file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
