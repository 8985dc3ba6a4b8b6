"""Which map reads a checkpoint of another framework, and what the map says of it."""

from collections.abc import Callable
import dataclasses
from typing import Any

from etils import epath

from transfer_gen.maps import architecture
from transfer_gen.maps import shipped
from transfer_gen.sources import amended
from transfer_gen.sources import map_file
from transfer_gen.sources import source as source_lib

Raw = architecture.Raw


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
  """What a map makes of a checkpoint, before anything is compared.

  Attributes:
    raw: The checkpoint, with the names that the map's file gives its leaves.
    name: Name of the map; its path, if the file has a model or lines of its own.
    files: Name of the shipped map whose files lie beside the checkpoint, or "".
    model: Config of our model that computes the same.
    how: Where its leaves lie.
    tokenizer_fn: Takes whether to repair; returns what `Architecture.tokenizer` does.
  """
  raw: architecture.Raw
  name: str
  files: str
  model: source_lib.Model
  how: architecture.Map
  tokenizer_fn: Callable[[bool], tuple[Any, tuple[str, ...]] | None]


# What a map's own code raises on a malformed config is reported as a fault of the
# checkpoint, since its files and not the user's settings are wrong then.
def read(raw: architecture.Raw, name: str = "") -> Read:
  """Reads the map of a checkpoint, and by it the checkpoint's config.

  Args:
    raw: The checkpoint under its own names.
    name: Name of a map that ships, or path of a map file. If empty, it is detected.

  Raises:
    errors.UserError: If there is no such map, none recognizes the checkpoint, or its
      config asks for what no model here has.
  """
  # A path wins over a name: no shipped map has a name that ends in .json.
  if not name.endswith(".json"):
    return _shipped(raw, shipped.choose(raw, name))
  given = map_file.read(epath.Path(name).expanduser())
  raw = amended.renamed(raw, given.renamed)
  if given.base:
    base = shipped.choose(raw, "" if given.base == map_file.DETECT else given.base)
    found = _shipped(raw, base, given.model, given.lines)
    if given.model is not None or given.lines is not None:
      found = dataclasses.replace(found, name=name)
  else:
    assert given.model is not None and given.lines is not None  # As `read` checks.
    found = Read(raw=raw, name=name, files="", model=given.model, how=given.lines,
                 tokenizer_fn=lambda repair: None)
  if given.tokenizer is not None:
    found = dataclasses.replace(
        found, tokenizer_fn=lambda repair: (given.tokenizer, ()))
  return dataclasses.replace(found, how=dataclasses.replace(
      found.how, unused=(*found.how.unused, *given.unused)))


def _shipped(
    raw: architecture.Raw, chosen: architecture.Architecture,
    model: source_lib.Model | None = None, how: architecture.Map | None = None) -> Read:
  """Reads a shipped map; a model or lines that are given take the place of its own."""
  with architecture.understood(raw, chosen.what):
    model = chosen.model(raw) if model is None else model
    how = chosen.lines(raw, model) if how is None else how
  return Read(raw=raw, name=chosen.name, files=chosen.name, model=model, how=how,
              tokenizer_fn=lambda repair: _understood(raw, chosen, model, repair))


def _understood(raw, chosen, model, repair):
  with architecture.understood(raw, chosen.what):
    return chosen.tokenizer(raw, model, repair)
