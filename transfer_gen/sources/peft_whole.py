"""Whole tensors of an adapter: they stand in place of the base's, under our names.

PEFT replaces a layer of the base by the one that it stored, or rows of a table by
trained ones. Of a base that uses one table for inputs and outputs, it may replace one
of both uses, and the other keeps the table of the base: then there are two tables.
"""

from collections.abc import Mapping
import dataclasses
import logging
from typing import Any

import numpy as np

from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.maps import peft_modules
from transfer_gen.sources import peft_files
from transfer_gen.sources import source as source_lib

_HEAD, _TABLE = "head/kernel", "embed/embedding"
_OUTPUTS = ("lm_head", "embed_out")  # Modules.


def model_of(files: peft_files.Files, model: Any) -> Any:
  """Returns the model that an adapter makes of its base: perhaps with two tables.

  Args:
    files: The adapter. If inputs and outputs were kept alike, what it holds of the
      outputs is taken out, as it is what it holds of the inputs.
    model: Config of the base.

  Raises:
    errors.UserError: If the base has an encoder and shares the table with it.
  """
  if not getattr(model, "tied", False):
    return model
  outputs = {name for name in files.whole if name.rpartition(".")[0] in _OUTPUTS}
  if files.fields.get("ensure_weight_tying"):
    for name in outputs:
      del files.whole[name]
    return model
  # Trained rows are PEFT's for both uses of a table, unless the output has its own.
  inputs = {name for name in (*files.whole, *(f"{m}.weight" for m in files.tables))
            if name.removesuffix(".weight").rpartition(".")[2] in (
                "embed_tokens", "wte", "embed_in", "shared")}
  if not outputs and not inputs and not files.modules & set(_OUTPUTS):
    return model
  if model.encodes:
    raise errors.UserError(
        f"its table is that of an encoder as well, and an adapter"
        f" replaces one use of it: {', '.join(sorted(outputs | inputs))}."
        f"{peft_files.MERGE}")
  logging.getLogger(__name__).warning(
      "%s: the table of outputs is no longer that of inputs: the run's model needs"
      " tied=False, and head/kernel comes from here.", files.raw.path)
  return dataclasses.replace(model, tied=False)


class Whole:
  """The leaves of ours that an adapter replaces as a whole.

  Attributes:
    specs: Spec of each.
  """

  def __init__(
      self, files: peft_files.Files, found: peft_modules.Found,
      base: source_lib.Source | None, untied: bool):
    """Decides which leaves there are; reads no array.

    Args:
      files: The adapter.
      found: Where the leaves of the model lie.
      base: Source of the base, of which tables are taken whose rows are replaced.
      untied: Whether the base has one table and the model two.

    Raises:
      errors.UserError: If a tensor does not fit, or there must be a base and is none.
    """
    self._files, self._base = files, base
    if found.outside:
      logging.getLogger(__name__).warning(
          "%s: left out, as the model that it stands beside has no such part: %s",
          files.raw.path, ", ".join(tree.fold(found.outside)))
    changed = {f"{module}.weight" for module in (*files.rows, *files.tables)}
    self._rows = {
        row.name: row for row in found.rows
        if row.sources[0] in {*files.whole, *changed}
        or (untied and row.name == _HEAD)}
    self.specs = {name: self._spec(row, found.theirs[row.sources[0]].shape)
                  for name, row in self._rows.items()}

  def read(self, name: str) -> np.ndarray:
    """Returns a leaf in float32."""
    row = self._rows[name]
    source = row.sources[0]
    module = source.removesuffix(".weight")
    value = self._stored(row, source)
    if module in self._files.tables:
      parts = self._files.tables[module]
      a, b = (self._tensor(parts[part]) for part in ("table_a", "table_b"))
      value = value + row.layout((b @ a).T * np.float32(self._files.scale(module)))
    if module in self._files.rows:
      value = np.array(value)  # A copy, since a source's arrays are not ours to change.
      table = np.moveaxis(value, self.specs[name].axes.index("vocab"), 0)
      table[self._files.indices(module)] = self._tensor(self._files.rows[module])
    return value

  def _stored(self, row: Any, source: str) -> np.ndarray:
    """Returns the leaf as it is stored here, or else in the base."""
    if source in self._files.whole:
      return row.layout(self._tensor(self._files.whole[source]))
    assert self._base is not None  # As `_spec` checks.
    if row.name in self._base.specs:
      [(_, value)] = self._base.read([row.name])
      return np.asarray(value, np.float32)
    [(_, value)] = self._base.read([_TABLE])  # Of both uses, and as theirs is.
    return row.layout(np.asarray(value, np.float32))

  def _tensor(self, name: str) -> np.ndarray:
    [(_, value)] = self._files.raw.read([name])
    return np.asarray(value, np.float32)  # PEFT may save in float16 or bfloat16.

  def _spec(self, row: Any, wanted: tuple[int, ...]) -> tree.Spec:
    source = row.sources[0]
    module, files = source.removesuffix(".weight"), self._files
    spec, shape = dataclasses.replace(row.spec, dtype=np.dtype(np.float32)), wanted
    if source in files.whole:
      shape = files.raw.specs[files.whole[source]].shape
      # Whoever added tokens has larger tables than the base.
      if shape[1:] == wanted[1:] and "vocab" in spec.axes:
        spec = dataclasses.replace(spec, shape=tuple(
            shape[0] if axis == "vocab" else size
            for axis, size in zip(spec.axes, spec.shape)))
        wanted = shape
    elif self._base is None:
      raise errors.UserError(
          f"{module}: rows of a table are here, and not the table."
          " Give the model that it was trained on as the run's source.")
    if shape != wanted:
      raise errors.UserError(
          f"{source} is {shape}, and the model that it stands beside"
          f" has {wanted}. Give the model that it was trained on.")
    self._check(module, spec.shape[spec.axes.index("vocab")]
                if "vocab" in spec.axes else 0, wanted)
    return spec

  def _check(self, module: str, rows: int, table: tuple[int, ...]) -> None:
    """Checks what changes a table of `rows` rows."""
    files = self._files
    if module in files.rows:
      shape = files.raw.specs[files.rows[module]].shape
      if max(files.indices(module), default=-1) >= rows or shape[1:] != table[1:]:
        raise errors.UserError(
            f"{module}: trained rows of shape {shape} do not fit the"
            f" table {table}. Give the model that it was trained on.")
    if module in files.tables:
      shapes: Mapping[str, Any] = {
          part: files.raw.specs[name].shape for part, name in (
              files.tables[module].items())}
      a, b = shapes.get("table_a", ()), shapes.get("table_b", ())
      if (len(a), len(b)) != (2, 2) or a[0] != b[1] or (a[1], b[0]) != table:
        raise errors.UserError(
            f"{module}: factors {a} and {b} do not fit the table"
            f" {table}. Give the model that it was trained on.")
      files.scale(module)  # Now, where what is wrong with it names the config.
