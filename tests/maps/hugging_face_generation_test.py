"""Tests that a checkpoint brings its settings of generation."""

import dataclasses
import json

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
import transformers

from tests.commands import cli
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.config import codec
from transfer_gen.generate import beam
from transfer_gen.maps import hugging_face_generation
from transfer_gen.models import registry

SIZES = dict(
    vocab_size=37, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16,
    decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    max_position_embeddings=64, decoder_start_token_id=0, pad_token_id=0)


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Saves a random Marian."""
  torch.manual_seed(0)
  folder = tmp_path_factory.mktemp("marian")
  transformers.MarianMTModel(transformers.MarianConfig(**SIZES)).save_pretrained(folder)
  return folder


def decoding(folder, **fields):
  """Returns what is read of a `generation_config.json` with these fields."""
  (folder / "generation_config.json").write_text(json.dumps(fields))
  return sources.open(folder).decoding


def test_settings_of_a_translation_model_are_taken(folder):
  found, ignored = decoding(
      folder, num_beams=4, max_length=20, min_length=3, forced_bos_token_id=5,
      forced_eos_token_id=[2], eos_token_id=[2, 7], bad_words_ids=[[0], [2], [3, 4]],
      suppress_tokens=[9], no_repeat_ngram_size=3, repetition_penalty=1.2,
      length_penalty=2, early_stopping=True, num_return_sequences=2,
      stop_strings="END", decoder_start_token_id=0, pad_token_id=0, do_sample=False,
      temperature=0.3, penalty_alpha=0.6, num_beam_groups=2, typical_p=1.0)

  assert found == config.Decoding(
      beams=4, max_tokens=19, min_tokens=2, first_token=5, last_token=2,
      end_tokens=(2, 7), suppress=(0, 9), no_repeat_ngram=3, repetition_penalty=1.2,
      length_penalty=2.0, early_stopping="yes", num=2, stop=("END",))
  assert len(ignored) == 1 and all(name in ignored[0] for name in (
      "penalty_alpha", "num_beam_groups", "bad_words_ids (of several tokens)"))
  assert "typical_p" not in ignored[0]


@hypothesis.given(st.builds(
    config.Decoding, max_tokens=st.integers(0, 99), min_tokens=st.integers(0, 9),
    beams=st.just(1), length_penalty=st.sampled_from([0.5, 1.0, 2.0]),
    early_stopping=st.sampled_from(["no", "yes", "never"]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]), top_k=st.integers(0, 60),
    top_p=st.sampled_from([0.9, 1.0]), min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.3]), no_repeat_ngram=st.integers(0, 4),
    first_token=st.integers(-1, 36), last_token=st.integers(-1, 36),
    end_tokens=st.lists(st.integers(0, 36), unique=True).map(tuple),
    suppress=st.sets(st.integers(0, 36)).map(sorted).map(tuple),
    stop=st.lists(st.text("ab", min_size=1)).map(tuple)))
@hypothesis.settings(deadline=None)
def test_settings_that_are_written_are_read_back(folder, wanted):
  found, ignored = decoding(folder, **hugging_face_generation.fields(wanted))

  # Without drawing, what is drawn from does not matter.
  drawn = {} if wanted.temperature else dict(top_k=0, top_p=1.0, min_p=0.0)
  assert (found, ignored) == (dataclasses.replace(wanted, **drawn), ())


def test_a_run_that_is_converted_writes_in_transformers_as_here(folder, tmp_path,
                                                                capsys):
  asked = dict(
      num_beams=3, max_new_tokens=9, no_repeat_ngram_size=2, length_penalty=0.5)
  decoding(folder, **asked)
  cli.run(capsys, "convert", f"--source={folder}", f"--output={tmp_path}/w")

  cli.run(capsys, "convert", f"--source={tmp_path}/w", f"--output={tmp_path}/hf",
          "--to=safetensors", "--map=marian")

  read = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
  assert {name: getattr(read, name) for name in asked} == asked


def test_tokens_are_drawn_only_where_the_checkpoint_draws_them(folder):
  assert decoding(folder, do_sample=True, top_p=0.9, max_new_tokens=8) == (
      config.Decoding(temperature=1.0, top_k=50, top_p=0.9, max_tokens=8), ())
  assert decoding(folder, temperature=0.5, top_k=3) == (config.Decoding(), ())


def test_an_older_config_holds_the_settings_itself(folder):
  fields = json.loads((folder / "config.json").read_text())
  (folder / "generation_config.json").unlink(missing_ok=True)
  older = fields | {"num_beams": 6, "max_length": 512, "eos_token_id": 3}
  try:
    (folder / "config.json").write_text(json.dumps(older))
    assert sources.open(folder).decoding[0] == config.Decoding(
        beams=6, max_tokens=511, end_tokens=(3,),
        last_token=fields["forced_eos_token_id"])
  finally:
    (folder / "config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("fields, message", [
    (dict(num_beams="4"), "num_beams is '4', must be of type int"),
    (dict(num_beams=True), "num_beams is True"),
    (dict(early_stopping="soon"), "early_stopping is 'soon'"),
    (dict(suppress_tokens=["a"]), "suppress_tokens has 'a', must be token ids"),
    (dict(bad_words_ids=[3]), "bad_words_ids must be a list of lists"),
    (dict(stop_strings=[3]), "stop_strings must be texts")])
def test_a_setting_of_the_wrong_type_is_named(folder, fields, message):
  with pytest.raises(errors.UserError, match=message):
    decoding(folder, **fields)


def test_a_converted_model_writes_what_its_settings_make_transformers_write(
    folder, capsys, tmp_path):
  decoding(folder, num_beams=3, max_length=12, eos_token_id=2, forced_eos_token_id=2,
           no_repeat_ngram_size=2, bad_words_ids=[[0]], pad_token_id=0,
           decoder_start_token_id=0, penalty_alpha=0.5)
  inputs = np.random.default_rng(0).integers(3, 37, (3, 6))
  printed = cli.run(capsys, "convert", f"--source={folder}",
                    f"--output={tmp_path / 'w'}")
  run = codec.read_run(tmp_path / "w")
  source = sources.open(tmp_path / "w")

  found = beam.search(
      registry.build(run.model), dict(source.read(list(source.specs))),
      encoder_inputs=inputs.tolist(), decoding=run.decoding)

  model = transformers.MarianMTModel.from_pretrained(folder)
  model.generation_config.penalty_alpha = None
  want = model.generate(torch.tensor(inputs))[:, 1:].tolist()
  assert "ignored, although they change texts: penalty_alpha" in printed
  assert [row[0].tokens for row in found] == [
      row[:row.index(2)] if 2 in row else row for row in want]
