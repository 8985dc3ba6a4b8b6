"""What a folder that PEFT wrote holds: its tensors by their kind, and its config.

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint. Beside factors of
low rank there may be whole tensors (`modules_to_save`, a base layer that was stored
along, biases) and rows of tables (`trainable_token_indices`).
"""

from collections.abc import Mapping, Sequence
import contextlib
import re
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import peft_modules

MERGE = (" Merge the adapter with PEFT (merge_and_unload, then save_pretrained) and"
         " give the merged model as the source.")
_PARTS = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude", "lora_embedding_A": "table_a",
    "lora_embedding_B": "table_b", "token_adapter.trainable_tokens_delta": "rows"}
_TENSOR = re.compile(
    re.escape(peft_modules.BEFORE)
    + rf"(?:(?P<module>.+)\.(?P<part>{'|'.join(map(re.escape, _PARTS))})|"
    r"(?P<whole>.+))")
# Parts of names of tensors that are no whole ones, but of other kinds of adapters.
_OTHERS = re.compile(r"(^|\.)(lora|ia3|vera|oft|boft|hada|lokr|ada|fourierft|prompt)_")
# Fields that change nothing that a stored adapter computes.
_IDLE = frozenset((
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "exclude_modules",
    "eva_config", "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_dropout", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type", "megatron_core",
    "loftq_config", "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern",
    "use_rslora", "use_dora", "bias", "modules_to_save", "trainable_token_indices"))
# How factors may begin without a change to the kernels beside them.
_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
# What a regex for names of modules may repeat. Repeated groups, and many repeats in a
# row, can take years to find that a name does not match.
_REPEATED, _GROUP_REPEATED = re.compile(r"[*+?{]"), re.compile(r"\)[*+{]")
_MOST = 4


class Files:
  """The tensors of an adapter and its config.

  Attributes:
    raw: The tensors under their own names.
    fields: The contents of `adapter_config.json`.
    factors: Tensors of low rank by module and part: `a`, `b` and `magnitude`.
    tables: Those beside embeddings, by module and part: `table_a` and `table_b`.
    rows: By module: rows of its table.
    whole: By the name in the model: the whole tensor.
    blocks: By module: first and last row of each of our kernels, if we wrote it.
  """

  def __init__(self, raw: architecture.Raw):
    """Reads the config; reads no array. To be called within `whole`.

    Raises:
      errors.UserError: If the config asks for what is not known here, or a tensor is of
        another kind of adapter.
    """
    self.raw, self.fields = raw, architecture.read_json(_config(raw))
    _check_fields(self.fields, raw.idle)
    self.blocks = architecture.parse_json(
        raw.facts["metadata"].get(peft_modules.BLOCKS, "{}"))
    self.factors: dict[str, dict[str, str]] = {}
    self.tables: dict[str, dict[str, str]] = {}
    self.rows: dict[str, str] = {}
    self.whole: dict[str, str] = {}
    for name in raw.specs:
      self._sort(name)

  @property
  def modules(self) -> set[str]:
    """Modules that have a tensor other than a whole one."""
    return {*self.factors, *self.tables, *self.rows}

  def indices(self, module: str) -> list[int]:
    """Returns which rows of a table `rows` holds, in its order.

    Raises:
      errors.UserError: If the config does not say it, or not for so many rows.
    """
    asked = self.fields.get("trainable_token_indices")
    found: Any = asked if not isinstance(asked, Mapping) else next(
        (value for key, value in asked.items()
         if module == key or module.endswith(f".{key}")), None)
    count = self.raw.specs[self.rows[module]].shape[0]
    if (not isinstance(found, Sequence) or len(found) != count
        or any(type(i) is not int or i < 0 for i in found)):
      raise errors.UserError(
          f"{module} has {count} trained rows, and"
          f" trainable_token_indices is {asked!r:.80}. Save the adapter again.")
    return list(found)

  def scale(self, module: str) -> float:
    """Returns the factor of a product of low rank.

    Raises:
      errors.UserError: If the config says another rank than the file has.
    """
    rank = _of_module(self.fields, "rank_pattern", "r", module)
    alpha = _of_module(self.fields, "alpha_pattern", "lora_alpha", module)
    first = next(name for kind in (self.factors, self.tables)
                 for part, name in kind.get(module, {}).items() if part.endswith("a"))
    # A config that was left behind by another adapter would scale this one wrongly.
    if (stored := self.raw.specs[first].shape[0]) != rank:
      raise errors.UserError(
          f"{module} has the rank {stored}, and {peft_modules.CONFIG} says"
          f" {rank!r:.40}. Fetch both files of the same adapter.")
    # rsLoRA divides by the root of the rank (Kalajdzievski, 2023).
    return alpha / (rank ** 0.5 if self.fields.get("use_rslora") else rank)

  def _sort(self, name: str) -> None:
    match = _TENSOR.fullmatch(name)
    if match is None or _OTHERS.search(match["whole"] or ""):
      raise errors.UserError(
          f"it holds {name[:100]}, and only factors of low rank, whole"
          f" tensors and rows of tables are read.{MERGE}")
    if match["whole"]:
      # A layer that has an adapter stands inside of it there.
      plain = re.sub(r"\.(base_layer|token_adapter|modules_to_save)(?=\.)", "",
                     match["whole"])
      self.whole[plain] = name
      return
    part = _PARTS[match["part"]]
    if part == "rows":
      self.rows[match["module"]] = name
    else:
      kind = self.tables if part.startswith("table") else self.factors
      kind.setdefault(match["module"], {})[part] = name


