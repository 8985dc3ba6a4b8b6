"""Losses that training minimizes, as pure functions.

Axes: B batch, T position, V vocabulary, D width of a layer's output, S encoder inputs.
"""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp

from transfer_gen import tree
from transfer_gen.models import beginnings
from transfer_gen.models import extended
from transfer_gen.models import outputs
from transfer_gen.models import registry
from transfer_gen.train import step as step_lib

Beginning = beginnings.Beginning


@functools.lru_cache(maxsize=32)  # One function per model: programs are shared.
def next_token(
    module: extended.Model, train: bool, beginning: Beginning | None = None
) -> step_lib.NllFn:
  """Returns the loss of a language model, for `step.train_step`.

  Calls with equal arguments return the same function, so that what is compiled for it
  is compiled once.

  Args:
    module: Maps i32[B, T] to logits dtype[B, T, V]. It also reads `positions` i32[B, T]
      of a batch whose rows hold several documents, and with an encoder
      `encoder_inputs` i32[B, S] and `encoder_counts` i32[B].
    train: Whether dropout is applied.
    beginning: Part of the model that does not run if the batch has what it gives (see
      `train.features`). If None, or if the batch has not, all of the model runs.

  Returns:
    A function from (flat params, batch, key) to the negative log-likelihood f32[B, T]
    of each target, in nats.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from transfer_gen import config
    >>> from transfer_gen.models import registry
    >>> from transfer_gen.train import objectives
    >>> module = registry.build(config.Recurrent(
    ...     vocab_size=5, num_layers=1, embed_width=4, hidden_width=4))
    >>> key = jax.random.key(0)
    >>> params = registry.fresh(module, key)(registry.specs(module))
    >>> batch = {"inputs": jnp.array([[1, 2, 3]]), "targets": jnp.array([[2, 3, 4]])}
    >>> objectives.next_token(module, train=False)(params, batch, key).shape
    (1, 3)
  """
  def nll_fn(
      params: dict[str, jax.Array], batch: step_lib.Batch, key: jax.Array
  ) -> jax.Array:
    return cross_entropy(
        logits(module, params, batch, train, key, beginning), batch["targets"])
  return nll_fn


@functools.lru_cache(maxsize=32)
def likeliest(module: extended.Model) -> step_lib.NllFn:
  """Returns a function that finds which targets the model holds for the likeliest.

  Args:
    module: As for `next_token`.

  Returns:
    A function of the form of `next_token`, whose value f32[B, T] is 1 where a target
    has the highest logit, given the tokens before it, and 0 elsewhere.
  """
  def hits_fn(
      params: dict[str, jax.Array], batch: step_lib.Batch, key: jax.Array
  ) -> jax.Array:
    found = logits(module, params, batch, False, key).argmax(-1)
    return (found == batch["targets"]).astype(jnp.float32)
  return hits_fn


def logits(
    module: extended.Model, params: Mapping[str, jax.Array], batch: step_lib.Batch,
    train: bool, key: jax.Array | None, beginning: Beginning | None = None
) -> jax.Array:
  """Computes the logits dtype[B, T, V] of a batch.

  Args:
    module: As for `next_token`.
    params: Flat params, by name.
    batch: `inputs` i32[B, T]; `positions` i32[B, T] if rows hold several documents; and
      what the encoder reads if the model has one.
    train: Whether dropout is applied.
    key: Decides the dropout masks if `train`, and what a latent draws. If None, a
      latent is its mean.
    beginning: As for `next_token`.

  Example:
    >>> import jax.numpy as jnp
    >>> from transfer_gen import config
    >>> from transfer_gen.models import registry
    >>> from transfer_gen.train import objectives
    >>> module = registry.build(config.Recurrent(
    ...     vocab_size=5, num_layers=1, embed_width=4, hidden_width=4))
    >>> params = registry.fresh(module, jax.random.key(0))(registry.specs(module))
    >>> batch = {"inputs": jnp.array([[1, 2, 3]])}
    >>> objectives.logits(module, params, batch, train=False, key=None).shape
    (1, 3, 5)
  """
  return _applied(module, params, batch, train, key, beginning)


