"""Tests that each foreign format gives correct specs and bitwise equal values."""

import json
import struct

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests import paths
from transfer_gen import __main__ as main
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.formats import detect
from transfer_gen.formats import raw

STORIES = paths.DATA / "stories260K"
ML5 = paths.DATA / "ml5_charrnn"


def _arrays():
  rng = np.random.default_rng(0)
  return {
      "body.weight": rng.normal(size=(5, 3)).astype(np.float32),
      "body.half": rng.normal(size=(4,)).astype(np.float16),
      "count": np.array(7, np.int64),
      "ids": np.arange(6, dtype=np.int32).reshape(2, 3),
      "none": np.zeros((0, 4), np.float32),
  }


def _check(source, arrays):
  """Checks that specs and values of a source are those of the arrays."""
  assert set(source.specs) == set(arrays)
  for name, array in arrays.items():
    spec = source.specs[name]
    assert (spec.shape, spec.dtype) == (array.shape, array.dtype)
    assert (spec.axes, spec.reads) == ((), ())
  for name, value in source.read(sorted(arrays)):
    assert (value.shape, value.dtype) == (arrays[name].shape, arrays[name].dtype)
    assert value.tobytes() == arrays[name].tobytes()


def test_safetensors_are_read_as_they_were_written(tmp_path):
  arrays = _arrays() | {"brain": np.array([1.5, -2], ml_dtypes.bfloat16)}
  safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors", {"format": "pt"})

  source = detect.opener_of(tmp_path / "model.safetensors")()

  _check(source, arrays)
  _check(detect.opener_of(tmp_path)(), arrays)  # As Hugging Face names it in a folder.
  assert source.facts["metadata"] == {"format": "pt"}
  assert source.title.endswith("model.safetensors: safetensors file")


def test_reading_one_leaf_reads_only_its_own_bytes(tmp_path, monkeypatch):
  # A sparse file: its 64 GiB take no space on disk, but cannot all be read quickly.
  header = json.dumps({
      "big": {"dtype": "F32", "shape": [2**17, 2**17], "data_offsets": [0, 2**36]},
      "small": {"dtype": "F32", "shape": [2], "data_offsets": [2**36, 2**36 + 8]},
  }).encode()
  path = tmp_path / "x.safetensors"
  with path.open("wb") as file:
    file.write(struct.pack("<Q", len(header)) + header)
    file.seek(8 + len(header) + 2**36)
    file.write(np.array([3, 4], np.float32).tobytes())
  taken = []
  fill = raw.fill
  monkeypatch.setattr(
      raw, "fill", lambda file, count: taken.append(count) or fill(file, count))

  source = detect.opener_of(path)()
  (name, value), = source.read(["small"])

  assert name == "small" and value.tolist() == [3, 4]
  assert taken == [8, len(header), 8]


def test_read_buffers_are_aligned_to_64_bytes(tmp_path):
  safetensors.numpy.save_file(_arrays(), tmp_path / "x.safetensors")

  source = detect.opener_of(tmp_path / "x.safetensors")()
  for _, value in source.read(["ids", "body.weight"]):
    # JAX uses a host buffer without a copy only if it is aligned to 64 bytes.
    assert value.ctypes.data % 64 == 0


def _sharded(folder, arrays):
  names = list(arrays)
  files = {"model-1.safetensors": names[:2], "model-2.safetensors": names[2:]}
  for file, mine in files.items():
    safetensors.numpy.save_file({n: arrays[n] for n in mine}, folder / file)
  places = {n: file for file, mine in files.items() for n in mine}
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
  return index, places


def test_sharded_safetensors_are_read_with_their_index_file(tmp_path):
  index, _ = _sharded(tmp_path, _arrays())

  _check(detect.opener_of(index)(), _arrays())
  _check(detect.opener_of(tmp_path)(), _arrays())


@pytest.mark.parametrize("change, why", [
    ({"ids": "../other.safetensors"}, "no plain file name"),
    ({"ids": "/etc/passwd"}, "no plain file name"),
    ({"ids": 3}, "no file name"),
    ({"ids": "model-3.safetensors"}, "names model-3.safetensors, which is not there"),
    ({"ids": "model-1.safetensors"}, "ids is not in model-1.safetensors"),
    ({"ids": None}, "ids of model-2.safetensors is not in it"),
])
def test_an_inconsistent_index_file_is_refused(tmp_path, change, why):
  index, places = _sharded(tmp_path, _arrays())
  places = {n: f for n, f in (places | change).items() if f is not None}
  index.write_text(json.dumps({"weight_map": places}))

  with pytest.raises(errors.UserError, match=why):
    detect.opener_of(tmp_path)()


