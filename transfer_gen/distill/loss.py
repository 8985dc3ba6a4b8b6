"""The terms of the loss of a run with a teacher; their formulas are in `matching`.

Axes: B batch, T position.
"""

from typing import Any

import jax
import jax.numpy as jnp

from transfer_gen import config as config_lib
from transfer_gen.distill import matching
from transfer_gen.distill import student
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import taps
from transfer_gen.train import combined

_SAMPLES = 4  # Of an offset; each step draws anew, so that few are enough.
_SAMPLED = 7  # Folded into the step's key, which decides latents and dropout, too.


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
      terms, logits, outputs = combined.compute(
          own, module, params, batch, train, key, beginning)
    # A teacher with the student's tokens has read the same text at every position. One
    # with other tokens has done so only where tokens end after the same byte, and
    # elsewhere its entries of the batch are zeros, which would count as a target.
    heard = batch.get(teacher_lib.READ, jnp.ones(terms["ce"].shape))
    if "logits" in counted:
      terms["logits"] = _logits(teacher, logits, batch) * heard
      theirs = {name: batch[f"teacher_{name}"] for name in matching.MIXTURE
                if f"teacher_{name}" in batch}
      if theirs:
        terms["logits"] += _offsets(theirs, outputs, batch, key)
    if "hidden" in counted:
      terms["hidden"] = _hidden(teacher, params, seen, batch) * heard
    if "attention" in counted:
      # No mask: `open_teacher` allows attention only between equal vocabularies.
      terms["attention"] = _attention(teacher, seen, batch)
    aligned = {"aligned": heard} if teacher_lib.READ in batch else {}
    return {**terms, **aligned}
  return nll_fn


def _logits(teacher, logits, batch) -> jax.Array:
  # The table of a model may have more rows than the tokenizer has tokens, and the
  # teacher says nothing of those.
  logits = logits[..., :teacher.student.size].astype(jnp.float32)
  compare = (matching.sorted_distance
             if teacher.distill.vocabularies == teacher_lib.ULD
             else matching.divergence)
  return compare(batch[teacher_lib.CHANCES], logits, teacher.distill.temperature)


# Given what came before, pen and offset are independent in both models, so that the KL
# of a point is the sum of both.
def _offsets(theirs, outputs, batch, key) -> jax.Array:
  samples = matching.mixture_samples(
      jax.random.fold_in(key, _SAMPLED), theirs, _SAMPLES)
  return batch[combined.VALUE_WEIGHTS] * matching.mixture_divergence(
      outputs, theirs, samples)


def _hidden(teacher, params, seen, batch) -> jax.Array:
  """Mean over the pairs of layers."""
  compare = {"mse": matching.squared_distance, "cosine": matching.angular_distance}
  total = jnp.zeros(())
  for number, (layer, _) in enumerate(teacher.hidden):
    own = seen.hidden[layer].astype(jnp.float32)
    # A layer as wide as the teacher's is compared as it is, without a projection.
    if (kernel := params.get(student.projection(layer))) is not None:
      own = matching.projected(own, kernel)
    total += compare[teacher.distill.hidden_loss](
        own, batch[f"teacher_hidden_{number}"])
  return total / len(teacher.hidden)


def _attention(teacher, seen, batch) -> jax.Array:
  """Mean over the pairs of layers."""
  total = jnp.zeros(())
  for number, (layer, _) in enumerate(teacher.related):
    own = seen.related[layer]
    total += matching.attention_divergence(
        own, {name: batch[f"teacher_{name}_{number}"] for name in own},
        batch.get("positions"))
  return total / len(teacher.related)
