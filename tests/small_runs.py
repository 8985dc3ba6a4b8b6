"""Helpers that configure runs of about a second and read what they leave behind."""

import json
import pathlib
from typing import Any

import numpy as np

from transfer_gen import checkpoint
from transfer_gen import config as config_lib
from transfer_gen import sources

DECODER = config_lib.Decoder(num_layers=1, width=8, num_heads=2, max_length=32)
RNN = config_lib.Recurrent(cell="rnn", num_layers=1, embed_width=8, hidden_width=8)


def configure(
    text: pathlib.Path | str, model: Any, *, steps: int, length: int = 16,
    log_every: int = 1, eval_every: int = 0, checkpoint_every: int = 0,
    lr: float = 1e-3,
    **fields: Any,
) -> config_lib.Run:
  """Configures a run on a text file with character tokens and 8 rows per batch.

  Args:
    text: Path of the text file.
    model: Config of the model.
    steps: Number of training steps.
    length: Tokens per row.
    log_every: Steps between two lines of training metrics.
    eval_every: Steps between two validations. 0 means only at the end.
    checkpoint_every: Steps between two checkpoints. 0 means only at the end.
    lr: Learning rate after one step of warm-up.
    **fields: Other fields of the run; they replace those set here.
  """
  return config_lib.Run(**{
      "model": model,
      "data": config_lib.Data(name="files", train=str(text), length=length),
      "tokenizer": config_lib.Tokenizer(kind="characters"),
      "optim": config_lib.Optim(warmup_steps=1, lr=lr),
      "train": config_lib.Train(
          steps=steps, batch_size=8, log_every=log_every,
          eval_every=eval_every or steps,
          checkpoint_every=checkpoint_every or steps),
      **fields})


def write_lines(path: pathlib.Path, ending: str = "") -> None:
  """Writes 99 short lines. An ending with other characters changes the vocabulary."""
  path.write_text("\n".join(f"line {i}, {i * 7 % 13}{ending}" for i in range(99)))


def params(workdir: pathlib.Path, step: int = -1) -> dict[str, np.ndarray]:
  """Returns the params of a checkpoint by name. Step -1 means the best checkpoint."""
  source = sources.open(workdir, step)
  return {name: np.asarray(value) for name, value in source.read(list(source.specs))}


def optimizer_state(workdir: pathlib.Path, step: int = -1) -> dict[Any, Any]:
  """Returns the optimizer state of a checkpoint by path; empty if none was saved."""
  stored = checkpoint.find(workdir, step)
  return stored.read_state(dict.fromkeys(stored.state)) if stored.state else {}


def metrics(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the lines of the metrics file of a run."""
  return [*map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())]
