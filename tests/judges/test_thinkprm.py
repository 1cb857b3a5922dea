"""ThinkPRM's judge: what it is asked, how its chains are sampled and scored, and what it is trained on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from minisw.engine.simple_sampler import SimpleSampler
from minisw.judges import thinkprm
from minisw.judges.base import JudgeTrainer, seeds_from
from minisw.judges.thinkprm import THINKPRM, ThinkPRMJudge, train_thinkprm
from minisw.prompts import ARITHMETIC, ENGLISH, NEGATIVE, POSITIVE
from minisw.recipe import JudgeKnobs, Lora, Training

P, N = f"The step says 4. {POSITIVE}", f"The step says 5. {NEGATIVE}"
ASK = ARITHMETIC.verify_question
LENGTHS = {40: [0, 3], 80: [1, 4], 120: [2]}  # limit of a chain → the steps whose prefixes are that long
KNOBS = JudgeKnobs(rs_samples=2, rs_keep=3, rs_training=Training(lr=1e-3, epochs=2, batch=4), max_new_tokens=40)


def asked(lm, step, prompts=ARITHMETIC):
    """The text of the request about a step."""
    return lm.decode(lm.chat(prompts.for_verifier(step.question, (*step.history, step.chunk))))


def score_from(monkeypatch, table):
    """Let the measured probability depend on the chain: `table` has it by the chain's text. Returns the calls."""
    calls = []

    def measured(context, adapter, prompts, pairs):
        texts = [[context.lm.decode(ids) for ids in pair] for pair in pairs]
        calls.append((adapter, [context.lm.decode(prompt) for prompt in prompts], texts))
        return [table[yes.partition(f"\n{ASK}")[0]] for yes, _ in texts]

    monkeypatch.setattr(thinkprm, "p_first", measured)
    return calls


def test_each_prefix_is_verified_by_one_chain_of_its_own_adapter(new_lm, context_of, fake_sampler, steps):
    lm = new_lm("other", "judge")
    sampler = fake_sampler(lm, lambda text, k: f"{P}\n{ASK}")
    ThinkPRMJudge(context_of(lm, sampler), "judge").judge(steps, seed=5)
    assert {call["sampling"].max_new_tokens: call["prompts"] for call in sampler.calls} == {
        limit: [asked(lm, steps[i]) for i in indices] for limit, indices in LENGTHS.items()
    }
    for call in sampler.calls:
        assert call["adapter"] == "judge" and set(call["counts"]) == {1}
        assert call["sampling"].stop == ASK and call["sampling"].temperature == 0
    assert len({call["seed"] for call in sampler.calls}) == 3
    assert lm.active == "other"  # as before


