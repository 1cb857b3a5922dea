# %% [markdown]
# # 02 · Annotate: what a chunk is worth
#
# **You will be able to** turn rollouts into values, values into labels by four rules, and say how wrong such labels
# are.
#
# **Time:** 2 minutes to run on two cores, 30 minutes to read. **Needs:** `pip install -e '.[course]'` in a checkout,
# no GPU; notebook 00, and the variance of a share.
#
# The solutions and the outcomes of all rollouts come from the finished run that `open_run()` opens. One cell, with
# the tag *live*, samples.

# %%
import math
import random

from IPython.display import Markdown

import minisw
from minisw import show
from minisw.engine.requests import Request
from minisw.evaluate.stats import wilson
from minisw.labels import (
    agreement,
    balanced,
    label,
    label_with,
    rel_effective,
    relative_progress,
    until_first_negative,
)
from minisw.pictures import steps as step_pictures
from minisw.pictures import values as pictures
from minisw.policy import Policy
from minisw.problems import training_problems
from minisw.records import Solution, flat

# %%
run = minisw.open_run()
knobs = run.recipe.annotate
annotated = run.records("annotate/train")
by_id = {p.id: p for p in training_problems(run.task, run.recipe)[1]}
four = ("abs_q", "rel_effective", "rel_ratio", "relative_progress")
print(f"{len(annotated)} annotated solutions, {sum(len(s.chunks) for s in annotated)} chunks")
print(f"{knobs.branches} rollouts at each boundary")

# %% [markdown]
# ## 1 The value of a beginning, and its error
#
# $Q_i = P(\text{the answer is right} \mid c_1 \dots c_i)$: the chance that the policy, continuing after chunk $i$,
# ends right. With $M$ rollouts, of which $k$ end right, $\hat Q_i = k/M$ has the standard error
#
# $$\sqrt{Q_i (1 - Q_i) / M}$$
#
# For $k = 0$ this formula says 0, which is wrong; Wilson's interval asks instead which $Q$ could have given this $k$.

# %%
show.source(wilson)

# %% [markdown]
# Three toy cases with $M = 8$. *Predict first*: how far up does the interval reach if no rollout, one, or half of
# them end right?

# %%
for k in (0, 1, 4):
    low, high = wilson(k, 8)
    print(
        f"{k} of 8: standard error {math.sqrt(k / 8 * (1 - k / 8) / 8):.2f}, Wilson {low:.2f} to "
        f"{high:.2f}"
    )

# %%
sizes = [1, 2, 4, 8, 16, 32, 64]
half = {m: 1.96 * math.sqrt(0.25 / m) for m in sizes}
show.picture(
    pictures.estimate_spread([0.5, 0.1, 0.9], sizes),
    "95% bands of the estimate against the number of rollouts M, for Q of 0.1, 0.5 and 0.9: at "
    "Q = 0.5 it is "
    f"± {half[8]:.2f} with M = 8 and ± {half[64]:.2f} with M = 64.",
)

# %% [markdown]
# **Question.** For which $Q$ does it matter most whether $M$ is 8 or 64?
#
# <details><summary>Answer</summary>
#
# For a *value*, near ½, where the variance is largest. For a *label* by Abs-Q (positive if any rollout ends right),
# for small $Q$: there the label is decided by whether the rare success happens to be among the $M$.
#
# </details>

# %% [markdown]
# ## 2 One prefix, many branches
#
# All rollouts of a solution continue the same text at different places. A sampler that reads (*prefills*) the text
# once, and branches from every boundary, saves nearly all of the reading. A `Request` says so: the ids of the whole
# text, the number of branches, and the lengths at which to branch.

# %%
show.source(Policy.annotate)

# %% [markdown]
# Three toy requests. *Predict first*: how many branches has each, and of what lengths?

# %%
for request in (Request([5, 6, 7]), Request([5, 6, 7], 2), Request([5, 6, 7], 2, starts=(1, 3))):
    print(request, "->", request.branches())


# %%
def fits(solution) -> bool:
    """A wrong solution of at least four chunks that began well and fell."""
    q = solution.q
    return not solution.correct and len(q) > 4 and q[0] >= 0.5 and q[1] >= 0.5 and q[-2] == 0


chosen = next(s for s in annotated if fits(s))
policy, problem = run.policy(), by_id[chosen.problem_id]
starts = [
    len(policy.path_ids(problem.question, chosen.chunks[:i])) for i in range(len(chosen.chunks))
]
print("prefix lengths in tokens:", starts)

# %%
mean_tokens = sum(s.tokens for s in run.records("annotate/train-solutions")[:200]) // 200
sampled = knobs.branches * sum(max(0, mean_tokens - (start - starts[0])) for start in starts)
alone, shared = knobs.branches * sum(starts), max(starts)
show.picture(
    pictures.shared_tokens(starts, knobs.branches, sampled),
    f"Tokens to annotate one solution: without sharing {alone} tokens are read, with one shared "
    f"prefix {shared}; about {sampled} "
    "are sampled either way.",
)

