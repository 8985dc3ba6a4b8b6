r"""A user's own map from a foreign checkpoint to a model of ours, as a JSON file.

    {"model": {"family": "Recurrent", "vocab_size": 65, ...},
     "lines": [{"target": "layer_(\\d+)/cell/bias", "source": "lstm.\\1.b",
                "layout": {"kind": "Unflatten", "dim": 0, "shape": [4, 128]}}],
     "unused": ["global_step"],
     "tokenizer": "tokenizer.json"}

`model` is written as in a run's config.json. `lines` and `unused` are those of
`mapped.Map`; a line has a `layout` of `maps.layouts`, written as plans are, where the
numbers are arranged in another way. `unused` and `tokenizer` (a path relative to the
file, as `Tokenizer.path`) may be left out. Nothing in the file runs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.maps import architecture
from transfer_gen.sources import source as source_lib
from transfer_gen.transfer import plan_json

_FIELDS = {"model", "lines", "unused", "tokenizer"}


def read(
    path: epath.Path
) -> tuple[source_lib.Model, architecture.Map, tokenizers.Tokenizer | None]:
  r"""Reads a map file.

  Returns:
    Config of the model, lines of the map, and the tokenizer, if the file names one.

  Raises:
    errors.UserError: If there is no such file or it is malformed.

  Example:
    >>> import json, tempfile
    >>> from etils import epath
    >>> path = epath.Path(tempfile.mkdtemp()) / "map.json"
    >>> _ = path.write_text(json.dumps({
    ...     "model": {"family": "Recurrent", "vocab_size": 3},
    ...     "lines": [{"target": "head/(.*)", "source": r"out.\1"}],
    ...     "unused": ["global_step"]}))
    >>> model, how, tokenizer = read(path)
    >>> type(model).__name__, model.vocab_size, tokenizer
    ('Recurrent', 3, None)
    >>> how.lines[0].target, how.unused
    ('head/(.*)', ('global_step',))
  """
  if not path.is_file():
    raise errors.UserError(f"source.map: there is no {path}.")
  # Everything below reads what a person wrote, so that any KeyError or TypeError is
  # reported as a mistake in this file.
  with architecture.malformed(path, "map"):
    data = architecture.read_json(path)
    # A misspelled field would otherwise be dropped in silence, as `unsued` would.
    if unknown := data.keys() - _FIELDS:
      raise errors.UserError(f"{', '.join(sorted(unknown))} is no part of a map.")
    if missing := {"model", "lines"} - data.keys():
      raise errors.UserError(f"it has no {' and no '.join(sorted(missing))}.")
    model = codec.model_from_json(data["model"])
    how = _lines(data["lines"], data.get("unused", []))
    tokenizer = None
    if "tokenizer" in data:
      tokenizer = tokenizers.load(path.parent / data["tokenizer"])
  return model, how, tokenizer


# A file that starts from the map of a known architecture is edited more easily than one
# written anew. The tokenizer's path is not known to the source, only what was read.
def to_json(source: source_lib.Source) -> dict[str, Any]:
  r"""Returns the contents of a map file, to start one's own map from.

  The tokenizer is left out.

  Args:
    source: A checkpoint of another framework that was opened through a map.

  Example:
    >>> import json, tempfile
    >>> from etils import epath
    >>> import numpy as np
    >>> from transfer_gen import config, sources
    >>> from transfer_gen.models import registry
    >>> model = config.Recurrent(
    ...     vocab_size=3, embed_width=2, hidden_width=2, num_layers=1)
    >>> folder = epath.Path(tempfile.mkdtemp())
    >>> specs = registry.specs(registry.build(model))
    >>> np.savez(folder / "model.npz", **{
    ...     f"net/{name}": np.zeros(spec.shape, spec.dtype)
    ...     for name, spec in specs.items()})
    >>> _ = (folder / "map.json").write_text(json.dumps({
    ...     "model": {"family": "Recurrent", "vocab_size": 3, "embed_width": 2,
    ...               "hidden_width": 2, "num_layers": 1},
    ...     "lines": [{"target": "(.*)", "source": r"net/\1"}]}))
    >>> source = sources.open(
    ...     folder / "model.npz", map_name=str(folder / "map.json"))
    >>> to_json(source)["lines"][0]["target"]
    '(.*)'
  """
  assert source.view is not None and source.model is not None  # It has a map.
  # The form in which plans hold what they are made of.
  how = plan_json.encode(source.view.how)
  return {"model": codec.model_to_json(source.model),
          "lines": [{k: v for k, v in line.items() if k != "kind"}
                    for line in how["lines"]],
          "unused": how.get("unused", [])}


def _lines(
    lines: Sequence[Mapping[str, Any]], unused: Sequence[str]) -> architecture.Map:
  """The map that has this form, see `to_json`."""
  # The parser of plans is used again, so that a layout is written in one way in both
  # files.
  how = plan_json.decode(
      {"kind": "Map", "lines": [{**line, "kind": "Line"} for line in lines],
       "unused": unused}, {})
  assert isinstance(how, architecture.Map)  # As its kind says.
  for index, line in enumerate(how.lines):
    if not line.sources or not all(isinstance(s, str) for s in line.sources):
      raise errors.UserError(f"line {index} ({line.target!r}) reads nothing.")
    if not callable(line.layout):
      raise errors.UserError(f"line {index} ({line.target!r}): {line.layout!r} is no"
                             " layout.")
  return how
