"""The command `python -m minisw.search`: reading, searching in batches, resuming, and mistakes of the user."""

from __future__ import annotations

import json
import os
import signal
from types import SimpleNamespace

import pytest

from minisw import records
from minisw.judges.discriminative import DiscriminativeJudge
from minisw.judges.generative import GenerativeJudge
from minisw.judges.saved import Facts, LoadedJudge
from minisw.problems.own import read_problems
from minisw.prompts import ENGLISH
from minisw.recipe import ModelKnobs, PolicyKnobs, ProblemKnobs, Recipe
from minisw.search import __main__ as command
from minisw.search import loading


@pytest.fixture
def solve(scene, tmp_path, monkeypatch):
    """`solve(problems, *options)`: run the command on these rows with scripted models; returns the rows it has written."""
    loads = []

    def load(policy, judge, votes):
        s = scene()
        s.policy.lm.causal_lm = SimpleNamespace(num_parameters=lambda: 1000)
        loads.append((policy, judge, votes, s.sampler))
        return s.policy, s.judge

    monkeypatch.setattr(command, "load_search", load)

    def run(rows, *options, out="answers.jsonl", method="chunk_reset", budget=900, batch=2):
        path = tmp_path / "problems.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        given = ["--method", method, "--budget", str(budget), "--out", str(tmp_path / out), "--batch", str(batch)]
        command.main([str(path), "--policy", str(tmp_path / "p"), "--judge", str(tmp_path / "j"), *given, *options])
        return [json.loads(line) for line in (tmp_path / out).read_text(encoding="utf-8").splitlines()]

    run.loads, run.folder = loads, tmp_path
    return run


ROWS = [{"question": f"Q{n}?", "answer": str(n), "id": f"é{n}"} for n in range(11, 16)]


# --- what it does --------------------------------------------------------------------------------------------------------


def test_every_problem_gets_an_answer_in_order(solve, capsys):
    rows = solve(ROWS)
    assert [row["problem_id"] for row in rows] == ["é11", "é12", "é13", "é14", "é15"]
    assert {row["method"] for row in rows} == {"chunk_reset"}
    assert all(row["correct"] is (row["answer"] == row["problem_id"][1:]) for row in rows)
    assert '"é11"' in (solve.folder / "answers.jsonl").read_text(encoding="utf-8")
    sampler = solve.loads[0][3]
    assert sum(row["policy_tokens"] + row["judge_tokens"] for row in rows) == sum(sampler.sampled.values())
    assert solve.loads[0][:3] == (solve.folder / "p", solve.folder / "j", 1)
    mean, of_judge = sum(sampler.sampled.values()) / 5, sampler.sampled["judge"] / 5
    compute = 2 * 1000 * (sum(sampler.sampled.values()) + sum(sampler.prefilled.values())) / 5
    right = sum(row["correct"] for row in rows)
    said = capsys.readouterr()
    assert said.out == (
        f"5 problems, {right} of 5 right; {mean:.0f} tokens per problem, {of_judge:.0f} of them the judge's; "
        f"{compute:.2g} FLOPs\n"
    )
    assert "chunk_reset: 5 in " in said.err  # progress


def test_answers_and_ids_are_optional(solve, capsys):
    rows = solve([{"question": " Q11? "}, {"question": "Q12?", "id": 7, "answer": 12}, {"question": "Q13?", "answer": None}])
    assert [row["problem_id"] for row in rows] == ["1", "7", "3"]
    assert [row["correct"] is None for row in rows] == [True, False, True]
    assert " of 1 right;" in capsys.readouterr().out
    assert any("SOLVE-CHUNKED Q11?<" in text for _, text, *_ in solve.loads[0][3].calls)
    solve([{"question": "Q11?"}], out="other.jsonl")
    assert capsys.readouterr().out.startswith("1 problems; ")


def test_options_reach_the_method(solve, monkeypatch):
    calls = []

    def method(problems, policy, judge, budget, seed, progress):
        calls.append(([p.id for p in problems], budget, seed))
        progress(len(problems))
        return [records.Answer(p.id, "majority", None, False, 1) for p in problems]

    monkeypatch.setitem(command.METHODS, "majority", method)
    solve(ROWS, "--votes", "4", method="majority", budget=77, batch=3)
    solve(ROWS, "--seed", "5", method="majority", budget=77, batch=3, out="other.jsonl")
    solve(ROWS[3:], method="majority", budget=77, batch=3, out="third.jsonl")
    assert [(ids, budget) for ids, budget, _ in calls] == [(["é11", "é12", "é13"], 77), (["é14", "é15"], 77)] * 2 + [
        (["é14", "é15"], 77)
    ]
    seeds = [seed for *_, seed in calls]
    assert len(set(seeds[:4])) == 4
    assert seeds[4] == seeds[1]  # the seed depends on the batch's problems, and not on those before them
    assert [load[2] for load in solve.loads] == [4, 1, 1]


