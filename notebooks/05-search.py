# %% [markdown]
# # 05 · Search: a judge steers, and what that costs
#
# **You will be able to** run chunk-reset with any policy and any judge, count its tokens, say in advance how good a
# judge must be, and compare search methods at equal tokens.
#
# **Time:** 2 minutes to run on two cores, 35 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# no GPU; notebook 00, and Bayes' rule.
#
# Most searches come from the finished run that `open_run()` opens. The cell with the tag *live* runs a search.

# %%
import itertools

from IPython.display import Markdown

import minisw
from minisw import show
from minisw.evaluate.metrics import step_accuracies, steps_until_error
from minisw.evaluate.stats import mean, paired_bootstrap
from minisw.pictures import pareto_front, pareto_points
from minisw.pictures import search as pictures
from minisw.records import Judgment, Problem, Proposal
from minisw.saved_run import study_results
from minisw.search import budget, theory
from minisw.search.baselines import vote_answers
from minisw.search.chunk_reset import Retries, chunk_reset

# %%
run = minisw.open_run()
loaded = run.task.load("test", run.recipe.problems.test, run.seed)
problems = loaded[: run.recipe.search.problems]
tries = {name: run.records(f"search/{name}-tries") for name in ("chunk-reset", "random")}
answers = {name: run.records(f"search/{name}") for name in ("chunk-reset", "best-of-n", "random")}
drawn = run.records("search/samples")
count = len(drawn) // len(problems)
samples = [drawn[i : i + count] for i in range(0, len(drawn), count)]
print(f"{len(problems)} problems, {count} plain samples of each")

# %% [markdown]
# ## 1 Chunk-reset, with a scripted policy
#
# *Chunk-reset* (StepWiser §4.4) samples one chunk and asks the judge. If the verdict is Positive, the chunk is kept,
# and the search continues after it. If it is Negative, the chunk is discarded and sampled again at the same place.
# There are at most 5 tries; the last one is kept, whatever its verdict.
#
# `chunk_reset` takes two functions: `propose` samples the next chunk of every open solution, `judge` judges these
# chunks. A script can play either of them.

# %%
show.source(chunk_reset)


# %%
def scripted(plan):
    """A policy that proposes the texts of plan[i] as chunk i, one after another, in a circle."""
    queues = [itertools.cycle(own) for own in plan]

    def propose(questions, paths, seed):
        texts = [next(queues[len(path)]) for path in paths]
        return [Proposal(text, closed=True, finished=True, tokens=10) for text in texts]

    return propose


def says(verdict_of):
    """A judge whose verdict is a function of the chunk; a judgment costs 40 tokens."""
    return lambda steps, seed: [Judgment(verdict_of(step.chunk), tokens=40) for step in steps]


plan = [["wrong", "right"], ["right"], ["wrong"] * 5 + [r"right \boxed{7}"]]
plan[2] = [text if "7" in text else r"wrong \boxed{8}" for text in plan[2]]
toy = Problem("toy", "a question", "7")

# %% [markdown]
# The first chunk of this policy is wrong at every other try, the second always right, and the third wrong five times
# in a row. Three judges: one always says yes, one always no, and one is perfect. *Predict first*: how many chunks are
# sampled with each, and which are kept?

# %%
verdicts = {
    "always yes": lambda chunk: True,
    "always no": lambda chunk: False,
    "perfect": lambda chunk: chunk.startswith("right"),
}
found = {}
for name, verdict_of in verdicts.items():
    (path,) = chunk_reset([toy], scripted(plan), says(verdict_of), tries=5, max_chunks=4)
    found[name] = path
    print(f"{name:10} {len(path.tries):2} tries, kept {path.chunks}")

# %%
counts = ", ".join(f"{name} {len(path.tries)}" for name, path in found.items())
show.picture(
    pictures.trees({name: path.tries for name, path in found.items()}),
    f"Three trees of tries, one for each judge, with a column for each chunk. Tries: {counts}. The "
    "perfect judge ends with a wrong chunk too, after five rejections.",
)

# %% [markdown]
# **Question.** Always yes is plain sampling. What is always no?
#
# <details><summary>Answer</summary>
#
# Plain sampling too, at five times the cost: the last of five tries is as good as the first, because the verdicts did
# not depend on the chunks. Rejecting helps only if right and wrong chunks are rejected at different rates. That is why
# random rejection is a good control.
#
# </details>

