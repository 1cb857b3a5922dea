"""Grading assignment 2: the reference has all points, empty and hostile submissions have none, and the grader survives."""

import contextlib
import dataclasses
import json
import os
import zipfile
from pathlib import Path

import pytest

from minisw.course import grade, mutants
from minisw.course.assignments import Assignment, all_assignments
from minisw.course.relations import failures
from minisw.course.skeleton import student_file, visible_modules
from minisw.verify import remote
from minisw.verify.sandbox import SandboxMissing, missing_layers

pytestmark = pytest.mark.slow  # together half a minute: they start many worker processes

if missing_layers():
    pytest.skip(f"this machine cannot contain a submission: {missing_layers()}", allow_module_level=True)

A1, A2, A4, A5 = GRADED = [all_assignments()[name] for name in ("a1", "a2", "a4", "a5")]
every_assignment = pytest.mark.parametrize("assignment", GRADED, ids=[a.name for a in GRADED])
TWO = dataclasses.replace(A2, functions=tuple(f for f in A2.functions if f.name in ("abs_q", "mixed")))  # for quick tests
NAMES = [f.name for f in A2.functions]


def reference(variant: str = "", assignment: Assignment = A2) -> str:
    """Our own functions as a submission."""
    return mutants.submission(assignment, variant=variant)


def counterexamples(variant: str = "", assignment: Assignment = A2) -> str:
    return json.dumps({name: list(mutant.counterexample) for name, mutant in mutants.bugs(assignment, variant).items()})


def graded(source: str, examples: str = "{}", **options) -> dict:
    texts = {"student.py": source, "counterexamples.json": examples}
    result = grade.grade(options.pop("assignment", A2), texts, options.pop("seed", 1), **options)
    return result | {"by": {part["name"]: part for part in result["parts"]}}


def points_of_functions(result: dict) -> float:
    return sum(part["points"] for part in result["parts"] if part["name"] != "bugs")


@pytest.mark.parametrize("variant,seed", [("", 1), ("2027", 2)])
@every_assignment
def test_the_reference_has_all_points(assignment, variant, seed):
    texts = (reference(variant, assignment), counterexamples(variant, assignment))
    result = graded(*texts, variant=variant, seed=seed, assignment=assignment)
    assert (result["automatic"], result["of"], result["manual"]) == (70, {"automatic": 70, "manual": 30}, None)
    assert {part["status"] for part in result["parts"]} == {"ok"}
    assert (result["seed"], result["variant"], result["isolation"], result["assignment"]) == (
        seed,
        variant,
        "full",
        assignment.name,
    )


def test_a_result_can_be_repeated_from_its_seed_and_names_the_submission():
    first, second = graded(reference()), graded(reference())
    for result in (first, second):
        for part in result["parts"]:
            del part["seconds"]
    assert first == second and len(first["sha256"]) == 64
    assert graded(reference() + "#")["sha256"] != first["sha256"]


@every_assignment
def test_the_skeleton_is_not_implemented(assignment):
    result = graded(student_file(assignment), assignment=assignment)
    assert result["automatic"] == 0
    assert all(result["by"][function.name]["status"] == "not_implemented" for function in assignment.functions)


def test_a_missing_function_is_named():
    part = graded("def values(hits, correct):\n    return 1 / 0\n")["by"]
    assert part["abs_q"]["status"] == "not_implemented"
    assert part["abs_q"]["failed"]["abs_q_anchor"] == "NotImplementedError: there is no function abs_q"
    sentence = part["values"]["failed"]["values_anchor"]
    assert sentence.startswith("ZeroDivisionError: division by zero (line 2 of student.py), called with ([[True, False, ")
    assert part["values"]["failed"]["values_end_with_the_outcome"] == "not tried"
    assert part["values"]["status"] == "exception"


NULLS = {
    "zero": "0",
    "none": "None",
    "identity": "args[0]",
    "empty": "[]",
    "true": "True",
    "zeros": "[0] * len(args[0])",
    "ones": "[1] * len(args[0])",
    "all positive": "[True] * len(args[0])",
    "one fewer": "[True] * (len(args[0]) - 1)",
    "nan": "[float('nan')] * 4",
}


