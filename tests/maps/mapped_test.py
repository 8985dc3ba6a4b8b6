"""Tests that a foreign tree is read under our names and axes, and exported exactly."""

import dataclasses
import json

import jax
from jax import numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from transfer_gen import errors
from transfer_gen import sharding
from transfer_gen import tree
from transfer_gen.maps import layouts
from transfer_gen.maps import mapped
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan as plan_lib
from transfer_gen.transfer import plan_json
from transfer_gen.transfer import resolve
from transfer_gen.transfer import restore

Line, Map = mapped.Line, mapped.Map
Chain, Part, Unflatten = layouts.Chain, layouts.Part, layouts.Unflatten
# Sizes of a GPT-2: L layers, D width, H heads of size K, F hidden width, V tokens, T
# positions.
L, D, H, K, F, V, T = 2, 8, 2, 4, 12, 11, 6


def _part_per_head(index, dim):
  return Chain(parts=(Part(dim=dim, parts=3, index=index),
                      Unflatten(dim=dim, shape=(H, K))))


FUSED = tuple(
    Line(target=rf"layer_(\d+)/attn/{name}/{leaf}",
         source=rf"h.\1.attn.c_attn.{'weight' if leaf == 'kernel' else 'bias'}",
         layout=_part_per_head(index, dim))
    for index, name in enumerate(("query", "key", "value"))
    for leaf, dim in (("kernel", 1), ("bias", 0)))
GPT2 = Map(
    lines=(
        Line(target="embed/embedding", source="wte.weight"),
        Line(target="position/embedding", source="wpe.weight"),
        *FUSED,
        Line(target=r"layer_(\d+)/attn/out/kernel",
             source=r"h.\1.attn.c_proj.weight", layout=Unflatten(dim=0, shape=(H, K))),
        Line(target=r"layer_(\d+)/mlp/(up|down)/kernel", source=r"h.\1.mlp.\2.weight"),
    ),
    unused=(r"h\.\d+\.attn\.(masked_)?bias",))


def _specs():
  """Returns the specs of our Decoder."""
  shapes = {"embed/embedding": jnp.zeros((V, D)),
            "position/embedding": jnp.zeros((T, D))}
  for i in range(L):
    for name in ("query", "key", "value"):
      shapes[f"layer_{i}/attn/{name}/kernel"] = jnp.zeros((D, H, K))
      shapes[f"layer_{i}/attn/{name}/bias"] = jnp.zeros((H, K))
    shapes[f"layer_{i}/attn/out/kernel"] = jnp.zeros((H, K, D))
    shapes[f"layer_{i}/mlp/up/kernel"] = jnp.zeros((D, F))
    shapes[f"layer_{i}/mlp/down/kernel"] = jnp.zeros((F, D))
  return tree.specs(shapes, {
      "embed/.*": ("vocab", "embed"), "position/.*": ("position", "embed"),
      ".*/(query|key|value)/kernel": ("embed", "heads", "kv"),
      ".*/(query|key|value)/bias": ("heads", "kv"),
      ".*/out/kernel": ("heads", "kv", "embed"), ".*/up/kernel": ("embed", "mlp"),
      ".*/down/kernel": ("mlp", "embed")})


def _gpt2(dtype=np.float32):
  shapes = {"wte.weight": (V, D), "wpe.weight": (T, D)}
  for i in range(L):
    shapes |= {f"h.{i}.attn.c_attn.weight": (D, 3 * D),
               f"h.{i}.attn.c_attn.bias": (3 * D,),
               f"h.{i}.attn.c_proj.weight": (D, D), f"h.{i}.mlp.up.weight": (D, F),
               f"h.{i}.mlp.down.weight": (F, D), f"h.{i}.attn.bias": (1, 1, T, T)}
  rng = np.random.default_rng(0)
  return {name: rng.normal(size=shape).astype(np.float32).astype(dtype)
          for name, shape in shapes.items()}