def with_outputs(
    module: extended.Model, params: Mapping[str, jax.Array], batch: step_lib.Batch,
    train: bool, key: jax.Array | None, beginning: Beginning | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the logits of a batch, and all else that the model gives by name.

  Args:
    module: As for `next_token`.
    params: Flat params, by name.
    batch: As for `logits`.
    train: As for `logits`.
    key: As for `logits`.
    beginning: As for `next_token`.

  Returns:
    The logits dtype[B, T, V], and what the model has handed to `outputs.give`.
  """
  found, state = _applied(
      module, params, batch, train, key, beginning, mutable=[outputs.COLLECTION])
  return found, outputs.given(state)


def _applied(module, params, batch, train, key, beginning, **more) -> Any:
  # A latent draws in every loss, whether dropout acts or not.
  rngs = {} if key is None else {"latent": key, **({"dropout": key} if train else {})}
  given: dict[str, Any] = {
      "train": train, "rngs": rngs, **registry.reads(batch), **more}
  variables = {"params": tree.unflatten(params)}
  if beginning is not None and (hidden := beginnings.stored(batch)):
    return beginning.resume(module, variables, hidden, batch["inputs"], **given)
  return module.apply(variables, batch["inputs"], **given)


@jax.custom_vjp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Computes the negative log-likelihood of targets, in nats.

  It is -log softmax(logits)[target] = log(sum_v exp(logits[v])) - logits[target]
  (Goodfellow et al., 2016, "Deep Learning", equation 6.30), in float32 whatever the
  dtype of the logits, and finite for finite logits of any size, since the largest logit
  is subtracted first. What may stand beside it are terms of their own: label smoothing
  (Szegedy et al., 2016, section 7), `terms.label_smoothed`, and the z-loss (Chowdhery
  et al., 2022, section 5), `terms.z_loss`.

  Args:
    logits: dtype[B, T, V].
    targets: i32[B, T], in [0, V). One that is not has no defined loss, as a compiled
      program cannot raise.

  Returns:
    f32[B, T], at least 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from transfer_gen.train import objectives
    >>> logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25]]]))
    >>> nll = objectives.cross_entropy(logits, jnp.array([[1]]))
    >>> print(f"{nll[0, 0]:.4f}")  # -log 0.25
    1.3863
  """
  return _forward(logits, targets)[0]


def _forward(
    logits: jax.Array, targets: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
  # A sum of V exponentials in bfloat16 would lose most of its terms.
  wide = logits.astype(jnp.float32)
  peak = wide.max(-1, keepdims=True)
  exps = jnp.exp(wide - peak)  # No exponent is above 0: nothing overflows.
  total = exps.sum(-1, keepdims=True)
  chosen = jnp.take_along_axis(wide, targets[..., None], axis=-1)
  nll = (jnp.log(total) - (chosen - peak))[..., 0]
  # In the dtype of the logits: these are the largest arrays that wait for the backward
  # pass, and in bfloat16 they take half the memory.
  return nll, (exps.astype(logits.dtype), total, targets)


def _backward(
    saved: tuple[jax.Array, jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, None]:
  # The exponentials of the forward pass are kept: to compute those of [B, T, V] logits
  # again costs more than to read them.
  exps, total, targets = saved
  cotangent = cotangent[..., None]
  scaled = exps.astype(total.dtype) * (cotangent / total)
  # The gradient with respect to the logits is softmax - one_hot. Targets are integers
  # and have none, which JAX expects as None.
  hot = jax.nn.one_hot(targets, exps.shape[-1], dtype=total.dtype)
  return (scaled - hot * cotangent).astype(exps.dtype), None


cross_entropy.defvjp(_forward, _backward)
