"""The start of every kind of generation: padded prompts, and the pass over them.

Axes: B rows, P prompt, padded; S encoder input, padded; N new tokens, rounded up; V
vocabulary; L = N, or P + N where settings read the prompt.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.models import extended
from transfer_gen.models import registry

_MIN_LENGTH = 16  # Lengths are padded to powers of two, from this one on.

Texts = Sequence[Sequence[int]]
Padded = tuple[np.ndarray, np.ndarray]  # Tokens i32[B, P], counts i32[B].
Rows = dict[str, Any]  # Arrays whose first axis is B, see `pad_rows`.
PlaceFn = Callable[[Any], Any]  # Puts a tree of such arrays on devices.
# Takes what was written in each row so far; returns which rows are to end.
WatchFn = Callable[[list[Any]], Sequence[bool]]


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
    budgets: Sequence[int], latents: np.ndarray | None = None,
) -> list[str]:
  """Returns what is wrong with the texts, one sentence for each misfit.

  Args:
    module: The model; its config has the vocabulary sizes.
    prompts: Token ids of each prompt.
    encoder_inputs: Token ids of each encoder input; None if there are none.
    budgets: Number of tokens by which each prompt may grow.
    latents: f32[B, Z], a latent for each prompt in place of encoder inputs; None if
      there are none.

  Raises:
    errors.UserError: If the model writes no texts at all.
  """
  found: list[str] = []
  longest = registry.longest(module)
  registry.require_next_token(module.config)
  if latents is not None:
    width = getattr(module.config, "latent_width", 0)
    if latents.shape != (len(prompts), width) or not width:
      found.append(f"latents are {latents.shape}, and the model takes"
                   f" {(len(prompts), width) if width else 'none'}")
  elif registry.encodes(module.config) != (encoder_inputs is not None):
    found.append(
        "the model has an encoder and needs encoder_inputs" if encoder_inputs is None
        else "the model has no encoder, and encoder_inputs are given")
  if encoder_inputs is not None and len(encoder_inputs) != len(prompts):
    found.append(
        f"there are {len(encoder_inputs)} encoder_inputs and {len(prompts)} prompts")
  size = module.config.vocab_size
  found += _find_bad_tokens("prompt", prompts, size)
  found += [f"prompt {i} has {len(prompt)} tokens and grows by {budget}; the"
            f" model reads at most {longest}. Shorten the prompt or max_tokens"
            for i, (prompt, budget) in enumerate(zip(prompts, budgets))
            if longest is not None and len(prompt) + budget > longest]
  size = getattr(module.config, "encoder_vocab_size", 0) or size
  # An encoder may read nothing: an empty input that has no marks.
  found += _find_bad_tokens(
      "encoder input", [text or [0] for text in encoder_inputs or ()], size)
  longest = registry.longest_input(module)
  return found + [
      f"encoder input {i} has {len(text)} tokens; the model reads at most {longest}"
      for i, text in enumerate(encoder_inputs or ())
      if longest is not None and len(text) > longest]


def raise_misfits(misfits: Sequence[str]) -> None:
  """Raises one `UserError` that lists all misfits; does nothing if there are none."""
  if misfits:
    raise errors.UserError("Cannot generate:\n  " + "\n  ".join(misfits))


def pad_rows(
    module: extended.Model, prompts: Texts, encoder_inputs: Texts | None,
    budgets: Sequence[int], latents: np.ndarray | None = None) -> Rows:
  """Returns what programs read of each row, padded.

  Args:
    module: The model.
    prompts: Token ids of each prompt.
    encoder_inputs: Token ids of each encoder input; None if there are none.
    budgets: Number of tokens by which each prompt may grow.
    latents: As for `find_misfits`.

  Returns:
    `inputs` i32[B, P], `counts` i32[B] and `budgets` i32[B]; with an encoder also
    `encoder_inputs` i32[B, S] and `encoder_counts` i32[B], or `latents` f32[B, Z].
  """
  inputs, counts = pad(prompts)
  rows = {"inputs": inputs, "counts": counts, "budgets": np.array(budgets, np.int32)}
  if latents is not None:
    return rows | {"latents": np.asarray(latents, np.float32)}
  if encoder_inputs is None:
    return rows
  inputs, counts = pad(encoder_inputs, registry.longest_input(module))
  return rows | {"encoder_inputs": inputs, "encoder_counts": counts}


# Which token pads is of no importance, since counts say where each text ends. On the
# right, so that the first token of every row stands at position 0.
def pad(texts: Texts, longest: int | None = None) -> Padded:
  """Pads texts on the right with token 0.

  Args:
    texts: Token ids of each text.
    longest: Largest padded length; no text may be longer. None means no limit.

  Returns:
    Tokens i32[B, P], where P is 1, a power of two or `longest`, and counts i32[B], the
    number of tokens of each text.
  """
  counts = np.array([len(text) for text in texts], np.int32)
  # Powers of two keep the number of compiled programs logarithmic in the lengths. The
  # answers of models with an encoder begin with a single token, which needs no padding.
  width = padded_size(counts.max()) if counts.max() > 1 else 1
  inputs = np.zeros((len(texts), min(width, longest or width)), np.int32)
  for row, text in zip(inputs, texts):
    row[:len(text)] = text
  return inputs, counts


def padded_size(size: int) -> int:
  """Returns the smallest power of two that is at least `size` and `_MIN_LENGTH`."""
  return max(_MIN_LENGTH, power_of_two(size))


# Of whole numbers alone: the logarithm of a float may round to either side of a power.
def power_of_two(size: int) -> int:
  """Returns the smallest power of two that is at least `size`; 1 if that is 0."""
  return 1 << max(int(size) - 1, 0).bit_length()


def cut(tokens: list[int], ends: Collection[int]) -> list[int]:
  """Returns the tokens before the first one of `ends`; all of them if there is none."""
  return tokens[:next((i for i, token in enumerate(tokens) if token in ends), None)]


def text(rows: Rows, size: int, none: int, prompts: bool) -> jax.Array:
  """Returns the texts to which new tokens are added.

  Args:
    rows: See `pad_rows`.
    size: N.
    none: V, which stands where there is no token.
    prompts: Whether prompts stand before the new tokens, and end where these begin.

  Returns:
    i32[B, L].
  """
  new = jnp.full((rows["counts"].shape[0], size), none, jnp.int32)
  if not prompts:
    return new
  width = rows["inputs"].shape[1]
  # Padding is moved from the end of prompts to their beginning, so that new tokens
  # follow without a gap.
  index = jnp.arange(width)[None] - (width - rows["counts"][:, None])
  moved = jnp.take_along_axis(rows["inputs"], jnp.maximum(index, 0), axis=1)
  return jnp.concatenate([jnp.where(index < 0, none, moved), new], axis=1)


def prefill(
    module: extended.Model, params: Mapping[str, Any], rows: Rows, size: int
) -> tuple[jax.Array, Any]:
  """Runs a model over its encoder inputs and prompts, and fills its cache.

  Args:
    module: A model as `registry.build` returns it.
    params: Nested params.
    rows: See `pad_rows`.
    size: N, the number of cache slots to add for new tokens.

  Returns:
    Logits dtype[B, V] of the first new token; and the cache, with N unused slots.
  """
  batch, length = rows["inputs"].shape
  variables = {"params": params}
  # An empty cache depends on sizes alone and needs no params.
  if "latents" in rows:
    cache = module.apply(variables, rows["latents"], length + size, method="begin")
  elif "encoder_inputs" in rows:
    cache = module.apply(
        variables, rows["encoder_inputs"], rows["encoder_counts"], length + size,
        method="encode")
  else:
    cache = module.apply({}, batch, length + size, method="init_cache")
  first: Any = module.apply(
      variables, rows["inputs"], rows["counts"], cache, method="extend")
  return first


def _find_bad_tokens(what: str, texts: Texts, size: int) -> list[str]:
  """Returns a sentence for each text that is empty or has a token outside [0, size)."""
  wrong = [f"{what} {i} is empty; it needs a token, such as bos"
           for i, text in enumerate(texts) if not text]
  return wrong + [f"{what} {i} has token {max(text)}, the model knows 0 to {size - 1}"
                  for i, text in enumerate(texts)
                  if text and not 0 <= min(text) <= max(text) < size]
