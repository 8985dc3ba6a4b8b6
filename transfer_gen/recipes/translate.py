"""Translates: learns pairs of sentences, from a checkpoint or from scratch."""

from transfer_gen.config import Data, Decoding, Optim, Run, Tokenizer, Train


def get_config() -> Run:
  """Returns the run; `data.train` has to be set, e.g. to `corpus.en|corpus.de`."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", input_field="input", target_field="target", length=0),
      optim=Optim(lr=0, schedule="inverse_sqrt", warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5),
      # As many beams as Vaswani et al. (2017) take, whose schedule stands above.
      decoding=Decoding(beams=4))
