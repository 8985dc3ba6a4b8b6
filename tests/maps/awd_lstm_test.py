"""Tests for fastai's AWD-LSTM language models, against PyTorch with its names."""

import logging
import os
import pickle

import numpy as np
import pytest

from tests import comparing
from tests import fastai_models
from tests.comparing import distance
from tests.random_models import apply
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.data import tokenizer_words
from transfer_gen.export import convert
from transfer_gen.formats import detect
from transfer_gen.generate import sampling
from transfer_gen.models import registry

torch = pytest.importorskip("torch")

ITOS = fastai_models.ITOS
WIDTHS = (4, 6, 5, 4)
TOKENS = np.random.default_rng(0).integers(0, len(ITOS), (2, 7)).astype(np.int32)


@pytest.fixture(scope="module", name="net")
def _net():
  return fastai_models.network(torch, len(ITOS), WIDTHS)


def write(net, folder, form="bare", itos=ITOS):
  path = folder / "lm.pth"
  return path, fastai_models.save(torch, net, path, form, itos)


def edited(net, folder, change):
  """Writes a state dict after a change, and returns the file."""
  state = dict(net.state_dict())
  torch.save(change(state) or state, folder / "lm.pth")
  return folder / "lm.pth"


def load(path, **kwargs):
  source = sources.open(path, **kwargs)
  return source, registry.build(source.model), dict(source.read(list(source.specs)))


@pytest.mark.parametrize("form", ["bare", "learn", "fastai_1"])
def test_logits_and_greedy_words_match_pytorch(net, tmp_path, form):
  path, _ = write(net, tmp_path, form)

  source, module, params = load(path)

  with torch.no_grad():
    wanted = net(torch.tensor(TOKENS, dtype=torch.int64)).numpy()
    greedy = [2, 14]
    for _ in range(8):
      greedy.append(int(net(torch.tensor([greedy]))[0, -1].argmax()))
  assert distance(apply(module, params, TOKENS), wanted) < 1e-5
  [new] = sampling.generate(
      module, params, [[2, 14]], decoding=config.Decoding(max_tokens=8))
  assert list(new) == greedy[2:] and len(set(greedy)) > 3
  assert source.model == config.Recurrent(
      vocab_size=len(ITOS), num_layers=3, embed_width=4, hidden_width=6,
      hidden_widths=(6, 5, 4), recurrent_bias=True, forget_bias=0.0, tied=True)


def test_the_vocabulary_beside_it_is_read_and_its_limits_are_named(
    net, tmp_path, caplog):
  path, _ = write(net, tmp_path)

  with caplog.at_level(logging.WARNING):
    source = sources.open(path)

  assert source.tokenizer.encode("The cat sat") == [8, 9, 14, 15]
  assert source.notes == (tokenizer_words.Words.NOTE,)
  assert "not by spaCy" in caplog.text


def test_the_raw_weight_is_read_and_a_copy_that_differs_is_named(net, tmp_path, caplog):
  path, arrays = write(net, tmp_path, "fastai_1")
  raw, copy = "0.rnns.1.weight_hh_l0_raw", "0.rnns.1.module.weight_hh_l0"
  assert (arrays[raw] != arrays[copy]).any()

  with caplog.at_level(logging.WARNING):
    _, _, params = load(path)

  theirs = np.asarray(params["layer_1/cell/recurrent_kernel"])
  np.testing.assert_array_equal(theirs, arrays[raw].T.reshape(5, 4, 5))
  assert f"{raw} and {copy} differ: the first is read" in caplog.text
  caplog.clear()
  state = {name: torch.tensor(arrays[raw if name == copy else name])
           for name in arrays if ".0." not in name[1:] or name != copy}
  state |= {name.replace("weight_hh_l0_raw", "module.weight_hh_l0"): value
            for name, value in state.items() if name.endswith("_raw")}
  torch.save(state, path)
  load(path)
  assert "differ" not in caplog.text  # Equal copies are not worth a word.


@pytest.mark.parametrize("form", ["bare", "learn", "fastai_1"])
def test_exported_names_and_bits_are_those_that_were_read(net, tmp_path, form):
  path, arrays = write(net, tmp_path, form)

  notes = convert.convert(path, tmp_path / "out", "safetensors")

  wanted = fastai_models.without_copies(arrays)
  raw = detect.opener_of(tmp_path / "out")()
  comparing.assert_same_bits(dict(raw.read(list(raw.specs))), wanted)
  assert "those of fastai's AWD-LSTM" in notes[1]
  again = sources.open(tmp_path / "out")
  assert again.model == sources.open(path).model
  assert again.tokenizer.tokens == sources.open(path).tokenizer.tokens


def test_half_precision_goes_back_as_it_was(net, tmp_path):
  path = edited(net, tmp_path, lambda s: {k: v.half() for k, v in s.items()})

  convert.convert(path, tmp_path / "out", "safetensors", vocabulary="none")

  raw = detect.opener_of(tmp_path / "out")()
  assert {str(spec.dtype) for spec in raw.specs.values()} == {"float16"}
  [(_, table)] = raw.read(["0.encoder.weight"])
  np.testing.assert_array_equal(
      table, net.state_dict()["0.encoder.weight"].half().numpy())


