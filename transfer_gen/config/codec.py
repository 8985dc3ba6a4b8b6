"""Conversion of configs to JSON types and back, as in the config.json of a workdir."""

import dataclasses
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sealed
from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import models as config_models
from transfer_gen.config import validate

Run, Adapter = config_lib.Run, config_adapters.Adapter
Decoding = config_lib.Decoding
Model = config_lib.Decoder | config_lib.Recurrent
CONFIG = "config.json"  # In a workdir.

# Files keep the names that these fields had first, so that what earlier versions wrote
# can be read, and stored features, whose folder is named by a hash of the model's
# JSON, are found again.
_STORED = {"encoder_vocab_size": "source_vocab_size",
           "encoder_length": "source_length", "encoder_marks": "source_marks"}


def run_to_json(run: config_lib.Run) -> dict[str, Any]:
  """Returns a run as JSON types, without its plan, which `plan.json` holds."""
  # `asdict` copies values deeply, so the plan is taken out before and not after.
  fields: dict[str, Any] = {**dataclasses.asdict(
      dataclasses.replace(run, transfer=None))}
  del fields["transfer"]
  # `asdict` forgets which class a value had. Model and adapters are of several, so they
  # are written with its name.
  return {**fields, "model": model_to_json(run.model),
          "adapters": [adapter_to_json(adapter) for adapter in run.adapters]}


# Some fields are looked up by `get`, because files of earlier versions lack those that
# came later, which then have their defaults. A field that a dataclass does not have, as
# in a file of a later version, raises a TypeError.
def run_from_json(data: dict[str, Any]) -> config_lib.Run:
  """Returns the run that `run_to_json` converted.

  Raises:
    errors.UserError: If a field is unknown, as in files of another version.
  """
  parts: dict[str, Any] = {
      "data": config_lib.Data, "tokenizer": config_lib.Tokenizer,
      "encoder_tokenizer": config_lib.Tokenizer,
      "optim": config_lib.Optim, "train": config_lib.Train,
      "parallel": config_lib.Parallel, "source": config_lib.Source,
      "strategy": config_lib.Strategy, "decoding": config_lib.Decoding}
  values: dict[str, Any] = {**data, "model": model_from_json(data["model"])}
  values["data"] = _data(data["data"])
  try:
    values["sources"] = {name: config_lib.Source(**source)
                         for name, source in data.get("sources", {}).items()}
    values["adapters"] = tuple(map(adapter_from_json, data.get("adapters", ())))
    values["features"] = _part(config_lib.Features, data.get("features"))
    values["distill"] = _distill(data.get("distill"))
    fields: dict[str, Any] = {
        name: parts[name](**_tuples(value)) if name in parts and value is not None
        else value for name, value in values.items()}
    return config_lib.Run(**fields)
  except TypeError as error:
    raise errors.UserError(f"config.json is of another version: {error}.") from error


def read_run(workdir: epath.PathLike) -> config_lib.Run:
  """Returns the config of the run in a workdir.

  Raises:
    errors.UserError: If no run is there, or its config is damaged.
  """
  path = epath.Path(workdir) / CONFIG
  if not path.exists():
    raise errors.UserError(
        f"{workdir}: not the workdir of a run: it has no {CONFIG}. Train there first.")
  data = sealed.read_json(path)
  try:
    run = run_from_json(data)
    validate.check(run)
  except errors.UserError as error:
    raise errors.UserError(f"{path}: {error} {sealed.INSTEAD}") from error
  except (AttributeError, LookupError, TypeError, ValueError) as error:
    raise errors.UserError(
        f"{path}: it is damaged, or of another version ({type(error).__name__}:"
        f" {str(error)[:200]}). {sealed.INSTEAD}") from error
  return run


# All fields are written, those with their defaults too: a default that changes later
# does not change what a stored model is.
def model_to_json(model: config_models.Model) -> dict[str, Any]:
  """Returns a model's config as JSON types."""
  return {"family": type(model).__name__, **{
      _STORED.get(name, name): value
      for name, value in dataclasses.asdict(model).items()}}


def model_from_json(data: dict[str, Any]) -> config_models.Model:
  """Returns the model that `model_to_json` converted.

  Raises:
    errors.UserError: If its family or a field is unknown.
  """
  families = {kind.__name__: kind for kind in (
      config_lib.Decoder, config_lib.EncoderDecoder, config_lib.Recurrent)}
  names = {stored: name for name, stored in _STORED.items()}
  fields = {names.get(name, name): value for name, value in data.items()}
  family = fields.pop("family", None)
  if family not in families:
    raise errors.UserError(
        f"model.family is {family!r}, must be one of {', '.join(families)}.")
  try:
    return families[family](**_tuples(fields))
  except TypeError as error:
    raise errors.UserError(f"The model is of another version: {error}.") from error


def model_to_code(model: config_models.Model) -> str:
  """Returns a model's config as Python, without the fields at their defaults."""
  fields = ", ".join(
      f"{field.name}={getattr(model, field.name)!r}"
      for field in dataclasses.fields(model)
      if getattr(model, field.name) != field.default)
  return f"config.{type(model).__name__}({fields})"


def adapter_to_json(adapter: config_adapters.Adapter) -> dict[str, Any]:
  """Returns an adapter as JSON types."""
  return {"kind": type(adapter).__name__, **dataclasses.asdict(adapter)}


def adapter_from_json(data: dict[str, Any]) -> config_adapters.Adapter:
  """Returns the adapter that `adapter_to_json` converted.

  Raises:
    errors.UserError: If its kind is unknown.
    TypeError: If a field is unknown.
  """
  kinds = {kind.__name__: kind for kind in config_adapters.KINDS}
  fields = dict(data)
  kind = fields.pop("kind", None)
  if kind not in kinds:
    raise errors.UserError(
        f"An adapter's kind is {kind!r}, must be one of {', '.join(kinds)}.")
  return kinds[kind](**fields)


def _data(fields: dict[str, Any]) -> dict[str, Any]:
  """Returns the fields of a data config; those of earlier versions mean what they did.

  There, two flags said what a document is, documents were split off by hash, pairs with
  an empty side were dropped, and each line was a document of its own in evaluation.
  """
  # Once, the documents of a language model were always joined.
  fields = {"packing": "joined", **fields}
  if "unit" in fields:
    return fields
  left = {name: value for name, value in fields.items()
          if name not in ("whole_files", "paragraphs")}
  # The package's own data sets have all splits and neither empty nor equal inputs.
  if fields["name"] in ("python_docs", "docstring_summary"):
    return left
  return {**left, "split": "hash", "drop_empty": True, "merge_references": False,
          "unit": ("file" if fields.get("whole_files") else
                   "paragraph" if fields.get("paragraphs") else "line")}


# None stays None: it says that a run has no such part, unlike a part of defaults.
def _part(kind: type, data: dict[str, Any] | None) -> Any:
  return None if data is None else kind(**data)


def _distill(data: dict[str, Any] | None) -> config_lib.Distill | None:
  if data is None:
    return None
  fields: dict[str, Any] = {
      **data, "teacher": config_lib.Source(**data["teacher"]),
      "layers": tuple(map(tuple, data["layers"]))}
  return config_lib.Distill(**fields)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
  # JSON has no tuples, and models must be hashable.
  return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
