"""A test that annealing keeps the latent of texts in use (Bowman et al., 2016)."""

import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen.run import loop

MODEL = config.Recurrent(
    cell="gru", num_layers=1, embed_width=8, hidden_width=24, encoder=True,
    latent_width=4)
STEPS = 400


def _nats(folder, text, kl):
  """Trains an autoencoder; returns the KL of a text from the prior in validation."""
  run = small_runs.configure(
      text, MODEL, steps=STEPS, log_every=STEPS, lr=1e-2,
      tokenizer=config.Tokenizer(kind="characters", sentinels=1),
      objective=config.Objective(kl=kl),
      data=config.Data(name="files", train=str(text), length=12,
                       corrupt=config.Corrupt(noise=("copy",))))
  loop.train(run, folder)
  found = small_runs.metrics(folder)[-1]
  assert found["split"] == "validation"
  return found["kl"] * found["tokens"] / found["documents"]


# A decoder that reads what stands before needs the latent for the first letter and the
# digits alone, which saves as many nats as it costs. With full weight from the first
# step on, the KL is pressed down before the decoder has learned to read the latent.
@pytest.mark.long
def test_a_latent_collapses_unless_the_weight_of_its_kl_rises_from_zero(tmp_path):
  draw, text = np.random.default_rng(0), tmp_path / "text.txt"
  text.write_text("".join(
      f"{letter * 8}{draw.integers(10, 100)}\n"
      for letter in draw.choice(list("abcdefghijklmnop"), 500)))

  # The schedule of this weight is all that differs; both end at 1.
  constant = _nats(tmp_path / "constant", text, config.Term())
  annealed = _nats(tmp_path / "annealed", text, config.Term(schedule="linear"))

  assert constant < 1 < annealed, (constant, annealed)
