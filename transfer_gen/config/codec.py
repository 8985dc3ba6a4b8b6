"""Conversion of configs to JSON types and back, as in the config.json of a workdir."""

import dataclasses
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sealed
from transfer_gen.config import adapters as config_adapters
from transfer_gen.config import declare, validate

Run, Adapter = config_lib.Run, config_adapters.Adapter
Decoding = config_lib.Decoding
Model = config_lib.Decoder | config_lib.Recurrent | config_lib.Sketch
CONFIG = "config.json"  # In a workdir.
DATA = "data.json"  # What the run read; a converted checkpoint has none.
_PARTS = {
    "data": config_lib.Data, "tokenizer": config_lib.Tokenizer,
    "encoder_tokenizer": config_lib.Tokenizer, "optim": config_lib.Optim,
    "objective": config_lib.Objective, "distill": config_lib.Distill,
    "train": config_lib.Train, "parallel": config_lib.Parallel,
    "source": config_lib.Source, "strategy": config_lib.Strategy,
    "features": config_lib.Features, "decoding": config_lib.Decoding}

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
  return _plain({**fields, "model": model_to_json(run.model),
                 "adapters": [adapter_to_json(adapter) for adapter in run.adapters]})


# Files of earlier versions lack fields that came later, which then have their defaults.
def run_from_json(data: Any) -> config_lib.Run:
  """Returns the run that `run_to_json` converted.

  Raises:
    errors.UserError: If a field is unknown, as in files of another version, or has a
      value that it does not declare.
  """
  _check_object(data, "config")
  if "model" not in data:
    raise errors.UserError("config has no field model, which every run has.")
  values: dict[str, Any] = {**data, "model": _model(data["model"])}
  values["data"] = _data(data.get("data", {}))
  for name, kind in _PARTS.items():
    # None stays None: it says that a run has no such part, unlike a part of defaults.
    if values.get(name) is not None:
      values[name] = _part(kind, values[name], f"config.{name}")
  if isinstance(values.get("sources"), dict):
    values["sources"] = {
        name: _part(config_lib.Source, source, f"config.sources[{name!r}]")
        for name, source in values["sources"].items()}
  if isinstance(values.get("adapters"), (list, tuple)):
    values["adapters"] = tuple(map(adapter_from_json, values["adapters"]))
  run = _part(config_lib.Run, values, "config")
  validate.check(run)
  return run


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
  with sealed.damaged(path):
    return run_from_json(data)


# All fields are written, those with their defaults too: a default that changes later
# does not change what a stored model is.
def model_to_json(model: Model) -> dict[str, Any]:
  """Returns a model's config as JSON types."""
  return {"family": type(model).__name__, **{
      _STORED.get(name, name): _plain(value)
      for name, value in dataclasses.asdict(model).items()}}


def model_from_json(data: Any) -> Model:
  """Returns the model that `model_to_json` converted.

  Raises:
    errors.UserError: If its family or a field is unknown, or a field has a value that
      it does not declare.
  """
  model = _model(data)
  validate.check(model, "model")
  return model


def to_code(value: Any) -> str:
  """Returns a model, or another part of a run, as Python that `eval` reads again.

  Fields at their defaults are left out. What the code needs is the name `config`.

  >>> to_code((config_lib.Optim(lr=0.1), {"name": 1}))
  "(config.Optim(lr=0.1), {'name': 1})"
  """
  if dataclasses.is_dataclass(value):
    fields = ", ".join(
        f"{field.name}={to_code(getattr(value, field.name))}"
        for field in dataclasses.fields(value)
        if getattr(value, field.name) != _default(field))
    return f"config.{type(value).__name__}({fields})"
  if isinstance(value, dict):
    return f"{{{', '.join(f'{key!r}: {to_code(one)}' for key, one in value.items())}}}"
  if isinstance(value, tuple):
    return f"({', '.join(map(to_code, value))}{',' * (len(value) == 1)})"
  return repr(value)


def adapter_to_json(adapter: config_adapters.Adapter) -> dict[str, Any]:
  """Returns an adapter as JSON types."""
  return {"kind": type(adapter).__name__, **dataclasses.asdict(adapter)}


