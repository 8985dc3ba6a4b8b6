"""Tests for the command that writes texts."""

import contextlib
import json
import signal
import time

import pytest

from tests import processes
from tests.commands import cli
from transfer_gen import __main__ as main

PAIRS = '''
from transfer_gen import config

def get_config():
  return config.Run(
      model=config.EncoderDecoder(num_layers=1, width=8, num_heads=2, max_length=24),
      data=config.Data(name="files", train="pairs.tsv", input_field="asked",
                       target_field="answer", length=24),
      tokenizer=config.Tokenizer(kind="bytes"),
      optim=config.Optim(warmup_steps=1, lr=1e-2),
      train=config.Train(steps=3, batch_size=8, eval_every=3, checkpoint_every=3))
'''


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
  """Trains a model of pairs, and returns its folder."""
  folder = tmp_path_factory.mktemp("generate")
  (folder / "pairs.py").write_text(PAIRS)
  (folder / "pairs.tsv").write_text("asked\tanswer\n" + "".join(
      f"number {i}\tis {i * 7 % 13}\n" for i in range(80)))
  with contextlib.chdir(folder):
    main.run(["transfer-gen", "train", "--config=pairs.py", "--workdir=w"])
  return folder


@pytest.fixture(name="inside")
def _inside(run, monkeypatch):
  monkeypatch.chdir(run)
  return run


def test_a_file_of_lines_gives_a_line_for_each_also_for_a_blank_one(inside, capsys):
  (inside / "asked.txt").write_text("number 1\n\nnumber\\n2\nnumber 1\n")
  before = {path: path.stat().st_mtime_ns for path in (inside / "w").rglob("*")}
  (inside / "kept").write_text("mine")
  (inside / "out.txt.progress").symlink_to("kept")

  printed = cli.run(capsys, "generate", "--workdir=w", "--prompts=asked.txt",
                    "--output=out.txt", "--max_tokens=5")
  cli.run(capsys, "generate", "--workdir=w", "--prompts=asked.txt",
          "--output=out.jsonl", "--max_tokens=5", "--beams=3", "--num=2")

  assert "4 answers" in printed
  lines = (inside / "out.txt").read_text().split("\n")
  assert len(lines) == 5 and lines[4] == "" and lines[0] == lines[3]
  found = [*map(json.loads, (inside / "out.jsonl").read_text().splitlines())]
  assert [line["input"] for line in found] == [
      "number 1", "", "number\n2", "number 1"]
  assert all(len(line["outputs"]) == 2 and line["outputs"][0] == line["output"]
             for line in found)
  assert before == {path: path.stat().st_mtime_ns for path in (inside / "w").rglob("*")}
  assert not [*inside.glob("*.progress")] and (inside / "kept").read_text() == "mine"


def test_a_table_gives_its_references_back(inside, capsys):
  cli.run(capsys, "generate", "--workdir=w", "--prompts=pairs.tsv",
          "--output=table.jsonl", "--max_tokens=2")

  found = [*map(json.loads, (inside / "table.jsonl").read_text().splitlines())]
  assert len(found) == 80
  assert found[3]["input"] == "number 3" and found[3]["references"] == ["is 8"]


def test_a_prompt_that_is_too_long_does_not_stop_the_others(inside, capsys):
  (inside / "long.txt").write_text("number 1\n" + "x" * 99 + "\nnumber 1\n")
  words = ["generate", "--workdir=w", "--prompts=long.txt", "--output=long.jsonl",
           "--max_tokens=5", "--suppress=2"]

  for how, done in (("report", "answered with nothing"), ("cut", "cut")):
    cli.main.run(["transfer-gen", *words, f"--too_long={how}"])

    said = f"1 inputs were longer than the model can read, and {done}; the first is"
    assert f"{said} number 2." in capsys.readouterr().err
    first, long, last = map(
        json.loads, (inside / "long.jsonl").read_text().splitlines())
    assert first["output"] == last["output"] != "" and "too_long" not in first
    assert long["too_long"] and bool(long["output"]) == (how == "cut")


def test_a_single_prompt_prints_what_a_file_of_one_line_does(inside, capsys):
  (inside / "one.txt").write_text("number 4\n")
  words = ["generate", "--workdir=w", "--max_tokens=9", "--suppress=2"]

  for more in ([], ["--temperature=1", "--seed=3"], ["--beams=2"]):
    whole = cli.run(capsys, *words, "--prompts=one.txt", *more)
    shown = cli.run(capsys, *words, "--prompt=number 4", *more)

    assert shown == whole != "\n"


