"""Tests for reading PyTorch files without PyTorch and without running their code."""

import argparse
import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen.formats import detect
from transfer_gen.formats import pickles

torch = pytest.importorskip("torch")


def _bytes(tensor):
  return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _check(path, tensors):
  source = detect.opener_of(path)()
  assert set(source.specs) == set(tensors)
  for name, value in source.read(list(source.specs)):
    tensor = tensors[name]
    assert value.shape == source.specs[name].shape == tuple(tensor.shape)
    assert value.dtype == source.specs[name].dtype
    assert str(value.dtype) == str(tensor.dtype).removeprefix("torch.")
    assert np.ascontiguousarray(value).tobytes() == _bytes(tensor)
  return source


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.pth"])
def test_a_state_dict_is_read_as_it_was_saved(tmp_path, name):
  torch.manual_seed(0)
  model = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.LSTM(4, 3, 2))
  torch.save(model.state_dict(), tmp_path / name)

  _check(tmp_path / name, model.state_dict())


@pytest.mark.parametrize("dtype", [
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8",
    "uint8", "bool"])
def test_every_dtype_is_read_as_it_was_saved(tmp_path, dtype):
  tensor = (torch.arange(12).reshape(3, 4) % 5 - 1).to(getattr(torch, dtype))
  torch.save({"x": tensor, "scalar": tensor[1, 1], "none": tensor[:0]},
             tmp_path / "x.pt")

  _check(tmp_path / "x.pt",
         {"x": tensor, "scalar": tensor[1, 1], "none": tensor[:0]})


def test_views_and_tied_and_transposed_tensors_are_read_correctly(tmp_path):
  fused = torch.randn(6, 4)
  tensors = {"q": fused[:2], "k": fused[2:4], "last": fused[:, 3], "t": fused.T,
             "tied": fused, "step": fused[::2, 1::2],
             "param": torch.nn.Parameter(fused)}
  torch.save(tensors, tmp_path / "x.pt")

  _check(tmp_path / "x.pt", tensors)


def test_tensors_are_found_in_nested_containers(tmp_path):
  weight = torch.randn(2, 3)
  torch.save({"model": collections.OrderedDict(w=weight),
              "steps": [weight + 1, (weight + 2,)],
              "args": {"dim": 64, "name": "tiny", "rope": None, "lr": 1e-3}},
             tmp_path / "x.pt")

  source = _check(tmp_path / "x.pt",
                  {"model/w": weight, "steps/0": weight + 1, "steps/1/0": weight + 2})

  assert source.facts == {
      "args/dim": 64, "args/name": "tiny", "args/rope": None, "args/lr": 1e-3}


def test_sharded_files_are_read_with_their_index_file(tmp_path):
  tensors = {"a": torch.randn(3), "b": torch.randn(2, 2)}
  for name, tensor in tensors.items():
    torch.save({name: tensor}, tmp_path / f"{name}.bin")
  (tmp_path / "pytorch_model.bin.index.json").write_text(
      '{"weight_map": {"a": "a.bin", "b": "b.bin"}}')

  _check(tmp_path, tensors)


def test_reading_does_not_import_pytorch(tmp_path):
  torch.save({"x": torch.ones(2)}, tmp_path / "x.pt")

  child = subprocess.run(
      [sys.executable, "-c", "import sys\nfrom transfer_gen.formats import detect\n"
       f"s = detect.opener_of({str(tmp_path / 'x.pt')!r})()\n"
       "print(dict(s.read(['x']))['x'].sum(), 'torch' in sys.modules)"],
      capture_output=True, text=True, check=True, env={**os.environ})

  assert child.stdout == "2.0 False\n"


class _Evil:
  """An object that runs a command when it is unpickled."""

  def __init__(self, command):
    self._command = command

  def __reduce__(self):
    return os.system, (self._command,)