# %% [markdown]
# ## 2 What happens to rejected chunks, and a live search
#
# The paper does not say what is kept after five rejections. `Retries` holds the choices: how many tries; keep the last
# one or the one with the best $P(\text{Positive})$; and the temperature of every try but the first.

# %%
show.source(Retries)


# %% [markdown]
# Three toy cases with a judge that rejects everything but likes the second try most. *Predict first*: which text is
# kept?


# %%
def unsure(steps, seed):
    """Rejects everything; the chunk "second" gets the best score."""
    return [Judgment(False, p_positive=0.4 if "second" in s.chunk else 0.1) for s in steps]


texts = [[rf"{number} \boxed{{7}}" for number in ("first", "second", "third")]]
for retries in (Retries(tries=1), Retries(tries=3), Retries(tries=3, keep="best")):
    (path,) = chunk_reset([toy], scripted(texts), unsure, retries, max_chunks=1)
    print(retries.tries, retries.keep, "->", path.chunks)

# %% [markdown]
# Now the trained policy and judge, on six test problems.

# %% tags=["live"]
policy, judge = run.policy(), run.judge("stepwiser")
limit = run.recipe.search.tries
live = chunk_reset(
    problems[:6], policy.propose, judge.judge, limit, policy.knobs.max_chunks,
    run.seed_of("notebook"), policy.within_budget,
)  # fmt: skip
books = [path.answer("chunk-reset") for path in live]
assert all(1 <= t.attempt <= limit for path in live for t in path.tries)
assert all(sum(t.kept for t in path.tries) == len(path.chunks) for path in live)
longest = max(live, key=lambda path: len(path.tries))
print(longest.problem.question, "| reference:", longest.problem.answer, "\n")
for t in longest.tries:
    mark = {True: "+", False: "-", None: "?"}[t.verdict]
    print(f"chunk {t.position + 1}, try {t.attempt} [{mark}]", " ".join(t.text.split()))

# %%
right = [answer.correct for answer in books]
total = sum(len(path.tries) for path in live)
show.picture(
    pictures.tries_grid([path.tries for path in live], right, limit),
    f"Six problems, a row each, with the number of tries of every chunk: {total} chunks were "
    f"sampled, {sum(len(path.chunks) for path in live)} kept; {sum(right)} of 6 answers are right.",
)

# %% [markdown]
# **Question.** Five rejections in a row can have three causes. Which?
#
# <details><summary>Answer</summary>
#
# The place is hard, and all five tries are wrong. Or the judge is wrong about a right chunk, and makes the same mistake
# again. Or an earlier chunk is wrong and was kept, so that nothing right can follow: chunk-reset never goes back. Read
# the tries above: which causes do you see?
#
# </details>

# %% [markdown]
# ## 3 Accounting: who spent which tokens
#
# The cost of a method is all that was sampled: the policy's kept tokens, its rejected tokens, and *the judge's*. The
# paper counts no judge tokens. With a judge that reasons, they are most of the cost.
#
# A fair comparison gives every method the same tokens $B$ in all. `samples_within` says how many plain samples of
# each problem that pays for.

# %%
show.source(budget.samples_within)

# %% [markdown]
# Three toy cases: two problems with three samples each. *Predict first*: how many samples of each problem?

# %%
costs = [[10, 10, 10], [30, 30, 30]]
for tokens in (39, 79, 120):
    print(tokens, budget.samples_within(costs, tokens))

# %%
own = found["perfect"].answer("toy")
print("perfect judge, toy:", own.policy_tokens, "policy tokens, of which rejected:", end=" ")
print(own.rejected_tokens, "| judge:", own.judge_tokens)
for path, answer in zip(live, books, strict=True):
    spent = answer.policy_tokens + answer.judge_tokens
    assert spent == sum(t.policy_tokens + t.judge_tokens for t in path.tries)
    print(f"live: policy {answer.policy_tokens} (rejected {answer.rejected_tokens}),", end=" ")
    print(f"judge {answer.judge_tokens}")

