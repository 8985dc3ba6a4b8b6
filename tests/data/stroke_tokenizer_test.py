"""Tests of drawings as data: notation, files, rows, and how they are changed."""

import json

import numpy as np
import pytest

from tests.data import drawings
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import documents
from transfer_gen.data import files
from transfer_gen.data import notation
from transfer_gen.data import pipeline
from transfer_gen.data import stroke_tokenizer as strokes
from transfer_gen.data import tokenizers

OPTIONS = files.Options()
POINTS = np.array([[0, 0, 0], [3, -4, 0], [10, 0, 1], [-2, 5, 1]], np.float32)


def _read(path, split="train"):
  return [columns["text"] for _, columns in files.read(
      str(path), OPTIONS, split).examples]


@pytest.mark.parametrize("points", [POINTS, POINTS / 7], ids=["whole", "fractions"])
def test_a_text_gives_back_the_numbers_of_its_drawing(points):
  points = np.concatenate([points[:, :2], POINTS[:, 2:]], 1)

  np.testing.assert_array_equal(notation.points_of(notation.text(points)), points)


def test_whole_numbers_are_written_without_a_point():
  assert notation.text(POINTS) == "0 0 0 3 -4 0 10 0 1 -2 5 1"


def test_five_numbers_a_point_are_read_up_to_the_end(tmp_path):
  five = np.zeros((2, 6, 5), np.float32)
  five[:, :4, :2] = POINTS[:, :2]
  five[0, range(6), [2, 2, 3, 3, 4, 4]] = 1
  five[1, range(6), [2, 2, 3, 2, 2, 3]] = 1
  np.savez(tmp_path / "five.npz", train=five)

  first, second = map(notation.points_of, _read(tmp_path / "five.npz"))

  np.testing.assert_array_equal(first, POINTS)
  np.testing.assert_array_equal(second[:, 2], [0, 0, 1, 0, 0, 1])


def test_each_split_of_a_file_is_read_by_its_name(tmp_path):
  made = {name: drawings.zigzags(3 + i, i) for i, name in enumerate(
      ("train", "valid", "test"))}
  drawings.save(tmp_path / "a.npz", **made)

  for split, name in (("train", "train"), ("validation", "valid"), ("test", "test")):
    assert _read(tmp_path / "a.npz", split) == list(map(notation.text, made[name]))


def test_splits_that_the_file_for_training_holds_are_those_of_the_data(tmp_path):
  drawings.save(tmp_path / "a.npz", train=drawings.zigzags(9, 1),
                valid=drawings.zigzags(3, 2), test=drawings.zigzags(4, 3))
  drawings.save(tmp_path / "b.npz", train=drawings.zigzags(40, 1))
  load = lambda name: documents.load(config.Data(
      name="files", train=str(tmp_path / name)))

  own, facts = load("a.npz")
  split_off, _ = load("b.npz")

  assert [len(own[split]) for split in own] == [9, 3, 4]
  assert len(facts["notes"]) == 2
  assert len(split_off["train"]) < 40 and split_off["validation"] and split_off["test"]


def test_lines_of_quickdraw_become_drawings_from_their_first_point(tmp_path):
  lines = [[[5, 8, 9], [7, 7, 1], [0, 10, 20]], [[0], [2]]]
  (tmp_path / "a.ndjson").write_text(
      json.dumps({"word": "cat", "drawing": lines}) + "\n"
      + json.dumps({"text": "a text"}) + "\n")

  first, second = _read(tmp_path / "a.ndjson")

  np.testing.assert_array_equal(notation.points_of(first), [
      [0, 0, 0], [3, 0, 0], [1, -6, 1], [-9, 1, 1]])
  assert second == "a text"


def _bad(points, starts=(0, 4), name="train"):
  return {f"{name}_strokes": np.asarray(points), f"{name}_offsets": np.array(starts)}


