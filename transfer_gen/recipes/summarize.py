"""Summarizes: learns pairs of a document and its summary."""

from transfer_gen.config import Data, Decoding, Optim, Run, Tokenizer, Train


def get_config() -> Run:
  """Returns the run; `data.train` has to be set, to files with the two columns."""
  return Run(
      model="source", tokenizer=Tokenizer(kind="source", size=0),
      data=Data(name="files", input_field="document", target_field="summary", length=0),
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=0, log_every=0, eval_every=0, checkpoint_every=0,
                  patience=5),
      # Paulus et al. (2018) let no summary repeat a trigram; BART's checkpoint for
      # CNN/Daily Mail (Lewis et al., 2020) also has 4 beams and this limit.
      decoding=Decoding(beams=4, no_repeat_ngram=3))
