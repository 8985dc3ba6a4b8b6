"""Tests for tokenizers: training, saving, loading, agreement with other libraries."""

import json
import shutil
import subprocess
import sys

from etils import epath
import pytest
import tokenizers as hf

from tests import paths
from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import tokenizer_kinds as kinds
from transfer_gen.data import tokenizers

TEXT = "Hello  world, it's naïve\n\t— 日本 🙂 </s><pad> <|endoftext|>"
CORPUS = ["the cat sat on the mat", "the dog sat", "naïve cats — 日本", TEXT] * 5


def build(kind, **fields):
  return tokenizers.build(config.Tokenizer(kind=kind, **fields), CORPUS)


@pytest.mark.parametrize("kind", ["bytes", "characters", "bpe"])
def test_trained_tokenizers_round_trip_any_text(kind, tmp_path):
  tokenizer = build(kind, size=300)

  ids = tokenizer.encode(TEXT)

  assert tokenizer.decode(ids) == TEXT
  assert b"".join(tokenizer.tokens[i] for i in ids) == TEXT.encode()
  assert tokenizer.encode_batch([TEXT, "the"]) == [ids, tokenizer.encode("the")]
  assert [tokenizer.roles[role] for role in tokenizers.ROLES] == [0, 1, 2, 3]
  # "</s>" in a text is plain text, not the special token.
  assert not set(ids) & {0, 1, 2, 3}
  assert tokenizer.decode([1, *ids, 3, 2, 0]) == TEXT
  assert len(tokenizer.tokens) == tokenizer.size

  tokenizer.save(epath.Path(tmp_path / "tokenizer"))
  loaded = tokenizers.load(tmp_path / "tokenizer")
  assert loaded.tokens == tokenizer.tokens and loaded.roles == tokenizer.roles
  assert loaded.encode(TEXT) == ids


def test_byte_token_ids_follow_the_special_tokens():
  assert build("bytes").encode("é\n") == [0xc3 + 4, 0xa9 + 4, 10 + 4]
  assert build("bytes").decode([0xc3 + 4]) == "\ufffd"


def test_bpe_training_is_deterministic_and_reaches_its_size():
  script = (
      "from transfer_gen import config\nfrom transfer_gen.data import tokenizers\n"
      f"t = tokenizers.build(config.Tokenizer(kind='bpe', size=270), {CORPUS!r})\n"
      "print(ascii(t.tokens))")

  tokenizer = build("bpe", size=270)
  other = subprocess.run(
      [sys.executable, "-c", script], capture_output=True, text=True, check=True)

  assert tokenizer.size == 270
  assert b" sat" in build("bpe", size=300).tokens
  assert other.stdout.strip() == ascii(tokenizer.tokens)


def test_a_character_tokenizer_accepts_given_ids_and_special_tokens(tmp_path):
  tokenizer = kinds.Characters([None, "b", "\r", None, "é"], {"pad": 0, "eos": 3})

  tokenizer.save(epath.Path(tmp_path / "tokenizer"))
  loaded = tokenizers.load(tmp_path / "tokenizer")

  for each in (tokenizer, loaded):
    assert each.encode("é\rb") == [4, 2, 1]
    assert each.decode([4, 2, 1, 3, 0]) == "é\rb"
    assert each.tokens == (b"", b"b", b"\r", b"", "é".encode())
    assert each.roles == {"pad": 0, "eos": 3}
    # There is no unk token that could replace the unknown character.
    with pytest.raises(errors.UserError, match="'x'"):
      each.encode_batch(["b", "bx"])


def test_unknown_characters_are_refused_in_a_prompt_and_counted_in_data():
  tokenizer = build("characters")

  assert tokenizer.encode_batch(["тhe"])[0][0] == tokenizer.roles["unk"]
  with pytest.raises(errors.UserError, match=r"'т' \(U\+0442\).*position 5") as caught:
    tokenizer.encode("the тhe")
  assert "kind=bytes" in str(caught.value)