@every_assignment
@pytest.mark.parametrize("value", NULLS.values(), ids=NULLS.keys())
def test_null_submissions_have_no_point(value, assignment):
    """In this process: they are harmless, and the anchors decide."""
    relations = assignment.load("relations").RELATIONS
    for function in assignment.functions:
        names: dict = {}
        exec(f"def {function.name}(*args, **kwargs):\n    return {value}\n", names)
        right = mutants.function_of(assignment, function.name)
        failed = failures(relations[function.name], names[function.name], right, f"1/{function.name}")
        assert len(failed) == len(relations[function.name]), function.name


def test_a_null_submission_has_no_point():
    assert graded("".join(f"def {name}(*args):\n    return []\n" for name in NAMES))["automatic"] == 0


def test_tags_of_last_year_have_no_point_where_tags_matter():
    by = graded(reference("", A1), variant="2027", assignment=A1)["by"]
    for name in ("tag", "parse_chunks", "cut_like"):
        assert by[name]["points"] == 0 and by[name]["status"] == "wrong"
    assert by["rejoins"]["points"] == 8


@pytest.mark.parametrize("assignment", [A4, A5], ids=["a4", "a5"])
def test_last_years_judge_and_search_have_no_point_where_settings_matter(assignment):
    by = graded(reference("", assignment), variant="2027", assignment=assignment)["by"]
    names = {"a4": {"judge_prompt", "parse_verdict", "verdict_prefix", "calibration_error"}, "a5": {"chunk_reset"}}
    for function in assignment.functions:
        varied = function.name in names[assignment.name]
        assert by[function.name]["points"] == (0 if varied else function.points), function.name


def test_last_years_solution_has_no_point_for_functions_with_other_defaults():
    by = graded(reference(), counterexamples(), variant="2027")["by"]
    varied = {name.split(".")[-2] for name in A2.variants}
    assert varied == {"rel_effective", "rel_ratio", "relative_progress"}
    for name in NAMES:
        assert by[name]["points"] == (0 if name in varied else by[name]["of"]), name
    assert by["bugs"]["points"] < 10


def test_half_right_has_the_points_of_the_relations_that_hold():
    """0 after 0 as positive: the anchor of Rel-Ratio holds, its relation at zero does not."""
    mutant = next(m for m in mutants_of("rel_ratio") if m.name == "0 after 0 positive")
    part = graded(mutants.source_with(A2, "rel_ratio", mutant))["by"]["rel_ratio"]
    assert part["status"] == "wrong" and 0 < part["points"] < 10
    assert part["failed"]["rel_ratio_at_zero"].startswith("q = (0, 0, ")
    assert "not tried" not in part["failed"].values()
    assert part["points"] == round(10 * (6 - len(part["failed"])) / 6, 1)


def mutants_of(function: str) -> list:
    return [m for m in A2.load("mutants").MUTANTS if m.function == function]


HOSTILE = {  # the body of abs_q, and its status
    "endless": ("while True: pass", "time"),
    "asleep": ("import time; time.sleep(1000)", "time"),
    "memory": ("return [bytes(1 << 24) for _ in range(1000)]", "memory"),
    "exit": ("import os; os._exit(0)", "died"),
    "abort": ("import os; os.abort()", "died"),
    "fork bomb": ("import os\n    while True: os.fork()", "exception"),
    "thread": ("import _thread; _thread.start_new_thread(print, ())", "exception"),
    "stop": ("import os; os.kill(os.getpid(), 19)", "exception"),
    "stop the worker": ("import os; os.kill(1, 9)", "exception"),
    "write": ("open(HERE, 'w').write('points')", "exception"),
    "write here": ("open('result.json', 'w').write('{}')", "exception"),
    "remove": ("import os; os.unlink(HERE)", "exception"),
    "read": ("return open(HERE).read()", "exception"),
    "socket": ("import _socket; _socket.socket()", "exception"),
    "giant reply": ("return 'x' * (1 << 25)", "output"),
    "giant list": ("return [12345678] * (1 << 21)", "output time"),
    "huge integer": ("import sys; sys.set_int_max_str_digits(0); return 10 ** 10 ** 8", "time memory"),
    "long integer": ("return 1 << 100_000", "output"),
    "deep": ("x = []\n    for _ in range(100_000): x = [x]\n    return x", "output"),
    "no value": ("return lambda: 0", "output"),
    "nan": ("return [float('nan')] * 6", "wrong"),
    "wrong shape": ("return [[True]] * 6", "wrong"),
    "wrong type": ("return {'a': (1, None)}", "wrong"),
    "raises": ("raise SystemExit", "exception"),
    "million lines": ("for i in range(10 ** 5): print('points: 60')\n    return []", "wrong"),
    "forged frame": ("import os; os.write(0, b'{}' * 10_000)", "output"),
    "forged header": ("import os; os.write(0, b'\\xff' * 8)", "output"),
    "forged callback": (
        "import os; t = b'[\"callback\", [0, []]]'; os.write(0, len(t).to_bytes(4) + bytes(4) + t)",
        "output",
    ),
    "forged end": (
        "import os; t = b'[\"exited\", 0]'; os.write(0, len(t).to_bytes(4) + bytes(4) + t)",
        "died",
    ),
    "reads requests": ("import os; os.read(0, 1 << 16)", "time"),
    "stack": ("return abs_q(q)", "exception"),
}


