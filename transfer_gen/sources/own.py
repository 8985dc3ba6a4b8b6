"""A checkpoint that a run of this package wrote, with what its workdir says of it."""

from collections.abc import Iterator, Mapping, Sequence
import functools
from typing import Any

from etils import epath
import jax

from transfer_gen import best_link
from transfer_gen import checkpoint
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.data import tokenizers
from transfer_gen.sources import source as source_lib

Model, Source, Specs = source_lib.Model, source_lib.Source, source_lib.Specs
best_run = best_link.follow


# Config, tokenizer and optimizer state are read when they are asked for: to list the
# leaves of a checkpoint needs none of them, and a copied one may lack them.
class Own(source_lib.Source):
  """One checkpoint of a run.

  A checkpoint folder that was copied out of its workdir can still be transferred from;
  it then has no run, model or tokenizer.

  Attributes:
    stored: The checkpoint.
  """

  def __init__(self, stored: checkpoint.Stored):
    self.stored = stored

  @functools.cached_property
  def workdir(self) -> epath.Path | None:
    """Workdir of the run that wrote it, or None if it lies in none."""
    # The nearest folder above that has a config: the checkpoint may be in
    # `checkpoints/`, in `checkpoints/best/`, or may have been copied elsewhere.
    return next((parent for parent in self.path.parents
                 if (parent / codec.CONFIG).exists()), None)

  @property
  def path(self) -> epath.Path:
    """Folder of the checkpoint."""
    return self.stored.path

  @property
  def step(self) -> int:
    """Number of updates after which it was written."""
    return self.stored.step

  @property
  def title(self) -> str:
    """One line for people."""
    return self.stored.title

  @property
  def specs(self) -> source_lib.Specs:
    """Spec of each leaf."""
    return self.stored.specs

  @property
  def constants(self) -> Mapping[str, Any]:
    """Constants of the model; empty if they were not stored."""
    return self.stored.constants

  @property
  def scales(self) -> Mapping[str, float]:
    """Factors of low-rank products."""
    return self.stored.scales

  @functools.cached_property
  def run(self) -> codec.Run | None:
    """Config of the run."""
    return None if self.workdir is None else codec.read_run(self.workdir)

  def require_run(self) -> codec.Run:
    """Returns the config of the run.

    Raises:
      errors.UserError: If the checkpoint lies in no workdir.
    """
    if self.run is None:
      raise errors.UserError(
          f"{self.path}: not in the workdir of a run: no folder above it has a"
          f" {codec.CONFIG}. Give the workdir of a run that has trained.")
    return self.run

  def require_tokenizer(self) -> source_lib.Tokenizer:
    """Returns the tokenizer of the run.

    Raises:
      errors.UserError: If none was stored with the run.
    """
    if self.tokenizer is None:
      raise errors.UserError(
          f"{self.path}: its workdir holds no {tokenizers.FOLDER}/, so texts cannot be"
          " read or written. If it was converted, convert it again with"
          " --tokenizer=PATH: a tokenizer, a word_index or a list of tokens.")
    return self.tokenizer

  @property
  def model(self) -> source_lib.Model | None:
    """Config of the run's model."""
    return None if self.run is None else self.run.model

  @property
  def decoding(self) -> tuple[codec.Decoding, tuple[str, ...]]:
    """How the run writes texts."""
    return codec.Decoding() if self.run is None else self.run.decoding, ()

  @property
  def reverse(self) -> bool | None:
    """Whether the run reads texts from right to left."""
    if self.run is None or self.workdir is None:
      return None
    # Of a model that was converted nobody said how it was trained.
    trained_here = (self.workdir / codec.DATA).exists()
    return self.run.data.reverse if trained_here else self.run.data.reverse or None

  @property
  def adapters(self) -> tuple[codec.Adapter, ...]:
    """Adapters of the run."""
    return () if self.run is None else self.run.adapters

  @functools.cached_property
  def tokenizer(self) -> source_lib.Tokenizer | None:
    """Tokenizer of the run."""
    # Searched on its own and not in `workdir`, so that a copied checkpoint with a
    # tokenizer beside it keeps its tokens.
    return next(filter(None, map(tokenizers.of_run, self.path.parents)), None)

  @functools.cached_property
  def moments(self) -> source_lib.Moments | None:
    """Optimizer state; checkpoints in `best/` hold none."""
    return _Moments(self.stored) if self.stored.state else None

  def read(
      self, names: Sequence[str], shardings: source_lib.Shardings | None = None,
      picks: source_lib.Picks | None = None,
  ) -> Iterator[tuple[str, jax.Array]]:
    """Yields (name, array) in batches of bounded size; reads no other leaf."""
    return self.stored.read(names, shardings, picks)


# An object of its own, so that who needs no optimizer state never reads even its
# shapes.
class _Moments:
  """Optimizer state of a stored checkpoint."""

  def __init__(self, stored: checkpoint.Stored):
    self._stored = stored

  @property
  def shapes(self) -> Mapping[source_lib.StatePath, jax.ShapeDtypeStruct]:
    """Shapes of the leaves."""
    return self._stored.state

  def read(
      self, where: Mapping[source_lib.StatePath, jax.sharding.Sharding | None]
  ) -> dict[source_lib.StatePath, jax.Array]:
    """Reads the leaves that `where` names."""
    return self._stored.read_state(where)


# Reading goes through `checkpoint`, the one module that knows Orbax.
def open_own(path: epath.PathLike, step: int = -1) -> Own:
  """Opens a checkpoint of a run.

  Args:
    path: The run's workdir, its `checkpoints/`, or the folder of one checkpoint.
    step: Which one. -1 means the best, or the last if none was validated.

  Raises:
    errors.UserError: If there is none.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from transfer_gen import checkpoint, sources
    >>> workdir = tempfile.mkdtemp()
    >>> checkpoints = checkpoint.Checkpoints(workdir)
    >>> checkpoints.save_best(7, {"head/bias": jnp.zeros(4)}, {
    ...     "axes": {"head/bias": {"axes": ["vocab"], "reads": []}}})
    >>> checkpoints.wait()
    >>> source = sources.open_own(workdir)
    >>> source.step, source.specs["head/bias"].axes
    (7, ('vocab',))
    >>> checkpoints.close()
  """
  return Own(checkpoint.find(path, step))


def is_run(path: epath.Path) -> bool:
  """Whether a folder is a run's workdir with a checkpoint, or a part of one.

  Example:
    >>> import tempfile
    >>> from etils import epath
    >>> workdir = epath.Path(tempfile.mkdtemp())
    >>> (workdir / "checkpoints" / "7").mkdir(parents=True)
    >>> is_run(workdir)
    False
    >>> (workdir / "checkpoints" / "7" / "params").mkdir()
    >>> is_run(workdir), is_run(workdir / "checkpoints"), is_run(
    ...     workdir / "checkpoints" / "7")
    (True, True, True)
  """
  # No config is asked for, because a checkpoint may have been copied out of its
  # workdir. Names do not suffice: others number folders, too.
  folders = (path, path / checkpoint.BEST, path / checkpoint.FOLDER,
             path / checkpoint.FOLDER / checkpoint.BEST)
  steps = (step for folder in folders if folder.is_dir() for step in folder.iterdir()
           if checkpoint.is_step(step.name))
  return any((step / "params").exists() for step in (
      *steps, *([path] if checkpoint.is_step(path.name) else [])))
