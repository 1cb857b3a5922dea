# %% [markdown]
# # Assignment 3: guide to the report
#
# Keep this file beside `student.py`. The model is tiny; two steps of training take half a minute on two cores.

# %%
import dataclasses
from unittest.mock import patch

import matplotlib.pyplot as plt
import student

import minisw
from minisw.judges.base import JudgeTrainer
from minisw.judges.stepwiser import train_stepwiser
from minisw.labels import balanced_steps, load_steps
from minisw.training import grpo

run = minisw.open_run()
labelled = load_steps(run.folder / "annotate", "train", run.recipe.annotate)
steps = balanced_steps(labelled, run.recipe.judge.labels, run.seed_of("balance"))
small = dataclasses.replace(run.recipe.judge, steps=2, prompts=4, group=4, updates=2)


def train(name, knobs, **functions):
    """The curve of a short training in which `train_grpo` calls these functions."""
    trainer = JudgeTrainer(run.judge_context, steps, knobs=knobs, lora=run.recipe.lora)
    with patch.multiple(grpo, **functions):
        return train_stepwiser(trainer, name)["curve"]


# %% [markdown]
# ## Your functions in the trainer
#
# The first sampled groups are the same, as both adapters begin at the base. So the first rewards must be equal, and
# loss and gradient too, if your functions are right. This is no test for points; `check.py` has those.

# %%
names = ("group_advantages", "clipped_loss")
ours = train("guide", small, **{name: getattr(grpo, name) for name in names})
yours = train("guide", small, **{name: getattr(student, name) for name in names})
for key in ("reward", "reward_std", "loss", "grad_norm"):
    print(f"{key:12} {ours[0][key]:.5f} {yours[0][key]:.5f}")
assert all(abs(ours[0][k] - yours[0][k]) < 1e-4 for k in ("reward", "loss", "grad_norm"))
assert yours[0]["reward_std"] > 0 and yours[0]["grad_norm"] > 0  # there was something to learn

# %% [markdown]
# ## The figure: two metrics against the step
#
# Long trainings are commands (see the handout). Their curves are read from the run's folder, as that of the run here:

# %%
curve = run.metrics("judges")["stepwiser"]["curve"]
for key in ("entropy", "frac_reward_zero_std"):
    plt.figure()
    plt.plot([s["step"] for s in curve], [s[key] for s in curve], marker="o")
    plt.xlabel("step")
    plt.ylabel(key)
