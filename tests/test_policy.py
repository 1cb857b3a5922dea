"""The policy: prompts, adapter, budget and token ids of solving, rollouts and search."""

import dataclasses

import pytest
from fakes import ASK, CUT, EOS, PROMPTS, REPLY, FakeLM, FakeSampler, merging_tokenizer

from minisw.chunks import tag
from minisw.engine.requests import Request
from minisw.engine.sampler import Sampler
from minisw.policy import Outcome, Policy
from minisw.recipe import PolicyKnobs
from minisw.records import Problem, Proposal, Solution

KNOBS = PolicyKnobs(temperature=0.7, max_text_tokens=30, max_chunks=3, max_chunk_tokens=25)
TAGS = len("<chunk></chunk>")
A, B = Problem("a", "What is 1+2?", "3"), Problem("b", "What is 3+4?", "7")
BY_ID = {p.id: p for p in (A, B)}
GOLD = {"1+2": "3", "3+4": "7"}


def make(script, adapter="policy", knobs=KNOBS, tokenizer=None) -> Policy:
    lm = FakeLM("policy", tokenizer=tokenizer)
    return Policy(lm, FakeSampler(lm, script), PROMPTS, knobs, adapter)


def box(text: str) -> str:
    """The right answer to the question in a prompt."""
    return f"\\boxed{{{next(gold for sum_, gold in GOLD.items() if sum_ in text)}}}"


# --- solving -----------------------------------------------------------------------------------------------------------


def test_the_policy_solves_in_chunks_with_its_adapter():
    policy = make(lambda text, sample: f"<chunk>so </chunk><chunk>{box(text) if sample else 'no idea'}</chunk>")
    groups = policy.solve([A, B], 2, seed=5)
    (call,) = policy.sampler.calls
    assert call.adapter == "policy" and call.seed == 5 and call.counts == [2, 2]
    assert call.texts == [f"<user>SOLVE-CHUNKED {p.question}<reply>" for p in (A, B)]
    assert call.sampling.temperature == 0.7 and call.sampling.stop is None
    assert [[(s.problem_id, s.answer, s.correct) for s in group] for group in groups] == [
        [("a", None, False), ("a", "3", True)],
        [("b", None, False), ("b", "7", True)],
    ]
    assert groups[1][1].chunks == ("so ", "\\boxed{7}") and groups[1][1].well_formed and groups[1][1].finished
    assert groups[1][1].tokens == len("<chunk>so </chunk><chunk>\\boxed{7}</chunk>") + 1


def test_the_base_solves_in_plain_text_without_an_adapter():
    policy = make(lambda text, sample: f"so\n\n{box(text)}", adapter=None)
    (of_a,), (of_b,) = policy.solve([A, B], 1, seed=0)
    (call,) = policy.sampler.calls
    assert call.adapter is None and call.texts == [f"<user>SOLVE {p.question}<reply>" for p in (A, B)]
    assert (of_a.answer, of_b.answer) == ("3", "7") and of_b.correct
    assert of_b.chunks == ("so\n\n\\boxed{7}",) and of_b.well_formed


def test_a_solution_for_another_problem_is_wrong():
    policy = make(lambda text, sample: "<chunk>\\boxed{3}</chunk>")
    (of_a,), (of_b,) = policy.solve([A, B], 1, seed=0)
    assert of_a.correct and not of_b.correct and of_b.answer == "3"


def test_a_broken_format_is_reported_and_still_has_an_answer():
    policy = make(lambda text, sample: f"<chunk>so\n\nthen\n\n<chunk>x\n\ny {box(text)}")  # four paragraphs, max_chunks is 3
    (of_a,), _ = policy.solve([A, B], 1, seed=0)
    assert of_a.correct and of_a.finished and not of_a.well_formed


# --- the budget --------------------------------------------------------------------------------------------------------


def padded(length: int, pieces: int = 1) -> list[str]:
    """Chunks with the right answer to A whose text has this many characters."""
    text = "x" * (length - len("\\boxed{3}")) + "\\boxed{3}"
    return [*text[: pieces - 1], text[pieces - 1 :]]


