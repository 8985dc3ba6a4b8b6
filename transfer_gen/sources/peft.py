"""Low-rank adapters as PEFT stores them, under our names.

A folder that PEFT wrote holds `adapter_config.json` and `adapter_model.safetensors`,
with A [R, inputs] and B [outputs, R] for each module that was adapted. The map of the
adapted architecture shows which of our kernels a module holds, and where: a map only
rearranges, so each row and column of theirs belongs to one index of ours. Where query,
key and value are one module, they share one A; each of our kernels gets that A and its
own rows of B. If this package wrote such a module, A and B have a block for each
kernel, one after the other, and the file's metadata lists the blocks.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import re
from typing import Any

from etils import epath
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.adapters import calls
from transfer_gen.adapters import leaves as adapter_leaves
from transfer_gen.maps import architecture
from transfer_gen.maps import peft_modules
from transfer_gen.sources import source as source_lib

NAME = "lora"  # Of the leaves.
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_magnitude_vector(\.weight)?)")
# Fields that change nothing that a stored adapter computes.
_IDLE = frozenset((
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_dropout", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type", "megatron_core",
    "loftq_config", "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "bias"))


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
  spec: tree.Spec
  scale: float


# A source like any other, so that rules copy adapters as they copy kernels, and a plan
# may take the model from one source and its adapters from this one.
class Adapter(source_lib.Source):
  """A folder that PEFT wrote: leaves `lora_a`, `lora_b` beside our kernels."""

  def __init__(
      self, raw: architecture.Raw, model: source_lib.Model,
      base: source_lib.Source | None = None):
    """Relates names; reads no array.

    Args:
      raw: The tensors under their own names.
      model: Config of the model that they adapt.
      base: Source of that model's kernels, which DoRA's magnitudes are relative to.

    Raises:
      errors.UserError: If the folder holds tensors that are not of low rank, or that
        have no place in the model.
    """
    self.raw, self._base = raw, base
    where = architecture.beside(raw, peft_modules.CONFIG)
    assert where is not None  # Without it, the folder is not recognized.
    fields = architecture.read_json(where)
    with architecture.malformed(where, "adapter"):
      _check_fields(fields)
      self._modules = _modules(raw)
      self._blocks = architecture.parse_json(
          raw.facts["metadata"].get(peft_modules.BLOCKS, "{}"))
      places = peft_modules.find(model, self._modules)
      self._rows: dict[str, _Row] = {}
      for kernel, place in places.items():
        if place.module in self._modules:
          self._add(kernel, place, fields)
    if fields.get("use_dora") and base is None:
      raise errors.UserError(
          f"{where}: use_dora: its norms are relative to kernels that are not here."
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
  def specs(self) -> Mapping[str, tree.Spec]:
    """Spec of each leaf."""
    return {name: row.spec for name, row in self._rows.items()}

  @property
  def scales(self) -> Mapping[str, float]:
    """Factor that each product is multiplied by at run time, by leaf."""
    return {name: row.scale for name, row in self._rows.items()}

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), placed where `shardings` says."""
    for name in names:
      value = np.ascontiguousarray(self._value(self._rows[name]))
      value = value.reshape(self._rows[name].spec.shape)
      yield name, jax.device_put(value, shardings[name] if shardings else None)

  # Leaf by leaf from the file: an adapter is small, and a module's A is read again for
  # each kernel that shares it instead of being kept.
  def _value(self, row: _Row) -> np.ndarray:
    place = row.place
    [(_, value)] = self.raw.read([self._modules[place.module][row.part]])
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

  def _add(
      self, kernel: str, place: peft_modules.Place, fields: Mapping[str, Any]
  ) -> None:
    tensors, own = self._modules[place.module], self._blocks.get(place.module)
    # The module was written by us for some of its kernels only, such as queries and
    # values: the others have no adapter.
    if own is not None and kernel not in own:
      return
    shapes = {part: self.raw.specs[name].shape for part, name in tensors.items()}
    if {"a", "b"} - shapes.keys():
      raise errors.UserError(f"{place.module} lacks lora_A or lora_B.")
    if (len(shapes["a"]), shapes["a"][1:], shapes["b"]) != (
        2, place.shape[:1], (place.shape[1], shapes["a"][0])):
      raise errors.UserError(
          f"{place.module}: lora_A is {shapes['a']} and lora_B {shapes['b']}, and the"
          f" kernels there are {place.shape[0]} by {place.shape[1]}.")
    rank = shapes["a"][0]
    first, last = own[kernel] if own else (0, rank)
    if not 0 <= first < last <= rank:
      raise errors.UserError(f"{place.module}: rows {first} to {last} of {rank}.")
    block = slice(first, last)
    # The same code that makes the leaves of a LoRA in a run gives names, shapes and
    # axes here, so that the two cannot differ.
    adapter = config_lib.LoRA(params=re.escape(kernel), name=NAME,
                              rank=last - first, dora="magnitude" in shapes)
    leaves = adapter_leaves.by_part(adapter, kernel, place.spec)
    specs = tree.specs({part: leaf.box() for part, leaf in leaves.items()})
    for part, spec in specs.items():
      self._rows[adapter.leaf(kernel, part)] = _Row(
          part=part, kernel=kernel, place=place, block=block, spec=spec,
          scale=_scale(fields, place.module))


