"""Tests for commands on a run whose model has a latent."""

import json

import pytest

from tests.commands import cli
from transfer_gen import config
from transfer_gen.run import losses
from transfer_gen.run import trained as trained_lib

CONFIG = '''
from transfer_gen import config

def get_config(kind="vae"):
  model = config.Recurrent(
      cell="rnn", num_layers=1, embed_width=4, hidden_width=8, encoder=True,
      latent_width=3, variational=kind == "vae")
  if kind == "language":
    model = config.Recurrent(cell="rnn", num_layers=1, embed_width=4, hidden_width=8)
  return config.Run(
      model=model,
      data=config.Data(
          name="files", train="text.txt", length=32, corrupt=config.Corrupt(
              noise=() if kind == "language" else ("copy",))),
      tokenizer=config.Tokenizer(kind="characters"),
      objective=config.Objective(kl=config.Term(weight=float(kind == "vae"))),
      optim=config.Optim(warmup_steps=1),
      train=config.Train(steps=2, batch_size=8, log_every=1, eval_every=2))
'''
FIRST, SECOND = "the 3th line counts 8 things", "the 90th line"
DRAWS = ("--temperature=1", "--max_tokens=6")


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory):
  """Trains a run of each kind, and returns the folder that they are in."""
  folder = tmp_path_factory.mktemp("latent")
  (folder / "vae.py").write_text(
      CONFIG.replace("text.txt", str(folder / "text.txt")))
  (folder / "text.txt").write_text("".join(
      f"the {i}th line counts {i * 7 % 13} things\n" for i in range(200)))
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    for kind in ("vae", "plain", "language"):
      cli.main.run(["transfer-gen", "train", f"--config=vae.py:{kind}",
                    f"--workdir={folder / kind}"])
  return folder


@pytest.fixture(name="run")
def _run(runs, capsys):
  """Runs `generate` on the variational run and returns the texts."""
  def generate(*words, workdir="vae"):
    printed = cli.run(
        capsys, "generate", f"--workdir={runs / workdir}", *words).rstrip("\n")
    parts = printed.split("--- ")
    # An empty text ends with its title.
    return [part.partition("\n")[2].rstrip("\n") for part in parts[1:]] or [printed]
  return generate


def test_samples_of_the_prior_depend_on_seed_and_number_alone(run, runs):
  five = run("--prior", "--num=5", "--seed=1", *DRAWS)

  assert run("--prior", "--num=2", "--seed=1", "--batch_size=1", *DRAWS) == five[:2]
  assert run("--prior", "--seed=2", *DRAWS) != five[:1] and len(set(five)) > 1
  # On one device, and divided over all.
  trained = trained_lib.open(runs / "vae")
  decoding = config.Decoding(temperature=1.0, max_tokens=6, seed=1)
  assert trained.sample(5, decoding) == five
  assert trained.sample(5, decoding, parallel=config.Parallel()) == five


def test_beams_and_greedy_texts_are_written_for_latents(run):
  assert len(run("--prior", "--num=5", "--beams=2", "--max_tokens=4", "--seed=7")) == 5
  assert len(run("--prior", "--num=3", "--max_tokens=4", "--seed=7")) == 3


def test_an_interpolation_begins_and_ends_with_what_its_texts_become(run):
  found = run("--interpolate=4", f"--prompt={FIRST}", f"--prompt={SECOND}",
              "--max_tokens=6")

  assert len(found) == 4
  assert found[0] == run(f"--prompt={FIRST}", "--max_tokens=6")[0].rstrip("\n")
  assert found[-1] == run(f"--prompt={SECOND}", "--max_tokens=6")[0].rstrip("\n")


def test_a_plain_autoencoder_restores_and_interpolates(run):
  both = run(f"--prompt={FIRST}", f"--prompt={SECOND}", "--max_tokens=6",
             workdir="plain")

  assert run("--interpolate=2", f"--prompt={FIRST}", f"--prompt={SECOND}",
             "--max_tokens=6", workdir="plain") == both


def test_evaluate_names_the_bound_and_its_two_parts(runs, capsys):
  printed = cli.run(capsys, "evaluate", f"--workdir={runs / 'vae'}")
  found = json.loads(printed.splitlines()[-1])

  assert "loss is a bound from above, the negative ELBO in nats per token" in printed
  assert found["loss_is_bound"] is True
  assert found["loss"] == pytest.approx(found["reconstruction"] + found["kl"], rel=1e-6)
  assert found["kl_per_document"] == pytest.approx(
      found["kl"] * found["tokens"] / found["documents"])
  assert found["kl"] > 0 and found["perplexity"] > 1
  plain = cli.run(capsys, "evaluate", f"--workdir={runs / 'plain'}")
  assert "bound" not in plain
  lines = [json.loads(line) for line in (
      runs / "vae" / "metrics.jsonl").read_text().splitlines()]
  assert lines[-1]["loss"] == pytest.approx(
      lines[-1]["reconstruction"] + lines[-1]["kl"], rel=1e-6)