# %% [markdown]
# **Question.** Reading is cheaper than sampling, token for token. Why does sharing still matter?
#
# <details><summary>Answer</summary>
#
# The text is read again for every branch, so the tokens read are several times those sampled; and every copy takes
# memory for its keys and values, which limits how many branches are sampled at once.
#
# </details>

# %% [markdown]
# ## 3 A staircase, live
#
# One wrong solution, with $M = 64$ rollouts at every boundary: eight times as many as the run took.

# %%
print(problem.question, "| reference answer:", problem.answer, "\n")
for number, chunk in enumerate(chosen.chunks, 1):
    print(number, " ".join(chunk.split()))

# %% tags=["live"]
many = 64
solution = Solution(chosen.problem_id, chosen.chunks, None, chosen.correct)
fine = policy.annotate([solution], by_id, many, run.seed_of("notebook"))[0]
assert all(len(row) == many for row in fine.hits) and len(fine.q) == len(chosen.q)
fall = step_pictures.steepest(fine.q)
show.picture(
    step_pictures.staircase(fine.q, fine.hits),
    f"Q after every chunk from {many} rollouts, with intervals: from {fine.q[0]:.2f} at the "
    f"start, it falls most at chunk {fall}, "
    f"from {fine.q[fall - 1]:.2f} to {fine.q[fall]:.2f}.",
)

# %% tags=["live"]
print("M =", knobs.branches, [round(q, 2) for q in chosen.q])
print("M =", many, [round(q, 2) for q in fine.q])
print("exact labels:", run.task.exact_labels(problem, chosen.chunks))

# %% [markdown]
# **Question.** A right chunk can lower $Q$, and a wrong one need not bring it to 0. How?
#
# <details><summary>Answer</summary>
#
# $Q$ is about *this policy's* future, not about truth. A right but unusual start may lead the policy astray. After a
# wrong chunk, it may skip the wrong number or make a second error that cancels the first.
#
# </details>

# %% [markdown]
# ## 4 Four rules
#
# Labels are functions of $Q$. *Abs-Q*: positive iff $Q_i > 0$. *Rel-Ratio*: iff $Q_i / Q_{i-1} > \gamma$. *Relative
# progress*: iff $Q_i / Q_{i-1} \ge \gamma$, and never again after a $Q$ of 0. *Rel-Effective*: iff $Q_i + \alpha
# (Q^\mu_i - Q^\mu_{i-1}) > 0$, where $Q^\mu = 1 - (1 - Q)^n$ is the pass rate of the best of $n$.

# %%
show.source(rel_effective)

# %%
show.source(relative_progress)

# %% [markdown]
# Three toy chunks: a fall to a half, nothing after nothing, and a recovery from 0. *Predict first*: the four labels
# of each.

# %%
for q in ([1.0, 0.5], [0.0, 0.0], [0.0, 0.5]):
    print(q, {rule: label(q, rule)[0] for rule in four})

# %%
q = (1, 0.9, 0.6, 0.05, 0, 0.5)
negatives = {rule: label(q, rule).count(False) for rule in four}
said = ", ".join(f"{rule} {count}" for rule, count in negatives.items())
show.picture(
    pictures.rules_grid(q, four),
    f"Four rules on one solution with the values {', '.join(map(str, q))}. Negative labels: "
    f"{said}.",
)

# %% [markdown]
# **Question.** Which rule would you trust if the policy is weak, so that most $Q$ are small?
#
# <details><summary>Answer</summary>
#
# With small $Q$ and few rollouts, ratios are ratios of noise: 1/8 after 2/8 is a fall to a half. Abs-Q asks only
# whether anything can still end right. With a strong policy, which repairs most errors, Abs-Q sees nothing, and
# progress has to be measured.
#
# </details>

# %% [markdown]
# ## 5 Where the rules differ
#
# A label depends on the pair $(Q_{i-1}, Q_i)$, so each rule is a line in a plane: positive on and above it. The lines
# below are found by trying values in steps of a hundredth.

# %%
show.source(pictures.boundary)

# %% [markdown]
# *Predict first*: after $Q_{i-1} = 0.5$, what is the smallest $Q_i$ that passes each rule?

# %%
edges = {rule: pictures.boundary(rule, 0.5) for rule in four}
print(edges)
show.picture(
    pictures.rule_plane(four),
    "The plane of Q before and after a chunk with a line for each rule: after 0.5, Abs-Q passes "
    f"from {edges['abs_q']}, "
    f"Rel-Effective from {edges['rel_effective']}, and the two ratio rules from about "
    f"{edges['relative_progress']}.",
)

