"""Tests for the objective of a run: what it records, and what it cannot have."""

import dataclasses

import numpy as np
import pytest

from tests import small_runs
from tests.comparing import assert_same_bits
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.run import assemble
from transfer_gen.run import evaluation
from transfer_gen.run import loop
from transfer_gen.run import stepping
from transfer_gen.run import trained as trained_lib
from transfer_gen.transfer import plan as plan_lib

Objective, Term = config.Objective, config.Term
MIXED = Objective(
    label_smoothing=0.2, z_loss=Term(weight=1e-2, schedule="linear", last_step=4))


DENOISER = config.Recurrent(
    cell="rnn", encoder=True, num_layers=1, embed_width=8, hidden_width=8)


@pytest.fixture(name="text", scope="module")
def _text(tmp_path_factory):
  text = tmp_path_factory.mktemp("objective") / "text.txt"
  small_runs.write_lines(text)
  return text


def _run(text, **fields):
  return small_runs.configure(text, small_runs.DECODER, steps=4, **fields)


def test_validation_reports_the_plain_loss_beside_the_terms(text, tmp_path):
  loop.train(_run(text, objective=MIXED), tmp_path)

  *training, validation = small_runs.metrics(tmp_path)
  assert [line["z_loss_weight"] for line in training] == pytest.approx(
      [0, 0.0025, 0.005, 0.0075])
  for line in training:
    assert line["loss"] == pytest.approx(
        line["label_smoothed"] + line["z_loss_weight"] * line["z_loss"], rel=1e-5)
    assert line["ce"] != pytest.approx(line["label_smoothed"], rel=1e-5)
  assert {"loss", "label_smoothed", "z_loss"} <= validation.keys()
  # `evaluate` knows nothing of objectives.
  own = trained_lib.open(tmp_path, 4)
  documents = assemble.build(own.run, tmp_path).inputs.validation
  found = evaluation.evaluate(own, documents, (), own.run.decoding)
  assert found.scores.metrics()["loss"] == pytest.approx(validation["loss"], rel=1e-5)


@pytest.mark.parametrize("objective, parts", [
    (Objective(kl=Term()), ["objective.kl needs latent_mean, latent_log_var, which the"
                            " model does not give"]),
    (Objective(mixture=Term(), pen=Term()), [
        "objective.mixture needs mixture_logits, mixture_means",
        "objective.mixture needs values, which the data do not have",
        "objective.pen needs pen_states"]),
    (Objective(anchor=Term(weight=2.0)), ["no group has an anchor"]),
])
def test_a_term_that_lacks_what_it_needs_is_refused_before_training(
    text, tmp_path, objective, parts):
  with pytest.raises(errors.UserError) as raised:
    loop.train(_run(text, objective=objective), tmp_path / "w")

  for part in parts:
    assert part in str(raised.value)
  assert not (tmp_path / "w").exists()


def test_a_wrong_schedule_is_refused_before_the_data_are_read(tmp_path):
  run = _run(tmp_path / "none.txt", objective=Objective(z_loss=Term(
      weight=0, schedule="cyclic")))

  with pytest.raises(errors.UserError, match="z_loss: its weight never rises above 0"):
    loop.train(run, tmp_path / "w")


def test_an_anchor_is_recorded_as_a_term(text, tmp_path):
  anchored = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),),
      groups=(plan_lib.Group(name="all", params=".*", anchor=plan_lib.L2SP(
          alpha=0.0, beta=0.5)),))

  loop.train(_run(text, transfer=anchored, objective=Objective(
      anchor=Term(schedule="linear", start=2.0))), tmp_path)

  first = small_runs.metrics(tmp_path)[0]
  assert first["anchor_weight"] == 2.0 and first["anchor"] > 0
  assert first["loss"] == pytest.approx(first["ce"] + 2.0 * first["anchor"], rel=1e-6)


