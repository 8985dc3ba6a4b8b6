"""Tests of a run that learns to draw: training, transfer, evaluation and pictures."""

import dataclasses
import functools
import json
import re
import xml.etree.ElementTree as xml

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small_runs
from tests.commands import cli
from tests.comparing import assert_same_bits
from tests.data import drawings
from transfer_gen import config
from transfer_gen import errors
from transfer_gen import sources
from transfer_gen.data import notation
from transfer_gen.data import stroke_tokenizer
from transfer_gen.export import convert
from transfer_gen.formats import whole
from transfer_gen.models import beginnings
from transfer_gen.run import assemble
from transfer_gen.run import drawn
from transfer_gen.run import initial
from transfer_gen.run import loop
from transfer_gen.run import pictures
from transfer_gen.run import records
from transfer_gen.run import stepping
from transfer_gen.run import trained as trained_lib
from transfer_gen.train import combined
from transfer_gen.train import step as step_lib
from transfer_gen.train import stored_features
from transfer_gen.transfer import axes
from transfer_gen.transfer import plan
from transfer_gen.transfer import structure

Term = config.Term
MODEL = config.Sketch(hidden_width=8, encoder_width=4, latent_width=4, mixtures=2)
KL = Term(schedule="exponential", start=0.1, decay=0.5)


