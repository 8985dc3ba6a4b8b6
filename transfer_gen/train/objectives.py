"""What training makes small.

Axes: B batch, T position, V vocabulary.
"""

from collections.abc import Mapping

from flax import linen as nn
import jax
import jax.numpy as jnp

from transfer_gen import tree
from transfer_gen.models import taps

_ENCODER = ("encoder_inputs", "encoder_counts")  # What an encoder reads, of a batch.


def next_token(module: nn.Module, train: bool, first: int = 0):
  """The loss of a language model: a function for `step.train_step`.

  Args:
    module: Maps i32[B, T] to logits dtype[B, T, V]; behind an encoder it takes
      `encoder_inputs` i32[B, S] and `encoder_counts` i32[B] as well, as the batch has
      them.
    train: Whether dropout is drawn.
    first: The layer that reads `hidden` dtype[B, T, D] of the batch, see
      `train.features`; batches without it are read from their inputs.

  Returns:
    (flat params, batch, key) -> nll f32[B, T] of each target, in nats.
  """
  def nll_fn(params, batch, key):
    return cross_entropy(
        logits(module, params, batch, train, key, first), batch["targets"])
  return nll_fn


def logits(
    module: nn.Module, params: Mapping[str, jax.Array], batch: Mapping[str, jax.Array],
    train: bool, key: jax.Array | None, first: int = 0) -> jax.Array:
  """What a module makes of a batch, dtype[B, T, V]; args as of `next_token`."""
  given = {"train": train, "rngs": {"dropout": key} if train else None,
           **{name: batch[name] for name in _ENCODER if name in batch}}
  variables = {"params": tree.unflatten(params)}
  if "hidden" in batch:
    return taps.resume(
        module, variables, batch["hidden"], first, batch["inputs"], **given)
  return module.apply(variables, batch["inputs"], **given)


@jax.custom_vjp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Negative log likelihood of the targets, in nats.

  The backward pass reuses the exponentials of the forward pass. The arithmetic is
  float32, stable for logits of any finite size.

  Args:
    logits: dtype[B, T, V].
    targets: i32[B, T], in [0, V).

  Returns:
    f32[B, T].
  """
  return _forward(logits, targets)[0]


def _forward(logits, targets):
  wide = logits.astype(jnp.float32)
  peak = wide.max(-1, keepdims=True)
  exps = jnp.exp(wide - peak)
  total = exps.sum(-1, keepdims=True)
  chosen = jnp.take_along_axis(wide, targets[..., None], axis=-1)
  nll = (jnp.log(total) - (chosen - peak))[..., 0]
  return nll, (exps.astype(logits.dtype), total, targets)


def _backward(saved, cotangent):
  exps, total, targets = saved
  cotangent = cotangent[..., None]
  scaled = exps.astype(total.dtype) * (cotangent / total)
  hot = jax.nn.one_hot(targets, exps.shape[-1], dtype=total.dtype)
  return (scaled - hot * cotangent).astype(exps.dtype), None


cross_entropy.defvjp(_forward, _backward)