# --- interrupted searches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill_after", [0, 1, 2])
def test_a_killed_search_resumes_and_gives_the_same_answers(solve, monkeypatch, kill_after):
    whole = solve(ROWS, out="whole.jsonl")
    real, left = command.METHODS["chunk_reset"], [kill_after]

    def dying(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setitem(command.METHODS, "chunk_reset", dying)
    with pytest.raises(KeyboardInterrupt):
        solve(ROWS)
    out = solve.folder / "answers.jsonl"
    assert (len(out.read_text(encoding="utf-8").splitlines()) if out.exists() else 0) == 2 * kill_after
    monkeypatch.setitem(command.METHODS, "chunk_reset", real)
    assert solve(ROWS) == whole
    again = solve.loads[-1][3]
    assert sum(row["policy_tokens"] for row in whole[2 * kill_after :]) == again.sampled["policy"]  # nothing is solved twice


def test_a_kill_while_answers_are_written_loses_one_batch(solve, monkeypatch):
    """A child process is killed when the second batch's answers are on disk, but not yet in their place."""
    whole = solve(ROWS, out="whole.jsonl")
    replace, out = os.replace, solve.folder / "answers.jsonl"

    def deadly(source, target):
        if target == out and out.exists():
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    child = os.fork()
    if child == 0:
        os.replace = deadly
        try:
            solve(ROWS)
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert out.read_text(encoding="utf-8").count("\n") == 2 and out.with_name("answers.jsonl.part").exists()
    assert solve(ROWS) == whole


def test_a_finished_search_samples_nothing_when_it_is_run_again(solve, capsys):
    whole = solve(ROWS)
    first = capsys.readouterr().out
    assert solve(ROWS) == whole and not solve.loads[-1][3].calls and capsys.readouterr().out == first


def test_a_file_of_another_search_is_left_alone(solve, capsys):
    solve(ROWS)
    out = solve.folder / "answers.jsonl"
    before = out.read_text(encoding="utf-8")
    for changes, named in (
        ({"budget": 901}, "budget"),
        ({"method": "majority"}, "method"),
        ({"batch": 3, "budget": 5}, "budget, batch"),
    ):
        stopped(capsys, lambda changes=changes: solve(ROWS, **changes), f"another search (other {named}): give --out a new file")
    stopped(capsys, lambda: solve(ROWS, "--seed", "1"), "(other seed)")
    stopped(capsys, lambda: solve(ROWS, "--votes", "2"), "(other votes)")
    stopped(capsys, lambda: solve(ROWS[:4]), "(other problems)")
    for field in ("question", "answer"):  # with the same ids
        stopped(capsys, lambda field=field: solve([*ROWS[:4], ROWS[4] | {field: "9"}]), "(other problems)")
    stopped(capsys, lambda: solve(ROWS, "--judge", "elsewhere"), "(other judge)")
    stopped(capsys, lambda: solve(ROWS, "--policy", "elsewhere"), "(other policy)")
    assert out.read_text(encoding="utf-8") == before
    out.write_text("".join(before.splitlines(keepends=True)[:3]), encoding="utf-8")  # not a whole batch
    stopped(capsys, lambda: solve(ROWS), "answers.jsonl has been changed: give --out a new file")
    out.write_text("".join(before.splitlines(keepends=True)[1:3]), encoding="utf-8")
    stopped(capsys, lambda: solve(ROWS), "answers.jsonl has been changed: give --out a new file")
    out.write_text("no JSON\n", encoding="utf-8")
    stopped(capsys, lambda: solve(ROWS), "answers.jsonl:1: ")
    (solve.folder / "answers.jsonl.settings.json").write_text("[]")
    stopped(capsys, lambda: solve(ROWS), "answers of another search")
    (solve.folder / "answers.jsonl.settings.json").unlink()
    stopped(capsys, lambda: solve(ROWS), "answers.jsonl exists and is no search that can be resumed: give --out a new file")


# --- mistakes of the user ------------------------------------------------------------------------------------------------


def stopped(capsys, run, message):
    """`run` ends with one line that holds `message`, and exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run()
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == "" and said.err.count("\n") == 1 and said.err.startswith("minisw: ")
    assert message in said.err, said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "Q?"}\nnot JSON\n', "problems.jsonl:2: not JSON"),
        ("[" * 100_000, "problems.jsonl:1: not JSON"),
        ('{"question": "Q?"}\n\n["Q?"]\n', 'problems.jsonl:3: a problem is an object with a "question"'),
        ('{"problem": "Q?"}', 'problems.jsonl:1: a problem is an object with a "question"'),
        ('{"question": " "}', "problems.jsonl:1: a problem is an object"),
        ('{"question": 7}', "problems.jsonl:1: a problem is an object"),
        ('{"question": "Q?", "answer": [1]}', 'problems.jsonl:1: "answer" must be a text or a number'),
        ('{"question": "Q?", "id": true}', 'problems.jsonl:1: "id" must be a text or a number'),
        ('{"question": "Q?", "id": 2}\n{"question": "R?"}', "problems.jsonl:2: a second problem with the id '2'"),
        ("\n", "problems.jsonl holds no problem"),
        (b"\xff\xfe", "problems.jsonl is not UTF-8 text"),
        (None, "problems.jsonl: No such file or directory"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "problems.jsonl"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        read_problems(path)
    assert message in str(error.value)


def test_separators_inside_a_text_do_not_split_a_line(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"question": "a\u2028b"}\r\n{"question": "c"}', encoding="utf-8")
    assert [(p.id, p.question, p.answer) for p in read_problems(tmp_path / "p.jsonl")] == [("1", "a\u2028b", ""), ("2", "c", "")]


def test_bad_options_are_one_line(solve, capsys):
    for flag, value in (("--budget", "0"), ("--votes", "0"), ("--batch", "0"), ("--seed", "-1")):
        least = 0 if flag == "--seed" else 1
        stopped(capsys, lambda f=flag, v=value: solve(ROWS, f, v), f"{flag} is {value}: it must be at least {least}")
    stopped(capsys, lambda: solve(ROWS, method="guess"), "invalid choice: 'guess'")
    stopped(capsys, lambda: solve(ROWS, "--budget", "many"), "see python -m minisw.search --help")
    stopped(capsys, lambda: command.main(["problems.jsonl"]), "the following arguments are required: --policy, --judge")
    stopped(capsys, lambda: solve(ROWS, out="nowhere/answers.jsonl"), "nowhere; make it, or give --out another file")
    assert solve.loads == []  # nothing is loaded before all is checked
    for flag, least in (("--budget", "1"), ("--votes", "1"), ("--batch", "1"), ("--seed", "0")):
        solve(ROWS[:1], flag, least, out=f"{flag}.jsonl")


# --- loading -------------------------------------------------------------------------------------------------------------


class Loaded:
    """A base that records what is loaded onto it."""

    def __init__(self):
        self.loaded = []

    def load_adapter(self, name, folder):
        self.loaded.append((name, folder))


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A run folder with a policy, and a judge beside it; `saved.judge` is what `load_judge` returns, `saved.facts` its model."""
    model = ModelKnobs(slots=7)
    recipe = Recipe(model=model, policy=PolicyKnobs(max_chunks=3), problems=ProblemKnobs(prompts="english"))
    folder = tmp_path / "run" / "segment" / "policy"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    records.write_json(tmp_path / "run" / "recipe.json", recipe.to_json())
    context = SimpleNamespace(lm=Loaded(), sampler="the judge's", analysis=True)
    judge = LoadedJudge(context, "judge", "stepwiser", Facts(model))
    here = SimpleNamespace(folder=folder, judge=judge, facts=SimpleNamespace(model=model), bases=[], model=model)
    monkeypatch.setattr(loading, "load_judge", lambda path: judge)
    monkeypatch.setattr(loading, "read_facts", lambda path: here.facts)
    monkeypatch.setattr(loading, "load_base", lambda knobs: here.bases.append(knobs) or Loaded())
    monkeypatch.setattr(loading, "make_sampler", lambda lm, knobs: ("a new one", knobs.slots))
    return here


def test_policy_and_judge_share_a_model_of_the_same_base(saved):
    policy, judge = loading.load_search(saved.folder, "judge")
    assert policy.lm is saved.judge.context.lm and policy.sampler == "the judge's" and saved.bases == []
    assert policy.lm.loaded == [("policy", saved.folder)] and policy.adapter == "policy"
    assert policy.knobs.max_chunks == 3 and policy.prompts is ENGLISH
    assert isinstance(judge, GenerativeJudge) and (judge.adapter, judge.votes, judge.temperature) == ("judge", 1, 0.0)
    saved.facts.model = ModelKnobs(slots=7, device="cpu")  # a judge is saved without its device
    assert loading.load_search(saved.folder, "judge")[0].sampler == "the judge's"


def test_another_base_or_a_merged_judge_needs_a_second_model(saved):
    saved.facts.model = ModelKnobs(name="other")
    policy, judge = loading.load_search(saved.folder, "judge", votes=3)
    assert saved.bases == [saved.model] and policy.lm is not judge.context.lm and policy.sampler == ("a new one", 64)
    assert (judge.votes, judge.temperature) == (3, 1.0) and judge.context.lm.loaded == []
    saved.facts.model, saved.judge.adapter = saved.model, None
    loading.load_search(saved.folder, "judge")
    assert saved.bases == [saved.model] * 2


def test_a_classifier_can_search_too_but_not_vote(saved):
    saved.judge.facts = Facts(saved.model, threshold=0.7, request="judge", kind="discriminative")
    _, judge = loading.load_search(saved.folder, "judge")
    assert isinstance(judge, DiscriminativeJudge) and (judge.adapter, judge.threshold, judge.request) == ("judge", 0.7, "judge")
    with pytest.raises(ValueError, match="always gives the same answer: leave votes at 1"):
        loading.load_search(saved.folder, "judge", 2)


def test_a_folder_without_a_policy_is_one_line(saved, tmp_path):
    with pytest.raises(ValueError, match=r"no policy in .*nothing: it has no adapter_config.json; give a run's segment/policy"):
        loading.load_search(tmp_path / "nothing", "judge")
    (tmp_path / "run" / "recipe.json").unlink()
    with pytest.raises(ValueError, match=r"recipe.json is missing: the policy must lie in its run folder"):
        loading.load_search(saved.folder, "judge")
