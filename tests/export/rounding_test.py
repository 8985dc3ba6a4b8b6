"""Tests for checkpoints in bfloat16 and float16: what is rounded, and how."""

import json
import struct

import numpy as np
import pytest
import torch
import transformers

from tests import small_runs
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.export import convert
from transfer_gen.export import rounding
from transfer_gen.formats import detect
from transfer_gen.run import audited
from transfer_gen.run import loop

# Halves between two neighbors, subnormals of both dtypes, and the ends of float16.
HARD = [0.0, -0.0, 1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11,
        1 + 2**-8 + 2**-20, 2.0**-24, 2.0**-25, 3 * 2.0**-26, -2.0**-25, 2.0**-130,
        65504.0, 65519.9, -65519.9, 3.14159274]


def _numbers():
  generator = np.random.default_rng(0)
  random = generator.normal(size=4000) * 10.0 ** generator.integers(-8, 4, 4000)
  return np.concatenate([HARD, random]).astype(np.float32)


def _bfloat16_bits(values):
  """By integers: half of the last bit is added, less one where that bit is 0."""
  bits = values.view(np.uint32)
  return ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _float16_bits(values):
  """By Python's own packing."""
  return np.frombuffer(b"".join(struct.pack("<e", x) for x in values), np.uint16)


@pytest.mark.parametrize("dtype, bits", [
    ("bfloat16", _bfloat16_bits), ("float16", _float16_bits)])
def test_numbers_are_rounded_to_the_nearest_and_half_to_even(dtype, bits):
  values = _numbers()

  found, notes = rounding.rounded({"a": values}, {"a": np.dtype(dtype)})

  np.testing.assert_array_equal(found["a"].view(np.uint16), bits(values))
  back = found["a"].astype(np.float32)
  changed, zeros = (back != values).sum(), ((back == 0) & (values != 0)).sum()
  said = f"; {zeros} of them are 0 now" if zeros else ""
  assert notes == (f"Rounded to {dtype}, to the nearest and half to even:"
                   f" {changed:,} of {len(values):,} numbers changed{said}.",)


def test_numbers_that_fit_are_kept_without_a_word():
  values = {"a": np.float32([1.5, -2.0, np.nan, np.inf]), "b": np.float32([1e30])}

  found, notes = rounding.rounded(values, {"a": np.dtype(np.float16)})

  assert notes == ()
  np.testing.assert_array_equal(found["a"].astype(np.float32), values["a"])
  assert found["b"].dtype == np.float32


def test_a_number_that_is_too_large_is_refused_with_its_leaf():
  values = {f"layer_{i}": np.float32([1.0, -65520.0 - i]) for i in range(7)}

  with pytest.raises(errors.UserError, match=(
      r"layer_0 \(65520, of float16\), .* and 2 more\..*--dtype=bfloat16")):
    rounding.rounded(values | {"fits": np.float32([65519])}, dict.fromkeys(
        [*values, "fits"], np.dtype(np.float16)))
  with pytest.raises(errors.UserError, match=r"a \(3.4\d*e\+38, of bfloat16\)"):
    rounding.rounded({"a": np.float32([np.finfo(np.float32).max])},
                     {"a": np.dtype("bfloat16")})


def _gpt2(folder, vocabulary=37):
  torch.manual_seed(0)
  model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=vocabulary, n_positions=16, n_embd=8, n_layer=1, n_head=2))
  model.save_pretrained(folder)
  return model


def _stored(folder):
  raw = detect.opener_of(folder)()
  return dict(raw.read(list(raw.specs)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_foreign_checkpoint_goes_out_rounded_and_comes_back_exactly(tmp_path, dtype):
  model = _gpt2(tmp_path / "in")

  notes = convert.convert(tmp_path / "in", tmp_path / "out", "safetensors", dtype=dtype)
  again = convert.convert(tmp_path / "out", tmp_path / "again", "safetensors")

  assert any(note.startswith(f"Rounded to {dtype}") for note in notes)
  assert again[1].endswith(f": leaves of {dtype} become float32 exactly.")
  assert not any("Rounded" in note for note in again)
  narrow = model.to(getattr(torch, dtype))
  for name, value in _stored(tmp_path / "out").items():
    want = narrow.get_parameter(name).detach().view(torch.int16).numpy()
    np.testing.assert_array_equal(value.view(np.int16), want)
    np.testing.assert_array_equal(
        value.view(np.int16), _stored(tmp_path / "again")[name].view(np.int16))
  loaded = transformers.AutoModelForCausalLM.from_pretrained(
      tmp_path / "out", dtype="auto")
  assert loaded.dtype == getattr(torch, dtype)


def test_a_number_too_large_for_float16_stops_a_conversion(tmp_path):
  model = _gpt2(tmp_path / "in")
  with torch.no_grad():
    model.transformer.h[0].mlp.c_fc.weight[3, 5] = 7e4
  model.save_pretrained(tmp_path / "in")

  with pytest.raises(errors.UserError, match=r"layer_0/mlp/up/kernel \(70000, of flo"):
    convert.convert(tmp_path / "in", tmp_path / "out", "safetensors", dtype="float16")

  assert not (tmp_path / "out").exists()


def test_a_run_is_written_in_the_dtype_that_is_asked_for(tmp_path):
  small_runs.write_lines(tmp_path / "text.txt")
  run = small_runs.configure(tmp_path / "text.txt", small_runs.DECODER, steps=1)
  loop.train(run, tmp_path / "run")

  convert.convert(tmp_path / "run", tmp_path / "out", "safetensors", dtype="bfloat16")

  source = sources.open(tmp_path / "out", vocabulary=sources.NONE)
  read = dict(source.read(list(source.specs)))
  for name, value in small_runs.params(tmp_path / "run").items():
    np.testing.assert_array_equal(
        np.asarray(read[name]).view(np.uint32) >> 16, _bfloat16_bits(value))
  assert json.loads((tmp_path / "out" / "config.json").read_text())[
      "dtype"] == "bfloat16"
  for form, given, message in (
      ("safetensors", "int8", "--dtype is 'int8', must be one of float32, bfloat16"),
      ("orbax", "float16", "--to=orbax holds float32"),
      ("keras", "float16", "--to=keras holds float32")):
    with pytest.raises(errors.UserError, match=message):
      convert.convert(tmp_path / "run", tmp_path / "no", form, dtype=given)


def test_plan_says_what_becomes_of_a_narrow_source(tmp_path, capsys):
  small_runs.write_lines(tmp_path / "text.txt")
  _gpt2(tmp_path / "in", vocabulary=21)  # As many as there are characters.
  convert.convert(tmp_path / "in", tmp_path / "half", "safetensors", dtype="float16")
  run = small_runs.configure(
      tmp_path / "text.txt", "source", steps=1, length=8, source=config.Source(
          path=str(tmp_path / "half"), vocabulary=sources.NONE))

  audited.write(run, tmp_path / "run", 0.0)

  assert "leaves of float16 become float32 exactly." in capsys.readouterr().out
