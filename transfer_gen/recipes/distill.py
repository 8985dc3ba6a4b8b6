"""Teaches a model with fewer layers what the source knows.

Set the number of layers, `--config.model.num_layers=2`. The layers begin as some of the
source's, at even distances (DistilBERT: Sanh et al., 2019), and learn its outputs.
"""

from transfer_gen import errors
from transfer_gen.config import (
  Data,
  Distill,
  EncoderDecoder,
  Optim,
  Run,
  Tokenizer,
  Train,
)
from transfer_gen.run import open_sources
from transfer_gen.transfer import structure
from transfer_gen.transfer.plan import Group, Rule, TransferPlan


def get_config() -> Run:
  """Returns the run; `data.train`, `source.path` and the layers have to be set."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", length=0), transfer=plan, distill=Distill(),
      optim=Optim(lr=3e-4, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))


def plan(run: Run) -> TransferPlan:
  """Returns the plan that copies some of the source's layers."""
  # A config file cannot know how deep a source is, so the plan opens it and reads its
  # config. No array is read.
  large = None if run.source is None else open_sources.one("source", run.source).model
  # A model of drawings has no layers to count.
  deep, own = (getattr(model, "num_layers", 0) for model in (large, run.model))
  if not 0 < own < deep:
    raise errors.UserError(
        "recipe:distill needs a teacher, and fewer layers than it has: set"
        " --config.source.path=PATH and --config.model.num_layers=N.")
  layers = structure.layer_map(deep, own, "spread")
  prefix = "decoder/" if isinstance(large, EncoderDecoder) else ""
  # Layers first: the last rule matches their leaves as well, and the first match wins.
  return TransferPlan(
      rules=(*structure.depth(layers, prefix=prefix),
             Rule(target="(.*)", source=r"\1", why="the leaf of its name")),
      # Leaves of a source that nobody reads are an error unless the plan names them.
      unused_source=structure.unused_layers(layers, deep, prefix),
      groups=(Group(name="all", params=".*"),))