def _run(folder, model=MODEL, steps=4, **fields):
  return config.Run(**{
      "model": model,
      "data": config.Data(name="files", train=str(folder / "a.npz"), length=8,
                          corrupt=config.Corrupt(stretch=0.1, drop_points=0.1)),
      "tokenizer": config.Tokenizer(kind="strokes"),
      "objective": config.Objective(
          bivariate=Term(), gaussian=Term(weight=0.2), squared_error=Term(weight=0.1),
          kl=KL, kl_min=0.01),
      "optim": config.Optim(lr=1e-2, warmup_steps=1),
      "train": config.Train(steps=steps, batch_size=8, log_every=1, eval_every=2,
                            checkpoint_every=2), **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("drawings")
  drawings.save(folder / "a.npz", train=drawings.zigzags(32, 1),
                valid=drawings.zigzags(8, 2), test=drawings.zigzags(8, 3))
  # Another scale, three times as large.
  drawings.save(folder / "b.npz", **{name: [points * [[3, 3, 1]] for points in made]
                                     for name, made in (
                                         ("train", drawings.zigzags(32, 4)),
                                         ("valid", drawings.zigzags(8, 5)),
                                         ("test", drawings.zigzags(8, 6)))})
  loop.train(_run(folder), folder / "first")
  return folder


@pytest.fixture(scope="module")
def trained(folder):
  return trained_lib.open(folder / "first")


def _moved(folder, model=MODEL, **fields):
  data = config.Data(name="files", train=str(folder / "b.npz"), length=8)
  return _run(folder, **{"model": model, "data": data, "steps": 2,
                         "source": config.Source(path=str(folder / "first")), **fields})


def test_the_loss_is_the_bound_whatever_the_weights_are(folder):
  lines = records.read_metrics(folder / "first")
  validated = [line for line in lines if line["split"] == "validation"]
  learned = [line for line in lines if line["split"] == "train"]

  assert len(validated) == 2 and len(learned) == 4
  for line in validated:
    assert line["reconstruction"] == pytest.approx(line["ce"] + line["bivariate"])
    assert line["loss"] == pytest.approx(line["reconstruction"] + line["kl"])
    assert not {"bits_per_byte", "perplexity"} & line.keys()
  for i, line in enumerate(learned):
    weight = 0.1 + 0.9 * (1 - 0.5**i)
    assert line["kl_weight"] == pytest.approx(weight, rel=1e-5)
    assert line["loss"] == pytest.approx(
        line["ce"] + line["bivariate"] + 0.2 * line["gaussian"]
        + 0.1 * line["squared_error"] + weight * line["kl"], rel=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(folder, tmp_path):
  loop.train(_run(folder), tmp_path / "stopped", stop=2)
  loop.train(_run(folder), tmp_path / "stopped")

  for step in (2, 4):
    ours, theirs = (small_runs.params(where, step) for where in (
        folder / "first", tmp_path / "stopped"))
    assert_same_bits(ours, theirs)


def test_eight_devices_take_the_step_of_one(folder):
  assembled = assemble.build(_run(folder), folder / "none")
  objective, optimizer = assembled.run.objective, assembled.optimizer
  state = lambda: step_lib.TrainState(
      step=jnp.zeros((), jnp.int32), params=jax.tree.map(jnp.copy, params),
      opt_state=optimizer.extend({}, params, 0))
  params, key = initial.params(assembled), jax.random.key(0)
  batch, runner = next(assembled.data.train_batches(8, 0)), stepping.runner(assembled)
  assert jax.device_count() == 8

  alone, metrics = jax.jit(functools.partial(
      step_lib.train_step, optimizer=optimizer, weigh=combined.weigher(objective, 4),
      nll_fn=combined.training(assembled.model, objective, False)))(
          state(), batch, key=key)
  together, found = runner.step(runner.place(state()), runner.put(batch), key)

  for name, (total, count) in metrics.items():
    np.testing.assert_allclose(
        found[name][0] / found[name][1], total / count, rtol=1e-4, err_msg=name)
  for name, value in runner.fetch(together).params.items():
    np.testing.assert_allclose(value, alone.params[name], atol=1e-5, err_msg=name)
    # Arrays of NumPy: those of JAX lie on one device here and on eight there.
    assert np.abs(np.asarray(value) - np.asarray(params[name])).max() > 1e-4


def test_a_source_keeps_its_scale_where_its_tokenizer_is_taken(folder):
  first = sources.open(folder / "first").tokenizer.scale
  kept, own = (assemble.build(_moved(
      folder, tokenizer=config.Tokenizer(kind=kind)), folder / "none").data.tokenizer
               for kind in ("source", "strokes"))

  assert kept.scale == first
  assert own.scale > 2 * first
  assert whole.read_json(folder / "first" / "data.json", lambda data: data[
      "tokenizer"]["scale"]) == first


def test_another_width_of_the_latent_is_refused_or_mapped(folder, tmp_path):
  wider = dataclasses.replace(MODEL, latent_width=6)
  with pytest.raises(errors.UserError, match="`latent` is 4 in the source and 6 here"):
    assemble.build(_moved(folder, wider), folder / "none")

  mapped = _moved(folder, wider, transfer=plan.TransferPlan(
      rules=(plan.Rule(target="(.*)", source=r"\1"),),
      axes=(plan.On(axis="latent", map=axes.Extend()),),
      groups=(plan.Group(name="all", params=".*", lr_mult=1e-12),)))
  loop.train(mapped, tmp_path / "wider")

  old, new = small_runs.params(folder / "first"), small_runs.params(tmp_path / "wider")
  for name, value in old.items():
    found = new[name][tuple(slice(size) for size in value.shape)]
    np.testing.assert_allclose(found, value, atol=1e-6, err_msg=name)
  assert new["encoder/mean/bias"].shape == (6,)


def test_a_decoder_alone_takes_what_it_needs_of_a_source(folder, tmp_path):
  alone = dataclasses.replace(MODEL, latent_width=0)
  run = _moved(
      folder, alone, objective=config.Objective(bivariate=Term()),
      transfer=plan.TransferPlan(
          rules=(plan.Rule(target="(.*)", source=r"\1"),),
          groups=(plan.Group(name="head", params="head/.*", lr_mult=1e-12),
                  plan.Group(name="rest", params=".*", unfreeze_step=None)),
          unused_source=("encoder/.*", "start/.*", ".*_latent")))
  loop.train(run, tmp_path / "alone")

  old, new = small_runs.params(folder / "first"), small_runs.params(tmp_path / "alone")
  assert set(new) == {n for n in old if re.fullmatch("(decoder|head)/.*", n)} - {
      "decoder/input_kernel_latent"}
  for name, value in new.items():
    np.testing.assert_allclose(value, old[name], atol=1e-6, err_msg=name)
  found = drawn.freely(trained_lib.open(tmp_path / "alone"), config.Decoding(num=2))
  assert len(found) == 2
  with pytest.raises(errors.UserError, match="a decoder alone, which reads no drawing"):
    drawn.after(trained_lib.open(tmp_path / "alone"), ["0 0 1"], config.Decoding())


def test_an_encoder_alone_is_a_source_for_another_model(folder):
  other = dataclasses.replace(MODEL, hidden_width=6, mixtures=3)

  found = initial.params(assemble.build(_moved(
      folder, other, transfer=plan.TransferPlan(
          rules=(plan.Rule(target="(encoder/.*)", source=r"\1"),
                 plan.Rule(target=".*", source=None)),
          groups=(plan.Group(name="all", params=".*"),),
          unused_source=("decoder/.*", "head/.*", "start/.*"))), folder / "none"))

  old = small_runs.params(folder / "first")
  read = {name for name in found if name.startswith("encoder/")}
  assert len(read) == 14 and len(found) > 20
  for name, value in found.items():
    same = np.array_equal(value, old[name])
    assert same or name not in read, name
  assert found["decoder/recurrent_kernel"].shape[0] == 6


def test_a_grown_model_draws_what_its_source_draws(folder, trained):
  model, grown = structure.grow(trained.run.model, hidden_width=16, encoder_width=8)
  made = assemble.build(_moved(
      folder, model, transfer=grown, data=_run(folder).data,
      tokenizer=config.Tokenizer(kind="source")), folder / "none")
  larger = dataclasses.replace(
      trained, run=made.run, model=made.model, params=initial.params(made))

  texts = [notation.text(points) for points in drawings.zigzags(2)]
  ours, theirs = (drawn.after(one, texts, config.Decoding(max_tokens=5))
                  for one in (trained, larger))

  for one, other in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-3)
  assert larger.params["decoder/recurrent_kernel"].shape[0] == 16


def test_a_seed_gives_the_same_drawing_in_any_batch(trained):
  draw = lambda size, seed=0: drawn.freely(trained, config.Decoding(
      num=5, temperature=0.5, seed=seed), size)
  alone, together, other = draw(1), draw(5), draw(5, seed=1)

  for one, same, differs in zip(alone, together, other, strict=True):
    np.testing.assert_array_equal(one[:, 2], same[:, 2])
    np.testing.assert_allclose(one, same, atol=1e-3)
    assert one.shape != differs.shape or np.abs(one - differs).max() > 1e-2
  assert np.abs(together[0][0] - together[1][0]).max() > 1e-2


def test_drawings_between_two_begin_and_end_with_them(trained):
  texts = [notation.text(points) for points in drawings.zigzags(2, 9)]
  decoding = config.Decoding(max_tokens=6)

  found = drawn.between(trained, texts, 4, decoding)

  ends = drawn.after(trained, texts, decoding)
  for one, other in zip((found[0], found[-1]), ends, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-3)
  assert len(found) == 4
  # All with the same noise, so that they differ in their latents alone.
  warm = dataclasses.replace(decoding, temperature=0.5)
  alike = drawn.between(trained, texts[:1] * 2, 3, warm)
  for one in alike[1:]:
    np.testing.assert_allclose(one, alike[0], atol=1e-3)
  with pytest.raises(errors.UserError, match="has 1. Give a file with two"):
    drawn.between(trained, texts[:1], 4, decoding)


def test_drawings_are_read_and_drawn_in_the_unit_of_the_data(trained):
  twice = dataclasses.replace(
      trained, tokenizer=stroke_tokenizer.Strokes(2 * trained.tokenizer.scale))
  [points] = drawings.zigzags(1)

  small, large = (
      drawn.after(one, [notation.text(points * [size, size, 1])],
                  config.Decoding(max_tokens=5))[0]
      for one, size in ((trained, 1), (twice, 2)))

  # Powers of two change no digit: the model reads and gives the same numbers.
  np.testing.assert_array_equal(large, small * [2, 2, 1])
  assert small[:, :2].any()


def _places(path):
  """All coordinates of the path of a picture, after it was parsed."""
  root = xml.fromstring(path)
  found = [line.get("d") for line in root.iter("{http://www.w3.org/2000/svg}path")]
  return root, np.array([
      list(map(float, place.split())) for d in found
      for place in re.findall(r"[\d.]+ [\d.]+", d)])


@pytest.mark.parametrize("form", ["keras", "orbax", "peft", "safetensors"])
def test_a_model_of_drawings_has_no_other_form(folder, tmp_path, form):
  with pytest.raises(errors.UserError, match="no other library .* has a Sketch"):
    convert.convert(folder / "first", tmp_path / "new", form)

  assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("points", [
    *drawings.zigzags(2), [[0, 0, 1]], [[5, 5, 0], [0, 0, 1], [0, 0, 0]],
    [[0, 0, 0], [1e6, 0, 0]], [[0, 0, 0], [0, 1e-6, 1]]], ids=range(6))
def test_a_picture_is_svg_inside_of_its_box(points):
  points = np.array(points, np.float32)

  root, places = _places(pictures.svg(points))

  assert root.get("viewBox") == f"0 0 {pictures.SIZE} {pictures.SIZE}"
  assert len(places) >= len(points)
  assert places.min() >= 0 and places.max() <= pictures.SIZE
  if points[:, :2].any() and len(points) > 3:  # As large as fits.
    assert np.ptp(places, axis=0).max() > 0.8 * pictures.SIZE


def test_a_picture_shows_each_line_where_it_is_with_y_pointing_down():
  points = np.array([[7, 7, 0], [10, 0, 0], [0, 5, 1], [2, 0, 1]], np.float32)
  # From the first point; a dot is a line to where it begins.
  lines = [[[0, 0], [10, 0], [10, 5]], [[12, 5], [12, 5]]]

  root, _ = _places(pictures.svg(points))

  [path] = root.iter("{http://www.w3.org/2000/svg}path")
  drawn_lines = path.get("d").split("M")[1:]
  factor = (pictures.SIZE - 24) / 12  # A margin on both sides of the longer side.
  for found, line in zip(drawn_lines, lines, strict=True):
    places = np.array(re.findall(r"[\d.]+", found), float).reshape(-1, 2)
    np.testing.assert_allclose(  # The middle of the drawing is that of the box.
        places, (np.array(line) - [6, 2.5]) * factor + pictures.SIZE / 2, atol=0.01)


def test_a_sheet_holds_all_pictures_and_their_labels():
  root, _ = _places(pictures.sheet(drawings.zigzags(5), ["<&>"] * 5, columns=2))

  texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
  assert texts == ["<&>"] * 5
  places = [one.get("transform") for one in root.iter("{http://www.w3.org/2000/svg}g")]
  assert places == [f"translate({x} {y})" for y in (0, 218, 436) for x in (0, 200)][:5]
  assert (root.get("width"), root.get("height")) == ("400", str(3 * 218))


def test_commands_draw_and_evaluate(folder, tmp_path, capsys):
  first, made = f"--workdir={folder / 'first'}", tmp_path / "made"
  printed = cli.run(capsys, "generate", first, f"--output={made}", "--num=3",
                    "--temperature=0.5", "--max_tokens=6")
  again = tmp_path / "again"
  cli.run(capsys, "generate", first, f"--output={again}",
          f"--prompts={made / 'drawings.npz'}", "--num=2")
  scores = json.loads(cli.run(capsys, "evaluate", first).splitlines()[-1])

  assert "3 drawings" in printed
  assert {path.name for path in made.iterdir()} == {
      "0000.svg", "0001.svg", "0002.svg", "sheet.svg", "drawings.npz",
      "drawings.jsonl"}
  lines = [json.loads(line) for line in (made / "drawings.jsonl").open()]
  found = np.load(made / "drawings.npz")
  for i, line in enumerate(lines):
    np.testing.assert_allclose(
        notation.points_of(line["text"]),
        found["strokes"][found["offsets"][i]:found["offsets"][i + 1]], rtol=1e-6)
  redrawn = [json.loads(line) for line in (again / "drawings.jsonl").open()]
  assert [line["label"] for line in redrawn] == [
      f"{i}: {how}" for i in range(3) for how in ("given", "drawn", "drawn")]
  assert [line["text"] for line in redrawn[::3]] == [line["text"] for line in lines]
  assert scores["loss"] == pytest.approx(
      scores["ce"] + scores["bivariate"] + scores["kl"])
  assert "perplexity" not in scores and scores["documents"] == 8


@pytest.mark.parametrize("words, message", [
    (["--output=new", "--beams=3"], "--beams: this model draws"),
    (["--output=new", "--prompts=a.npz", "--input_field=x"], "--input_field: this"),
    (["--prompt=x"], "give --output=DIR"),
    (["--output=new", "--interpolate=3"], "give both as --prompts=FILE"),
    (["--output=new", "--prompts=a.npz", "--interpolate=3", "--num=2"],
     "remove --num"),
    (["--output=a.npz"], "exists already"),
    ([], "needs either --prompt=TEXT or --prompts=FILE"),
])
def test_flags_that_say_nothing_about_drawings_are_refused(
    folder, monkeypatch, capsys, words, message):
  monkeypatch.chdir(folder)

  assert message in cli.refused(capsys, "generate", "--workdir=first", *words)
  assert not (folder / "new").exists()


def _stored(folder, model=MODEL, **fields):
  run = _run(folder, model, **{
      "features": config.Features(check=1.0), "source": config.Source(
          path=str(folder / "first")), "tokenizer": config.Tokenizer(kind="source"),
      "transfer": plan.TransferPlan(
          rules=(plan.Rule(target="(.*)", source=r"\1"),),
          groups=(plan.Group(name="kept", params="encoder/.*", unfreeze_step=None),
                  plan.Group(name="rest", params=".*"))), **fields})
  run.data.corrupt = config.Corrupt()
  return run


def test_a_decoder_of_drawings_learns_from_a_stored_encoder_as_from_a_live_one(
    folder, tmp_path):
  setup = assemble.build(_stored(folder), tmp_path)
  params = {name: jnp.asarray(value) for name, value in small_runs.params(
      folder / "first").items()}
  data = stored_features.attach(
      setup.run, setup.model, setup.beginning, setup.data, params, tmp_path)
  stored, live = (next(source.train_batches(8, 0)) for source in (data, setup.data))
  nll_fn = combined.scoring(setup.model, setup.beginning)
  learning = {name: params[name] for name in params if "encoder/" not in name}

  @jax.jit
  def step(learning, batch):
    return jax.value_and_grad(lambda learning: nll_fn(
        {**params, **learning}, batch, jax.random.key(1))["loss"].mean())(learning)

  (loss, wanted), (same, found) = step(learning, live), step(learning, stored)
  rolled = {**stored, "hidden_mean": stored["hidden_mean"][::-1]}
  encoder = [name for name in params if name.startswith("encoder/")]
  without = nll_fn({**params, **{name: params[name] * np.nan for name in encoder}},
                   stored, jax.random.key(1))["loss"]

  assert {name: value.shape for name, value in beginnings.stored(stored).items()} == {
      "hidden_mean": (8, 4), "hidden_log_var": (8, 4)}
  assert float(same) == pytest.approx(float(loss), rel=1e-6)
  for name, value in wanted.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  assert np.isfinite(without).all()  # The encoder does not run.
  assert abs(float(step(learning, rolled)[0]) - float(loss)) > 1e-4


@pytest.mark.long
def test_a_run_of_drawings_from_stored_features_logs_the_losses_of_the_live_run(
    folder, tmp_path):
  loop.train(_stored(folder), tmp_path / "stored")
  loop.train(_stored(folder, features=None), tmp_path / "live")

  stored, live = ([(line["step"], line["split"], line["loss"]) for line in
                   small_runs.metrics(tmp_path / name)] for name in ("stored", "live"))
  assert len(stored) == len(live) == 6
  for mine, theirs in zip(stored, live):
    assert mine[:2] == theirs[:2] and mine[2] == pytest.approx(theirs[2], rel=1e-5)


@pytest.mark.parametrize("change, message", [
    (lambda run: setattr(run.data, "corrupt", config.Corrupt(stretch=0.1)),
     "stretch is 0.1"),
    (lambda run: setattr(run, "transfer", None), "the encoder is not frozen: encoder/"),
    (lambda run: setattr(run, "distill", config.Distill(hidden=1.0)),
     "layer 0 is matched")], ids=range(3))
def test_features_of_drawings_that_cannot_be_stored_are_refused(
    change, message, folder, tmp_path):
  run = _stored(folder)
  change(run)

  with pytest.raises(errors.UserError, match=message):
    assemble.build(run, tmp_path)


def _taught(folder, **fields):
  student = dataclasses.replace(MODEL, hidden_width=4, encoder_width=3)
  return _run(folder, student, objective=config.Objective(
      bivariate=Term(weight=0.5), kl=KL), distill=config.Distill(
          teacher=config.Source(path=str(folder / "first")), hidden=0.1), **fields)


@pytest.mark.long
def test_a_smaller_model_of_drawings_learns_from_a_teacher_and_goes_on(
    folder, tmp_path):
  run = _taught(folder)
  loop.train(run, tmp_path / "whole")
  loop.train(run, tmp_path / "stopped", stop=2)
  loop.train(run, tmp_path / "stopped")

  lines = [line for line in small_runs.metrics(tmp_path / "whole")
           if line["split"] == "train"]
  for line in lines:
    assert line["loss"] == pytest.approx(
        0.3 * (line["ce"] + 0.5 * line["bivariate"]) + 0.7 * line["logits"]
        + 0.1 * line["hidden"] + line["kl_weight"] * line["kl"], rel=1e-5)
  assert lines[-1]["logits"] < lines[0]["logits"]
  assert_same_bits(*(
      small_runs.params(tmp_path / name, 4) for name in ("whole", "stopped")))


def test_projections_lead_from_each_part_of_a_drawing_model_to_its_teachers(folder):
  setup = assemble.build(_taught(folder), folder / "none")

  assert setup.teacher.hidden == ((0, 0), (1, 1))
  assert {name: spec.shape for name, spec in setup.specs.items()
          if name.startswith("distill/")} == {
              "distill/layer_0/kernel": (6, 8), "distill/layer_1/kernel": (4, 8)}


def test_a_teacher_of_drawings_of_another_scale_is_refused_with_its_tokenizer(
    folder, tmp_path):
  run = _taught(folder)
  run.data.train = str(folder / "b.npz")
  with pytest.raises(errors.UserError, match="tokenizer.kind='file'"):
    assemble.build(run, tmp_path)

  run.tokenizer = config.Tokenizer(kind="file", path=str(folder / "first/tokenizer"))
  assert assemble.build(run, tmp_path).teacher.student.scale == pytest.approx(
      trained_lib.open(folder / "first").tokenizer.scale)


def _by_strategy(folder, **strategy):
  run = _run(folder, source=config.Source(path=str(folder / "first")),
             tokenizer=config.Tokenizer(kind="source"),
             strategy=config.Strategy(**strategy))
  return assemble.build(run, folder / "none")


@pytest.mark.parametrize("strategy, learns", [
    (dict(name="feature_extraction"), {"head": (1, 0)}),
    (dict(name="discriminative", factor=2.0),
     {"head": (1, 0), "decoder": (1 / 2, 0), "encoder": (1 / 4, 0)}),
    (dict(name="gradual_unfreezing", every=1),
     {"head": (1, 0), "decoder": (1, 1), "encoder": (1, 2)}),
    (dict(name="surgical", learn=("encoder",)), {"encoder": (1, 0)}),
    (dict(name="fine_tune", frozen=1), {"head": (1, 0), "decoder": (1, 0)})],
                         ids=range(5))
def test_strategies_take_encoder_decoder_and_output_as_layers(strategy, learns, folder):
  setup = _by_strategy(folder, **strategy)

  part = {"encoder": "encoder", "decoder": "decoder", "start": "decoder"}
  rates = {group.name: group.lr_mult for group in setup.plan.groups}
  found = {row.name: (rates[row.group], row.unfreeze_step) for row in setup.rows}
  for name, value in found.items():
    wanted = learns.get(part.get(name.split("/")[0], "head"))
    assert (value == wanted) if wanted else value[1] is None, name
  assert len(found) == 31


def test_the_strategy_lora_stands_beside_all_kernels_below_the_output(folder):
  setup = _by_strategy(folder, name="lora", rank=2)

  own = {name for name, spec in setup.specs.items() if "lora_" not in name}
  learning = {row.name for row in setup.rows if row.unfreeze_step is not None}
  kernels = [name for name in own if "kernel" in name and "head/" not in name]
  assert learning == setup.specs.keys() - own
  assert len(learning) == 2 * len(kernels) == 30


@pytest.mark.parametrize("fields, message", [
    (dict(objective=config.Objective()), "objective.bivariate.weight is 0"),
    (dict(tokenizer=config.Tokenizer(kind="bytes")), "Choose tokenizer.kind=strokes"),
    (dict(model=small_runs.RNN), "Choose model=config.Sketch"),
    (dict(train=config.Train(metric="bleu")), "train.metric: a model of drawings"),
    (dict(model=dataclasses.replace(MODEL, latent_width=0)),
     "objective.kl needs latent_mean"),
])
def test_what_does_not_go_with_drawings_is_refused(folder, fields, message):
  with pytest.raises(errors.UserError, match=message):
    assemble.build(_run(folder, **fields), folder / "none")
