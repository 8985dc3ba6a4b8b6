"""Tests for which runs share a compiled step."""

import dataclasses

import jax
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import programs
from transfer_gen.run import loop
from transfer_gen.run import stepping


@pytest.fixture(name="compiled")
def _compiled():
  """Counts what JAX compiles."""
  events = []

  def hear(event, duration, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
      events.append(kwargs)

  jax.monitoring.register_event_duration_secs_listener(hear)
  yield events
  jax.monitoring.unregister_event_duration_listener(hear)


def test_a_step_is_compiled_once_for_all_seeds_and_rates(
    tmp_path, compiled):
  small_runs.write_lines(tmp_path / "a.txt")
  run = small_runs.configure(tmp_path / "a.txt", small_runs.RNN, steps=2)
  counts = {}
  for seed in (0, 1):
    for lr in (0.01, 0.02):
      compiled.clear()
      mine = dataclasses.replace(run, seed=seed).with_values("optim", lr=lr)
      loop.train(mine, tmp_path / f"{seed}_{lr}")
      counts[seed, lr] = len(compiled)

  # All else was compiled in the first training.
  assert counts[0, 0.01] >= 1
  assert counts[0, 0.02] == counts[1, 0.01] == counts[1, 0.02] == 0
  # What is shared takes the steps that one of its own would take.
  stepping._RUNNERS.clear()
  loop.train(mine, tmp_path / "own")
  assert_same_bits(small_runs.params(tmp_path / "own"),
                   small_runs.params(tmp_path / "1_0.02"))
  losses = lambda name: [line["loss"] for line in small_runs.metrics(tmp_path / name)]
  assert losses("own") == losses("1_0.02") != losses("0_0.02")
  assert losses("own") != losses("1_0.01")


def test_programs_are_dropped_where_they_are_many_and_compiled_again(
    tmp_path, compiled):
  small_runs.write_lines(tmp_path / "a.txt")
  run = small_runs.configure(tmp_path / "a.txt", small_runs.RNN, steps=2)
  loop.train(run, tmp_path / "first")
  compiled.clear()

  kept = programs.drop(10**9)
  loop.train(run, tmp_path / "kept")
  assert not kept and not compiled

  assert programs.drop(0)
  loop.train(run, tmp_path / "dropped")
  assert compiled
  assert_same_bits(small_runs.params(tmp_path / "first"),
                   small_runs.params(tmp_path / "dropped"))


@pytest.mark.parametrize("part, values", [
    ("optim", {"weight_decay": 0.5}), ("optim", {"schedule": "constant"}),
    ("optim", {"clip_norm": 3.0}), ("train", {"steps": 3}),
    ("objective", {"label_smoothing": 0.25})])
def test_runs_whose_steps_differ_share_none(part, values, tmp_path):
  small_runs.write_lines(tmp_path / "a.txt")
  run = small_runs.configure(tmp_path / "a.txt", small_runs.RNN, steps=2)
  build = lambda run: stepping.runner(
      loop.assemble.build(run, tmp_path / "w"))

  assert build(run) is build(
      dataclasses.replace(run, seed=5).with_values("optim", lr=0.5))
  assert build(run) is not build(run.with_values(part, **values))