def whole(raw: architecture.Raw) -> contextlib.AbstractContextManager[None]:
  """Turns what a malformed config leads to into one message that names the file."""
  return architecture.malformed(_config(raw), "adapter")


def recognizes(raw: architecture.Raw) -> bool:
  """Whether a checkpoint of another framework is an adapter that PEFT wrote.

  Example:
    >>> import tempfile
    >>> from etils import epath
    >>> import numpy as np
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


def _config(raw: architecture.Raw) -> epath.Path:
  found = architecture.beside(raw, peft_modules.CONFIG)
  assert found is not None  # Without it, the folder is not recognized.
  return found


# A field that is set and not known here may change what the adapter computes, so it is
# refused and not passed over.
def _check_fields(fields: Mapping[str, Any], idle: dict[str, bool]) -> None:
  architecture.require(peft_modules.CONFIG, {"peft_type": None} | dict(fields), {
      "peft_type": ("LORA",), "bias": ("none", "all", "lora_only")})
  begun = fields.get("init_lora_weights")
  known = {*_IDLE, *(("init_lora_weights",) if begun in _BEGINNINGS else ())}
  if not known & {"init_lora_weights"} and "init_lora_weights" not in idle:
    raise errors.UserError(
        f"init_lora_weights is {begun!r:.40}: PEFT then changes the base's kernels too."
        " Save the adapter with path_initial_model_for_weight_conversion, or merge it"
        " (merge_and_unload, then save_pretrained). If the base that you give has the"
        f" changed kernels: {architecture.as_idle(['init_lora_weights'])}")
  architecture.refuse_unknown(peft_modules.CONFIG, fields, known, idle)


def _of_module(fields, pattern, plain, module):
  for key, value in (fields.get(pattern) or {}).items():
    if (len(_REPEATED.findall(key.replace("(?", "("))) > _MOST
        or _GROUP_REPEATED.search(key)):
      raise errors.UserError(
          f"{pattern} has {key[:100]!r}: at most {_MOST} repeats (* + ? {{) are read,"
          " and no repeated group. Write the names of modules out.")
    # PEFT matches a key of `rank_pattern` as a regex against the end of a module's
    # name, from a dot on.
    if module == key or re.fullmatch(rf"(.*\.)?({key})", module):
      return value
  return fields[plain]
