"""Stage select with a scripted model: who samples what, what is judged, chosen and taught, and how policies are compared."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
from fakes import CUT, FakeLM, FakeSampler, fake_run, fake_task

from minisw import selection
from minisw.chunks import tag
from minisw.evaluate.stats import paired_bootstrap
from minisw.judges.base import AlwaysPositive
from minisw.judges.generative import GenerativeJudge
from minisw.judges.registry import Entry
from minisw.problems.files import TooFewProblems
from minisw.recipe import AnnotateKnobs, EvaluateKnobs, PolicyKnobs, ProblemKnobs, Recipe, SegmentKnobs, SelectKnobs, Training
from minisw.records import Judgment, Problem, Solution, read_jsonl, write_jsonl
from minisw.saved_run import SavedRun
from minisw.stages import select
from minisw.training import policy_sft

TRAIN = [Problem(f"train-{i}", f"TRAIN{i}?", "7") for i in range(12)]
TEST = [Problem(f"test-{i}", f"TEST{i}?", "7") for i in range(3)]


def labels(problem: Problem, chunks) -> list[bool]:
    """A chunk "bad" is wrong, and so are all behind it."""
    return ["bad" not in chunks[: i + 1] for i in range(len(chunks))]


TASK = fake_task({"train": TRAIN, "test": TEST}, exact_labels=labels)
TRAINING = Training(lr=1e-2, epochs=2, batch=2)
KNOBS = SelectKnobs(problems=4, samples=3, judges=("careful", "fooled"))
RECIPE = Recipe(
    seed=3,
    problems=ProblemKnobs(train=1, test=2),
    policy=PolicyKnobs(temperature=0.6, max_text_tokens=60, max_chunks=4),
    segment=SegmentKnobs(training=TRAINING),
    annotate=AnnotateKnobs(problems=1),
    evaluate=EvaluateKnobs(resamples=50),
    select=KNOBS,
)
METHODS = ["outcome", "careful", "fooled", "majority", "unlabelled", "exact"]

HONEST, LUCKY, WRONG = tag(["good", "\\boxed{7}"]), tag(["bad", "\\boxed{7}"]), tag(["bad", "\\boxed{9}"])
REPLIES = {  # samples of the training problems; in the second round, problems 6 to 9 have those of 2 to 5
    2: [LUCKY, HONEST, WRONG],
    3: [WRONG, WRONG, tag(["good", "fair", "\\boxed{7}"])],
    4: [WRONG, tag(["\\boxed{8}"]), HONEST + CUT],
    5: ["good \\boxed{7}", HONEST, LUCKY],
}
P = {"good": 0.8, "fair": 0.8, "bad": 0.1, "\\boxed{7}": 0.9, "\\boxed{9}": 0.9, "\\boxed{8}": 0.95}  # of the careful judge


class FakeJudge:
    """Gives every chunk a P of its own, and notes what it was asked; P None is an unreadable reply."""

    def __init__(self, name: str, p: dict[str, float | None]):
        self.name, self.p, self.asked = name, p, []

    def judge(self, steps, seed, progress=None):
        self.asked.append((list(steps), seed))
        given = [self.p[s.chunk] for s in steps]
        return [Judgment(None, p_positive=0.0) if p is None else Judgment(p >= 0.5, p_positive=p) for p in given]


@pytest.fixture
def judges(monkeypatch) -> dict[str, FakeJudge]:
    """The judges of the registry: one that is right, and one that likes what is wrong."""
    fooled = {"good": 0.3, "fair": 0.3, "bad": None, "\\boxed{7}": 0.3}
    made = {name: FakeJudge(f"the {name} judge", p) for name, p in (("careful", P), ("fooled", fooled))}
    entries = [Entry(name, name, "ours", lambda context, metrics, judge=judge: judge) for name, judge in made.items()]
    monkeypatch.setattr(select.registry, "entries", lambda recipe: entries)
    return made


@pytest.fixture
def trained(monkeypatch) -> list[dict]:
    """Arguments of every SFT, which is not carried out."""
    calls = []

    def train_sft(lm, adapter, examples, training, micro_tokens, seed, monitor):
        calls.append({"adapter": adapter, "examples": examples, "training": training, "seed": seed})
        return [{"loss": 2.0}, {"loss": 1.0}]

    monkeypatch.setattr(policy_sft, "train_sft", train_sft)
    return calls


def recipe_with(**changes) -> Recipe:
    """The recipe with other knobs of the stage."""
    return dataclasses.replace(RECIPE, select=dataclasses.replace(KNOBS, **changes))


def make_run(folder, recipe=RECIPE, task=TASK):
    """On test problem 0 every policy is right. On problem 1 the careful judge's policy is right in its first sample, the
    outcome's policy in its second, and all others in none."""
    lm = FakeLM("policy")

    def script(text: str, sample: int) -> str:
        problem = text.split("SOLVE-CHUNKED ")[1].split("?")[0]
        if problem.startswith("TRAIN"):
            number = int(problem[5:])
            return REPLIES[number if number < 6 else number - 4][sample]
        right_sample = {"careful": 0, "outcome": 1}.get(lm.active.split("_")[-1])
        return HONEST if problem == "TEST0" or sample == right_sample else WRONG

    run = fake_run(folder, recipe, task, FakeSampler(lm, script))
    if not (folder / "segment").exists():
        (folder / "segment").mkdir()
        write_jsonl(folder / "segment" / "taught.jsonl", [Solution("train-0", ("first", "taught"), "7", True)])
    return run


