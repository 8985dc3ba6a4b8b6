"""Tests that experiments can be read without a device, and run at their smallest."""

import dataclasses
import gzip
import importlib
import json
import os
import re
import subprocess
import sys

import pytest

from tests import paths
from tests.commands import cli
from transfer_gen import config
from transfer_gen.transfer import plan as plan_lib

NAMES = sorted(path.stem for path in paths.EXPERIMENTS.glob("*.py")
               if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_defines_a_study_and_a_config(name):
  module = importlib.import_module(f"experiments.{name}")

  study, run = module.get_study(), module.get_config()

  assert isinstance(study, config.Study) and study.runs
  for made in (run, *study.runs.values()):
    assert isinstance(made, config.Run)
    plan = made.transfer(made) if callable(made.transfer) else made.transfer
    assert plan is None or isinstance(plan, plan_lib.TransferPlan)


def test_reading_an_experiment_initializes_no_device():
  program = "import importlib\n" + "".join(
      f"importlib.import_module('experiments.{name}').get_study()\n" for name in NAMES)

  # JAX_PLATFORMS=none makes the first use of a device an error.
  read = subprocess.run(
      [sys.executable, "-c", program], cwd=paths.ROOT, capture_output=True, text=True,
      check=False, env={**os.environ, "JAX_PLATFORMS": "none"})

  assert read.returncode == 0, read.stderr


def _git(*words):
  return subprocess.run(
      ["git", *words], cwd=paths.ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(_git("rev-parse", "HEAD").returncode != 0
                    or _git("rev-parse", "--is-shallow-repository").stdout == "true\n",
                    reason="no repository with its history")
def test_results_name_commits_that_have_their_experiments():
  text = (paths.EXPERIMENTS / "RESULTS.md").read_text()
  sections = re.findall(
      r"--config=(experiments/\w+\.py):?(\w*) .*?; (commit .*?); data ", text,
      re.DOTALL)

  # Each section has its command twice in comments around it and once in itself.
  assert len(sections) == text.count("<!-- end of ") > 0
  for path, argument, said in sections:
    # One commit, or each that trained some of the runs, with their names behind it.
    commits = re.findall(r"\bcommit (\w+)", said)
    assert commits and "\n" not in said
    for commit in commits:
      found = _git("show", f"{commit}:{path}")
      assert found.returncode == 0, f"{path} at {commit}: {found.stderr}"
      assert re.search(rf"\b{argument}\b", found.stdout), f"{path}:{argument}, {commit}"
      # The command is in the second file up to 23 November 2026.
      files = _git("ls-tree", "-r", "--name-only", commit).stdout.splitlines()
      assert {"transfer_gen/commands/study.py",
              "transfer_gen/evaluate/study.py"} & {*files}, f"no study at {commit}"


def test_no_meaning_of_e2e_stands_in_both_parts_of_its_pairs(tmp_path):
  pairs = [{"mr": f"name[{i % 37}], food[\"ref\"]", "ref": f"text {i}"}
           for i in range(100)]
  (tmp_path / "e2e").mkdir()
  with gzip.open(tmp_path / "e2e" / "train.jsonl.gz", "wt") as file:
    file.write("".join(f"{json.dumps(pair)}\n" for pair in pairs))

  subprocess.run(
      ["bash", "-c", f". {paths.EXPERIMENTS}/e2e_parts.sh {tmp_path}"], check=True,
      env={**os.environ, "TRANSFER_GEN_DATA": str(tmp_path)})

  parts = [[json.loads(line) for line in (
      tmp_path / "data" / f"{name}.jsonl").read_text().splitlines()]
           for name in ("train", "validation")]
  assert sorted(pair["ref"] for part in parts for pair in part) == sorted(
      pair["ref"] for pair in pairs)
  train, validation = ({pair["mr"] for pair in part} for part in parts)
  assert not train & validation and len(validation) == 3


def _few_pairs(tmp_path, monkeypatch):
  """Writes few pairs in the place of Multi30k, and makes their runs short."""
  from experiments import translation
  for half in ("data", "multi30k"):
    (tmp_path / half).mkdir()
  text = "".join(f"a dog number {i} sees {i % 7} cats\n" for i in range(400))
  for half, language in (("parent", "fr"), ("child", "cs")):
    for side in ("en", language):
      (tmp_path / "data" / f"{half}.{side}").write_text(text)
      for split in ("val", "test_2016_flickr"):
        with gzip.open(tmp_path / "multi30k" / f"{split}.{side}.gz", "wt") as file:
          file.write("".join(f"{split[0]} sees {i} dogs\n" for i in range(12)))
  for name, value in (
      ("_FILES", str(tmp_path)), ("_RUNS", str(tmp_path)), ("_PARENT_STEPS", 15),
      ("_STEPS", {"10": 15}), ("_PARTS", {"few": ("10",), "many": ()})):
    monkeypatch.setattr(translation, name, value)


@pytest.mark.long
def test_the_translation_experiment_runs_on_a_few_pairs(tmp_path, monkeypatch, capsys):
  _few_pairs(tmp_path, monkeypatch)
  (tmp_path / "config.py").write_text(
      "from experiments.translation import get_config\n"
      "def get_study(part):\n"
      "  from experiments import translation\n"
      "  return translation.get_study(part)\n")
  words = f"--config={tmp_path}/config.py"

  cli.run(capsys, "train", f"{words}:parent", f"--workdir={tmp_path}/parent")
  printed = cli.run(capsys, "study", f"{words}:few", f"--workdir={tmp_path}/few")

  summary = json.loads(printed.splitlines()[-1])
  assert {"transfer_10_test_loss", "scratch_10_test_loss"} < summary.keys()
  assert summary["seeds"] == 3 and "bleu" in printed


@pytest.mark.long
def test_the_attention_experiment_runs_on_a_few_pairs(tmp_path, monkeypatch, capsys):
  from experiments import attention
  _few_pairs(tmp_path, monkeypatch)
  for name, value in (("_RUNS", str(tmp_path)), ("_LSTM", dataclasses.replace(
      attention._LSTM, embed_width=8, hidden_width=8, num_layers=1))):
    monkeypatch.setattr(attention, name, value)
  (tmp_path / "config.py").write_text(
      "from experiments import attention\n"
      "from experiments.attention import get_config\n"
      "def get_study():\n"
      "  import dataclasses\n"
      "  return dataclasses.replace(attention.get_study(), seeds=(0,))\n")
  words = f"--config={tmp_path}/config.py"

  for name in ("transformer_parent", "lstm_parent"):
    cli.run(capsys, "train", f"{words}:{name}",
            f"--workdir={tmp_path}/{name.removeprefix('transformer_')}")
  printed = cli.run(capsys, "study", words, f"--workdir={tmp_path}/study")

  summary = json.loads(printed.splitlines()[-1])
  assert {f"{kind}_{start}_test_loss" for kind in ("lstm", "transformer")
          for start in ("transfer", "scratch")} < summary.keys()
  assert "bleu" in printed
