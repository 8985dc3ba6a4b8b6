"""The start of every kind of generation: padded prompts, and the pass over them.

Axes: B rows, P prompt, padded; S encoder input, padded; N new tokens, rounded up; V
vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import extended
from transfer_gen.models import registry

_MIN_LENGTH = 16  # Lengths are padded to powers of two, from this one on.

Texts = Sequence[Sequence[int]]
Padded = tuple[np.ndarray, np.ndarray]  # Tokens i32[B, P], counts i32[B].
# (tokens i32[B, T], counts i32[B], cache) -> logits dtype[B, V], cache.
ExtendFn = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


# Both forms are in use: restored params are flat, and what `init` returned is nested
# below `params`.
def nest_params(params: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns params nested as a module takes them, whether given flat or nested."""
  params = params if "params" not in params else params["params"]
  return tree.unflatten(params) if any("/" in name for name in params) else params


def default_prompts(
    module: extended.Model, prompts: Texts | None, encoder_inputs: Texts | None,
) -> Texts:
  """Returns the prompts, or if None, the start token for each encoder input.

  Raises:
    errors.UserError: If there are no prompts, and no encoder inputs or start token.
  """
  if prompts is not None:
    return prompts
  start = getattr(module.config, "start_token", -1)
  if encoder_inputs is None or start < 0:
    raise errors.UserError(
        "Cannot generate: no prompts are given, and model.start_token, which"
        " every answer begins with, is not set. Set it, or give prompts.")
  return [[start] for _ in encoder_inputs]


# All misfits are collected before anything is compiled. A token outside the vocabulary
# must be among them: on the device it would read the last row without a word.
def find_misfits(
    module: extended.Model, prompts: Texts, encoder_inputs: Texts | None,
    num_tokens: int,
) -> list[str]:
  """Returns what is wrong with the texts, one sentence for each misfit.

  Args:
    module: The model; its config has the vocabulary sizes.
    prompts: Token ids of each prompt.
    encoder_inputs: Token ids of each encoder input; None if there are none.
    num_tokens: Number of tokens by which each prompt may grow.
  """
  found: list[str] = []
  longest = registry.longest(module)
  if registry.encodes(module.config) != (encoder_inputs is not None):
    found.append(
        "the model has an encoder and needs encoder_inputs" if encoder_inputs is None
        else "the model has no encoder, and encoder_inputs are given")
  if encoder_inputs is not None and len(encoder_inputs) != len(prompts):
    found.append(
        f"there are {len(encoder_inputs)} encoder_inputs and {len(prompts)} prompts")
  size = module.config.vocab_size
  found += _find_bad_tokens("prompt", prompts, size)
  found += [f"prompt {i} has {len(prompt)} tokens and grows by {num_tokens}; the"
            f" model reads at most {longest}. Shorten the prompt or num_tokens"
            for i, prompt in enumerate(prompts)
            if longest is not None and len(prompt) + num_tokens > longest]
  size = getattr(module.config, "encoder_vocab_size", 0) or size
  found += _find_bad_tokens("encoder input", encoder_inputs or (), size)
  return found + [
      f"encoder input {i} has {len(text)} tokens; the model reads at most {longest}"
      for i, text in enumerate(encoder_inputs or ())
      if longest is not None and len(text) > longest]


def raise_misfits(misfits: Sequence[str]) -> None:
  """Raises one `UserError` that lists all misfits; does nothing if there are none."""
  if misfits:
    raise errors.UserError("Cannot generate:\n  " + "\n  ".join(misfits))


# Which token pads is of no importance, since counts say where each text ends. On the
# right, so that the first token of every row stands at position 0.
def pad(texts: Texts, longest: int | None = None) -> Padded:
  """Pads texts on the right with token 0.

  Args:
    texts: Token ids of each text, at least one each.
    longest: Largest padded length; no text may be longer. None means no limit.

  Returns:
    Tokens i32[B, P], where P is a power of two or `longest`, and counts i32[B], the
    number of tokens of each text.
  """
  counts = np.array([len(text) for text in texts], np.int32)
  # Powers of two keep the number of compiled programs logarithmic in the lengths.
  width = padded_size(counts.max())
  inputs = np.zeros((len(texts), min(width, longest or width)), np.int32)
  for row, text in zip(inputs, texts):
    row[:len(text)] = text
  return inputs, counts


# Of whole numbers alone: the logarithm of a float may round to either side of a power.
def padded_size(size: int) -> int:
  """Returns the smallest power of two that is at least `size` and `_MIN_LENGTH`."""
  return max(_MIN_LENGTH, 1 << (int(size) - 1).bit_length())


def cut_at_eos(tokens: list[int], eos: int | None) -> list[int]:
  """Returns the tokens before the first eos; all of them if eos is None or absent."""
  if eos is None:
    return tokens
  return tokens[:tokens.index(eos)] if eos in tokens else tokens


def prefill(
    module: extended.Model, params: Mapping[str, Any],
    prompts: tuple[jax.Array, jax.Array],
    encoder_inputs: tuple[jax.Array, jax.Array] | None, size: int,
) -> tuple[jax.Array, Any, ExtendFn]:
  """Runs a model over its encoder inputs and prompts, and fills its cache.

  Args:
    module: A model as `registry.build` returns it.
    params: Nested params.
    prompts: Tokens i32[B, P] and counts i32[B].
    encoder_inputs: Tokens i32[B, S] and counts i32[B]; None for a model without an
      encoder.
    size: N, the number of cache slots to add for new tokens.

  Returns:
    Logits dtype[B, V] of the first new token; the cache, with N unused slots; and the
    function that reads more tokens, given tokens i32[B, T], counts i32[B] and the
    cache, and returns the next logits and cache.
  """
  extend: Any = functools.partial(module.apply, {"params": params}, method="extend")
  batch, length = prompts[0].shape
  # An empty cache depends on sizes alone and needs no params.
  if encoder_inputs is None:
    cache = module.apply({}, batch, length + size, method="init_cache")
  else:
    cache = module.apply(
        {"params": params}, *encoder_inputs, length + size, method="encode")
  first_logits, cache = extend(*prompts, cache)
  return first_logits, cache, extend


def _find_bad_tokens(what: str, texts: Texts, size: int) -> list[str]:
  """Returns a sentence for each text that is empty or has a token outside [0, size)."""
  wrong = [f"{what} {i} is empty; it needs a token, such as bos"
           for i, text in enumerate(texts) if not text]
  return wrong + [f"{what} {i} has token {max(text)}, the model knows 0 to {size - 1}"
                  for i, text in enumerate(texts)
                  if text and not 0 <= min(text) <= max(text) < size]
