"""Follows instructions: learns the answers to prompts, in a chat template."""

from transfer_gen.config import Data, Optim, Run, Tokenizer, Train


def get_config() -> Run:
  """Returns the run; `data.train` has to be set, to files with the two columns."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", input_field="prompt", target_field="answer", length=0,
                template="chat"),
      optim=Optim(lr=1e-4, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5))
