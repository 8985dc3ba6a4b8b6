"""Tests for what `inspect --data` shows of every kind of data."""

import json

import numpy as np
import pytest

from tests.commands import cli
from tests.data import drawings
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


STROKES = ("inspect", "--data", "--config=recipe:strokes", "--config.data.train=a.npz",
           "--config.data.length=10", "--config.train.batch_size=8", "--rows=3")


def _drawings(here, capsys, *words):
  """Writes drawings, and returns those of training and test and the rows as printed."""
  made = {name: drawings.zigzags(count, count) for name, count in (
      ("train", 20), ("valid", 4), ("test", 5))}
  drawings.save(here / "a.npz", **made)
  rows, name = [], ""
  for line in cli.run(capsys, *STROKES, *words).splitlines():
    if line.endswith("have a target that counts"):
      rows.append({"title": line})
    elif rows:  # A long line goes on without a name.
      name = line[:12].strip() or name
      rows[-1][name] = rows[-1].get(name, "") + line[12:]
  return made["train"], made["test"], rows


def _pairs(row):
  return np.array([pair.split(",") for pair in row["offsets"].split()], float)


def _pens(states):
  """Pens of ten positions as they are printed; a repeated end is counted."""
  ends = 10 - len(states)
  return "".join(f"{('down', 'up')[int(state)]} " for state in states) + (
      f"<eos> ({ends} times)" if ends > 3 else ends * "<eos>")


def test_a_drawing_is_shown_as_pens_its_end_and_scaled_offsets(here, capsys):
  train, wanted, rows = _drawings(here, capsys, "--split=test")
  scale = np.concatenate(train)[:, :2].astype(np.float64).std()

  assert [row["title"][:7] for row in rows] == ["test 1:", "test 2:", "test 3:"]
  for points, row in zip(wanted, rows):
    # All positions count: the end is predicted behind the last point, too.
    assert row["title"].endswith("10 positions, of which 10 have a target that counts")
    assert row["targets"] == _pens(points[:, 2])
    assert row["inputs"] == _pens([0, *points[:9, 2]])  # One later, and down at first.
    np.testing.assert_allclose(_pairs(row), points[:, :2] / scale, atol=0.0051)


def test_drawings_of_training_are_shown_stretched_and_with_points_left_out(
    here, capsys):
  still = ("--config.data.corrupt.stretch=0", "--config.data.corrupt.drop_points=0")
  _, _, plain = _drawings(here, capsys, *still)
  _, _, noisy = _drawings(here, capsys, "--config.data.corrupt.drop_points=0")
  *_, fewer = _drawings(here, capsys, "--config.data.corrupt.drop_points=0.9")
  *_, again = _drawings(here, capsys, "--config.data.corrupt.drop_points=0.9")

  for before, after in zip(plain, noisy, strict=True):
    ratio = np.abs(_pairs(after)).sum(0) / np.abs(_pairs(before)).sum(0)
    assert after["targets"] == before["targets"] and (ratio != 1).all()
    np.testing.assert_allclose(  # One factor of each axis, from 0.9 to 1.1.
        _pairs(after), _pairs(before) * ratio, atol=0.02)
    assert 0.85 < ratio.min() and ratio.max() < 1.15
  count = lambda rows: sum(len(_pairs(row)) for row in rows)
  assert fewer == again and count(fewer) < count(noisy)
  for row in fewer:  # The end moves forward with the points.
    assert row["targets"].split("<")[0].count(" ") == len(_pairs(row))


def test_tokens_are_joined_before_they_are_read():
  tokenizer = tokenizers.build(config.Tokenizer(kind="bytes"), ())
  ids = tokenizer.encode("é\x1b[1m")

  assert examples.spelled([1, *ids, 400], tokenizer) == "<bos>é\\x1b[1m<400>"
  # Half of a character is no text.
  assert examples.spelled(ids[:1], tokenizer) == "\ufffd"
