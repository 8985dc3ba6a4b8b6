"""Helpers that run commands in the process of the test."""

import json
import re

import pytest

from transfer_gen import __main__ as main

CONFIG = '''
from transfer_gen import config
from transfer_gen.transfer import axes, plan
Group, On, Rule = plan.Group, plan.On, plan.Rule

def get_config(name="text"):
  return config.Run(
      model=config.Decoder(num_layers=1, width=8, num_heads=2, max_length=32),
      data=config.Data(name="files", train="text.txt", length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=1),
      train=config.Train(steps=2, batch_size=8, log_every=1, eval_every=2,
                         checkpoint_every=1),
      source=config.Source(path="first") if name == "moved" else None,
      transfer=_plan if name == "moved" else None)

def _plan(run):
  return plan.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\\1"),),
      axes=(On(axis="vocab", map=axes.MatchTokens()),),
      groups=(Group(name="all", params=".*"),))
'''


def run(capsys, *words):
  """Runs a command that succeeds, and returns what it prints."""
  main.run(["transfer-gen", *words])
  printed = capsys.readouterr().out
  if words[0] == "plan":  # Whatever a test plans must fit a terminal.
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    assert max(map(len, plain.splitlines()), default=0) <= 100, plain
  return printed


def stopped(capsys, *words):
  """Runs a command that exits, and returns the exit code and what it printed."""
  with pytest.raises(SystemExit) as exit_:
    main.run(["transfer-gen", *words])
  return exit_.value.code, capsys.readouterr()


def refused(capsys, *words):
  """Runs a command that fails because of a user error, and returns its message."""
  code, printed = stopped(capsys, *words)
  assert code == 2 and "Traceback" not in printed.err
  assert printed.err.count("transfer-gen: ") == 1
  return printed.err


def train(capsys, *words):
  """Runs `train`, and returns the result that its last line contains."""
  return json.loads(run(capsys, "train", *words).splitlines()[-1])


def train_source(folder, capsys):
  """Trains the source of `config.py:moved`, then writes the text of the target."""
  result = train(capsys, "--config=config.py", "--workdir=first")
  (folder / "text.txt").write_text(
      "".join(f"another text: {i} zebras & {i * 3} quails\n" for i in range(200)))
  return result


def plan(capsys, *words):
  """Runs `plan` for `config.py:moved`, and returns what it prints."""
  return run(capsys, "plan", "--config=config.py:moved", *words)