def test_judgments_are_in_the_order_of_the_steps(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm("judge")
    chains = [f"{P} {i}" for i in range(5)]
    number = {asked(lm, step): i for i, step in enumerate(steps)}
    sampler = fake_sampler(lm, lambda text, k: f"{chains[number[text]]}\n{ASK}")
    p = [0.9, 0.2, 0.5, 0.6, 0.1]
    calls = score_from(monkeypatch, dict(zip(chains, p, strict=True)))
    judgments = ThinkPRMJudge(context_of(lm, sampler), "judge").judge(steps, 0)
    assert [j.p_positive for j in judgments] == p
    assert [j.verdict for j in judgments] == [True, False, True, True, False]  # one half is enough
    answers = ["+", "-", "+", "+", "-"]
    assert [j.analysis for j in judgments] == [f"{chain}\n{ASK} {a}" for chain, a in zip(chains, answers, strict=True)]
    assert all(j.votes == () for j in judgments)
    assert [j.tokens for j in judgments] == [len(lm.encode(f"{chain}\n{ASK}")) for chain in chains]
    for (adapter, prompts, texts), indices in zip(calls, LENGTHS.values(), strict=True):
        assert adapter == "judge" and prompts == [asked(lm, steps[i]) for i in indices]
        assert texts == [[f"{chains[i]}\n{ASK} +", f"{chains[i]}\n{ASK} -"] for i in indices]
    assert ThinkPRMJudge(context_of(lm, sampler), "judge").judge([], 0) == []


@pytest.mark.parametrize(("threshold", "verdict", "answer"), [(0.6, True, "+"), (0.61, False, "-")])
def test_the_threshold_decides(threshold, verdict, answer, monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    score_from(monkeypatch, {P: 0.6})
    judge = ThinkPRMJudge(context_of(lm, fake_sampler(lm, lambda text, k: P)), None, threshold=threshold)
    (judgment,) = judge.judge(steps[:1], 0)
    assert judgment.verdict is verdict and judgment.p_positive == 0.6 and judgment.analysis == f"{P}\n{ASK} {answer}"


def test_the_score_is_that_of_yes_behind_the_question(new_lm, context_of, fake_sampler, steps):
    lm = new_lm("other", "judge", noise=0.5)
    sampler = fake_sampler(lm, lambda text, k: f"{P}\n{ASK}")
    context = context_of(lm, sampler)
    judgments = ThinkPRMJudge(context, "judge").judge(steps, 0)
    yes, no = lm.encode("+")[0], lm.encode("-")[0]

    def expected(step, adapter):
        ids = lm.chat(ARITHMETIC.for_verifier(step.question, (*step.history, step.chunk))) + lm.encode(f"{P}\n{ASK} ")
        with lm.using(adapter), torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1]
        return logits[[yes, no]].softmax(0)[0].item()

    for step, judgment in zip(steps, judgments, strict=True):
        assert judgment.p_positive == pytest.approx(expected(step, "judge"), abs=1e-5)
        assert abs(judgment.p_positive - expected(step, "other")) > 1e-4
        assert judgment.verdict is (judgment.p_positive >= 0.5)
    assert len({round(j.p_positive, 4) for j in judgments}) == 5


@pytest.mark.parametrize(
    ("reply", "chain"),
    [
        (f"{P}\n{ASK}", P),
        (f"{P}\n\n {ASK} +\n{N}", P),  # what comes behind the question does not count
        (P, P),  # it ended by itself
        (f"{P}\nNow step 2:\nThe…", f"{P}\nNow step 2:\nThe"),  # it was cut off
        ("", ""),
        (ASK, ""),
    ],
)
def test_a_chain_without_the_question_is_asked_it_all_the_same(
    reply, chain, monkeypatch, new_lm, context_of, fake_sampler, steps
):
    lm = new_lm()
    score_from(monkeypatch, {chain: 0.7})
    (judgment,) = ThinkPRMJudge(context_of(lm, fake_sampler(lm, lambda text, k: reply)), None).judge(steps[2:3], 0)
    assert judgment.verdict is True and judgment.p_positive == 0.7 and judgment.analysis == f"{chain}\n{ASK} +"
    assert judgment.tokens == len(lm.encode(reply.removesuffix("…")))


def test_votes_are_averaged_and_the_surest_chain_is_shown(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    p = {f"{P} 1": 0.9, f"{P} 2": 0.8, f"{N} 3": 0.1, f"{P} 4": 0.55, f"{N} 5": 0.05, f"{N} 6": 0.3}
    score_from(monkeypatch, p)
    replies = iter(p)
    sampler = fake_sampler(lm, lambda text, k: f"{next(replies)}\n{ASK}")
    judge = ThinkPRMJudge(context_of(lm, sampler), None, temperature=0.7, votes=3)
    first, second = judge.judge([steps[0], steps[3]], 0)
    assert sampler.calls[0]["prompts"] == [asked(lm, steps[0])] * 3 + [asked(lm, steps[3])] * 3
    assert sampler.calls[0]["sampling"].temperature == 0.7
    assert (first.p_positive, second.p_positive) == (pytest.approx(0.6), pytest.approx(0.3))
    assert (first.verdict, second.verdict) == (True, False)
    assert first.votes == (True, True, False) and second.votes == (True, False, False)
    assert first.analysis == f"{P} 1\n{ASK} +" and second.analysis == f"{N} 5\n{ASK} -"
    assert first.tokens == sum(len(lm.encode(f"{chain}\n{ASK}")) for chain in list(p)[:3])


def test_the_mean_decides_and_not_the_majority(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    score_from(monkeypatch, {f"{P} 1": 0.45, f"{P} 2": 0.4, f"{P} 3": 1.0})
    replies = iter([1, 2, 3])
    sampler = fake_sampler(lm, lambda text, k: f"{P} {next(replies)}")
    (judgment,) = ThinkPRMJudge(context_of(lm, sampler), None, temperature=1.0, votes=3).judge(steps[:1], 0)
    assert judgment.verdict is True and judgment.votes == (False, False, True)


def test_each_round_checks_again_behind_the_chain_before(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm("judge")
    again = ARITHMETIC.verify_again
    whole = [f"{P} 1", f"{P} 1\n{again}\n{N} 2", f"{P} 1\n{again}\n{N} 2\n{again}\n{N} 3"]
    score_from(monkeypatch, {whole[2]: 0.2})  # measured once, behind the last chain
    replies = iter([f"{P} 1\n{ASK}", f"{N} 2", f"{N} 3\n{ASK} +"])
    sampler = fake_sampler(lm, lambda text, k: next(replies))
    (judgment,) = ThinkPRMJudge(context_of(lm, sampler), "judge", rounds=3).judge(steps[1:2], 0)
    prompt = asked(lm, steps[1])
    expected = [prompt, f"{prompt}{whole[0]}\n{again}\n", f"{prompt}{whole[1]}\n{again}\n"]
    assert [call["prompts"] for call in sampler.calls] == [[text] for text in expected]
    assert [call["sampling"].max_new_tokens for call in sampler.calls] == [80] * 3  # a limit for each round
    assert all(call["adapter"] == "judge" for call in sampler.calls)
    assert len({call["seed"] for call in sampler.calls}) == 3
    assert judgment.verdict is False and judgment.analysis == f"{whole[2]}\n{ASK} -"
    assert judgment.tokens == sum(len(lm.encode(text)) for text in (f"{P} 1\n{ASK}", f"{N} 2", f"{N} 3\n{ASK} +"))


def test_progress_is_reported_once_for_each_chain(new_lm, context_of, fake_sampler, steps):
    reported = []

    class Reporting(fake_sampler):
        def generate(self, requests, sampling, seed, progress=None):
            reported.append(progress is not None)
            for _ in requests if progress else ():
                progress(1)
            return super().generate(requests, sampling, seed)

    lm, done = new_lm(), []
    judge = ThinkPRMJudge(context_of(lm, Reporting(lm, lambda text, k: P)), None, temperature=1.0, votes=2, rounds=3)
    judge.judge(steps, 0, done.append)
    assert sum(done) == 10 and reported == [False, False, True] * 3  # when its last round is sampled


def test_judging_is_repeatable_and_does_not_depend_on_the_other_steps_or_on_labels(new_lm, context_of, steps):
    lm = new_lm("judge", noise=0.2)
    context = dataclasses.replace(context_of(lm, SimpleSampler(lm)), max_new_tokens=3)
    judge = ThinkPRMJudge(context, "judge", temperature=1.0, votes=2, rounds=2)
    some = [steps[0], steps[1]]
    first = judge.judge(some, 3)
    flipped = [dataclasses.replace(step, label=not step.label) for step in some]
    assert [j.analysis for j in judge.judge(flipped, 3)] == [j.analysis for j in first]
    assert [j.analysis for j in judge.judge(some[1:], 3)] == [first[1].analysis]
    assert [j.analysis for j in judge.judge(some, 4)] != [j.analysis for j in first]
    assert first[0].tokens <= 2 * 2 * 3 < first[1].tokens <= 2 * 2 * 3 * 2  # votes × rounds × limit × steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"votes": 2}, "2 votes at temperature 0.0 are the same chain 2 times: sample above 0"),
        ({"votes": 0, "temperature": 1.0}, "0 votes of 1 rounds are too few: give at least 1 of each"),
        ({"rounds": 0}, "1 votes of 0 rounds are too few: give at least 1 of each"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message, tiny_lm, context_of):
    with pytest.raises(ValueError, match=message):
        ThinkPRMJudge(context_of(tiny_lm), None, **options)


def test_defaults(tiny_lm, context_of):
    judge = ThinkPRMJudge(context_of(tiny_lm), None)
    assert (judge.name, judge.temperature, judge.votes, judge.rounds, judge.threshold) == ("ThinkPRM", 0.0, 1, 1, 0.5)
    assert ThinkPRMJudge(context_of(tiny_lm), None, "mine").name == "mine"


# --- training --------------------------------------------------------------------------------------------------------------


def taught(monkeypatch, real=lambda *_: []):
    """Record adapter, examples and other arguments of each call of `train_sft`, and call `real` in its place."""
    calls = []

    def wrapped(lm, adapter, examples, *rest):
        texts = [(lm.decode(e.prompt), lm.decode(e.completion), e.completion[-1]) for e in examples]
        calls.append((adapter, texts, rest))
        return real(lm, adapter, examples, *rest)

    monkeypatch.setattr(thinkprm, "train_sft", wrapped)
    return calls


def chain_over(critiques, answer):
    return ARITHMETIC.numbered(critiques) + f"\n{ASK} {answer}"


EXPECTED = [[P], [P, P], [P, P, N], [P], [P, N]]  # the critiques over each step's prefix


def test_training_uses_chains_of_right_comments_over_whole_prefixes(
    monkeypatch, new_lm, context_of, fake_sampler, steps, request_texts
):
    lm = new_lm("stepwiser")
    sampler = fake_sampler(lm, lambda text, k: [P, N][k])
    calls, done, fits = taught(monkeypatch, thinkprm.train_sft), [], []
    trainer = JudgeTrainer(context_of(lm, sampler), steps, solutions=steps * 2, knobs=KNOBS, seed_of=seeds_from(1))

    def train_adapter(name, fit, total, what):
        fits.append((name, total, what))
        lm.new_adapter(name, Lora(4, 8), 0)
        return fit(None, lambda n, metrics: done.append(n))

    metrics = train_thinkprm(dataclasses.replace(trainer, train_adapter=train_adapter))
    (call,) = sampler.calls[:1]
    assert call["adapter"] is None and call["counts"] == [2] * 5 and call["seed"] == seeds_from(call_seed())("analysis")
    assert call["prompts"] == [lm.decode(lm.chat(text)) for text in request_texts]  # the request of the generative judge
    ((adapter, texts, (training, micro_tokens, seed, _)),) = calls
    eos = lm.tokenizer.eos_token_id
    assert adapter == THINKPRM == "thinkprm" and training is KNOBS.rs_training and micro_tokens == 4096
    assert seed == seeds_from(1)("sft-thinkprm")
    assert set(texts) == {
        (asked(lm, step), chain_over(critiques, "+" if step.label else "-"), eos)
        for step, critiques in zip(steps, EXPECTED, strict=True)
    }
    answers = [reply[-1] for _, reply, _ in texts]
    assert answers.count("+") == answers.count("-") == 4
    assert fits == [("thinkprm", 6, "ThinkPRM")] and done == [1] * 4  # 2 epochs of 8 // 4 steps
    counts = {"labels": 5, "replies": 10, "right": 5, "chains_tried": 5, "chains_kept": 5}
    assert metrics.items() >= counts.items() and len(metrics["curve"]) == 4
    assert metrics["training"] == "SFT, 2 epochs, on 5 of 5 chains"
    assert any(p.abs().max() > 0 for key, p in lm.adapter_parameters(THINKPRM).items() if "lora_B" in key)


def call_seed():
    """The seed of the sampled comments."""
    return seeds_from(1)("replies-thinkprm")


def test_another_model_may_write_the_comments(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm, other = new_lm(), new_lm("judge")
    reader, writer = fake_sampler(lm, lambda text, k: ""), fake_sampler(other, lambda text, k: [P, N][k])
    calls = taught(monkeypatch)
    context = dataclasses.replace(context_of(other, writer), prompts=ENGLISH)
    trainer = JudgeTrainer(context_of(lm, reader), steps, rationale_writer=context, knobs=KNOBS, lora=Lora(4, 8))
    metrics = train_thinkprm(trainer, "mine")
    assert not reader.calls and writer.calls[0]["adapter"] is None
    step = steps[0]
    english = other.decode(other.chat(ENGLISH.for_judge(step.question, step.history, step.chunk)))
    assert writer.calls[0]["prompts"][0] == english  # it is asked in its own prompts
    ((adapter, texts, _),) = calls
    assert adapter == "mine" and (asked(lm, step), chain_over([P], "+"), lm.tokenizer.eos_token_id) in texts
    assert metrics["chains_kept"] == 5


def test_comments_without_an_analysis_begin_with_their_box(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    calls = taught(monkeypatch)
    sampler = fake_sampler(lm, lambda text, k: ["Positive}", "Negative}"][k])
    train_thinkprm(JudgeTrainer(context_of(lm, sampler, analysis=False), steps, knobs=KNOBS, lora=Lora(4, 8)))
    assert chain_over([POSITIVE, NEGATIVE], "-") in {reply for _, reply, _ in calls[0][1]}


def test_solutions_are_used_within_the_number_of_the_other_judges_labels(monkeypatch, new_lm, context_of, fake_sampler, steps):
    lm = new_lm()
    taught(monkeypatch)
    sampler = fake_sampler(lm, lambda text, k: [P, N][k])
    # two labels, one of them twice; tom's solution has three steps, ben's two
    two = [steps[0], steps[2], steps[0]]
    trainer = JudgeTrainer(context_of(lm, sampler), two, solutions=steps, knobs=KNOBS, lora=Lora(4, 8))
    metrics = train_thinkprm(trainer)
    assert metrics["labels"] == len(sampler.calls[0]["prompts"]) == 2
    assert train_thinkprm(dataclasses.replace(trainer, steps=steps))["labels"] == 5
    # without solutions only whole prefixes of the labels
    few = dataclasses.replace(trainer, steps=[steps[0], steps[2], steps[3], steps[4]], solutions=())
    metrics = train_thinkprm(few)
    assert metrics["labels"] == 3 and metrics["chains_kept"] == 3


@pytest.mark.parametrize(("limit", "kept"), [(24, 5), (23, 3), (21, 3), (20, 1), (19, 0)])
def test_a_chain_has_room_for_one_reply_a_step(limit, kept, monkeypatch, new_lm, context_of, fake_sampler, steps):
    """With their answers, the two chains over one step have 24 tokens, the two over two steps 41, the one over three 58."""
    lm = new_lm()
    taught(monkeypatch)
    assert [len(lm.encode(chain_over([P] * n, "+"))) for n in (1, 2, 3)] == [24, 41, 58]
    context = dataclasses.replace(context_of(lm, fake_sampler(lm, lambda text, k: [P, N][k])), max_new_tokens=limit)
    metrics = train_thinkprm(JudgeTrainer(context, steps, knobs=KNOBS, lora=Lora(4, 8), warn=lambda text: None))
    assert (metrics["chains_tried"], metrics["chains_kept"]) == (5, kept)


@pytest.mark.parametrize("reply", ["4", P])  # nothing readable; only Positive: no chain ends with a wrong step
def test_without_chains_of_both_kinds_it_warns_and_stays_untrained(reply, new_lm, context_of, fake_sampler, steps):
    lm, warnings = new_lm(), []
    context = context_of(lm, fake_sampler(lm, lambda text, k: reply))
    metrics = train_thinkprm(JudgeTrainer(context, steps, knobs=KNOBS, lora=Lora(4, 8), warn=warnings.append))
    assert metrics["curve"] == [] and metrics["chains_kept"] == (6 if reply == P else 0)
    assert warnings == ["no chains over both correct and incorrect solutions were kept: ThinkPRM's judge stays untrained"]
    assert THINKPRM in lm.adapters


def test_comments_are_saved_and_read_after_a_kill(monkeypatch, new_lm, context_of, fake_sampler, steps, tmp_path):
    lm = new_lm()
    sampler = fake_sampler(lm, lambda text, k: [P, N][k])

    def train_adapter(name, fit, total, what):
        if name not in lm.adapters:
            lm.new_adapter(name, Lora(4, 8), 0)
        return fit(tmp_path / f"{name}.checkpoint", lambda n, metrics: None)

    trainer = JudgeTrainer(context_of(lm, sampler), steps, knobs=KNOBS, train_adapter=train_adapter)
    with monkeypatch.context() as patch:
        patch.setattr(thinkprm, "train_sft", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train_thinkprm(trainer)
    before = len(sampler.calls)
    assert [file.name for file in tmp_path.iterdir()] == ["thinkprm-replies.json"]
    metrics = train_thinkprm(trainer)
    assert len(sampler.calls) == before and metrics["chains_kept"] == 5 and len(metrics["curve"]) == 4
    assert (tmp_path / "thinkprm.checkpoint").exists()
