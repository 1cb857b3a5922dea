# %% [markdown]
# # Assignment 5: guide to the report
#
# The finished run that comes with minisw has the answers of chunk-reset, of its random control, and many independent
# solutions of the same problems; nothing is sampled. Keep this file beside `student.py`.

# %%
import matplotlib.pyplot as plt
import student

import minisw
from minisw.evaluate.stats import mean, wilson

run = minisw.open_run()
samples = {}  # the independent solutions of each problem, in the order in which they were sampled
for solution in run.records("search/samples"):
    samples.setdefault(solution.problem_id, []).append(solution)
searched = {name: run.records(f"search/{name}") for name in ("chunk-reset", "random")}
searched = {name: [a for a in own if a.problem_id in samples] for name, own in searched.items()}
print(len(samples), "problems,", [len(own) for own in searched.values()], "answers of searches")

# %% [markdown]
# ## Your functions on the saved samples
#
# With a budget of tokens for all problems together, how many samples of each are paid for, and what is their majority?

# %%
groups = [samples[answer.problem_id] for answer in searched["chunk-reset"]]
costs = [[solution.tokens for solution in group] for group in groups]


def accuracy_of_majority(budget):
    """Tokens a problem that were spent, and for each problem whether the majority is right."""
    counts = student.samples_within(costs, budget)
    right = []
    for group, count in zip(groups, counts, strict=True):
        chosen = student.majority([solution.answer for solution in group[:count]])
        right.append(any(s.correct for s in group[:count] if s.answer == chosen))
    spent = sum(sum(row[:count]) for row, count in zip(costs, counts, strict=True))
    return spent / len(groups), right


# %% [markdown]
# ## The figure: accuracy against all tokens

# %%
def point(tokens, right, marker, label):
    low, high = wilson(sum(right), len(right))
    plt.plot([tokens, tokens], [low, high], color="grey")
    plt.plot(tokens, mean(right), marker=marker, label=label, linestyle="none")


for times in (1, 2, 4, 8):
    budget = times * sum(row[0] for row in costs)
    point(*accuracy_of_majority(budget), "o", f"majority, {times} × the tokens of one")
for name, marker in {"chunk-reset": "s", "random": "^"}.items():
    own = searched[name]
    tokens = mean([answer.policy_tokens + answer.judge_tokens for answer in own])
    point(tokens, [answer.correct for answer in own], marker, name)
plt.xlabel("sampled tokens of policy and judge a problem")
plt.ylabel("accuracy, 95% interval")
plt.legend(loc="lower right")
