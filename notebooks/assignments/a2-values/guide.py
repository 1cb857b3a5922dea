# %% [markdown]
# # Assignment 2: guide to the report
#
# The finished run that comes with minisw has the outcome of every rollout and exact labels; nothing is sampled. Keep
# this file beside `student.py`.

# %%
import random

import matplotlib.pyplot as plt
import student

import minisw
from minisw.evaluate.stats import bootstrap
from minisw.problems import training_problems

run = minisw.open_run()
annotated = run.records("annotate/train")
problems = {problem.id: problem for problem in training_problems(run.task, run.recipe)[1]}
exact = [run.task.exact_labels(problems[s.problem_id], s.chunks) for s in annotated]
print(len(annotated), "solutions,", len(annotated[0].hits[0]), "rollouts at each boundary")

# %% [markdown]
# ## Your functions on one solution

# %%
first = annotated[0]
q = student.values(first.hits, first.correct)
print(q, student.abs_q(q), student.until_first_negative(exact[0]), sep="\n")

# %% [markdown]
# ## Balanced agreement with fewer rollouts
#
# A smaller M takes only some of the completions of each row. Chunks behind the first exact error are not counted.

# %%
def pairs(rule, m, seed=0):
    """For each solution its pairs (label by the rule with m rollouts, exact label)."""
    rng, rows = random.Random(seed), []
    for solution, truth in zip(annotated, exact, strict=True):
        hits = [rng.sample(row, m) for row in solution.hits]
        labels = rule(student.values(hits, solution.correct))
        rows.append(list(zip(labels, student.until_first_negative(truth), strict=False)))
    return rows


def balanced_agreement(rows):
    flat = [pair for row in rows for pair in row]
    sides = [[a == b for a, b in flat if b is side] for side in (True, False)]
    return sum(sum(side) / max(1, len(side)) for side in sides) / 2


# %% [markdown]
# ## The figure: one rule as an example

# %%
for m in (1, 2, 4, 8):
    rows = pairs(student.abs_q, m)
    low, high = bootstrap(rows, balanced_agreement, seed=0)
    rollouts = sum(m * len(solution.hits) for solution in annotated)
    plt.plot(rollouts, balanced_agreement(rows), marker="o", color="C0")
    plt.plot([rollouts, rollouts], [low, high], marker="_", color="C0")
plt.xlabel("rollouts")
plt.ylabel("balanced agreement with exact labels, 95% interval")
