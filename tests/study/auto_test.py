"""Tests for `auto`, which searches among strategies within a budget of steps."""

import collections
import dataclasses
import itertools
import json
import pathlib
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from tests import counting
from tests import small_runs
from tests.comparing import assert_same_bits
from tests.study import events_test
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import tree
from transfer_gen.data import documents
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.run import loop
from transfer_gen.run import trained as trained_lib
from transfer_gen.study import auto
from transfer_gen.study import candidates
from transfer_gen.study import decision
from transfer_gen.study import gradients

BUDGET, STEPS = 40, 16
# Calls of the functions that read data, counted while the fixture searches.
_READING: collections.Counter[str] = collections.Counter()


def _run(folder, name, **fields):
  return small_runs.configure(
      folder / f"{name}.txt", small_runs.RNN, steps=STEPS, log_every=4, eval_every=4,
      checkpoint_every=4, lr=0.01, **fields)


def _target(folder, **strategy):
  return _run(folder, "target", source=config.Source(path=str(folder / "source_run")),
              strategy=config.Strategy(**strategy))


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """Trains a source and an `auto` run that starts from it."""
  folder = tmp_path_factory.mktemp("auto")
  small_runs.write_lines(folder / "source.txt")
  small_runs.write_lines(folder / "target.txt", " zxqw!")
  loop.train(_run(folder, "source"), folder / "source_run")
  with counting.calls((documents, "read_filtered"), (pipeline, "prepare"),
                      (tokenizers, "build")) as counts:
    auto.train(_target(folder, name="auto", budget=BUDGET), folder / "auto",
               events=epath.Path(folder / "events"))
  _READING.update(counts)
  return folder


def test_a_search_reads_and_tokenizes_its_data_once(folder):
  assert _READING == {"read_filtered": 1, "prepare": 1, "build": 1}


def test_events_of_a_search_lie_where_they_were_asked_for_and_go_on_as_the_run(folder):
  found = events_test.runs(folder)
  winner = _decision(folder)["winner"]

  others = {f"events/auto/{name}" for name in _decision(folder)["losses"]
            if name != winner}
  assert {name for name in found if name != "source_run/tensorboard"} == {
      "events", *others}
  steps = [step for step, _ in events_test.values_of(found["events"])["train/loss"]]
  assert steps[-1] == STEPS
  assert [line["step"] for line in small_runs.metrics(folder / "auto")
          if line["split"] == "train"] == steps


def _decision(folder):
  return json.loads((folder / "auto" / decision.FOLDER / decision.DECISION).read_text())


def test_the_search_stays_within_its_budget(folder):
  losses = _decision(folder)["losses"]

  assert sum(max(map(int, tried)) for tried in losses.values()) <= BUDGET
  assert sorted(len(tried) for tried in losses.values()) == [1, 1, 1, 1, 1, 2, 3, 3]


def test_the_best_candidate_of_each_family_continues(folder):
  found = _decision(folder)
  losses = found["losses"]
  families = [["fine_tune", "fine_tune_lr_x0.3"],
              ["discriminative", "discriminative_lr_x2"]]
  families.append([name for name in losses if name not in sum(families, [])])

  assert {name for name in losses if len(losses[name]) > 1} == {
      min(family, key=lambda name: losses[name]["1"]) for family in families}
  last = {name: tried for name, tried in losses.items() if len(tried) == 3}
  dropped = [tried["5"] for tried in losses.values() if len(tried) == 2]
  assert max(tried["5"] for tried in last.values()) <= dropped[0]
  assert found["winner"] == min(last, key=lambda name: last[name]["15"])


def test_candidates_are_compared_by_validation_losses(folder):
  found = _decision(folder)
  trained = trained_lib.open(folder / "auto", 15)
  data, _ = trained.data(trained_lib.Reader())

  validation, test = (
      trained.score(data, split).metrics()["loss"] for split in ("validation", "test"))

  assert found["losses"][found["winner"]]["15"] == pytest.approx(validation) != test


def test_auto_matches_a_run_of_the_chosen_strategy(folder):
  strategy = auto.decided(
      _target(folder, name="auto", budget=BUDGET), folder / "auto").strategy
  alone = dataclasses.replace(_target(folder), strategy=strategy)

  loop.train(alone, folder / "alone")

  assert_same_bits(*(
      small_runs.params(folder / name, STEPS) for name in ("auto", "alone")))


def test_an_interrupted_auto_run_resumes_bit_for_bit(folder):
  run = _target(folder, name="auto", budget=BUDGET)
  before = small_runs.params(folder / "auto", STEPS)
  shutil.rmtree(folder / "auto" / "checkpoints" / str(STEPS))

  result = auto.train(run, folder / "auto")

  assert result["step"] == STEPS
  assert_same_bits(small_runs.params(folder / "auto", STEPS), before)


