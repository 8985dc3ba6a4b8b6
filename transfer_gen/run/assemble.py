"""From a config to all that a run needs, decided before an array is read."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
from flax import linen as nn

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen import tree
from transfer_gen.adapters import wrap as adapters_lib
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.distill import loss
from transfer_gen.distill import teacher as teacher_lib
from transfer_gen.formats import raw
from transfer_gen.models import registry
from transfer_gen.run import strategies
from transfer_gen.sources import foreign
from transfer_gen.sources import peft
from transfer_gen.sources import word_vectors
from transfer_gen.train import features
from transfer_gen.train import moments
from transfer_gen.train import optim as optim_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """A run, assembled.

  Attributes:
    run: Its config, with the vocabulary's size filled in.
    data: Tokenised splits.
    model: The module.
    specs: Spec of each param.
    plan: What reaches and what learns.
    rows: The plan, leaf by leaf.
    sources: Checkpoints by their name in the plan.
    source_tokenizers: Tokenizers of the sources, where axis maps may ask for them.
    optimizer: What updates what learns.
    first: The layer that training starts from, where features are stored; 0: none are.
    teacher: What the model learns from beside the data.
  """
  run: config_lib.Run
  data: pipeline.Prepared
  model: nn.Module
  specs: dict[str, tree.Spec]
  plan: plan_lib.TransferPlan
  rows: list[resolve.Row]
  sources: Mapping[
      str, checkpoint.Stored | foreign.Foreign | word_vectors.WordVectors]
  source_tokenizers: Mapping[str, tokenizers.Tokenizer]
  optimizer: optim_lib.Optimizer
  first: int
  teacher: teacher_lib.Teacher | None

  @property
  def source_specs(self) -> dict[str, Mapping[str, tree.Spec]]:
    """Specs of each source."""
    return {name: source.specs for name, source in self.sources.items()}


def build(run: config_lib.Run, workdir: epath.PathLike) -> Setup:
  """Reads data, builds the model and resolves the plan; writes nothing.

  Args:
    run: The config.
    workdir: A tokenizer that was saved here is used again.

  Raises:
    errors.UserError: For whatever in `run` does not exist or does not fit.
  """
  _check(run)
  sources = _sources(run)
  texts, facts = documents.load(run.data)
  tokenizer = _tokenizer(run, epath.Path(workdir), texts)
  model = model_config(run.model, tokenizer)
  run = dataclasses.replace(run, model=model)
  source_tokenizers = _source_tokenizers(sources)
  plan = _plan(run, "" in source_tokenizers)
  if not plan.axes:
    source_tokenizers = {}
  data = pipeline.prepare(
      run.data, texts, tokenizer, facts, model if registry.encodes(model) else None)
  resolved = functools.partial(
      resolve.resolve,
      sources={name: source.specs for name, source in sources.items()},
      vocabularies={
          **{name: vocabulary.Vocabulary(tokens=t.tokens, roles=t.roles)
             for name, t in source_tokenizers.items()},
          **{name: source.vocabulary for name, source in sources.items()
             if plan.axes and isinstance(source, word_vectors.WordVectors)},
          resolve.TARGET: vocabulary.Vocabulary(
              tokens=tokenizer.tokens, roles=tokenizer.roles,
              counts=data.token_counts)},
      constants={
          **{name: source.constants for name, source in sources.items()},
          resolve.TARGET: registry.constants(model)})
  if run.strategy.name:
    run = strategies.write(run, plan, resolved(plan, target=registry.specs(
        adapters_lib.wrap(registry.build(model), run.adapters))))
    plan = run.transfer
  teacher = run.distill and teacher_lib.of(
      run.distill, open_source("distill.teacher", run.distill.teacher), model, data)
  module = loss.student(
      adapters_lib.wrap(registry.build(model), run.adapters), teacher)
  if run.strategy.name and isinstance(module, loss.Student):
    run = strategies.with_drawn(
        run, "projections", strategies.PROJECTIONS, "to the teacher's widths")
    plan = run.transfer
  specs = registry.specs(module)
  rows = resolved(plan, target=specs)
  adapters_lib.check_scales(rows, adapters_lib.scales(run.adapters, specs), {
      name: getattr(source, "scales", {}) for name, source in sources.items()})
  first = features.first(run, rows)
  loss.check_first(teacher, first)
  optimizer = optim_lib.build(run.optim, plan.groups, rows, run.train.steps)
  rows = moments.mark(rows, optimizer, sources, frozenset(
      name for name, source in run.all_sources().items() if source.moments))
  return Setup(
      run=run, data=data, model=module, specs=specs, plan=plan, rows=rows,
      sources=sources, source_tokenizers=source_tokenizers,
      optimizer=optimizer, first=first, teacher=teacher)


def _sources(run: config_lib.Run):
  """Every source by its name in the plan; adapters of PEFT's beside the unnamed one."""
  found = {}
  for name, source in run.all_sources().items():
    opened = _opened(name, source)
    if peft.recognizes(opened):
      base = found.get("")
      model = base.model if isinstance(base, foreign.Foreign) else (
          dataclasses.replace(run.model, vocab_size=run.model.vocab_size or 1))
      found[name] = peft.Adapter(opened, model, base)
    else:
      found[name] = _viewed(opened, source)
  return found