@pytest.mark.parametrize(
    "reply,adapter,fits",
    [
        ("".join(padded(30)), None, True),
        ("".join(padded(31)), None, False),
        ("".join(padded(30)) + CUT, None, False),  # not ended by itself
        (tag(padded(30)), "policy", True),
        (tag(padded(30, 3)), "policy", True),  # tags are not counted
        (tag(padded(31)), "policy", False),
        (tag(padded(31, 3)), "policy", False),
        (tag(padded(20, 4)), "policy", False),  # more than max_chunks chunks
        (tag(padded(20)) + CUT, "policy", False),
    ],
)
def test_one_budget_of_text_for_base_policy_rollouts_and_search(reply, adapter, fits):
    policy = make(lambda text, sample: reply, adapter)
    ((solution,),) = policy.solve([A], 1, seed=0)
    assert solution.finished is solution.correct is solution.well_formed is fits
    assert solution.answer == ("3" if fits else None)
    start = Solution("a", ("start", "end"), "3", True)
    (annotated,) = policy.annotate([start], BY_ID, 1, seed=0)
    assert annotated.hits[0] == (fits,)
    if adapter and not reply.endswith(CUT):
        assert policy.within_budget(solution.chunks) is fits


def test_rollouts_count_the_text_and_the_chunks_before_them():
    policy = make(lambda text, sample: tag(["x" * 10 + "\\boxed{3}"]))  # 19 characters
    histories = {11: True, 12: False}  # 30 and 31 characters in all
    for length, fits in histories.items():
        (annotated,) = policy.annotate([Solution("a", ("y" * length, "end"), "3", True)], BY_ID, 2, seed=0)
        assert annotated.hits == ((True, True), (fits, fits))
    (annotated,) = policy.annotate([Solution("a", ("y", "y", "y", "end"), "3", True)], BY_ID, 1, seed=0)
    assert annotated.hits == ((True,), (True,), (True,), (False,))  # the fourth chunk is one too many


def test_sampling_has_room_for_the_longest_solution_with_tags_and_end_token():
    longest = tag(padded(30, 3))
    assert make(None).sampling.max_new_tokens == len(longest) + 1 == 30 + 3 * TAGS + 1
    assert make(None, adapter=None).sampling.max_new_tokens == 30 + 1
    merging = make(None, tokenizer=merging_tokenizer())
    spent = sum(len(ids) for ids in merging.encode_chunks(["3+4", "+3", "+4"]))
    text = len(merging.lm.encode("3+4+3+4"))
    assert spent - text <= merging.sampling.max_new_tokens - KNOBS.max_text_tokens


def test_the_budget_does_not_depend_on_the_segmentation():
    policy = make(None, tokenizer=merging_tokenizer(), knobs=dataclasses.replace(KNOBS, max_text_tokens=2))
    assert [len(policy.lm.encode(text)) for text in ("><><", ">", "<><")] == [2, 1, 2]
    assert policy.within_budget(["><><"]) and policy.within_budget([">", "<><"])
    assert not policy.within_budget(["><", "><", "><"])


# --- tokens of chunks --------------------------------------------------------------------------------------------------

CHUNKS = ("1+2=3.", "3+4=7.", "\\boxed{7}")


def test_a_tokenizer_may_merge_across_the_tags_of_two_chunks():
    lm = FakeLM(tokenizer=merging_tokenizer())
    apart = [i for chunk in CHUNKS for i in lm.encode(tag([chunk]))]
    assert len(lm.encode(tag(CHUNKS))) < len(apart)
    assert lm.decode(lm.encode(tag(CHUNKS))) == lm.decode(apart) == tag(CHUNKS)


