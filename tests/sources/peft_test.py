"""Tests for exchanging LoRA adapters with Hugging Face PEFT in both directions."""

import json

import numpy as np
import peft as peft_lib
import pytest
import torch
import transformers

from tests import transformers_models
from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.adapters import wrap as adapters_lib
from transfer_gen.export import peft_folder
from transfer_gen.formats import detect
from transfer_gen.maps import peft_modules
from transfer_gen.models import registry
from transfer_gen.sources import peft

V = 29
INPUTS = np.random.default_rng(0).integers(0, V, (2, 9)).astype(np.int32)
SIZES = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=28, max_position_embeddings=64)
BASES = {
    "gpt2": ("GPT2", dict(
        vocab_size=V, n_positions=64, n_embd=24, n_layer=2, n_head=3)),
    "llama": ("Llama", SIZES | dict(num_key_value_heads=2)),
    "neox": ("GPTNeoX", SIZES | dict(hidden_size=32)),
}
ALL = r"layer_\d+/.*kernel"
THEIRS = {"gpt2": ["c_attn", "c_fc", "c_proj"],
          "llama": ["q_proj", "v_proj", "up_proj"],
          "neox": ["query_key_value", "dense_4h_to_h"]}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
  """Saves Transformers models with random params, and returns their folders."""
  found = {}
  for name, (kind, fields) in BASES.items():
    made = getattr(transformers, f"{kind}Config")(
        **fields, bos_token_id=1, eos_token_id=2, pad_token_id=None)
    model = transformers.AutoModelForCausalLM.from_config(made).eval()
    _randomize(model, 0.25)
    folder = tmp_path_factory.mktemp(name)
    model.save_pretrained(folder)
    found[name] = folder
  return found


def _randomize(model, size, only=""):
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for name, param in model.named_parameters():
      if only in name:
        param += size * torch.randn(param.shape, generator=generator)


def _theirs(model):
  return transformers_models.logits(model, INPUTS)


def _ours(source, adapters, params):
  module = adapters_lib.wrap(registry.build(source.model), adapters)
  return np.asarray(module.apply({"params": tree.unflatten(params)}, INPUTS))


def _near(ours, theirs):
  assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


def _loaded(base, folder):
  """Loads a folder with PEFT, which must use every tensor of it."""
  model = transformers.AutoModelForCausalLM.from_pretrained(base)
  model = peft_lib.PeftModel.from_pretrained(model, folder).eval()
  loaded = peft_lib.utils.load_peft_weights(folder, device="cpu")
  held = peft_lib.get_peft_model_state_dict(model)
  assert loaded and loaded.keys() <= held.keys()
  for name, value in loaded.items():
    assert torch.equal(held[name], value), name
  return model


def _with_adapters(source, adapters, seed=0):
  """Returns the params of a source with adapters that change the logits."""
  module = adapters_lib.wrap(registry.build(source.model), adapters)
  params = dict(source.read(list(source.specs)))
  generator = np.random.default_rng(seed)
  for name, spec in registry.specs(module).items():
    if name not in params:
      params[name] = 0.2 * generator.standard_normal(spec.shape).astype(np.float32)
  return params


CASES = {
    "gpt2": ("gpt2", (config.LoRA(params=ALL, rank=3),)),
    "query_alone": ("gpt2", (
        config.LoRA(params=".*/query/kernel", rank=2, alpha=5.0),)),
    "two_adapters": ("gpt2", (
        config.LoRA(params=".*/attn/.*", rank=2, scaling="rslora"),
        config.LoRA(params=".*/(value|down)/kernel", rank=1, alpha=0.7, name="more"))),
    "dora": ("gpt2", (
        config.LoRA(params=r".*/(query|out)/kernel", rank=2, dora=True),)),
    "llama": ("llama", (config.LoRA(params=f"{ALL}|head/kernel", rank=3),)),
    "llama_dora": ("llama", (config.LoRA(params=ALL, rank=3, dora=True),)),
    "neox": ("neox", (config.LoRA(params=ALL, rank=3),)),
}


@pytest.mark.parametrize("case", [
    case if case in ("gpt2", "dora", "llama") else pytest.param(
        case, marks=pytest.mark.long) for case in CASES])
