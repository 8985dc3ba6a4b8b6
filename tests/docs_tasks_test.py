"""Tests that the commands of the pages about tasks run, in order, as they stand."""

import json
import re
import shlex

import pytest
import sentencepiece
import tokenizers as hf
import transformers

from tests import paths
from tests.commands import cli
from transfer_gen.run import choices

WORDS = "a dog runs two cats sleep on the red mat and see me".split()
CHAT = ("{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant\n{% endif %}")


@pytest.fixture(name="page")
def _page(tmp_path, monkeypatch, capsys):
  """Returns a function that runs the commands of a page and returns what they print."""
  monkeypatch.chdir(tmp_path)
  # What a page trains must be large enough to be of use; here it must be fast.
  monkeypatch.setattr(choices, "_STEPS", (2, 2))
  monkeypatch.setattr(choices, "_SMALL_MODEL", dict(
      num_layers=1, width=16, num_heads=2, position="rotary"))
  monkeypatch.setattr(choices, "_VOCABULARY", (300, 300))

  def run(name):
    page = (paths.ROOT / "docs" / f"{name}.md").read_text()
    short = dict(re.findall(r'^    ([A-Z]+)="(.*)"$', page, re.MULTILINE))
    commands = re.findall(r"^    transfer-gen (.*)$", page, re.MULTILINE)
    printed = {}
    for command in commands:
      for variable, text in short.items():
        command = command.replace(f"${variable}", " ".join(
            f"'{word}'" for word in text.split()))
      printed[command] = cli.run(capsys, *shlex.split(command))
    assert len(printed) == len(commands) > 3
    return list(printed.values())
  return run


def _sentences(count, step):
  words = lambda i: [WORDS[(i * step + j) % len(WORDS)] for j in range(3 + i % 4)]
  return [" ".join([*words(i), str(i)]) for i in range(count)]


def _write(path, lines):
  path.write_text("".join(f"{line}\n" for line in lines))


def _write_table(path, rows):
  _write(path, map(json.dumps, rows))


def _write_decoder(folder, template=None):
  """Writes a random GPT-2 with a byte-level tokenizer."""
  tokenizer = hf.ByteLevelBPETokenizer()
  tokenizer.train_from_iterator(_sentences(50, 1), vocab_size=300, show_progress=False,
                                special_tokens=["<s>", "</s>"])
  peer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
  peer.chat_template = template
  peer.save_pretrained(folder)
  transformers.GPT2LMHeadModel(transformers.GPT2Config(
      vocab_size=300, n_positions=96, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
      eos_token_id=1)).save_pretrained(folder)


def _write_encoder_decoder(folder):
  """Writes a random Marian with a tokenizer for each side."""
  folder.mkdir()
  pieces = ["</s>", "<unk>"]
  for side in ("source", "target"):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences(50, 1)), model_prefix=str(folder / side),
        vocab_size=60, hard_vocab_limit=False, minloglevel=2)
    (folder / f"{side}.model").rename(folder / f"{side}.spm")
    model = sentencepiece.SentencePieceProcessor(str(folder / f"{side}.spm"))
    pieces += [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
  ids = {piece: i for i, piece in enumerate([*dict.fromkeys(pieces), "<pad>"])}
  (folder / "vocab.json").write_text(json.dumps(ids))
  transformers.MarianMTModel(transformers.MarianConfig(
      vocab_size=len(ids), d_model=16, encoder_layers=1, decoder_layers=1,
      encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
      decoder_ffn_dim=16, max_position_embeddings=64, pad_token_id=len(ids) - 1,
      eos_token_id=0, decoder_start_token_id=len(ids) - 1)).save_pretrained(folder)


@pytest.mark.long
def test_the_page_on_translation(page, tmp_path, capsys):
  for name, count in (("train", 120), ("test", 12)):
    for step, language in enumerate(("en", "de", "fr"), 1):
      _write(tmp_path / f"{name}.{language}", _sentences(count, step))
  _write(tmp_path / "new.en", ["a dog runs", "", "two cats"])
  _write_encoder_decoder(tmp_path / "marian")
  cli.train(capsys, "--config=recipe:translate", "--workdir=runs/parent",
            "--config.data.train=train.en|train.fr")

  printed = page("translate")

  for scores in printed[:2]:
    assert re.search(r"bleu +[0-9.]+ ", scores) and "chrf" in scores
  assert len((tmp_path / "new.de").read_text().splitlines()) == 3
  assert "rows" in printed[4] and "100 columns" not in printed[4]
  assert "gain_nats_per_token" in json.loads(printed[-2].splitlines()[-1])
  assert "bleu" in json.loads(printed[-1].splitlines()[-1])["against"]["differences"]


@pytest.mark.long
def test_the_page_on_summaries(page, tmp_path, capsys):
  long, short = _sentences(120, 1), _sentences(120, 2)
  _write_table(tmp_path / "papers.jsonl", [
      {"document": f"{a} {a} {a}", "summary": b} for a, b in zip(long, short)])
  _write(tmp_path / "new.txt", long[:3])
  _write_encoder_decoder(tmp_path / "t5")

  printed = page("summarize")

  assert "rouge1" in json.loads(printed[2].splitlines()[-1])
  assert (tmp_path / "papers.html").exists()
  assert len((tmp_path / "new.jsonl").read_text().splitlines()) == 3


@pytest.mark.long
def test_the_page_on_text(page, tmp_path, capsys):
  _write(tmp_path / "notes.txt", [f"{a} {b}" for a, b in zip(
      _sentences(120, 1), _sentences(120, 3))])
  _write_decoder(tmp_path / "gpt2")

  printed = page("write")

  assert "100.0% of the target's params come from a source" in printed[2]
  assert {"distinct1", "novelty"} <= json.loads(printed[6].splitlines()[-1]).keys()


def test_the_page_on_instructions(page, tmp_path, capsys):
  _write_table(tmp_path / "answers.jsonl", [
      {"prompt": a, "answer": b} for a, b in zip(
          _sentences(120, 1), _sentences(120, 2))])
  _write_decoder(tmp_path / "chat", CHAT)

  printed = page("instruct")

  assert "prompts and answers stand in the tokenizer's chat template" in printed[1]
  assert "exact_match" in json.loads(printed[2].splitlines()[-1])
  saved = (tmp_path / "runs" / "chat" / "tokenizer" / "chat_template.jinja").read_text()
  assert saved == CHAT
  assert (tmp_path / "chat_lora" / "adapter_model.safetensors").exists()
