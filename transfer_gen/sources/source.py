"""What a checkpoint is to everything that transfers from it."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any, Protocol

from etils import epath
import jax
import numpy as np

from transfer_gen import config as config_lib
from transfer_gen import tree
from transfer_gen.config import adapters as config_adapters
from transfer_gen.data import tokenizers
from transfer_gen.maps import mapped
from transfer_gen.transfer import vocabulary as vocabulary_lib

Shardings = Mapping[str, jax.sharding.Sharding]
Picks, placed = Mapping[str, mapped.Pick], mapped.place_whole
Model = config_lib.Decoder | config_lib.Recurrent | config_lib.Sketch
Specs = Mapping[str, tree.Spec]
Tokenizer = tokenizers.Tokenizer
_MANTISSA = 23  # Bits of a float32 behind its first one.
StatePath = tuple[Any, ...]  # Keys on the way to a leaf of the optimizer state.


# Shapes and reading are apart: whether a group can take moments is decided on shapes,
# before any array is read.
class Moments(Protocol):
  """The optimizer state that is stored with a checkpoint.

  Attributes:
    shapes: Shape and dtype of each leaf, by the keys on the way to it.
  """

  @property
  def shapes(self) -> Mapping[StatePath, jax.ShapeDtypeStruct]:
    """Shapes of the leaves."""
    ...

  def read(
      self, where: Mapping[StatePath, jax.sharding.Sharding | None]
  ) -> dict[StatePath, jax.Array]:
    """Reads the leaves that `where` names, each into its sharding.

    Args:
      where: A sharding for each leaf; None means the default device.
    """


# The protocol has defaults, so a kind of source states only what it has. `specs` has
# none: there is no source without leaves.
@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
  """A vocabulary that a user named for a checkpoint that holds none.

  Attributes:
    tokenizer: The tokenizer.
    model: Config of the model, with what the user's files say of how it reads texts.
    notes: Sentences on what was concluded from the files.
  """
  tokenizer: Tokenizer
  model: Model
  notes: tuple[str, ...]


class Source(Protocol):
  """A checkpoint under our names and axes, at its own sizes.

  Every attribute can be asked of every source; what a source does not have is None or
  empty, so that no caller needs to know of which kind it is. A class that implements
  the protocol inherits those defaults.

  Attributes:
    path: File or folder that it was opened from; None for arrays in memory.
    workdir: Workdir of the run that wrote it; None if no run did, or it lies in none.
    title: One line that describes it to people.
    specs: Spec of each leaf.
    constants: What the model computes beside its params, by name, see
      `registry.constants`; empty if unknown.
    scales: Factor that a low-rank product is multiplied by at run time, by leaf name.
    model: Config of the model that the params belong to, if it is known.
    adapters: Adapters that act on that model.
    tokenizer: Tokenizer of the model's ids, if one was found.
    vocabulary: Tokens that the rows of a `vocab` axis stand for.
    decoding: How texts are written with it, and sentences about settings that have no
      place here although they change texts.
    moments: Optimizer state, if it was stored.
    reverse: Whether it learned texts from right to left, see `config.Data.reverse`;
      None if that is unknown.
    view: For a checkpoint of another framework, the rows between its names and ours.
  """

  @property
  def path(self) -> epath.Path | None:
    """File or folder."""
    return None

  @property
  def workdir(self) -> epath.Path | None:
    """Workdir of the run that wrote it."""
    return None

  @property
  def title(self) -> str:
    """One line for people."""
    return str(self.path)

  @property
  def specs(self) -> Mapping[str, tree.Spec]:
    """Spec of each leaf."""
    raise AssertionError("Every source has specs.")

  @property
  def constants(self) -> Mapping[str, Any]:
    """Constants of the model."""
    return {}

  @property
  def scales(self) -> Mapping[str, float]:
    """Factors of low-rank products."""
    return {}

  @property
  def model(self) -> Model | None:
    """Config of the model."""
    return None

  @property
  def adapters(self) -> tuple[config_adapters.Adapter, ...]:
    """Adapters of the model."""
    return ()

  @property
  def tokenizer(self) -> tokenizers.Tokenizer | None:
    """Tokenizer of the model's ids."""
    return None

  @property
  def vocabulary(self) -> vocabulary_lib.Vocabulary | None:
    """Tokens of the rows, by default those of the tokenizer."""
    # Apart from the tokenizer, since word vectors have tokens and cannot encode a text.
    if self.tokenizer is None:
      return None
    own = tokenizers.own_encoder(self.tokenizer)
    return vocabulary_lib.Vocabulary(
        tokens=self.tokenizer.tokens, roles=self.tokenizer.roles,
        special=self.tokenizer.special,
        encoder=None if own is None else vocabulary_lib.Vocabulary(
            tokens=own.tokens, roles=own.roles, special=own.special))

  @property
  def decoding(self) -> tuple[config_lib.Decoding, tuple[str, ...]]:
    """How texts are written, and what of that is ignored."""
    return config_lib.Decoding(), ()

  @property
  def moments(self) -> Moments | None:
    """Stored optimizer state."""
    return None

  @property
  def reverse(self) -> bool | None:
    """Whether it learned texts from right to left."""
    return None

  @property
  def view(self) -> mapped.Mapped | None:
    """Rows between the checkpoint's own names and ours."""
    return None

  def read(
      self, names: Sequence[str], shardings: Shardings | None = None,
      picks: Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) for each name, in batches of bounded size.

    Args:
      names: Leaves of `specs`.
      shardings: Where each leaf is placed. If None, on the default device.
      picks: What is taken of a leaf before it is placed; by default all of it.
    """


def dtypes_note(source: Source) -> str:
  """Returns a sentence on how leaves become float32; empty if they are so.

  Args:
    source: The source; no array of it is read.
  """
  view = source.view
  specs = source.specs.values() if view is None else [
      view.raw.specs[name] for row in view.rows.values() for name in row.sources]
  dtypes = {spec.dtype for spec in specs} - {np.dtype(np.float32)}
  exact = [dtype for dtype in dtypes if _fits(dtype)]
  said = [f"{', '.join(sorted(map(str, part)))} become float32 {how}"
          for part, how in ((exact, "exactly"), (
              dtypes.difference(exact), "rounded, to the nearest and half to even"))
          if part]
  return f"{source.title}: leaves of {'; of '.join(said)}." if said else ""


def _fits(dtype: np.dtype) -> bool:
  """Whether each number of a dtype is one of float32."""
  # By its size, since `ml_dtypes` has its own types for floats that NumPy lacks: all
  # floats of 16 bits and less have fewer bits for both parts of a number.
  return dtype.itemsize * 8 <= _MANTISSA
