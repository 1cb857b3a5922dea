"""Assignment 5: what must hold of chunk-reset and of baselines at equal tokens. The anchor of each function stands first."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from minisw.course.relations import expect

MOST_ROUNDS = 300  # more than any right search here needs


class World:
    """A scripted policy and judge that note what they are asked.

    A chunk's text has its problem, its place and the number of the try there, such as "q:2:1". `length` is the number of chunks
    after which a solution of a problem ends (None: never), `decide(problem, place, attempt)` gives the verdict.
    """

    def __init__(self, rng: random.Random, length: int | None, decide: Callable[[str, int, int], bool | None]):
        self.seed, self.length, self.decide = rng.random(), length, decide
        self.rounds, self.tries = 0, {}  # tries: (problem, place) -> how many
        self.proposed: list[tuple] = []  # (problem, history, text, tokens)
        self.judged: list[tuple] = []  # (problem, history, text, tokens)
        self.verdicts: dict[str, bool | None] = {}

    def draw(self, use: str) -> int:
        return random.Random(f"{self.seed}/{use}").randint(1, 99)

    def propose(self, problems: Sequence[str], histories: Sequence[Sequence[str]]) -> list[tuple]:
        self.rounds += 1
        assert self.rounds <= MOST_ROUNDS, f"the search still goes on after {MOST_ROUNDS} rounds"
        assert len(problems) == len(histories) > 0, f"propose is asked for {len(problems)} problems, {len(histories)} histories"
        answers = []
        for problem, history in zip(problems, histories, strict=True):
            place = len(history)
            attempt = self.tries[problem, place] = self.tries.get((problem, place), 0) + 1
            text = f"{problem}:{place}:{attempt}"
            self.proposed.append((problem, list(history), text, self.draw(text)))
            answers.append((text, self.draw(text), self.length is not None and place + 1 >= self.length))
        return answers

    def judge(self, problems: Sequence[str], histories: Sequence[Sequence[str]], texts: Sequence[str]) -> list[tuple]:
        answers = []
        for problem, history, text in zip(problems, histories, texts, strict=True):
            place, attempt = map(int, text.split(":")[1:])
            self.verdicts[text] = self.decide(problem, place, attempt)
            self.judged.append((problem, list(history), text, self.draw(f"judge {text}")))
            answers.append((self.verdicts[text], self.draw(f"judge {text}")))
        return answers

    def search(self, call: Callable, problems: Sequence[str], *limits: int) -> list[dict]:
        return call(list(problems), self.propose, self.judge, *limits)


def scripted(name: str, values: Sequence[tuple]) -> Callable:
    """A policy or a judge for one problem that gives these answers one after the other."""
    answers = iter(values)

    def ask(*_: Sequence) -> list[tuple]:
        answer = next(answers, None)
        assert answer is not None, f"{name} is called more than {len(values)} times"
        return [answer]

    return ask


def names(rng: random.Random, count: int = 3) -> list[str]:
    return [f"{letter}{rng.randint(10, 99)}" for letter in "pqrs"[:count]]


# --- chunk-reset -----------------------------------------------------------------------------------------------------------


def chunk_reset_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """One problem: a rejected chunk, a kept one, an unreadable verdict at the end. Then both defaults."""
    propose = scripted("propose", [("a", 3, False), ("b", 4, False), ("c", 5, True)])
    judge = scripted("judge", [(False, 10), (True, 20), (None, 30)])
    got = call(["q"], propose, judge, 2, 5)
    want = {"chunks": ["b", "c"], "finished": True, "policy_tokens": 12, "judge_tokens": 60, "rejected_tokens": 3}
    expect(got, [want], "chunks a (rejected), b, c")
    tries, max_chunks = reference.__defaults__
    never = World(rng, None, lambda *_: False)
    got = call(["q"], never.propose, never.judge)[0]["chunks"]
    expect(got, [f"q:{place}:{tries}" for place in range(max_chunks)], "the chunks with both defaults if all are rejected")


def chunk_reset_with_a_perfect_judge(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A judge that knows right from wrong keeps only right chunks, if there are tries enough."""
    right: dict[tuple, int] = {}
    world = World(rng, 4, lambda p, place, attempt: attempt == right.setdefault((p, place), rng.randint(1, 4)))
    problems = names(rng)
    for problem, path in zip(problems, world.search(call, problems, 20, 9), strict=True):
        want = [f"{problem}:{place}:{right.get((problem, place))}" for place in range(4)]
        expect((path["chunks"], path["finished"]), (want, True), "the chunks of a finished solution")