class _Tree:
  """A raw checkpoint in memory that records which arrays were read."""

  def __init__(self, arrays):
    self.arrays, self.asked = arrays, []
    self.specs = {
        name: tree.Spec(shape=value.shape, dtype=value.dtype, axes=(), reads=())
        for name, value in arrays.items()}

  def read(self, names, entries=None):
    for name in names:
      self.asked.append(name)
      value = self.arrays[name]
      yield name, value[np.ix_(*entries[name])] if entries else value


def test_a_fused_projection_is_split_into_named_leaves():
  raw = _Tree(_gpt2())

  source = mapped.Mapped(raw, GPT2, _specs())

  assert raw.asked == []
  assert source.specs == _specs()
  params = dict(source.read(list(source.specs)))
  assert params.keys() == source.specs.keys()
  for i in range(L):
    kernels = np.split(raw.arrays[f"h.{i}.attn.c_attn.weight"], 3, axis=1)
    for name, kernel in zip(("query", "key", "value"), kernels):
      np.testing.assert_array_equal(
          params[f"layer_{i}/attn/{name}/kernel"], kernel.reshape(D, H, K))
    np.testing.assert_array_equal(
        params[f"layer_{i}/attn/out/kernel"],
        raw.arrays[f"h.{i}.attn.c_proj.weight"].reshape(H, K, D))
  assert str(source.rows["layer_1/attn/key/bias"]) == (
      "h.1.attn.c_attn.bias, Part(dim=0, parts=3, index=1),"
      " Unflatten(dim=0, shape=(2, 4))")


def test_only_needed_source_leaves_are_read_and_only_once():
  raw = _Tree(_gpt2())
  source = mapped.Mapped(raw, GPT2, _specs())
  wanted = ["layer_1/attn/value/kernel", "embed/embedding", "layer_1/attn/key/kernel"]

  read = dict(source.read(wanted))

  assert sorted(read) == sorted(wanted)
  assert raw.asked == ["h.1.attn.c_attn.weight", "wte.weight"]


