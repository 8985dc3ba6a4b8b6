"""Checkpoints of other frameworks as sources: under our names, at their sizes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import logging
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen.maps import architecture
from transfer_gen.maps import mapped
from transfer_gen.maps import plausible
from transfer_gen.maps import shipped
from transfer_gen.models import registry
from transfer_gen.sources import chosen_map
from transfer_gen.sources import source as source_lib

# What people write as `config.Source.vocabulary`. A repair is a guess about somebody
# else's file, so it has to be asked for.
REFUSE, REPAIR, NONE = "refuse", "repair", "none"


class Foreign(source_lib.Source):
  """A checkpoint of another framework under our names.

  Attributes:
    notes: A sentence for each repair of the vocabulary, or why there is no tokenizer.
  """

  def __init__(
      self, raw: architecture.Raw, name: str, model: source_lib.Model, how: mapped.Map,
      tokenizer: source_lib.Tokenizer | None, notes: Sequence[str] = (),
      files: str = ""):
    """Relates names and compares shapes; reads no array.

    Args:
      raw: The checkpoint under its own names.
      name: Name or path of the map.
      model: Config of our model that computes the same.
      how: Lines of the map.
      tokenizer: Tokenizer of the model's ids, if one was found.
      notes: See the class.
      files: Name of the shipped map whose files lie beside the checkpoint. By default
        `name`.

    Raises:
      errors.UserError: If the map or the model does not fit the checkpoint.
    """
    # Sizes come from a file of strangers: claims that the file cannot hold are refused
    # before a model of that size is traced.
    specs = plausible.specs(raw, model, name)
    self._raw, self._view = raw, mapped.Mapped(raw, how, specs, name)
    self._model, self._tokenizer, self.notes = model, tokenizer, tuple(notes)
    self._files = files or name

  @property
  def path(self) -> epath.Path:
    """File or folder that it was opened from."""
    return self._raw.path

  @property
  def title(self) -> str:
    """One line for people."""
    return f"{self._raw.title}, through the map {self._view.name}"

  @property
  def specs(self) -> source_lib.Specs:
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
  def tokenizer(self) -> source_lib.Tokenizer | None:
    """Tokenizer that was found beside the checkpoint."""
    return self._tokenizer

  # When it is asked for: who only transfers from a checkpoint does not need it.
  @property
  def decoding(self) -> Any:
    """How texts are written, as its `generation_config.json` says."""
    return shipped.decoding(self._raw, self._files, self._model)

  @property
  def view(self) -> mapped.Mapped:
    """Rows between the checkpoint's own names and ours."""
    return self._view

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None,
      picks: source_lib.Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in our dtype, placed where `shardings` says."""
    return self._view.read(names, shardings, picks)


def view(
    raw: architecture.Raw, name: str = "", vocabulary: str = REFUSE,
    given_fn: Callable[[source_lib.Model], source_lib.Given] | None = None,
) -> Foreign:
  r"""Returns a checkpoint as a source under our names; reads no array.

  Args:
    raw: The checkpoint under its own names, as a function of `detect` opens it.
    name: Name of one of `MAPS`, or path of a map file. If empty, it is detected.
    vocabulary: Whether to `refuse` (the default) or to `repair` a vocabulary with
      damaged or duplicate entries, or more tokens than rows; each repair is logged. Or
      `none`, to read no vocabulary.
    given_fn: Returns the vocabulary that the user named for a model, which is taken in
      place of what lies beside the checkpoint.

  Raises:
    errors.UserError: If there is no such map, none recognizes the checkpoint, its
      config asks for what no model here has, or the map does not fit.

  Example:
    >>> import json, tempfile
    >>> import numpy as np
    >>> from transfer_gen import config
    >>> from transfer_gen.formats import detect
    >>> folder = epath.Path(tempfile.mkdtemp())
    >>> sizes = {"vocab_size": 3, "embed_width": 2, "hidden_width": 2, "num_layers": 1}
    >>> model = registry.build(config.Recurrent(**sizes))
    >>> np.savez(folder / "model.npz", **{
    ...     f"net/{name}": np.zeros(spec.shape, spec.dtype)
    ...     for name, spec in registry.specs(model).items()})
    >>> _ = (folder / "map.json").write_text(json.dumps({
    ...     "model": {"family": "Recurrent", **sizes},
    ...     "lines": [{"target": "(.*)", "source": r"net/\1"}]}))
    >>> raw = detect.opener_of(folder / "model.npz")()
    >>> source = view(raw, str(folder / "map.json"))
    >>> source.specs["head/kernel"].axes
    ('hidden', 'vocab')
  """
  if vocabulary not in (REFUSE, REPAIR, NONE):
    raise errors.UserError(
        f"source.vocabulary is {vocabulary!r}, must be {REFUSE!r}, {REPAIR!r} or"
        f" {NONE!r}.")
  if given_fn is not None and vocabulary != REFUSE:
    raise errors.UserError(
        f"{raw.path}: source.tokenizer (--tokenizer) names the vocabulary, which is"
        f" read as it is, and source.vocabulary (--vocabulary) is {vocabulary!r}. Leave"
        " one of them out; to repair a list of tokens, edit its file.")
  found = chosen_map.read(raw, name)
  if given_fn is not None:
    given = given_fn(found.model)
    tokenizer, model, notes, what = (
        given.tokenizer, given.model, given.notes, "vocabulary")
  else:
    tokenizer, notes = _vocabulary(found, vocabulary)
    model, what = found.model, "vocabulary" if tokenizer else "no tokenizer"
  # A warning and no error: the user asked for the repair, or the model works without a
  # tokenizer.
  for note in notes:
    logging.getLogger(__name__).warning("%s: %s: %s", raw.path, what, note)
  return Foreign(
      found.raw, found.name, model, found.how, tokenizer, notes, found.files)


def _vocabulary(
    found: chosen_map.Read, vocabulary: str
) -> tuple[source_lib.Tokenizer | None, tuple[str, ...]]:
  """Returns the tokenizer that a map finds, and sentences about it."""
  if vocabulary == NONE:
    return None, ()
  try:
    return found.tokenizer_fn(vocabulary == REPAIR) or (None, ())
  except errors.UserError as error:
    raise errors.UserError(
        f"{error}\nThe weights alone are read with --vocabulary={NONE}"
        f" (source.vocabulary={NONE!r} in a config).") from error