@pytest.mark.parametrize("arrays, message", [
    (_bad(np.zeros((4, 4))), r"shape \(4, 4\), must be \(N, 3\) or \(N, 5\)"),
    (_bad(np.zeros(4)), r"shape \(4,\), must be"),
    (_bad(POINTS * [[1, np.nan, 1]]), r"train\[0\]: point 1 holds .*nan"),
    (_bad(np.concatenate([POINTS, [[0, 0, 0], [np.inf, 0, 1]]]), (0, 4, 6)),
     r"train\[1\]: point 2 holds"),
    (_bad(POINTS * [[1e39, 1, 1]]), r"train\[0\]: point 2 holds .*inf"),
    (_bad(POINTS + [[0, 0, 1]]), r"train\[0\]: the state of its pen is not 0 or 1"),
    (_bad(np.zeros((4, 5))), "one of three"),
    (_bad(POINTS, (0, 4, 4)), "1 drawings of train_strokes have no points, the first is"
     " number 1"),
    (_bad(POINTS, (0, 3)), "must be whole numbers that rise from 0 to 4"),
    (_bad(POINTS, (0, 3, 2, 4)), "must be whole numbers that rise"),
    (_bad(POINTS, (0.0, 4.0)), "must be whole numbers that rise"),
    ({"train": np.zeros((2, 4))}, r"train is an array of shape \(2, 4\)"),
    ({"train": np.eye(5)[[[4, 4]]]}, r"train\[0\]: it has no points"),
    (_bad(POINTS, name="valid"), "drawings for data.train are train_strokes"),
    ({"other": np.zeros(3)}, "it holds other, and drawings"),
    ({"train": np.array([POINTS, POINTS[:2]], object)},
     r"(?s)an array of objects, which is a pickle.*np.load\('OLD.npz'"),
])
def test_arrays_that_are_no_drawings_are_refused(tmp_path, arrays, message):
  np.savez(tmp_path / "bad.npz", **arrays)

  with pytest.raises(errors.UserError, match=message):
    _read(tmp_path / "bad.npz")


