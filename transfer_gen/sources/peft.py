"""Adapters as PEFT stores them, under our names: of low rank, and whole tensors.

A folder that PEFT wrote holds `adapter_config.json` and `adapter_model.safetensors`,
with A [R, inputs] and B [outputs, R] for each module that was adapted. The map of the
adapted architecture shows which of our kernels a module holds, and where: a map only
rearranges, so each row and column of theirs belongs to one index of ours. Where query,
key and value are one module, they share one A; each of our kernels gets that A and its
own rows of B. If this package wrote such a module, A and B have a block for each
kernel, one after the other, and the file's metadata lists the blocks.

Whole tensors have the names that our leaves have in a checkpoint, see `peft_whole`.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import errors
from transfer_gen.adapters import calls
from transfer_gen.maps import peft_modules
from transfer_gen.sources import peft_files
from transfer_gen.sources import peft_whole
from transfer_gen.sources import source as source_lib

recognizes = peft_files.recognizes


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
  """Where a leaf of ours is stored.

  Attributes:
    part: `a`, `b` or `magnitude`.
    kernel: Name of the kernel that it adapts.
    place: The module that holds the kernel, and where.
    block: Rows of A, and columns of B, that belong to the kernel.
    spec: Spec of the leaf.
    scale: Factor of the low-rank product.
  """

  part: str
  kernel: str
  place: peft_modules.Place
  block: slice
  spec: Any
  scale: float


# A source like any other, so that rules copy adapters as they copy kernels, and a plan
# may take the model from one source and its adapters from this one.
class Adapter(source_lib.Source):
  """A folder that PEFT wrote.

  Its leaves are `lora_a` and `lora_b` beside our kernels, and those of the model that
  it replaces as a whole, such as `head/kernel`.
  """

  def __init__(
      self, raw: Any, model: source_lib.Model, base: source_lib.Source | None = None):
    """Relates names; reads no array.

    Args:
      raw: The tensors under their own names.
      model: Config of the model that they adapt.
      base: Source of that model's kernels, which DoRA's magnitudes are relative to and
        of whose tables an adapter may replace rows.

    Raises:
      errors.UserError: If the folder holds tensors of another kind, or that have no
        place in the model.
    """
    self.raw, self._base = raw, base
    self._rows: dict[str, _Row] = {}
    with peft_files.whole(raw):
      self._files = files = peft_files.Files(raw)
      adapted = peft_whole.model_of(files, model)
      found = peft_modules.find(adapted, files.factors, {
          *files.whole, *(f"{m}.weight" for m in (*files.rows, *files.tables))})
      for kernel, place in found.places.items():
        if place.module in files.factors:
          self._add(kernel, place)
      self._whole = peft_whole.Whole(files, found, base, adapted is not model)
    if files.fields.get("use_dora") and base is None:
      raise errors.UserError(
          f"{raw.path}: use_dora: its norms are relative to kernels that are not here."
          " Give the model that it was trained on as the run's source.")

  @property
  def path(self) -> epath.Path:
    """The file of tensors."""
    return self.raw.path

  @property
  def title(self) -> str:
    """One line for people."""
    return f"{self.path}: adapter written by PEFT"

  @property
  def specs(self) -> source_lib.Specs:
    """Spec of each leaf."""
    return {name: row.spec for name, row in self._rows.items()} | self._whole.specs

  @property
  def scales(self) -> Mapping[str, float]:
    """Factor that each product is multiplied by at run time, by leaf."""
    return {name: row.scale for name, row in self._rows.items()}

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None,
      picks: source_lib.Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), placed where `shardings` says."""
    for name in names:
      value = np.ascontiguousarray(
          self._value(self._rows[name]) if name in self._rows
          else self._whole.read(name))
      value = value.reshape(self.specs[name].shape)
      yield name, source_lib.placed(name, value, shardings, picks)

  # Leaf by leaf from the file: an adapter is small, and a module's A is read again for
  # each kernel that shares it instead of being kept.
  def _value(self, row: _Row) -> np.ndarray:
    place = row.place
    [(_, value)] = self.raw.read([self._files.factors[place.module][row.part]])
    # PEFT may save in float16 or bfloat16, and our leaves are float32.
    value = np.asarray(value, np.float32)
    if row.part == "a":
      return value[row.block][:, place.inputs].T
    if row.part == "b":
      return value[place.outputs][:, row.block].T
    assert self._base is not None  # Magnitudes are rows only where there is a base.
    [(_, kernel)] = self._base.read([row.kernel])
    # Our leaf is the difference from the norms of the kernel, which is zero at the
    # start of a training whatever the kernel is.
    return value.reshape(-1)[place.outputs] - calls.norms(
        kernel.reshape(len(place.inputs), -1))

  def _add(self, kernel: str, place: peft_modules.Place) -> None:
    module, own = place.module, self._files.blocks.get(place.module)
    # The module was written by us for some of its kernels only, such as queries and
    # values: the others have no adapter.
    if own is not None and kernel not in own:
      return
    shapes = {part: self.raw.specs[name].shape
              for part, name in self._files.factors[module].items()}
    if {"a", "b"} - shapes.keys():
      raise errors.UserError(f"{module} lacks lora_A or lora_B.")
    if (len(shapes["a"]), shapes["a"][1:], shapes["b"]) != (
        2, place.shape[:1], (place.shape[1], shapes["a"][0])):
      raise errors.UserError(
          f"{module}: lora_A is {shapes['a']} and lora_B {shapes['b']}, and the"
          f" kernels there are {place.shape[0]} by {place.shape[1]}.")
    rank = shapes["a"][0]
    first, last = own[kernel] if own else (0, rank)
    if not 0 <= first < last <= rank:
      raise errors.UserError(f"{module}: rows {first} to {last} of {rank}.")
    leaves = peft_modules.leaves(kernel, place, last - first, "magnitude" in shapes)
    for name, (part, spec) in leaves.items():
      self._rows[name] = _Row(
          part=part, kernel=kernel, place=place, block=slice(first, last), spec=spec,
          scale=self._files.scale(module))
