"""Learns to write text like yours, from a checkpoint or from scratch."""

from transfer_gen.config import Data, Optim, Run, Tokenizer, Train


# In all recipes, sizes and rates of 0 and a warm-up of -1 are open: they are chosen
# from the data, the model and the devices when a run begins. The steps that are chosen
# may be many epochs, so patience ends a run that has begun to overfit.
def get_config() -> Run:
  """Returns the run; `data.train` has to be set, and `source.path` may be."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", length=0),
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))
