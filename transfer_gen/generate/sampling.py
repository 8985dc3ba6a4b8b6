"""Continues prompts, greedily or by drawing tokens.

Axes: B rows, P prompt, padded; S encoder input, padded; N new tokens, rounded up; V
vocabulary; L = N, or P + N where settings read the prompt. Two programs, `begin` and
`advance`, are compiled for each (B, P, S, N) and each combination of settings that act.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any
import zlib

from flax import struct
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.generate import prefill
from transfer_gen.generate import running
from transfer_gen.generate import scores as scores_lib
from transfer_gen.generate import settings
from transfer_gen.models import extended


def generate(
    module: extended.Model,
    params: Mapping[str, Any],
    prompts: prefill.Texts | None = None,
    *,
    decoding: config_lib.Decoding,
    encoder_inputs: prefill.Texts | None = None,
    latents: np.ndarray | None = None,
    budgets: Sequence[int] | None = None,
    salts: np.ndarray | None = None,
    place: prefill.PlaceFn = lambda rows: rows,
    resize: bool = False,
    watch: prefill.WatchFn | None = None,
    every: int = 8,
) -> list[list[int]]:
  """Continues each prompt or, if the model has an encoder, answers each encoder input.

  Programs are compiled for each number of rows, with the longest prompt, the longest
  encoder input and `decoding.max_tokens` each rounded up to a power of two. Another
  value of a setting compiles nothing, unless it turns the setting on or off.

  Args:
    module: A model as `registry.build` returns it.
    params: Its params, flat by name or nested.
    prompts: Token ids of each prompt, at least one each. If None, there is one prompt
      for each of `encoder_inputs`, which holds only the model's `start_token`.
    decoding: How texts are written; `max_tokens` must be set, and no token ends a text
      if `end_tokens` is empty. Fields of beam search, `num`, `stop` and `too_long` are
      not read.
    encoder_inputs: Token ids that the encoder reads; only for a model with an encoder.
    latents: f32[B, Z], in place of what the encoder reads; only for a model with a
      latent, and with prompts.
    budgets: Maximum number of new tokens of each row, at most `decoding.max_tokens`,
      which it is by default.
    salts: u32[B, 2], which with `decoding.seed` decide what is drawn in a row. By
      default those of `row_salts`.
    place: Puts arrays, whose first axis is B, on devices.
    resize: See `running.to_end`.
    watch: Called with all texts after each `every` new tokens, to end some.
    every: Number of new tokens between two calls of `watch`.

  Returns:
    The new tokens of each prompt, without the one that ends it.

  Raises:
    errors.UserError: If a setting is out of range, or if the texts would become longer
      than the model can read.
  """
  prompts = prefill.default_prompts(module, prompts, encoder_inputs)
  if budgets is None:
    budgets = [decoding.max_tokens] * len(prompts)
  prefill.raise_misfits([
      *settings.find_misfits(decoding, module.config.vocab_size),
      *prefill.find_misfits(module, prompts, encoder_inputs, budgets, latents)])
  if not prompts:
    return []
  if salts is None:
    salts = row_salts(prompts, encoder_inputs)
  switches, limits = settings.bind(decoding, module.config.vocab_size)
  rows = place(prefill.pad_rows(module, prompts, encoder_inputs, budgets, latents) | {
      "salts": salts})
  ends = (module.config.vocab_size, *decoding.end_tokens)
  method = running.Method(
      begin=begin, advance=advance, texts=("text",),
      read=lambda state, size: [prefill.cut(row, ends) for row in np.asarray(
          state.text[:, -size:]).tolist()])
  return running.to_end(
      method, module, prefill.nest_params(params), switches, rows, limits,
      longest=prefill.padded_size(decoding.max_tokens), resize=resize, watch=watch,
      every=every)


# crc32 and not `hash`, which is salted anew in each process. Texts with equal checksums
# are no harm: they draw with the same key from different logits.
def row_salts(
    prompts: prefill.Texts, encoder_inputs: prefill.Texts | None = None) -> np.ndarray:
  """Returns u32[B, 2]; a row's depend on its tokens and the equal rows before it.

  So a prompt gets the same continuation in whatever batch it is, and a prompt that is
  given several times gets several continuations.
  """
  seen: dict[bytes, int] = {}
  salts = []
  for i, prompt in enumerate(prompts):
    read = [] if encoder_inputs is None else encoder_inputs[i]
    tokens = np.asarray([*read, *prompt], np.int32).tobytes()
    seen[tokens] = seen.get(tokens, -1) + 1
    salts.append((zlib.crc32(tokens), seen[tokens]))
  return np.array(salts, np.uint32).reshape(-1, 2)


def draw(
    scores: jax.Array, salts: jax.Array, step: jax.Array, switches: settings.Switches,
    limits: settings.Limits
) -> jax.Array:
  """Chooses one token for each row.

  Args:
    scores: f32[B, V].
    salts: u32[B, 2], which with the seed and the step decide what is drawn.
    step: i32[], number of new tokens.
    switches: Which settings act.
    limits: Their values.

  Returns:
    i32[B].
  """
  if not switches.samples:
    return _first_largest(scores)
  kept = scores_lib.truncate(scores / limits["temperature"], switches, limits)
  key = jax.random.key(limits["seed"])

  def one(salt, row):
    of_row = jax.random.fold_in(jax.random.fold_in(key, salt[0]), salt[1])
    return jax.random.categorical(jax.random.fold_in(of_row, step), row)

  return jax.vmap(one)(salts, kept).astype(jnp.int32)


# XLA's CPU backend takes four times as long for `argmax`, a fifth of a step.
def _first_largest(scores):
  """Returns i32[B], the place of the largest of f32[B, V], the first if several are."""
  largest = scores == scores.max(axis=-1, keepdims=True)
  places = jnp.arange(scores.shape[-1], dtype=jnp.int32)[None]
  return jnp.where(largest, places, scores.shape[-1] - 1).min(axis=-1)


@struct.dataclass
class State:
  """Rows that are being written.

  Attributes:
    step: i32[], number of new tokens.
    token: i32[B], the last one.
    done: bool[B], whether a row has ended.
    text: i32[B, L], the prompt if settings read it, and the new tokens; V where there
      is none.
    cache: What the model keeps.
  """
  step: jax.Array
  token: jax.Array
  done: jax.Array
  text: jax.Array
  cache: Any


# Static is what shapes and operations depend on; the limits are traced, so that other
# values compile nothing.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def begin(
    module: extended.Model, size: int, switches: settings.Switches,
    params: Mapping[str, Any], rows: prefill.Rows, limits: settings.Limits) -> State:
  """Reads prompts and writes the first new token.

  Args:
    module: The model.
    size: N, the number of new tokens that there is room for.
    switches: Which settings act.
    params: Nested params.
    rows: See `prefill.pad_rows`; and `salts` u32[B, 2].
    limits: See `settings.bind`.
  """
  logits, cache = prefill.prefill(module, params, rows, size)
  text = prefill.text(rows, size, module.config.vocab_size, switches.reads_text)
  done = jnp.zeros(rows["counts"].shape, bool)
  state = State(step=jnp.int32(0), token=rows["counts"], done=done, text=text,
                cache=cache)
  return _chosen(logits, size, switches, state, rows, limits)


# The number of a step is folded into each row's key, so a row draws the same however
# long the texts beside it run. The loop ends when all rows are done, and rows that are
# done before compute along. The state is donated, so that the cache is not copied
# between two calls.
@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def advance(
    module: extended.Model, size: int, switches: settings.Switches,
    params: Mapping[str, Any], state: State, rows: prefill.Rows,
    limits: settings.Limits, until: jax.Array, fewest: jax.Array) -> State:
  """Writes further tokens.

  Args:
    module: The model.
    size: N.
    switches: Which settings act.
    params: Nested params.
    state: What `begin` or the last `advance` returned; it cannot be used again.
    rows: As for `begin`.
    limits: As for `begin`.
    until: See `running.loop`.
    fewest: See `running.loop`.
  """
  ones = jnp.ones(state.token.shape, jnp.int32)

  def write(state):
    logits, cache = module.apply(
        {"params": params}, state.token[:, None], ones, state.cache, method="extend")
    return dataclasses.replace(
        _chosen(logits, size, switches, state, rows, limits), cache=cache)

  return running.loop(write, state, until, fewest)


def _chosen(logits, size, switches, state, rows, limits):
  """Returns the state with one more token of each row that has not ended."""
  step, none = state.step, logits.shape[1]
  before = state.text.shape[1] - size
  scores = scores_lib.process(
      logits.astype(jnp.float32), step, state.text, before, rows["budgets"] - step,
      switches, limits)
  token = draw(scores, rows["salts"], step, switches, limits)
  written = jnp.where(state.done, none, token)
  text = lax.dynamic_update_slice(state.text, written[:, None], (0, before + step))
  ends = limits["ends"][token] | (step + 1 >= rows["budgets"])
  return dataclasses.replace(
      state, step=step + 1, token=jnp.where(state.done, 0, token),
      done=state.done | ends, text=text)