def adapter_from_json(data: Any) -> config_adapters.Adapter:
  """Returns the adapter that `adapter_to_json` converted.

  Raises:
    errors.UserError: If its kind or a field is unknown, or a field has a value that it
      does not declare.
  """
  _check_object(data, "An adapter")
  kinds = {kind.__name__: kind for kind in config_adapters.KINDS}
  fields = dict(data)
  kind = fields.pop("kind", None)
  if not isinstance(kind, str) or kind not in kinds:
    raise errors.UserError(
        f"An adapter's kind is {declare.shown(kind)}, must be one of"
        f" {', '.join(kinds)}.")
  return _part(kinds[kind], fields, f"The adapter {kind}")


def _default(field: dataclasses.Field) -> Any:
  made = field.default_factory
  return field.default if made is dataclasses.MISSING else made()


def _data(fields: Any) -> dict[str, Any]:
  """Returns the fields of a data config; those of earlier versions mean what they did.

  There, two flags said what a document is, documents were split off by hash, pairs with
  an empty side were dropped, and each line was a document of its own in evaluation.
  """
  _check_object(fields, "config.data")
  # Once, the documents of a language model were always joined.
  fields = {"packing": "joined", **fields}
  if "unit" in fields:
    return fields
  left = {name: value for name, value in fields.items()
          if name not in ("whole_files", "paragraphs")}
  # The package's own data sets have all splits and neither empty nor equal inputs.
  if fields.get("name") in ("python_docs", "docstring_summary"):
    return left
  return {**left, "split": "hash", "drop_empty": True, "merge_references": False,
          "unit": ("file" if fields.get("whole_files") else
                   "paragraph" if fields.get("paragraphs") else "line")}


def _model(data: Any) -> Model:
  """Returns a model whose values are not checked yet."""
  _check_object(data, "model")
  families = {kind.__name__: kind for kind in (
      config_lib.Decoder, config_lib.Encoder, config_lib.EncoderDecoder,
      config_lib.Recurrent, config_lib.Sketch)}
  names = {stored: name for name, stored in _STORED.items()}
  fields = {names.get(name, name): value for name, value in data.items()}
  family = fields.pop("family", None)
  if not isinstance(family, str) or family not in families:
    raise errors.UserError(
        f"model.family is {declare.shown(family)}, must be one of"
        f" {', '.join(families)}.")
  if isinstance(fields.get("encoder"), dict):  # A truth value in a Recurrent.
    fields["encoder"] = _part(config_lib.Encoder, fields["encoder"], "model.encoder")
  return _part(families[family], fields, "model")


def _part(kind: type, data: Any, name: str) -> Any:
  """Returns a dataclass from its fields, which may be fewer than it has."""
  _check_object(data, name)
  names = [field.name for field in dataclasses.fields(kind)]
  for field in data:
    if field not in names:
      raise errors.UserError(
          f"{declare.unknown(name, field, names)} It is of another version, or was"
          " changed by hand.")
  # Parts of a part, such as the teacher of a distillation.
  inner = {field: found for field, hint in declare.hints(kind).items()
           for found, _ in declare.split(hint)
           if dataclasses.is_dataclass(found) and isinstance(data.get(field), dict)}
  return kind(**{
      field: _part(inner[field], value, f"{name}.{field}") if field in inner
      else _tuples(value) for field, value in data.items()})


def _check_object(data: Any, name: str) -> None:
  if not isinstance(data, dict):
    raise errors.UserError(
        f"{name} is {declare.shown(data)}, must be an object with its fields.")


def _tuples(value: Any) -> Any:
  # JSON has no tuples, and models must be hashable.
  return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
  """Returns JSON types; a config may hold NumPy's numbers, which are none."""
  if isinstance(value, dict):
    return {name: _plain(part) for name, part in value.items()}
  if isinstance(value, (list, tuple)):
    return type(value)(map(_plain, value))
  return value.tolist() if hasattr(value, "tolist") else value