def test_arrays_are_read_lazily():
  raw = _Tree(_gpt2())
  reader = mapped.Mapped(raw, GPT2, _specs()).read(list(_specs()))

  assert next(reader)[0] == "embed/embedding"
  assert raw.asked == ["wte.weight"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_reading_and_writing_back_keeps_every_bit(dtype):
  raw = _Tree(_gpt2(dtype))
  source = mapped.Mapped(raw, GPT2, _specs())
  params = dict(source.read(list(source.specs)))
  # Params are read as float32, which represents both half precisions exactly.
  assert {value.dtype for value in params.values()} == {np.dtype(np.float32)}

  written = mapped.export(source.rows.values(), raw.specs, params)

  masks = {f"h.{i}.attn.bias" for i in range(L)}
  assert written.keys() == raw.arrays.keys() - masks
  for name, value in written.items():
    assert value.dtype == dtype
    assert value.tobytes() == raw.arrays[name].tobytes()


def test_leaves_are_placed_with_their_shardings():
  mesh = sharding.make_mesh(data=1, fsdp=4, tensor=2)
  specs = _specs()
  shardings = sharding.of_params(specs, mesh)
  raw = _Tree(_gpt2())
  name = "layer_0/mlp/up/kernel"

  params = dict(mapped.Mapped(raw, GPT2, specs).read(list(specs), shardings))

  assert all(params[leaf].sharding == shardings[leaf] for leaf in specs)
  assert params[name].addressable_shards[0].data.size < params[name].size
  np.testing.assert_array_equal(params[name], raw.arrays["h.0.mlp.up.weight"])


def test_a_mapped_checkpoint_is_a_source_for_a_plan():
  source = mapped.Mapped(_Tree(_gpt2()), GPT2, _specs())
  target = dict(source.specs)
  target["embed/embedding"] = tree.Spec(
      shape=(5, D), dtype=np.dtype(np.float32), axes=("vocab", "embed"),
      reads=(False, False))
  plan = plan_lib.TransferPlan(
      rules=(plan_lib.Rule(target="(.*)", source=r"\1"),),
      groups=(plan_lib.Group(name="all", params=".*"),),
      axes=(plan_lib.On(axis="vocab", map=axes.Select(index=(4, 0, 1, 2, 10))),))
  rows = resolve.resolve(plan, {"": source.specs}, target)

  params = restore.restore(rows, {"": source}, lambda names: {})

  np.testing.assert_array_equal(
      params["embed/embedding"], source.raw.arrays["wte.weight"][[4, 0, 1, 2, 10]])
  np.testing.assert_array_equal(
      params["layer_1/mlp/up/kernel"], source.raw.arrays["h.1.mlp.up.weight"])


def _small(table, **shapes):
  """Returns specs from shapes; `__` in an argument stands for a slash."""
  return tree.specs({name.replace("__", "/"): jnp.zeros(shape)
                     for name, shape in shapes.items()}, table)


def test_stacked_layers_are_split_and_exported_as_one():
  raw = _Tree({"w": np.arange(24, dtype=np.float32).reshape(3, 2, 4)})
  turned = layouts.Transpose(perm=(1, 0))
  how = Map(lines=tuple(
      Line(target=f"layer_{i}/w", source="w",
           layout=Chain(parts=(layouts.Unstack(index=i), turned))) for i in range(3)))
  specs = _small({".*": ("embed", "mlp")}, **{f"layer_{i}/w": (4, 2) for i in range(3)})
  source = mapped.Mapped(raw, how, specs)

  params = dict(source.read(list(specs)))

  assert raw.asked == ["w"]
  np.testing.assert_array_equal(params["layer_2/w"], raw.arrays["w"][2].T)
  written = mapped.export(source.rows.values(), raw.specs, params)
  np.testing.assert_array_equal(written["w"], raw.arrays["w"])


def test_a_target_of_several_sources_is_exported_to_each():
  raw = _Tree({f"h.{i}": np.full((2, 4), i, np.float32) for i in range(3)})
  how = Map(lines=(Line(target="layers", source=("h.2", "h.0", "h.1"),
                        layout=layouts.Stack()),))
  source = mapped.Mapped(
      raw, how, _small({".*": ("x", "embed", "mlp")}, layers=(3, 2, 4)))

  params = dict(source.read(["layers"]))

  assert params["layers"][:, 0, 0].tolist() == [2, 0, 1]
  written = mapped.export(source.rows.values(), raw.specs, params)
  assert {name: value[0, 0] for name, value in written.items()} == {
      "h.0": 0, "h.1": 1, "h.2": 2}


TIED = Map(lines=(Line(target="embed", source="wte"),
                  Line(target="head", source="wte",
                       layout=layouts.Transpose(perm=(1, 0)))))
TIED_AXES = {"embed": ("vocab", "embed"), "head": ("embed", "vocab")}


def test_two_targets_of_one_source_must_agree_on_export():
  raw = _Tree({"wte": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)})
  source = mapped.Mapped(raw, TIED, _small(TIED_AXES, embed=(5, 3), head=(3, 5)))
  params = dict(source.read(["head", "embed"]))
  assert raw.asked == ["wte"]

  written = mapped.export(source.rows.values(), raw.specs, params)

  np.testing.assert_array_equal(written["wte"], raw.arrays["wte"])
  params["head"] = params["head"].at[0, 0].add(1)
  with pytest.raises(errors.UserError, match="head does not go back to wte, Transpose"):
    mapped.export(source.rows.values(), raw.specs, params)


