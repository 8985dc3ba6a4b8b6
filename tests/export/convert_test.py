"""Tests for `convert`: its output is loaded by the library of each format."""

import json

from etils import epath
import jax
import numpy as np
import pytest
import tokenizers as hf_tokenizers
import torch
import transformers

from tests import paths
from tests import transformers_models
from tests.comparing import assert_same_bits
from tests.comparing import distance
from transfer_gen import __main__ as main
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen import tree
from transfer_gen.export import convert
from transfer_gen.export import hugging_face_folder
from transfer_gen.formats import detect
from transfer_gen.formats import safetensors
from transfer_gen.generate import sampling
from transfer_gen.models import registry
from transfer_gen.run import trained

V = 37
INPUTS = np.random.default_rng(0).integers(0, V, (2, 9)).astype(np.int32)
SIZES = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
             intermediate_size=28, max_position_embeddings=64)
GROUPED = SIZES | dict(num_key_value_heads=2)
GPT2 = dict(vocab_size=V, n_positions=64, n_embd=24, n_layer=2, n_head=3)
OPT = dict(vocab_size=V, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
           ffn_dim=28, max_position_embeddings=64)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24}
WINDOWS = ["sliding_attention", "full_attention"]
CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2_untied": ("GPT2", GPT2 | dict(tie_word_embeddings=False, n_inner=20)),
    "opt": ("OPT", OPT | dict(activation_function="gelu")),
    "opt_post": ("OPT", OPT | dict(do_layer_norm_before=False, enable_bias=False)),
    "neox": ("GPTNeoX", SIZES | dict(hidden_size=32)),
    "neox_serial": ("GPTNeoX", SIZES | dict(
        hidden_size=32,
        use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True)),
    "llama": ("Llama", GROUPED | dict(rope_parameters=YARN, mlp_bias=True)),
    "mistral": ("Mistral", GROUPED | dict(sliding_window=5, head_dim=8)),
    "qwen2": ("Qwen2", GROUPED | dict(
        use_sliding_window=True, sliding_window=4, max_window_layers=1)),
    "qwen3": ("Qwen3", GROUPED | dict(head_dim=8, tie_word_embeddings=True)),
    "gemma": ("Gemma", GROUPED | dict(head_dim=8)),
    "gemma2": ("Gemma2", GROUPED | dict(
        head_dim=8, query_pre_attn_scalar=11, sliding_window=4)),
    "gemma3": ("Gemma3", GROUPED | dict(
        head_dim=8, query_pre_attn_scalar=11, sliding_window=4, layer_types=WINDOWS)),
}
STORIES = paths.DATA / "stories260K"


def saved(folder, name):
  """Saves a Transformers model with random params to a folder, and returns it."""
  model = transformers_models.decoder(*CASES[name], special_tokens=dict(
      bos_token_id=1, eos_token_id=2, pad_token_id=None))
  model.save_pretrained(folder)
  return model


def loaded(folder):
  """Loads a folder with Transformers, which must use every tensor and miss none."""
  model, info = transformers.AutoModelForCausalLM.from_pretrained(
      folder, output_loading_info=True, attn_implementation="eager")
  assert not any(info.values()), info
  return model.eval()


def logits(model):
  return transformers_models.logits(model, INPUTS)


@pytest.mark.parametrize("name", [
    name if name in ("gpt2", "opt_post", "neox_serial", "llama", "gemma3") else
    pytest.param(name, marks=pytest.mark.long) for name in CASES])
def test_converting_to_orbax_and_back_keeps_every_bit(name, tmp_path):
  model = saved(tmp_path / "in", name)

  convert.convert(tmp_path / "in", tmp_path / "out", "safetensors")
  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "again", "safetensors")

  before = dict(detect.opener_of(tmp_path / "in")().read(
      detect.opener_of(tmp_path / "in")().specs))
  for folder in (tmp_path / "out", tmp_path / "again"):
    source = detect.opener_of(folder)()
    assert source.specs == detect.opener_of(tmp_path / "in")().specs
    assert_same_bits(dict(source.read(list(source.specs))), before)
    np.testing.assert_array_equal(logits(loaded(folder)), logits(model))
  assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "in", "ours", "out"]


