"""Tests that corrupted or inconsistent files are refused with one clear error.

`python -m benchmarks.malformed` tries 10,000 more, each in a process of its own.
"""

import errno
import io
import json
import os
import random
import resource
import struct
import time
import zipfile

from etils import epath
import h5py
import numpy as np
import pytest
import safetensors.numpy

from transfer_gen import errors
from transfer_gen import system
from transfer_gen.data import files
from transfer_gen.data import tokenizer_kinds
from transfer_gen.formats import detect
from transfer_gen.formats import raw
from transfer_gen.formats import whole


def _arrays():
  rng = np.random.default_rng(0)
  return {"body": rng.normal(size=(9, 7)).astype(np.float32),
          "half": rng.normal(size=(33,)).astype(np.float16),
          "ids": np.arange(12, dtype=np.int32).reshape(3, 4)}


def _safetensors():
  return safetensors.numpy.save(_arrays(), {"format": "np"})


def _npz(save=np.savez):
  file = io.BytesIO()
  save(file, **_arrays())
  return file.getvalue()


def _compressed():
  return _npz(np.savez_compressed)


def _h5():
  """Returns a file in the format of Keras 2, with one array stored in chunks."""
  file = io.BytesIO()
  with h5py.File(file, "w") as weights:
    weights.attrs["layer_names"] = np.array([b"rnn", b"dense"])
    for layer in ("rnn", "dense"):
      group = weights.create_group(layer)
      group.attrs["weight_names"] = [f"{layer}_1/{name}:0" for name in _arrays()]
      for name, value in _arrays().items():
        options = {"compression": "gzip"} if name == "body" else {}
        group.create_dataset(f"{layer}_1/{name}:0", data=value, **options)
  return file.getvalue()


def _keras():
  weights = io.BytesIO()
  with h5py.File(weights, "w") as file:
    for i, value in enumerate(_arrays().values()):
      file[f"layers/dense/vars/{i}"] = value
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("config.json", json.dumps({"class_name": "Sequential"}))
    archive.writestr("model.weights.h5", weights.getvalue())
  return file.getvalue()


def _torch(zipped=True):
  torch = pytest.importorskip("torch")
  file = io.BytesIO()
  torch.save({n: torch.from_numpy(x) for n, x in _arrays().items()}, file,
             _use_new_zipfile_serialization=zipped)
  return file.getvalue()


def _old_torch():
  return _torch(zipped=False)


def _llama2c():
  head = struct.pack("<7i", 4, 6, 1, 2, 1, 5, 3)
  return head + np.arange(158, dtype="<f4").tobytes()


FORMATS = {"x.safetensors": _safetensors, "x.npz": _npz, "z.npz": _compressed,
           "x.h5": _h5, "x.keras": _keras, "x.bin": _torch, "y.bin": _old_torch,
           "l.bin": _llama2c}
# Bytes that are likely to confuse a parser: extreme numbers and syntax.
_SPOILT = (b"\0", b"\xff", b"\x80", b"\x7f", b"\xff" * 4, b"\0" * 4, b"\xff" * 8,
           b"\xff\xff\xff\x7f", b"9", b"-", b"}", b"/")


def _mutant(data, seed):
  """Returns the file truncated, or with some bytes overwritten, removed or repeated."""
  rng = random.Random(seed)
  broken = bytearray(data)
  if rng.random() < 0.15:
    return bytes(broken[:rng.randrange(len(broken))])
  # Three of the four ranges are ends of the file, where formats keep their metadata.
  low, high = rng.choice([
      (0, len(data)), (0, min(200, len(data))), (0, min(2000, len(data))),
      (max(0, len(data) - 1000), len(data))])
  for _ in range(rng.choice([1, 1, 1, 2, 4])):
    start, kind = rng.randrange(low, high), rng.random()
    if kind < 0.7:
      spoilt = rng.choice(_SPOILT)
      broken[start:start + len(spoilt)] = spoilt
    elif kind < 0.85:
      del broken[start:start + rng.randrange(1, 9)]
    else:
      broken[start:start] = broken[start:start + rng.randrange(1, 30)]
  return bytes(broken)


