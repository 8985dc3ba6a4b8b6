"""Compares LoRA training of GPT-2 small with full training and with PEFT.

The adapters have rank 16 on every kernel of attention and MLP. As in
`benchmarks.training`, a step has 4 x 128 tokens in fp32, with AdamW, clipping and no
dropout.
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
  """Returns the FLOPs of a step over those of full training, as XLA counts them."""
  model = decoder_peer.GPT2_SMALL
  batch = our_step.random_batch(model.vocab_size, *_SHAPE)
  low = our_step.cost(model, batch, groups.low_rank((ADAPTER,)), (ADAPTER,))
  return low.flops / our_step.cost(model, batch).flops


def lora_over_full() -> timing.Comparison:
  """Compares the time of a step with that of our full training."""
  batch = our_step.random_batch(decoder_peer.GPT2_SMALL.vocab_size, *_SHAPE)
  return timing.in_turns(
      _ours(batch), our_step.make(decoder_peer.GPT2_SMALL, batch), _ROUNDS)


def lora_over_peft() -> timing.Comparison:
  """Compares the time of a step with that of Hugging Face PEFT."""
  batch = our_step.random_batch(decoder_peer.GPT2_SMALL.vocab_size, *_SHAPE)
  return timing.in_turns(
      _ours(batch), peft_peer.step(decoder_peer.GPT2_SMALL, ADAPTER, batch), _ROUNDS)


def _ours(batch):
  return our_step.make(
      decoder_peer.GPT2_SMALL, batch, groups.low_rank((ADAPTER,)), (ADAPTER,))