def chunk_reset_that_always_keeps(call: Callable, reference: Callable, rng: random.Random) -> None:
    """With a judge that always says yes it is plain sampling: each chunk is the first try, and nothing is rejected."""
    world, problems = World(rng, 3, lambda *_: True), names(rng)
    for problem, path in zip(problems, world.search(call, problems, 4, 9), strict=True):
        expect(path["chunks"], [f"{problem}:{place}:1" for place in range(3)], "the chunks with a judge that keeps all")
        expect(path["rejected_tokens"], 0, "the rejected tokens")


def chunk_reset_that_always_rejects(call: Callable, reference: Callable, rng: random.Random) -> None:
    """With a judge that always says no, the last try is kept, and it is no rejected one."""
    tries, problems = rng.randint(1, 4), names(rng)
    world = World(rng, 3, lambda *_: False)
    for problem, path in zip(problems, world.search(call, problems, tries, 9), strict=True):
        expect(path["chunks"], [f"{problem}:{place}:{tries}" for place in range(3)], f"the chunks with {tries} tries")
        lost = [f"{problem}:{place}:{attempt}" for place in range(3) for attempt in range(1, tries)]
        expect(path["rejected_tokens"], sum(map(world.draw, lost)), f"the rejected tokens with {tries} tries")


def chunk_reset_at_the_same_place(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Policy and judge always see exactly the chunks kept so far, also after a rejection."""
    world = World(rng, 4, lambda p, place, attempt: attempt > (place + 1) % 3)
    problem = names(rng)[0]
    world.search(call, [problem], 5, 9)
    kept: list[str] = []
    for (_, history, text, _), (_, judged, _, _) in zip(world.proposed, world.judged, strict=True):
        expect(history, kept, "the history that the policy is given")
        expect(judged, kept, "the history that the judge is given")
        kept += [text] if world.verdicts[text] else []


def chunk_reset_counts_anew(call: Callable, reference: Callable, rng: random.Random) -> None:
    """At each place there are as many tries as at the first."""
    tries, problem = rng.randint(2, 4), names(rng)[0]
    world = World(rng, 4, lambda p, place, attempt: attempt == tries)
    (path,) = world.search(call, [problem], tries, 9)
    want = [f"{problem}:{place}:{tries}" for place in range(4)]
    expect(path["chunks"], want, f"the chunks if only try {tries} of {tries} is good")


def chunk_reset_with_unreadable_verdicts(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A verdict that cannot be read rejects nothing."""
    world, problem = World(rng, 3, lambda p, place, attempt: None if attempt == 2 else False), names(rng)[0]
    (path,) = world.search(call, [problem], 4, 9)
    expect(path["chunks"], [f"{problem}:{place}:2" for place in range(3)], "the chunks if the second try is unreadable")


def chunk_reset_books(call: Callable, reference: Callable, rng: random.Random) -> None:
    """All that was sampled is in the books: kept and rejected chunks of the policy, and a judgment of every try."""
    world, problems = World(rng, 4, lambda p, place, attempt: world.draw(f"{p}{place}{attempt}") % 3 == 0), names(rng)
    for problem, path in zip(problems, world.search(call, problems, 3, 9), strict=True):
        sampled = sum(tokens for p, _, _, tokens in world.proposed if p == problem)
        expect(path["policy_tokens"], sampled, "the policy's tokens")
        expect(path["rejected_tokens"], sampled - sum(map(world.draw, path["chunks"])), "the rejected tokens")
        want = sum(world.draw(f"judge {text}") for p, _, text, _ in world.proposed if p == problem)
        expect(path["judge_tokens"], want, "the judge's tokens")
    expect([row[:3] for row in world.judged], [row[:3] for row in world.proposed], "what was judged, against what was sampled")


def chunk_reset_limits(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A solution that never ends is cut off after max_chunks and not finished; one that ends just there is finished."""
    limit = rng.randint(2, 5)
    for length, finished in ((None, False), (limit, True), (limit + 1, False)):
        (path,) = World(rng, length, lambda *_: True).search(call, names(rng)[:1], 3, limit)
        expect((len(path["chunks"]), path["finished"]), (limit, finished), f"chunks and end, limit {limit}, length {length}")


def chunk_reset_goes_on_after_a_rejected_end(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A chunk that would end the solution but is rejected ends nothing."""
    world, problem = World(rng, 2, lambda p, place, attempt: attempt == 3), names(rng)[0]
    (path,) = world.search(call, [problem], 5, 9)
    expect((path["chunks"], path["finished"]), ([f"{problem}:0:3", f"{problem}:1:3"], True), "chunks and end")


def chunk_reset_of_several_problems(call: Callable, reference: Callable, rng: random.Random) -> None:
    """All open problems advance in one round; a problem that is done is asked no more and changes no other."""
    good = {name: rng.randint(1, 4) for name in names(rng, 4)}
    world = World(rng, 3, lambda p, place, attempt: attempt == good[p])
    paths = world.search(call, list(good), 4, 9)
    expect([path["chunks"] for path in paths], [[f"{p}:{i}:{n}" for i in range(3)] for p, n in good.items()], "the chunks")
    expect(world.rounds, 3 * max(good.values()), "the calls of propose")
    expect(len(world.proposed), 3 * sum(good.values()), "all proposals")
    expect(call([], world.propose, world.judge, 3, 3), [], "no problem")


def chunk_reset_judges_in_one_call(call: Callable, reference: Callable, rng: random.Random) -> None:
    """The judge is called once for each call of the policy."""
    world, calls = World(rng, 3, lambda *_: rng.random() < 0.5), []

    def judge(*args: Sequence) -> list[tuple]:
        calls.append(len(args[0]))
        return world.judge(*args)

    call(names(rng), world.propose, judge, 3, 9)
    expect(len(calls), world.rounds, "calls of the judge")


# --- majority --------------------------------------------------------------------------------------------------------------


def majority_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Three forms of one half against two threes; a tie; no answer; weights."""
    expect(call(["3", "1/2", "0.5", "3", "0.50"]), "1/2", "answers 3, 1/2, 0.5, 3, 0.50")
    expect(call(["4", "3"]), "4", "answers 4, 3")
    expect(call([None, None, "7"]), "7", "two without an answer, and 7")
    expect(call([None]), None, "no answer")
    expect(call(["3", "4", "3"], [0.25, 0.75, 0.25]), "4", "answers 3, 4, 3 with weights 1/4, 3/4, 1/4")
    expect(call(["3", "4", "3"], [0.5, 0.75, 0.5]), "3", "answers 3, 4, 3 with weights 1/2, 3/4, 1/2")


def majority_by_value(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Texts of equal value are one answer, and its first text is returned."""
    for _ in range(5):
        half = 2 * rng.randint(5, 40) + 1
        forms = [f"{half}/2", f"{half / 2}", f"{half / 2}0", f"{2 * half}/4"]
        rng.shuffle(forms)
        others = [str(rng.randint(100, 999))] * 3
        answers = [others[0], *forms, *others[1:]]
        expect(call(answers), forms[0], f"answers {answers}")


def majority_without_answers(call: Callable, reference: Callable, rng: random.Random) -> None:
    """However many have no answer, they do not win; nothing gives nothing."""
    answers: list[str | None] = [str(rng.randint(2, 9))] + [None] * rng.randint(2, 5)
    rng.shuffle(answers)
    want = next(a for a in answers if a)
    expect(call(answers), want, f"answers {answers}")
    expect(call([]), None, "an empty list")


def majority_at_a_tie(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Of answers with equal votes, the one that appears first wins, and the order of the others has no say."""
    values = rng.sample(range(10, 99), 4)
    votes = [str(value) for value in values[:3] for _ in range(2)] + [str(values[3])]
    for _ in range(4):
        rng.shuffle(votes)
        want = next(vote for vote in votes if votes.count(vote) == 2)
        expect(call(votes), want, f"answers {votes}")


def majority_by_weight(call: Callable, reference: Callable, rng: random.Random) -> None:
    """With weights the sum counts: many small votes against one large one, both ways."""
    small, large = (str(value) for value in rng.sample(range(10, 99), 2))
    count = rng.randint(3, 5)
    for weight, want in ((count / 8 + 0.125, large), (count / 8 - 0.125, small)):
        votes = [(small, 0.125)] * count + [(large, weight)]
        rng.shuffle(votes)
        answers, weights = [v[0] for v in votes], [v[1] for v in votes]
        expect(call(answers, weights), want, f"answers {answers} with weights {weights}")


# --- samples within a budget -------------------------------------------------------------------------------------------------


def samples_within_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """First samples cost 5, then 4, 9, 5, 1. The first that does not fit ends it all."""
    costs = [[3, 4, 5], [2, 9, 1]]
    for budget, want in {10: [2, 1], 9: [2, 1], 8: [1, 1], 18: [2, 2], 1: [1, 1], 100: [3, 3]}.items():
        expect(call(costs, budget), want, f"costs {costs}, budget {budget}")
    expect(call([], 5), [], "no problem")


def random_costs(rng: random.Random) -> list[list[int]]:
    return [[rng.randint(1, 9) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(2, 4))]


def samples_within_the_budget(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Never over the budget, unless the first samples alone are; and the next sample in order would be too much."""
    for _ in range(12):
        costs = random_costs(rng)
        first, everything = sum(row[0] for row in costs), sum(map(sum, costs))
        budget = rng.randint(first, max(everything - 1, first))
        counts = call(costs, budget)
        spent = sum(sum(row[:count]) for row, count in zip(costs, counts, strict=True))
        assert spent <= budget, f"costs {costs}: {counts} samples cost {spent}, more than {budget}"
        left = [(n, i) for i, row in enumerate(costs) for n in range(counts[i], len(row))]
        if left:
            number, problem = min(left)
            more = spent + costs[problem][number]
            assert more > budget, f"costs {costs}, budget {budget}: {counts} leaves out a sample that is paid for"


def samples_within_in_rounds(call: Callable, reference: Callable, rng: random.Random) -> None:
    """With equal costs, problems get equally many, and the first of them one more."""
    problems, cost, more = rng.randint(2, 4), rng.randint(2, 5), rng.randint(1, 7)
    costs = [[cost] * 9 for _ in range(problems)]
    rounds, rest = divmod(problems + more, problems)
    want = [rounds + (i < rest) for i in range(problems)]
    expect(call(costs, cost * (problems + more)), want, f"{problems} problems, samples of {cost}, budget for {problems + more}")
    expect(call(costs, cost * (problems + more + 1) - 1), want, "the same with a budget that ends one token before the next")


def samples_within_rows_of_any_length(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A problem without further samples holds up no other; a budget too small pays for one of each."""
    costs = random_costs(rng) + [[1], [1] * 7]
    expect(call(costs, 1000), [len(row) for row in costs], f"costs {costs} and a large budget")
    expect(call(costs, rng.randint(0, 3)), [1] * len(costs), f"costs {costs} and a small budget")


# --- best of N ---------------------------------------------------------------------------------------------------------------


def best_of_n_anchor(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Samples of 3 + 1 tokens: 16 pay for two of each problem, 20 for a third of the first, 24 for all."""
    scores, policy, judge = [[0.2, 0.5, 0.9], [0.4, 0.4, 0.8]], [[3] * 3] * 2, [[1] * 3] * 2
    for budget, want in {16: [1, 0], 19: [1, 0], 20: [2, 0], 24: [2, 2], 4: [0, 0]}.items():
        expect(call(scores, policy, judge, budget), want, f"scores {scores}, samples of 3 + 1 tokens, budget {budget}")


def random_scores(rng: random.Random, problems: int, samples: int) -> list[list[float]]:
    """Scores without ties."""
    return [[value / 64 for value in rng.sample(range(64), samples)] for _ in range(problems)]


def best_of_n_of_all(call: Callable, reference: Callable, rng: random.Random) -> None:
    """With a large budget it is the best of all, at a tie the first."""
    scores = random_scores(rng, 3, 5)
    scores[0][3] = scores[0][1] = 2.0
    want = [row.index(max(row)) for row in scores]
    costs = [[rng.randint(1, 9) for _ in row] for row in scores]
    expect(call(scores, costs, costs, 1000), want, f"scores {scores} and a large budget")


def best_of_n_counts_both(call: Callable, reference: Callable, rng: random.Random) -> None:
    """A token is a token, whether policy or judge spends it; scores rise, so the last that is paid for is the best."""
    problems, more = rng.randint(2, 3), rng.randint(1, 5)
    scores = [[(i + 1) / 16 for i in range(8)] for _ in range(problems)]
    rounds, rest = divmod(problems + more, problems)
    want = [rounds - 1 + (i < rest) for i in range(problems)]
    for policy in (1, 4, 7):
        costs = [[policy] * 8 for _ in scores], [[8 - policy] * 8 for _ in scores]
        got = call(scores, *costs, 8 * (problems + more))
        expect(got, want, f"rising scores, samples of {policy} + {8 - policy} tokens, budget for {problems + more} of them")


def best_of_n_within_what_is_paid(call: Callable, reference: Callable, rng: random.Random) -> None:
    """Scores fall, so the first of each is the best whatever the budget; what is not paid for has no say."""
    scores = [sorted(row, reverse=True) for row in random_scores(rng, 2, 5)]
    costs = [[rng.randint(1, 5) for _ in row] for row in scores]
    for budget in (rng.randint(1, 20), 1000):
        expect(call(scores, costs, costs, budget), [0, 0], f"falling scores {scores}, budget {budget}")
    later = [[0.5, *(0.75 + value / 8 for value in row[1:])] for row in scores]
    paid = sum(2 * row[0] for row in costs)
    expect(call(later, costs, costs, paid), [0, 0], "a budget that pays only for the first, whose scores are the lowest")


RELATIONS = {
    "chunk_reset": [
        chunk_reset_anchor,
        chunk_reset_with_a_perfect_judge,
        chunk_reset_that_always_keeps,
        chunk_reset_that_always_rejects,
        chunk_reset_at_the_same_place,
        chunk_reset_counts_anew,
        chunk_reset_with_unreadable_verdicts,
        chunk_reset_books,
        chunk_reset_limits,
        chunk_reset_goes_on_after_a_rejected_end,
        chunk_reset_of_several_problems,
        chunk_reset_judges_in_one_call,
    ],
    "majority": [majority_anchor, majority_by_value, majority_without_answers, majority_at_a_tie, majority_by_weight],
    "samples_within": [
        samples_within_anchor,
        samples_within_the_budget,
        samples_within_in_rounds,
        samples_within_rows_of_any_length,
    ],
    "best_of_n": [best_of_n_anchor, best_of_n_of_all, best_of_n_counts_both, best_of_n_within_what_is_paid],
}
