"""Two checkpoints as the sides of an encoder-decoder that is warm-started from them.

Rothe et al. (2020): encoder, decoder or both begin as BERT, RoBERTa or GPT-2, and only
the cross-attention between them is new.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen.config import names as names_lib
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.sources import opening
from transfer_gen.sources import source as source_lib

_ENCODER, _DECODER = names_lib.ENCODER, names_lib.DECODER
# Leaves that stand beside the sides; all but the first are of the output alone.
_BESIDE = ("embed/", "head/", "transform/")


class Pair(source_lib.Source):
  """An encoder-decoder whose sides are two sources, without its cross-attention.

  With one source alone the other side has its sizes, and no leaves (BERT2RND and
  RND2BERT of Rothe et al., 2020).

  Attributes:
    encoder: The source of the encoder; its output over tokens is left out. None if the
      decoder has the only one.
    decoder: The source of the decoder and of the output, or None.
  """

  def __init__(
      self, encoder: source_lib.Source | None, decoder: source_lib.Source | None):
    """Relates names; reads no array.

    Args:
      encoder: A source with one side; or None, if `decoder` is none.
      decoder: A source with one side; or None, if `encoder` is none.

    Raises:
      errors.UserError: If a source does not say what its model is, or it cannot be a
        side.
    """
    self.encoder, self.decoder = encoder, decoder
    self._given = [(side, source) for side, source in (
        (_ENCODER, encoder), (_DECODER, decoder)) if source is not None]
    for side, source in self._given:
      if source.model is None or source.adapters:
        raise errors.UserError(
            f"{source.path}: it cannot be the {side.rstrip('/')} of a pair: "
            + ("it does not say what its model is." if source.model is None else
               "it has adapters. Merge them first: `convert` writes the merged model."))
    # The first and the last are one if one is given.
    (_, first), (_, last) = self._given[0], self._given[-1]
    self._model = registry.pair_of(first.model, last.model)
    self._places = {name: place for side, source in self._given
                    for name, place in _placed(source.specs, side).items()}
    specs = registry.specs(registry.build(self._model))
    self._specs = {name: spec for name, spec in specs.items() if name in self._places}

  @property
  def path(self) -> epath.Path | None:
    """Where the encoder was opened from, or the decoder if it is alone."""
    return self._given[0][1].path

  @property
  def title(self) -> str:
    """One line for people."""
    return "; ".join(
        f"{side}: {source.title if source else 'none'}" for side, source in (
            ("encoder", self.encoder), ("decoder", self.decoder)))

  @property
  def specs(self) -> Mapping[str, Any]:
    """Spec of each leaf of the pair that one of the sources has."""
    return self._specs

  @property
  def constants(self) -> Mapping[str, Any]:
    """Constants of the pair, with the masks that its sides had in their sources."""
    models: tuple[Any, ...] = tuple(source.model for _, source in self._given)
    encoder, decoder = registry.constants(models[0]), registry.constants(models[-1])
    found = registry.constants(self._model)
    side = {**found["encoder_side"], "causal": encoder["causal"]}
    return {**found, "encoder_side": side, "causal": decoder["causal"]}

  @property
  def model(self) -> source_lib.Model:
    """Config of the pair."""
    return self._model

  @property
  def tokenizer(self) -> source_lib.Tokenizer | None:
    """The tokenizer of both sides, which is one if they have the same tokens."""
    inputs, targets = self._given[0][1].tokenizer, self._given[-1][1].tokenizer
    if inputs is None or targets is None:
      return None
    if (inputs.tokens, inputs.roles) == (targets.tokens, targets.roles):
      return targets
    return tokenizers.for_both_sides(inputs, targets)

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None,
      picks: source_lib.Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array), placed where `shardings` says."""
    for side, source in self._given:
      mine = {self._places[name][1]: name for name in names
              if self._places[name][0] == side}
      where = shardings and {own: shardings[name] for own, name in mine.items()}
      taken = picks and {
          own: picks[name] for own, name in mine.items() if name in picks}
      for own, array in source.read(list(mine), where, taken):
        yield mine[own], array