@pytest.mark.slow  # three of them wait until their time is over
@pytest.mark.parametrize("body,status", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_function_has_no_points_and_the_others_theirs(body, status, tmp_path, monkeypatch):
    monkeypatch.setattr(grade, "LEAST_SECONDS", 2.0)
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "file"
    here.write_text("untouched")
    others = "def mixed(groups):\n    return [i for i, g in enumerate(groups) if any(g) and not all(g)]\n"
    by = graded(f"HERE = {str(here)!r}\ndef abs_q(q):\n    {body}\n{others}", assignment=TWO)["by"]
    assert by["abs_q"]["points"] == 0 and by["abs_q"]["status"] in status.split()
    assert by["mixed"]["points"] == 4
    assert here.read_text() == "untouched" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "source,status",
    [
        ("while True: pass", "time"),
        ("import os; os._exit(0)", "died"),
        ("def values(", "exception"),
        ("import minisw.engine.model", "exception"),
        ("import torch", "exception"),
        ("\0", "exception"),
    ],
)
def test_a_file_that_cannot_be_loaded_has_no_points(source, status, monkeypatch):
    monkeypatch.setattr(remote, "LOAD_SECONDS", 1.0)
    result = graded(source, assignment=TWO)
    assert result["automatic"] == 0
    assert {result["by"][name]["status"] for name in ("abs_q", "mixed")} == {status}
    assert result["by"]["abs_q"]["failed"]["abs_q_anchor"].startswith("student.py cannot be loaded: ")


@pytest.mark.parametrize(
    "source",
    [
        "from minisw.labels import *\n",
        f"from minisw.labels import {', '.join(f.name for f in A2.functions[:7])}\n",
        "import minisw.labels\nglobals().update(vars(minisw.labels))\n",
        "from minisw.labels import label, hard_estimate as abs_q\ndef rel_ratio(*a): return label(a[0], 'rel_ratio')\n",
    ],
)
def test_the_package_as_a_submission_has_no_points(source):
    result = graded(source)
    assert result["automatic"] == 0
    assert {result["by"][name]["status"] for name in NAMES} == {"not_implemented"}


@pytest.mark.parametrize(
    "assignment,source",
    [
        (A4, "from minisw.evaluate.metrics import *\nfrom minisw.evaluate.stats import *\nfrom minisw.verdicts import *\n"),
        (A4, "from minisw.evaluate.calibration import *\n"),
        (
            A4,
            "from minisw.evaluate.metrics import accuracies, harmonic_mean\n"
            "def f1_official(labels, predictions):\n    return harmonic_mean(*accuracies(labels, predictions))\n",
        ),
        (A5, "from minisw.search.budget import *\n"),
        (A5, "from minisw.search.chunk_reset import *\n"),
    ],
)
def test_neither_graded_nor_hidden_functions_can_be_imported(assignment, source):
    assert graded(source, assignment=assignment)["automatic"] == 0


def test_the_worker_imports_neither_torch_nor_the_original():
    source = (
        "import sys\n"
        "def abs_q(q):\n"
        "    names = [n for n in sys.modules if n.split('.')[0] in ('torch', 'numpy')]\n"
        "    raise ValueError(f'{names} {sorted(n for n in sys.modules if n.startswith(\"minisw\"))}')\n"
    )
    sentence = graded(source, assignment=TWO)["by"]["abs_q"]["failed"]["abs_q_anchor"]
    modules = ["minisw", "minisw.labels", "minisw.recipe", "minisw.records"]
    assert sentence.startswith(f"ValueError: [] {modules} (line 4 of student.py), called with (")


