"""Where the kernels of our models lie in the modules that PEFT adapts.

A map only rearranges, so each row and column of a module of theirs belongs to one index
of ours. Names of files and of tensors are those that PEFT writes:
https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from collections.abc import Collection, Iterable, Mapping
import dataclasses
import difflib
import re
from typing import Any

import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import leaves as adapter_leaves
from transfer_gen.maps import hugging_face
from transfer_gen.maps import mapped
from transfer_gen.maps import shipped
from transfer_gen.models import registry

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model."  # Of all names.
NAME = "lora"  # Of the leaves.
BLOCKS = "blocks"  # In the file's metadata: {module: {kernel: [first, last row]}}.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """Where a kernel of ours lies in a module of theirs.

  Attributes:
    module: Name of the module, e.g. `transformer.h.0.attn.c_attn`.
    spec: Spec of our kernel.
    inputs: i32[I], the module's input for each input of our kernel, flattened.
    outputs: i32[O], the module's output for each output of our kernel, flattened.
    shape: (inputs, outputs) of the module.
    turned: Whether the module's weight is [outputs, inputs].
  """
  module: str
  spec: tree.Spec
  inputs: np.ndarray
  outputs: np.ndarray
  shape: tuple[int, ...]
  turned: bool


def places(
    family: hugging_face.Family, model: config_lib.Decoder, prefix: str
) -> dict[str, Place]:
  """Returns where each kernel of a model lies in a family's modules.

  Args:
    family: A family that can hold the model.
    model: The model's config.
    prefix: Prefix of all names.
  """
  return _places(*_rows(family, model, prefix))


def _rows(
    family: hugging_face.Family, model: Any, prefix: str
) -> tuple[tuple[mapped.Row, ...], Mapping[str, tree.Spec]]:
  """Returns where each leaf of ours lies, and the specs of their tensors."""
  specs = registry.specs(registry.build(model))
  how = hugging_face.lines(family, model, {prefix + family.anchor})
  theirs = hugging_face.specs_before(how, specs, {})
  return tuple(mapped.resolve(how, theirs, specs)), theirs


def _places(rows, theirs) -> dict[str, Place]:
  return {row.name: _place(row, theirs[row.sources[0]].shape) for row in rows
          if adapter_leaves.is_kernel(row.name, row.spec)
          and len(theirs[row.sources[0]].shape) == 2}


def _place(row: mapped.Row, shape: tuple[int, ...]) -> Place:
  split = adapter_leaves.num_inputs(row.spec)
  inputs = int(np.prod(row.spec.shape[:split]))
  # The layout is run over the indices of the module, which shows where each number goes
  # for every layout there is, also those that are yet to be written.
  first, second = (row.layout(index).reshape(inputs, -1)
                   for index in np.indices(shape, np.int32))
  # As in a Linear, [outputs, inputs]; else as in a Conv1D.
  turned = bool((first == first[:1]).all() and (second == second[:, :1]).all())
  if turned:
    first, second = second, first
  assert (first == first[:, :1]).all() and (second == second[:1]).all(), row.name
  return Place(module=row.sources[0].removesuffix(".weight"), spec=row.spec,
               inputs=first[:, 0], outputs=second[0],
               shape=shape[::-1] if turned else shape, turned=turned)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """Where the leaves of a model lie, in the family that has an adapter's names.

  Attributes:
    places: Where each kernel of ours lies, by name.
    rows: Where each leaf of ours lies.
    theirs: Specs of their tensors.
    outside: Whole tensors of the adapter beside the model, such as a classifier.
  """
  places: dict[str, Place]
  rows: tuple[mapped.Row, ...]
  theirs: Mapping[str, tree.Spec]
  outside: tuple[str, ...]


def find(
    model: Any, modules: Collection[str], tensors: Collection[str] = ()) -> Found:
  """Returns where leaves lie in the first family that has all these names.

  Args:
    model: Config of the model.
    modules: Names of modules with adapters.
    tensors: Names of whole tensors. Those that begin with what no name of the family
      begins with stand beside the model, which reads none of them.

  Raises:
    errors.UserError: If no family has them.
  """
  known: set[str] = set()
  for family in shipped.FAMILIES:
    try:
      hugging_face.write(family, model)
    except errors.UserError:
      continue
    # An adapter may have been trained on the model with its head or without, and the
    # names of its modules begin accordingly.
    for prefix in family.prefixes:
      rows, theirs = _rows(family, model, prefix)
      found = _places(rows, theirs)
      names = {place.module for place in found.values()}
      begins = {_begin(name) for name in theirs}
      outside = tuple(name for name in tensors if _begin(name) not in begins)
      inside = {*tensors} - {*outside}
      if {*modules} <= names and inside <= theirs.keys():
        return Found(places=found, rows=rows, theirs=theirs, outside=outside)
      known |= names | theirs.keys()
  raise errors.UserError(_why_none((*modules, *tensors), known))


def leaves(
    kernel: str, place: Place, rank: int, dora: bool
) -> dict[str, tuple[str, tree.Spec]]:
  """Returns part and spec of each leaf of an adapter beside a kernel, by its name."""
  # The same code that makes the leaves of a LoRA in a run gives names, shapes and axes
  # here, so that the two cannot differ.
  adapter = config_lib.LoRA(
      params=re.escape(kernel), name=NAME, rank=rank, dora=dora)
  made = adapter_leaves.by_part(adapter, kernel, place.spec)
  specs = tree.specs({part: leaf.box() for part, leaf in made.items()})
  return {adapter.leaf(kernel, part): (part, spec) for part, spec in specs.items()}


def _begin(name: str) -> str:
  return name.split(".")[0]


def _why_none(names: Iterable[str], known: set[str]) -> str:
  wrong = next((name for name in names if name not in known), None)
  if not known or wrong is None:
    return ("no architecture that is known here computes the model that it stands"
            " beside.")
  near = difflib.get_close_matches(wrong, known, n=1)
  return (f"{wrong} is no module with a kernel, and no tensor, of the model that it"
          " stands beside" + (f"; nearest: {near[0]}." if near else "."))