def test_sft_rollouts_and_search_have_the_same_token_ids():
    policy = make(lambda text, sample: "<chunk>x</chunk>", tokenizer=merging_tokenizer())
    apart = [policy.lm.encode(tag([chunk])) for chunk in CHUNKS]
    assert policy.encode_chunks(CHUNKS) == apart
    assert policy.sft_target(CHUNKS) == [*apart[0], *apart[1], *apart[2], EOS]
    prompt = policy.prompt(B.question)
    policy.annotate([Solution("b", CHUNKS, "7", True)], BY_ID, 2, seed=0)
    policy.propose([B.question, B.question], [CHUNKS, CHUNKS[:1]], seed=0)
    rollouts, search = policy.sampler.calls
    _, boundaries = rollouts.requests
    assert boundaries.ids == prompt + apart[0] + apart[1]
    assert boundaries.starts == (len(prompt + apart[0]), len(prompt + apart[0] + apart[1]))
    assert [r.ids for r in search.requests] == [prompt + policy.sft_target(CHUNKS)[:-1], prompt + apart[0]]
    assert search.requests[1].ids == boundaries.ids[: boundaries.starts[0]]


# --- rollouts ----------------------------------------------------------------------------------------------------------


def test_rollouts_give_every_solution_the_values_of_its_own_boundaries():
    def script(text: str, sample: int) -> str:
        """Right from the prompt of A and, after "good", of both; from the prompt of B in one sample of two."""
        start = text.endswith("<reply>")
        right = (sample == 0 or "1+2" in text) if start else text.endswith("<chunk>good</chunk>")
        return tag([box(text)]) if right else tag(["\\boxed{9}"])

    policy = make(script)
    solutions = [
        Solution("b", ("good", "bad", "end"), "9", False),
        Solution("a", ("good", "end"), "3", True),
        Solution("b", ("end",), "7", True),
    ]
    annotated = policy.annotate(solutions, BY_ID, 2, seed=4)
    (call,) = policy.sampler.calls
    assert call.adapter == "policy" and call.seed == 4 and call.sampling == policy.sampling
    assert [(s.problem_id, s.chunks, s.correct) for s in annotated] == [(s.problem_id, s.chunks, s.correct) for s in solutions]
    yes, no, half = (True, True), (False, False), (True, False)
    assert [s.hits for s in annotated] == [(half, yes, no), (yes, yes), (half,)]
    assert [s.q for s in annotated] == [(0.5, 1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.5, 1.0)]
    # one request per problem for its prompt, one per solution for its boundaries
    assert sorted(call.texts[:2]) == sorted(f"<user>SOLVE-CHUNKED {p.question}<reply>" for p in (A, B))
    assert call.texts[2] == "<user>SOLVE-CHUNKED What is 3+4?<reply><chunk>good</chunk><chunk>bad</chunk>"
    assert call.texts[3] == "<user>SOLVE-CHUNKED What is 1+2?<reply><chunk>good</chunk>"
    assert call.counts == [2, 2, 2, 2, 0]


def test_rollouts_of_the_base_have_no_tags():
    policy = make(lambda text, sample: box(text), adapter=None)
    (annotated,) = policy.annotate([Solution("a", ("so ", "end"), "3", True)], BY_ID, 1, seed=0)
    (call,) = policy.sampler.calls
    assert call.adapter is None and call.texts[1] == "<user>SOLVE What is 1+2?<reply>so "
    assert annotated.q == (1.0, 1.0, 1.0)