def test_one_part_cannot_change_another():
    source = reference() + (
        "\nimport random, builtins\n_q = abs_q\n"
        "def abs_q(q):\n    random.Random.shuffle = builtins.sum = builtins.all = None\n    return _q(q)\n"
    )
    by = graded(source)["by"]
    assert all(by[name]["points"] == by[name]["of"] for name in NAMES if name != "abs_q")


class FakeWorker:
    """Notes the limit of each call."""

    def __init__(self):
        self.limits, self.log = [], []

    def load(self, source):
        self.log.append(source)

    def call(self, name, args, kwargs, seconds):
        self.limits.append(seconds)
        return [name, *args, kwargs]

    def end(self):
        self.log.append("end")


def test_a_call_may_take_twenty_times_the_reference_and_at_least_five_seconds(monkeypatch):
    clock = iter([0.0, 0.1, 10.0, 10.5])
    monkeypatch.setattr(grade.time, "perf_counter", lambda: next(clock))
    seen, worker = [], FakeWorker()

    def relation(call, reference, rng):
        assert call(1, key=2) == ["f", 1, {"key": 2}]
        call(2)

    assert grade.run_part(worker, "source", "f", lambda *a, **k: seen.append((a, k)), [relation], "0") == {}
    assert worker.limits == [5.0, 10.0] and seen == [((1,), {"key": 2}), ((2,), {})] and worker.log == ["source", "end"]


def test_the_reference_is_not_run_with_functions_that_may_count_their_calls():
    seen, worker = [], FakeWorker()
    grade.run_part(worker, "", "f", lambda *a: seen.append(a), [lambda call, reference, rng: call(print)], "0")
    assert seen == [] and worker.limits == [30.0]


# --- find the bug --------------------------------------------------------------------------------------------------------


def bug_part(examples: object, **options) -> dict:
    text = examples if isinstance(examples, str) else json.dumps(examples)
    return grade.grade_bugs(A2, text, options.get("variant", ""), [])


def test_a_bug_counts_only_on_arguments_where_right_and_wrong_differ():
    found = json.loads(counterexamples())
    assert bug_part(found)["points"] == 10 and bug_part(found)["status"] == "ok"
    found["bug_1"] = []
    part = bug_part(found)
    assert (part["points"], part["status"], part["failed"]) == (8, "wrong", {"bug_1": "no arguments were submitted"})


@pytest.mark.parametrize(
    "example,sentence",
    [
        ([[0.5] * 13], "more than 12 numbers or 80 characters"),
        (["x" * 81], "more than 12 numbers or 80 characters"),
        ([1e9], "only lists, texts, true, false and numbers up to 1000 are allowed"),
        ([float("nan")], "only lists, texts, true, false and numbers up to 1000 are allowed"),
        ([{"a": 1}], "only lists, texts, true, false and numbers up to 1000 are allowed"),
        ("text", "the arguments must be a list"),
        ([1, 2, 3, 4, 5, 6], "the right function does not take these arguments: TypeError: "),
    ],
)
def test_bad_counterexamples_say_why(example, sentence):
    part = bug_part({f"bug_{i}": example for i in range(1, 6)})
    assert part["points"] == 0
    assert all(text.startswith(sentence) for text in part["failed"].values())
    assert not any("of student.py" in text for text in part["failed"].values())  # the reference failed, not the student's file


def test_good_counterexamples_reach_the_function():
    for example in ([[0.5] * 12], [["x" * 80]], [1000, -1000], [None, True]):
        assert grade._bad_example(example) == ""
    assert grade._bad_example([1001]) and grade._bad_example([-1001])


@pytest.mark.parametrize("text", ["", "[", "[]", "7", "null", "[" * 100_000])
def test_a_file_of_counterexamples_that_is_none_finds_no_bug(text):
    assert bug_part(text)["points"] == 0


def test_a_mistake_in_the_json_of_counterexamples_is_located():
    failed = bug_part('{\n  "bug_1": [[true]],\n}')["failed"]
    assert len(failed) == 5 and all(s.startswith("counterexamples.json is no JSON: ") and "line " in s for s in failed.values())