@pytest.mark.parametrize("fields, message", [
    ({"kind": "word"},
     "must be bytes, characters, bpe, words, strokes, alphabet or file"),
    ({"kind": "bpe", "size": 259}, "at least 260"),
    ({"kind": "file"}, "needs tokenizer.path"),
    ({"kind": "alphabet"}, "needs tokenizer.path"),
    ({"kind": "alphabet", "path": "/nowhere"}, "/nowhere: there is no such file"),
    ({"kind": "file", "path": "/nowhere"}, "/nowhere.*no such file or folder"),
])
def test_an_invalid_tokenizer_config_is_refused(fields, message):
  with pytest.raises(errors.UserError, match=message):
    tokenizers.build(config.Tokenizer(**fields), CORPUS)


@pytest.mark.parametrize("name, data", [
    ("tokenizer.json", "{}"), ("x.model", "no model"), ("x.md", "a b"), ("", "")])
def test_a_file_that_is_not_a_tokenizer_is_refused(name, data, tmp_path):
  (tmp_path / (name or "other")).write_text(data)

  with pytest.raises(errors.UserError, match="tokenizer.json"):
    tokenizers.load(tmp_path / name)


def foreign(model, special=(), pre=None, decoder=None):
  tokenizer = hf.Tokenizer(model)
  tokenizer.add_special_tokens(list(special))
  if pre:
    tokenizer.pre_tokenizer = pre
  if decoder:
    tokenizer.decoder = decoder
  return tokenizer


def load_json(tokenizer, tmp_path):
  path = tmp_path / "tokenizer.json"
  path.write_text(tokenizer.to_str())
  return tokenizers.load(path)


def test_word_pieces_without_a_prefix_start_with_a_space(tmp_path):
  vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "play": 4, "##ing": 5}
  tokenizer = load_json(foreign(
      hf.models.WordPiece(vocab, unk_token="[UNK]"),
      ("[PAD]", "[UNK]", "[CLS]", "[SEP]"), hf.pre_tokenizers.Whitespace(),
      hf.decoders.WordPiece()), tmp_path)

  roles, notes = tokenizers.resolve_roles(tokenizer)

  assert tokenizer.tokens == (b"", b"", b"", b"", b" play", b"ing")
  assert roles == {"pad": 0, "bos": 2, "eos": 3, "sep": 3} and not notes
  assert tokenizer.encode_batch(["playing x"]) == [[4, 5, 1]]
  with pytest.raises(errors.UserError, match="'x'.*position 9"):
    tokenizer.encode("playing x")


def test_byte_fallback_tokens_and_metaspaces_are_decoded(tmp_path):
  vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "<0xFF>": 4, "\u2581the": 5}
  tokenizer = load_json(foreign(
      hf.models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"),
      ("<unk>", "<s>", "</s>"),
      decoder=hf.decoders.Sequence([
          hf.decoders.Replace("\u2581", " "), hf.decoders.ByteFallback()])), tmp_path)

  assert tokenizer.tokens == (b"", b"", b"", b"\n", b"\xff", b" the")


@pytest.mark.parametrize("model, pre, decoder, tokens", [
    (hf.models.BPE({"the</w>": 0, "t": 1}, [], end_of_word_suffix="</w>"), None,
     hf.decoders.BPEDecoder(), (b"the ", b"t")),
    (hf.models.BPE({"the</w>": 0, "\u0120t": 1}, [], end_of_word_suffix="</w>"),
     hf.pre_tokenizers.ByteLevel(), hf.decoders.ByteLevel(), (b"the ", b" t")),
    (hf.models.BPE({"\u0120the": 0, "a b": 1, "日": 2}, []), None,
     hf.decoders.ByteLevel(), (b" the", b"a b", "日".encode())),
    (hf.models.WordPiece(
        {"the": 0, ",": 1, "(": 2, "##,": 3, "日": 4}, unk_token="the"), None, None,
     (b" the", b",", b" (", b",", "日".encode())),
    (hf.models.WordLevel({"the": 0, ".": 1}, unk_token="the"),
     hf.pre_tokenizers.Whitespace(), None, (b" the", b".")),
    (hf.models.WordLevel({"the": 0, " ": 1}, unk_token="the"), None, None,
     (b"the", b" ")),
    (hf.models.Unigram([("_the", -1.0), ("_", -2.0)]),
     hf.pre_tokenizers.Sequence([hf.pre_tokenizers.Metaspace(replacement="_")]), None,
     (b" the", b" ")),
])
def test_space_markers_become_spaces(model, pre, decoder, tokens, tmp_path):
  made = load_json(foreign(model, pre=pre, decoder=decoder), tmp_path)

  # The unk token has a role, so its bytes are empty.
  unknown = made.roles.get("unk")
  assert made.tokens == tuple(
      b"" if i == unknown else token for i, token in enumerate(tokens))


