"""Before stage 1: does the run fit into memory?

The estimate is always checked. On a GPU the two largest moments, a GRPO micro-batch and a full batch of rollouts, are also tried,
once a run folder. Estimate and measurement go into run.json under "memory".
"""

from __future__ import annotations

from minisw.engine.loading import pick_device
from minisw.engine.machine import GB
from minisw.engine.memory import measure, preflight, prompt_length
from minisw.runs import Run


def check(run: Run) -> None:
    """Raises ValueError, in one line that names the knob to change, if the run cannot fit or its model cannot be found."""
    recipe = run.recipe
    needed = preflight(recipe)
    if needed is None or "memory" in run.facts:
        return
    training, sampling = needed.training_peak / GB, needed.sampling_peak / GB
    run.console.print(f"needs about {needed.peak / GB:.1f} GB (training {training:.1f}, sampling {sampling:.1f})")
    run.facts["memory"] = {"estimated_gb": round(needed.peak / GB, 2)}
    if pick_device(recipe.model.device).type == "cuda":
        lm, prompt, completion = run.lm, prompt_length(recipe), recipe.judge.max_new_tokens
        rows = max(1, (recipe.model.micro_tokens - prompt) // completion)  # of one prompt, which is shared
        lm.new_adapter("preflight", recipe.lora, 0)
        peaks = measure(lm, "preflight", recipe, prompt, completion, rows)
        lm.drop_adapter("preflight")
        run.facts["memory"] |= {f"measured_{name}_gb": round(peak / GB, 2) for name, peak in peaks.items()}
        run.console.print("measured: " + ", ".join(f"{name} {peak / GB:.1f} GB" for name, peak in peaks.items()))
