"""Tests that special and added tokens are those that a folder's files name."""

import io
import json

from etils import epath
import pytest
import sentencepiece
import tokenizers as hf
import transformers

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import encoding
from transfer_gen.data import tokenizers
from transfer_gen.export import hugging_face_tokenizer
from transfer_gen.transfer import vocabulary

TEXT = ["the quick brown fox jumps over the lazy dog", "hello world, hello dog!",
        "once upon a time there was a little girl", "she sells sea shells"] * 4


def byte_level(*special):
  made = hf.Tokenizer(hf.models.BPE())
  made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = hf.decoders.ByteLevel()
  made.train_from_iterator(TEXT, hf.trainers.BpeTrainer(
      vocab_size=300, show_progress=False, special_tokens=list(special),
      initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet()))
  return made


def write(folder, tokenizer=None, **files):
  """Writes a folder; names of files are given without `.json`."""
  folder.mkdir(parents=True, exist_ok=True)
  if tokenizer is not None:
    tokenizer.save(str(folder / "tokenizer.json"))
  for name, fields in files.items():
    (folder / f"{name}.json").write_text(json.dumps(fields))
  return folder


def write_pieces(folder, name="tokenizer.model", size=60, kind="unigram"):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXT), model_writer=model, vocab_size=size,
      model_type=kind, hard_vocab_limit=False, minloglevel=2)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / name).write_bytes(model.getvalue())
  return sentencepiece.SentencePieceProcessor(
      model_proto=model.getvalue()).get_piece_size()


def saved(tokenizer, folder):
  """Returns a tokenizer after it was saved and loaded."""
  tokenizer.save(epath.Path(folder))
  return tokenizers.load(folder)


def names(**tokens):
  return {f"{role}_token": name for role, name in tokens.items()}


@pytest.mark.parametrize("files, message", [
    (dict(tokenizer_config={"added_tokens_decoder": {"5": "<x>"}}),
     "added_tokens_decoder: at '5' stands '<x>', must be an object"),
    (dict(tokenizer_config={"added_tokens_decoder": {"5": {"lstrip": False}}}),
     "must be an object such as"),
    (dict(tokenizer_config={"added_tokens_decoder": [{"content": "<x>"}]}),
     "added_tokens_decoder: at 'all' stands"),
    (dict(tokenizer_config={"added_tokens_decoder": {
        "300": {"content": "<x>"}, "0300": {"content": "<y>"}}}),
     "'<x>' and '<y>' both have the id 300"),
    (dict(tokenizer_config={"added_tokens_decoder": {
        "300": {"content": "<x>"}, "301": {"content": "<x>"}}}),
     "'<x>' has the ids 300 and 301"),
    (dict(added_tokens={"<x>": 300, "<y>": 300}), "both have the id 300"),
    (dict(added_tokens={"<x>": [300]}), "the id of an added token is"),
])
def test_added_tokens_that_are_unclear_are_refused(tmp_path, files, message):
  write(tmp_path, byte_level(), **files)

  with pytest.raises(errors.UserError, match=message):
    tokenizers.load(tmp_path)


def test_of_two_lists_of_added_tokens_transformers_and_we_read_the_same(tmp_path):
  made = byte_level()
  size = made.get_vocab_size()
  write(tmp_path, made, added_tokens={"<y>": size}, tokenizer_config={
      "tokenizer_class": "PreTrainedTokenizerFast",
      "added_tokens_decoder": {str(size): {"content": "<x>", "special": True}}})

  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)

  assert tokenizers.load(tmp_path).special.get("<x>") == size
  assert theirs.convert_tokens_to_ids("<x>") == size
  assert theirs.convert_tokens_to_ids("<y>") is None


@pytest.mark.parametrize("said, name", [
    ("XLMRobertaTokenizer", "sentencepiece.bpe.model"),
    (None, "sentencepiece.bpe.model"), ("PegasusTokenizer", "spiece.model")])
