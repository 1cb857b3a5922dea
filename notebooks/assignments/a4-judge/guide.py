# %% [markdown]
# # Assignment 4: guide to the report
#
# The finished run that comes with minisw has the judgments of every judge on the same solutions; nothing is sampled.
# Keep this file beside `student.py`.

# %%
import matplotlib.pyplot as plt
import student

import minisw

run = minisw.open_run()
items = run.items()


def judgments(name):
    """The judgments of one judge, a list for each solution."""
    saved = iter(run.records(f"evaluate/{name}"))
    return [[next(saved) for _ in item.chunks] for item in items]


names = {"classifier": "discriminative", "StepWiser": "stepwiser"}
judged = {name: judgments(file) for name, file in names.items()}
labels, correct = [item.label for item in items], [item.final_correct for item in items]
print(len(items), "solutions,", sum(label >= 0 for label in labels), "with an error")

# %% [markdown]
# ## Your functions on the saved judgments

# %%
predictions = {
    name: [student.predict([judgment.verdict for judgment in row]) for row in rows]
    for name, rows in judged.items()
}
for name, own in predictions.items():
    f1 = student.f1_official(labels, own), student.f1_by_answer(labels, own, correct)
    passed = [p == -1 for p, label in zip(own, labels, strict=True) if label < 0]
    share = sum(passed) / len(passed)
    print(f"{name:12} F1 {f1[0]:.2f}, by answer {f1[1]:.2f}, right ones passed {share:.2f}")

# %% [markdown]
# ## A paired difference
#
# A row is a pair: the item with the prediction of one judge, and the item with that of the other. Resample questions:
# look up in the handout which rows `paired_bootstrap` keeps together.

# %%
a, b = predictions["StepWiser"], predictions["classifier"]
rows = [((item, p), (item, q)) for item, p, q in zip(items, a, b, strict=True)]


def f1(sample):
    return student.f1_official([item.label for item, _ in sample], [p for _, p in sample])


difference, (low, high) = student.paired_bootstrap(rows, f1, 0, 200)
print(f"{difference:+.2f}, 95% {low:+.2f} to {high:+.2f}")

# %% [markdown]
# ## The figure

# %%
plt.plot([low, high], [0, 0], marker="|")
plt.plot(difference, 0, marker="o")
plt.axvline(0, linestyle="--")
plt.yticks([0], ["StepWiser − classifier"])
plt.xlabel("difference in F1, with its 95% interval")