def test_the_conversion_that_a_refusal_names_makes_a_file_that_is_read(
    tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  made = drawings.zigzags(3)
  ragged = np.empty(3, object)
  ragged[:] = made
  np.savez("OLD.npz", train=ragged)
  with pytest.raises(errors.UserError) as refusal:
    _read("OLD.npz")

  # The lines of the message, as a user would run them.
  program = str(refusal.value).partition("once:\n")[2]
  exec("\n".join(line.removeprefix("  ") for line in program.splitlines()), {})  # pylint: disable=exec-used

  assert _read("NEW.npz") == list(map(notation.text, made))


@pytest.mark.parametrize("drawing", [
    5, [], [[]], [[[1, 2]]], [[[1, 2], [1]]], [[["a"], ["b"]]], [[[], []]],
    [[[1], [float("inf")]]], [[[10**400], [1]]], {"a": 1}])
def test_a_line_that_is_no_drawing_is_refused(drawing):
  with pytest.raises(errors.UserError, match="^here: "):
    notation.of_lines(drawing, "here")


@pytest.mark.parametrize("text", ["", "1 2", "1 2 x", "1 2 0.5", "1 nan 0", "1 2 0 3"])
def test_a_text_that_is_no_drawing_is_refused(text):
  with pytest.raises(errors.UserError):
    notation.points_of(text)


def _prepared(made, **fields):
  tokenizer = strokes.build(map(notation.text, made))
  split = [documents.Document("", notation.text(points)) for points in made]
  return pipeline.prepare(
      config.Data(name="files", train="x", **fields), {"train": split}, tokenizer,
      {}), tokenizer


def test_a_row_holds_a_drawing_and_its_end_up_to_the_length():
  made = drawings.zigzags(5)
  prepared, tokenizer = _prepared(made, length=9)
  batch = next(prepared.evaluation_batches("train", 5))

  flat = np.concatenate(made)[:, :2]
  assert tokenizer.scale == pytest.approx(flat.std(), rel=1e-6)
  for i, points in enumerate(made):
    count = len(points)
    np.testing.assert_allclose(
        batch["values"][i, :count] * tokenizer.scale, points[:, :2], atol=1e-5)
    assert not batch["values"][i, count:].any()
    np.testing.assert_array_equal(batch["targets"][i, :count], points[:, 2])
    assert (batch["targets"][i, count:] == strokes.END).all()
    assert batch["value_weights"][i].sum() == count
  assert (batch["inputs"][:, 0] == strokes.DOWN).all()
  np.testing.assert_array_equal(batch["inputs"][:, 1:], batch["targets"][:, :-1])
  assert (batch["weights"] == 1).all()  # The paper's equation 9: all steps count.
  assert prepared.facts["tokenizer"]["scale"] == tokenizer.scale


def test_a_tokenizer_of_drawings_is_saved_with_its_scale(tmp_path):
  made = strokes.build(map(notation.text, drawings.zigzags(5)))
  made.save(tmp_path / "tokenizer")

  assert tokenizers.load(tmp_path / "tokenizer").scale == made.scale
  for scale in ("null", "-1", "0", "1e400", '"x"'):
    (tmp_path / "tokenizer" / "tokenizer_kind.json").write_text(
        f'{{"kind": "strokes", "scale": {scale}}}')
    with pytest.raises(errors.UserError, match="scale"):
      tokenizers.load(tmp_path / "tokenizer")


@pytest.mark.parametrize("too_long, facts", [
    ("drop", {"kept": 3, "dropped": {"too_many_tokens": 2}}),
    ("cut", {"kept": 5, "dropped": {}, "cut": 2})])
def test_drawings_that_are_too_long_are_dropped_or_cut_and_counted(too_long, facts):
  made = [np.pad(POINTS[:1], ((0, n - 1), (0, 0)), "edge") + [[i, 0, 0]]
          for i, n in enumerate((3, 9, 6, 8, 2))]
  prepared, _ = _prepared(made, length=6, too_long=too_long)

  found = prepared.facts["splits"]["train"]
  assert {name: found[name] for name in facts} == facts
  with pytest.raises(errors.UserError, match="2 of 5 drawings have more than"):
    _prepared(made, length=6, too_long="refuse")


@pytest.mark.parametrize("fields, message", [
    (dict(input_field="a"), "neither pairs nor joined"),
    (dict(packing="joined"), "neither pairs nor joined"),
    (dict(corrupt=config.Corrupt(word_dropout=0.1)), "word_dropout are for texts"),
])
def test_what_only_texts_can_be_is_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    _prepared(drawings.zigzags(3), length=9, **fields)


def test_a_text_among_others_that_is_no_drawing_is_named():
  texts = [notation.text(points) for points in drawings.zigzags(4)]
  texts[2] = f"{texts[2]} 1 nan 0"

  with pytest.raises(errors.UserError, match="drawing 2 .*: point .* nan"):
    strokes.build(texts)


def test_an_offset_that_no_arithmetic_could_hold_is_refused():
  tokenizer = strokes.Strokes(0.5)

  assert tokenizer.scaled("0 0 0 -3e5 0 1")[1].tolist() == [-6e5, 0, 1]
  with pytest.raises(errors.UserError, match="a million times as large as 0.5"):
    tokenizer.scaled("0 0 0 0 -6e5 1")


def test_drawings_without_extent_have_no_scale():
  with pytest.raises(errors.UserError, match="all offsets of all drawings are equal"):
    strokes.build(["0 0 0 0 0 1"])


def _changed(seed=0, rows=3, **corrupt):
  prepared, _ = _prepared(
      drawings.zigzags(8), length=9, corrupt=config.Corrupt(**corrupt))
  batches = prepared.train_batches(rows, seed)
  found = {}
  for _ in range(24 // rows):  # Three epochs.
    batch = next(batches)
    for i in range(rows):
      found.setdefault(int(batch["draws"][i]), []).append(
          {name: value[i] for name, value in batch.items()})
  return found


def test_what_is_drawn_for_a_row_depends_on_seed_drawing_and_epoch_alone():
  by_three, by_eight = (_changed(rows=rows, stretch=0.2, drop_points=0.3)
                        for rows in (3, 8))

  assert len(by_three) == 8 and by_three.keys() == by_eight.keys()
  for key, rows in by_three.items():
    for one, other in zip(rows, by_eight[key], strict=True):
      for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    assert not np.array_equal(rows[0]["values"], rows[1]["values"])
  other = _changed(seed=1, stretch=0.2, drop_points=0.3)
  assert any(not np.array_equal(rows[0]["values"], other[key][0]["values"])
             for key, rows in by_three.items())


def test_a_stretched_drawing_keeps_its_form_and_one_that_lost_points_its_corners():
  plain = {key: rows[0] for key, rows in _changed(stretch=0, drop_points=1e-9).items()}
  stretched = _changed(stretch=0.2)
  thinned = _changed(drop_points=0.999)

  for key, whole in plain.items():
    count = int(whole["value_weights"].sum())
    factors = [ours[whole_ != 0] / whole_[whole_ != 0] for ours, whole_ in zip(
        stretched[key][0]["values"][:count].T, whole["values"][:count].T, strict=True)]
    for side in factors:
      np.testing.assert_allclose(side, side[0], rtol=1e-4)
      assert 0.8 <= side[0] <= 1.2
    assert abs(factors[0][0] - factors[1][0]) > 1e-6  # Each side has a factor.
    left = thinned[key][0]
    ends = int(left["value_weights"].sum())
    assert ends < count
    # Lines begin and end where they did, and the pen is lifted as often.
    for name in ("targets", "inputs"):
      places = lambda row, name=name: np.cumsum(row["values"], 0)[
          (row[name] == strokes.UP) & (row["value_weights"] > 0)]
      np.testing.assert_allclose(places(left), places(whole), atol=1e-4, err_msg=name)
    assert (left["targets"][ends:] == strokes.END).all()
    assert not left["values"][ends:].any()
    np.testing.assert_array_equal(left["inputs"][1:], left["targets"][:-1])
