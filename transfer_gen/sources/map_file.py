r"""A user's own map from a foreign checkpoint to a model of ours, as a JSON file.

    {"model": {"family": "Recurrent", "vocab_size": 65, ...},
     "lines": [{"target": "layer_(\\d+)/cell/bias", "source": "lstm.\\1.b",
                "layout": {"kind": "Unflatten", "dim": 0, "shape": [4, 128]}}],
     "unused": ["global_step"],
     "tokenizer": "tokenizer.json"}

`model` is written as in a run's config.json. `lines`, `unused` and `copies` are those
of `mapped.Map`; a line has a `layout` of `maps.layouts`, written as plans are, where
the numbers are arranged in another way. `tokenizer` is a path relative to the file, as
`Tokenizer.path`. Nothing in the file runs.

With `map`, the name of a map that ships or `auto`, the file changes that map: what it
does not give is taken from there. `renamed` gives leaves the names that lines read:

    {"map": "gpt2", "renamed": {"(.*)/gamma": "\\1/weight", "(.*)/beta": "\\1/bias"}}
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.maps import architecture
from transfer_gen.sources import source as source_lib
from transfer_gen.transfer import plan_json

DETECT = "auto"  # Instead of the name of a map.
_FIELDS = {"map", "model", "lines", "unused", "copies", "renamed", "tokenizer"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
  """What a map file says.

  Attributes:
    base: Name of the map that it changes, `auto`, or "" if it stands alone.
    model: Config of the model; None takes that of the base.
    lines: Where leaves lie, with copies; None takes those of the base.
    unused: Regexes for leaves that are not needed, beside those of the base.
    renamed: New names of leaves, by regexes for their whole names.
    tokenizer: The tokenizer, if the file names one.
  """
  base: str
  model: source_lib.Model | None
  lines: architecture.Map | None
  unused: tuple[str, ...]
  renamed: Mapping[str, str]
  tokenizer: tokenizers.Tokenizer | None


def read(path: epath.Path) -> Contents:
  r"""Reads a map file.

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
    >>> found = read(path)
    >>> type(found.model).__name__, found.model.vocab_size, found.tokenizer
    ('Recurrent', 3, None)
    >>> found.lines.lines[0].target, found.unused
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
    missing = {"model", "lines"} - data.keys()
    if missing and not data.get("map"):
      raise errors.UserError(
          f"it has no {' and no '.join(sorted(missing))}, and no map that it changes.")
    return Contents(
        base=_text(data.get("map", ""), "map"),
        model=codec.model_from_json(data["model"]) if "model" in data else None,
        lines=_lines(data["lines"], data.get("copies", [])) if "lines" in data else (
            None),
        unused=tuple(_text(name, "unused") for name in data.get("unused", [])),
        renamed={name: _text(new, "renamed")
                 for name, new in dict(data.get("renamed", {})).items()},
        tokenizer=(tokenizers.load(path.parent / data["tokenizer"])
                   if "tokenizer" in data else None))


def _text(value: Any, field: str) -> str:
  if not isinstance(value, str):
    raise errors.UserError(f"{field} has {value!r:.60}, must be text.")
  return value


# A file that starts from the map of a known architecture is edited more easily than one
# written anew. With the map's name in it, the tokenizer is found as that map finds it.
def to_json(
    model: source_lib.Model, how: architecture.Map, base: str = "") -> dict[str, Any]:
  r"""Returns the contents of a map file, to start one's own map from.

  Args:
    model: Config of the model.
    how: Where its leaves lie.
    base: Name of the map that both come from. By default the file stands alone.

  Example:
    >>> from transfer_gen import config
    >>> how = architecture.Map(
    ...     lines=(architecture.Line(target="(.*)", source=r"net/\1"),))
    >>> to_json(config.Recurrent(vocab_size=3), how)["lines"]
    [{'target': '(.*)', 'source': 'net/\\1'}]
  """
  found = plan_json.encode(how)
  return {**({"map": base} if base else {}),
          "model": codec.model_to_json(model),
          "lines": [{k: v for k, v in line.items() if k != "kind"}
                    for line in found["lines"]],
          "unused": found.get("unused", []), "copies": found.get("copies", [])}


def _lines(
    lines: Sequence[Mapping[str, Any]], copies: Sequence[Sequence[str]]
) -> architecture.Map:
  """The map that is written in this form, see `to_json`."""
  how = plan_json.decode(
      {"kind": "Map", "lines": [{**line, "kind": "Line"} for line in lines],
       "copies": copies}, {})
  assert isinstance(how, architecture.Map)  # As its kind says.
  for index, line in enumerate(how.lines):
    if not line.sources or not all(isinstance(s, str) for s in line.sources):
      raise errors.UserError(f"line {index} ({line.target!r}) reads nothing.")
    if not callable(line.layout):
      raise errors.UserError(f"line {index} ({line.target!r}): {line.layout!r} is no"
                             " layout.")
  return how