@pytest.mark.parametrize("name", [
    "model.safetensors", "pytorch_model.bin", "a.npz", "a.h5", "a.pt"])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path, name):
  (tmp_path / name).write_text(
      "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
  with pytest.raises(errors.UserError, match="a pointer of Git LFS .*git lfs pull"):
    detect.opener_of(tmp_path / name)()


def test_a_shard_that_is_a_pointer_of_git_lfs_is_named(tmp_path):
  _sharded(tmp_path, _arrays())
  (tmp_path / "model-2.safetensors").write_text(
      "version https://git-lfs.github.com/spec/v1\n")
  with pytest.raises(errors.UserError, match="model-2.safetensors: it is a pointer"):
    detect.opener_of(tmp_path)()


def test_a_leaf_that_no_file_has_is_left_to_the_map(tmp_path):
  index, places = _sharded(tmp_path, _arrays())
  index.write_text(json.dumps({
      "weight_map": places | {"more": "model-1.safetensors"}}))

  _check(detect.opener_of(tmp_path)(), _arrays())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_is_read_as_it_was_written(tmp_path, save):
  arrays = _arrays()
  stored = dict(arrays, ids=arrays["ids"].astype(">i4"),
                **{"body.weight": np.asfortranarray(arrays["body.weight"])})
  save(tmp_path / "x.npz", **stored)

  _check(detect.opener_of(tmp_path / "x.npz")(), arrays)


def test_a_folder_of_npy_files_is_read_as_it_was_written(tmp_path):
  for name, array in _arrays().items():
    np.save(tmp_path / f"{name}.npy", array)

  _check(detect.opener_of(tmp_path)(), _arrays())


@pytest.mark.parametrize("array, why", [
    (np.array([{}, print], object), "object"), (np.array(["a"]), "dtype <U1"),
    (np.zeros(2, [("a", "f4")]), "only numbers are read"),
    (np.zeros(2, ml_dtypes.bfloat16), "bfloat16 has no dtype there"),
])
def test_arrays_with_a_non_numeric_dtype_are_refused(tmp_path, array, why):
  np.savez(tmp_path / "x.npz", good=np.zeros(2), bad=array)
  np.save(tmp_path / "bad.npy", array)

  for path in (tmp_path / "x.npz", tmp_path):
    with pytest.raises(errors.UserError, match=why):
      detect.opener_of(path)()


def _manifest(folder, **entries):
  folder.mkdir(exist_ok=True)
  np.arange(6, dtype="<f4").tofile(folder / "w")
  np.float32(2).tofile(folder / "step")
  (folder / "manifest.json").write_text(json.dumps({
      "cell/kernel": {"filename": "w", "shape": [2, 3]},
      "step": {"filename": "step", "shape": []}, **entries}))
  return folder


def test_a_folder_of_raw_float32_tensors_is_read_through_its_manifest(tmp_path):
  _check(detect.opener_of(_manifest(tmp_path))(), {
      "cell/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
      "step": np.array(2, np.float32)})


@pytest.mark.parametrize("entry, why", [
    ({"filename": "../w", "shape": [2, 3]}, "no plain file name"),
    ({"filename": "gone", "shape": [2, 3]}, "names gone, which is not there"),
    ({"filename": "w", "shape": [2, 4]}, "takes 32 bytes, and w has 24"),
    ({"filename": "w", "shape": [2**40, 2**40]}, "no shape of a tensor"),
    ({"filename": "w", "shape": [-2, -3]}, "no shape of a tensor"),
    ({"filename": "w", "shape": [2.0, 3]}, "no shape of a tensor"),
    ({"filename": "w", "shape": [2, 3], "dtype": "f2"}, "no filename and shape, or"),
    (["w"], "no filename and shape"),
])
def test_an_inconsistent_manifest_is_refused(tmp_path, entry, why):
  with pytest.raises(errors.UserError, match=why):
    detect.opener_of(_manifest(tmp_path, bad=entry))()


CONFIG = dict(dim=8, hidden_dim=12, n_layers=2, n_heads=4, n_kv_heads=2, vocab_size=10,
              seq_len=6)


def _llama(version, shared):
  """Returns the bytes of a llama2.c file, and its arrays by name."""
  dim, hidden, layers, heads, kv_heads, vocab, length = CONFIG.values()
  head_dim, rng = dim // heads, np.random.default_rng(0)
  shapes = {
      "token_embedding_table": (vocab, dim), "rms_att_weight": (layers, dim),
      "wq": (layers, dim, dim), "wk": (layers, kv_heads * head_dim, dim),
      "wv": (layers, kv_heads * head_dim, dim), "wo": (layers, dim, dim),
      "rms_ffn_weight": (layers, dim), "w1": (layers, hidden, dim),
      "w2": (layers, dim, hidden), "w3": (layers, hidden, dim),
      "rms_final_weight": (dim,), "freq_cis_real": (length, head_dim // 2),
      "freq_cis_imag": (length, head_dim // 2)}
  order = list(shapes)
  # In version 0, a negative vocabulary size says that the output is not shared.
  head = struct.pack(
      "<7i", *{**CONFIG, "vocab_size": vocab if shared else -vocab}.values())
  if version:
    # Version 1 has a magic number, a header of 256 bytes, and another order.
    order = ["rms_att_weight", "rms_ffn_weight", "rms_final_weight",
             "token_embedding_table", "wq", "wk", "wv", "wo", "w1", "w2", "w3"]
    head = struct.pack("<Ii7iB", 0x616B3432, version, *CONFIG.values(), shared)
    head = head.ljust(256, b"\0")
  if not shared:
    shapes["wcls"] = (vocab, dim)
    order.append("wcls")
  arrays = {name: rng.normal(size=shapes[name]).astype("<f4") for name in order}
  return head + b"".join(x.tobytes() for x in arrays.values()), arrays


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("shared", [True, False])
def test_llama2c_files_are_read_as_they_were_written(tmp_path, version, shared):
  data, arrays = _llama(version, shared)
  (tmp_path / "x.bin").write_bytes(data)

  source = detect.opener_of(tmp_path / "x.bin")()

  _check(source, arrays)
  assert source.facts == {**CONFIG, "shared_classifier": shared}


@pytest.mark.parametrize("damage, why", [
    (lambda b: b[:-4], "asks for 4396 bytes, and it has 4392"),
    (lambda b: b + b"\0" * 4, "and it has 4400"),
    (lambda b: b[:20], "no whole llama2.c"),
    (lambda b: struct.pack("<I", 2**31 - 1) + b[4:], "does not divide|asks for"),
    (lambda b: struct.pack("<i", -8) + b[4:], "dim=-8"),
    (lambda b: b[:12] + struct.pack("<i", 3) + b[16:], "n_heads=3, which does not"),
    (lambda b: struct.pack("<Ii", 0x616B3432, 2) + b, "quantised"),
])
def test_a_damaged_llama2c_file_is_refused(tmp_path, damage, why):
  data, _ = _llama(0, True)
  (tmp_path / "x.bin").write_bytes(damage(data))

  with pytest.raises(errors.UserError, match=why):
    detect.opener_of(tmp_path / "x.bin")()


@paths.needs(STORIES)
def test_a_real_llama2c_model_matches_its_reference():
  source = detect.opener_of(STORIES / "stories260K.bin")()
  reference = json.loads((STORIES / "reference.json").read_text())
  read = dict(source.read(list(source.specs)))

  assert {n: source.facts[n] for n in reference["header"]} == reference["header"]
  assert source.facts["shared_classifier"] == reference["tied_embeddings"]
  params = sum(x.size for n, x in read.items() if not n.startswith("freq"))
  assert params == reference["params"]
  # The rotary tables come last in the file and follow from a formula, so that they
  # show whether every tensor before them was read at its place.
  angles = np.arange(512)[:, None] * 10000.0 ** (-np.arange(4) / 4)
  np.testing.assert_allclose(read["freq_cis_real"], np.cos(angles), atol=2e-5)
  np.testing.assert_allclose(read["freq_cis_imag"], np.sin(angles), atol=2e-5)


@paths.needs(ML5)
def test_a_real_folder_with_a_manifest_matches_its_reference():
  folder = ML5 / "charlotte_bronte"
  source = detect.opener_of(folder)()
  reference = json.loads((folder.parent / "reference.json").read_text())
  (_, value), = source.read(["rnnlm/softmax_w"])

  params = sum(s.size for n, s in source.specs.items() if n != "Variable")
  assert params == reference["charlotte_bronte"]["params"]
  np.testing.assert_array_equal(
      value, np.fromfile(folder / "rnnlm_softmax_w", "<f4").reshape(128, 108))


def _save_h5(path):
  with h5py.File(path, "w") as file:
    file["layers/dense/vars/0"] = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize("name, save", [
    ("x.safetensors", lambda p: safetensors.numpy.save_file(_arrays(), p)),
    ("x.npz", lambda p: np.savez(p, **_arrays())), ("x.h5", _save_h5),
    ("x.bin", lambda p: p.write_bytes(_llama(1, False)[0])), ("x", _manifest),
])
def test_inspect_lists_the_leaves_of_every_format(tmp_path, capsys, name, save):
  save(tmp_path / name)

  main.run(["transfer-gen", "inspect", f"--source={tmp_path / name}"])

  shown = capsys.readouterr().out
  source = detect.opener_of(tmp_path / name)()
  assert shown.startswith(source.title + "\n")
  for leaf, spec in source.specs.items():
    line, = (x for x in shown.splitlines() if x.startswith(leaf + " "))
    assert f"({','.join(map(str, spec.shape))})" in line and str(spec.dtype) in line
  assert f"{len(source.specs)} leaves" in shown


@pytest.mark.parametrize("name, why", [
    ("model.onnx", "not a checkpoint by its name. "
                   r"Supported are files that end in \.safetensors"),
    ("gone.npz", "there is no such"), ("", "holds no checkpoint")])
def test_a_path_that_is_not_a_checkpoint_is_refused(tmp_path, name, why):
  (tmp_path / "model.onnx").write_bytes(b"x")

  with pytest.raises(errors.UserError, match=why):
    sources.open(tmp_path / name)


def test_a_step_is_refused_for_a_checkpoint_of_another_format(tmp_path):
  with pytest.raises(errors.UserError, match="only checkpoints of runs have steps"):
    sources.open(_manifest(tmp_path), step=3)
