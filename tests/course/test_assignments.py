"""Assignments as files, cut bodies, variants and mutants: all pure text, no process is started."""

import ast
import builtins
import json

import pytest

from minisw.course import mutants, skeleton, table
from minisw.course.assignments import Function, all_assignments, module_file, read_assignment
from minisw.course.mutants import Mutant, StaleMutant
from minisw.course.relations import expect, failures, same, with_arguments
from minisw.verify import remote
from minisw.verify.remote import Failure

ASSIGNMENTS = all_assignments()
A2 = ASSIGNMENTS["a2"]

SOURCE = '''"""A module."""

from __future__ import annotations

import math
from minisw.prompts import OPEN

SIZE = len(OPEN)


def first(a: int, b: float = 0.5, *, c: int = 3) -> float:
    """What it does.

    In two lines.
    """
    # how
    return a * b  # the answer


def second(x):
    return first(x) + 1


def third(x): return x
'''

# --- source text -----------------------------------------------------------------------------------------------------------


def test_cutting_keeps_signature_and_docstring_and_leaves_the_rest():
    text = skeleton.cut(SOURCE, ["first", "second"])
    tree = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert ast.get_docstring(tree["first"]) == "What it does.\n\nIn two lines."
    assert ast.unparse(tree["first"].args) == "a: int, b: float=0.5, *, c: int=3"
    assert [ast.unparse(node) for node in tree["first"].body[1:]] == ["raise NotImplementedError"]
    assert [ast.unparse(node) for node in tree["second"].body] == ["raise NotImplementedError"]
    assert "def third(x): return x\n" in text and "SIZE = len(OPEN)" in text
    assert "answer" not in text and "# how" not in text


def test_cutting_nothing_changes_nothing():
    assert skeleton.cut(SOURCE, []) == SOURCE


def test_an_unknown_function_is_an_error():
    with pytest.raises(KeyError, match="there is no function fourth"):
        skeleton.cut(SOURCE, ["fourth"])


def test_settings_replace_defaults_and_constants():
    text = skeleton.with_settings(SOURCE, "m", {"m.first.b": 0.25, "m.first.c": 7, "m.OPEN": "<step>", "other.first.b": 9})
    assert "def first(a: int, b: float = 0.25, *, c: int = 7) -> float:" in text
    names: dict = {}
    exec(text, names)
    assert names["SIZE"] == len("<step>") and names["first"](2) == 0.5
    with pytest.raises(KeyError):
        skeleton.with_settings(SOURCE, "m", {"m.first.d": 1})


def test_a_replaced_function_leaves_its_neighbours():
    text = skeleton.replace_function(SOURCE, "second", "def second(x):\n    return 0")
    names: dict = {}
    exec(text, names)
    assert names["second"](1) == 0 and names["first"](4) == 2 and names["third"](5) == 5


# --- assignments -------------------------------------------------------------------------------------------------------------


def test_a_variant_never_has_the_packages_values_and_the_default_always():
    assert ASSIGNMENTS["a1"].settings("")["minisw.chunks.CLOSE"] == "</chunk>"
    assert all(value == A2.variants[name][0] for name, value in A2.settings("").items())
    for year in range(30):
        assert all(value != A2.variants[name][0] for name, value in A2.settings(str(year)).items())
    assert A2.settings("2027") == A2.settings("2027")
    assert len({json.dumps(A2.settings(str(year))) for year in range(30)}) > 10


def test_settings_of_the_package_are_those_of_the_variant_without_a_name():
    for assignment in ASSIGNMENTS.values():
        for function in assignment.functions:
            source = assignment.source(function.module)
            names: list[dict] = [{}, {}]
            exec(source, names[0])
            exec(skeleton.with_settings(source, function.module, assignment.settings("")), names[1])
            right, left = (values[function.name] for values in names)
            assert right.__defaults__ == left.__defaults__
            constants = [{name: value for name, value in values.items() if name.isupper()} for values in names]
            assert constants[0] == constants[1]


def test_points_must_add_up(tmp_path):
    (tmp_path / "assignment.toml").write_text('title = "x"\nbugs = 1\npreamble = ""\n[functions]\n"a.b" = 59\n')
    with pytest.raises(ValueError, match="the points of the functions must add up to 60"):
        read_assignment(tmp_path)


def test_without_assignments_the_reason_is_said(tmp_path):
    with pytest.raises(ValueError, match="there are no assignments in .*: run this command from a checkout"):
        all_assignments(tmp_path)


