"""The student of a teacher: projections of its hidden states to the teacher's widths.

Axes: D width of the student's layer, E of the teacher's.
"""

from collections.abc import Mapping
import contextlib
import dataclasses

from flax import linen as nn
import jax

from transfer_gen import tree
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.models import extended
from transfer_gen.models import layers
from transfer_gen.models import taps

_Specs = Mapping[str, tree.Spec]


@dataclasses.dataclass(frozen=True)
class Projections:
  """Learned projections to a teacher's widths, an addition to the student.

  Their leaves stand under `distill/`. No output of the model reads them, only the loss
  does: a checkpoint keeps them to resume from, and `checkpoint.find` passes over them,
  so that evaluation, generation, export and transfer never meet them.

  Attributes:
    widths: (layer, D, its axis, E) of each projection.
  """
  widths: tuple[tuple[int, int, str, int], ...]

  def added(self, specs: _Specs) -> dict[str, tree.Spec]:
    """Specs of the projections."""
    return tree.specs(jax.eval_shape(
        lambda: self.init(jax.random.key(0), specs)))

  def init(self, key: jax.Array, specs: _Specs) -> dict[str, tree.Axes]:
    """Returns initial values, drawn as LeCun normal."""
    del specs
    return {projection(layer): _kernel(key, layer, width, axis, teacher)
            for layer, width, axis, teacher in self.widths}

  def around(self, train: bool) -> contextlib.AbstractContextManager[None]:
    """Returns a context that changes nothing: the model computes as without them."""
    del train
    return contextlib.nullcontext()


def extend(
    model: extended.Model, teacher: teacher_lib.Teacher) -> extended.Model:
  """Returns the model with a projection to each matched layer of another width."""
  own, theirs = model.config, teacher.module.config
  widths = [(layer, taps.width(own, layer), taps.axis(own), taps.width(theirs, other))
            for layer, other in teacher.hidden]
  needed = tuple(entry for entry in widths if entry[1] != entry[3])
  return extended.extend(model, Projections(needed)) if needed else model


def projection(layer: int) -> str:
  """Returns the name of the leaf that projects a layer's output, f32[D, E]."""
  return f"distill/layer_{layer}/kernel"


def _kernel(
    key: jax.Array, layer: int, width: int, axis: str, teacher: int) -> tree.Axes:
  init = layers.boxed(nn.initializers.lecun_normal(), axis, "teacher", reads=(axis,))
  # A number that no layer's own key is folded with.
  return init(jax.random.fold_in(key, 2**31 - 1 - layer), (width, teacher))
