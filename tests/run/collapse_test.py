"""Tests that what is meant to keep a latent in use does so."""

import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen.run import loop

# Texts of one letter each and two digits: who reads what stands before needs no latent.
MODEL = config.Recurrent(
    cell="gru", num_layers=1, embed_width=8, hidden_width=24, encoder=True,
    latent_width=4)


def _kl(folder, text, **fields):
  """Trains a run, and returns the nats that a text's latent has in validation."""
  corrupt = config.Corrupt(noise=("copy",), word_dropout=fields.pop("word_dropout"))
  run = small_runs.configure(
      text, MODEL, steps=400, length=12, log_every=100, lr=1e-2,
      tokenizer=config.Tokenizer(kind="characters", sentinels=1),
      data=config.Data(name="files", train=str(text), length=12, corrupt=corrupt),
      **fields)
  loop.train(run, folder)
  found = small_runs.metrics(folder)[-1]
  assert found["split"] == "validation"
  return found["kl"] * found["tokens"] / found["documents"]


@pytest.mark.long
def test_a_latent_collapses_without_annealing_and_word_dropout_and_not_with_them(
    tmp_path):
  text = tmp_path / "text.txt"
  draw = np.random.default_rng(0)
  text.write_text("".join(
      f"{letter * 8}{draw.integers(10, 100)}\n"
      for letter in draw.choice(list("abcdefghijklmnop"), 500)))
  plain = config.Objective(kl=config.Term())
  helped = config.Objective(
      kl=config.Term(schedule="linear", last_step=200), free_bits=0.1)

  without = _kl(tmp_path / "without", text, objective=plain, word_dropout=0.0)
  used = _kl(tmp_path / "with", text, objective=helped, word_dropout=0.7)

  assert without < 1 < used, (without, used)
