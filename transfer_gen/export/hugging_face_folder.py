"""Writes a Transformer as a folder that Hugging Face Transformers loads."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen.export import hugging_face_arrays
from transfer_gen.export import hugging_face_tokenizer
from transfer_gen.export import merged
from transfer_gen.formats import whole
from transfer_gen.maps import architecture
from transfer_gen.maps import hugging_face
from transfer_gen.maps import shipped

_WRITTEN = "Its architecture there: {}."
# Special tokens stand in both: models read `config.json`, and their `generate` reads
# `generation_config.json`.
_CONFIGS = ("config.json", "generation_config.json")
_ROLES = ("bos", "eos", "pad")
_TABLE = "embed/embedding"


def write(
    folder: epath.Path,
    model: config_lib.Decoder,
    params: Mapping[str, Any],
    tokenizer: hugging_face_tokenizer.Tokenizer | None = None,
    name: str = "",
    decoding: config_lib.Decoding | None = None,
    dtype: str = "float32",
) -> tuple[str, ...]:
  """Writes weights, config.json, generation_config.json and the tokenizer.

  Args:
    folder: Where to; it is there and empty.
    model: Config of the model, with the size of its vocabulary.
    params: Its leaves by name.
    tokenizer: Of its ids.
    name: Of the family. "": the first that can hold the model.
    decoding: How the model writes texts. If None, as Transformers does by default.
    dtype: Name of the dtype that the leaves are rounded to.

  Returns:
    Sentences on what was written, and on what could not be.

  Raises:
    errors.UserError: If no family of that name can hold the model; with the fields.
  """
  roles = tokenizer.roles if tokenizer is not None else {}
  # -1 means the tokenizer's bos here, and Transformers wants a number.
  if isinstance(model, config_lib.EncoderDecoder) and model.start_token == -1:
    model = dataclasses.replace(model, start_token=roles.get("bos", -1))
  model, params, apart = hugging_face_arrays.unshared(model, params)
  family, fields = shipped.family_of(model, name)
  hugging_face.check_padding(fields, roles)
  rounded = hugging_face_arrays.write(
      folder, family, model, params, dict.fromkeys(params, np.dtype(dtype)))
  ids = {f"{role}_token_id": roles.get(role) for role in _ROLES}
  if isinstance(model, config_lib.EncoderDecoder):
    ids["decoder_start_token_id"] = model.start_token
  written = {} if decoding is None else hugging_face.generation_fields(decoding)
  # Where several tokens end a text, both files of a language model list them; in the
  # config of a pair, models of Transformers compare tokens with the one.
  ends = {"eos_token_id": written["eos_token_id"]} if (
      "eos_token_id" in written and isinstance(model, config_lib.Decoder)
      and not isinstance(model, config_lib.EncoderDecoder)) else {}
  # What the family wrote is part of what the model computes: a RoBERTa counts positions
  # by its padding token.
  fields |= {"dtype": dtype}
  for file, data in zip(_CONFIGS, (ids | fields | ends, ids | written)):
    whole.write_json(folder / file, data)
  notes = hugging_face_tokenizer.write(folder, model, tokenizer)
  return (_WRITTEN.format(family.name), *rounded, *apart, *notes)


def came_from_there(source: merged.Source) -> bool:
  """Whether a source is a folder of Transformers, read through one of its maps."""
  return shipped.writes_back(source.view)


# Each leaf is written in the dtype that it had, so a checkpoint of bfloat16 does not
# double in size. The files beside it are copied as bytes: what no field of ours stands
# for, such as chat templates, is kept. Those of a model that combined ours with others
# would describe parts that are not written, so new ones are made.
def write_back(
    folder: epath.Path, source: merged.Source, params: Mapping[str, Any],
    dtype: str = "",
) -> tuple[str, ...]:
  """The same for a checkpoint that came from there: its own files go along.

  Args:
    folder: Where to; it is there and empty.
    source: The checkpoint, through a map of one of `shipped.FAMILIES`.
    params: Its leaves by our names; each is written in the dtype that it had.
    dtype: Name of another dtype, for all leaves.

  Returns:
    As `write`.
  """
  view = source.view
  assert view is not None and isinstance(source.model, config_lib.Decoder)
  raw: Any = view.raw  # A file of Transformers: it has a path and facts too.
  assert shipped.writes_back(view), "only what came from there goes back as it was"
  family = next(family for family in shipped.FAMILIES if family.name == view.name)
  # The files say of others, or that blocks are shared, which not all versions do.
  if hugging_face.type_of(raw) in family.inside or getattr(
      source.model, "shared", False):
    return write(folder, source.model, params, source.tokenizer, family.name,
                 dtype=dtype or "float32")
  dtypes = {name: np.dtype(dtype) if dtype
            else view.raw.specs[row.sources[0]].dtype
            for name, row in view.rows.items()}
  # A model without its head may have been saved with a prefix that is not written.
  table = view.rows[_TABLE].sources
  written = next(line.sources for line in hugging_face.lines(
      family, source.model).lines if line.target == _TABLE)
  kept = shipped.kept(view) if table == written else []
  left = () if kept else merged.left_out(source)
  rounded = hugging_face_arrays.write(
      folder, family, source.model, params, dtypes,
      {name: np.asarray(value) for name, value in raw.read(kept)})
  for file in (*_CONFIGS, *hugging_face.FILES):
    if path := architecture.beside(raw, file):
      (folder / file).write_bytes(architecture.read_bytes(path))
  if dtype:
    _name_dtype(folder / _CONFIGS[0], dtype)
  notes = () if source.tokenizer else (merged.NO_TOKENIZER,)
  return (_WRITTEN.format(family.name), *left, *rounded, *notes)


# Transformers loads a model in the dtype that its config names, whatever the file has.
def _name_dtype(path: epath.Path, dtype: str) -> None:
  """Names a dtype in a `config.json`, and in the configs of sides in it."""
  def named(fields: dict[str, Any], always: bool) -> dict[str, Any]:
    fields = {name: named(value, False) if isinstance(value, dict) else value
              for name, value in fields.items()}
    # Its name up to version 4, and the one since.
    old = {name: dtype for name in ("torch_dtype", "dtype") if name in fields}
    return fields | (old or ({"dtype": dtype} if always else {}))
  if path.exists():
    whole.write_json(path, named(architecture.read_json(path), True))