def test_names_of_functions_and_files():
    function = Function("minisw.labels.abs_q", 5)
    assert (function.module, function.name) == ("minisw.labels", "abs_q")
    assert module_file("minisw.labels").name == "labels.py" and module_file("minisw.engine").name == "__init__.py"
    assert module_file("extra", A2.folder) == A2.folder / "extra.py"


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_what_students_get_has_no_solution(name):
    assignment = ASSIGNMENTS[name]
    for variant in ("", "2027"):
        text = skeleton.student_file(assignment, variant)
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        assert [f.name for f in functions] == [f.name for f in assignment.functions]
        for node in functions:
            assert ast.get_docstring(node) and [ast.unparse(n) for n in node.body[1:]] == [skeleton.STUB]
        names: dict = {}
        exec(text, names)
        with pytest.raises(NotImplementedError):
            names[functions[0].name](*[None] * len(functions[0].args.args))


def test_what_a_submission_may_import_is_cut_and_needs_no_heavy_library():
    modules = skeleton.visible_modules(A2, A2.settings("2027"))
    assert set(modules) == {"minisw", "minisw.labels", "minisw.recipe", "minisw.records"}
    assert modules["minisw"] == ""
    tree = {node.name: node for node in ast.parse(modules["minisw.labels"]).body if isinstance(node, ast.FunctionDef)}
    graded = {f.name for f in A2.functions if f.module == "minisw.labels"}
    assert {name for name, node in tree.items() if ast.unparse(node.body[-1]) == skeleton.STUB} == graded
    n = A2.settings("2027")["minisw.labels.rel_effective.n"]
    assert ast.unparse(tree["rel_effective"].args).endswith(f"n: int={n}")
    whole = skeleton.visible_modules(A2, A2.settings(""), whole=True)
    assert skeleton.STUB not in whole["minisw.labels"] and set(whole) == set(modules)


def test_hidden_functions_are_cut_though_not_graded_and_submodules_come_along():
    a4, a5 = (skeleton.visible_modules(ASSIGNMENTS[name], ASSIGNMENTS[name].settings("")) for name in ("a4", "a5"))
    for modules, module, name in ((a4, "minisw.evaluate.metrics", "accuracies"), (a5, "minisw.search.budget", "total_costs")):
        assert ast.unparse(skeleton.function_node(modules[module], name).body[-1]) == skeleton.STUB
    assert "return" in skeleton.function_source(a4["minisw.evaluate.metrics"], "harmonic_mean")
    whole = skeleton.visible_modules(ASSIGNMENTS["a5"], ASSIGNMENTS["a5"].settings(""), whole=True)
    assert skeleton.STUB not in whole["minisw.search.budget"]
    assert "minisw.verify.algebra" in a5  # from minisw.verify import algebra
    for library, modules, imported in (("torch", a4, False), ("torch", a5, False), ("numpy", a4, True), ("numpy", a5, False)):
        assert remote._import(modules, library) is imported


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_setting_and_function_is_in_the_handout(name):
    assignment = ASSIGNMENTS[name]
    text = (assignment.folder / "handout.md").read_text(encoding="utf-8")
    for setting, value in assignment.settings("").items():
        assert "{{" + ".".join(setting.split(".")[-2:]) + "}}" in text or (isinstance(value, str) and value in text)
    filled = assignment.filled(text, "2027")
    assert "{{" not in filled and all(str(value) in filled for value in assignment.settings("2027").values())
    assert "<chunk>" not in filled + skeleton.student_file(assignment, "2027") + mutants.bugs_file(assignment, "2027")
    assert all(f"`{f.name}(" in text and f"({f.points} points" in text for f in assignment.functions)
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("<details>"))


# --- mutants -----------------------------------------------------------------------------------------------------------------


