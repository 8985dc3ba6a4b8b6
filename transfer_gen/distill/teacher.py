"""A teacher: a trained model of any family, and what it tells of a batch.

What it tells are entries of the batch, made before the step by a program of its own:
the step holds no further params, and nothing here is differentiated.

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
_INPUTS, _INDEX = "teacher_inputs", "teacher_index"
Batch, Prepared = Mapping[str, Any], pipeline.Prepared


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
  """A trained model that another one learns from.

  Attributes:
    distill: What is matched.
    module: The teacher's model.
    source: Its checkpoint.
    tokenizer: Its tokenizer; where there is none, the student's.
    student: The student's tokenizer.
    hidden: (layer of the student, layer of the teacher) whose outputs are matched.
    related: The same for attention.
  """
  distill: config_lib.Distill
  module: registry.Model
  source: sources_lib.Source
  tokenizer: sources_lib.Tokenizer
  student: sources_lib.Tokenizer
  hidden: tuple[tuple[int, int], ...]
  related: tuple[tuple[int, int], ...]

  def read(self, batch: pipeline.Batch) -> pipeline.Batch:
    """A host's batch, with its text as the teacher's tokens where they are others.

    Returns:
      With `teacher_inputs` i32[B, U] and `teacher_index` i32[B, T], see `alignment`.
    """
    if self.distill.vocabularies == SAME:
      return batch
    inputs, index = alignment.teacher_rows(
        np.asarray(batch["inputs"]), self.student, self.tokenizer,
        registry.longest(self.module))
    return {**batch, _INPUTS: inputs, _INDEX: index}

  def tell(self, params: Mapping[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
    """What the teacher makes of a batch.

    Returns:
      `teacher_chances` f32[B, T, V] (of `uld`: f32[B, T, W], sorted, the largest
      first), softened; with other vocabularies `teacher_read` f32[B, T], 1 where both
      have read the same, and 0, as all entries are, elsewhere; by the number of the
      pair, `teacher_hidden_0` f32[B, T, D] and `teacher_query_0`, ..., as `taps` has
      them.
    """
    read = batch if _INPUTS not in batch else {**batch, "inputs": batch[_INPUTS]}
    read = {name: value for name, value in read.items() if name != "hidden"}
    with taps.listening(hidden=[b for _, b in self.hidden],
                        related=[b for _, b in self.related]) as seen:
      logits = objectives.logits(self.module, params, read, False, None)
    told = {}
    if self.distill.logits:
      told[CHANCES] = self._chances(logits.astype(jnp.float32))
    for number, (_, layer) in enumerate(self.hidden):
      told[f"teacher_hidden_{number}"] = seen.hidden[layer].astype(jnp.float32)
    for number, (_, layer) in enumerate(self.related):
      told |= {f"teacher_{name}_{number}": value
               for name, value in seen.related[layer].items()}
    if _INDEX not in batch:
      return told
    index = batch[_INDEX]
    at, known = jnp.maximum(index, 0)[..., None], (index >= 0).astype(jnp.float32)
    told = {name: jnp.take_along_axis(value, at, axis=1) * known[..., None]
            for name, value in told.items()}
    return {**told, READ: known}

  def _chances(self, logits: jax.Array) -> jax.Array:
    """f32[B, U, W] to what the student's are compared with."""
    logits = logits[..., :self.tokenizer.size]
    chances = jax.nn.softmax(logits / self.distill.temperature)
    if self.distill.vocabularies == SAME:
      return chances
    if self.distill.vocabularies == ULD:
      return _descending(chances)
    known = np.flatnonzero(self._nearest >= 0)
    mapped = jnp.zeros((*chances.shape[:-1], self.student.size)).at[
        ..., self._nearest[known]].add(chances[..., known])
    return mapped / jnp.maximum(mapped.sum(-1, keepdims=True), 1e-30)

  @functools.cached_property
  def _nearest(self) -> np.ndarray:
    return alignment.nearest(self.tokenizer, self.student)


def feed(
    teacher: Teacher | None, parallel: config_lib.Parallel,
    put: Callable[[pipeline.Batch], Batch]) -> Callable[[pipeline.Batch], Batch]:
  """How batches reach a step: with what the teacher tells, if there is one.

  Args:
    teacher: Reads its params here, once.
    parallel: The run's devices.
    put: From the host to devices.
  """
  if teacher is None:
    return put
  mesh = sharding.make_mesh(parallel.data, parallel.fsdp, parallel.tensor)
  specs = teacher.source.specs
  params = dict(teacher.source.read(list(specs), sharding.of_params(specs, mesh)))
  tell = jax.jit(teacher.tell)

  def fed(batch):
    batch = put(teacher.read(batch))
    own = {name: value for name, value in batch.items()
           if name not in (_INPUTS, _INDEX)}
    return {**own, **tell(params, batch)}
  return fed


def _descending(chances: jax.Array) -> jax.Array:
  """f32[..., W] that are not negative, the largest first.

  Their bits are in their order, and XLA's CPU backend sorts integers 3.7 times as fast.
  """
  bits = jax.lax.bitcast_convert_type(chances, jnp.int32)
  return jax.lax.bitcast_convert_type(jnp.sort(bits, descending=True), jnp.float32)
