"""A teacher: a trained model of any family, and what it computes of a batch.

What it computes becomes entries of the batch, before the step and by a program of its
own: the step holds no further params, and nothing here is differentiated.

Axes: B batch, T position, U position in the teacher's rows, V tokens of the student,
W those of the teacher, D width of a layer's output.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import sharding
from transfer_gen import sources as sources_lib
from transfer_gen.data import pipeline
from transfer_gen.distill import alignment
from transfer_gen.models import registry
from transfer_gen.models import taps
from transfer_gen.train import objectives

SAME, ULD, MINED = "same", "uld", "mined"
CHANCES, READ = "teacher_chances", "teacher_read"  # In a batch.
_INDEX = "teacher_index"
_MIXTURE = "mixture_"  # What the names of a mixture's arrays begin with.
# What the teacher reads, if its tokens are others, and its names in a batch.
_READ = {"inputs": "teacher_inputs", "positions": "teacher_positions"}
Batch, Prepared = Mapping[str, Any], pipeline.Prepared


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
  """A trained model that another one learns from.

  Attributes:
    distill: What is matched.
    module: The teacher's model.
    source: Its checkpoint.
    tokenizer: Its tokenizer; the student's if it has none.
    student: The student's tokenizer.
    hidden: (layer of the student, layer of the teacher) whose outputs are matched.
    related: (layer of the student, layer of the teacher) whose attention is matched.
  """
  distill: config_lib.Distill
  module: registry.Model
  source: sources_lib.Source
  tokenizer: sources_lib.Tokenizer
  student: sources_lib.Tokenizer
  hidden: tuple[tuple[int, int], ...]
  related: tuple[tuple[int, int], ...]

  def read(self, batch: pipeline.Batch) -> pipeline.Batch:
    """Adds the teacher's tokens to a batch on the host, if its tokens are others.

    Returns:
      The batch with `teacher_inputs` i32[B, U] and `teacher_index` i32[B, T], see
      `alignment`, and for packed rows `teacher_positions` i32[B, U].
    """
    if self.distill.vocabularies == SAME:
      return batch
    # Strings are handled on the host, so this cannot be part of the compiled program.
    inputs, index, positions = alignment.teacher_rows(
        np.asarray(batch["inputs"]), self.student, self.tokenizer,
        registry.longest(self.module), batch.get("positions"))
    read = {**batch, _READ["inputs"]: inputs, _INDEX: index}
    return {**read, _READ["positions"]: positions} if "positions" in batch else read

  def tell(self, params: Mapping[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    """Computes what the teacher contributes to a batch.

    Returns:
      `teacher_chances` f32[B, T, V], softened probabilities (for `uld` f32[B, T, W],
      sorted, the largest first). With another vocabulary also `teacher_read` f32[B, T],
      1 where both have read the same bytes; elsewhere it and all other entries are 0.
      For each matched pair of layers, `teacher_hidden_0` f32[B, T, D] and
      `teacher_query_0` and so on, as `taps` returns them. Of a model of drawings
      `teacher_mixture_logits` and so on, the mixture of each offset.
    """
    read = {**batch, **{
        name: batch[own] for name, own in _READ.items() if own in batch}}
    with taps.listening(hidden=[b for _, b in self.hidden],
                        related=[b for _, b in self.related]) as seen:
      # Without dropout: the teacher's answer to a batch does not depend on chance. And
      # without a beginning: stored features are the student's.
      logits, given = objectives.with_outputs(self.module, params, read, False, None)
    found = {}
    if self.distill.logits:
      # float32, because softmax over a large vocabulary and a logarithm follow.
      found[CHANCES] = self._chances(logits.astype(jnp.float32))
      found |= {f"teacher_{name}": value for name, value in given.items()
                if name.startswith(_MIXTURE)}
    for number, (_, layer) in enumerate(self.hidden):
      found[f"teacher_hidden_{number}"] = seen.hidden[layer].astype(jnp.float32)
    for number, (_, layer) in enumerate(self.related):
      found |= {f"teacher_{name}_{number}": value
               for name, value in seen.related[layer].items()}
    if _INDEX not in batch:
      return found
    index = batch[_INDEX]
    # -1 is no position. The first one is read in its place, times 0, because every
    # entry must have the shape that the student's positions have.
    at, known = jnp.maximum(index, 0)[..., None], (index >= 0).astype(jnp.float32)
    found = {name: jnp.take_along_axis(value, at, axis=1) * known[..., None]
            for name, value in found.items()}
    return {**found, READ: known}

  def _chances(self, logits: jax.Array) -> jax.Array:
    """Turns logits f32[B, U, W] into what the student's are compared with."""
    # Rows of a padded table stand for no token and must get no probability.
    logits = logits[..., :self.tokenizer.size]
    chances = jax.nn.softmax(logits / self.distill.temperature)
    if self.distill.vocabularies == SAME:
      return chances
    if self.distill.vocabularies == ULD:
      return _descending(chances)
    # Several tokens of the teacher may be nearest to one of the student's; their
    # probabilities add up. What falls on tokens without a counterpart is lost, so the
    # rest is normalized to sum to 1 again.
    known = np.flatnonzero(self._nearest >= 0)
    mapped = jnp.zeros((*chances.shape[:-1], self.student.size)).at[
        ..., self._nearest[known]].add(chances[..., known])
    # The floor keeps 0 / 0 from becoming NaN if all probability was lost.
    return mapped / jnp.maximum(mapped.sum(-1, keepdims=True), 1e-30)

  @functools.cached_property
  def _nearest(self) -> np.ndarray:
    return alignment.nearest(self.tokenizer, self.student)


def feed(
    teacher: Teacher | None, parallel: config_lib.Parallel,
    put: Callable[[pipeline.Batch], Batch]) -> Callable[[pipeline.Batch], Batch]:
  """Returns a function that prepares a batch for a step.

  It moves the batch to the devices and, if there is a teacher, adds what that computes.

  Args:
    teacher: The teacher, whose params are read here, once; or None.
    parallel: Devices of the run.
    put: Moves a batch from the host to the devices.
  """
  if teacher is None:
    return put
  mesh = sharding.make_mesh(parallel.data, parallel.fsdp, parallel.tensor)
  specs = teacher.source.specs
  # Params are an argument of the compiled program and not constants in it, which would
  # be a part of every program that is compiled.
  where = sharding.of_params(specs, mesh, parallel.rules)
  params = dict(teacher.source.read(list(specs), where))
  tell = jax.jit(teacher.tell)

  def fed(batch):
    batch = put(teacher.read(batch))
    # The step never reads the teacher's tokens, whose width varies: with them in the
    # batch it would be compiled anew for each width.
    own = {name: value for name, value in batch.items()
           if name not in (_INDEX, *_READ.values())}
    return {**own, **tell(params, batch)}
  return fed


def _descending(chances: jax.Array) -> jax.Array:
  """Sorts f32[..., W] that are not negative, the largest first.

  The bits of such numbers are in the order of the numbers, and XLA's CPU backend sorts
  integers 3.7 times as fast.
  """
  bits = jax.lax.bitcast_convert_type(chances, jnp.int32)
  return jax.lax.bitcast_convert_type(jnp.sort(bits, descending=True), jnp.float32)