def test_an_output_of_its_own_is_read_as_one(tmp_path):
  untied = fastai_models.network(torch, len(ITOS), WIDTHS, tied=False)
  path, _ = write(untied, tmp_path)

  source, module, params = load(path)

  with torch.no_grad():
    wanted = untied(torch.tensor(TOKENS, dtype=torch.int64)).numpy()
  assert not source.model.tied and "head/kernel" in params
  assert distance(apply(module, params, TOKENS), wanted) < 1e-5
  convert.convert(path, tmp_path / "out", "safetensors")
  assert not sources.open(tmp_path / "out").model.tied


def test_a_recurrent_model_of_another_kind_is_not_written_for_fastai(tmp_path):
  np.savez(tmp_path / "model.npz", **{
      name: np.zeros(spec.shape, np.float32) for name, spec in registry.specs(
          registry.build(config.Recurrent(
              vocab_size=5, num_layers=1, embed_width=3, hidden_width=4))).items()})
  (tmp_path / "map.json").write_text(
      '{"model": {"family": "Recurrent", "vocab_size": 5, "num_layers": 1,'
      ' "embed_width": 3, "hidden_width": 4},'
      ' "lines": [{"target": "(.*)", "source": "\\\\1"}]}')

  with pytest.raises(errors.UserError, match="forget_bias is 1.0, and theirs would be"):
    convert.convert(tmp_path / "model.npz", tmp_path / "out", "safetensors",
                    name=str(tmp_path / "map.json"))
  assert not (tmp_path / "out").exists()


def _renamed(old, new):
  return lambda state: {name.replace(old, new): x for name, x in state.items()}


def _without(part):
  return lambda state: {name: x for name, x in state.items() if part not in name}


@pytest.mark.parametrize("change, message", [
    (_renamed("weight_hh_l0_raw", "layers.0.linear.weight_raw"), "a QRNN"),
    (_renamed("module.weight_ih_l0", "module.weight_ih_l0_reverse"), "both ways"),
    (_renamed("0.encoder", "0.module.encoder"), "a classifier of texts"),
    (_renamed("1.decoder", "1.layers.0.0"), "a classifier of texts"),
    (_renamed("encoder_dp.emb", "encoder_with_dropout.embed"), "names of fastai 0.7"),
    (lambda s: {k[2:]: v for k, v in s.items() if k[0] == "0"}, "an encoder alone"),
    (_without("decoder.bias"), "without 1.decoder.bias"),
    (_without("decoder.weight"), "it lacks 1.decoder.weight"),
    (_without("rnns.1."), r"its layers are \[0, 2\]"),
    (_without("weight_hh_l0_raw"), "weight_hh_l0_raw, which is not in the checkpoint"),
    (lambda s: s | {"2.extra": torch.ones(2)}, "read by no line: 2.extra"),
    (lambda s: s | {"0.encoder.weight": torch.ones(3)}, "does not make sense"),
])
def test_what_is_no_such_model_is_refused_in_one_message(
    net, tmp_path, change, message):
  path = edited(net, tmp_path, change)

  with pytest.raises(errors.UserError, match=message):
    sources.open(path)


def test_tables_that_differ_are_refused(net, tmp_path):
  path = edited(net, tmp_path, lambda s: s | {
      "0.encoder_dp.emb.weight": s["0.encoder.weight"] + 1})

  with pytest.raises(errors.UserError, match="are one table in the model"):
    load(path)


@pytest.mark.parametrize("itos, message", [
    (ITOS[:-1], "24 words and the checkpoint 25 rows"),
    (["<unk>", *ITOS[1:]], "no vocabulary of fastai 1 or 2"),
    ({"itos": ITOS}, "a pickle of a dict"),
])
def test_a_vocabulary_that_is_none_of_it_is_refused(net, tmp_path, itos, message):
  path, _ = write(net, tmp_path, itos=itos)

  with pytest.raises(errors.UserError, match=message) as error:
    sources.open(path)

  assert "vocabulary=none" in str(error.value)
  assert sources.open(path, vocabulary="none").tokenizer is None


def test_a_vocabulary_is_asked_for_where_none_or_several_lie(net, tmp_path):
  path, _ = write(net, tmp_path, itos=None)

  notes = convert.convert(path, tmp_path / "out", "orbax")

  assert f"{path} holds no vocabulary: give source.tokenizer" in notes[-1]
  for name in ("itos.pkl", "vocab.pkl"):
    (tmp_path / name).write_bytes(pickle.dumps(ITOS))
  with pytest.raises(errors.UserError, match="itos.pkl, vocab.pkl may all be"):
    sources.open(path)
  named = sources.open(path, tokenizer=str(tmp_path / "vocab.pkl"))
  assert named.tokenizer.size == len(ITOS)
  assert named.notes == (tokenizer_words.Words.NOTE,)


class _Evil:
  """An object that runs a command when it is unpickled."""

  def __init__(self, command):
    self._command = command

  def __reduce__(self):
    return os.system, (self._command,)


@pytest.mark.parametrize("where", ["model", "vocabulary"])
def test_nothing_in_either_file_is_run(net, tmp_path, where):
  path, _ = write(net, tmp_path)
  done = tmp_path / "it ran"
  evil = _Evil(f"touch '{done}'")
  if where == "model":
    torch.save({"model": dict(net.state_dict()), "opt": evil}, path)
  else:
    (tmp_path / "lm_itos.pkl").write_bytes(pickle.dumps([*ITOS[:-1], evil]))

  with pytest.raises(errors.UserError, match="asks for posix.system"):
    sources.open(path)

  assert not done.exists()
