"""The terms of the loss of a run with a teacher.

Axes: B batch, T position, V tokens, D width of the model's layer, E of the teacher's,
H heads, K head width, R relation heads.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.distill import student
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import taps
from transfer_gen.train import combined

_FLOOR = -1e9  # Of scores; finite, so that no row becomes NaN.


def objective(
    teacher: teacher_lib.Teacher | None, module: Any, train: bool,
    beginning: combined.Beginning | None = None,
    terms: config_lib.Objective | None = None,
) -> combined.NllFn:
  """Returns the terms of the loss of a run, for `step.train_step`.

  Args:
    teacher: The teacher, or None.
    module: The model.
    train: Whether dropout is drawn.
    beginning: As of `objectives.next_token`.
    terms: The objective of the run; None stands for the cross-entropy alone.

  Returns:
    A function that returns terms f32[B, T] by name, which `combined.weigher` gives
    weights; `ce` is always among them. With another vocabulary, `aligned` is 1 where
    the teacher contributes. If the cross-entropy alone is minimized, it is what
    `objectives.next_token` returns.
  """
  own = terms or config_lib.Objective()
  if teacher is None:
    return combined.training(module, own, train, beginning)
  # A term of weight 0 is left out of the compiled program instead of being computed and
  # multiplied by 0.
  counted = combined.weights(own, teacher.distill)

  def nll_fn(params, batch, key):
    with taps.listening(hidden=[a for a, _ in teacher.hidden],
                        related=[a for a, _ in teacher.related]) as seen:
      terms, logits = combined.compute(
          own, module, params, batch, train, key, beginning)
    # A teacher with the student's tokens has read the same text at every position. One
    # with other tokens has done so only where tokens end after the same byte, and
    # elsewhere its entries of the batch are zeros, which would count as a target.
    heard = batch.get(teacher_lib.READ, jnp.ones(terms["ce"].shape))
    if "logits" in counted:
      terms["logits"] = _logits(teacher, logits, batch) * heard
    if "hidden" in counted:
      terms["hidden"] = _hidden(teacher, params, seen, batch) * heard
    if "attention" in counted:
      # No mask: `open_teacher` allows attention only between equal vocabularies.
      terms["attention"] = _attention(teacher, seen, batch)
    aligned = {"aligned": heard} if teacher_lib.READ in batch else {}
    return {**terms, **aligned}
  return nll_fn


def divergence(chances: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
  """Computes T^2 KL(p || softmax(logits / T)) (Hinton et al., 2015, section 2).

  Args:
    chances: f32[..., V], the softened probabilities p.
    logits: f32[..., V].
    temperature: T.

  Returns:
    f32[...].
  """
  # The factor T^2 keeps gradients at the same scale for every temperature, because
  # those of softened targets shrink with 1 / T^2.
  log_q = jax.nn.log_softmax(logits / temperature)
  # 0 log 0 counts as 0. The logarithm of 1 in its place is finite, and is multiplied by
  # a probability of 0. Zeros do occur: `mined` gives none to a token that is nearest to
  # no token of the teacher.
  log_p = jnp.log(jnp.where(chances > 0, chances, 1.0))
  return temperature ** 2 * (chances * (log_p - log_q)).sum(-1)


def sorted_distance(
    chances: jax.Array, logits: jax.Array, temperature: float) -> jax.Array:
  """Computes L1 between the sorted probabilities of two vocabularies.

  The shorter is filled with zeros (ULD: Boizard et al., 2024, section 3.2).

  Args:
    chances: f32[..., W], softened and sorted, the largest first.
    logits: f32[..., V].
    temperature: As the teacher's were softened.

  Returns:
    f32[...].
  """
  # Only the student's side is sorted here, because it must be differentiated. The
  # teacher's arrives sorted, see `teacher._descending`.
  own = -jnp.sort(-jax.nn.softmax(logits / temperature), axis=-1)
  size = max(own.shape[-1], chances.shape[-1])
  own, chances = (jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, size - x.shape[-1]),))
                  for x in (own, chances))
  return jnp.abs(own - chances).sum(-1)


def relations(
    x: jax.Array, heads: int, positions: jax.Array | None = None) -> jax.Array:
  """Computes log-probabilities of what a position attends to up to itself.

  They come from products of queries with queries, keys with keys and values with values
  (Wang et al., 2021, section 3.1).

  Args:
    x: dtype[B, T, H, K].
    heads: R, a divisor of H K.
    positions: i32[B, T], for rows that hold several documents: the number of positions
      before each one in its document, beyond which it attends to nothing.

  Returns:
    f32[B, R, T, T].
  """
  batch, length = x.shape[:2]
  # All heads are joined and divided anew into `heads` relation heads, so that models
  # with different numbers of heads can be compared. float32, because few digits of the
  # difference of two log-softmaxes are left in bfloat16.
  x = x.astype(jnp.float32).reshape(batch, length, heads, -1)
  scores = jnp.einsum("btrk,bsrk->brts", x, x) * x.shape[-1] ** -0.5
  earlier = np.tril(np.ones((length, length), bool))[None, None]
  if positions is not None:
    steps = np.arange(length)
    distances = steps[:, None] - steps[None]  # [T, T]
    earlier &= (distances[None] <= positions[..., None])[:, None]
  return jax.nn.log_softmax(jnp.where(earlier, scores, _FLOOR))


def _logits(teacher, logits, batch) -> jax.Array:
  # The table of a model may have more rows than the tokenizer has tokens, and the
  # teacher says nothing of those.
  logits = logits[..., :teacher.student.size].astype(jnp.float32)
  compare = (sorted_distance if teacher.distill.vocabularies == teacher_lib.ULD
             else divergence)
  return compare(batch[teacher_lib.CHANCES], logits, teacher.distill.temperature)


def _hidden(teacher, params, seen, batch) -> jax.Array:
  """Mean over the pairs of layers."""
  compare = {"mse": lambda a, b: jnp.square(a - b).mean(-1), "cosine": _apart}
  total = jnp.zeros(())
  for number, (layer, _) in enumerate(teacher.hidden):
    own, theirs = seen.hidden[layer], batch[f"teacher_hidden_{number}"]
    own = own.astype(jnp.float32)
    # A layer as wide as the teacher's is compared as it is, without a projection.
    if (kernel := params.get(student.projection(layer))) is not None:
      own = (own.reshape(-1, own.shape[-1]) @ kernel).reshape(*own.shape[:2], -1)
    total += compare[teacher.distill.hidden_loss](own, theirs)
  return total / len(teacher.hidden)


def _apart(a: jax.Array, b: jax.Array) -> jax.Array:
  """1 - cos(a, b)."""
  # One root of both squared norms instead of two roots and a quotient. The small
  # constant keeps the gradient finite where an entry is all zeros, as the teacher's is
  # at positions that it has not read in common.
  squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
  return 1 - (a * b).sum(-1) * jax.lax.rsqrt(squares + 1e-12)


def _attention(teacher, seen, batch) -> jax.Array:
  """KL of relations: a mean over heads, over query, key and value, and over pairs."""
  total = jnp.zeros(())
  for number, (layer, _) in enumerate(teacher.related):
    for name, own in seen.related[layer].items():
      theirs = batch[f"teacher_{name}_{number}"]
      # The largest number of relation heads that divides both. The widths of a relation
      # head may differ, because only its products between positions are compared.
      heads = math.gcd(own.shape[2], theirs.shape[2])
      log_q, log_p = (
          relations(x, heads, batch.get("positions")) for x in (own, theirs))
      # Masked positions have a probability of exactly 0 and finite logarithms, so they
      # add 0 and no NaN.
      total += (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean(1) / 3
  return total / len(teacher.related)
