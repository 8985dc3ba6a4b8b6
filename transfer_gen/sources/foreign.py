"""Checkpoints of other frameworks as sources: our names, our axes, their sizes.

`MAPS` lists what ships. A user's own map is a JSON file:

    {"model": {"family": "Recurrent", "vocab_size": 65, ...},
     "lines": [{"target": "layer_(\\d+)/cell/bias", "source": "lstm.\\1.b",
                "layout": {"kind": "Unflatten", "dim": 0, "shape": [4, 128]}}],
     "unused": ["global_step"],
     "tokenizer": "a path beside the map, as Tokenizer.path"}

`model` as in a run's config.json; `lines` and `unused` are those of `mapped.Map`, with
a `layout` of `transfer.layouts` where numbers lie otherwise, as plans are written;
`unused` and `tokenizer` may be left out. `to_json` writes one from a map that ships.
Nothing in it runs.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import math
import typing
from typing import Any

from etils import epath

from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.formats import raw as raw_lib
from transfer_gen.maps import architecture
from transfer_gen.maps import bart
from transfer_gen.maps import basic_lstm
from transfer_gen.maps import gemma
from transfer_gen.maps import gpt2
from transfer_gen.maps import gpt_neox
from transfer_gen.maps import keras_seq2seq
from transfer_gen.maps import keras_stack
from transfer_gen.maps import llama
from transfer_gen.maps import llama2c
from transfer_gen.maps import mapped
from transfer_gen.maps import marian
from transfer_gen.maps import opt
from transfer_gen.maps import t5
from transfer_gen.maps import textgenrnn
from transfer_gen.models import registry
from transfer_gen.transfer import plan as plan_lib

# The first that recognizes a checkpoint has it.
MAPS = (basic_lstm.MAP, textgenrnn.MAP, keras_seq2seq.MAP, keras_stack.MAP, gpt2.MAP,
        opt.MAP, gpt_neox.MAP, llama.MAP, gemma.MAP, t5.MAP, bart.MAP, marian.MAP,
        llama2c.MAP)
REFUSE, REPAIR = "refuse", "repair"
_FIELDS = {"model", "lines", "unused", "tokenizer"}
_LAYERS = ("num_layers", "encoder_layers")
_SIZES = ("width", "num_heads", "num_kv_heads", "head_dim", "rotary_dim",
          "sinusoid_width", "relative_buckets")


class Foreign(mapped.Mapped):
  """A checkpoint of another framework under our names; see `mapped.Mapped`.

  Attributes:
    path: Where it is.
    map: Name or path of the map.
    model: Config of the model of ours that computes the same.
    tokenizer: Of its ids; None where nothing lies beside it.
    notes: What was repaired, or why there is no tokenizer, a sentence each.
    how: The map's lines.
    state: {}; an optimiser's state is never read.
  """

  def __init__(
      self, raw: raw_lib.Raw, name: str, model: Any, how: mapped.Map,
      tokenizer: tokenizers.Tokenizer | None, notes: Sequence[str] = ()):
    _check_types(raw, model)
    _check_sizes(raw, model)
    with _understood(raw, f"model of map {name}"):
      specs = registry.specs(registry.build(model))
    super().__init__(raw, how, specs, registry.constants(model))
    self.path, self.map, self.model, self.how = raw.path, name, model, how
    self.tokenizer, self.notes, self.state = tokenizer, tuple(notes), {}

  @property
  def title(self) -> str:
    """One line for people."""
    return f"{self.raw.title}, through the map {self.map}"


def view(
    raw: raw_lib.Raw, name: str = "", vocabulary: str = REFUSE) -> Foreign:
  """Sees a checkpoint as a source of ours; reads no array.

  Args:
    raw: From `sources.open`.
    name: Of one of `MAPS`, or the path of a map file. "": found out.
    vocabulary: `refuse` or `repair` one with damaged or doubled entries; what is
      repaired is logged, entry by entry.

  Raises:
    errors.UserError: If there is no such map, none recognizes the checkpoint, its
      config asks for what no model here has, or the map does not fit.
  """
  if vocabulary not in (REFUSE, REPAIR):
    raise errors.UserError(
        f"source.vocabulary is {vocabulary!r}, must be {REFUSE!r} or {REPAIR!r}.")
  if name.endswith(".json"):
    return _by_file(raw, epath.Path(name).expanduser())
  chosen = _chosen(raw, name)
  with _understood(raw, chosen.what):
    model = chosen.model(raw)
    how = chosen.lines(raw, model)
    found = chosen.tokenizer(raw, model, vocabulary == REPAIR)
  tokenizer, notes = (None, ()) if found is None else found
  what = "no tokenizer" if tokenizer is None else "vocabulary repaired"
  for note in notes:
    logging.getLogger(__name__).warning("%s: %s: %s", raw.path, what, note)
  return Foreign(raw, chosen.name, model, how, tokenizer, notes)


def to_json(source: Foreign) -> dict[str, Any]:
  """A map file's contents, to begin one's own with; the tokenizer is left out."""
  on = plan_lib.On(axis="", map=source.how)
  plan = plan_lib.to_json(plan_lib.TransferPlan(rules=(), groups=(), axes=(on,)))
  how = plan["axes"][0]["map"]
  return {"model": codec.of_model(source.model),
          "lines": [{k: v for k, v in line.items() if k != "kind"}
                    for line in how["lines"]],
          "unused": how.get("unused", [])}


@contextlib.contextmanager
def _understood(raw: raw_lib.Raw, what: str) -> Iterator[None]:
  """A config that is malformed, where a map reads it, is the checkpoint's fault."""
  try:
    yield
  except errors.UserError:
    raise
  except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
          ValueError) as error:
    raise errors.UserError(
        f"{raw.path}: what lies there does not make sense ({what}):"
        f" {type(error).__name__}: {str(error)[:200]}.") from error