@pytest.mark.parametrize("model, kind", [
    (config.Decoder(activation="relu"), "gpt2"),
    (config.Decoder(tied=False, activation="gelu_exact", num_layers=1), "gpt2"),
    (config.Decoder(position_offset=2, num_layers=3), "opt"),
    (config.Decoder(position="rotary", rotary_dim=4, block="parallel", tied=False),
     "gpt_neox"),
    (config.Decoder(position="rotary", norm="rms", activation="swiglu", bias=False,
                    num_kv_heads=2, windows=(0, 3)), "qwen2"),
    (config.Decoder(position="rotary", norm="rms", activation="geglu", bias=False,
                    norm_offset=1.0, embed_scale=24 ** 0.5, windows=(4, 0),
                    norm_order="both", head_dim=8, attention_scale=0.25), "gemma2"),
], ids=lambda value: str(value)[:40])
def test_a_model_trained_here_loads_in_transformers(model, kind, tmp_path):
  """The params are made here; no file of Transformers is involved before writing."""
  sizes = dict(vocab_size=V, width=24, num_heads=2, max_length=32)
  model = config.Decoder(**vars(model) | sizes | (
      {"unbiased": ("out", "up", "gate", "down"), "bias": True} if kind == "qwen2"
      else {}))
  module = registry.build(model)
  rng = np.random.default_rng(0)
  params = {name: rng.normal(size=spec.shape, scale=0.3).astype(np.float32)
            for name, spec in registry.specs(module).items()}
  tmp_path.joinpath("out").mkdir()

  notes = hugging_face_folder.write(
      epath.Path(tmp_path / "out"), model, params)

  theirs = loaded(tmp_path / "out")
  ours = module.apply({"params": tree.unflatten(params)}, INPUTS)
  want = np.float64(logits(theirs))
  assert distance(ours, want) <= 1e-5
  assert theirs.config.model_type == kind
  assert "No tokenizer was written" in notes[-1]


@pytest.mark.parametrize("fields, message", [
    (dict(norm_order="post", position="learned"),
     "gpt2 cannot hold this model: model.norm_order is 'post'"),
    (dict(logit_scale=0.5), "model.logit_scale is 0.5, and it has 1.0"),
    (dict(position="rotary", norm="rms", activation="swiglu", unbiased=("query",)),
     "llama cannot hold this model: .*model.unbiased is ..query', 'norm'"),
])
def test_a_model_that_fits_no_architecture_is_refused(fields, message, tmp_path):
  model = config.Decoder(vocab_size=V, width=24, num_heads=2, **fields)

  with pytest.raises(errors.UserError, match=message):
    hugging_face_folder.write(epath.Path(tmp_path), model, {})
  assert not list(tmp_path.iterdir())


def test_the_tokenizer_and_its_special_tokens_are_converted(tmp_path):
  saved(tmp_path / "in", "llama")
  letters = "<unk> <s> </s> a b c".split()
  own = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE(
      {letter: i for i, letter in enumerate(letters)}, [], unk_token="<unk>"))
  own.add_special_tokens(letters[:3])
  own.save(str(tmp_path / "in" / "tokenizer.json"))

  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors")

  again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
  assert again.encode("cab", add_special_tokens=False) == [5, 3, 4]
  assert (again.bos_token_id, again.eos_token_id) == (1, 2)
  generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
  assert (generation.bos_token_id, generation.eos_token_id) == (1, 2)


def test_conversion_keeps_bfloat16(tmp_path):
  saved(tmp_path / "in", "qwen3").to(torch.bfloat16).save_pretrained(tmp_path / "in")

  convert.convert(tmp_path / "in", tmp_path / "out", "safetensors")

  before, after = (detect.opener_of(tmp_path / name)() for name in ("in", "out"))
  assert {str(spec.dtype) for spec in after.specs.values()} == {"bfloat16"}
  assert after.specs == before.specs
  assert_same_bits(*(dict(s.read(list(s.specs))) for s in (after, before)))