def test_the_seed_decides_what_is_drawn(inside, capsys):
  words = ["generate", "--workdir=w", "--prompt=number 4", "--max_tokens=9",
           "--temperature=1"]

  first, again, other = (
      cli.run(capsys, *words, f"--seed={seed}") for seed in (3, 3, 4))

  assert first == again != other


def test_a_killed_command_continues_after_its_last_answer(inside, capsys):
  count = 300
  (inside / "many.txt").write_text("".join(f"number {i}\n" for i in range(count)))
  words = ["generate", "--workdir=w", "--prompts=many.txt", "--temperature=1",
           "--max_tokens=9", "--batch_size=8"]
  process = processes.start(
      processes.COMMAND, *words, "--output=many.jsonl", folder=inside)
  progress = inside / "many.jsonl.progress"
  while process.ended() is None and not (
      progress.exists() and len(progress.read_bytes().splitlines()) > 20):
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  done = progress.read_bytes()
  with progress.open("ab") as file:  # As if the kill had come in the middle of a line.
    file.write(b'{"index": 7, "te')

  refused = cli.refused(capsys, *words, "--output=many.jsonl", "--seed=1")
  again = progress.read_bytes()
  cli.run(capsys, *words, "--output=many.jsonl")
  cli.run(capsys, *words, "--output=whole.jsonl")

  assert 20 < len(done.splitlines()) < count
  assert "answers to other inputs, with other settings" in refused
  assert again.startswith(done)
  assert (inside / "many.jsonl").read_text() == (inside / "whole.jsonl").read_text()


def test_a_file_that_another_command_answers_into_is_left_to_it(inside, capsys):
  (inside / "both.txt").write_text("".join(f"number {i}\n" for i in range(60)))
  words = ["generate", "--workdir=w", "--prompts=both.txt", "--max_tokens=5"]
  first = processes.start(
      processes.COMMAND, *words, "--output=both.jsonl", folder=inside)
  progress = inside / "both.jsonl.progress"
  while first.ended() is None and not progress.exists():
    time.sleep(0.01)
  first.send_signal(signal.SIGSTOP)
  before = progress.read_bytes()

  message = cli.refused(capsys, *words, "--output=both.jsonl")
  cli.run(capsys, *words, "--output=alone.jsonl")

  assert f"both.jsonl: another command writes it (process {first.pid} on" in message
  assert progress.read_bytes() == before
  first.send_signal(signal.SIGCONT)
  assert first.wait() == 0
  assert (inside / "both.jsonl").read_bytes() == (inside / "alone.jsonl").read_bytes()
  assert not [*inside.glob("both.jsonl.*")]


@pytest.mark.parametrize("words, message", [
    (["--prompts=pairs.txt"], "pairs.txt: there is no such file"),
    (["--prompt=a", "--output=o.txt"], "--output is for the answers to --prompts"),
    (["--prompts=pairs.tsv", "--input_field=question"],
     "there is no column `question`, only asked, answer"),
    (["--prompts=pairs.tsv", "--output=o.txt", "--beams=2", "--num=2"],
     "o.txt: a file of lines holds one text for each input"),
    (["--prompt=a", "--beams=2", "--temperature=1", "--seed=1"],
     "A beam search samples nothing: remove --temperature, --seed"),
    (["--prompt=a", "--beams=0"], "--beams is 0, must be at least 1"),
    (["--prompt=a", "--beams=2", "--num=3"], "--beams=2 cannot find 3 texts"),
    (["--prompt=a", "--length_penalty=2"], "--length_penalty is for a beam search"),
    (["--prompt=a", "--top_k=2"], "--top_k is for tokens that are drawn"),
    (["--prompt=a", "--suppress=1,x"], "--suppress is '1,x', must be token ids"),
    (["--prompt=a", "--suppress=1,260"], "decoding.suppress is (1, 260), must be"),
    (["--prompt=a", "--early_stopping=now", "--beams=2"],
     "early_stopping is 'now', must be one of no, yes, never"),
    (["--prompt=a", "--temperature=hot"], "--temperature is 'hot', must be a number"),
    (["--prompt=a", "--min_p=2", "--temperature=1"], "min_p is 2.0, must be a number"),
    (["--prompt="], "Prompt 1 is empty, but this model answers an input")])
def test_wrong_flags_give_one_message_and_no_file(inside, capsys, words, message):
  assert message in cli.refused(capsys, "generate", "--workdir=w", *words)
  assert not (inside / "o.txt").exists()