@pytest.mark.slow
def test_values_are_those_of_separate_greedy_rollouts(new_lm, monkeypatch):
    """On a model: greedy branches from one shared prefill equal a rollout of each prefix by itself."""
    lm = new_lm("policy", noise=0.05)
    knobs = PolicyKnobs(temperature=0.0, max_text_tokens=8, max_chunks=1)
    policy = Policy(lm, Sampler(lm, slots=4), PROMPTS, knobs)
    problems = {"a": Problem("a", "Tom has 12 apples.", "7"), "b": Problem("b", "Ben has 24 eggs.", "5")}
    solutions = [
        Solution("b", ("Add 3.\n\n", "24+3=27. ", "So now 27 eggs."), "7", True),
        Solution("a", ("12+3=15. ", "So now 15 apples."), "7", False),
    ]
    outcomes: dict[str, bool] = {}  # an arbitrary outcome for each text that greedy decoding gives
    expected = []
    with lm.using("policy"):
        for s in solutions:
            for i in range(len(s.chunks)):
                request = Request(policy.path_ids(problems[s.problem_id].question, s.chunks[:i]))
                text = lm.decode(policy.sampler.generate([request], policy.sampling, 0)[0][0].ids)
                expected.append(float(outcomes.setdefault(text, len(outcomes) % 2 == 0)))
    assert len(outcomes) > 2
    monkeypatch.setattr(
        Policy, "read", lambda self, problem, c, history: Outcome((), True, True, None, outcomes[self.lm.decode(c.ids)])
    )
    of_b, of_a = policy.annotate(solutions, problems, 2, seed=0)
    assert [*of_b.q[:3], *of_a.q[:2]] == expected
    assert of_b.q[-1] == 1.0 and of_a.q[-1] == 0.0 and [len(row) for row in of_b.hits] == [2, 2, 2]


# --- search ------------------------------------------------------------------------------------------------------------


def test_propose_samples_one_chunk_for_each_path():
    replies = {"1+2": "<chunk>one</chunk>", "3+4": "<chunk>two"}
    policy = make(lambda text, sample: next(reply for sum_, reply in replies.items() if sum_ in text))
    first, second = policy.propose([A.question, B.question], [["x", "y"], []], seed=9)
    (call,) = policy.sampler.calls
    assert call.adapter == "policy" and call.seed == 9 and call.counts == [1, 1]
    assert call.sampling.max_new_tokens == 25 and call.sampling.temperature == 0.7 and call.sampling.stop == "</chunk>"
    assert call.texts == [
        "<user>SOLVE-CHUNKED What is 1+2?<reply><chunk>x</chunk><chunk>y</chunk>",
        "<user>SOLVE-CHUNKED What is 3+4?<reply>",
    ]
    assert first == Proposal("one", True, True, len("<chunk>one</chunk>") + 1)
    assert second == Proposal("two", False, True, len("<chunk>two") + 1)


@pytest.mark.parametrize(
    "reply,text,closed,finished",
    [
        ("<chunk>one</chunk><", "one", True, True),  # the last token held more than the tag
        ("\\boxed{3}", "\\boxed{3}", False, True),  # the final answer without tags
        ("<chunk>one and" + CUT, "one and", False, False),
        ("", "", False, True),
    ],
)
def test_a_proposal_says_how_it_ended(reply, text, closed, finished):
    policy = make(lambda prefix, sample: reply)
    (proposal,) = policy.propose([A.question], [[]], seed=0)
    assert (proposal.text, proposal.closed, proposal.finished) == (text, closed, finished)


def test_a_retry_may_have_another_temperature():
    policy = make(lambda text, sample: "<chunk>one</chunk>")
    policy.propose([A.question], [[]], 1, temperature=1.3)
    policy.propose_several([A.question], [[]], 2, 1, temperature=0.0)
    policy.propose_several([A.question], [[]], 2, 1)
    assert [call.sampling.temperature for call in policy.sampler.calls] == [1.3, 0.0, 0.7]


def test_several_proposals_of_a_path_share_its_prefill():
    policy = make(lambda text, sample: f"<chunk>{'so' if text.endswith('<reply>') else 'then'} {sample}</chunk>")
    groups = policy.propose_several([A.question, B.question], [["x"], []], 3, seed=9)
    (call,) = policy.sampler.calls
    assert call.counts == [3, 3] and call.seed == 9 and call.adapter == "policy" and call.sampling.max_new_tokens == 25
    assert [[p.text for p in group] for group in groups] == [[f"then {n}" for n in range(3)], [f"so {n}" for n in range(3)]]
    lengths = [len(text) for text in call.texts]
    assert [[p.prompt_tokens for p in group] for group in groups] == [[lengths[0], 0, 0], [lengths[1], 0, 0]]
    assert [p.prompt_tokens for p in policy.propose([A.question, B.question], [["x"], []], 9)] == lengths