def metrics_of(run) -> dict:
    return json.loads((run.folder / "select" / "metrics.json").read_text())


def rows_of(run, number: int = 1) -> dict[str, dict]:
    return {row["id"]: row for row in metrics_of(run)["rounds"][number - 1]["rows"]}


def chosen(run, method: str, number: int = 1) -> list[str]:
    return [tag(s.chunks) for s in read_jsonl(run.folder / "select" / f"chosen-{number}-{method}.jsonl", Solution)]


# --- sampling ------------------------------------------------------------------------------------------------------------


def test_pools_come_from_the_policy_and_from_problems_that_no_stage_has_used(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    pools = run.sampler.calls[0]
    assert pools.adapter == "policy" and pools.counts == [3] * 4 and pools.sampling.temperature == 0.6
    assert pools.texts == [f"<user>SOLVE-CHUNKED TRAIN{i}?<reply>" for i in (2, 3, 4, 5)]  # 0 and 1: stages 1 and 2
    saved = read_jsonl(run.folder / "select" / "pools-1.jsonl", Solution)
    assert [s.problem_id for s in saved] == [f"train-{i}" for i in (2, 3, 4, 5) for _ in range(3)]


def test_every_policy_solves_the_test_problems_greedily_and_by_samples(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    tests = run.sampler.calls[1:]
    adapters = ["policy", *(f"select_1_{m}" for m in METHODS)]
    assert [call.adapter for call in tests] == [a for a in adapters for _ in range(2)]
    assert all(call.texts == [f"<user>SOLVE-CHUNKED TEST{i}?<reply>" for i in range(2)] for call in tests)
    greedy, sampled = tests[::2], tests[1::2]
    assert {(tuple(c.counts), c.sampling.temperature) for c in greedy} == {((1, 1), 0.0)}
    assert {(tuple(c.counts), c.sampling.temperature) for c in sampled} == {((4, 4), 0.6)}
    assert len({c.seed for c in sampled}) == len({c.seed for c in greedy}) == 1  # the same seeds for all policies


def test_too_few_problems_is_an_error_that_names_the_knobs(tmp_path, judges, trained):
    def load(split, count, seed):
        if count > 5:
            raise TooFewProblems(f"{count} problems wanted")
        return TRAIN[:count]

    run = make_run(tmp_path / "run", task=dataclasses.replace(TASK, load=load))
    with pytest.raises(TooFewProblems, match="6 problems wanted: 2 for stages 1 and 2, 4 others for --select.problems"):
        select.run_stage(run)


def test_the_policy_of_stage_one_is_loaded_from_its_folder(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    run.lm.adapters.clear()
    with pytest.raises(ValueError, match=f"no adapter in {run.folder / 'segment' / 'policy'}"):
        select.run_stage(run)


# --- judging and choosing ------------------------------------------------------------------------------------------------


def test_judges_are_asked_about_every_chunk_of_the_right_solutions_and_the_first_of_all_usable_ones(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    answer, wrong = "\\boxed{7}", ["bad", "\\boxed{9}"]
    asked = [  # whether the answer is right, and the solution
        (True, "train-2", ["bad", answer]),
        (True, "train-2", ["good", answer]),
        (False, "train-2", wrong),
        (False, "train-3", wrong),
        (False, "train-3", wrong),
        (True, "train-3", ["good", "fair", answer]),
        (False, "train-4", wrong),
        (False, "train-4", ["\\boxed{8}"]),
        (True, "train-5", ["good", answer]),
        (True, "train-5", ["bad", answer]),
    ]
    seeds = set()
    for name, judge in judges.items():
        ((steps, seed),) = judge.asked
        mine = [(problem, chunks) for right, problem, chunks in asked if right or name == "careful"]
        expected = [(problem, tuple(chunks[:i]), chunk) for problem, chunks in mine for i, chunk in enumerate(chunks)]
        assert [(s.problem_id, s.history, s.chunk) for s in steps] == expected
        assert all(s.question == f"TRAIN{s.problem_id[-1]}?" for s in steps)
        seeds.add(seed)
    assert len(seeds) == 2


def test_each_method_chooses_by_its_own_rule_on_the_same_problems(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    longer = REPLIES[3][2]
    pools = read_jsonl(run.folder / "select" / "pools-1.jsonl", Solution)
    picked = selection.at_random([pools[i : i + 3] for i in range(0, 12, 3)], run.seed_of("select-1"))
    assert chosen(run, "outcome") == [tag(pools[3 * i + picked[i]].chunks) for i in (0, 1, 3)]
    assert chosen(run, "careful") == chosen(run, "exact") == [HONEST, longer, HONEST]  # none of problem 4 is right and usable
    assert chosen(run, "fooled") == [LUCKY, longer, LUCKY]  # a half for an unreadable reply is more than 0.3
    assert chosen(run, "majority")[1] == WRONG and chosen(run, "outcome")[1] == longer
    for method in METHODS:
        own = read_jsonl(run.folder / "select" / f"chosen-1-{method}.jsonl", Solution)
        assert [s.problem_id for s in own] == ["train-2", "train-3", "train-5"]


def test_without_a_reference_the_first_judge_chooses_among_all_usable_solutions(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    assert chosen(run, "unlabelled") == chosen(run, "careful")  # wherever it prefers a right solution
    saved = read_jsonl(run.folder / "select" / "pools-1.jsonl", Solution)
    pools = [saved[i : i + 3] for i in range(0, 12, 3)]
    scores = [[[P.get(chunk, 0.99) for chunk in s.chunks] for s in pool] for pool in pools]
    dearest = [[[0.0] * len(s.chunks) if s.correct else [1.0] * len(s.chunks) for s in pool] for pool in pools]
    for first, expected in ((scores, [1, 2, 1, 1]), (dearest, [2, None, None, 1])):
        found = select.choose(pools, {"second": scores, "first": first}, None, 0, "first")
        for i, n in enumerate(expected):
            assert n is None or found["unlabelled"][i] == n
        assert found["first"][2] is None  # no right one is usable
    assert not pools[1][found["unlabelled"][1]].correct and not pools[2][found["unlabelled"][2]].correct
    assert "unlabelled" not in select.choose(pools, {"first": scores}, None, 0)


def test_a_judge_that_scores_all_alike_chooses_as_the_outcome_does(tmp_path, judges, trained, monkeypatch):
    entry = Entry("always_positive", "always positive", "ours", lambda context, metrics: AlwaysPositive())
    monkeypatch.setattr(select.registry, "entries", lambda recipe: [entry])
    for seed in range(2):
        run = make_run(tmp_path / f"run-{seed}", dataclasses.replace(recipe_with(judges=("always_positive",)), seed=seed))
        select.run_stage(run)
        assert chosen(run, "always_positive") == chosen(run, "outcome")
        assert rows_of(run)["always_positive"]["as_outcome"] == 1


def test_generative_judges_are_asked_for_probabilities(tmp_path, trained, monkeypatch):
    asked = []

    class Generative(GenerativeJudge):
        def judge(self, steps, seed, progress=None, probabilities=False):
            asked.append((self.adapter, probabilities))
            return [Judgment(True, p_positive=P[s.chunk]) for s in steps]

    entry = Entry("mine", "mine", "ours", lambda context, metrics: Generative(context, "mine", metrics["title"]), train=print)
    monkeypatch.setattr(select.registry, "entries", lambda recipe: [entry])
    run = make_run(tmp_path / "run", recipe_with(judges=("mine",)))
    with pytest.raises(ValueError, match=f"no adapter in {run.folder / 'judges' / 'mine'}"):
        select.run_stage(run)
    run.lm.save_adapter("mine", run.folder / "judges" / "mine")
    (run.folder / "judges" / "metrics.json").write_text(json.dumps({"mine": {"title": "my judge"}}))
    select.run_stage(run)
    assert asked == [("mine", True)] and rows_of(run)["mine"]["name"] == "my judge"
    assert "mine" in run.lm.adapters


def test_a_judge_without_an_adapter_needs_none(tmp_path, trained, monkeypatch):
    """Such as the few-shot judge, whose training only chooses examples."""
    entry = Entry("few", "few", "ours", lambda _, metrics: FakeJudge(metrics["title"], P), train=print, has_adapter=False)
    monkeypatch.setattr(select.registry, "entries", lambda recipe: [entry])
    run = make_run(tmp_path / "run", recipe_with(judges=("few",)))
    (run.folder / "judges").mkdir()
    (run.folder / "judges" / "metrics.json").write_text(json.dumps({"few": {"title": "few examples"}}))
    select.run_stage(run)
    assert rows_of(run)["few"]["name"] == "few examples"


def test_without_exact_labels_nothing_is_said_of_luck(tmp_path, judges, trained):
    run = make_run(tmp_path / "run", task=dataclasses.replace(TASK, exact_labels=None))
    select.run_stage(run)
    rows = rows_of(run)
    assert list(rows) == ["before", *METHODS[:-1]] and metrics_of(run)["rounds"][0]["pools"]["lucky"] is None
    assert all(rows[m]["lucky"] is None for m in METHODS[:-1])


# --- training ------------------------------------------------------------------------------------------------------------


def test_the_base_is_trained_on_each_set_alike(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    assert [call["adapter"] for call in trained] == [f"select_1_{m}" for m in METHODS]
    assert {call["seed"] for call in trained} == {run.seed_of("select-sft")} and {call["training"] for call in trained} == {
        TRAINING
    }
    for call, method in zip(trained, METHODS, strict=True):
        taught = tag(["first", "taught"])  # what stage 1 taught is in every set
        assert [run.lm.decode(e.completion) for e in call["examples"]] == [taught, *chosen(run, method)]
        prompts = [run.lm.decode(e.prompt) for e in call["examples"]]
        assert prompts == [f"<user>SOLVE-CHUNKED TRAIN{i}?<reply>" for i in (0, 2, 3, 5)]
        assert (run.folder / "select" / f"select_1_{method}" / "adapter_config.json").is_file()
    assert run.lm.adapters == ["policy", "select_1_careful"]  # the others are dropped after they have been measured


@pytest.mark.parametrize("count", [0, 2, 9])
def test_so_much_of_what_stage_one_taught_is_in_every_set(tmp_path, judges, trained, count):
    run = make_run(tmp_path / "run", recipe_with(taught=count))
    lines = [("first", "taught"), ("second", "taught"), ("third", "taught")]
    write_jsonl(run.folder / "segment" / "taught.jsonl", [Solution("train-0", chunks, "7", True) for chunks in lines])
    select.run_stage(run)
    for call, method in zip(trained, METHODS, strict=True):
        texts = [run.lm.decode(e.completion) for e in call["examples"]]
        assert texts == [*(tag(list(chunks)) for chunks in lines[:count]), *chosen(run, method)]
    assert metrics_of(run)["rounds"][0]["taught"] == min(count, 3)


def test_all_policies_begin_with_the_same_weights(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    seeds, new_adapter = {}, run.lm.new_adapter
    run.lm.new_adapter = lambda name, lora, seed: (seeds.update({name: seed}), new_adapter(name, lora, seed))
    select.run_stage(run)
    assert list(seeds) == [f"select_1_{m}" for m in METHODS] and set(seeds.values()) == {run.seed_of("lora-select")}


def test_the_recipe_leaves_the_stage_out_and_the_paper_has_one_round():
    knobs = Recipe().select
    assert knobs == SelectKnobs(problems=0, samples=8, judges=("stepwiser", "discriminative"), rounds=1, taught=100)


# --- metrics -------------------------------------------------------------------------------------------------------------


def test_rows_describe_every_set(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    (found,) = metrics_of(run)["rounds"]
    assert metrics_of(run)["samples"] == 3
    assert (found["round"], found["policy"], found["problems"], found["chosen"], found["taught"]) == (1, "policy", 4, 3, 1)
    assert found["pools"] == {"accuracy": 6 / 12, "with_right": 3 / 4, "lucky": 2 / 5}
    rows = rows_of(run)
    assert list(rows) == ["before", *METHODS]
    names = ["the policy that sampled", "at random among right answers", "the careful judge", "the fooled judge"]
    names += ["the most frequent answer, without a reference", "the careful judge, without a reference"]
    names += ["exact labels among right answers (ceiling)"]
    assert [row["name"] for row in rows.values()] == names
    assert [rows[m]["lucky"] for m in ("careful", "fooled", "exact")] == [0, 2 / 3, 0]
    outcome = chosen(run, "outcome")
    assert rows["outcome"]["lucky"] == sum(text == LUCKY for text in outcome) / 3
    assert [rows[m]["right"] for m in METHODS] == [1, 1, 1, 2 / 3, 1, 1]
    same = sum(a == b for a, b in zip(outcome, chosen(run, "careful"), strict=True)) / 3
    assert rows["careful"]["as_outcome"] == same and rows["outcome"]["as_outcome"] == 1
    assert rows["careful"]["chunks"] == (2 + 3 + 2) / 3
    solutions = read_jsonl(run.folder / "select" / "chosen-1-careful.jsonl", Solution)
    assert rows["careful"]["tokens"] == sum(s.tokens for s in solutions) / 3 and solutions[0].tokens == len(HONEST) + 1
    assert all(rows[m]["final_loss"] == 1.0 for m in METHODS) and "final_loss" not in rows["before"]


def test_the_files_of_the_stage_can_be_read(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    saved = SavedRun(run.recipe, run.folder)
    names = ("pools-1", "chosen-1-exact", "test-1-exact-sampled")
    assert [len(saved.records(f"select/{name}")) for name in names] == [12, 3, 8]
    assert all(type(s) is Solution for s in saved.records("select/pools-1"))
    assert [type(j) for j in saved.records("select/scores-1-fooled")] == [Judgment] * 11
    assert saved.metrics("select") == metrics_of(run)


def test_a_training_without_a_step_has_no_loss(tmp_path, judges, monkeypatch):
    monkeypatch.setattr(policy_sft, "train_sft", lambda *args: [])
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    assert rows_of(run)["careful"]["final_loss"] is None


def test_policies_are_compared_with_outcome_only_selection_by_problem(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    rows = rows_of(run)
    greedy = {"before": [1, 0], "outcome": [1, 0], "careful": [1, 1]}
    sampled = {"before": [1, 0], "outcome": [1, 0.25], "careful": [1, 0.25]}
    for how, shares in (("greedy", greedy), ("sampled", sampled)):
        for method, own in shares.items():
            row = rows[method][how]
            assert row["accuracy"] == sum(own) / 2 and row["interval"][0] <= row["accuracy"] <= row["interval"][1]
            if method == "outcome":
                assert "difference" not in row and "difference_interval" not in row
            else:
                pairs = list(zip(own, shares["outcome"], strict=True))
                measured, interval = paired_bootstrap(pairs, lambda values: sum(values) / len(values), run.seed, 50)
                assert row["difference"] == measured and row["difference_interval"] == list(interval)
    assert rows["careful"]["greedy"]["difference"] == 0.5 and rows["before"]["sampled"]["difference"] == -0.125


# --- rounds --------------------------------------------------------------------------------------------------------------


def test_the_second_round_samples_new_problems_from_the_first_judges_policy(tmp_path, judges, trained, monkeypatch):
    seeds, at_random = [], selection.at_random
    monkeypatch.setattr(selection, "at_random", lambda pools, seed: seeds.append(seed) or at_random(pools, seed))
    run = make_run(tmp_path / "run", recipe_with(rounds=2))
    select.run_stage(run)
    first, second = (c for c in run.sampler.calls if "TRAIN" in c.texts[0])
    assert (first.adapter, second.adapter) == ("policy", "select_1_careful") and first.seed != second.seed
    assert second.texts == [f"<user>SOLVE-CHUNKED TRAIN{i}?<reply>" for i in (6, 7, 8, 9)]
    assert [r["policy"] for r in metrics_of(run)["rounds"]] == ["policy", "select_1_careful"]
    assert [r["round"] for r in metrics_of(run)["rounds"]] == [1, 2]
    assert [call["adapter"] for call in trained[6:]] == [f"select_2_{m}" for m in METHODS]
    assert [len(call["examples"]) for call in trained] == [4] * 12  # the second sets hold nothing of the first round
    assert len({seed for judge in judges.values() for _, seed in judge.asked}) == 4  # of two judges in two rounds
    assert seeds == [run.seed_of("select-1"), run.seed_of("select-2")]
    assert rows_of(run, 2)["before"]["greedy"]["accuracy"] == 1.0  # the careful judge's policy
    assert [s.problem_id for s in read_jsonl(run.folder / "select" / "chosen-2-exact.jsonl", Solution)] == [
        "train-6",
        "train-7",
        "train-9",
    ]
    assert set(run.lm.adapters) == {"policy", "select_1_careful", "select_2_careful"}


def test_without_judges_the_second_round_follows_the_outcome(tmp_path, judges, trained):
    run = make_run(tmp_path / "run", recipe_with(rounds=2, judges=()))
    select.run_stage(run)
    assert [r["policy"] for r in metrics_of(run)["rounds"]] == ["policy", "select_1_outcome"]
    assert not judges["careful"].asked


def test_a_later_round_without_a_choice_is_a_note_and_the_rounds_before_it_stay(tmp_path, judges, trained):
    run = make_run(tmp_path / "run", recipe_with(rounds=3))
    right = run.sampler.script
    late = [f"TRAIN{i}?" for i in (6, 7, 8, 9)]  # the problems of the second round
    run.sampler.script = lambda text, sample: WRONG if any(name in text for name in late) else right(text, sample)
    run.task = dataclasses.replace(TASK, load=lambda split, count, seed: (TRAIN + TRAIN if split == "train" else TEST)[:count])
    select.run_stage(run)
    found = metrics_of(run)
    assert [r["round"] for r in found["rounds"]] == [1] and list(rows_of(run)) == ["before", *METHODS]
    note = "no sampled solution is right and in chunks: raise --select.problems or --select.samples"
    assert found["note"] == f"round 2: {note}" and len(trained) == 6


def test_metrics_are_written_after_every_round(tmp_path, judges, trained):
    run = make_run(tmp_path / "run", recipe_with(rounds=2))
    generate = run.sampler.generate

    def fails(requests, sampling, seed, progress=None):
        if "TRAIN6?" in run.lm.decode(requests[0].ids):
            raise RuntimeError("the machine fails")
        return generate(requests, sampling, seed, progress)

    run.sampler.generate = fails
    with pytest.raises(RuntimeError, match="the machine fails"):
        select.run_stage(run)
    assert [r["round"] for r in metrics_of(run)["rounds"]] == [1] and "note" not in metrics_of(run)


# --- errors and resuming -------------------------------------------------------------------------------------------------


def test_an_unknown_judge_is_refused_before_anything_is_sampled(tmp_path, judges, trained):
    run = make_run(tmp_path / "run", recipe_with(judges=("careful", "nobody")))
    with pytest.raises(ValueError, match="no judge 'nobody' to select with: choose --select.judges among careful, fooled"):
        select.run_stage(run)
    assert not run.sampler.calls


def test_pools_without_a_right_solution_are_an_error(tmp_path, judges, trained, monkeypatch):
    for number in REPLIES:
        monkeypatch.setitem(REPLIES, number, [WRONG] * 3)
    with pytest.raises(ValueError, match="no sampled solution is right and in chunks: raise --select.problems or"):
        select.run_stage(make_run(tmp_path / "run"))
    assert not judges["careful"].asked and not trained


def test_no_problem_that_every_method_can_choose_for_is_an_error(tmp_path, judges, trained, monkeypatch):
    """The majority's answer is only given by solutions without chunks."""
    for number in REPLIES:
        monkeypatch.setitem(REPLIES, number, ["\\boxed{9}", "so \\boxed{9}", HONEST])
    with pytest.raises(ValueError, match="no problem for which every method can choose: raise --select.problems"):
        select.run_stage(make_run(tmp_path / "run"))
    assert not trained


def test_finished_parts_are_not_made_again(tmp_path, judges, trained):
    recipe = recipe_with(rounds=2)
    run = make_run(tmp_path / "run", recipe)
    select.run_stage(run)
    copy = tmp_path / "copy"  # the first run holds the lock of its folder
    shutil.copytree(run.folder, copy)
    (copy / "select" / "test-2-fooled-greedy.jsonl").unlink()
    asked = len(judges["careful"].asked)
    again = make_run(copy, recipe)
    select.run_stage(again)
    (call,) = again.sampler.calls
    assert call.adapter == "select_2_fooled" and call.sampling.temperature == 0
    assert len(trained) == 12 and len(judges["careful"].asked) == asked
    assert metrics_of(again) == metrics_of(run)


def test_scores_of_other_pools_are_refused(tmp_path, judges, trained):
    run = make_run(tmp_path / "run")
    select.run_stage(run)
    path = run.folder / "select" / "scores-1-fooled.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="scores-1-fooled.jsonl has 10 judgments for 11 steps: delete it and run"):
        select.run_stage(run)