def test_peft_loads_a_written_adapter_and_gives_the_same_logits(bases, tmp_path, case):
  base, adapters = CASES[case]
  source = sources.open(bases[base])
  params = _with_adapters(source, adapters)

  peft_folder.write(tmp_path, source.model, params, adapters, str(bases[base]))

  ours = _ours(source, adapters, params)
  _near(ours, _theirs(_loaded(bases[base], tmp_path)))
  plain = _ours(source, (), dict(source.read(list(source.specs))))
  # Without the adapters, the logits differ clearly.
  assert np.abs(plain - ours).max() > 0.01 * np.abs(ours).max()


@pytest.mark.parametrize("case", [
    "gpt2", "query_alone", "llama", pytest.param("neox", marks=pytest.mark.long)])
def test_a_written_adapter_folder_reads_back_bit_for_bit(bases, tmp_path, case):
  base, adapters = CASES[case]
  source = sources.open(bases[base])
  params = _with_adapters(source, adapters)
  peft_folder.write(tmp_path, source.model, params, adapters)

  back = peft.Adapter(detect.opener_of(tmp_path)(), source.model)

  specs = registry.specs(adapters_lib.wrap(registry.build(source.model), adapters))
  assert back.specs == {
      leaf: spec for leaf, spec in specs.items() if leaf not in source.specs}
  for name, value in back.read(list(back.specs)):
    np.testing.assert_array_equal(value, params[name], err_msg=name)
  assert set(back.scales.values()) == {adapters[0].scale}


def _made_by_peft(base, folder, name, **fields):
  """Makes and saves an adapter with PEFT, and returns the model."""
  made = peft_lib.LoraConfig(
      r=3, lora_alpha=7, target_modules=THEIRS[name], task_type="CAUSAL_LM",
      fan_in_fan_out=name == "gpt2", **fields)
  model = peft_lib.get_peft_model(
      transformers.AutoModelForCausalLM.from_pretrained(base), made).eval()
  _randomize(model, 0.2, "lora_")
  model.save_pretrained(folder)
  return model


@pytest.mark.parametrize("name, fields", [
    ("gpt2", {"use_rslora": True}), ("gpt2", {"use_dora": True}), ("llama", {}),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("gpt2", {}), ("llama", {"use_dora": True}), ("neox", {})))],
    ids=["rslora", "gpt2_dora", "llama", "gpt2", "llama_dora", "neox"])
def test_a_peft_adapter_gives_the_same_logits_here(bases, tmp_path, name, fields):
  theirs = _theirs(_made_by_peft(bases[name], tmp_path, name, **fields))
  source = sources.open(bases[name])

  stored = peft.Adapter(detect.opener_of(tmp_path)(), source.model, source)

  kernels = {row.rpartition("/")[0] + "/kernel" for row in stored.specs}
  adapter = config.LoRA(
      params="|".join(sorted(kernels)), rank=3, alpha=7.0,
      scaling="rslora" if "use_rslora" in fields else "standard",
      dora="use_dora" in fields)
  params = dict(source.read(list(source.specs))) | dict(stored.read(list(stored.specs)))
  _near(_ours(source, (adapter,), params), theirs)
  np.testing.assert_allclose(list(set(stored.scales.values())), [adapter.scale])


def test_unsupported_peft_adapters_are_refused_by_name(bases, tmp_path):
  source = sources.open(bases["gpt2"])

  adapter = config.LoRA(params=ALL, rank=1)
  peft_folder.write(
      tmp_path, source.model, _with_adapters(source, (adapter,)), (adapter,))
  written = json.loads((tmp_path / peft_modules.CONFIG).read_text())

  def refused(message, model=source.model, **change):
    (tmp_path / peft_modules.CONFIG).write_text(json.dumps(written | change))
    with pytest.raises(errors.UserError, match=message):
      peft.Adapter(detect.opener_of(tmp_path)(), model)

  refused("peft_type is 'IA3'", peft_type="IA3")
  refused("bias is 'some'", bias="some")
  refused("lora_bias=True", lora_bias=True)
  refused("relative to kernels", use_dora=True)
  refused("has the rank 3, and adapter_config.json says 8", r=8)
  refused("no repeated group", rank_pattern={"(.|.)*x": 1})
  refused("at most 4 repeats", alpha_pattern={".*.*.*.*.*x": 1})
  other = sources.open(bases["llama"]).model
  refused("c_attn is no module with a kernel", model=other)


