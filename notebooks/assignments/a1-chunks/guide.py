# %% [markdown]
# # Assignment 1: guide to the report
#
# The finished run that comes with minisw has the solutions that you need; nothing is trained. Keep this file beside
# `student.py`.

# %%
import random

import matplotlib.pyplot as plt
import student

import minisw
from minisw.evaluate.stats import wilson

run = minisw.open_run()
solutions = run.records("segment/policy-test")
print(len(solutions), "solutions of the policy; the chunks of the first:")
print(*solutions[0].chunks, sep="\n---\n")

# %% [markdown]
# ## Your functions on real solutions

# %%
print(student.chunk_statistics(solutions))
texts = ["".join(solution.chunks) for solution in solutions]
ways = {
    "teacher": [run.task.teacher(text) for text in texts],
    "policy": [solution.chunks for solution in solutions],
    "blank lines": [student.split_blank_lines(text) for text in texts],
}
print({way: all(map(student.rejoins, cut, texts)) for way, cut in ways.items()})

# %% [markdown]
# ## 90 chunks without their origin
#
# Label each with 1 (all three rules hold) or 0. `origin` stays unread until all labels are there. First a solution is
# drawn, then one of its chunks.

# %%
rng = random.Random(0)
drawn = []
for way, cut in ways.items():
    for _ in range(30):
        chunks = rng.choice(cut)
        at = rng.randrange(len(chunks))
        drawn.append(("".join(chunks[:at]), chunks[at], "".join(chunks[at + 1 :]), way))
rng.shuffle(drawn)
origin = [way for *_, way in drawn]
for number, (before, chunk, after, _) in enumerate(drawn[:3]):  # then all 90
    print(f"--- {number}: the chunk between >>> and <<<\n{before}>>>{chunk}<<<{after}")
labels = [None] * len(drawn)  # yours: 1 or 0

# %% [markdown]
# ## The figure

# %%
for row, way in enumerate(ways):
    own = [label for label, at in zip(labels, origin, strict=True) if at == way]
    own = [label for label in own if label is not None]
    if own:  # nothing is drawn before there are labels
        plt.plot(wilson(sum(own), len(own)), [row, row], marker="|", color="C0")
        plt.plot(sum(own) / len(own), row, marker="o", color="C0")
plt.yticks(range(len(ways)), list(ways))
plt.xlabel("share of chunks that keep the three rules, with its 95% interval")
