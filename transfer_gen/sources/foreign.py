"""Checkpoints of other frameworks as sources: our names and axes, their sizes."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import logging
import math
import typing
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen import tree
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
from transfer_gen.sources import map_file
from transfer_gen.sources import source as source_lib

# The first that recognizes a checkpoint has it.
MAPS = (basic_lstm.MAP, textgenrnn.MAP, keras_seq2seq.MAP, keras_stack.MAP, gpt2.MAP,
        opt.MAP, gpt_neox.MAP, llama.MAP, gemma.MAP, t5.MAP, bart.MAP, marian.MAP,
        llama2c.MAP)
REFUSE, REPAIR = "refuse", "repair"
_LAYERS = ("num_layers", "encoder_layers")
_SIZES = ("width", "num_heads", "num_kv_heads", "head_dim", "rotary_dim",
          "sinusoid_width", "relative_buckets")


class Foreign(source_lib.Source):
  """A checkpoint of another framework under our names.

  Attributes:
    notes: A sentence for each repair of the vocabulary, or why there is no tokenizer.
  """

  def __init__(
      self, raw: raw_lib.Raw, name: str, model: source_lib.Model, how: mapped.Map,
      tokenizer: tokenizers.Tokenizer | None, notes: Sequence[str] = ()):
    """Relates names and compares shapes; reads no array.

    Args:
      raw: The checkpoint under its own names.
      name: Name or path of the map.
      model: Config of our model that computes the same.
      how: Lines of the map.
      tokenizer: Tokenizer of the model's ids, if one was found.
      notes: See the class.

    Raises:
      errors.UserError: If the map or the model does not fit the checkpoint.
    """
    _check_types(raw, model)
    _check_sizes(raw, model)
    with understood(raw, f"model of map {name}"):
      specs = registry.specs(registry.build(model))
    self._view = mapped.Mapped(raw, how, specs, name)
    self._model, self._tokenizer, self.notes = model, tokenizer, tuple(notes)

  @property
  def path(self) -> epath.Path:
    """File or folder that it was opened from."""
    return self._view.raw.path

  @property
  def title(self) -> str:
    """One line for people."""
    return f"{self._view.raw.title}, through the map {self._view.name}"

  @property
  def specs(self) -> Mapping[str, tree.Spec]:
    """Spec of each leaf of our model."""
    return self._view.specs

  @property
  def constants(self) -> Mapping[str, Any]:
    """Constants of our model."""
    return registry.constants(self._model)

  @property
  def model(self) -> source_lib.Model:
    """Config of our model that computes the same."""
    return self._model

  @property
  def tokenizer(self) -> tokenizers.Tokenizer | None:
    """Tokenizer that was found beside the checkpoint."""
    return self._tokenizer

  @property
  def view(self) -> mapped.Mapped:
    """Rows between the checkpoint's own names and ours."""
    return self._view

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in our dtype, placed where `shardings` says."""
    return self._view.read(names, shardings)


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
    return Foreign(raw, name, *map_file.read(epath.Path(name).expanduser()))
  chosen = _chosen(raw, name)
  with understood(raw, chosen.what):
    model = chosen.model(raw)
    how = chosen.lines(raw, model)
    found = chosen.tokenizer(raw, model, vocabulary == REPAIR)
  tokenizer, notes = (None, ()) if found is None else found
  what = "no tokenizer" if tokenizer is None else "vocabulary repaired"
  for note in notes:
    logging.getLogger(__name__).warning("%s: %s: %s", raw.path, what, note)
  return Foreign(raw, chosen.name, model, how, tokenizer, notes)


@contextlib.contextmanager
def understood(raw: raw_lib.Raw, what: str) -> Iterator[None]:
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
  with understood(raw, raw.kind):
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
