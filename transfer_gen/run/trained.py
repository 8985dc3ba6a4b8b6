"""A run that has trained: its model, params, tokenizer and config."""

from collections.abc import Callable, Sequence
import dataclasses
import sys
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.adapters import wrap
from transfer_gen.data import pipeline
from transfer_gen.run import decode
from transfer_gen.run import latents
from transfer_gen.run import recorded
from transfer_gen.train import combined
from transfer_gen.train import score as evaluate

Reader, Texts = recorded.Reader, recorded.Texts
_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
  """A checkpoint of a run, ready to evaluate and generate with.

  Attributes:
    workdir: Workdir of the run, which receives scores and samples.
    run: Config of the run.
    step: Number of updates after which the checkpoint was written.
    model: The module, with its adapters.
    params: Flat params, on the default device.
    tokenizer: Tokenizer of the run.
  """
  workdir: epath.Path
  run: recorded.Run
  step: int
  model: wrap.Model
  params: dict[str, jax.Array]
  tokenizer: sources_lib.Tokenizer

  def data(
      self, reader: Reader | None = None
  ) -> tuple[pipeline.Prepared, Texts]:
    """Returns the data that it was trained on, tokenized, and the texts.

    Args:
      reader: Has read the data of other runs, which need not be read again.

    Raises:
      errors.UserError: If no data belongs to it, or the data changed since.
    """
    return recorded.tokenized(self.workdir, self.run, self.tokenizer, reader)

  def score(self, data: pipeline.Prepared, split: str) -> evaluate.Scores:
    """Scores the params on a split, document by document.

    Args:
      data: Tokenized data.
      split: `train`, `validation` or `test`.

    Raises:
      errors.UserError: If there is no such split.
    """
    if split not in _SPLITS:
      raise errors.UserError(
          f"--split is {split!r}, must be one of {', '.join(_SPLITS)}.")
    score = scorer(self.model)
    return score(self.params, data, split, self.run.train.rows)

  def answers(
      self, inputs: Sequence[str], decoding: decode.Decoding | None = None,
      **how: Any,
  ) -> decode.Answers:
    """Answers inputs, or if the run was not trained on pairs, continues them.

    Args:
      inputs: The texts.
      decoding: How texts are written. If None, as the run's config says.
      **how: See `decode.answers`.

    Raises:
      errors.UserError: As `decode.answers`.
    """
    return decode.answers(
        self.texts, inputs, self.run.decoding if decoding is None else decoding, **how)

  def stream(
      self, text: str, decoding: decode.Decoding, show: Callable[[str], object]
  ) -> str:
    """Answers or continues one text and shows it as it grows, see `decode.stream`."""
    return decode.stream(self.texts, text, decoding, show)

  def sample(
      self, count: int, decoding: decode.Decoding, **how: Any) -> list[str]:
    """Writes texts for latents out of the prior, see `latents.sample`."""
    return latents.sample(self.texts, count, decoding, **how)

  def interpolate(
      self, first: str, second: str, count: int, decoding: decode.Decoding, **how: Any
  ) -> list[str]:
    """Writes texts for latents between two texts, see `latents.interpolate`."""
    return latents.interpolate(self.texts, (first, second), count, decoding, **how)

  @property
  def is_drawn(self) -> bool:
    """Whether it draws, and writes no texts."""
    return decode.is_drawn(self.run.model)

  @property
  def texts(self) -> decode.TextModel:
    """What it takes to read and write texts with it."""
    return decode.TextModel(
        module=self.model, params=self.params, tokenizer=self.tokenizer,
        data=self.run.data, model=self.run.model,
        marked=not recorded.has_data(self.workdir))


def open(workdir: epath.PathLike, step: int = -1) -> Trained:
  """Opens a run that has trained.

  Args:
    workdir: Workdir of the run; or that of a study or a search, for its best run.
    step: Which checkpoint. -1 means the best by validation loss.

  Raises:
    errors.UserError: If there is no run or no such checkpoint.
  """
  workdir = sources_lib.best_run(workdir)
  source = sources_lib.open_own(workdir, step)
  run = source.require_run()
  try:
    params = dict(source.read(list(source.specs)))
  except errors.UserError as damage:
    if step >= 0 or source.path == workdir:
      raise
    if source.stored.is_replaced:  # A training goes on in the workdir.
      return open(workdir)
    # The same params may lie among the newest checkpoints as well.
    other = sources_lib.open_own(workdir, source.step)
    if other.path == source.path:
      raise
    print(f"transfer-gen: {damage} Instead, {other.title} is read.", file=sys.stderr)
    return open(workdir, source.step)
  return Trained(
      workdir=workdir, run=run, step=source.step,
      # Without the projections of a distillation: `checkpoint.find` leaves them out, as
      # only the loss of the training read them.
      model=wrap.build(run.model, run.adapters),
      params=params, tokenizer=source.require_tokenizer())


def scorer(model: wrap.Model) -> evaluate.Scorer:
  """Returns the function that scores params of a model on a split."""
  # Both are cached by the model, so tests of several seeds compile its program once.
  return evaluate.make_scorer(combined.scoring(model))