def test_a_failed_conversion_leaves_no_files(tmp_path):
  saved(tmp_path / "in", "gpt2")
  weights = tmp_path / "in" / "model.safetensors"
  (tmp_path / "there").mkdir()

  for path, output, form, message in (
      ("in", "there", "orbax", "is there already"),
      ("in", "out", "gguf", "--to is 'gguf', must be one of orbax, safetensors"),
      ("in", "out", "keras", "no model of Keras")):
    with pytest.raises(errors.UserError, match=message):
      convert.convert(tmp_path / path, tmp_path / output, form)
  convert.convert(tmp_path / "in", tmp_path / "ours", "orbax")
  with pytest.raises(errors.UserError, match="of this form already"):
    convert.convert(tmp_path / "ours", tmp_path / "out", "orbax")
  with pytest.raises(errors.UserError, match="opt cannot hold .*position_offset is 0"):
    convert.convert(tmp_path / "ours", tmp_path / "out", "safetensors", "opt")
  weights.write_bytes(weights.read_bytes()[:-8])
  with pytest.raises(errors.UserError, match="no whole safetensors"):
    convert.convert(tmp_path / "in", tmp_path / "out", "safetensors")

  assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "ours", "there"]
  assert not list((tmp_path / "there").iterdir())


def test_the_safetensors_library_reads_written_files(tmp_path):
  arrays = {"a": np.arange(3, dtype=np.float16), "b": np.eye(2, dtype=np.float32),
            "c": np.array(7, np.int64), "empty": np.zeros((0, 4), np.float32)}
  path = epath.Path(tmp_path / "x.safetensors")

  safetensors.write_file(path, arrays, {"format": "pt"})

  from safetensors import numpy as reference
  read = reference.load_file(path)
  assert read.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(read[name], array)
    assert read[name].dtype == array.dtype


def test_the_command_prints_what_it_wrote(tmp_path, capsys):
  saved(tmp_path / "in", "gpt2")
  flags = [f"--source={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]

  main.run(["transfer_gen", "convert", *flags, "--to=safetensors"])
  _, *lines, asked = capsys.readouterr().out.splitlines()
  assert lines == [
      "Its architecture there: gpt2.",
      "No tokenizer was written: the checkpoint was read without one."]
  assert "holds no vocabulary: give source.tokenizer" in asked
  with pytest.raises(SystemExit) as stopped:
    main.run(["transfer_gen", "convert", *flags])

  assert stopped.value.code == 2
  assert "is there already" in capsys.readouterr().err


@paths.needs(STORIES)
class TestStories:
  """Tests with llama2.c's stories260K against reference outputs made with NumPy."""

  reference = json.loads(
      (STORIES / "reference.json").read_text()) if STORIES.exists() else {}

  def test_logits_and_greedy_text_equal_the_reference(self):
    source = sources.open(STORIES / "stories260K.bin")
    module, params = registry.build(source.model), dict(source.read(list(source.specs)))

    last = jax.jit(module.apply)(
        {"params": tree.unflatten(params)}, np.array([[1, 403, 407, 261]]))[0, -1]
    want = np.array(self.reference["logits_last_pos_prompt_1_403_407_261"])
    assert distance(last[:len(want)], want) <= 1e-5
    [new] = sampling.generate(
        module, params, [[1]], decoding=config.Decoding(max_tokens=199))
    assert [1, *new] == self.reference["greedy_ids_from_bos"]
    assert source.tokenizer.decode(new) == self.reference["greedy_text"].lstrip()

  def test_the_tokenizer_round_trips_the_reference_text(self):
    tokenizer = sources.open(STORIES / "stories260K.bin").tokenizer
    ids = self.reference["greedy_ids_from_bos"][1:]

    assert tokenizer.encode(self.reference["greedy_text"].lstrip()) == ids
    assert tokenizer.decode(tokenizer.encode("a héro\n")) == "a héro\n"

  def test_transformers_and_a_workdir_generate_the_same_story(self, tmp_path):
    convert.convert(STORIES / "stories260K.bin", tmp_path / "out", "safetensors")
    convert.convert(STORIES / "stories260K.bin", tmp_path / "ours", "orbax")

    model = loaded(tmp_path / "out")
    ids = model.generate(torch.tensor([[1]]), max_new_tokens=64, do_sample=False)
    assert ids[0].tolist() == self.reference["greedy_ids_from_bos"][:65]
    text = transformers.AutoTokenizer.from_pretrained(tmp_path / "out").decode(
        ids[0], skip_special_tokens=True)
    story = self.reference["greedy_text"].lstrip()
    assert story.startswith(text.lstrip())
    [[answer]] = trained.open(tmp_path / "ours").answers(
        ["Once upon a time"], config.Decoding(max_tokens=40)).texts
    assert story.removeprefix("Once upon a time").startswith(answer)
    assert len(answer) > 50
