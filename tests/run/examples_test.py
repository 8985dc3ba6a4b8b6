"""Tests for what `inspect --data` shows of every kind of data."""

import json

import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen.data import tokenizers
from transfer_gen.run import examples

CONFIG = '''
from transfer_gen import config

def get_config(kind):
  data = config.Data(name="files", train="text.txt", length=40)
  if kind in ("pairs", "decoder", "chat"):
    data = config.Data(name="files", train="pairs.jsonl", input_field="q",
                       target_field="a", length=40,
                       template="chat" if kind == "chat" else "none")
  if kind == "noise":
    data.corrupt = config.Corrupt(noise=("spans",))
  encodes = kind in ("pairs", "noise")
  model = (config.EncoderDecoder if encodes else config.Decoder)(
      num_layers=1, width=8, num_heads=2, max_length=40)
  return config.Run(
      model=model, data=data,
      tokenizer=config.Tokenizer(kind="file", path="chat") if kind == "chat" else
      config.Tokenizer(kind="bytes", sentinels=4),
      train=config.Train(steps=2, batch_size=8))
'''


@pytest.fixture(name="here")
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "config.py").write_text(CONFIG)
  (tmp_path / "text.txt").write_text("".join(f"n° {i}, é\n" for i in range(90)))
  (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(
      {"q": f"say {i}", "a": f"it is\n{i}!"}) + "\n" for i in range(90)))
  return tmp_path


def _shown(capsys, kind, *words):
  """Returns the lines of the first row, by their names."""
  printed = cli.run(
      capsys, "inspect", "--data", f"--config=config.py:{kind}", "--rows=2", *words)
  rows = printed.split("\n" + (words[0][8:] if words else "train") + " ")
  assert len(rows) == 3 and max(map(len, printed.splitlines())) <= 100
  found = {}
  for line in rows[1].splitlines()[1:]:
    found.setdefault(line[:12].strip(), []).append(line[12:])
  return found


def test_texts_that_share_a_row_are_shown_one_by_one(here, capsys):
  found = _shown(capsys, "text", "--split=test")

  first, second = found["inputs"][:2]
  assert first.startswith("<bos>n° ") and second.startswith("<bos>n° ")
  assert found["targets"][0] == first.removeprefix("<bos>") + "<eos>"


def test_an_answer_counts_and_its_prompt_does_not(here, capsys):
  found = _shown(capsys, "decoder")

  assert found["inputs"][0].startswith("<bos>say ")
  assert r"<sep>it is\n" in found["inputs"][0] and "<pad> (" in found["inputs"][0]
  counted = found["counted"][0]
  assert counted.startswith(r".. it is\n") and counted.endswith("!<eos> ..")


def test_both_sides_of_a_pair_are_shown(here, capsys):
  found = _shown(capsys, "pairs")

  assert found["encoder"][0].startswith("say ")
  assert found["inputs"][0].startswith(r"<bos>it is\n")


def test_noise_is_shown_with_its_sentinels(here, capsys):
  found = _shown(capsys, "noise")

  assert "<extra_id_0>" in found["encoder"][0]
  assert found["counted"][0].startswith("<extra_id_0>")
  again, other = (_shown(capsys, "noise", "--split=train", f"--config.seed={seed}")
                  for seed in (0, 1))
  assert again == found != other


def test_special_tokens_of_a_chat_are_shown(here, capsys):
  tokenizer = tokenizers.build(config.Tokenizer(kind="bpe", size=280), ["say it is"])
  tokenizer.save(here / "chat")
  (here / "chat" / "chat_template.jinja").write_text(
      "{% for m in messages %}<s>{{ m['role'] }}:{{ m['content'] }}</s>{% endfor %}")

  found = _shown(capsys, "chat")

  assert found["inputs"][0].startswith("<s>user:say ")
  assert "</s><s>assistant:it is" in found["inputs"][0]
  assert found["counted"][0].endswith("!</s> ..")


def test_tokens_are_joined_before_they_are_read():
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), ())
  ids = tokenizer.encode("é\x1b[1m")

  assert examples.spelled([1, *ids, 400], tokenizer) == "<bos>é\\x1b[1m<400>"
  # Half of a character is no text.
  assert examples.spelled(ids[:1], tokenizer) == "\ufffd"
