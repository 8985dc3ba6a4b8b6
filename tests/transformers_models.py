"""Helpers that build models of Hugging Face Transformers with random params.

Every param gets noise, also norms and biases, because a mistake with a param that is 0
or 1 would not show.
"""

from collections.abc import Callable, Mapping, Sequence
import tempfile
from typing import Any

import jax
import numpy as np
import torch
import transformers

from transfer_gen import sources
from transfer_gen.sources import foreign

NO_SPECIAL_TOKENS = dict(bos_token_id=None, eos_token_id=None, pad_token_id=None)


def decoder(
    kind: str, fields: Mapping[str, Any], seed: int = 0,
    special_tokens: Mapping[str, int | None] | None = None,
) -> transformers.PreTrainedModel:
  """Builds a decoder with a language model head, such as `GPT2` or `Gemma3`.

  Args:
    kind: Name of its config class without `Config`.
    fields: Fields of the config.
    seed: Seed of the noise.
    special_tokens: Ids of the special tokens. None means that there are none.
  """
  # The config `Gemma3Config` is that of the model with images.
  name = f"{kind}{'Text' * (kind == 'Gemma3')}Config"
  config = getattr(transformers, name)(
      **fields, **(NO_SPECIAL_TOKENS if special_tokens is None else special_tokens))
  model = transformers.AutoModelForCausalLM.from_config(
      config, attn_implementation="eager").eval()
  return add_noise(model, seed)


def add_noise(
    model: transformers.PreTrainedModel, seed: int = 0,
    but: Callable[[str], bool] = lambda name: False, buffers: Sequence[str] = (),
) -> transformers.PreTrainedModel:
  """Adds noise to the named buffers and to params, except those where `but` is true."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, param in model.named_parameters():
      if not but(name):
        param += 0.25 * torch.randn(param.shape, generator=generator)
    for name in buffers:
      buffer = model.get_buffer(name)
      buffer += 0.25 * torch.randn(buffer.shape, generator=generator)
  return model


def logits(model: transformers.PreTrainedModel, inputs: np.ndarray) -> np.ndarray:
  """Returns f32[B, T, V] for i32[B, T]."""
  with torch.no_grad():
    return model(torch.tensor(inputs, dtype=torch.int64)).logits.numpy()


def opened(
    model: transformers.PreTrainedModel,
) -> tuple[foreign.Foreign, dict[str, jax.Array | np.ndarray]]:
  """Saves a model; returns its folder as a source, and the params of that source."""
  folder = tempfile.mkdtemp()
  model.save_pretrained(folder)
  source = sources.open(folder)
  return source, dict(source.read(list(source.specs)))
