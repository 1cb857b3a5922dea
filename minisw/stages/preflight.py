"""TODO."""

from __future__ import annotations

from minisw.engine.loading import pick_device
from minisw.engine.memory import GB, measure, preflight, prompt_length
from minisw.runs import Run


def check(run: Run) -> None:
    """Before the first stage: the estimate, and on a GPU the two largest moments tried, once a run folder.

    Raises ValueError, in one sentence that names the knob, where the run cannot fit.
    """
    recipe = run.recipe
    found = preflight(recipe)
    if found is None or "memory" in run.facts:
        return
    run.console.print(
        f"needs about {found.peak / GB:.1f} GB (training {found.training_peak / GB:.1f}, sampling {found.sampling_peak / GB:.1f})"
    )
    run.facts["memory"] = {"estimated_gb": round(found.peak / GB, 2)}
    if pick_device(recipe.model.device).type == "cuda":
        lm, prompt = run.lm, prompt_length(recipe)
        rows = max(1, recipe.model.micro_tokens // (prompt + recipe.judge.max_new_tokens))
        lm.new_adapter("preflight", recipe.lora, 0)
        measured = measure(lm, "preflight", recipe, prompt, recipe.judge.max_new_tokens, rows)
        lm.drop_adapter("preflight")
        run.facts["memory"] |= {f"measured_{name}_gb": round(value / GB, 2) for name, value in measured.items()}
        run.console.print("measured: " + ", ".join(f"{name} {value / GB:.1f} GB" for name, value in measured.items()))