def test_truncation_padding_and_templates_are_ignored(tmp_path):
  saved = build("bpe", size=300)._tokenizer
  plain = saved.encode(TEXT).ids
  saved.enable_truncation(3)
  saved.enable_padding(length=200)
  saved.post_processor = hf.processors.TemplateProcessing(
      single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])

  tokenizer = load_json(saved, tmp_path)

  assert saved.encode(TEXT).ids != plain  # The settings do act in the library itself.
  assert tokenizer.encode(TEXT) == tokenizer.encode_batch([TEXT])[0] == plain


def test_a_tokenizer_without_special_tokens_gets_only_a_pad_role(tmp_path):
  tokenizer = load_json(foreign(hf.models.WordLevel({"a": 0}, unk_token="a")), tmp_path)

  roles, notes = tokenizers.resolve_roles(tokenizer)

  assert roles == {"pad": 0} and "run on without marks" in notes[0]


def test_an_alphabet_contains_exactly_the_characters_of_a_text(tmp_path):
  (tmp_path / "a.txt").write_bytes("b\r\né\nb".encode())

  made = build("alphabet", path=str(tmp_path / "a.txt"))
  made.save(epath.Path(tmp_path / "tokenizer"))

  for each in (made, tokenizers.load(tmp_path / "tokenizer")):
    assert each.tokens == (b"\n", b"\r", b"b", "é".encode()) and not each.roles
    assert each.decode(each.encode("bé\r\n")) == "bé\r\n"
    with pytest.raises(errors.UserError, match="'x'"):
      each.encode_batch(["bx"])


@paths.needs(paths.TOKENIZERS)
def test_gpt2_tokenizer_files_are_read_and_round_trip(tmp_path):
  shutil.copy(paths.TOKENIZERS / "gpt2_vocab.json", tmp_path / "vocab.json")
  shutil.copy(paths.TOKENIZERS / "gpt2_merges.txt", tmp_path / "merges.txt")

  tokenizer = tokenizers.load(tmp_path)
  roles, notes = tokenizers.resolve_roles(tokenizer)

  ids = tokenizer.encode(TEXT)
  vocab = json.loads((paths.TOKENIZERS / "gpt2_vocab.json").read_text())
  assert tokenizer.size == 50257
  # The ids that OpenAI's encoder gives for "Hello world".
  assert tokenizer.encode("Hello world") == [15496, 995]
  assert tokenizer.tokens[vocab["\u0120the"]] == b" the"
  assert tokenizer.decode(ids) == TEXT
  assert b"".join(tokenizer.tokens[i] for i in ids) == TEXT.encode()
  assert set(roles.values()) == {50256} and len(notes) == 3


@paths.needs(paths.TOKENIZERS)
@pytest.mark.parametrize("name, roles", [
    ("spm_1000.model", {"pad": 2, "bos": 1, "eos": 2, "sep": 2}),
    ("t5_32000.model", {"pad": 0, "bos": 2, "eos": 1, "sep": 1})])
def test_sentencepiece_models_encode_like_their_library(name, roles, tmp_path):
  import sentencepiece
  processor = sentencepiece.SentencePieceProcessor(
      model_file=str(paths.TOKENIZERS / name))
  text = "The cat sat on the mat, and the dog too."

  tokenizer = tokenizers.load(paths.TOKENIZERS / name)

  ids = tokenizer.encode(text)
  assert ids == tokenizer.encode_batch([text])[0] == processor.encode(text)
  assert tokenizer.decode([roles["bos"], *ids, roles["eos"]]) == text
  assert b"".join(tokenizer.tokens[i] for i in ids) == b" " + text.encode()
  assert tokenizers.resolve_roles(tokenizer)[0] == roles
  with pytest.raises(errors.UserError, match="'日' .*'本'.* the first at position 5"):
    tokenizer.encode("cat 日本")

  tokenizer.save(epath.Path(tmp_path / "copy"))
  loaded = tokenizers.load(tmp_path / "copy")
  assert (loaded.tokens, loaded.roles) == (tokenizer.tokens, tokenizer.roles)
