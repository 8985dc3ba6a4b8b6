"""Tests that interrupted runs with every kind of group resume bit for bit."""

import dataclasses
import shutil

import numpy as np
import pytest

from tests import small_runs
from transfer_gen import config
from transfer_gen import sources
from transfer_gen.config import codec
from transfer_gen.models import registry
from transfer_gen.run import loop
from transfer_gen.train import fisher
from transfer_gen.transfer import audit as audit_lib
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib

Group, Rule = plan_lib.Group, plan_lib.Rule
STEPS, UNFREEZE = 7, 4


def _run(folder, text, **fields):
  return small_runs.configure(
      folder / text, dataclasses.replace(small_runs.DECODER, dropout=0.1), steps=STEPS,
      checkpoint_every=1, **fields)


def _transfer(folder):
  return plan_lib.TransferPlan(
      rules=(Rule(target="(.*)", source=r"\1"),),
      axes=(plan_lib.On(axis="vocab", map=axes.MatchTokens(fresh="mean")),),
      groups=(
          Group(name="new", params="embed/.*", table_rows="fresh",
                anchor=plan_lib.L2SP(alpha=0.1, beta=0.1)),
          Group(name="attention", params=".*/attn/.*", anchor=plan_lib.Mixout(p=0.5),
                unfreeze_step=UNFREEZE, schedule="linear", weight_decay=0.0),
          Group(name="mlp", params=".*/mlp/.*", anchor=plan_lib.EWC(
              strength=5.0, fisher=str(folder / "fisher.npz"))),
          Group(name="rest", params=".*", unfreeze_step=None)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Trains a source and a run that starts from it, and keeps all checkpoints of it."""
  path = tmp_path_factory.mktemp("groups")
  small_runs.write_lines(path / "source.txt")
  small_runs.write_lines(path / "target.txt", " zxqw!")
  loop.train(_run(path, "source.txt"), path / "source")
  source = sources.open(path / "source")
  model = registry.build(codec.read_run(path / "source").model)
  generator = np.random.default_rng(0)
  tokens = generator.integers(0, 10, (8, 9)).astype(np.int32)
  fisher.save(path / "fisher.npz", fisher.estimate(
      model, dict(source.read(list(source.specs))),
      [{"inputs": tokens[:, :-1], "targets": tokens[:, 1:],
        "weights": np.ones((8, 8), np.float32)}]))
  loop.train(_target(path), path / "whole")
  return path


def _target(folder):
  return _run(folder, "target.txt", transfer=_transfer(folder), source=config.Source(
      path=str(folder / "source"))).with_values("train", keep=STEPS)


def _state(workdir, step):
  return small_runs.optimizer_state(workdir, step) | small_runs.params(workdir, step)


@pytest.mark.parametrize("step", [
    UNFREEZE, *(pytest.param(step, marks=pytest.mark.long)
                for step in (UNFREEZE - 2, UNFREEZE + 2))])
def test_a_run_interrupted_near_an_unfreeze_step_resumes_bit_for_bit(folder, step):
  cut = folder / f"cut_{step}"
  shutil.copytree(folder / "whole", cut)
  for later in range(step + 1, STEPS + 1):
    shutil.rmtree(cut / "checkpoints" / str(later))
  shutil.rmtree(cut / "checkpoints" / "best")

  loop.train(_target(folder), cut)

  whole, resumed = (_state(folder / name, STEPS) for name in ("whole", cut.name))
  assert whole.keys() == resumed.keys()
  for key, value in whole.items():
    np.testing.assert_array_equal(value, resumed[key], err_msg=str(key))
  losses = [[line["loss"] for line in small_runs.metrics(folder / name)]
          for name in ("whole", cut.name)]
  assert losses[0] == losses[1]


def test_optimizer_state_and_anchors_appear_at_the_unfreeze_step(folder):
  early, late = (_state(folder / "whole", step) for step in (UNFREEZE, STEPS))

  assert {key[0] for key in early if isinstance(key, tuple)} == {"new", "mlp"}
  assert {key[0] for key in late if isinstance(key, tuple)} == {
      "new", "mlp", "attention"}
  kernel = "layer_0/attn/query/kernel"
  held = late["attention", 3, kernel, "source"]
  np.testing.assert_array_equal(held, early[kernel])
  assert not np.array_equal(held, late[kernel])
  start = dict(sources.open(folder / "source").read([kernel]))[kernel]
  np.testing.assert_array_equal(held, start)


def test_only_fresh_rows_of_the_embedding_are_updated(folder):
  early, late = (_state(folder / "whole", step)["embed/embedding"]
                 for step in (1, STEPS))
  row = next(row for row in audit_lib.read(folder / "whole").rows
             if row.name == "embed/embedding")

  moved = np.flatnonzero((np.asarray(early) != np.asarray(late)).any(1))

  assert 0 < len(row.table.index) < early.shape[0] == late.shape[0]
  np.testing.assert_array_equal(moved, row.table.index)
  assert (f"rows {len(row.table.index)} of {early.shape[0]}"
          in (folder / "whole" / "audit.txt").read_text())
