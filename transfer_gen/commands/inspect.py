"""`transfer-gen inspect`: lists the leaves of a checkpoint."""

import dataclasses
from typing import Any

from transfer_gen import config as config_lib
from transfer_gen import sources
from transfer_gen.commands import flags
from transfer_gen.run import assemble
from transfer_gen.transfer import table

_DETECT = "auto"


def run(values: flags.Values) -> None:
  """Prints the title, with a map also the model's config, and a line per leaf."""
  if values.map:
    source = assemble.open_source("", config_lib.Source(
        path=values.source, step=values.step, vocabulary=values.vocabulary,
        map="" if values.map == _DETECT else values.map))
  else:
    source = sources.open(values.source, values.step)
  print(source.title)
  if values.map and (model := getattr(source, "model", None)):
    print(f"model={_code(model)}")
  print(table.leaves(source.specs), end="")


def _code(model: Any) -> str:
  """Returns a model's config as Python, without the fields at their defaults."""
  fields = ", ".join(
      f"{field.name}={getattr(model, field.name)!r}"
      for field in dataclasses.fields(model)
      if getattr(model, field.name) != field.default)
  return f"config.{type(model).__name__}({fields})"
