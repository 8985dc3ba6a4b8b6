"""Tests for the commands with encoder models and with foreign checkpoints."""

import json

from etils import epath
import numpy as np
import pytest

from tests.commands import cli
from transfer_gen import config as config_lib
from transfer_gen.config import codec
from transfer_gen.data import tokenizer_kinds
from transfer_gen.models import registry

CONFIG = '''
from transfer_gen import config

RECURRENT = config.Recurrent(encoder=True, num_layers=1, embed_width=8, hidden_width=16)
TRANSFORMER = config.EncoderDecoder(num_layers=1, width=8, num_heads=2)
PAIRS = config.Data(name="files", train="a.txt|b.txt", length=24, buckets=(16,))
ALONE = config.Data(name="files", train="a.txt", length=24)

def get_config(name="recurrent"):
  return config.Run(
      model=TRANSFORMER if name == "transformer" else RECURRENT,
      data=ALONE if name == "alone" else PAIRS,
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=1, lr=0.02),
      train=config.Train(steps=8, batch_size=8, log_every=4, eval_every=4,
                         checkpoint_every=4))

def get_study():
  return config.Study(
      question="Do attention layers help to translate?", seeds=(0,), samples=1,
      runs={"attends": get_config("transformer"), "recurs": get_config()},
      pairs=(("attends", "recurs"),))
'''
PLAIN = '''
from transfer_gen import config

def get_config():
  return config.Run(
      model=config.Decoder(num_layers=1, width=8, num_heads=2, max_length=32),
      data=config.Data(name="files", train="a.txt", length=16),
      tokenizer=config.Tokenizer(kind="characters"),
      source=config.Source(path="theirs", map="map.json"))
'''


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  numbers = range(160)
  (tmp_path / "a.txt").write_text("".join(f"{i} dogs run\n" for i in numbers))
  (tmp_path / "b.txt").write_text("".join(f"{i} chiens courent\n" for i in numbers))
  (tmp_path / "config.py").write_text(CONFIG)
  (tmp_path / "plain.py").write_text(PLAIN)
  return tmp_path


@pytest.mark.parametrize("name", [
    pytest.param("recurrent", marks=pytest.mark.long), "transformer"])
def test_encoder_models_can_be_trained_evaluated_and_sampled(name, folder, capsys):
  cli.run(capsys, "train", f"--config=config.py:{name}", "--workdir=w",
        "--config.train.steps=4")
  resumed = cli.refused(capsys, "train", f"--config=config.py:{name}", "--workdir=w")
  scored = json.loads(
      cli.run(capsys, "evaluate", "--workdir=w").splitlines()[-1])
  asked = ["generate", "--workdir=w", "--prompt=7 dogs", "--max_tokens=6", "--num=2"]
  drawn = cli.run(capsys, *asked, "--temperature=1")
  best = cli.run(capsys, *asked, "--beams=3", "--length_penalty=0.5")

  assert "steps: 4 there, 8 here" in resumed
  # A uniform guess over some 28 tokens costs 3.3 nats; below 4, nothing has diverged.
  assert scored["documents"] > 5 and 0 < scored["loss"] < 4
  assert "--- 2 of 2" in drawn and "--- 2 of 2" in best
  assert not (folder / "w" / "samples.jsonl").exists()
  rows = json.loads((folder / "w" / "data.json").read_text())["splits"]["train"]["rows"]
  assert rows.keys() == {"16", "24"}


@pytest.mark.long
def test_a_study_can_compare_models_with_encoders(folder, capsys):
  summary = json.loads(cli.run(
      capsys, "study", "--config=config.py", "--workdir=s").splitlines()[-1])

  assert summary["attends_test_loss"] > 0 and summary["recurs_test_loss"] > 0
  sample = json.loads(next((folder / "s" / "attends").glob("*/*/samples.jsonl"))
                      .read_text().splitlines()[0])
  assert sample["prompt"].endswith("dogs run")
  assert sample["reference"].endswith("chiens courent")


@pytest.mark.parametrize("words, message", [
    (["--config=config.py:alone"], "reads inputs, but the data has none"),
    (["--config.model.encoder_vocab_size=3"], "model.encoder_vocab_size is 3"),
    (["--config.model.start_token=99"], "model.start_token is 99, and there are"),
    (["--config.model.encoder_marks=sep"], "encoder_marks is 'sep', must be one of"),
])
def test_encoder_configs_that_do_not_fit_are_refused(words, message, folder, capsys):
  if not words[0].startswith("--config="):
    words = ["--config=config.py", *words]

  assert message in cli.refused(capsys, "plan", "--workdir=w", *words)
  assert not (folder / "w").exists()


def _write_foreign_checkpoint(folder):
  """Writes a checkpoint with foreign leaf names and its map, and returns our specs."""
  model = config_lib.Decoder(
      vocab_size=31, num_layers=1, width=8, num_heads=2, max_length=32)
  specs = registry.specs(registry.build(model))
  arrays = {f"x.{name.replace('/', '.')}": np.ones(spec.shape, np.float32)
            for name, spec in specs.items()}
  letters = [None, *"abcdefghijklmnopqrstuvwxyz 012"]
  tokenizer_kinds.Characters(letters, {"eos": 0}).save(epath.Path(folder / "letters"))
  (folder / "theirs").mkdir()
  np.savez(folder / "theirs" / "a.npz", **arrays)
  (folder / "map.json").write_text(json.dumps({
      "model": codec.model_to_json(model),
      "tokenizer": "letters",
      "lines": [{"target": name, "source": f"x.{name.replace('/', '.')}"}
                for name in specs]}))
  return specs


def test_inspect_lists_foreign_or_mapped_leaf_names(folder, capsys):
  specs = _write_foreign_checkpoint(folder)
  source = "--source=theirs/a.npz"

  raw = cli.run(capsys, "inspect", source)
  ours = cli.run(capsys, "inspect", source, "--map=map.json")
  unknown = cli.refused(capsys, "inspect", source, "--map=auto")

  assert "x.embed.embedding" in raw and "embed/embedding" not in raw
  assert "model=config." not in raw
  for name in specs:
    assert f"\n{name} " in ours
  assert "x.embed.embedding" not in ours
  [model] = [line for line in ours.splitlines() if line.startswith("model=")]
  # The printed line is meant to be pasted into a config, so it must be valid Python.
  made = eval(model.removeprefix("model="), {"config": config_lib})
  assert registry.specs(registry.build(made)) == specs
  assert "no map recognizes it" in unknown


def test_a_plan_can_be_suggested_for_a_foreign_checkpoint(folder, capsys):
  _write_foreign_checkpoint(folder)

  code = cli.run(capsys, "plan", "--config=plain.py", "--workdir=w", "--suggest",
               "--config.source.path=theirs/a.npz")

  assert 'target="(.*)", source=r"\\1"' in code.replace("'", '"')
  assert "# Plan does not fit" not in code
  compile(code, "plan.py", "exec")
