"""What every way of generating begins with: texts as arrays, the first logits.

Axes: B rows, P prompt, padded; S encoder input, padded; N new tokens, rounded up; V
vocabulary.
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

from flax import linen as nn
import jax
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import registry

_SHORTEST = 16  # Texts are padded to a power of 2 from here on.

Texts = Sequence[Sequence[int]]
Padded = tuple[np.ndarray, np.ndarray]  # Tokens i32[B, P], counts i32[B].


def nested(params: Mapping[str, Any]) -> Mapping[str, Any]:
  """Params as a module takes them, however they came."""
  params = params if "params" not in params else params["params"]
  return tree.unflatten(params) if any("/" in name for name in params) else params


def prompts_of(
    module: nn.Module, prompts: Texts | None, encoder_inputs: Texts | None) -> Texts:
  """The prompts; if there are none, the start token for each encoder input."""
  if prompts is not None:
    return prompts
  start = getattr(module.config, "start_token", -1)
  if encoder_inputs is None or start < 0:
    raise errors.UserError(
        "Cannot generate: no prompts are given, and model.start_token, which"
        " every answer begins with, is not set.")
  return [[start] for _ in encoder_inputs]


def misfits(
    module: nn.Module, prompts: Texts, encoder_inputs: Texts | None, num_tokens: int
) -> list[str]:
  """What is wrong with texts, a sentence each."""
  found, longest = [], registry.longest(module)
  if registry.encodes(module.config) != (encoder_inputs is not None):
    found.append(
        "the model has an encoder and needs encoder_inputs" if encoder_inputs is None
        else "the model has no encoder, and encoder_inputs are given")
  if encoder_inputs is not None and len(encoder_inputs) != len(prompts):
    found.append(
        f"there are {len(encoder_inputs)} encoder_inputs and {len(prompts)} prompts")
  size = module.config.vocab_size
  found += _of("prompt", prompts, size)
  found += [f"prompt {i} has {len(prompt)} tokens and grows by {num_tokens}; the"
            f" model reads at most {longest}. Shorten the prompt or num_tokens"
            for i, prompt in enumerate(prompts)
            if longest is not None and len(prompt) + num_tokens > longest]
  size = getattr(module.config, "encoder_vocab_size", 0) or size
  found += _of("encoder input", encoder_inputs or (), size)
  return found + [
      f"encoder input {i} has {len(text)} tokens; the model reads at most {longest}"
      for i, text in enumerate(encoder_inputs or ())
      if longest is not None and len(text) > longest]


def raise_if(wrong: Sequence[str]) -> None:
  """Raises one `UserError` that lists all that is wrong, if anything is."""
  if wrong:
    raise errors.UserError("Cannot generate:\n  " + "\n  ".join(wrong))


def pad(texts: Texts, longest: int | None = None) -> Padded:
  """Tokens padded on the right with 0, and how many each text has.

  Args:
    texts: A token at least each.
    longest: No row is longer, where no text is.
  """
  counts = np.array([len(text) for text in texts], np.int32)
  width = power(counts.max())
  inputs = np.zeros((len(texts), min(width, longest or width)), np.int32)
  for row, text in zip(inputs, texts):
    row[:len(text)] = text
  return inputs, counts


def power(size: int) -> int:
  """The smallest power of two that holds `size`, and at least `_SHORTEST`."""
  return max(_SHORTEST, 1 << (int(size) - 1).bit_length())


def until(tokens: list[int], eos: int | None) -> list[int]:
  """What stands before eos."""
  return tokens[:tokens.index(eos)] if eos in tokens else tokens


def first(
    module: nn.Module, params: Mapping[str, Any], prompts: tuple[jax.Array, jax.Array],
    encoder_inputs: tuple[jax.Array, jax.Array] | None, size: int,
):
  """Reads encoder_inputs and prompts.

  Args:
    module: A model.
    params: Nested.
    prompts: Tokens i32[B, P] and counts i32[B].
    encoder_inputs: Tokens i32[B, S] and counts i32[B]; None without an encoder.
    size: N.

  Returns:
    Logits dtype[B, V] of the first new token; the cache, with N unused slots; and the
    function that goes on, from tokens i32[B, T], counts i32[B] and cache to both.
  """
  extend = functools.partial(module.apply, {"params": params}, method="extend")
  batch, length = prompts[0].shape
  if encoder_inputs is None:
    cache = module.apply({}, batch, length + size, method="init_cache")
  else:
    cache = module.apply(
        {"params": params}, *encoder_inputs, length + size, method="encode")
  return *extend(*prompts, cache), extend


def _of(what: str, texts: Texts, size: int) -> list[str]:
  wrong = [f"{what} {i} is empty; it needs a token, such as bos"
           for i, text in enumerate(texts) if not text]
  return wrong + [f"{what} {i} has token {max(text)}, the model knows 0 to {size - 1}"
                  for i, text in enumerate(texts)
                  if text and not 0 <= min(text) <= max(text) < size]
