"""Counting token positions: what goes through the model, with and without a gradient, and nothing else."""

import pytest
import torch

from minisw.engine.batches import collate
from minisw.engine.logprobs import Example, next_token_probabilities, token_logprobs
from minisw.engine.requests import Request, Sampling
from minisw.engine.simple_sampler import SimpleSampler
from minisw.engine.usage import Usage, counted
from minisw.recipe import Lora


def test_flops_are_two_and_six_a_parameter_and_position():
    assert Usage(10, forward=7, trained=0).flops == 140
    assert Usage(10, forward=0, trained=7).flops == 420
    assert Usage(3, forward=5, trained=2).to_json() == {"forward": 5, "trained": 2, "flops": 66}


def test_scoring_counts_every_position_once(tiny_lm):
    prompts = [tiny_lm.encode("3+4=7."), tiny_lm.encode("30+40=70.")]
    with counted(tiny_lm) as usage:
        next_token_probabilities(tiny_lm, prompts[:1], [1, 2], 4096)
    first = usage.forward
    next_token_probabilities(tiny_lm, prompts, [1, 2], 4096)  # outside of the block: not counted
    assert first >= len(prompts[0]) and (usage.forward, usage.trained) == (first, 0)


def test_training_counts_as_trained(tiny_lm):
    ids = tiny_lm.encode("3+4=7.")
    batch = collate([Example(ids[:3], ids[3:])], tiny_lm.tokenizer.pad_token_id, tiny_lm.device, "plain")
    with torch.no_grad():
        token_logprobs(tiny_lm, batch)  # checks the logits' scale once
    with counted(tiny_lm) as usage:
        token_logprobs(tiny_lm, batch)
    assert (usage.forward, usage.trained) == (0, len(ids))
    with counted(tiny_lm) as usage, torch.no_grad():
        token_logprobs(tiny_lm, batch)
    assert (usage.forward, usage.trained) == (len(ids), 0)


def test_sampling_counts_the_prompt_and_every_sampled_token(tiny_lm):
    """The last token is sampled and never read."""
    ids = tiny_lm.encode("3+4=")
    with counted(tiny_lm) as usage:
        ((completion,),) = SimpleSampler(tiny_lm, 4).generate([Request(ids)], Sampling(5, 0.0), 0)
    assert len(ids) + len(completion.ids) - 1 <= usage.forward <= len(ids) + 5
    assert usage.trained == 0


def test_the_parameters_are_those_of_the_base_without_adapters(new_lm):
    lm = new_lm()
    with counted(lm) as before:
        pass
    lm.new_adapter("judge", Lora(4, 8), 0)
    with counted(lm) as after:
        pass
    embeddings = lm.causal_lm.get_input_embeddings().weight
    tied = embeddings is lm.causal_lm.get_output_embeddings().weight
    expected = sum(p.numel() for n, p in lm.causal_lm.named_parameters() if "lora" not in n) - (0 if tied else embeddings.numel())
    assert before.parameters == after.parameters == expected > 0


def test_the_hook_goes_when_the_block_fails(tiny_lm):
    decoder = tiny_lm.causal_lm.get_decoder()
    before = len(decoder._forward_pre_hooks)
    with pytest.raises(KeyError), counted(tiny_lm):
        raise KeyError
    assert len(decoder._forward_pre_hooks) == before
