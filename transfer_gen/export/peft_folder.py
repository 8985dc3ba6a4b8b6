"""Writes adapters of low rank as a folder that PEFT loads onto their base."""

from collections.abc import Mapping, Sequence
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen.adapters import calls
from transfer_gen.adapters import leaves
from transfer_gen.config import adapters as config_adapters
from transfer_gen.formats import safetensors
from transfer_gen.maps import peft_modules
from transfer_gen.maps import shipped

_Block = tuple[str, peft_modules.Place, config_adapters.LoRA]


# PEFT multiplies by alpha / r, one factor for each module, so alpha is written such
# that this gives our scale, with whichever `scaling` it was trained.
def write(
    folder: epath.Path,
    model: config_lib.Decoder,
    params: Mapping[str, Any],
    adapters: Sequence[config_adapters.Adapter],
    base: str | None = None,
    name: str = "",
) -> tuple[str, ...]:
  """Writes the adapters alone; what they are multiplied with is written as alpha / r.

  Args:
    folder: Where to; it is there.
    model: Config of the model, with the size of its vocabulary.
    params: Its leaves by name, those of the adapters among them.
    adapters: The run's.
    base: Where the model without them is, as Transformers loads it; it is written
      down and not read.
    name: Of the family that the base is of. "": the first that can hold the model.

  Returns:
    A sentence on what was written.

  Raises:
    errors.UserError: If an adapter is not of low rank, or no family holds the model.
  """
  low_rank = [a for a in adapters if isinstance(a, config_adapters.LoRA)]
  for adapter in adapters:
    if not isinstance(adapter, config_adapters.LoRA):
      raise errors.UserError(
          f"{type(adapter).__name__} {adapter.name!r} is not written for PEFT: only"
          " LoRA is. The workdir of the run holds it.")
  if len({adapter.dora for adapter in low_rank}) > 1:
    raise errors.UserError("PEFT has dora for all adapters or for none.")
  family, _ = shipped.family_of(model, name)
  places = peft_modules.places(family, model, family.prefixes[0])
  by_module: dict[str, list[_Block]] = {}
  for kernel, place in places.items():
    for adapter in low_rank:
      if leaves.acts(adapter, kernel):
        by_module.setdefault(place.module, []).append((kernel, place, adapter))
  arrays, ranks, scales, blocks = {}, {}, {}, {}
  for module, mine in by_module.items():
    at = f"{peft_modules.BEFORE}{module}."
    arrays[f"{at}lora_A.weight"], arrays[f"{at}lora_B.weight"] = _factors(mine, params)
    if low_rank[0].dora:
      arrays[f"{at}lora_magnitude_vector"] = _magnitudes(module, mine, places, params)
    ranks[module] = sum(adapter.rank for _, _, adapter in mine)
    scales[module] = mine[0][2].scale
    blocks[module] = _rows(mine)
  safetensors.write_file(folder / peft_modules.WEIGHTS, arrays, {
      "format": "pt", peft_modules.BLOCKS: json.dumps(blocks)})
  turned = any(mine[0][1].turned for mine in by_module.values())
  task = ("SEQ_2_SEQ_LM" if isinstance(model, config_lib.EncoderDecoder)
          else "CAUSAL_LM")
  _write_config(folder, adapters, ranks, scales, {
      "base_model_name_or_path": base, "fan_in_fan_out": not turned, "task_type": task})
  return (f"Adapters of low rank for {family.name}, {len(arrays)} tensors.",)


# Blocks on top of each other in A and beside each other in B add up in their product: B
# A is the sum of the blocks' own products. Rows of B outside a kernel stay zero, so a
# block changes nothing but its kernel. Where scales differ, B takes up the difference.
def _factors(mine: Sequence[_Block], params) -> tuple[np.ndarray, np.ndarray]:
  """A and B of a module: a block for each kernel in it, one after the other."""
  scale, (inputs, outputs) = mine[0][2].scale, mine[0][1].shape
  parts_a, parts_b = [], []
  for kernel, place, adapter in mine:
    leaf = lambda part, adapter=adapter, kernel=kernel: np.asarray(
        params[adapter.leaf(kernel, part)], np.float32)
    a = np.zeros((adapter.rank, inputs), np.float32)
    b = np.zeros((outputs, adapter.rank), np.float32)
    a[:, place.inputs] = leaf("a").reshape(-1, adapter.rank).T
    b[place.outputs] = leaf("b").reshape(adapter.rank, -1).T
    if adapter.scale != scale:  # A module has one.
      b *= adapter.scale / scale
    parts_a.append(a)
    parts_b.append(b)
  return np.concatenate(parts_a), np.concatenate(parts_b, axis=1)


# PEFT stores the norms themselves and we their difference from the kernel's, so norms
# are added, and columns without an adapter get the norms that they have.
def _magnitudes(module, mine: Sequence[_Block], places, params) -> np.ndarray:
  """DoRA: the norms of all outputs of a module, those that were not adapted too."""
  found = np.zeros(mine[0][1].shape[1], np.float32)
  learned = {kernel: adapter for kernel, _, adapter in mine}
  for kernel, place in places.items():
    if place.module == module:
      value = np.asarray(params[kernel], np.float32).reshape(len(place.inputs), -1)
      norms = np.asarray(calls.norms(value))
      if kernel in learned:
        norms = norms + np.asarray(
            params[learned[kernel].leaf(kernel, "magnitude")]).reshape(-1)
      found[place.outputs] = norms
  return found


def _rows(mine: Sequence[_Block]) -> dict[str, tuple[int, int]]:
  """First and last row of A of each kernel; several adapters of one are one block."""
  found, end = {}, 0
  for kernel, _, adapter in mine:
    first, _ = found.get(kernel, (end, end))
    end += adapter.rank
    found[kernel] = (first, end)
  return found


# The first module's rank and alpha stand for all, and the patterns name those that have
# others. rsLoRA's root is already in alpha, so `use_rslora` is False.
def _write_config(folder, adapters, ranks, scales, fields) -> None:
  rank = next(iter(ranks.values()))
  alpha = next(iter(scales.values())) * rank
  alphas = {module: scales[module] * ranks[module] for module in ranks}
  fields = fields | {
      "peft_type": "LORA", "bias": "none", "inference_mode": True, "r": rank,
      "lora_alpha": alpha, "lora_dropout": adapters[0].dropout,
      "target_modules": list(ranks), "use_rslora": False,
      "use_dora": adapters[0].dora,
      "rank_pattern": {m: r for m, r in ranks.items() if r != rank},
      "alpha_pattern": {m: a for m, a in alphas.items() if a != alpha}}
  (folder / peft_modules.CONFIG).write_text(
      json.dumps(fields, indent=2, sort_keys=True) + "\n")