def test_solutions_of_a_problem_share_the_prefill_of_its_prompt():
    groups = make(lambda text, sample: tag([box(text)])).solve([A, B], 2, seed=5)
    length = len(f"<user>SOLVE-CHUNKED {A.question}<reply>")
    assert [[s.prompt_tokens for s in group] for group in groups] == [[length, 0]] * 2


# --- refining ------------------------------------------------------------------------------------------------------------

OLD = [
    Solution("a", ("one. ", "two, ", "\\boxed{9}"), "9", False, tokens=50),
    Solution("b", ("bad ", "\\boxed{8}"), "8", False, tokens=50),
]


def test_without_a_request_the_old_solution_is_continued_from_before_the_bad_chunk():
    policy = make(lambda text, sample: tag([box(text)]))
    of_a, of_b = policy.refine([A, B], OLD, [(2, "because"), (0, "since")], seed=3)
    (call,) = policy.sampler.calls
    assert call.texts == [
        "<user>SOLVE-CHUNKED What is 1+2?<reply><chunk>one. </chunk><chunk>two, </chunk>",
        "<user>SOLVE-CHUNKED What is 3+4?<reply>",
    ]
    assert call.counts == [1, 1] and call.seed == 3 and call.adapter == "policy" and call.sampling == policy.sampling
    assert not policy.rewrites
    assert of_a.chunks == ("one. ", "two, ", "\\boxed{3}") and of_a.problem_id == "a" and of_a.correct and of_a.answer == "3"
    assert of_b.chunks == ("\\boxed{7}",) and of_b.correct and of_b.finished and of_b.well_formed
    assert of_a.tokens == len("<chunk>\\boxed{3}</chunk>") + 1  # sampled now
    assert [s.prompt_tokens for s in (of_a, of_b)] == [len(text) for text in call.texts]


def test_a_continued_solution_has_one_budget_with_what_is_kept():
    for length, fits in ((11, True), (12, False)):
        policy = make(lambda text, sample: tag(["x" * 10 + "\\boxed{3}"]))  # 19 characters of 30
        old = Solution("a", ("y" * length, "bad"), None, False)
        (new,) = policy.refine([A], [old], [(1, "")], seed=0)
        assert new.finished is new.correct is new.well_formed is fits


@pytest.mark.parametrize(("adapter", "solve"), [("policy", "SOLVE-CHUNKED"), (None, "SOLVE")])
def test_with_a_request_the_policy_reads_the_analysis_and_solves_anew(adapter, solve):
    policy = make(lambda text, sample: tag([box(text)]) if adapter else box(text), adapter)
    policy.prompts = dataclasses.replace(PROMPTS, refine="REFINE {solve}|{solution}|{chunk}|{analysis}")
    (new,) = policy.refine([A], OLD[:1], [(1, " because\n")], seed=3)
    (call,) = policy.sampler.calls
    assert policy.rewrites and call.adapter == adapter and call.sampling == policy.sampling
    assert call.texts == [f"<user>REFINE {solve} What is 1+2?|one. two, \\boxed{{9}}|two,|because<reply>"]
    assert new.chunks == ("\\boxed{3}",) and new.correct and new.prompt_tokens == len(call.texts[0])


def test_only_the_base_is_shown_solved_examples():
    prompts = dataclasses.replace(PROMPTS, solve_examples=(("SOLVE 1+1?", "2"), ("SOLVE 2+3?", "5")))
    lm = FakeLM("policy")
    base, policy = (Policy(lm, None, prompts, PolicyKnobs(), adapter) for adapter in (None, "policy"))
    shown = "".join(f"{ASK}SOLVE {asked}{REPLY}{reply}" for asked, reply in (("1+1?", "2"), ("2+3?", "5"), ("4+4?", "")))
    assert lm.decode(base.prompt("4+4?")) == shown
    assert lm.decode(policy.prompt("4+4?")) == f"{ASK}SOLVE-CHUNKED 4+4?{REPLY}"
    assert lm.decode(base.path_ids("4+4?", ["8"])) == shown + "8"