# %% [markdown]
# **Question.** What should the label be for 0 after 0, where the ratio is 0/0?
#
# <details><summary>Answer</summary>
#
# The paper leaves it open. Here it is negative: $Q_i > \gamma Q_{i-1}$ is false. It matters little, because training
# uses the labels only up to the first negative, and a chunk before it has been negative already, unless the problem
# itself had $Q_0 = 0$.
#
# </details>

# %% [markdown]
# ## 6 How wrong are the labels?
#
# This toy task has exact labels, so rules can be graded. *Balanced agreement* is the mean of two shares: exact
# positives called positive, and exact negatives called negative. Chunks behind the first exact error do not count.
# The run kept the outcome of every rollout, so smaller $M$ cost nothing.

# %%
show.source(agreement)

# %%
exact = [run.task.exact_labels(by_id[s.problem_id], s.chunks) for s in annotated]
rows = agreement(annotated, exact, knobs)
lines = [
    "| rule | M | balanced | positives kept | negatives found |",
    "| --- | --- | --- | --- | --- |",
]
for row in rows:
    kept, found = row["exact_positive_called_positive"], row["exact_negative_called_negative"]
    lines.append(
        f"| {row['rule']} | {row['m']} | {row['balanced_agreement']:.2f} | {kept:.2f} | "
        f"{found:.2f} |"
    )
Markdown("\n".join(lines))

# %% [markdown]
# Intervals by the bootstrap: whole solutions are drawn again with replacement, because labels of one solution depend
# on each other.

# %%
rng, draws = random.Random(0), {(row["rule"], row["m"]): [] for row in rows}
for _ in range(200):
    chosen_rows = rng.choices(range(len(annotated)), k=len(annotated))
    again = agreement([annotated[i] for i in chosen_rows], [exact[i] for i in chosen_rows], knobs)
    for row in again:
        draws[row["rule"], row["m"]].append(row["balanced_agreement"])
intervals = {key: (sorted(own)[4], sorted(own)[-5]) for key, own in draws.items()}
best = max(rows, key=lambda row: row["balanced_agreement"])
show.picture(
    pictures.agreement_curves(rows, intervals),
    "Balanced agreement with exact labels against M for three rules, with 95% intervals: best "
    f"is {best['rule']} with M = "
    f"{best['m']}, {best['balanced_agreement']:.2f}.",
)

# %% [markdown]
# **Question.** With more rollouts, Abs-Q finds *fewer* of the exact negatives. Why?
#
# <details><summary>Answer</summary>
#
# After a wrong chunk a rollout ends right by luck with some small probability $p$. One lucky rollout is enough for
# Abs-Q, and at least one of $M$ is lucky with probability $1 - (1-p)^M$, which rises with $M$. The gain on positives
# outweighs it here, as long as $M$ is small. Rules that ask for a share do not have this flaw.
#
# </details>

# %% [markdown]
# ## 7 From labels to training data
#
# Labels behind the first negative are dropped: after an error, "is this step right?" has no clear meaning. What is
# left is *balanced*: as many positives as negatives, by leaving out some of the majority.

# %%
show.source(balanced)

# %% [markdown]
# Three toy cases. *Predict first*: which indices can come out, and how many?

# %%
print(until_first_negative([True, False, True]), until_first_negative([True, True]))
for labels in ([True, True, True, False], [True] * 4, [True, False] * 3):
    print(labels, "->", balanced(labels, count=4, seed=0))

# %%
everything = [label_with(knobs, s.q) for s in annotated]
first = flat([until_first_negative(labels) for labels in everything])
indices = balanced(first, run.recipe.judge.labels, run.seed_of("balance"), run.recipe.judge.passes)
stages = {
    "all": flat(everything),
    "to the first negative": first,
    "balanced": [first[i] for i in indices],
}
counts = {name: (labels.count(True), labels.count(False)) for name, labels in stages.items()}
said = ", ".join(f"{name} {a} and {b}" for name, (a, b) in counts.items())
show.picture(
    pictures.label_counts(stages),
    f"Bars of positive and negative labels, after each filter: {said}. Those of the last are "
    "equal.",
)

# %% [markdown]
# **Question.** What did balancing throw away, and what would the judge learn without it?
#
# <details><summary>Answer</summary>
#
# Labels of the majority, which were paid for with rollouts; `passes` of more than one use other members of the
# majority in turn. Without balancing, calling everything by the majority's name already earns most of the reward, and
# groups in which all replies do that are tied.
#
# </details>

# %% [markdown]
# ## Exercises
#
# 1. Give `label_with` each of the three rules in section 7. How many negatives does each rule find, and in which
#    chunks do they differ?
# 2. Find the solution whose labels change most often between $M = 1$ and $M = 8$. What is special about its values?
# 3. You may spend 10,000 rollouts. Would you take more solutions or a larger $M$? Argue with the figure of section 6.
