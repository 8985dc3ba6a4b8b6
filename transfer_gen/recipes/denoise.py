"""Learns to restore corrupted text: a source for summaries and translation."""

from transfer_gen.config import Corrupt, Data, Optim, Run, Tokenizer, Train


def get_config() -> Run:
  """Returns the run; `data.train` has to be set, and `source.path` may be."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      # What BART was trained on (Lewis et al., 2020, section 3). A T5 checkpoint has
      # sentinels and no mask: with it, noise=("spans",) is the one that fits.
      data=Data(name="files", length=0,
                corrupt=Corrupt(noise=("sentences", "infilling"))),
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))