def test_a_stale_mutant_is_named():
    for old, times in (("nothing like it", 0), ("q", 4)):
        with pytest.raises(StaleMutant, match=f"mutant 'mine': '{old}' is {times} times in abs_q"):
            mutants.source_with(A2, "abs_q", Mutant("mine", "abs_q", old, "x"))


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_counterexample_is_one(name):
    assignment = ASSIGNMENTS[name]
    found = assignment.load("mutants").MUTANTS
    assert len(found) >= 20 and len({(m.function, m.name) for m in found}) == len(found)
    assert {m.function for m in found} == {f.name for f in assignment.functions}
    for mutant in found:
        if mutant.counterexample is not None:
            right, wrong = (
                mutants.function_of(assignment, mutant.function),
                mutants.function_of(assignment, mutant.function, mutant),
            )
            assert table._differ(right, wrong, mutant.counterexample), mutant


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_mutant_is_caught_and_every_relation_catches_one(name):
    """In this process, without the endless and the large ones: the command `mutants` does the same in the worker."""
    assignment = ASSIGNMENTS[name]
    relations, rows = assignment.load("relations").RELATIONS, []
    assert set(relations) == {f.name for f in assignment.functions}
    for mutant in assignment.load("mutants").MUTANTS:
        if mutant.endless or mutant.large:
            continue
        right = mutants.function_of(assignment, mutant.function)
        wrong = mutants.function_of(assignment, mutant.function, mutant)
        statuses = {
            relation.__name__: "wrong" if failures([relation], wrong, right, f"0/{mutant.function}") else "ok"
            for relation in relations[mutant.function]
        }
        row = {"assignment": name, "function": mutant.function, "mutant": mutant.name, "relations": statuses}
        rows.append(row | {"endless": False})
    assert table.problems(rows) == []


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_reference_passes_with_any_seed_and_variant(name):
    assignment = ASSIGNMENTS[name]
    relations = assignment.load("relations").RELATIONS
    for turn in range(5):
        for function in assignment.functions:
            reference = mutants.function_of(assignment, function.name, variant=str(turn) if turn else "")
            assert failures(relations[function.name], reference, reference, f"{turn}/{function.name}") == {}


VARIED = {
    "a1": {"tag", "parse_chunks", "cut_like"},
    "a2": {"rel_effective", "rel_ratio", "relative_progress"},
    "a4": {"judge_prompt", "parse_verdict", "verdict_prefix", "calibration_error"},
    "a5": {"chunk_reset"},
    "a3": {"target_logprobs"},
}


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_packages_defaults_fail_the_anchors_of_other_variants(name):
    assignment = ASSIGNMENTS[name]
    relations = assignment.load("relations").RELATIONS
    for function in VARIED[name]:
        for year in range(5):
            old = mutants.function_of(assignment, function)
            new = mutants.function_of(assignment, function, variant=f"{year}")
            assert relations[function][0].__name__ in failures(relations[function], old, new, f"{year}")


@pytest.mark.parametrize("name", ["a2", "a4", "a5"])
def test_other_variants_offer_other_bugs_under_neutral_names(name):
    assignment = ASSIGNMENTS[name]
    offered = {variant: mutants.bugs(assignment, variant) for variant in ("", "2026", "2027")}
    assert all(list(bugs) == [f"bug_{i}" for i in range(1, assignment.bugs + 1)] for bugs in offered.values())
    assert len({str(bugs) for bugs in offered.values()}) == 3
    text = mutants.bugs_file(assignment, "2027")
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert [f.name for f in functions] == list(offered["2027"])
    names: dict = {}
    exec(text, names)
    for bug, mutant in offered["2027"].items():
        wrong = mutants.function_of(assignment, mutant.function, mutant, "2027")
        assert table._differ(wrong, names[bug], mutant.counterexample) is False


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_file_of_bugs_defines_every_name_that_it_uses(name):
    for variant in ("", "2026", "2027", "x", "y"):
        tree = ast.parse(mutants.bugs_file(ASSIGNMENTS[name], variant))
        nodes = list(ast.walk(tree))
        defined = {alias.asname or alias.name for n in nodes if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names}
        defined |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        defined |= {n.arg for n in nodes if isinstance(n, ast.arg)}
        defined |= {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        used = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        assert used - defined - set(dir(builtins)) == set()


@pytest.mark.parametrize("name", ["a4", "a5"])
def test_every_bug_that_may_be_offered_runs_with_what_students_have(name):
    assignment = ASSIGNMENTS[name]
    for mutant in assignment.load("mutants").MUTANTS:
        if mutant.counterexample is not None:
            wrong = mutants.function_of(assignment, mutant.function, mutant)
            source = mutants.source_with(assignment, mutant.function, mutant)
            names: dict = {}
            exec(f"{assignment.preamble}\n{skeleton.function_source(source, mutant.function)}", names)
            if mutant.name == "overflow":  # its bug is that it raises
                continue
            assert table._differ(wrong, names[mutant.function], mutant.counterexample) is False, mutant


def row(relations: dict, **other) -> dict:
    return {"assignment": "a", "function": "f", "mutant": "m", "relations": relations, "endless": False} | other


def test_problems_of_the_table():
    assert table.problems([row({"r": "wrong"})]) == []
    assert table.problems([row({"r": "ok"})]) == ["a f: mutant 'm' is not caught", "a f: relation r catches no mutant"]
    assert table.problems([row({"r": "time"})]) == ["a f: mutant 'm' is not caught", "a f: relation r catches no mutant"]
    assert table.problems([row({"r": "time"}, endless=True)]) == []
    assert table.problems([row({"r": "wrong", "s": "ok"}), row({"r": "ok", "s": "exception"})]) == []
    assert table.problems([row({"r": "wrong"}, counterexample=False)]) == [
        "a f: mutant 'm': its counterexample shows no difference"
    ]
    assert table.problems([row({"r": "wrong"}, counterexample=True)]) == []


# --- comparing and running relations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "a,b,equal",
    [
        ([1.0, (2, "x")], (1, [2, "x"]), True),
        (0.1 + 0.2, 0.3, True),
        (1.0, 1.00001, False),
        (float("inf"), float("inf"), True),
        (float("nan"), float("nan"), False),
        (1, True, False),
        (0.0, False, False),
        ([1], [True], False),
        (True, True, True),
        (None, None, True),
        (None, 0, False),
        ("1", 1, False),
        ([1, 2], [1], False),
        ({"a": 0.3}, {"a": 0.1 + 0.2}, True),
        ({"a": 1}, {"b": 1}, False),
        ([], {}, False),
    ],
)
def test_same(a, b, equal):
    assert same(a, b) is equal and same(b, a) is equal


