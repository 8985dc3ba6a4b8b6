"""Learns to put texts into a vector and back: a variational autoencoder.

It samples new texts (`generate --prior`) and goes from one text to another
(`generate --interpolate=8 --prompt=A --prompt=B`). A recurrent language model of the
same sizes can be its source: `--config.source.path=PATH`.
"""

import dataclasses

from transfer_gen.config import (
  Corrupt,
  Data,
  Objective,
  Optim,
  Recurrent,
  Run,
  Term,
  Tokenizer,
  Train,
)
from transfer_gen.run import open_sources
from transfer_gen.transfer import autoencoder
from transfer_gen.transfer.axes import MatchTokens
from transfer_gen.transfer.plan import Group, On, Rule, SCRATCH, TransferPlan


# Without help the decoder learns to do without the latent, and the KL becomes 0.
# Against that its inputs are dropped (Bowman et al., 2016), the weight of the KL rises
# from 0 several times (Fu et al., 2019), and the first nats of each feature are free
# (Kingma et al., 2016).
def get_config() -> Run:
  """Returns the run; `data.train` has to be set, and `source.path` may be."""
  return Run(
      model=Recurrent(num_layers=1, embed_width=128, hidden_width=256, encoder=True,
                      latent_width=32, dropout=0.2),
      tokenizer=Tokenizer(kind="bpe", size=0, sentinels=1),  # With a mask.
      data=Data(name="files", length=0,
                corrupt=Corrupt(noise=("copy",), word_dropout=0.3)),
      objective=Objective(kl=Term(schedule="cyclic"), free_bits=0.05), transfer=plan,
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))


def plan(run: Run) -> TransferPlan:
  """Returns the plan: from a language model, from an autoencoder, or from scratch."""
  if run.source is None:
    return SCRATCH
  source = open_sources.one("source", run.source).model
  if getattr(source, "latent_width", 0):
    found = TransferPlan(rules=(Rule(target="(.*)", source=r"\1"),),
                         groups=(Group(name="all", params=".*"),))
  else:
    found = autoencoder.from_stacks(run.model)
  if run.tokenizer.kind == "source":
    return found
  return dataclasses.replace(found, axes=(On(axis="vocab", map=MatchTokens()),))