def test_a_call_that_takes_too_long_is_told_the_limits(monkeypatch):
    """A right function may be late on a busy machine, so that the sentence must say what the limit is."""
    monkeypatch.setattr(grade, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(grade, "TIMES_REFERENCE", 1.0)
    relations = A2.load("relations").RELATIONS["abs_q"]
    source = "def abs_q(q):\n    while True:\n        pass\n"
    with contextlib.closing(remote.Worker(visible_modules(A2, A2.settings("")), [])) as worker:
        failed = grade.run_part(worker, source, "abs_q", mutants.function_of(A2, "abs_q"), relations, "0")
    status, sentence = failed[relations[0].__name__]
    assert status == "time" and sentence == f"it took too long: {grade.TOO_LONG}" and "5 s (30 s" in sentence


def test_the_same_result_is_no_bug(monkeypatch):
    monkeypatch.setattr(mutants, "bugs", lambda *_: {"bug_1": mutants_of("until_first_negative")[1]})
    assert bug_part({"bug_1": [[True, True]]})["failed"] == {"bug_1": "both versions give the same result"}
    assert bug_part({"bug_1": [[False, True]]})["points"] == 10


# --- reading submissions ---------------------------------------------------------------------------------------------------


def test_a_file_a_folder_and_a_zip_are_submissions(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "student.py").write_text("x = 1")
    (tmp_path / "one" / "counterexamples.json").write_text("{}")
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("student.py", "x = 1")
        archive.writestr("../escaped", "x")
    assert grade.read_submission(tmp_path / "one") == {"student.py": "x = 1", "counterexamples.json": "{}"}
    assert grade.read_submission(tmp_path / "one" / "student.py") == {"student.py": "x = 1"}
    assert grade.read_submission(tmp_path / "one.zip") == {"student.py": "x = 1"}
    assert not (tmp_path.parent / "escaped").exists()


def hostile_path(folder: Path, kind: str) -> Path:
    path = folder / "student.py"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        path.write_bytes(b"#" * (grade.MAX_FILE + 1))
    elif kind == "latin":
        path.write_bytes(b"\xff")
    elif kind == "bomb":
        path = folder / "bomb.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("student.py", b"#" * (grade.MAX_FILE + 1))
    elif kind == "no zip":
        path = folder / "no.zip"
        path.write_bytes(b"PK")
    elif kind == "corrupt":
        hostile_path(folder, "bomb")
        path = folder / "corrupt.zip"
        data = bytearray((folder / "bomb.zip").read_bytes())
        data[60:200] = bytes(140)
        path.write_bytes(data)
    elif kind == "large zip":
        path = folder / "large.zip"
        path.write_bytes(bytes(grade.MAX_FILE + 1))
    elif kind == "link to a zip":
        hostile_path(folder, "bomb")
        path = folder / "link.zip"
        path.symlink_to(folder / "bomb.zip")
    elif kind == "empty":
        return folder
    return path


@pytest.mark.parametrize(
    "kind", ["link", "pipe", "large", "latin", "bomb", "no zip", "corrupt", "large zip", "link to a zip", "empty", "missing"]
)
def test_what_cannot_be_read_is_one_line(kind, tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read: |there is no student.py in ") as error:
        grade.read_submission(hostile_path(tmp_path, kind))
    assert "\n" not in str(error.value)


def test_a_file_of_the_largest_size_is_read(tmp_path):
    (tmp_path / "student.py").write_bytes(b"#" * grade.MAX_FILE)
    assert len(grade.read_submission(tmp_path / "student.py")["student.py"]) == grade.MAX_FILE


# --- the grader itself -----------------------------------------------------------------------------------------------------


def test_nothing_is_graded_where_the_reference_fails(monkeypatch):
    relations = {name: [lambda call, reference, rng: None] for name in NAMES}

    def impossible(call, reference, rng):
        raise AssertionError("never")

    with pytest.raises(
        grade.ReferenceFails, match=r"the reference of balanced fails here \(impossible: never\); nothing was graded"
    ):
        grade.check_reference(A2, relations | {"balanced": [impossible]}, 0, "")


def test_a_machine_without_a_layer_grades_only_if_told(monkeypatch):
    monkeypatch.setattr(grade, "missing_layers", lambda: ["Landlock"])
    with pytest.raises(SandboxMissing, match=r"it lacks: Landlock \(--unsafe does without\)"):
        graded(reference())
    result = graded(reference(), unsafe=True)
    assert result["isolation"] == "without Landlock" and points_of_functions(result) == 60
    monkeypatch.setattr(grade, "missing_layers", lambda: ["fork"])
    with pytest.raises(SandboxMissing, match="it lacks: fork"):
        graded(reference(), unsafe=True)
