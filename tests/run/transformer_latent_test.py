"""Tests of runs that train variational autoencoders made of two Transformers."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from tests import small_runs
from tests.commands import cli
from tests.comparing import assert_same_bits
from tests.comparing import distance
from tests.models import latent_test
from tests.random_models import apply
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.config import codec
from transfer_gen.models import registry
from transfer_gen.run import assemble
from transfer_gen.run import initial
from transfer_gen.run import loop
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import structure

STEPS, FIRST, SECOND = 3, "line 4, 2", "line 97, 3"
FORMS = {name: dataclasses.replace(model, vocab_size=0, max_length=16) for name, model
         in (("prefix", latent_test.PREFIX), ("added", latent_test.ADDED))}
COPY = (plan_lib.Rule(target="(.*)", source=r"\1"),)
BOTH = pytest.mark.parametrize("form", FORMS)


def _run(folder, model, **fields):
  text = folder / "text.txt"
  return small_runs.configure(text, model, steps=STEPS, lr=0.03, **{
      # Floors and weights are of training, and must not reach the validation.
      "objective": config.Objective(kl=config.Term(weight=0.1), free_bits=5.0),
      "data": config.Data(name="files", train=str(text), length=14,
                          corrupt=config.Corrupt(noise=("copy",))), **fields})


@pytest.fixture(scope="module", name="runs")
def _runs(tmp_path_factory):
  """Returns a function from a form to the folder with its run, which it trains once."""
  folder = tmp_path_factory.mktemp("transformer_latent")
  small_runs.write_lines(folder / "text.txt")

  @functools.cache
  def trained(form):
    loop.train(_run(folder, FORMS[form]), folder / form)
    return folder
  return trained


@BOTH
def test_a_validation_is_the_bound_of_float64_from_the_trained_params(runs, form):
  folder = runs(form)
  setup = assemble.build(_run(folder, FORMS[form]), folder / "none")
  params = small_runs.params(folder / form, STEPS)
  wide = {name: np.float64(x) for name, x in params.items()}
  # Scores draw by one key, and a latent by what the model makes of it and of a text.
  key = {"latent": jax.random.key(0)}
  kl, nats, noises, count = 0.0, 0.0, [], 0
  for batch in setup.data.evaluation_batches("validation", 8):
    read = batch["encoder_inputs"], batch["encoder_counts"]
    latents = np.float64(apply(
        setup.model, params, *read, method="posterior", rngs=key))
    for row in np.flatnonzero(batch["weights"].any(1)):
      mean, log_var = latent_test.pooled_posterior(wide, read[0][row][:read[1][row]])
      noises.append((latents[row] - mean) / np.exp(0.5 * log_var))
      kl += 0.5 * (np.exp(log_var) + mean**2 - 1 - log_var).sum()
      logits = latent_test.transformer_logits(
          wide, batch["inputs"][row], latents[row], FORMS[form])
      found = np.log(np.exp(logits).sum(-1)) - logits[
          np.arange(len(logits)), batch["targets"][row]]
      nats += (found * batch["weights"][row]).sum()
      count += int(batch["weights"][row].sum())

  line = small_runs.metrics(folder / form)[-1]

  assert (line["split"], line["step"]) == ("validation", STEPS)
  assert line["tokens"] == count and line["documents"] == len(noises) > 4
  assert line["kl"] == pytest.approx(kl / count, rel=1e-4)
  assert 0 < kl / len(noises) < latent_test.Z * 5
  assert line["reconstruction"] == pytest.approx(nats / count, rel=1e-5)
  assert line["loss"] == pytest.approx((nats + kl) / count, rel=1e-5)
  assert np.abs(noises).max() < 4 and 0.5 < np.std(noises) < 1.5


@BOTH
def test_a_step_minimizes_the_terms_by_their_weights(runs, form):
  lines = [line for line in small_runs.metrics(runs(form) / form)
           if line["split"] == "train"]

  assert lines[-1]["loss"] < lines[0]["loss"]
  for line in lines:  # Each feature of a row of at most 14 tokens costs 5 nats.
    assert line["loss"] == pytest.approx(line["ce"] + 0.1 * line["kl"], rel=1e-5)
    assert line["kl"] >= latent_test.Z * 5 / 14


@BOTH
def test_generate_writes_for_the_prior_and_between_two_texts(runs, form, capsys):
  def texts(*words):
    parts = cli.run(capsys, "generate", f"--workdir={runs(form) / form}",
                    "--max_tokens=5", *words).rstrip("\n").split("--- ")
    return [part.partition("\n")[2].rstrip("\n") for part in parts[1:]]
  ends = (f"--prompt={FIRST}", f"--prompt={SECOND}")

  drawn = texts("--prior", "--num=3", "--temperature=1", "--seed=2")
  between = texts("--interpolate=3", *ends)

  assert len(drawn) == 3 and len(set(drawn)) > 1
  assert len(between) == 3 and [between[0], between[-1]] == texts(*ends)


def _start(folder, model, **fields):
  """Returns the params that a run begins with whose source is the run of `prefix`."""
  plan = plan_lib.TransferPlan(
      groups=(plan_lib.Group(name="all", params=".*"),), **{"rules": COPY, **fields})
  return initial.params(assemble.build(_run(
      folder, model, source=config.Source(path=str(folder / "prefix")),
      tokenizer=config.Tokenizer(kind="source"), transfer=plan), folder / "none"))


def test_a_run_of_another_latent_width_begins_as_the_run_that_it_is_grown_from(runs):
  folder, known = runs("prefix"), codec.read_run(runs("prefix") / "prefix").model
  wider, plan = structure.grow(known, latent_width=6)
  with pytest.raises(errors.UserError, match="`latent` is 4 in the source and 6 here"):
    _start(folder, wider)

  params = _start(folder, wider, rules=plan.rules, axes=plan.axes)

  old = small_runs.params(folder / "prefix", STEPS)
  read = dict(encoder_inputs=latent_test.READ, encoder_counts=latent_test.COUNTS)
  logits = [apply(registry.build(model), values, latent_test.INPUTS, **read)
            for model, values in ((known, old), (wider, params))]
  assert params["latent/out/kernel"].shape == (6, 2, 6)
  assert distance(logits[1], logits[0]) < 1e-5
  assert distance(logits[0], logits[0].mean(0)) > 0.01


def test_a_latent_that_is_added_begins_from_a_run_where_it_is_a_prefix(runs):
  folder, out = runs("prefix"), "latent/out/.*"
  with pytest.raises(errors.UserError, match="latent/out/kernel"):
    _start(folder, FORMS["added"])

  params = _start(
      folder, FORMS["added"], unused_source=(out,),
      rules=(plan_lib.Rule(target=out, source=None, fresh="zeros"), *COPY))

  old = small_runs.params(folder / "prefix", STEPS)
  drawn = {name for name in params if re.fullmatch(out, name)}
  assert len(drawn) == 2 and not any(np.asarray(params[name]).any() for name in drawn)
  assert_same_bits({name: x for name, x in params.items() if name not in drawn},
                   {name: x for name, x in old.items() if name not in drawn})