def test_exporting_an_incomplete_source_leaf_is_refused():
  lines = tuple(line for line in GPT2.lines if "value" not in line.target)
  specs = {name: spec for name, spec in _specs().items() if "value" not in name}
  raw = _Tree(_gpt2())
  source = mapped.Mapped(raw, Map(lines=lines, unused=GPT2.unused), specs)
  params = dict(source.read(list(specs)))

  with pytest.raises(errors.UserError) as error:
    mapped.export(source.rows.values(), raw.specs, params)

  assert "h.{0,1}.attn.c_attn.weight: 64 of 192 elements" in str(error.value)


def test_all_misfits_are_reported_in_one_error():
  raw = _Tree({**_gpt2(), "h.0.mlp.up.weight": np.zeros((D, F), np.int8),
               "wpe.weight": np.zeros((T + 2, D), np.float32)})
  specs = _specs() | _small({".*": ("embed",)}, final_norm__scale=(D,))
  lines = (*GPT2.lines, Line(target="final_nrom/scale", source="ln_f.weight"))
  lines = tuple(
      dataclasses.replace(line, source=r"h.\1.attn.c_porj.weight")
      if "out" in line.target else line for line in lines)

  with pytest.raises(errors.UserError) as error:
    mapped.Mapped(raw, Map(lines=lines, unused=GPT2.unused), specs)

  message = str(error.value)
  assert "(5 misfits)" in message
  assert "final_norm/scale: no line of the map says where it lies" in message
  assert (r"layer_{0,1}/attn/out/kernel: line 8 reads h.\1.attn.c_porj.weight, which"
          " is not in the checkpoint; nearest: `h.1.attn.c_proj.weight`") in message
  assert "position/embedding: line 1 from wpe.weight gives (8, 8)" in message
  assert "(position, embed) (6, 8)" in message
  assert "layer_0/mlp/up/kernel: line 9 from h.0.mlp.up.weight gives int8" in message
  assert ("line 10 ('final_nrom/scale') owns no leaf; nearest: `final_norm/scale`"
          in message)


def test_a_layer_missing_in_the_source_is_reported_once():
  lines = tuple(line for line in GPT2.lines if "bias" not in line.target)
  specs = {name.replace("layer_1", "layer_2"): spec
           for name, spec in _specs().items() if "bias" not in name}

  with pytest.raises(errors.UserError) as error:
    mapped.Mapped(_Tree(_gpt2()), Map(lines=lines, unused=GPT2.unused), specs)

  assert ("layer_2/mlp/up/kernel: line 6 reads h.2.mlp.up.weight, and the checkpoint"
          " has h.{0,1}.mlp.up.weight alone.") in str(error.value)


def test_an_unread_source_leaf_is_refused():
  raw = _Tree({**_gpt2(), "h.0.attn.extra": np.zeros(3, np.float32)})

  with pytest.raises(errors.UserError, match="1 leaves of .* no line: h.0.attn.extra"):
    mapped.Mapped(raw, GPT2, _specs())


@pytest.mark.parametrize("line, why", [
    (Line(target="w(", source="w"), "'w\\(' is no regular expression"),
    (Line(target="w", source=r"\1"), "does not go with its target"),
    (Line(target="w", source=("w", "w")), "2 leaves do not become one"),
    (Line(target="w", source="w", layout=Part(dim=0, parts=3, index=0)),
     r"w: Part\(dim=0, parts=3, index=0\) does not fit \(4, 2\)"),
])
def test_an_invalid_line_is_refused(line, why):
  raw = _Tree({"w": np.zeros((4, 2), np.float32)})

  with pytest.raises(errors.UserError, match=why):
    mapped.Mapped(raw, Map(lines=(line,)), _small({".*": ("embed", "mlp")}, w=(4, 2)))


def test_a_map_round_trips_through_json():
  again = plan_json.decode(json.loads(json.dumps(plan_json.encode(GPT2))), {})

  assert again == GPT2
  assert jax.tree.leaves(dict(mapped.Mapped(
      _Tree(_gpt2()), again, _specs()).read(["embed/embedding"])))
