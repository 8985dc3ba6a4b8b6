"""Reads the inputs of runs: each data set and its tokens only once."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.run import choices
from transfer_gen.run import inputs as inputs_lib
from transfer_gen.run import open_sources
from transfer_gen.run import source_model

Run, Data = config_lib.Run, config_lib.Data
Texts = documents.Splits
# Kinds of tokenizers that count words: their memory grows with the text.
_COUNTING = ("bpe", "words")


class Reader:
  """Reads the inputs of several runs: each data set and its tokens only once.

  A search tries many strategies on one data set, and a study repeats runs over seeds
  and learning rates. What was read stays in memory as long as the reader does.

  Attributes:
    known: Sources that stand for what is at a path, by path.
  """

  def __init__(self):
    self.known: dict[str, open_sources.Source] = {}
    self._whole: dict[str, tuple[documents.Splits, dict[str, Any]]] = {}
    self._texts: dict[str, tuple[Texts, dict[str, Any]]] = {}
    self._trained: dict[tuple[str, str], tokenizers.Tokenizer] = {}
    self._tokenized: dict[tuple[str, str, str], pipeline.Prepared] = {}

  def read(self, run: config_lib.Run, workdir: epath.PathLike) -> inputs_lib.Inputs:
    """Opens the sources of a run, reads its texts and tokenizes them; writes nothing.

    Args:
      run: Config of the run.
      workdir: If a tokenizer was saved here, it is used again.

    Raises:
      errors.UserError: If something that the config names does not exist or does not
        fit.
    """
    asked, run = run, choices.begin(run, workdir)
    sources = open_sources.of_run(run, self.known)
    texts, _ = self.texts(run.data)  # Reading fails before training begins.
    run = choices.model(run, texts["train"])
    tokenizer = self._tokenizer(run, epath.Path(workdir), sources)
    run = dataclasses.replace(run, model=source_model.of_run(run, sources, tokenizer))
    run = choices.lengths(run, texts["train"], tokenizer)
    data = self.data(run.data, tokenizer, run.model)
    run = choices.schedule(run, data)
    return inputs_lib.Inputs(
        run=run, sources=sources, data=data, validation=texts["validation"],
        remembered=open_sources.remembered(
            run, lambda config: self.data(config, tokenizer, run.model)),
        notes=[*choices.describe(asked, run, data),
               *open_sources.directions(run, sources)])

  def texts(self, config: config_lib.Data) -> tuple[Texts, dict[str, Any]]:
    """Returns the documents of each split, and the facts that data.json holds."""
    key = _texts_key(config)
    if key not in self._texts:
      # A study of how much data is enough asks for many fractions of one data set.
      whole = _texts_key(dataclasses.replace(config, fraction=1.0))
      if whole not in self._whole:
        self._whole[whole] = documents.read_filtered(config)
      self._texts[key] = documents.take_fraction(*self._whole[whole], config)
    return self._texts[key]

  def check_texts(self, run: config_lib.Run, workdir: epath.PathLike) -> None:
    """Reads the texts of a run and makes its tokenizer, which `read` then finds ready.

    Args:
      run: Config of the run.
      workdir: As of `read`.

    Raises:
      errors.UserError: If a file does not exist or does not fit.
    """
    texts, _ = self.texts(run.data)
    run = choices.model(choices.begin(run, workdir), texts["train"])
    # In a study, the source whose tokenizer is taken may not be trained yet.
    if run.tokenizer.kind != source_model.SOURCE:
      self._tokenizer(run, epath.Path(workdir), {})

  def data(
      self, config: config_lib.Data, tokenizer: tokenizers.Tokenizer,
      model: Any,
  ) -> pipeline.Prepared:
    """Tokenizes a data set.

    Args:
      config: Config of the data.
      tokenizer: Tokenizer of the run.
      model: Config of the model; a model with an encoder has rows of its own form.
    """
    # The config of a model without an encoder does not change the rows, so it is no
    # part of the key, and runs of different sizes share them.
    encoder: Any = model if model.encodes else None
    # Configs are mutable and so not hashable; their repr lists every field. Tokenizers
    # of two runs may be equal and be two objects, so their files are compared.
    key = (repr(config), tokenizers.fingerprint(tokenizer), repr(encoder))
    if key not in self._tokenized:
      texts, facts = self.texts(config)
      self._tokenized[key] = pipeline.prepare(config, texts, tokenizer, facts, encoder)
    return self._tokenized[key]

  def _tokenizer(
      self, run: config_lib.Run, workdir: epath.Path, sources: open_sources.Sources,
  ) -> tokenizers.Tokenizer:
    if found := tokenizers.of_run(workdir):
      return found
    if run.tokenizer.kind == source_model.SOURCE:
      return source_model.tokenizer(sources)
    key = (repr((run.tokenizer, run.encoder_tokenizer)), _texts_key(run.data))
    if key not in self._trained:
      self._trained[key] = _build(run, self.texts(run.data)[0]["train"])
    return self._trained[key]


def _build(
    run: config_lib.Run, texts: Sequence[documents.Document]
) -> tokenizers.Tokenizer:
  some = lambda config: documents.spread(texts) if config.kind in _COUNTING else texts
  if run.encoder_tokenizer is None:
    return tokenizers.build(run.tokenizer, documents.texts(some(run.tokenizer)))
  # Each side is trained on its own texts: what an input alone needs must take no room
  # among the tokens of answers.
  return tokenizers.for_both_sides(
      tokenizers.build(run.encoder_tokenizer, (
          text.input for text in some(run.encoder_tokenizer))),
      tokenizers.build(run.tokenizer, (text.target for text in some(run.tokenizer))))


def _texts_key(config: config_lib.Data) -> str:
  # Lengths, noise and direction act on tokens: data sets that differ in them alone
  # share their texts.
  return repr(dataclasses.replace(
      config, length=2, buckets=(), corrupt=config_lib.Corrupt(), reverse=False))
