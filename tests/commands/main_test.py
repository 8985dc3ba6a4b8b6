"""Tests that run several commands one after another on the same workdirs."""

import json

from tests.commands import cli
from transfer_gen import config as config_lib
from transfer_gen.config import codec, file
from transfer_gen.models import registry
from transfer_gen.run import loop


def test_the_commands_work_one_after_another(folder, capsys):
  first = cli.train_source(folder, capsys)

  audit = cli.plan(capsys, "--workdir=moved")
  moved = cli.train(capsys, "--config=config.py:moved", "--workdir=moved")
  scored, early = (json.loads(cli.run(
      capsys, "evaluate", "--workdir=moved", *more).splitlines()[-1])
                   for more in ([], ["--step=1"]))
  generated = cli.run(
      capsys, "generate", "--workdir=moved", "--prompt=another", "--num=2",
      "--temperature=1", "--max_tokens=5")
  leaves = cli.run(capsys, "inspect", "--source=moved")

  assert first["step"] == moved["step"] == 2
  assert "vocab: " in audit and "copied" in audit and "left behind" in audit
  assert "Every leaf: moved/audit.txt" in audit and "\x1b" not in audit
  for name in registry.specs(registry.build(codec.read_run("moved").model)):
    assert f"\n{name} " in (folder / "moved" / "audit.txt").read_text()
  assert scored["loss"] > 0 and scored["documents"] > 5
  assert (scored["step"], early["step"]) == (2, 1) and early["loss"] != scored["loss"]
  assert "--- 2 of 2" in generated
  assert not (folder / "moved" / "samples.jsonl").exists()
  assert "embed/embedding" in leaves and "total" in leaves
  message = cli.refused(
      capsys, "generate", "--workdir=moved", "--prompt=\u4f60")
  assert "\u4f60" in message
  message = cli.refused(capsys, "evaluate", "--workdir=moved", "--step=7")
  assert "no checkpoint of step 7; there are [1, 2]" in message


def test_a_non_finite_loss_stops_the_run(folder, capsys):
  message = cli.refused(
      capsys, "train", "--config=config.py", "--workdir=w", "--config.optim.lr=1e30",
      "--config.optim.clip_norm=0", "--config.train.steps=9")

  assert "at step 2" in message
  # Its params are finite, and the loss that they give is not.
  assert "The checkpoint of step 1, which led there, was removed." in message
  assert "There is no good checkpoint." in message
  message = cli.refused(
      capsys, "train", "--config=config.py", "--workdir=v", "--config.optim.lr=1e30",
      "--config.optim.weight_decay=1e20", "--config.optim.clip_norm=0",
      "--config.train.steps=9")
  assert "After step 1, " in message and "There is no good checkpoint." in message
  for workdir in ("w", "v"):
    assert not [*(folder / workdir / "checkpoints").glob("**/[0-9]*")]


def test_early_stopping_keeps_the_best_checkpoint(folder):
  run = file.load_run("config.py")
  run.optim.lr, run.optim.schedule, run.optim.clip_norm = 0.5, "constant", 0.0
  run.train = config_lib.Train(steps=200, batch_size=8, log_every=50, eval_every=1,
                               checkpoint_every=100, patience=2)

  result = loop.train(run, folder / "w")

  # The run stops as soon as `patience` validations in a row were no better.
  assert result["step"] == result["best_step"] + 2 < 200
  best = [path.name for path in (folder / "w" / "checkpoints" / "best").iterdir()]
  assert best == [str(result["best_step"])]


def test_a_workdir_of_another_plan_or_other_texts_is_refused(folder, capsys):
  cli.train(capsys, "--config=config.py", "--workdir=first")
  before = (folder / "first" / "plan.json").read_text()
  planned = ["plan", "--config=config.py:moved", "--workdir=first",
             "--config.source.path=first"]

  message = cli.refused(capsys, *planned)
  text = (folder / "text.txt").read_text()
  (folder / "text.txt").write_text(text.replace("things", "lines"))
  changed = cli.refused(capsys, "train", "--config=config.py", "--workdir=first")

  assert "source: None there, {'path': 'first'" in message
  assert (folder / "first" / "plan.json").read_text() == before
  assert "data (the texts themselves)" in changed


def test_an_unknown_split_is_refused(folder, capsys):
  cli.train(capsys, "--config=config.py", "--workdir=first")

  assert "train, validation, test" in cli.refused(
      capsys, "evaluate", "--workdir=first", "--split=dev")


def test_a_workdir_keeps_the_tokenizers_of_source_and_target(folder, capsys):
  cli.train(capsys, "--config=config.py", "--workdir=first")
  cli.train(capsys, "--config=config.py:moved", "--workdir=moved")

  there = folder / "moved" / "tokenizer"
  assert (there / "source").is_dir()
  for path in (folder / "first" / "tokenizer").iterdir():
    assert (there / "source" / path.name).read_text() == path.read_text()


def test_a_run_of_an_older_version_can_be_continued(folder, capsys):
  wanted = ["--config=config.py", "--workdir=old"]
  cli.train(capsys, *wanted)
  # An older version wrote neither these two fields nor digests.
  (folder / "old" / "digests.json").unlink()
  written = folder / "old" / "config.json"
  config = json.loads(written.read_text())
  del config["sources"], config["model"]["sinusoid_width"]
  written.write_text(json.dumps(config))

  cli.train(capsys, *wanted)

  config["seed"] = 7
  written.write_text(json.dumps(config))
  assert "seed: 7 there, 0 here" in cli.refused(capsys, "train", *wanted)