# %%
rows = run.metrics("search")["rows"]
by_method = {row["method"]: row for row in rows}
reset = by_method["chunk-reset with the judge"]
plain = by_method["plain sampling"]
ratio = reset["tokens"] / plain["tokens"]
show.picture(
    pictures.token_bars(rows),
    f"Stacked bars of tokens per problem: plain sampling {plain['tokens']:.0f}, chunk-reset "
    f"{reset['tokens']:.0f}, of which {reset['judge_tokens']:.0f} are the judge's: {ratio:.1f} "
    "times as many. Vote and best of N cost the same.",
)

# %% [markdown]
# **Question.** Best of N draws far fewer samples than the vote here, for the same tokens. Why?
#
# <details><summary>Answer</summary>
#
# Each of its candidates must be judged, chunk by chunk, and a judged solution costs several times as much as a bare
# one. So its N is small. With a cheaper judge, or one verdict for a whole solution, N would be larger.
#
# </details>

# %% [markdown]
# ## 4 Choosing among samples: majority and best of N
#
# *Majority* takes the most frequent answer, counted by value. *Best of N* takes the sample with the best score of a
# judge, here the mean of $P(\text{Positive})$ over its chunks.

# %%
show.source(budget.majority)

# %%
show.source(budget.best_of_n)

# %% [markdown]
# Three toy votes, and three budgets for best of N with the scores 0.2, 0.9, 0.5. *Predict first*: which answer, and
# which sample?

# %%
for given in (["1/2", "3", "0.5"], [None, None, "4"], ["5", "6"]):
    print(given, "->", budget.majority(given))
for tokens in (50, 100, 150):
    print(tokens, "->", budget.best_of_n([[0.2, 0.9, 0.5]], [[10] * 3], [[40] * 3], tokens))

# %%
by_id = {p.id: p for p in problems}
numbers = list(range(1, count + 1))


def voted(n: int) -> float:
    """Accuracy of the majority of the first n samples of each problem."""
    chosen = [budget.majority([s.answer for s in group[:n]]) for group in samples]
    groups = zip(samples, chosen, strict=True)
    return mean([any(s.correct for s in group if s.answer == own) for group, own in groups])


curves = {
    "majority": [voted(n) for n in numbers],
    "at least one right": [mean([any(s.correct for s in g[:n]) for g in samples]) for n in numbers],
}
show.picture(
    pictures.votes_curve(numbers, curves),
    f"Accuracy against the number of samples: the majority goes from {curves['majority'][0]:.2f} "
    f"to {curves['majority'][-1]:.2f}, while the share of problems with at least one right sample "
    f"reaches {curves['at least one right'][-1]:.2f}.",
)

# %% [markdown]
# **Question.** The gap between the two curves is what a perfect chooser would gain. Can a majority ever close it?
#
# <details><summary>Answer</summary>
#
# No. With more samples the majority converges to the policy's most likely answer. Where that is wrong, more votes only
# confirm it. A judge can close the gap if it tells right from wrong where the policy cannot.
#
# </details>

# %% [markdown]
# ## 5 How good must the judge be?
#
# At one place the policy proposes a right chunk with probability $p$. The judge accepts a right chunk with probability
# $t$ and a wrong one with probability $f$. The first accepted chunk is kept; by Bayes' rule it is right with
# probability
#
# $$\frac{p\,t}{p\,t + (1-p)\,f}$$
#
# The formula has no limit of tries. With a limit, the last try is kept even if it is rejected.

# %%
show.source(theory.kept_right)

# %% [markdown]
# Three toy judges at $p = 0.8$: one that accepts nine of ten right chunks and one of ten wrong ones; one that accepts
# half of both; one that accepts one of ten right chunks and no wrong one. *Predict first*: the share of right chunks
# among the kept, without a limit and with 5 tries.

# %%
for t, f in [(0.9, 0.1), (0.5, 0.5), (0.1, 0.0)]:
    values = [theory.kept_right(0.8, t, f, most) for most in (None, limit)]
    print(f"t = {t}, f = {f}: {values[0]:.3f} without a limit, {values[1]:.3f} with {limit} tries")

# %% [markdown]
# `measure` counts $p$, $t$ and $f$ in the run's own searches, with the exact labels of this toy task. It counts only
# tries that follow right chunks: after a wrong chunk, no chunk is right. The rows differ in $p$, because a search whose
# judge rejects wrong chunks has more tries at hard places.

