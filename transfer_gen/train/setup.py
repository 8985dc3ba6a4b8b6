"""From a config to all that a run needs, decided before an array is read."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
from flax import linen as nn

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import errors
from transfer_gen import sources as sources_lib
from transfer_gen import tree
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.sources import foreign
from transfer_gen.sources import raw
from transfer_gen.train import moments
from transfer_gen.train import optim as optim_lib
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import resolve
from transfer_gen.transfer import vocabulary

TOKENIZER = "tokenizer"  # The folder in a workdir.


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
  """
  run: config_lib.Run
  data: pipeline.Prepared
  model: nn.Module
  specs: dict[str, tree.Spec]
  plan: plan_lib.TransferPlan
  rows: list[resolve.Row]
  sources: Mapping[str, checkpoint.Stored | foreign.Foreign]
  source_tokenizers: Mapping[str, tokenizers.Tokenizer]
  optimizer: optim_lib.Optimizer

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
  sources = {name: _open(name, source) for name, source in run.all_sources().items()}
  texts, facts = documents.load(run.data)
  tokenizer = _tokenizer(run, epath.Path(workdir), texts)
  model = model_config(run.model, tokenizer)
  run = dataclasses.replace(run, model=model)
  module = registry.build(model)
  specs = registry.specs(module)
  plan = run.transfer(run) if callable(run.transfer) else run.transfer
  plan = plan_lib.SCRATCH if plan is None else plan
  source_tokenizers = _source_tokenizers(sources) if plan.axes else {}
  data = pipeline.prepare(run.data, texts, tokenizer, facts)
  rows = resolve.resolve(
      plan, {name: source.specs for name, source in sources.items()}, specs,
      {**{name: vocabulary.Vocabulary(tokens=t.tokens, roles=t.roles)
          for name, t in source_tokenizers.items()},
       resolve.TARGET: vocabulary.Vocabulary(
           tokens=tokenizer.tokens, roles=tokenizer.roles, counts=data.token_counts)},
      {**{name: source.constants for name, source in sources.items()},
       resolve.TARGET: registry.constants(model)})
  optimizer = optim_lib.build(run.optim, plan.groups, rows, run.train.steps)
  rows = moments.mark(rows, optimizer, sources, frozenset(
      name for name, source in run.all_sources().items() if source.moments))
  return Setup(
      run=run, data=data, model=module, specs=specs, plan=plan, rows=rows,
      sources=sources, source_tokenizers=source_tokenizers,
      optimizer=optimizer)


def _open(
    name: str, source: config_lib.Source) -> checkpoint.Stored | foreign.Foreign:
  if not source.path:
    field = f"sources[{name!r}]" if name else "source"
    raise errors.UserError(
        f"{field}.path is empty: give the workdir of the run to transfer from.")
  opened = sources_lib.open(source.path, source.step)
  if isinstance(opened, raw.Raw):
    return foreign.view(opened, source.map, source.vocabulary)
  if source.map:
    raise errors.UserError(
        f"{source.path}: a checkpoint of ours needs no map, and {source.map!r} is"
        " given.")
  return opened


def model_config(model: Any, tokenizer: tokenizers.Tokenizer) -> Any:
  """The model's config with the size of the vocabulary.

  Raises:
    errors.UserError: If the model has fewer rows than the tokenizer has tokens.
  """
  if not model.vocab_size:
    return dataclasses.replace(model, vocab_size=tokenizer.size)
  if model.vocab_size < tokenizer.size:
    raise errors.UserError(
        f"model.vocab_size is {model.vocab_size} and the tokenizer has"
        f" {tokenizer.size} tokens. Leave it at 0 to take the tokenizer's.")
  return model


def _tokenizer(run, workdir, texts):
  if (workdir / TOKENIZER).exists():
    return tokenizers.load(workdir / TOKENIZER)
  return tokenizers.build(run.tokenizer, documents.texts(texts["train"]))


def _source_tokenizers(sources):
  """Of each source whose workdir holds one, or that has one beside it."""
  found = {}
  for name, source in sources.items():
    if isinstance(source, foreign.Foreign):
      if source.tokenizer is not None:
        found[name] = source.tokenizer
      continue
    folder = next((parent / TOKENIZER for parent in source.path.parents
                   if (parent / TOKENIZER).exists()), None)
    if folder is not None:
      found[name] = tokenizers.load(folder)
  return found


def _check(run: config_lib.Run) -> None:
  for field in ("steps", "batch_size", "log_every", "eval_every",
                "checkpoint_every"):
    if getattr(run.train, field) < 1:
      raise errors.UserError(
          f"train.{field} is {getattr(run.train, field)}, must be at least 1.")
  if run.train.batch_size % run.optim.accumulate:
    raise errors.UserError(
        f"train.batch_size is {run.train.batch_size} and optim.accumulate"
        f" {run.optim.accumulate}, which does not divide it.")
  if run.parallel.mode not in ("jit", "pmap"):
    raise errors.UserError(
        f"parallel.mode is {run.parallel.mode!r}, must be 'jit' or 'pmap'.")