def test_an_adapter_that_changes_its_base_is_refused(bases, tmp_path):
  # PEFT takes the largest singular vectors out of each kernel when it loads this.
  model = _made_by_peft(bases["gpt2"], tmp_path, "gpt2", init_lora_weights="pissa")
  source = sources.open(bases["gpt2"])

  with pytest.raises(errors.UserError, match=(
      r"init_lora_weights is 'pissa': PEFT then changes .*"
      "--idle_field=init_lora_weights")):
    sources.open(tmp_path, model=source.model, base=source)

  # Who has the changed base gives that, and says so.
  model.unload().save_pretrained(tmp_path / "base")
  base = sources.open(tmp_path / "base")
  stored = sources.open(tmp_path, model=base.model, base=base,
                        idle_fields=["init_lora_weights"])
  kernels = {row.rpartition("/")[0] + "/kernel" for row in stored.specs}
  adapter = config.LoRA(params="|".join(sorted(kernels)), rank=3, alpha=7.0)
  params = dict(base.read(list(base.specs))) | dict(stored.read(list(stored.specs)))
  theirs = peft_lib.PeftModel.from_pretrained(
      transformers.AutoModelForCausalLM.from_pretrained(bases["gpt2"]), tmp_path)
  _near(_ours(base, (adapter,), params), _theirs(theirs.eval()))


def test_adapters_without_their_model_are_refused_with_what_to_give(
    bases, tmp_path, capsys):
  _made_by_peft(bases["gpt2"], tmp_path / "lora", "gpt2")
  words = ("convert", f"--source={tmp_path / 'lora'}", f"--output={tmp_path / 'w'}")

  for more, message in (
      ((), "need the model that they adapt, and that is not in the folder. Give both"),
      (("--tokenizer=t.json",), "source.tokenizer (--tokenizer) is 't.json'"),
      (("--vocabulary=repair",), "source.vocabulary (--vocabulary) is 'repair'"),
      (("--map=gpt2",), "a map is given: 'gpt2'")):
    assert message in cli.refused(capsys, *words, *more)
  assert not (tmp_path / "w").exists()


def test_writing_an_adapter_other_than_lora_is_refused(bases, tmp_path):
  source = sources.open(bases["gpt2"])
  with pytest.raises(errors.UserError, match="IA3 'ia3' is not written for PEFT"):
    peft_folder.write(tmp_path, source.model, {}, (config.IA3(),))


def test_a_model_and_an_adapter_in_one_folder_are_refused_with_both_ways_out(
    bases, tmp_path):
  folder = tmp_path / "both"
  alone = transformers.AutoModelForCausalLM.from_pretrained(bases["llama"])
  _randomize(alone, 0.1)
  alone.save_pretrained(folder)
  before = _theirs(alone)
  adapted = peft_lib.get_peft_model(alone, peft_lib.LoraConfig(
      r=2, target_modules=["q_proj"], init_lora_weights=False))
  adapted.save_pretrained(folder)
  # Transformers puts the adapter onto the model beside it, whatever base is named.
  fields = json.loads((folder / "adapter_config.json").read_text())
  assert fields["base_model_name_or_path"] == str(bases["llama"])
  loaded = _theirs(transformers.AutoModelForCausalLM.from_pretrained(folder))
  _near(loaded, _theirs(adapted))
  assert np.abs(loaded - before).max() > 1e-3

  for attempt in (sources.open, sources.leaves):
    with pytest.raises(errors.UserError, match=(
        "both: it holds a model and an adapter.*model.safetensors for the model"
        ".*adapter_model.safetensors for the adapter")):
      attempt(folder)

  base = sources.open(folder / "model.safetensors")
  params = dict(base.read(list(base.specs)))
  _near(_ours(base, (), params), before)
  found = sources.open(folder / "adapter_model.safetensors", base=base)
  assert {name.split("/")[-1] for name in found.specs} == {"lora_a", "lora_b"}
  # Without its config, nobody takes it for an adapter.
  (folder / "adapter_config.json").unlink()
  assert sources.open(folder).specs == base.specs