# %%
exact = run.task.exact_labels
rates = {
    "StepWiser": theory.measure(tries["chunk-reset"], problems, exact),
    "random": theory.measure(tries["random"], problems, exact),
}
lines = ["| judge | p | t | f | kept, measured | theory | theory, 5 tries |", "|---" * 7 + "|"]
for name, r in rates.items():
    values = [theory.kept_right(r.p, r.t, r.f, most) for most in (None, limit)]
    cells = [r.p, r.t, r.f, r.kept_right, *values]
    lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")
Markdown("\n".join(lines))

# %%
ours, control = rates["StepWiser"], rates["random"]
show.picture(
    pictures.kept_right_curves(rates, limit),
    f"Right chunks among the kept against p, for two judges. StepWiser: measured "
    f"{ours.kept_right:.2f} at p = {ours.p:.2f}; random rejection: {control.kept_right:.2f} at p = "
    f"{control.p:.2f}. Without a judge the two shares would be equal.",
)

# %% [markdown]
# **Question.** Compare the measured share with the two of the theory. What does the theory leave out?
#
# <details><summary>Answer</summary>
#
# The last column includes the limit of tries, the one before does not. But both use one $p$, one $t$ and one $f$ for
# all places, and places differ: where the policy is weak, most tries are wrong, and a judge built on the same base may
# be weak as well. Also, the tries at one place are alike: a judge that accepts one wrong try would accept others.
#
# </details>

# %% [markdown]
# ## 6 Does a better judge search better?
#
# The formula gives an answer before any search. The share of right steps that a judge passes is $t$, that of wrong
# steps is $f$; both are in its judgments of the test solutions, up to the first error.

# %%
show.source(step_accuracies)

# %% [markdown]
# Three toy judges on four steps. *Predict first*: the two hit rates; then $t$ and $f$.

# %%
labels = [True, True, False, False]
for said in ([True, True, True, True], [True, False, False, True], [True, None, False, False]):
    hits, rejects = step_accuracies(labels, said)
    print(said, "->", hits, rejects, f"t = {hits}, f at most {1 - rejects}")

# %%
items, points = run.items(), {}
for row in run.metrics("evaluate")["rows"]:
    if not (run.folder / "evaluate" / f"{row['id']}.jsonl").is_file():
        continue
    saved = iter(run.records(f"evaluate/{row['id']}"))
    judged = [[next(saved) for _ in item.chunks] for item in items]
    pairs = steps_until_error(items, judged)
    t, caught = step_accuracies([label for label, _ in pairs], [j.verdict for _, j in pairs])
    points[row["name"]] = (row["f1"], theory.kept_right(ours.p, t, 1 - caught, limit))
shown, ylabel = points, "predicted share of right chunks"
study = study_results("search")
if study and study.get("judges"):
    shown = {row["name"]: (row["f1"], row["accuracy"]) for row in study["judges"]}
    ylabel = "accuracy of chunk-reset"
best = max(shown, key=lambda name: shown[name][1])
show.picture(
    pictures.judge_scatter(
        shown, "first-error F1", ylabel, f"“{best}” has the highest {ylabel}: {shown[best][1]:.2f}"
    ),
    f"A point for each of {len(shown)} judges, F1 against the {ylabel}: the highest is {best} with "
    f"{shown[best][1]:.2f}, the lowest has {min(y for _, y in shown.values()):.2f}.",
)

# %% [markdown]
# If the study `search` has been run, the picture shows its measured accuracies; otherwise predictions by the formula.
#
# **Question.** Could a judge with a lower F1 search better?
#
# <details><summary>Answer</summary>
#
# Yes. F1 asks for the exact first error and for whole solutions without a false alarm. In a search a false alarm costs
# only another try, while a wrong chunk that passes is final. What counts is $t/f$: a strict judge with a small $f$ may
# have the lower F1 and steer better, at a price in tokens.
#
# </details>

# %% [markdown]
# ## 7 Accuracy against all tokens
#
# Every method is a point: tokens per problem, accuracy. A point is on the *Pareto front* if no cheaper point reaches its
# accuracy. A vote can be bought at any budget, so it is a curve; `vote_answers` takes as many samples as a budget pays
# for. If the study `search` has been run, the picture shows its budgets and all methods; otherwise those of the run.

