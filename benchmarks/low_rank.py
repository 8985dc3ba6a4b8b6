"""Training of low rank on GPT-2 small: beside all learning, and beside PEFT.

Rank 16 on every kernel of attention and hidden layers, 4 x 128 tokens, as in
`benchmarks.training`; fp32, AdamW, clipped, no dropout.
"""

from benchmarks import decoder_peer
from benchmarks import our_step
from benchmarks import peft_peer
from benchmarks import timing
from transfer_gen import config as config_lib
from transfer_gen.transfer import groups

ADAPTER = config_lib.LoRA(params=r"layer_\d+/.*kernel", rank=16, alpha=32.0)
_SHAPE, _ROUNDS = (4, 128), 9


def lora_flops() -> float:
  """FLOPs of a step, over those of one in which all learns, as XLA counts them."""
  model = decoder_peer.GPT2_SMALL
  batch = our_step.random_batch(model.vocab_size, *_SHAPE)
  low = our_step.cost(model, batch, groups.low_rank((ADAPTER,)), (ADAPTER,))
  return low.flops / our_step.cost(model, batch).flops


def lora_over_full() -> timing.Comparison:
  """Time of a step, over that of ours in which all learns."""
  batch = our_step.random_batch(decoder_peer.GPT2_SMALL.vocab_size, *_SHAPE)
  return timing.in_turns(
      _ours(batch), our_step.make(decoder_peer.GPT2_SMALL, batch), _ROUNDS)


def lora_over_peft() -> timing.Comparison:
  """Time of a step, over that of Hugging Face PEFT's."""
  batch = our_step.random_batch(decoder_peer.GPT2_SMALL.vocab_size, *_SHAPE)
  return timing.in_turns(
      _ours(batch), peft_peer.step(decoder_peer.GPT2_SMALL, ADAPTER, batch), _ROUNDS)


def _ours(batch):
  return our_step.make(
      decoder_peer.GPT2_SMALL, batch, groups.low_rank((ADAPTER,)), (ADAPTER,))
