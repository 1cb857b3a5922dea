"""GenPRM: what it is asked, how its votes are scored, the consensus filter, and what each of its parts is trained on."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from minisw.judges import code_checks, genprm, rejection_sampled
from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.generative import GenerativeJudge, p_positive
from minisw.judges.genprm import GENPRM, GenPRMJudge, consensus, example, judge_of, train_genprm
from minisw.judges.rejection_sampled import train_rejection_sampled
from minisw.prompts import BOX, ENGLISH, NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs, Lora, Training
from minisw.records import LabelledStep
from minisw.verify.sandbox import Output, run_checks

CHECK = "Tom has 12.\nprint(2*2)\nOutput:"
CHECKED = f"{CHECK} 4\n"  # with its output
P, N = f"The step says 4. {POSITIVE}", f"The step says 4. {NEGATIVE}"
KNOBS = JudgeKnobs(rs_samples=2, rs_keep=2, rs_training=Training(lr=1e-3, epochs=2, batch=4), max_new_tokens=40)


def four(codes):
    """Stands in for the sandbox: every check prints 4."""
    return [Output("4\n", True, "") for _ in codes]


def with_a_check(end):
    """A model that writes CHECK first, and behind its output what `end(text)` says."""
    return lambda text, k: end(text) if text.endswith(CHECKED) else CHECK


@pytest.fixture
def code_texts(request_texts):
    return [text.replace("Judge the new step.", "Judge the new step with code.") for text in request_texts]


# --- judging ---------------------------------------------------------------------------------------------------------------


def test_it_is_asked_for_code_and_goes_on_behind_the_real_output(new_lm, context_of, fake_sampler, steps, code_texts):
    lm = new_lm("policy", "genprm")
    sampler = fake_sampler(lm, with_a_check(lambda text: P if "New step:\n12" in text else N))
    done: list[int] = []
    judgments = GenPRMJudge(context_of(lm, sampler), "genprm", run=four).judge(steps, seed=5, progress=done.append)
    first, second = sampler.calls
    assert first["prompts"] == [lm.decode(lm.chat(text)) for text in code_texts]
    assert second["prompts"] == [lm.decode(lm.chat(text, CHECKED)) for text in code_texts]
    assert first["adapter"] == second["adapter"] == "genprm" and first["counts"] == [1] * 5
    assert first["sampling"].temperature == second["sampling"].temperature == 0
    assert first["seed"] == seeds_from(5)("round-0") and sum(done) == 5
    assert [j.verdict for j in judgments] == [True, False, False, False, False]
    assert [j.analysis for j in judgments] == [CHECKED + P] + [CHECKED + N] * 4
    own = [len(lm.encode(CHECK)) + len(lm.encode(end)) for end in (P, N, N, N, N)]
    assert [j.tokens for j in judgments] == own  # the output was not sampled
    assert [j.p_positive for j in judgments] == [1, 0, 0, 0, 0]  # not measured


def test_by_default_code_runs_in_the_sandbox(tiny_lm, context_of):
    judge = GenPRMJudge(context_of(tiny_lm), None)
    assert judge.run is run_checks and (judge.name, judge.votes, judge.temperature) == ("GenPRM", 1, 0.0)
    assert inspect.signature(train_genprm).parameters["run"].default is run_checks
    with pytest.raises(ValueError, match="sample above 0"):
        GenPRMJudge(context_of(tiny_lm), None, votes=2)


def test_the_score_is_measured_at_the_verdict_behind_the_code(new_lm, context_of, fake_sampler, steps, code_texts):
    lm = new_lm("other", "genprm", noise=0.5)
    context = context_of(lm, fake_sampler(lm, with_a_check(lambda text: "7" if "New step:\n13" in text else P)))
    judgments = GenPRMJudge(context, "genprm", run=four).judge(steps, 0, probabilities=True)
    expected = p_positive(context, "genprm", [lm.chat(text) for text in code_texts], [CHECKED + P] * 5)
    expected[1] = 0.5  # the second reply has no verdict
    assert [j.p_positive for j in judgments] == pytest.approx(expected, abs=1e-5)
    assert judgments[1].verdict is None and len({round(p, 4) for p in expected}) == 5


@pytest.mark.parametrize(
    ("replies", "scores", "verdict", "score"),
    [
        ([P, P, N], [0.9, 0.6, 0.3], True, 0.6),
        ([P, P, N], [0.6, 0.6, 0.0], False, 0.4),  # the mean decides, not the majority
        ([N, N, P], [0.4, 0.45, 0.95], True, 0.6),
        ([P, N, "7"], [0.75, 0.25, None], False, 0.5),  # Positive needs more than 0.5
        ([P, "7", "7"], [0.8, None, None], True, 0.6),  # a vote without a verdict counts as 0.5
        (["7", "4", ""], [None] * 3, None, 0.5),
        ([N], [0.7], False, 0.7),  # a single reply means what it says
        ([P], [0.2], True, 0.2),
    ],
)
def test_the_mean_of_the_votes_scores_decides(
    replies, scores, verdict, score, monkeypatch, new_lm, context_of, fake_sampler, steps, code_texts
):
    lm, measured = new_lm("genprm"), []
    sampler = fake_sampler(lm, lambda text, k: replies[k])

    def fake(context, adapter, prompts, texts):
        measured.append((context, adapter, list(prompts), list(texts)))
        return scores * 2

    monkeypatch.setattr(genprm, "p_positive", fake)
    context, votes = context_of(lm, sampler), len(replies)
    judge = GenPRMJudge(context, "genprm", "GenPRM", 0.7, votes, four)
    judgments = judge.judge(steps[:2], 0, probabilities=True)
    assert [j.verdict for j in judgments] == [verdict] * 2
    assert [j.p_positive for j in judgments] == pytest.approx([score] * 2)
    prompts = [lm.chat(text) for text in code_texts[:2] for _ in range(votes)]
    assert measured == [(context, "genprm", prompts, replies * 2)]
    assert sampler.calls[0]["counts"] == [votes] * 2 and sampler.calls[0]["sampling"].temperature == 0.7


def test_the_votes_of_a_step_are_scored_together(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    monkeypatch.setattr(genprm, "p_positive", lambda *_: [0.9, 0.7, 0.1, 0.3])
    judge = GenPRMJudge(context_of(lm, fake_sampler(lm, lambda text, k: P)), None, "GenPRM", 1.0, 2, four)
    assert [j.p_positive for j in judge.judge(steps[:2], 0, probabilities=True)] == pytest.approx([0.8, 0.2])


def test_the_judge_of_each_ablation(tiny_lm, context_of):
    context = context_of(tiny_lm, analysis=False)  # the parts decide, whatever the context says
    kinds = {"both": GenPRMJudge, "code": GenPRMJudge, "analysis": GenerativeJudge, "neither": GenerativeJudge}
    for parts, kind in kinds.items():
        judge = judge_of(context, "judge", "name", parts)
        assert type(judge) is kind and (judge.adapter, judge.name) == ("judge", "name")
        assert judge.beginning == (BOX if parts == "neither" else "")
    assert type(judge_of(context, None)) is GenPRMJudge and judge_of(context, None).name == "GenPRM"
    with pytest.raises(ValueError, match="unknown parts 'all': choose one of both, analysis, code, neither"):
        judge_of(context, None, "name", "all")


def test_prompts_without_a_request_for_code_say_so(tiny_lm, context_of, steps):
    prompts = dataclasses.replace(ENGLISH, judge_with_code="")
    with pytest.raises(ValueError, match="cannot ask for code"):
        GenPRMJudge(context_of(tiny_lm, prompts=prompts), None).prompt(steps[0])


# --- the consensus filter -------------------------------------------------------------------------------------------------


def test_a_solution_is_dropped_if_no_reply_to_one_of_its_steps_agrees(steps):
    replies = [[N, P], [P, N], [P, "7"], [P, P], ["", N]]  # nothing agrees on the last step of the first solution
    kept, counts = consensus(steps, replies, 4)
    assert kept == [[], [], [], [P, P], [N]]
    assert counts == {"replies": 10, "right": 5, "solutions": 2, "dropped": 1}
    kept, counts = consensus(steps, [*replies[:2], [N, "7"], *replies[3:]], 1)
    assert kept == [[P], [P], [N], [P], [N]]  # at most `keep` of each
    assert counts == {"replies": 10, "right": 6, "solutions": 2, "dropped": 0}


def test_solutions_of_one_problem_are_filtered_apart(steps):
    other = [dataclasses.replace(step, problem_id="tom", solution=1) for step in steps[3:]]
    assert consensus([*steps[:3], *other], [[P], [P], [N], [""], [N]], 4)[0] == [[P], [P], [N], [], []]
    same = [dataclasses.replace(step, problem_id="tom") for step in steps[3:]]
    kept, counts = consensus([*steps[:3], *same], [[P], [P], [N], [""], [N]], 4)
    assert kept == [[]] * 5 and (counts["solutions"], counts["dropped"]) == (1, 1)


def test_a_bare_verdict_does_not_agree(steps):
    assert consensus(steps[3:], [[POSITIVE], [N]], 4)[0] == [[], []]
    assert consensus(steps[3:], [[f"print(2*2)\nOutput: 4\n{POSITIVE}"], [N]], 4)[1]["dropped"] == 0


# --- training --------------------------------------------------------------------------------------------------------------


def shown(lm, example):
    """(prompt, completion, the given part of it) of an example, as text."""
    given = lm.decode([example.completion[i] for i in example.given])
    return lm.decode(example.prompt), lm.decode(example.completion), given


def test_an_example_has_the_parts_that_are_asked_for(tiny_lm, context_of, steps, request_texts, code_texts):
    plain, with_code = (tiny_lm.decode(tiny_lm.chat(texts[2])) for texts in (request_texts, code_texts))
    context, reply = context_of(tiny_lm), CHECKED + N
    examples = {
        parts: example(judge_of(context, None, parts=parts), steps[2], reply, parts)
        for parts in ("both", "code", "analysis", "neither")
    }
    assert {parts: shown(tiny_lm, e) for parts, e in examples.items()} == {
        "both": (with_code, reply, " 4\n"),
        "code": (with_code, f"print(2*2)\nOutput: 4\n{NEGATIVE}", " 4\n"),
        "analysis": (plain, reply, ""),
        "neither": (plain + BOX, "Negative}", ""),
    }
    assert all(e.completion[-1] == tiny_lm.tokenizer.eos_token_id for e in examples.values())
    positive = example(judge_of(context, None, parts="neither"), steps[0], CHECKED + P, "neither")
    assert tiny_lm.decode(positive.completion) == "Positive}"


@pytest.fixture
def taught(monkeypatch):
    """The adapter and examples of each SFT, which is skipped."""
    calls = []

    def skip(lm, adapter, examples, training, micro_tokens, seed, monitor):
        calls.append((adapter, list(examples), training, micro_tokens, seed))
        return [{"step": 1}]

    monkeypatch.setattr(rejection_sampled, "train_sft", skip)
    return calls


def agreeing(text):
    """What a writer says that is right about every step."""
    return N if "15+3=19" in text or "17-6=12" in text else P


@pytest.mark.parametrize("parts", ["both", "code", "analysis", "neither"])
def test_training_on_each_of_the_parts(parts, taught, new_lm, context_of, fake_sampler, steps, request_texts, code_texts):
    lm = new_lm()
    reply = (lambda text, k: agreeing(text)) if parts == "analysis" else with_a_check(agreeing)
    sampler = fake_sampler(lm, reply)
    trainer = JudgeTrainer(context_of(lm, sampler, analysis=False), steps, knobs=KNOBS, lora=Lora(4, 8), seed_of=seeds_from(1))
    metrics = train_genprm(trainer, "adapter", parts, four)
    asked = request_texts if parts == "analysis" else code_texts
    assert sampler.calls[0]["prompts"] == [lm.decode(lm.chat(text)) for text in asked]
    assert sampler.calls[0]["counts"] == [2] * 5 and {call["adapter"] for call in sampler.calls} == {None}
    seed = seeds_from(trainer.seed_of("replies-genprm"))("analysis")
    assert sampler.calls[0]["seed"] == (seed if parts == "analysis" else seeds_from(seed)("round-0"))
    ((adapter, examples, training, micro_tokens, sft_seed),) = taught
    assert (adapter, training, micro_tokens, sft_seed) == ("adapter", KNOBS.rs_training, 4096, seeds_from(1)("sft-adapter"))
    judge = judge_of(trainer.context, "adapter", parts=parts)
    begun = "" if parts == "analysis" else CHECKED
    expected = [example(judge, step, begun + (P if step.label else N), parts) for step in steps]
    assert {str(e) for e in examples} == {str(e) for e in expected}
    # three Positive steps with two replies each; the two Negative ones are repeated until they are as many
    assert sum(e in (expected[2], expected[4]) for e in examples) == 6 == len(examples) / 2
    assert metrics == {
        "training": f"SFT, 2 epochs, on replies ({parts}) to the steps of 2 of 2 solutions, which passed the filter",
        "labels": 5, "replies": 10, "right": 10, "solutions": 2, "dropped": 0, "curve": [{"step": 1}],
    }  # fmt: skip


def test_it_learns_from_whole_solutions_if_there_are_some(taught, new_lm, context_of, fake_sampler, steps, code_texts):
    lm = new_lm()
    sampler = fake_sampler(lm, with_a_check(lambda text: P))  # right about Positive steps only
    right = LabelledStep("ann", "Ann has 3 eggs.", (), "3+4=7.", True)
    trainer = JudgeTrainer(context_of(lm, sampler), steps[:1], solutions=[*steps, right, right], knobs=KNOBS, lora=Lora(4, 8))
    metrics = train_genprm(trainer, run=four)
    assert len(sampler.calls[0]["prompts"]) == 6  # each label once
    assert (metrics["labels"], metrics["solutions"], metrics["dropped"]) == (6, 3, 2)
    assert "1 of 3 solutions" in metrics["training"]
    ((adapter, examples, *_),) = taught
    prompt = lm.decode(GenPRMJudge(trainer.context, None).prompt(right))
    assert adapter == GENPRM == "genprm" and [shown(lm, e)[0] for e in examples] == [prompt] * 2


def test_another_model_may_write_the_replies(taught, new_lm, context_of, fake_sampler, steps):
    lm, other = new_lm(), new_lm("something")
    own, writer = fake_sampler(lm, lambda text, k: "7"), fake_sampler(other, with_a_check(agreeing))
    knobs = dataclasses.replace(KNOBS, rs_samples=1)
    context, writing = context_of(lm, own), dataclasses.replace(context_of(other, writer, ENGLISH), max_new_tokens=35)
    train_genprm(JudgeTrainer(context, steps[3:], rationale_writer=writing, knobs=knobs, lora=Lora(4, 8)), run=four)
    assert not own.calls and writer.calls[0]["sampling"].max_new_tokens == 35
    request = ENGLISH.for_judge(steps[3].question, (), steps[3].chunk, with_code=True)
    assert writer.calls[0]["prompts"][0] == other.decode(other.chat(request))
    prompts = {lm.decode(GenPRMJudge(context, None).prompt(step)) for step in steps[3:]}
    assert {shown(lm, e)[0] for e in taught[0][1]} == prompts  # the judge learns to answer its own request


def test_a_reply_without_a_verdict_is_asked_for_it(taught, bpe_lm, context_of, fake_sampler, steps):
    lm = bpe_lm([], 257)
    replies = {CHECK + " 4\n": "It holds.", "\\boxed{": "Positive}"}
    sampler = fake_sampler(lm, lambda text, k: next((r for end, r in replies.items() if text.endswith(end)), CHECK))
    context = dataclasses.replace(context_of(lm, sampler), max_new_tokens=100)
    metrics = train_genprm(JudgeTrainer(context, steps[:2], knobs=KNOBS, lora=Lora(4, 8)), run=four)
    assert metrics["right"] == 4
    assert {shown(lm, e)[1:] for e in taught[0][1]} == {(f"{CHECKED}It holds.\n\nVerdict: {POSITIVE}", " 4\n")}


def test_if_no_solution_passes_the_judge_stays_untrained(new_lm, context_of, fake_sampler, steps):
    lm, warnings = new_lm(), []
    context = context_of(lm, fake_sampler(lm, lambda text, k: "4"))
    metrics = train_genprm(JudgeTrainer(context, steps, knobs=KNOBS, lora=Lora(4, 8), warn=warnings.append), run=four)
    assert (metrics["right"], metrics["dropped"], metrics["curve"]) == (0, 2, [])
    assert warnings == ["no reply to train on is left: the judge stays untrained; sample more (--judge.rs-samples)"]
    assert GENPRM in lm.adapters


@pytest.mark.parametrize(("train", "file"), [(train_genprm, "genprm"), (train_rejection_sampled, "rejection_sampled")])
def test_replies_are_saved_and_not_sampled_again(train, file, taught, new_lm, context_of, fake_sampler, steps, tmp_path):
    lm, totals = new_lm(), []
    sampler = fake_sampler(lm, lambda text, k: agreeing(text))

    def train_adapter(name, fit, total, what):
        totals.append((name, total, what))
        return fit(tmp_path / f"{name}.checkpoint", lambda n, metrics=None: None)

    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=KNOBS, train_adapter=train_adapter)
    first = train(trainer)
    calls = len(sampler.calls)
    assert (tmp_path / f"{file}-replies.json").is_file() and calls
    assert train(trainer) == first and len(sampler.calls) == calls and taught[0][1] == taught[1][1]
    assert totals == [(file, 4, "RS-FT")] * 2  # 2 epochs of 5 steps × 2 replies in batches of 4


@pytest.mark.parametrize(("samples", "keep", "batch", "total"), [(1, 2, 4, 2), (4, 2, 4, 4), (2, 1, 64, 2)])
def test_the_progress_line_expects_as_many_steps_as_there_may_be(
    samples, keep, batch, total, taught, new_lm, context_of, fake_sampler, steps
):
    lm, totals = new_lm(), []
    knobs = dataclasses.replace(KNOBS, rs_samples=samples, rs_keep=keep, rs_training=Training(epochs=2, batch=batch))
    context = context_of(lm, fake_sampler(lm, lambda text, k: agreeing(text)))

    def train_adapter(name, fit, total, what):
        totals.append(total)
        return fit(None, lambda n, metrics=None: None)

    train_genprm(JudgeTrainer(context, steps, knobs=knobs, train_adapter=train_adapter), run=four)
    assert totals == [total]


@pytest.mark.slow
def test_what_code_prints_is_not_learned(new_lm, context_of, fake_sampler, steps):
    """The loss of a real training step is the mean over the model's own tokens, and the verdict becomes more likely."""
    lm = new_lm()
    context = context_of(lm, fake_sampler(lm, with_a_check(agreeing)))
    knobs = dataclasses.replace(KNOBS, rs_samples=1, rs_training=Training(lr=1e-2, epochs=8, batch=4))
    metrics = train_genprm(JudgeTrainer(context, steps[3:], knobs=knobs, lora=Lora(4, 8)), run=four)
    own = len(lm.encode(CHECK + P)) + 1 + len(lm.encode(CHECK + N)) + 1
    assert metrics["curve"][0]["completions/num_tokens"] == own
    prompts = [GenPRMJudge(context, None).prompt(step) for step in steps[3:]]
    before, after = (p_positive(context, name, prompts, [CHECKED + P, CHECKED + N]) for name in (None, GENPRM))
    assert after[0] - after[1] > before[0] - before[1]


def test_the_names_that_the_claims_use():
    assert code_checks.OUTPUT == "Output:" and genprm.get_args(genprm.Parts) == ("both", "analysis", "code", "neither")
