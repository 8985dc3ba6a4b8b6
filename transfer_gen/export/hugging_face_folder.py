"""Writes a Transformer as a folder that Hugging Face Transformers loads."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from etils import epath
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import sources
from transfer_gen.data import tokenizer_kinds
from transfer_gen.data import tokenizers
from transfer_gen.formats import safetensors
from transfer_gen.maps import architecture
from transfer_gen.maps import families
from transfer_gen.maps import hugging_face
from transfer_gen.maps import mapped
from transfer_gen.models import registry

NO_TOKENIZER = "No tokenizer lies beside it: none was written."
_WRITTEN = "Its architecture there: {}."
_CONFIGS = ("config.json", "generation_config.json")
_ROLES = ("bos", "eos", "pad")
_MARKS = {"eos": ((), ("eos",)), "both": (("bos",), ("eos",))}  # Around a source.


def write(
    folder: epath.Path,
    model: config_lib.Decoder,
    params: Mapping[str, Any],
    tokenizer: tokenizers.Tokenizer | None = None,
    name: str = "",
) -> tuple[str, ...]:
  """Writes weights, config.json, generation_config.json and the tokenizer.

  Args:
    folder: Where to; it is there and empty.
    model: Config of the model, with the size of its vocabulary.
    params: Its leaves by name.
    tokenizer: Of its ids.
    name: Of the family. "": the first that can hold the model.

  Returns:
    Sentences on what was written, and on what could not be.

  Raises:
    errors.UserError: If no family of that name can hold the model; with the fields.
  """
  roles = tokenizer.roles if tokenizer is not None else {}
  if isinstance(model, config_lib.EncoderDecoder) and model.start_token == -1:
    model = dataclasses.replace(model, start_token=roles.get("bos", -1))
  family, fields = families.family_of(model, name)
  _write_arrays(folder, family, model, params, {})
  ids = {f"{role}_token_id": roles.get(role) for role in _ROLES}
  if isinstance(model, config_lib.EncoderDecoder):
    ids["decoder_start_token_id"] = model.start_token
  for file, data in zip(_CONFIGS, (fields | ids, ids)):
    _write_json(folder / file, data)
  return (_WRITTEN.format(family.name), *_write_tokenizer(folder, model, tokenizer))


def write_back(
    folder: epath.Path, source: sources.Source, params: Mapping[str, Any]
) -> tuple[str, ...]:
  """The same for a checkpoint that came from there: its own files go along.

  Args:
    folder: Where to; it is there and empty.
    source: The checkpoint, through a map of one of `families.FAMILIES`.
    params: Its leaves by our names; each is written in the dtype that it had.

  Returns:
    As `write`.
  """
  view = source.view
  family = next(family for family in families.FAMILIES if family.name == view.name)
  if hugging_face.type_of(view.raw) in family.inside:  # Its files say of others.
    return write(folder, source.model, params, source.tokenizer, family.name)
  dtypes = {name: view.raw.specs[row.sources[0]].dtype
            for name, row in view.rows.items()}
  _write_arrays(folder, family, source.model, params, dtypes)
  for file in (*_CONFIGS, *hugging_face.FILES):
    if path := architecture.beside(view.raw, file):
      (folder / file).write_bytes(path.read_bytes())
  return (_WRITTEN.format(family.name), *(() if source.tokenizer else (NO_TOKENIZER,)))


def _write_arrays(folder, family, model, params, dtypes):
  specs = registry.specs(registry.build(model))
  how = hugging_face.lines(family, model)
  theirs = hugging_face.specs_before(how, specs, dtypes)
  rows = mapped.resolve(how, theirs, specs)
  arrays = mapped.export(
      rows, theirs, {name: np.asarray(params[name]) for name in specs})
  safetensors.write_file(folder / "model.safetensors", arrays, {"format": "pt"})


def _write_tokenizer(folder, model, tokenizer) -> tuple[str, ...]:
  """Its file, if it has one that Transformers reads, and what the roles are called."""
  if tokenizer is None:
    return (NO_TOKENIZER,)
  tokenizer.save(folder)
  (folder / tokenizer_kinds.KIND_FILE).unlink()
  if (folder / "source.spm").exists():
    return ()
  if (folder / "tokenizer.model").exists():
    if isinstance(model, config_lib.EncoderDecoder):  # As T5's is called.
      (folder / "tokenizer.model").rename(folder / "spiece.model")
    return ()
  if not (folder / "tokenizer.json").exists():
    return ("Transformers has no tokenizer of its kind: none was written.",)
  described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
  names = {token["id"]: token["content"] for token in described["added_tokens"]}
  marks = _MARKS.get(getattr(model, "source_marks", ""), ((), ()))
  known = {role: (names[index], index) for role, index in tokenizer.roles.items()
           if index in names}
  if any(role in known for side in marks for role in side):
    described["post_processor"] = _template(marks, known)
    _write_json(folder / "tokenizer.json", described)
  _write_json(folder / "tokenizer_config.json", {
      "tokenizer_class": "PreTrainedTokenizerFast",
      **{f"{role}_token": names[index] for role, index in tokenizer.roles.items()
         if index in names}})
  return ()


def _template(marks, known: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
  """What puts marks around a text, as tokenizer.json has it."""
  sequence = lambda name: {"Sequence": {"id": name, "type_id": 0}}
  before, behind = ([
      {"SpecialToken": {"id": known[role][0], "type_id": 0}}
      for role in side if role in known] for side in marks)
  return {
      "type": "TemplateProcessing", "single": [*before, sequence("A"), *behind],
      "pair": [*before, sequence("A"), *behind, sequence("B"), *behind],
      "special_tokens": {
          name: {"id": name, "ids": [index], "tokens": [name]}
          for name, index in (known[role] for side in marks for role in side
                              if role in known)}}


def _write_json(path: epath.Path, data: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
