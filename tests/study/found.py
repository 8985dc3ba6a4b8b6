"""What a study might have found, made up, and the workdirs that its page reads."""

import json

from tests.run import audit_page_test
from transfer_gen.study import foretold
from transfer_gen.transfer import audit as audit_lib


def run(seed, **changes):
  run = {
      "seed": seed, "lr": 0.003, "step": 40 + seed, "validation_loss": 2.5,
      "loss": 2.0 + seed / 8, "bits_per_byte": 1.25, "train_tokens": 123456,
      "train_seconds": 12.6, "samples": [
          {"prompt": "the  first\nprompt", "reference": "r" * 101, "text": "t" * 100}]}
  return run | changes


def pair(**changes):
  return {
      "treated": "moved", "control": "scratch", "gain": 0.25, "low": 0.125,
      "high": 0.375, "documents": 7, "seeds": 2, "wins": 0.714, "seeds_ahead": 2,
      "same_tokens": True, "reached": [10, None], "reached_after": [0, None],
      "gap": 0.5, "p": 0.01, "cost": {}, "metrics": {},
      "alarm": {"raised": False, "p": 0.9},
      "bits_per_byte": {"gain": 0.25, "low": 0.125, "high": 0.375},
      "effective_data": {}, "payback": {}, "control_still_improving": 0,
      "least_fall": "1%"} | changes


def transfer(**changes):
  """What a treated run had of its source, and kept of it."""
  return {
      "before": {"before": {"across_tokens": 3.25, "loss": 2.0, "documents": 7},
                 "unit": "bits per byte", "overlap": 0.75, "alignment": None,
                 "logme": 0.5, "copied": 1.0,
                 "absent": {"alignment": "it is <unknown>"}},
      "moved": {"layers": [{"layer": 1, "source": 0, "cka": 0.875}], "mean": 0.875,
                "absent": ["layer 0: it reads no layer of the source"]}} | changes


def facts(**changes):
  return {
      "question": "Does <it> help?", "command": "transfer-gen study --config=a.py",
      "runs": {"moved": [run(0), run(1)],
               "scratch": [run(0, step=60), run(1, step=80)]},
      "comparisons": [pair()], "foretold": foretold.correlate([]), "summary": {
          "seeds": 2, "lrs": {"moved": 0.003, "scratch": 0.01}, "seconds": 34.4,
          "calls": 2},
      "sources": {"source": {"train_tokens": 9000, "train_seconds": 5.4}},
      "trainings": [],
      "environments": [environment(names=["moved", "scratch", "source"])],
      "data": "files 1 abc"} | changes


def environment(**changes):
  return {
      "versions": {"jax": "1", "flax": "2", "optax": "3"}, "python": "3.11",
      "machine": "x86_64", "system": "Linux", "devices": ["cpu", "cpu"],
      "commit": "0123456789abcdef", "uncommitted": "abcd"} | changes


def account(number):
  return {"learning": 1000 * number, "slot_bytes": 2**20 * number,
          "gflops_a_step": 0.5 * number, "gflops": 100.0 * number,
          "search_gflops": 50.0, "before": 1.0, "after": 1.5, "forgetting": 0.5}


def with_workdirs(folder, found):
  """Adds the trainings of runs, and writes the files of their workdirs that are read.

  Returns the curves of the page.
  """
  audit = audit_lib.to_json(audit_page_test.made())
  curves, trainings = {}, []
  for name, runs in found["runs"].items():
    for one in runs:
      trainings.append({
          "run": name, "seed": one["seed"], "lr": one["lr"], "fraction": 1.0,
          "steps": 90, "step": one["step"], "validation_loss": one["validation_loss"],
          "train_tokens": one["train_tokens"], "train_seconds": one["train_seconds"],
          "role": "compared", "workdir": f"{name}/seed_{one['seed']}"})
      curves.setdefault(name, {})[f"seed {one['seed']}"] = [
          {"step": step, "split": "validation", "loss": 3 - step / 90,
           "bits_per_byte": 2 - step / 90}
          for step in (30, 60, 90)]
  for name in found["sources"]:
    trainings.append({**trainings[0], "run": name, "seed": 0, "role": "source",
                      "workdir": name})
    curves[name] = {"seed 0": [{"step": 5, "split": "validation", "loss": 1.5,
                               "bits_per_byte": 1.0}]}
  for one in trainings:
    workdir = folder / one["workdir"]
    workdir.mkdir(parents=True)
    (workdir / "audit.json").write_text(json.dumps(audit))
  found["trainings"] = trainings
  return curves