def open_source(
    name: str, source: config_lib.Source
) -> checkpoint.Stored | foreign.Foreign | word_vectors.WordVectors:
  """A source as a plan reads it: under our names, whatever framework it is of.

  Args:
    name: Its name in the plan.
    source: Where it is.

  Raises:
    errors.UserError: If nothing is there that can be read so.
  """
  return _viewed(_opened(name, source), source)


def _opened(name, source):
  if not source.path:
    field = name if "." in name else f"sources[{name!r}]" if name else "source"
    raise errors.UserError(
        f"{field}.path is empty: give the workdir of the run to transfer from.")
  return sources_lib.open(source.path, source.step)


def _viewed(opened, source):
  """What was opened, under our names."""
  if isinstance(opened, raw.Raw):
    return foreign.view(opened, source.map, source.vocabulary)
  if source.map:
    kind = ("word vectors need" if isinstance(opened, word_vectors.WordVectors)
            else "a checkpoint of ours needs")
    raise errors.UserError(
        f"{source.path}: {kind} no map, and {source.map!r} is given.")
  return opened


def model_config(model: Any, tokenizer: tokenizers.Tokenizer) -> Any:
  """The model's config with the size of the vocabulary.

  Raises:
    errors.UserError: If the model has fewer rows than the tokenizer has tokens, or
      its answers begin with none of them.
  """
  for field in ("vocab_size", "source_vocab_size")[:1 + registry.encodes(model)]:
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


def _plan(run: config_lib.Run, matches: bool) -> plan_lib.TransferPlan:
  """The run's plan; under a strategy, the one that it begins with."""
  if run.strategy.name:
    return strategies.base(run, matches)
  plan = run.transfer(run) if callable(run.transfer) else run.transfer
  return plan_lib.SCRATCH if plan is None else plan


def _tokenizer(run, workdir, texts):
  if (workdir / tokenizers.FOLDER).exists():
    return tokenizers.load(workdir / tokenizers.FOLDER)
  return tokenizers.build(run.tokenizer, documents.texts(texts["train"]))


def _source_tokenizers(sources):
  """Of each source whose workdir holds one, or that has one beside it."""
  found = {}
  for name, source in sources.items():
    if isinstance(source, (foreign.Foreign, peft.Adapter)):
      if source.tokenizer is not None:
        found[name] = source.tokenizer
      continue
    if isinstance(source, word_vectors.WordVectors):
      continue  # Words, which no text is cut into.
    folder = next((parent / tokenizers.FOLDER for parent in source.path.parents
                   if (parent / tokenizers.FOLDER).exists()), None)
    if folder is not None:
      found[name] = tokenizers.load(folder)
  return found


def _check(run: config_lib.Run) -> None:
  strategies.check(run)
  for field in ("steps", "batch_size", "log_every", "eval_every",
                "checkpoint_every"):
    if getattr(run.train, field) < 1:
      raise errors.UserError(
          f"train.{field} is {getattr(run.train, field)}, must be at least 1.")
  if run.optim.accumulate < 1:
    raise errors.UserError(
        f"optim.accumulate is {run.optim.accumulate}, must be at least 1.")
  if run.train.batch_size % run.optim.accumulate:
    raise errors.UserError(
        f"train.batch_size is {run.train.batch_size} and optim.accumulate"
        f" {run.optim.accumulate}, which does not divide it.")
  if run.parallel.mode not in ("jit", "pmap"):
    raise errors.UserError(
        f"parallel.mode is {run.parallel.mode!r}, must be 'jit' or 'pmap'.")
