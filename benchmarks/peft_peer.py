"""The peer's LoRA step: Hugging Face's GPT-2 with PEFT, in PyTorch."""

from collections.abc import Callable, Mapping

import numpy as np
import peft

from benchmarks import decoder_peer
from transfer_gen import config as config_lib


def step(
    model: config_lib.Decoder, adapter: config_lib.LoRA,
    batch: Mapping[str, np.ndarray],
) -> Callable[[], float]:
  """Returns a function that takes one LoRA step on all attention and MLP kernels."""
  adapted = peft.get_peft_model(decoder_peer.peer(model), peft.LoraConfig(
      r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout,
      target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True,
      task_type="CAUSAL_LM"))
  return decoder_peer.peer_step(adapted, batch)