def _read(path):
  source = detect.opener_of(path)()
  for name, value in source.read(list(source.specs)):
    spec = source.specs[name]
    assert (value.shape, value.dtype) == (spec.shape, spec.dtype)
  return len(source.specs)


@pytest.mark.parametrize("name", FORMATS)
def test_a_corrupted_file_is_read_correctly_or_refused_clearly(tmp_path, name):
  data, path = FORMATS[name](), tmp_path / name
  path.write_bytes(data)
  leaves = _read(path)
  assert leaves >= 3
  refused, base = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

  for seed in range(200):
    path.write_bytes(_mutant(data, seed))
    start = time.monotonic()
    try:
      assert _read(path) <= leaves + 1
    except errors.UserError as error:
      refused += 1
      assert str(path) in str(error)
      assert len(str(error)) < 1000
    assert time.monotonic() - start < 5, seed

  # Not every mutant can be detected: a change of the data gives other valid numbers.
  assert 40 < refused < 200
  # Memory (in KB) must not grow with the sizes that such a small file claims.
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base < 100 * 1024
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_truncated_file_is_refused(tmp_path, name):
  data, path = FORMATS[name](), tmp_path / name

  for length in {0, 1, 7, 8, 9, 30, len(data) // 2, len(data) - 8, len(data) - 1}:
    path.write_bytes(data[:length])
    with pytest.raises(errors.UserError):
      _read(path)


def _header(entries, data=b"\0" * 16, length=None):
  text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
  return struct.pack("<Q", len(text) if length is None else length) + text + data


def _leaf(begin, end, shape=(2,), dtype="F32"):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("data, why", [
    (_header({"a": _leaf(0, 8), "b": _leaf(8, 16)}, length=2**63), "header would take"),
    (_header({"a": _leaf(0, 8), "b": _leaf(8, 16)}, length=10**6), "header would take"),
    (_header({"a": _leaf(0, 8), "b": _leaf(16, 24)}), "b would lie at bytes"),
    (_header({"a": _leaf(0, 8), "b": _leaf(4, 12)}), "a and b overlap"),
    (_header({"a": _leaf(0, 8)}), "take 8 bytes, and it holds 16"),
    (_header({"a": _leaf(0, 16)}), "takes 8 bytes, and its data_offsets give 16"),
    (_header({"a": _leaf(0, 16, (2**62, 2**62))}), "no shape of a tensor"),
    (_header({"a": _leaf(0, 16, (-2, -2))}), "no shape of a tensor"),
    (_header({"a": _leaf(0, 16, (True, 4))}), "no shape of a tensor"),
    (_header({"a": _leaf(-8, 8, (4,))}), "data_offsets are"),
    (_header({"a": _leaf(0, 16, (4,), "F4")}), "a is F4, which is not read"),
    (_header({"a": {"dtype": "F32"}}), "lacks its dtype, shape or data_offsets"),
    (_header(b'{"a": 1, "a": 2}'), "'a' stands there twice"),
    (_header(b"[1]"), "is a list"), (_header(b"{"), "JSON is broken"),
    (_header(b"[" * 10000), "JSON is broken"), (_header(b"\xff\xfe"), "JSON is broken"),
])
def test_an_inconsistent_safetensors_header_is_refused(tmp_path, data, why):
  (tmp_path / "x.safetensors").write_bytes(data)

  with pytest.raises(errors.UserError, match=why):
    detect.opener_of(tmp_path / "x.safetensors")()


def test_a_consistent_safetensors_header_is_accepted(tmp_path):
  # The same header as in the cases above, but consistent, so that those cases are
  # refused for their inconsistency and not for their form.
  (tmp_path / "x.safetensors").write_bytes(
      _header({"a": _leaf(0, 8), "b": _leaf(8, 16)}))

  assert _read(tmp_path / "x.safetensors") == 2


def _zip(*members, compress=zipfile.ZIP_STORED):
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compress) as archive:
    for name, data in members:
      archive.writestr(name, data)
  return file.getvalue()


def _npy(header, data=b"\0" * 8):
  text = header.encode().ljust(117) + b"\n"
  return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize("header, why", [
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", "takes 12 bytes"),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", "no shape"),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 62,)}", "no whole"),
    ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "an array of objects"),
    ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", "no whole"),
    ("print('x')", "no whole"), ("(" * 90, "no whole"),
])
def test_an_npz_file_with_an_invalid_header_is_refused(tmp_path, header, why):
  path = tmp_path / "x.npz"
  path.write_bytes(_zip(("a.npy", _npy(header))))

  with pytest.raises(errors.UserError, match=why):
    detect.opener_of(path)()


