"""Tests for the learning rates that the runs of a study try."""

import json

from etils import epath
import pytest

from transfer_gen import config
from transfer_gen.study import grid
from transfer_gen.study import jobs


def _grid(**changes):
  return grid.Grid(config.Study(**{
      "question": "?", "runs": {name: config.Run() for name in "abcd"},
      "pairs": (("a", "b"), ("c", "d")), "lrs": (0.1, 0.2, 0.3), **changes}))


def _trained(folder, name, losses):
  """Trainings of a run with these validation losses by learning rate."""
  found = []
  for lr, loss in losses.items():
    workdir = epath.Path(folder) / name / str(lr)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "split": "validation", "loss": loss}) + "\n")
    found.append(jobs.Job(
        name=name, seed=0, lr=lr, workdir=workdir, run=config.Run()))
  return found


@pytest.mark.parametrize("losses, rates", [
    ({0.1: 2, 0.2: 1, 0.3: 2}, (0.1, 0.2, 0.3)),  # The best one lies within.
    ({0.1: 3, 0.2: 2, 0.3: 1}, (0.1, 0.2, 0.3, 0.9)),
    ({0.1: 1, 0.2: 2, 0.3: 3}, (0.1, 0.2, 0.3, 0.0333)),
    ({0.1: 2, 0.2: 1}, (0.1, 0.2, 0.3)),  # The last one diverged: it is the edge.
    ({0.1: 1, 0.2: 1, 0.3: 1}, (0.1, 0.2, 0.3)),  # No rate is better than another.
    ({}, (0.1, 0.2, 0.3)),
])
def test_a_grid_grows_beyond_the_edge_at_which_its_best_rate_lies(
    losses, rates, tmp_path):
  found = _grid()
  inner = _trained(tmp_path, "b", {0.1: 2, 0.2: 1, 0.3: 2})

  grows = found.widen({"a": _trained(tmp_path, "a", losses), "b": inner})

  assert found.of("a") == found.of("b") == rates and grows == (len(rates) > 3)
  assert found.of("c") == found.of("d") == (0.1, 0.2, 0.3)  # Of no pair with a or b.


def test_edges_of_both_runs_count_and_a_grid_grows_at_most_so_often(tmp_path):
  found = _grid(widen=2)
  falls, grows = {0.1: 3, 0.2: 2, 0.3: 1}, {0.1: 1, 0.2: 2, 0.3: 3}
  trained = lambda: {"a": _trained(tmp_path, "a", falls),
                     "b": _trained(tmp_path, "b", grows)}

  assert found.widen(trained()) and found.of("a") == (0.1, 0.2, 0.3, 0.0333, 0.9)
  falls[0.9], grows[0.9], falls[0.0333], grows[0.0333] = 0.5, 4, 4, 0.5
  assert found.widen(trained())
  assert found.of("b") == (0.1, 0.2, 0.3, 0.0333, 0.9, 0.0111, 2.7)
  falls[2.7], grows[2.7], falls[0.0111], grows[0.0111] = 0.1, 5, 5, 0.1
  assert not found.widen(trained()) and len(found.of("b")) == 7


def test_a_single_rate_has_no_edge(tmp_path):
  for lrs in ((), (0.1,)):
    found = _grid(lrs=lrs)
    assert not found.widen({"a": _trained(tmp_path, "a", {0.1: 1})})
    assert found.of("a") == lrs


def test_a_search_has_its_own_rate_alone(tmp_path):
  runs = {"a": config.Run(strategy=config.Strategy(name="auto")), "b": config.Run()}
  study = config.Study(question="?", runs=runs, pairs=(("a", "b"),), lrs=(0.1, 0.2))
  found = grid.Grid(study)

  grows = found.widen({"a": _trained(tmp_path, "a", {0.001: 1}),
                       "b": _trained(tmp_path, "b", {0.1: 2, 0.2: 1})})

  assert grows and found.of("b") == (0.1, 0.2, 0.6) and found.of("a") == ()
  assert [job.lr for job in jobs.of_run(study, tmp_path, "a", found.of("a"))] == [
      runs["a"].optim.lr]
  assert "a" not in found.added({"a": (), "b": (0.1, 0.2)})[0].split(":")[0]


def test_a_control_with_more_steps_has_a_grid_that_is_widened_for_it_alone(tmp_path):
  study = config.Study(
      question="?", runs={name: config.Run() for name in ("a", "b", "b_x2")},
      pairs=(("a", "b"),), lrs=(0.1, 0.2, 0.3), widen=2)
  found = grid.Grid(study)
  falls, inner = {0.1: 3, 0.2: 2, 0.3: 1}, {0.1: 2, 0.2: 1, 0.3: 2}
  assert found.widen({"a": _trained(tmp_path, "a", falls)})  # To 0.9.
  study.pairs = (*study.pairs, ("a", "b_x2"))  # As `study` adds it, in place.
  found.add_longer("b_x2")
  assert found.of("b_x2") == (0.1, 0.2, 0.3)
  edge = {0.1: 1, 0.2: 2, 0.3: 3}
  trained = lambda: {
      "a": _trained(tmp_path, "a", inner), "b": _trained(tmp_path, "b", inner),
      "b_x2": _trained(tmp_path, "b_x2", edge)}

  for rate in (0.0333, 0.0111):  # As often as the study says, whatever others took.
    assert found.widen(trained()) and found.of("b_x2")[-1] == rate
    edge[rate] = 0.5 * min(edge.values())
  assert not found.widen(trained())

  assert found.of("a") == found.of("b") == (0.1, 0.2, 0.3, 0.9)