def test_the_bound_of_a_document_does_not_depend_on_the_others(runs):
  trained = trained_lib.open(runs / "vae")
  documents = trained.data()[1]["test"][:9]

  whole, _ = losses.score(trained, documents)
  part, _ = losses.score(trained, documents[4:6])

  assert part.nats == pytest.approx(whole.nats[4:6], rel=1e-5)
  assert len(set(whole.nats.round(3))) > 4


@pytest.mark.parametrize("words, message", [
    (["vae", "--interpolate=3", "--prompt=a"], "give --prompt twice. It is given 1 "),
    (["vae", "--interpolate=3", "--prior"], "give --prompt twice. It is given 0 "),
    (["vae", "--interpolate=1", "--prompt=a", "--prompt=b"], "must be at least 2"),
    (["vae", "--interpolate=3", "--prompt=a", "--prompt=b", "--num=2"], "remove --num"),
    (["vae", "--prior", "--prompt=a"], "either --prompt=TEXT or --prompts=FILE, or"),
    (["vae", "--prior", "--output=x.txt"], "--output is for the answers to --prompts"),
    (["vae", "--interpolate=3", "--prompt=a", "--prompt=b", "--seed=1"],
     "--seed is for tokens that are drawn"),
    (["plain", "--prior"], "an autoencoder without a prior"),
    (["language", "--prior"], "The model has no latent"),
    (["language", "--interpolate=3", "--prompt=a", "--prompt=b"],
     "The model has no latent"),
])
def test_a_flag_that_makes_no_sense_is_refused(runs, capsys, words, message):
  assert message in cli.refused(
      capsys, "generate", f"--workdir={runs / words[0]}", *words[1:])


@pytest.mark.parametrize("source, found", [
    ("", "0.0% of the target's params come from a source"),
    ("language", "new: the latent"), ("vae", "100.0% of the target's params")])
def test_the_recipe_begins_from_scratch_a_language_model_or_an_autoencoder(
    runs, capsys, monkeypatch, source, found):
  monkeypatch.chdir(runs)

  words = ["--config=recipe:autoencode", f"--workdir=begun_{source}",
           "--config.data.train=text.txt", "--config.data.length=32",
           "--config.model.cell=rnn", "--config.model.embed_width=4",
           "--config.model.hidden_width=8", "--config.model.latent_width=3",
           *([f"--config.source.path={source}", "--config.tokenizer.kind=source",
              "--config.tokenizer.sentinels=0", "--config.data.corrupt.word_dropout=0"]
             if source else ["--config.tokenizer.kind=characters"])]

  printed = cli.run(capsys, "plan", *words)

  assert found in printed
  assert "latent/mean/bias" in printed
  if source == "language":
    lines = cli.run(capsys, "train", *words, "--config.train.steps=8").splitlines()
    learned = [json.loads(line) for line in lines if line.startswith("{")]
    assert all("kl" in one for one in learned if "loss" in one)


@pytest.mark.parametrize("form", ["safetensors", "keras"])
def test_a_latent_has_no_place_in_other_forms(runs, capsys, form):
  message = cli.refused(capsys, "convert", f"--source={runs / 'vae'}", f"--to={form}",
                        f"--output={runs / form}")

  assert "latent_width" in message
  assert not (runs / form).exists()


@pytest.mark.parametrize("words, message", [
    (["vae", "--config.objective.kl.weight=0"], "objective.kl, which keeps what it"),
    (["plain", "--config.objective.kl.weight=1"], "kl needs latent_log_var, which the"),
    (["language", "--config.objective.kl.weight=1"], "kl needs latent_mean"),
    (["vae", "--config.data.corrupt.noise=()"], "data.corrupt.noise=('copy',)"),
    (["vae", "--config.data.corrupt.noise=('copy', 'masking')"], "stands alone"),
    (["vae", "--config.model.encoder=False"], " an encoder"),
    (["vae", "--config.model.latent_width=-1"], "latent_width is -1, must be"),
])
def test_a_config_that_makes_no_sense_is_refused(
    runs, capsys, monkeypatch, words, message):
  monkeypatch.chdir(runs)

  assert message in cli.refused(
      capsys, "plan", f"--config=vae.py:{words[0]}", "--workdir=w", *words[1:])