def test_an_archive_member_that_is_not_an_array_is_refused(tmp_path):
  path = tmp_path / "x.npz"
  path.write_bytes(_zip(("../a.sh", b"echo")))

  with pytest.raises(errors.UserError, match=r"\.\./a\.sh is no array"):
    detect.opener_of(path)()


def test_a_wrong_npz_checksum_is_an_error(tmp_path):
  data = bytearray(_compressed())
  start = data.index(b"PK\1\2") + 16  # The CRC-32 in the central directory.
  data[start:start + 4] = b"abcd"
  (tmp_path / "x.npz").write_bytes(data)

  with pytest.raises(errors.UserError, match="Bad CRC-32 for file 'body.npy'"):
    _read(tmp_path / "x.npz")


def test_a_zip_bomb_is_refused(tmp_path):
  data = bytearray(_zip(("a.npy", _npy("{'descr': '<f4', 'fortran_order': False,"
                                       " 'shape': (1000000000,)}")),
                        compress=zipfile.ZIP_DEFLATED))
  start = data.index(b"PK\1\2") + 24  # The size that the central directory claims.
  data[start:start + 4] = struct.pack("<I", 4_000_000_128)
  (tmp_path / "x.npz").write_bytes(data)

  with pytest.raises(errors.UserError, match="would take 4000000128 bytes"):
    detect.opener_of(tmp_path / "x.npz")()


def test_too_many_open_files_are_the_fault_of_no_file(tmp_path):
  for name, made in FORMATS.items():
    (tmp_path / name).write_bytes(made())
  (tmp_path / "text.txt").write_text("a")
  tries = {name: detect.opener_of(tmp_path / name) for name in FORMATS}
  read = {name: open_() for name, open_ in tries.items()}
  tries |= {f"{name} read": lambda one=one: dict(one.read(list(one.leaves)))
            for name, one in read.items()}
  tries["text"] = lambda: files.text(str(tmp_path / "text.txt"))
  tries["arrays of a run"] = lambda: whole.read_npz(epath.Path(tmp_path / "x.npz"))
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  said = {}
  for name, attempt in tries.items():
    # Not around all: what fails is shown with the help of files.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
      attempt()
    except errors.UserError as error:
      said[name] = str(error)
    finally:
      resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

  assert said.keys() == tries.keys()
  for name, message in said.items():
    assert str(tmp_path) in message, name
    assert message.endswith(
        "cannot be read now: Too many open files. Mend that, and give the same command"
        " again."), (name, message)


@pytest.mark.parametrize("error, cause", [
    (MemoryError(), "not enough memory"),
    *((OSError(number, os.strerror(number)), os.strerror(number))
      for number in (errno.EACCES, errno.EIO, errno.ENOMEM, errno.EMFILE))])
def test_what_the_system_refuses_is_not_blamed_on_the_file(error, cause):
  for outer in (raw.malformed("f", "npz archive"), tokenizer_kinds.as_user_errors()):
    with pytest.raises(errors.UserError, match=f"cannot be read now: {cause}"):
      # Within another message, as readers of archives raise it.
      with outer, raw.malformed("f", "member"):
        raise error


def test_a_device_that_fails_is_named_and_no_damage():
  # The first page of a process is no memory, and Linux says EIO of it.
  with pytest.raises(errors.UserError, match=(
      "^disk: cannot be read now: Input/output error")):
    with system.reading("disk"), open("/proc/self/mem", "rb", buffering=0) as file:
      file.read(1)


def test_what_is_wrong_with_a_file_itself_stays_its_fault(tmp_path):
  with pytest.raises(errors.UserError, match="no whole member: OSError: .*Invalid"):
    with raw.malformed("f", "member"):
      raise OSError(errno.EINVAL, "Invalid seek")
  (tmp_path / "a.npz").write_bytes(b"PK")
  with pytest.raises(errors.UserError, match="no whole .*BadZipFile"):
    detect.opener_of(tmp_path / "a.npz")()