def test_pieces_that_a_class_counts_otherwise_are_refused(tmp_path, said, name):
  write_pieces(tmp_path, name)
  write(tmp_path, tokenizer_config={"tokenizer_class": said} if said else {})

  with pytest.raises(errors.UserError, match="other ids than the pieces"):
    tokenizers.load(tmp_path)


OWN = dict(bos="<BOS>", eos="<EOS>", pad="<PAD>")


@pytest.mark.parametrize("files", [
    dict(tokenizer_config=names(**OWN)),
    dict(special_tokens_map={
        name: {"content": token, "lstrip": False} for name, token in names(
            **OWN).items()}),
    dict(config={"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 0}),
], ids=["config", "map", "ids"])
def test_roles_are_those_that_the_folder_names(tmp_path, files):
  write(tmp_path / "a", byte_level("<PAD>", "<BOS>", "<EOS>"), **files)

  made = tokenizers.load(tmp_path / "a")

  assert made.roles == {"pad": 0, "bos": 1, "eos": 2}
  assert saved(made, tmp_path / "b").roles == made.roles
  assert made.decode([1, *made.encode("hello dog"), 2]) == "hello dog"


def test_named_roles_win_over_usual_names(tmp_path):
  chat = byte_level("<|endoftext|>", "<s>", "<|im_end|>")
  write(tmp_path, chat, tokenizer_config={
      "eos_token": "<|im_end|>", "bos_token": None, "unk_token": "<|im_end|>"})

  # There is no bos although "<s>" exists, and unk would be another name for eos.
  assert tokenizers.load(tmp_path).roles == {"eos": 2}


def test_ids_of_ordinary_tokens_are_no_roles(tmp_path):
  # What a config has by default says nothing of a tokenizer.
  write(tmp_path, byte_level("<|endoftext|>"),
        config={"bos_token_id": 1, "eos_token_id": 2})

  made = tokenizers.load(tmp_path)

  assert made.roles == {"eos": 0}
  assert made.tokens[1] != b"" != made.tokens[2]


def test_marks_of_a_chat_match_by_their_spelling(tmp_path):
  old = byte_level("<|endoftext|>")
  old.add_special_tokens(["<|im_start|>", "<|im_end|>"])
  write(tmp_path / "old", old)
  old.add_special_tokens(["<|tool|>"])
  write(tmp_path / "new", old, tokenizer_config=names(eos="<|im_end|>"))
  source, target = (tokenizers.load(tmp_path / name) for name in ("old", "new"))

  index = vocabulary.match(*(vocabulary.Vocabulary(
      tokens=one.tokens, roles=one.roles, special=one.special)
                             for one in (source, target)))

  marks = [source.special[name] for name in ("<|im_start|>", "<|im_end|>")]
  # eos of both is another token: there the role decides.
  assert [index[i] for i in marks] == [marks[0], source.roles["eos"]]
  assert (index < 0).sum() == 1 and index[target.special["<|tool|>"]] == -1


def test_tokens_that_were_added_to_sentencepiece_are_read(tmp_path):
  size = write_pieces(tmp_path / "a")
  added = {"[PAD]": size, "<|user|>": size + 1, "verylongword": size + 2}
  write(tmp_path / "a", added_tokens=added, special_tokens_map={
      **names(bos="<s>", eos="</s>", unk="<unk>", pad="[PAD]"),
      "additional_special_tokens": ["<|user|>"]})

  made = tokenizers.load(tmp_path / "a")

  for one in (made, saved(made, tmp_path / "b")):
    assert one.size == size + 3 and one.roles["pad"] == size
    assert one.tokens[size:] == (b"", b"", b"verylongword")
    assert one.special["<|user|>"] == size + 1
    assert one.encode_marked(["<|user|> hello"])[0] == [
        size + 1, *one.encode(" hello")]
    # A text does not speak for the user, and an ordinary token is found in it.
    assert size + 1 not in one.encode_batch(["<|user|> hello"])[0]
    ids = one.encode("hello verylongword dog")
    assert ids.count(size + 2) == 1 and ids == one.encode_batch(
        ["hello verylongword dog"])[0]
    assert one.decode(ids) == "hello verylongword dog"


@pytest.mark.parametrize("model, kind, pieces", [
    (config.Decoder(), "llama", "bpe"), (config.EncoderDecoder(), "t5", "unigram"),
    (config.Decoder(), "llama", "unigram")])
def test_transformers_reads_what_was_added_or_we_say_that_it_cannot(
    tmp_path, model, kind, pieces):
  size = write_pieces(tmp_path / "a", kind=pieces)
  write(tmp_path / "a", added_tokens={"[PAD]": size, "<|user|>": size + 1},
        special_tokens_map={**names(bos="<s>", eos="</s>", unk="<unk>", pad="[PAD]"),
                            "additional_special_tokens": ["<|user|>"]})
  made = tokenizers.load(tmp_path / "a")
  write(tmp_path / "b", config={"model_type": kind})

  said = hugging_face_tokenizer.write(epath.Path(tmp_path / "b"), model, made)

  if (kind, pieces) == ("llama", "unigram"):
    assert "[PAD], <|user|> are not in what was written" in said[0]
    return
  assert said == ()
  peer = transformers.AutoTokenizer.from_pretrained(tmp_path / "b")
  assert (len(peer), peer.pad_token_id, peer.eos_token_id) == (
      made.size, size, made.roles["eos"])
  assert peer.encode("<|user|> hello dog", add_special_tokens=False) == (
      made.encode_marked(["<|user|> hello dog"])[0])


def test_of_several_sentencepiece_models_the_usual_name_is_taken_or_all_are_named(
    tmp_path):
  size = write_pieces(tmp_path)
  (tmp_path / "language.model").write_bytes(b"no tokenizer")

  assert tokenizers.load(tmp_path).size == size

  (tmp_path / "tokenizer.model").rename(tmp_path / "one.model")
  with pytest.raises(errors.UserError, match=(
      "or several: .*Several are language.model, one.model")):
    tokenizers.load(tmp_path)


@pytest.mark.parametrize("beside, count", [
    ({"tokenizer_config": {"tokenizer_class": "T5Tokenizer", "extra_ids": 7}}, 7),
    ({"tokenizer_config": {"tokenizer_class": "T5TokenizerFast",
                           "additional_special_tokens": None}}, 100),
    ({"config": {"model_type": "t5"}}, 100),
    ({"tokenizer_config": {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}}, 0)])
def test_extra_ids_of_t5_that_are_only_counted_are_those_of_transformers(
    tmp_path, beside, count):
  size = write_pieces(tmp_path, "spiece.model")
  write(tmp_path, **beside)

  made = tokenizers.load(tmp_path)

  peer = transformers.T5Tokenizer.from_pretrained(tmp_path)
  extra = [f"<extra_id_{i}>" for i in range(count)]
  assert made.size == size + count
  assert [made.special[name] for name in extra] == [
      peer.convert_tokens_to_ids(name) for name in extra]


def test_extra_ids_of_t5_are_those_of_transformers(tmp_path):
  size = write_pieces(tmp_path, "spiece.model")
  extra = [f"<extra_id_{i}>" for i in range(7)]
  write(tmp_path, special_tokens_map={
      **names(eos="</s>", unk="<unk>", pad="<pad>"),
      "additional_special_tokens": extra})
  made = tokenizers.load(tmp_path)
  write(tmp_path, tokenizer_config={"tokenizer_class": "T5Tokenizer", "extra_ids": 7})

  peer = transformers.T5Tokenizer.from_pretrained(tmp_path)

  assert [made.special[name] for name in extra] == [
      peer.convert_tokens_to_ids(name) for name in extra]
  assert made.size == size + 7


def test_tokens_beside_a_vocabulary_of_gpt2_are_read(tmp_path):
  model = json.loads(byte_level("<|endoftext|>").to_str())["model"]
  write(tmp_path, vocab=model["vocab"], added_tokens={
      "<|pad|>": 300, "verylongword": 301})
  (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(
      " ".join(pair) for pair in model["merges"]))

  made = tokenizers.load(tmp_path)

  assert made.size == 302 and made.tokens[301] == b"verylongword"
  assert 301 in made.encode("a verylongword")


def test_an_id_with_a_gap_before_it_is_refused(tmp_path):
  write(tmp_path, byte_level("<|endoftext|>"), added_tokens={"<|x|>": 777})
  with pytest.raises(errors.UserError, match="'<|x|>' has the id 777"):
    tokenizers.load(tmp_path)


@pytest.mark.parametrize("lower", [True, False])
def test_pieces_of_words_are_read_as_transformers_does(tmp_path, lower):
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es", "jump",
           "##s", ",", "Fox", "é"]
  (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
  write(tmp_path, tokenizer_config={
      "tokenizer_class": "BertTokenizer", "do_lower_case": lower})
  peer = transformers.BertTokenizer.from_pretrained(tmp_path)

  made = tokenizers.load(tmp_path)

  assert made.size == len(words)
  assert made.roles == {"pad": 0, "unk": 1, "bos": 2, "eos": 3, "sep": 3}
  for text in ("the foxes jumps, Fox", "THE fox é"):
    assert made.encode_batch([text])[0] == peer.encode(text, add_special_tokens=False)


def test_prompts_of_converted_checkpoints_may_spell_special_tokens(tmp_path):
  size = write_pieces(tmp_path)
  write(tmp_path, added_tokens={"<|user|>": size}, special_tokens_map={
      "additional_special_tokens": ["<|user|>"]})
  made, data = tokenizers.load(tmp_path), config.Data()

  marked = encoding.Encoding(data, made, marked=True)
  text = encoding.Encoding(data, made)

  assert marked.prompts(["<|user|> hello"]) == [
      [made.roles["bos"], size, *made.encode("hello")]]
  with pytest.raises(errors.UserError, match="outside the tokenizer's vocabulary"):
    marked.prompts(["<|user|> <|x|>"])
  assert size not in text.prompts(["<|user|> hello"], strict=False)[0]


def test_added_tokens_without_a_row_can_be_left_out(tmp_path):
  size = write_pieces(tmp_path / "a")
  write(tmp_path / "a", added_tokens={"<|x|>": size, "<|y|>": size + 1})
  made = byte_level("<|endoftext|>")
  made.add_special_tokens(["<|x|>", "<|y|>"])
  write(tmp_path / "b", made)

  for name, rows in (("a", size + 1), ("b", 301)):
    assert tokenizers.load(tmp_path / name, rows=rows).size == rows
    assert tokenizers.load(tmp_path / name).size == rows + 1


def test_rows_without_a_token_have_no_text(tmp_path):
  write_pieces(tmp_path)
  for made in (tokenizers.load(tmp_path), *(
      tokenizers.build(config.Tokenizer(kind=kind), ["hello dog"])
      for kind in ("bytes", "characters"))):
    ids = made.encode("hello")
    assert made.decode([*ids, made.size, made.size + 90, *ids]).replace(" ", "") == (
        "hellohello")


def test_ids_of_the_vocabulary_win_over_those_beside_it(tmp_path):
  made = byte_level("<|endoftext|>")
  write(tmp_path, made, added_tokens={"<|endoftext|>": 5, "the": 7, "<|x|>": 300})

  found = tokenizers.load(tmp_path)

  assert found.special == {"<|endoftext|>": 0} and found.size == 301
  assert found.tokens[300] == b"<|x|>"
  assert found.encode("the")[0] == made.token_to_id("the")