def recognizes(raw: architecture.Raw) -> bool:
  """Whether a checkpoint of another framework is an adapter that PEFT wrote.

  Example:
    >>> import tempfile
    >>> from safetensors import numpy as safetensors
    >>> from transfer_gen.formats import detect
    >>> folder = epath.Path(tempfile.mkdtemp())
    >>> safetensors.save_file(
    ...     {"base_model.model.fc.lora_A.weight": np.zeros((2, 4), np.float32)},
    ...     folder / "adapter_model.safetensors")
    >>> recognizes(detect.opener_of(folder)())
    False
    >>> _ = (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    >>> recognizes(detect.opener_of(folder)())
    True
  """
  return raw.path.name == peft_modules.WEIGHTS and (
      architecture.beside(raw, peft_modules.CONFIG) is not None)


def _modules(raw: architecture.Raw) -> dict[str, dict[str, str]]:
  """Tensors by module and part."""
  found: dict[str, dict[str, str]] = {}
  parts = {"lora_A": "a", "lora_B": "b", "lora_magnitude_vector": "magnitude"}
  for name in raw.specs:
    match = _TENSOR.fullmatch(name)
    if match is None:
      raise errors.UserError(
          f"it holds {name[:100]}, and only factors of low rank are read.")
    found.setdefault(match["module"], {})[parts[match["part"].split(".")[0]]] = name
  return found


# A field that is set and not known here may change what the adapter computes, so it is
# refused and not passed over.
def _check_fields(fields: Mapping[str, Any]) -> None:
  architecture.require(peft_modules.CONFIG, {"peft_type": None} | dict(fields), {
      "peft_type": ("LORA",), "bias": ("none",)})
  architecture.refuse_unknown(peft_modules.CONFIG, fields, _IDLE)


def _scale(fields: Mapping[str, Any], module: str) -> float:
  rank = _of_module(fields, "rank_pattern", "r", module)
  alpha = _of_module(fields, "alpha_pattern", "lora_alpha", module)
  # rsLoRA divides by the root of the rank (Kalajdzievski, 2023).
  return alpha / (rank ** 0.5 if fields.get("use_rslora") else rank)


def _of_module(fields, pattern, plain, module):
  for key, value in (fields.get(pattern) or {}).items():
    # PEFT matches a key of `rank_pattern` as a regex against the end of a module's
    # name, from a dot on.
    if module == key or re.fullmatch(rf"(.*\.)?({key})", module):
      return value
  return fields[plain]
