"""Learns to draw: a variational autoencoder of pen strokes (sketch-rnn)."""

from transfer_gen.config import (
    Corrupt,
    Data,
    Decoding,
    Objective,
    Optim,
    Run,
    Sketch,
    Term,
    Tokenizer,
    Train,
)


# Noise, annealing and its floor are those of Ha and Eck (2018). Their w_KL of 0.5 is a
# weight of 0.5 * length / latent_width here, about 1 for rows of 250 points. A source
# is copied leaf by leaf; `tokenizer.kind=source` also keeps its scale.
def get_config() -> Run:
  """Returns the run; `data.train` has to be set, and `source.path` may be."""
  return Run(
      model=Sketch(),
      data=Data(name="files", length=250,
                corrupt=Corrupt(stretch=0.1, drop_points=0.1)),
      tokenizer=Tokenizer(kind="strokes"),
      objective=Objective(
          bivariate=Term(), kl=Term(schedule="exponential", start=0.01, decay=0.9995),
          kl_min=0.2),
      optim=Optim(lr=0, warmup_steps=-1),
      train=Train(steps=0, batch_size=100, log_every=0, eval_every=0,
                  checkpoint_every=0, patience=5),
      decoding=Decoding(num=16, temperature=0.4))
