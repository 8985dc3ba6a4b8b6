"""Tests that the commands of the page on evaluation run, in order, as they stand."""

import json
import re
import shlex

import pytest

from tests import paths
from tests.commands import cli
from transfer_gen.metrics import measures

_CONFIG = '''
from transfer_gen import config

def get_config():
  return config.Run(
      model=config.Decoder(num_layers=1, width=8, num_heads=2, max_length=32),
      data=config.Data(name="files", train="pairs.jsonl", input_field="question",
                       target_field="answer", length=24),
      tokenizer=config.Tokenizer(kind="characters"),
      optim=config.Optim(warmup_steps=1),
      decoding=config.Decoding(max_tokens=6),
      train=config.Train(steps=2, batch_size=8, log_every=1, eval_every=2))
'''


@pytest.mark.long
def test_the_commands_of_the_page_run_as_they_stand(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "config.py").write_text(_CONFIG)
  pairs = [{"question": f"say {i}", "answer": f"{i} said"} for i in range(120)]
  for name, found in (("pairs", pairs), ("own", pairs[:3])):
    (tmp_path / f"{name}.jsonl").write_text(
        "".join(json.dumps(pair) + "\n" for pair in found))
  (tmp_path / "own.in").write_text("say 1\nsay 2\n")
  (tmp_path / "own.out").write_text("1 said\n2 said\n")
  (tmp_path / "inputs.txt").write_text("say 3\n")
  for name in ("W", "V"):
    cli.train(capsys, "--config=config.py", f"--workdir={name}")
  page = (paths.ROOT / "docs" / "evaluation.md").read_text()
  commands = re.findall(r"^    transfer-gen (.*)$", page, re.MULTILINE)

  results = [json.loads(cli.run(capsys, *shlex.split(command)).splitlines()[-1])
             for command in commands]

  assert len(commands) == 8
  assert [result["documents"] for result in results[1:3]] == [2, 3]
  assert "distinct1" in results[3] and "rougeL" in results[4]
  assert results[6]["against"]["differences"].keys() >= {"chrf", "loss"}
  assert "best_chrf" in results[7]
  for name in ("samples.html", "outputs.jsonl", "both.md", "U/report.html"):
    assert (tmp_path / name).exists(), name


def test_the_table_of_metrics_lists_all_of_them():
  page = (paths.ROOT / "docs" / "evaluation.md").read_text()

  named = {name for row in re.findall(r"^\| (`.*)$", page, re.MULTILINE)
           for name in re.findall(r"`([\w+]+)`", row)}

  assert named >= {*measures.METRICS, "rouge", "distinct"}
