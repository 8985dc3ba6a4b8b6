"""Tests for writing model configs as JSON and reading them back."""

import json

import pytest

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.config import codec, validate

MODELS = (
    config.EncoderDecoder(encoder_vocab_size=11, encoder_marks="both", windows=(4, 0)),
    config.Recurrent(encoder=True, encoder_vocab_size=9, encoder_length=6),
    config.Decoder(num_kv_heads=2), config.Sketch(encoder_width=7, mixtures=3))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_a_model_config_round_trips_through_json(model):
  data = json.loads(json.dumps(codec.model_to_json(model)))

  assert codec.model_from_json(data) == model


@pytest.mark.parametrize("model", MODELS[:2], ids=lambda model: type(model).__name__)
def test_json_uses_the_old_encoder_field_names_and_accepts_both(model):
  data = codec.model_to_json(model)

  assert data["source_vocab_size"] == model.encoder_vocab_size
  assert data["source_marks"] == model.encoder_marks
  assert not any(name.startswith("encoder_") for name in data
                 if name not in (
                     "encoder_layers", "encoder_width", "encoder_attention"))
  renamed = {name.replace("source_", "encoder_"): value for name, value in data.items()}
  assert codec.model_from_json(renamed) == model


def test_an_unknown_model_field_is_an_error():
  with pytest.raises(errors.UserError, match="no_such_field.*another version"):
    codec.model_from_json({"family": "Decoder", "no_such_field": 3})


@pytest.mark.parametrize("old, unit", [
    ({}, "line"), ({"whole_files": True}, "file"), ({"paragraphs": True}, "paragraph")])
def test_data_of_an_older_config_means_what_it_meant(old, unit):
  run = codec.run_to_json(config.Run(data=config.Data(name="files", train="a.txt")))
  for field in ("unit", "split", "columns", "drop_empty", "merge_references",
                "too_long", "max_validation", "max_test", "packing"):
    del run["data"][field]
  run["data"] |= {"whole_files": False, "paragraphs": False} | old

  data = codec.run_from_json(json.loads(json.dumps(run))).data

  assert (data.unit, data.split, data.too_long) == (unit, "hash", "drop")
  assert data.drop_empty and not data.merge_references
  assert data.packing == "joined"
  # What is written now is read as it is.
  new = config.Run(data=config.Data(name="files", train="a.txt", unit="auto"))
  assert codec.run_from_json(codec.run_to_json(new)).data == new.data


def test_an_older_run_on_a_built_in_data_set_can_go_on_with_todays_defaults():
  run = codec.run_to_json(config.Run())
  for field in ("unit", "split", "drop_empty", "merge_references"):
    del run["data"][field]
  run["data"] |= {"whole_files": False, "paragraphs": False}

  assert codec.run_from_json(run) == config.Run()


def test_documents_of_a_config_without_packing_are_joined():
  stored = codec.run_to_json(config.Run())
  assert codec.run_from_json(stored).data.packing == "separate"

  del stored["data"]["packing"]

  assert codec.run_from_json(stored).data.packing == "joined"


@pytest.mark.parametrize("name", ["a\0.txt", "b\udcff.txt"])
def test_a_path_that_no_json_can_hold_is_refused_before_it_is_stored(name):
  with pytest.raises(errors.UserError, match=(
      "config.data.train is '.*', which is not UTF-8 or has a zero character.*link")):
    validate.check(config.Run(
        model=config.Decoder(), data=config.Data(train=name)))
