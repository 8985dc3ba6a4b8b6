"""A run that is not trained yet, in the place of the source that it will be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.run import assembled as assembled_lib
from transfer_gen.run import facts as facts_lib

_PROJECTIONS = "distill/"  # Leaves that no checkpoint of a run offers as a source.


class Untrained(sources_lib.Source):
  """What is known of a run's checkpoint before the run trains: all but its arrays."""

  def __init__(self, assembled: assembled_lib.Assembled, workdir: epath.Path):
    """Takes the run, assembled, and the workdir in which it will train."""
    self._assembled, self._workdir = assembled, workdir
    self._facts = facts_lib.describe(assembled)

  @property
  def path(self) -> epath.Path:
    """Workdir of the run."""
    return self._workdir

  @property
  def specs(self) -> sources_lib.Specs:
    """Spec of each leaf."""
    return {name: spec for name, spec in self._assembled.specs.items()
            if not name.startswith(_PROJECTIONS)}

  @property
  def constants(self) -> Mapping[str, Any]:
    """Constants of the model."""
    return self._facts["constants"]

  @property
  def scales(self) -> Mapping[str, float]:
    """Factors of low-rank products."""
    return self._facts["scales"]

  @property
  def model(self) -> Any:
    """Config of the model."""
    return self._assembled.run.model

  @property
  def adapters(self) -> tuple[Any, ...]:
    """Adapters of the run."""
    return self._assembled.run.adapters

  @property
  def tokenizer(self) -> sources_lib.Tokenizer:
    """Tokenizer of the run."""
    return self._assembled.data.tokenizer

  @property
  def decoding(self) -> tuple[Any, tuple[str, ...]]:
    """How the run writes texts."""
    return self._assembled.run.decoding, ()

  def read(
      self, names: Sequence[str], shardings: Any = None, picks: Any = None
  ) -> Iterator[tuple[str, jax.Array]]:
    """Raises a `UserError`: there are no arrays yet."""
    del names, shardings, picks
    raise errors.UserError(f"{self._workdir}: is not trained yet.")
