"""What a run reads from outside: checkpoints, texts and a tokenizer."""

from collections.abc import Mapping
import dataclasses
import hashlib
import tempfile
from typing import Any

from etils import epath

from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.run import checks
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary

Texts = Mapping[str, list[documents.Document]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """What runs read that differ in nothing but how they learn.

  Attributes:
    run: Config of the run, with the vocabulary size filled in.
    sources: Checkpoints by their names in the plan; no array was read.
    data: Tokenized splits, and the tokenizer.
  """
  run: config_lib.Run
  sources: Mapping[str, sources_lib.Source]
  data: pipeline.Prepared

  @property
  def constants(self) -> dict[str, Any]:
    """What the run's model computes beside its params, by name."""
    return registry.constants(self.run.model)

  def vocabularies(self) -> dict[str, vocabulary.Vocabulary]:
    """Vocabulary of each source that has one, by its name in the plan, and the target's.

    The target's stands under `resolve.TARGET`, and counts how often each token stands
    in the training split.
    """
    tokenizer = self.data.tokenizer
    found = {name: source.vocabulary for name, source in self.sources.items()}
    return {
        **{name: words for name, words in found.items() if words is not None},
        resolve.TARGET: vocabulary.Vocabulary(
            tokens=tokenizer.tokens, roles=tokenizer.roles,
            counts=self.data.token_counts)}

  def with_run(self, run: config_lib.Run) -> "Inputs":
    """Returns the same inputs for a run that reads the same and learns otherwise."""
    return dataclasses.replace(
        self, run=dataclasses.replace(run, model=self.run.model))


class Reader:
  """Reads the inputs of several runs: each data set and its tokens only once.

  A search tries many strategies on one data set, and a study repeats runs over seeds
  and learning rates. What was read stays in memory as long as the reader does.
  """

  def __init__(self):
    self._texts: dict[str, tuple[Texts, dict[str, Any]]] = {}
    self._trained: dict[tuple[str, str], tokenizers.Tokenizer] = {}
    self._tokenized: dict[tuple[str, str, str], pipeline.Prepared] = {}

  def read(self, run: config_lib.Run, workdir: epath.PathLike) -> Inputs:
    """Opens the sources of a run, reads its texts and tokenizes them; writes nothing.

    Args:
      run: Config of the run.
      workdir: If a tokenizer was saved here, it is used again.

    Raises:
      errors.UserError: If something that the config names does not exist or does not
        fit.
    """
    checks.check(run)
    sources = open_sources(run)
    tokenizer = self._tokenizer(run, epath.Path(workdir))
    model = model_config(run.model, tokenizer)
    return Inputs(
        run=dataclasses.replace(run, model=model), sources=sources,
        data=self.data(run.data, tokenizer, model))

  def texts(self, config: config_lib.Data) -> tuple[Texts, dict[str, Any]]:
    """Documents of each split, and the facts that data.json holds of them."""
    key = _texts_key(config)
    if key not in self._texts:
      self._texts[key] = documents.load(config)
    return self._texts[key]

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
    encoder = model if registry.encodes(model) else None
    key = (repr(config), _fingerprint(tokenizer), repr(encoder))
    if key not in self._tokenized:
      texts, facts = self.texts(config)
      self._tokenized[key] = pipeline.prepare(config, texts, tokenizer, facts, encoder)
    return self._tokenized[key]

  def _tokenizer(
      self, run: config_lib.Run, workdir: epath.Path) -> tokenizers.Tokenizer:
    texts, _ = self.texts(run.data)  # Reading fails before training begins.
    if (workdir / tokenizers.FOLDER).exists():
      return tokenizers.load(workdir / tokenizers.FOLDER)
    key = (repr(run.tokenizer), _texts_key(run.data))
    if key not in self._trained:
      self._trained[key] = tokenizers.build(
          run.tokenizer, documents.texts(texts["train"]))
    return self._trained[key]


def open_sources(run: config_lib.Run) -> dict[str, sources_lib.Source]:
  """Opens every source of a run, by its name in the plan.

  A folder that PEFT wrote adapts the model of the source without a name, or, if that is
  not known, the run's own model.

  Raises:
    errors.UserError: If a path is empty or holds nothing that can be read.
  """
  found: dict[str, sources_lib.Source] = {}
  own = dataclasses.replace(run.model, vocab_size=run.model.vocab_size or 1)
  for name, source in run.all_sources().items():
    field = f"sources[{name!r}]" if name else "source"
    found[name] = open_source(field, source, own, found.get(""))
  return found


def open_source(
    field: str, source: config_lib.Source, model: Any = None,
    base: sources_lib.Source | None = None,
) -> sources_lib.Source:
  """Opens what one field of a config names.

  Args:
    field: Name of the field, for messages.
    source: Its value.
    model: As of `sources.open`.
    base: As of `sources.open`.

  Raises:
    errors.UserError: If the path is empty or holds nothing that can be read.
  """
  if not source.path:
    raise errors.UserError(
        f"{field}.path is empty: give the workdir of the run to transfer from.")
  return sources_lib.open(
      source.path, source.step, map_name=source.map, vocabulary=source.vocabulary,
      model=model, base=base)


def model_config(model: Any, tokenizer: tokenizers.Tokenizer) -> Any:
  """Returns the config of a model with the vocabulary size filled in.

  Raises:
    errors.UserError: If the model has fewer rows than the tokenizer has tokens, or
      the token that its answers begin with is none of them.
  """
  for field in ("vocab_size", "encoder_vocab_size")[:1 + registry.encodes(model)]:
    if 0 < getattr(model, field) < tokenizer.size:
      raise errors.UserError(
          f"model.{field} is {getattr(model, field)} and the tokenizer has"
          f" {tokenizer.size} tokens. Leave it at 0 to take the tokenizer's.")
  if not model.vocab_size:
    model = dataclasses.replace(model, vocab_size=tokenizer.size)
  if registry.encodes(model) and model.start_token >= model.vocab_size:
    raise errors.UserError(
        f"model.start_token is {model.start_token}, and there are {model.vocab_size}"
        " tokens. Leave it at -1 to take the tokenizer's bos.")
  return model


def _texts_key(config: config_lib.Data) -> str:
  # Lengths act on tokens: data sets that differ in them alone share their texts.
  return repr(dataclasses.replace(config, length=2, buckets=()))


def _fingerprint(tokenizer: tokenizers.Tokenizer) -> str:
  """sha256 of the files that a tokenizer is saved as."""
  digest = hashlib.sha256()
  with tempfile.TemporaryDirectory() as folder:
    tokenizer.save(epath.Path(folder) / "tokenizer")
    for path in sorted((epath.Path(folder) / "tokenizer").iterdir()):
      digest.update(path.name.encode() + b"\0" + path.read_bytes())
  return digest.hexdigest()