def open(
    path: epath.PathLike, step: int = -1, *, map_name: str = "",
    vocabulary: str = opening.REFUSE, tokenizer: str = "",
    unused: Sequence[str] = (), idle_fields: Sequence[str] = (),
    model: source_lib.Model | None = None, base: source_lib.Source | None = None,
) -> source_lib.Source:
  r"""Opens a checkpoint under our names, or two as the sides of a pair; reads no array.

  Args:
    path: A run's workdir or one of its checkpoints; a file or folder of another
      framework, whose format shows in its suffix and its files; a folder that PEFT
      wrote; or a file of word vectors. Or two such paths, `ENCODER|DECODER`, see
      `Pair`; they may be the same, and one of them may be left out.
    step: Which checkpoint of a run. -1 means the best, or the last if none was
      validated.
    map_name: For a checkpoint of another framework: name of its architecture, or path
      of a map file. If empty, the architecture is detected.
    vocabulary: For a checkpoint of another framework: "refuse" or "repair" a vocabulary
      with damaged or duplicate entries, or "none" to read the weights alone.
    tokenizer: For a checkpoint of another framework: path of its vocabulary, see
      `sources.given`. If empty, the one that lies beside it, if any.
    unused: For a checkpoint of another framework: regexes for whole names of leaves in
      it that are read as if they were not there.
    idle_fields: For a checkpoint of another framework: fields of its config that its
      map does not know and that change nothing which the model computes.
    model: For a folder that PEFT wrote: config of the model that it adapts, if `base`
      has none.
    base: For a folder that PEFT wrote: source of the model that it adapts.

  Returns:
    The source.

  Raises:
    errors.UserError: If nothing is there that can be read, or an argument does not
      apply to what is there.

  Example:
    >>> import pathlib, tempfile
    >>> from transfer_gen import sources
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "words.vec"
    >>> _ = path.write_text("2 3\ncat 1 0 0\ndog 0 1 0\n")
    >>> source = sources.open(path)
    >>> source.specs["embed/embedding"].shape
    (2, 3)
    >>> [(name, array)] = source.read(["embed/embedding"])
    >>> array.tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
  """
  given = {"step": step >= 0, "map": map_name, "tokenizer": tokenizer,
           "unused": unused, "idle_fields": idle_fields}
  parts = sides(path)
  if not parts[1:]:
    return opening.open(
        path, step, map_name=map_name, vocabulary=vocabulary, tokenizer=tokenizer,
        unused=unused, idle_fields=idle_fields, model=model, base=base)
  if wrong := [name for name, value in given.items() if value]:
    raise errors.UserError(
        f"{path}: two checkpoints, and {', '.join(wrong)} is of one. Convert that one"
        " with it first, and give the workdir that `convert` writes in its place.")
  if not any(parts):
    raise errors.UserError(
        f"{path}: both sides are missing; give ENCODER|DECODER, ENCODER| or |DECODER.")
  encoder, decoder = (
      opening.open(part, vocabulary=vocabulary) if part else None for part in parts)
  return Pair(encoder, decoder)


def leaves(path: epath.PathLike, step: int = -1) -> tuple[str, source_lib.Specs]:
  """Lists a checkpoint's leaves under its own names; reads no array.

  Args:
    path: As of `open`. The leaves of two checkpoints are listed as those of the pair.
    step: As of `open`.

  Returns:
    A line that describes the checkpoint, and the spec of each leaf.

  Raises:
    errors.UserError: As `open`.

  Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from transfer_gen import sources
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.npz"
    >>> np.savez(path, **{"lstm.0.bias": np.zeros(8, np.float32)})
    >>> title, specs = sources.leaves(path)
    >>> {name: spec.shape for name, spec in specs.items()}
    {'lstm.0.bias': (8,)}
  """
  if not sides(path)[1:]:
    return opening.leaves(path, step)
  found = open(path, step)
  return found.title, found.specs


def sides(path: epath.PathLike) -> tuple[str, ...]:
  """Returns the paths of the two sides of a pair, or the one path that it is.

  Example:
    >>> from transfer_gen import sources
    >>> sources.sides("bert | gpt2"), sources.sides("bert")
    (('bert', 'gpt2'), ('bert',))
  """
  parts = str(path).split("|")
  # A path that exists is a path, whatever characters it has.
  if len(parts) != 2 or epath.Path(path).exists():
    return (str(path),)
  return parts[0].strip(), parts[1].strip()


def _placed(names: Iterable[str], side: str) -> dict[str, tuple[str, str]]:
  """Returns where leaves of the pair lie: the side, and their name in its source."""
  found = {}
  for name in names:
    if side == _DECODER:
      found[name if name.startswith(_BESIDE) else f"{side}{name}"] = side, name
    elif not name.startswith(_BESIDE[1:]):
      found[f"{side}{name}"] = side, name
  return found