def test_what_was_expected_is_said():
    with pytest.raises(AssertionError, match=r"^q = 1: expected \[True\], got \[False\]$"):
        expect([False], [True], "q = 1")
    with pytest.raises(AssertionError, match="got a huge number"):
        expect(10**5000, 1, "q")


def test_of_long_values_the_place_is_shown_where_they_differ():
    words = [f"word {i}" for i in range(20)]
    with pytest.raises(AssertionError) as raised:
        expect([*words, "got"], [*words, "wanted"], "words")
    assert "expected …" in str(raised.value) and "'wanted'" in str(raised.value) and "'got'" in str(raised.value)
    assert len(str(raised.value)) < 300


def failing(*args, **kwargs):
    raise Failure("exception", "IndexError: list index out of range")


@pytest.mark.parametrize(
    "args,kwargs,end",
    [
        (([1, 2], "a"), {"gamma": 0.5}, "range, called with ([1, 2], 'a', gamma=0.5)"),
        ((["x" * 500],), {}, "x…)"),
        ((len, 1), {}, "range"),
    ],
)
def test_an_error_shows_the_arguments_unless_one_is_a_function(args, kwargs, end):
    with pytest.raises(Failure) as raised:
        with_arguments(failing)(*args, **kwargs)
    assert str(raised.value).endswith(end) and len(str(raised.value)) < 200 and raised.value.status == "exception"


def relation(name: str, error: Exception | None):
    def run(call, reference, rng):
        if error:
            raise error

    run.__name__ = name
    return run


def test_relations_behind_a_failed_anchor_or_a_dead_process_are_not_tried():
    good, bad = relation("good", None), relation("bad", AssertionError("so\nit is"))
    odd, dead = relation("odd", TypeError("len")), relation("dead", Failure("died", "it ended"))
    raised = relation("raised", Failure("exception", "ValueError"))
    run = lambda *relations: failures(relations, None, None, "0")  # noqa: E731
    assert run(good, bad, odd) == {"bad": ("wrong", "so it is"), "odd": ("wrong", "the result has the wrong form (TypeError)")}
    assert run(bad, good) == {"bad": ("wrong", "so it is"), "good": ("wrong", "not tried")}
    assert run(good, dead, bad) == {"dead": ("died", "it ended"), "bad": ("died", "not tried")}
    assert run(good, raised, bad) == {"raised": ("exception", "ValueError"), "bad": ("wrong", "so it is")}


def test_a_relation_draws_the_same_numbers_for_the_same_seed_only():
    drawn = []

    def draws(call, reference, rng):
        drawn.append(rng.random())

    for seed in ("1", "1", "2"):
        failures([draws], None, None, seed)
    assert drawn[0] == drawn[1] != drawn[2]