# The penalty of this anchor is beta / 2 of the params' squared norm, and no step moves
# the params here, so that it can be computed from the checkpoint.
def test_the_training_loss_holds_the_anchors_and_that_of_validation_does_not(
    text, tmp_path):
  anchored = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target=".*", source=None),),
      groups=(plan_lib.Group(name="all", params=".*", anchor=plan_lib.L2SP(
          alpha=0.0, beta=0.5)),))
  still = config.Optim(lr=1e-30)

  loop.train(_run(text, optim=still, objective=Objective()), tmp_path / "free")
  loop.train(_run(text, transfer=anchored, optim=still, objective=Objective()),
             tmp_path / "held")

  free, held = (small_runs.metrics(tmp_path / name) for name in ("free", "held"))
  penalty = 0.25 * sum((np.float64(value) ** 2).sum()
                       for value in small_runs.params(tmp_path / "held").values())
  for one, other in zip(free, held, strict=True):
    if one["split"] == "train":
      assert other["ce"] == one["loss"] and other["anchor"] == pytest.approx(penalty)
      assert other["loss"] == pytest.approx(one["loss"] + penalty, rel=1e-6)
    else:
      assert other["loss"] == one["loss"]
  assert penalty > 1


def test_configs_of_objectives_survive_the_workdir(text, tmp_path):
  run = _run(text, objective=dataclasses.replace(MIXED, kl=Term(schedule="cyclic")))
  run.distill = config.Distill(teacher=config.Source(path="there"))

  back = codec.run_from_json(codec.run_to_json(run))

  assert back == run and isinstance(back.objective.kl, Term)


def _denoising(text):
  run = small_runs.configure(
      text, DENOISER, steps=6, length=24, checkpoint_every=3,
      tokenizer=config.Tokenizer(kind="characters", sentinels=4),
      objective=Objective(unlikelihood=Term(schedule="linear")))
  run.data.corrupt = config.Corrupt(noise=("spans",), word_dropout=0.2)
  return run


def test_a_stopped_denoiser_goes_on_as_if_it_had_not_stopped(text, tmp_path):
  run = _denoising(text)
  loop.train(run, tmp_path / "whole")
  loop.train(run, tmp_path / "stopped", stop=3)
  loop.train(run, tmp_path / "stopped")

  whole, stopped = ([{name: value for name, value in line.items() if name not in (
      "seconds", "tokens_per_second")} for line in small_runs.metrics(tmp_path / name)]
                    for name in ("whole", "stopped"))
  assert stopped == whole
  assert_same_bits(*(small_runs.params(tmp_path / name, 6)
                     for name in ("whole", "stopped")))
  # Validations read the same corrupted texts, and so does `evaluate`.
  own = trained_lib.open(tmp_path / "whole", 6)
  documents = assemble.build(own.run, tmp_path / "whole").inputs.validation
  found = evaluation.evaluate(own, documents, (), own.run.decoding)
  assert found.scores.metrics()["loss"] == pytest.approx(whole[-1]["loss"], rel=1e-5)


@pytest.mark.parametrize("devices", [
    config.Parallel(), config.Parallel(fsdp=2, tensor=4), config.Parallel(mode="pmap")],
    ids=["data", "fsdp_tensor", "pmap"])
def test_noise_is_the_same_on_any_devices(text, tmp_path, devices):
  setup = assemble.build(_denoising(text), tmp_path)
  host, again = (setup.data.train_batches(8, 0) for _ in range(2))
  runner = stepping.runner(setup.replace(run=dataclasses.replace(
      setup.run, parallel=devices)))

  for _ in range(3):
    batch = next(again)
    for name, value in runner.put(next(host)).items():
      np.testing.assert_array_equal(
          np.asarray(value).reshape(batch[name].shape), batch[name])


def test_stored_features_of_dropped_words_are_refused(text, tmp_path):
  run = _run(text, features=config.Features())
  run.data.corrupt = config.Corrupt(word_dropout=0.1)

  with pytest.raises(errors.UserError, match="word_dropout changes what the model"):
    assemble.build(run, tmp_path)
