"""A run that has trained: its model, params, tokenizer and config."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

from etils import epath
import jax

from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.adapters import wrap
from transfer_gen.data import pipeline
from transfer_gen.generate import beam
from transfer_gen.generate import sampling
from transfer_gen.models import registry
from transfer_gen.run import recorded
from transfer_gen.train import objectives
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
  model: registry.Model
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
    return score(self.params, data, split, self.run.train.batch_size)

  def complete(
      self, prompts: Sequence[str], num_tokens: int, seed: int = 0, **sampled: Any
  ) -> list[str]:
    """Continues each prompt; a model of pairs answers each input.

    Args:
      prompts: The texts.
      num_tokens: Largest number of tokens of an answer.
      seed: Seed of what is drawn.
      **sampled: `temperature`, `top_k` and `top_p`, see `sampling.generate`.

    Raises:
      errors.UserError: If a prompt cannot be tokenized or is too long.
    """
    answers = sampling.generate(
        self.model, self.params, num_tokens=num_tokens, key=jax.random.key(seed),
        **self._read(prompts), **sampled)
    return [self.tokenizer.decode(answer) for answer in answers]

  def search(
      self, prompts: Sequence[str], num_tokens: int, beams: int,
      length_penalty: float = 1.0,
  ) -> list[list[str]]:
    """Answers each prompt by beam search, with up to `beams` texts, the best first.

    Args:
      prompts: The texts.
      num_tokens: Largest number of tokens of an answer.
      beams: Number of beams, see `beam.search`.
      length_penalty: Exponent of the length that scores are divided by.

    Raises:
      errors.UserError: If a prompt cannot be tokenized or is too long.
    """
    found = beam.search(
        self.model, self.params, beams=beams, num_tokens=num_tokens,
        length_penalty=length_penalty, **self._read(prompts))
    return [[self.tokenizer.decode(one.tokens) for one in row] for row in found]

  def rooms(self, prompts: Sequence[str]) -> list[float]:
    """Returns how many tokens the model can read after each prompt.

    The number is infinite for a model that can read texts of any length.
    """
    longest = registry.longest(self.model)
    return [math.inf if longest is None else longest - len(prompt)
            for prompt in self._read(prompts)["prompts"]]

  def _read(self, prompts: Sequence[str]) -> dict[str, Any]:
    """Tokenizes prompts as the model reads them; adds the id that ends answers."""
    model: Any = self.run.model
    eos = pipeline.roles(self.tokenizer).get("eos")
    if not registry.encodes(model):
      return {"eos": eos, "prompts": pipeline.encode_prompts(
          prompts, self.tokenizer, self.run.data)}
    encoder_inputs, begun = pipeline.tokenize_for_encoder(
        prompts, self.tokenizer, self.run.data, model)
    return {"eos": eos, "prompts": begun, "encoder_inputs": encoder_inputs}


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
  return Trained(
      workdir=workdir, run=run, step=source.step,
      # Without the projections of a distillation: `checkpoint.find` leaves them out, as
      # only the loss of the training read them.
      model=wrap.build(run.model, run.adapters),
      params=dict(source.read(list(source.specs))),
      tokenizer=source.require_tokenizer())


def scorer(model: registry.Model) -> evaluate.Scorer:
  """Returns the function that scores params of a model on a split."""
  return evaluate.make_scorer(objectives.next_token(model, False))