def _chosen(raw: raw_lib.Raw, name: str) -> architecture.Architecture:
  known = "\n".join(f"  {entry.name}: {entry.what}" for entry in MAPS)
  if name:
    found = [entry for entry in MAPS if entry.name == name]
    if not found:
      raise errors.UserError(
          f"There is no map {name!r}. Give the path of a .json file, or one"
          f" of\n{known}")
    return found[0]
  with _understood(raw, raw.kind):
    found = [entry for entry in MAPS if entry.recognizes(raw)]
  if not found:
    raise errors.UserError(
        f"{raw.path}: a {raw.kind}, and no map recognizes it. Its config file must lie"
        f" beside it; or name a map of your own (.json). There are\n{known}")
  return found[0]


def _check_types(raw: raw_lib.Raw, model: Any) -> None:
  """What a checkpoint or a map file says of a model may be of any type."""
  for field in dataclasses.fields(model):
    value = getattr(model, field.name)
    wanted = typing.get_origin(field.type) or field.type
    parts = value if isinstance(value, tuple) else (value,)
    inner = (typing.get_args(field.type) or (field.type,))[0]
    known = (int, float) if inner is float else (inner,)
    if not (isinstance(value, tuple) == (wanted is tuple)
            and all(type(part) in known for part in parts)):
      raise errors.UserError(
          f"{raw.path}: model.{field.name} would be {value!r:.60}, must be of type"
          f" {wanted.__name__}.")


def _check_sizes(raw: raw_lib.Raw, model: Any) -> None:
  """A few bytes may claim any size, and what is built from it takes as much memory."""
  largest = max((math.prod(spec.shape) for spec in raw.specs.values()), default=0)
  for names, most, what in ((_LAYERS, len(raw.specs), "tensors"),
                            (_SIZES, largest, "numbers in its largest tensor")):
    for name in names:
      if (value := getattr(model, name, 0)) > most:
        raise errors.UserError(
            f"{raw.path}: model.{name} would be {value}, and the checkpoint has {most}"
            f" {what}.")


def _by_file(raw: raw_lib.Raw, path: epath.Path) -> Foreign:
  """Through a user's own map."""
  if not path.is_file():
    raise errors.UserError(f"source.map: there is no {path}.")
  with raw_lib.malformed(path, "map"):
    data = raw_lib.read_json(path)
    if unknown := data.keys() - _FIELDS:
      raise errors.UserError(f"{', '.join(sorted(unknown))} is no part of a map.")
    if missing := {"model", "lines"} - data.keys():
      raise errors.UserError(f"it has no {' and no '.join(sorted(missing))}.")
    model = codec.to_model(data["model"])
    how = _lines(data["lines"], data.get("unused", []))
    tokenizer = None
    if "tokenizer" in data:
      tokenizer = tokenizers.load(path.parent / data["tokenizer"])
  return Foreign(raw, str(path), model, how, tokenizer)


def _lines(lines: Sequence[Mapping[str, Any]], unused: Sequence[str]) -> mapped.Map:
  """The map that a plan holds in this form, see `to_json`."""
  how = {"kind": "Map", "lines": [{**line, "kind": "Line"} for line in lines],
         "unused": unused}
  plan = plan_lib.from_json(
      {"rules": [], "groups": [], "axes": [{"axis": "", "map": how}]})
  how = plan.axes[0].map
  for index, line in enumerate(how.lines):
    if not line.sources or not all(isinstance(s, str) for s in line.sources):
      raise errors.UserError(f"line {index} ({line.target!r}) reads nothing.")
    if not callable(line.layout):
      raise errors.UserError(f"line {index} ({line.target!r}): {line.layout!r} is no"
                             " layout.")
  return how