# %%
show.source(vote_answers)

# %% [markdown]
# Three toy fronts. *Predict first*: which points are on the front?

# %%
toys = [
    {"a": [(10, 0.5), (20, 0.4)]},
    {"a": [(10, 0.5)], "b": [(10, 0.6), (40, 0.7)]},
    {"a": [(10, 0.5)], "b": [(40, 0.5)]},
]
for own in toys:
    print(own, "->", pareto_front(own))


# %%
def point_of(arm: str, found, multiple: float) -> dict:
    """One point, in the form of the study's rows."""
    spent = mean([a.policy_tokens + a.judge_tokens for a in found])
    accuracy = mean([a.correct for a in found])
    row = {"arm": arm, "split": "test", "multiple": multiple}
    return {**row, "tokens": spent, "accuracy": accuracy}


votes = {n: vote_answers(samples, round(n * plain["tokens"] * len(problems))) for n in (2, 4, 8)}
small = [
    {**point_of("plain", votes[2], 1), "tokens": plain["tokens"], "accuracy": plain["accuracy"]},
    *(point_of("majority", own, n) for n, own in votes.items()),
    point_of("chunk_reset", answers["chunk-reset"], 8),
    point_of("best_of_n", answers["best-of-n"], 8),
    point_of("random_rejection", answers["random"], 1),
]
wanted = ("test", "hard")  # the study has validation problems too; they only choose
measured = [row for row in (study or {}).get("pareto", []) if row["split"] in wanted]
print("the study's results" if measured else "the small version, from the run")
measured = measured or small

# %%
front = pareto_front(pareto_points(measured, "test"))
ends = [f"{arm.replace('_', ' ')} {y:.2f} with {x:.0f} tokens" for x, y, arm in front]
show.picture(
    pictures.pareto(measured),
    f"Accuracy against all sampled tokens, log scale. The Pareto front begins with {ends[0]} and "
    f"ends with {ends[-1]}; it has {len(front)} points.",
)

# %% [markdown]
# Differences are paired by problem, because what is hard for one method is hard for the other too (notebook 04).

# %%
equal = vote_answers(samples, sum(a.policy_tokens + a.judge_tokens for a in answers["chunk-reset"]))
others = {
    "plain sampling": [mean([s.correct for s in group]) for group in samples],
    "random rejection": [float(a.correct) for a in answers["random"]],
    "best of N, same tokens": [float(a.correct) for a in answers["best-of-n"]],
    "majority, same tokens": [float(a.correct) for a in equal],
}
forest = {}
for name, other in others.items():
    pairs = [(float(a.correct), b) for a, b in zip(answers["chunk-reset"], other, strict=True)]
    forest[f"minus {name}"] = paired_bootstrap(pairs, mean, run.seed)
clear = sum(low > 0 for _, (low, _) in forest.values())
said = ", ".join(f"{name} {value:+.2f}" for name, (value, _) in forest.items())
show.picture(
    pictures.paired_differences(
        forest, f"Chunk-reset is clearly ahead of {clear} of {len(forest)} others"
    ),
    f"Accuracy of chunk-reset minus that of others, with 95% intervals paired by problem: {said}.",
)

# %% [markdown]
# **Question.** When is the majority the better choice?
#
# <details><summary>Answer</summary>
#
# When the judge is expensive or weak; when the budget is small, because one chunk-reset search costs as much as several
# samples; and when the policy's most likely answer is right. Chunk-reset needs a judge that sees the errors that the
# policy often makes. Read the intervals: which comparisons do so few problems leave open?
#
# </details>

# %% [markdown]
# ## Exercises
#
# 1. Script a judge with $t = 0.9$ and $f = 0.3$ and a policy with $p = 0.7$, run chunk-reset on 2,000 toy problems of
#    one chunk, and compare the share of right kept chunks with `kept_right(0.7, 0.9, 0.3, 5)`.
# 2. In section 2, search the six problems again with `Retries(keep="best")` and with `Retries(temperature=1.3)`. Do
#    the token counts change more than the answers? How many problems would you need to tell?
# 3. Chunk-reset never goes back behind a kept chunk. Design a search that can, with the same budget: when should it go
#    back, and how do you count its tokens?