def test_the_link_best_of_a_search_names_the_run_that_the_winner_became(folder):
  search = folder / "auto" / decision.FOLDER

  assert (search / "best").readlink() == pathlib.Path("..")
  assert_same_bits(*map(small_runs.params, (search, folder / "auto")))


def test_the_report_lists_every_candidate_and_the_winner(folder):
  printed = (folder / "auto" / decision.FOLDER / "report.txt").read_text()

  found = _decision(folder)
  assert f"auto chose {found['winner']}" in printed
  assert all(name in printed for name in found["losses"])
  assert all(flag in printed for flag in found["overrides"])
  assert "<svg" in (folder / "auto" / decision.FOLDER / "report.html").read_text()


def test_the_cost_of_a_search_is_all_that_it_did_beside_the_run(folder):
  run, facts = _target(folder, name="auto", budget=BUDGET), _decision(folder)
  losses, flops = facts["losses"], facts["flops"]
  dropped = sum(flops.values()) - flops[facts["winner"]]
  model = run.model  # A recurrent layer, whose kernels take nearly all products.
  of_token = 2 * (model.embed_width + model.hidden_width) * model.hidden_width
  counted = facts["flops_beside"]
  setup = assemble.build(_target(folder, name="fine_tune"), folder / "none")
  batches = lambda found: sum(
      batch["inputs"].size for batch in found)  # Padding is computed as well.
  validation = batches(setup.data.evaluation_batches("validation", run.train.rows))
  training = batches(itertools.islice(
      setup.data.train_batches(run.train.rows, run.seed), 8))
  head = 2 * model.hidden_width * setup.specs["head/kernel"].shape[-1]

  assert auto.searched(folder / "auto") == dropped + counted
  assert counted == pytest.approx(
      (of_token + head) * (sum(map(len, losses.values())) * validation + 3 * training),
      rel=0.02)
  assert 0 < facts["seconds"] < 600


def test_relative_gradients_are_norm_ratios_per_layer(folder):
  setup = assemble.build(_target(folder, name="fine_tune"), folder / "none")
  params = {name: np.asarray(value, np.float64)
            for name, value in initial.params(setup).items()}
  found = gradients.relative_gradients(setup)

  batches = setup.data.train_batches(8, 0)
  several = [next(batches) for _ in range(8)]
  joined = {key: np.concatenate([batch[key] for batch in several])
            for key in several[0]}

  def loss(flat):
    logits = registry.build(setup.run.model).apply(
        {"params": tree.unflatten(flat)}, joined["inputs"],
        positions=joined["positions"])
    nll = -jax.numpy.take_along_axis(
        jax.nn.log_softmax(logits), joined["targets"][..., None], -1)[..., 0]
    return (nll * joined["weights"]).sum() / joined["weights"].sum()

  gradient = jax.jit(jax.grad(loss))(
      {name: value.astype(np.float32) for name, value in params.items()})
  norm = lambda flat: np.sqrt(sum(
      np.square(np.asarray(flat[name], np.float64)).sum()
      for name in flat if name.startswith("layer_0/")))
  assert found.keys() == {"head", "layer_0", "embed"}
  assert found["layer_0"] == pytest.approx(norm(gradient) / norm(params), rel=1e-4)


@pytest.mark.parametrize("budget, counts, expected", [
    (40, (8, 3, 2), [(8, 1), (3, 5), (2, 15)]),
    (240, (8, 3, 2), [(8, 6), (3, 30), (2, 90)])])
def test_the_rounds_share_the_budget(budget, counts, expected):
  assert candidates.rungs(budget, counts) == expected
  assert sum(count * (stop - before) for (count, stop), before in zip(
      expected, [0, *(stop for _, stop in expected)])) <= budget


def test_a_budget_below_the_minimum_is_refused():
  with pytest.raises(errors.UserError, match="must be at least 40 steps"):
    candidates.rungs(39, (8, 3, 2))


def test_auto_refuses_a_workdir_that_did_not_begin_with_a_search(folder):
  before = small_runs.params(folder / "source_run", STEPS)

  with pytest.raises(errors.UserError, match="did not begin with a search"):
    auto.train(_target(folder, name="auto", budget=BUDGET), folder / "source_run")

  assert_same_bits(small_runs.params(folder / "source_run", STEPS), before)


def test_a_diverging_candidate_never_wins(folder, monkeypatch):
  made = candidates.candidates({"head": 1.0, "layer_0": 0.5, "embed": 0.1})
  wild = dataclasses.replace(made["all"][0], lr_mult=1e30)
  monkeypatch.setattr(candidates, "candidates", lambda _: {
      "all": [wild], "by_layer": made["by_layer"][:1], "part": made["part"][:1]})

  auto.train(_target(folder, name="auto", budget=BUDGET), folder / "wild")

  facts = json.loads(
      (folder / "wild" / decision.FOLDER / decision.DECISION).read_text())
  assert facts["losses"]["fine_tune_lr_x1e+30"] == {"2": np.inf, "6": np.inf}
  assert facts["winner"] != "fine_tune_lr_x1e+30"