@pytest.mark.parametrize("value, named", [
    (lambda w, done: _Evil(f"touch {done}"), "posix.system"),
    (lambda w, done: {"w": w, "args": argparse.Namespace(dim=3)}, "argparse.Namespace"),
    (lambda w, done: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    (lambda w, done: {"w": np.float32(3)}, "numpy"),
    (lambda w, done: {"w": w, "set": {1, 2}}, "set"),
    (lambda w, done: {"w": w.to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    (lambda w, done: {"w": w, "f": print}, "print"),
])
def test_objects_other_than_tensors_and_plain_data_are_refused(tmp_path, value, named):
  done = tmp_path / "it ran"
  torch.save(value(torch.eye(2), f"'{done}'"), tmp_path / "x.bin")

  with pytest.raises(errors.UserError, match="only tensors and plain") as error:
    detect.opener_of(tmp_path / "x.bin")()

  assert named in str(error.value)
  assert not done.exists()
  if "system" in named:  # Python's own unpickler does run the command.
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
      pickle.loads(archive.read("x/data.pkl"))
    assert done.exists()


def test_the_legacy_format_before_pytorch_1_6_is_read(tmp_path):
  fused = torch.randn(6, 4)
  tensors = {"q": fused[:2], "t": fused.T, "tied": fused, "ids": torch.arange(5),
             "brain": torch.ones(3, dtype=torch.bfloat16)}
  torch.save(tensors, tmp_path / "x.bin", _use_new_zipfile_serialization=False)

  _check(tmp_path / "x.bin", tensors)


@pytest.mark.parametrize("old", [True, False])
def test_unpickling_never_runs_code_in_either_format(tmp_path, old):
  done = tmp_path / "it ran"
  torch.save({"w": torch.ones(2), "x": _Evil(f"touch '{done}'")}, tmp_path / "x.bin",
             _use_new_zipfile_serialization=not old)

  with pytest.raises(errors.UserError, match="asks for posix.system"):
    detect.opener_of(tmp_path / "x.bin")()

  assert not done.exists()


def _with_pickle(path, program):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("x/data.pkl", program)
    archive.writestr("x/data/0", b"\0" * 16)
  return path


def _doubled():
  """Returns a list that would have 2 ** 25 elements if it were written out."""
  value = [1]
  for _ in range(25):
    value = [value, value]
  return value


def _endless():
  """Returns a list that contains itself."""
  value = []
  value.append(value)
  return value


@pytest.mark.parametrize("value, why", [
    (_doubled(), "hold themselves"), (_endless(), "hold themselves"),
    ({"x" * 5000: [1, 2]}, "what no checkpoint does"), ({1: 2, "1": 3}, "are named 1"),
])
def test_exponential_and_cyclic_containers_are_refused(tmp_path, value, why):
  path = _with_pickle(tmp_path / "x.pt", pickle.dumps(value, protocol=2))

  with pytest.raises(errors.UserError, match=why):
    detect.opener_of(path)()


def _tensor(count=4, offset=0, shape=(4,), strides=(1,), member="0"):
  """Returns a pickle of one tensor, written opcode by opcode."""
  number = lambda value: b"J" + value.to_bytes(4, "little", signed=True)
  numbers = lambda values: b"(" + b"".join(map(number, values)) + b"t"
  text = lambda string: b"X" + len(string).to_bytes(4, "little") + string.encode()
  storage = (b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(member)
             + text("cpu") + number(count) + b"tQ")
  return (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset)
          + numbers(shape) + numbers(strides) + b"\x89NtR.")


def test_a_hand_written_tensor_pickle_is_read(tmp_path):
  path = _with_pickle(tmp_path / "x.pt", _tensor())

  assert [s.shape for s in detect.opener_of(path)().specs.values()] == [(4,)]


@pytest.mark.parametrize("lie", [
    dict(count=5), dict(offset=1), dict(offset=-1), dict(shape=(5,)),
    dict(strides=(2,)), dict(strides=(-1,)), dict(shape=(2**31 - 1,), strides=(0,)),
    dict(shape=(-4,)), dict(shape=(2, 2)), dict(member="1"), dict(member="../data.pkl"),
])
def test_a_tensor_outside_its_storage_is_refused(tmp_path, lie):
  path = _with_pickle(tmp_path / "x.pt", _tensor(**lie))

  with pytest.raises(errors.UserError, match="no whole PyTorch file"):
    detect.opener_of(path)()


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (st.lists(inner) | st.tuples(inner, inner)
                   | st.dictionaries(st.text(), inner)), max_leaves=12)


@hypothesis.given(value=_PLAIN, protocol=st.integers(2, 5))
@hypothesis.settings(max_examples=150, deadline=None)
def test_plain_data_is_read_as_pickle_reads_it(value, protocol):
  assert pickles.load(io.BytesIO(pickle.dumps(value, protocol)), {}, None) == value
