"""Tests of chat templates: rows and prompts equal those of Transformers."""

import json

from etils import epath
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import tokenizers as hf
import transformers

from transfer_gen import config
from transfer_gen import errors
from transfer_gen.data import chat
from transfer_gen.data import document
from transfer_gen.data import encoding
from transfer_gen.data import pipeline
from transfer_gen.data import tokenizers

# Five kinds of templates that published models have, each with its special tokens.
CHATML = (
    "{%- for m in messages %}\n"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n")
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|head|>' + m.role + '<|end_head|>\\n\\n' }}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|head|>assistant<|end_head|>\\n\\n' }}"
    "{% endif %}")
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}")
THOUGHTS = (
    "{%- set date = strftime_now('%Y') -%}{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}<|user|>\n{{ m.content }}<|end|>\n"
    "{%- else -%}<|assistant|>\n<think>\n\n</think>\n\n{{ m.content }}<|end|>\n"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}<|assistant|>\n"
    "{%- endif -%}")
PLAIN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}")
TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "brackets": BRACKETS,
             "thoughts": THOUGHTS, "plain": PLAIN}
ENDS = {"chatml": "<|im_end|>", "headers": "<|eot|>", "brackets": "</s>",
        "thoughts": "<|end|>", "plain": "</s>"}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|head|>", "<|end_head|>",
           "<|eot|>", "<|user|>", "<|assistant|>"]
CORPUS = ["user assistant system", "[INST] what is it? [/INST] it is a cat",
          "The cat sat on the mat.\n\nIt slept.", "ünïcödé 日本 🙂"] * 5
PAIRS = [("What is it?", "It is a cat."), ("  spaces", "line\nbreak"), ("a", "b")]


def _tokenizer(metaspace, corpus=()):
  """Returns a tokenizer of the library: byte-level, or with spaces in its pieces."""
  made = hf.Tokenizer(hf.models.BPE(unk_token="<unk>" if metaspace else None))
  special = [*(["<unk>"] if metaspace else []), *SPECIAL]
  if metaspace:
    made.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme=metaspace)
    made.decoder = hf.decoders.Metaspace(prepend_scheme=metaspace)
    alphabet = sorted(set("".join(CORPUS)) | set(map(chr, range(33, 127))) | {"\n"})
  else:
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
  made.train_from_iterator([*CORPUS, *corpus], hf.trainers.BpeTrainer(
      vocab_size=600, special_tokens=special, initial_alphabet=alphabet,
      show_progress=False))
  # Like that of Phi-3, it takes the white space behind it.
  made.add_special_tokens([hf.AddedToken("<|end|>", special=True, rstrip=True)])
  made.add_tokens(["<think>", "</think>"])
  return made


def _write(folder, name, metaspace=None, template=None, corpus=()):
  """Writes a tokenizer with a template as Transformers does."""
  peer = transformers.PreTrainedTokenizerFast(
      tokenizer_object=_tokenizer(metaspace, corpus), bos_token="<s>",
      eos_token="</s>")
  peer.chat_template = template or TEMPLATES[name]
  peer.save_pretrained(folder)
  return peer


@pytest.fixture(scope="module", params=[None, "always", "first"], ids=str)
def _folders(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp("chat")
  return {name: (folder / name, _write(folder / name, name, request.param))
          for name in TEMPLATES}


def _theirs(peer, *contents):
  messages = [{"role": ("user", "assistant")[i], "content": content}
              for i, content in enumerate(contents)]
  return peer.apply_chat_template(
      messages, tokenize=True, add_generation_prompt=len(contents) == 1,
      return_dict=False)


def _encoding(folder, **fields):
  return encoding.Encoding(
      config.Data(name="files", train="x.tsv", input_field="a", target_field="b",
                  template="chat", **fields), tokenizers.load(folder))


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompts_and_answers_have_the_tokens_of_transformers(_folders, name):
  folder, peer = _folders[name]
  ours = _encoding(folder)

  prompts, answers, cut = ours.pairs(*zip(*PAIRS))

  end = ours.tokenizer.special[ENDS[name]]
  assert cut == 0
  assert set(ours.end_tokens()) == {ours.tokenizer.special["</s>"], end}
  for pair, prompt, answer in zip(PAIRS, prompts, answers):
    assert prompt.tolist() == _theirs(peer, pair[0])
    row, theirs = [*prompt, *answer], _theirs(peer, *pair)
    assert row[-1] == end and list(answer).count(end) == 1
    # Theirs goes on behind the end of the answer, to where a user would speak again.
    assert theirs[:len(row)] == row if name != "plain" else theirs == row[:-1] + theirs[
        len(row) - 1:]
  assert ours.prompts([text for text, _ in PAIRS]) == [ids.tolist() for ids in prompts]


@hypothesis.given(st.lists(st.tuples(
    st.text("ab ct.\n", min_size=1), st.text("ab ct.\n", min_size=1)),
    min_size=1, max_size=4))
@hypothesis.settings(max_examples=40, deadline=None)
def test_any_texts_begin_as_their_prompts_do(_headers, pairs):
  folder, peer = _headers
  ours = _encoding(folder)

  prompts, answers, _ = ours.pairs(*zip(*pairs))

  for (text, answer), prompt, ids in zip(pairs, prompts, answers):
    assert prompt.tolist() == _theirs(peer, text)
    assert ours.tokenizer.decode(ids) == answer


@pytest.fixture(scope="module")
def _headers(tmp_path_factory):
  folder = tmp_path_factory.mktemp("headers")
  return folder, _write(folder, "headers")


def test_a_saved_tokenizer_keeps_its_template_for_us_and_for_transformers(_headers,
                                                                          tmp_path):
  folder, _ = _headers
  tokenizers.load(folder).save(epath.Path(tmp_path / "saved"))

  loaded = _encoding(tmp_path / "saved")
  again = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path / "saved")

  assert loaded.prompts(["hello"]) == _encoding(folder).prompts(["hello"])
  assert _theirs(again, "hello") == loaded.prompts(["hello"])[0]


@pytest.mark.parametrize("where", ["config", "named", "old"])
def test_templates_are_found_where_older_versions_wrote_them(_headers, tmp_path, where):
  folder, _ = _headers
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  fields = json.loads((tmp_path / "tokenizer_config.json").read_text())
  fields["bos_token"] = {"content": "<s>", "lstrip": False}
  if where == "old":
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": HEADERS}))
  else:
    fields["chat_template"] = HEADERS if where == "config" else [
        {"name": "tool_use", "template": "x"}, {"name": "default", "template": HEADERS}]
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))

  assert _encoding(tmp_path).prompts(["a"]) == _encoding(folder).prompts(["a"])


def test_special_tokens_that_a_text_spells_stay_text(_headers):
  ours = _encoding(_headers[0])

  [prompt], [answer], _ = ours.pairs(["<|eot|><s>"], ["</s> <|head|>"])

  special = set(ours.tokenizer.special.values())
  assert [i for i in prompt if i in special] == [
      ours.tokenizer.special[name] for name in (
          "<s>", "<|head|>", "<|end_head|>", "<|eot|>", "<|head|>", "<|end_head|>")]
  assert [i for i in answer if i in special] == [ours.tokenizer.special["<|eot|>"]]


def test_an_answer_never_shares_a_token_with_its_prompt(tmp_path):
  # "assistant:" stands before the answer, and "::" is a token.
  peer = _write(tmp_path, "plain", template=PLAIN.replace("': '", "':'"),
                corpus=["a::b"] * 9)
  ours = _encoding(tmp_path)

  [prompt], [answer], _ = ours.pairs(["a"], [": b"])

  assert _theirs(peer, "a", ": b")[:len(prompt)] != prompt.tolist()
  assert prompt.tolist() == _theirs(peer, "a")
  assert answer.tolist() == [
      *ours.tokenizer.encode(": b\n"), ours.tokenizer.special["</s>"]]


def test_special_tokens_before_an_answer_do_not_end_it(tmp_path):
  template = HEADERS.replace("{% generation %}", "{{ '<|im_start|>' }}").replace(
      "{% endgeneration %}", "{{ '<|im_end|>' }}")
  peer = _write(tmp_path, "headers", template=template)
  ours = _encoding(tmp_path)

  [prompt], [answer], _ = ours.pairs(["a"], ["It is."])

  assert [*prompt, *answer] == _theirs(peer, "a", "It is.")[:-1]
  special = ours.tokenizer.special
  assert answer[0] == special["<|im_start|>"] and answer[-1] == special["<|im_end|>"]


def test_a_model_with_an_encoder_reads_prompts_without_the_template(_headers):
  tokenizer = tokenizers.load(_headers[0])
  model = config.EncoderDecoder(vocab_size=tokenizer.size)
  ours = encoding.Encoding(_encoding(_headers[0]).config, tokenizer, model)

  [read], [answer], _ = ours.pairs(["What?"], ["It is."])

  assert read.tolist() == tokenizer.encode("What?")
  assert answer.tolist() == tokenizer.encode("It is.")
  assert ours.end_tokens() == (tokenizer.special["</s>"],)
  assert "without a chat template" in ours.notes()[0]


def test_rows_count_only_the_answer_and_what_ends_it(_headers):
  ours = _encoding(_headers[0], length=48)
  made = {"train": [document.Document("What?", "It is.")] * 3}

  data = pipeline.prepare(ours.config, made, ours.tokenizer, {})

  batch = next(data.evaluation_batches("train", 4))
  [prompt], [answer], _ = ours.pairs(["What?"], ["It is."])
  counted = batch["weights"][0] > 0
  assert batch["targets"][0][counted].tolist() == answer.tolist()
  assert batch["inputs"][0][:len(prompt)].tolist() == prompt.tolist()
  assert counted.argmax() == len(prompt) - 1
  assert "chat template" in data.facts["notes"][0]


def test_long_pairs_are_cut_in_their_texts_and_keep_the_template(_headers):
  ours = _encoding(_headers[0], length=40, too_long="cut")
  texts = ["ab " * 30, "short", "ab " * 30], ["cd", "ct " * 40, "ct é日 " * 40]

  prompts, answers, cut = ours.pairs(*texts)

  assert cut == 3
  for prompt, answer in zip(prompts, answers):
    assert 36 <= len(prompt) + len(answer) - 1 <= 40
    assert answer[-1] == ours.tokenizer.special["<|eot|>"]
    assert prompt[-len(_tail(ours)):].tolist() == _tail(ours)
  # A short input stays whole beside a long answer.
  assert ours.prompts(["short"])[0] == prompts[1].tolist()
  assert len(ours.prompts(["ab " * 30], longest=25)[0]) <= 25
  assert ours.prompts(["ab " * 30], longest=25)[0][-len(_tail(ours)):] == _tail(ours)


def _tail(ours):
  """Returns what stands between a message and its answer."""
  return ours.tokenizer.encode_marked(["<|eot|><|head|>assistant<|end_head|>\n\n"])[0]


def test_too_long_pairs_are_refused_with_their_number(_headers):
  ours = _encoding(_headers[0], length=20, too_long="refuse")
  with pytest.raises(errors.UserError, match="1 of 2 pairs do not fit"):
    ours.pairs(["a", "ab " * 30], ["b", "c"])


def test_without_a_template_rows_have_the_usual_marks(tmp_path):
  _tokenizer(None).save(str(tmp_path / "tokenizer.json"))
  ours = _encoding(tmp_path, length=16)

  data = pipeline.prepare(
      ours.config, {"train": [document.Document("a", "b")]}, ours.tokenizer, {})

  assert ours.prompts(["a"]) == [[0, *ours.tokenizer.encode("a"), 1]]
  assert "the tokenizer has no chat template" in data.facts["notes"][0]


@pytest.mark.parametrize("template, message", [
    ("{{ messages.pop() }}", "SecurityError"),
    ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    ("{{ 'a' * 9999999999 }}", "long text"),
    ("{{ 9 ** 9999999 }}", "SecurityError"),
    ("{% for i in range(9999) %}{{ messages[0].content }}" + "a" * 40 + "{% endfor %}",
     "more than"),
    *(("{% set n = namespace(s='aa', l=[1]) %}{% for i in range(60) %}{% set "
       f"{change} %}}{{% endfor %}}{{{{ n.s|length }}}}", "long text|too many steps")
      for change in (
          "n.s = n.s ~ n.s", "n.s = n.s + n.s", "n.s = n.s.replace('a', n.s)",
          "n.s = n.s|replace('a', n.s)", "n.s = [n.s, n.s]|join",
          "n.s = ''.join([n.s, n.s])", "n.s = n.s.join('abc')",
          "n.s = [n.s, n.s]|map('upper')|join(n.s)", "n.l = n.l + n.l",
          "x %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = x",
          "n.s = '%s%s' % (n.s, n.s)")),
    *(("{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l]"
       f" %}}{{% endfor %}}{{{{ n.l{shown} }}}}", "long text")
      for shown in ("", "|string", "|tojson", "|join", "|length")),
    *((f"{{{{ ({made})|length }}}}", "long text|undefined") for made in (
        "'%3000000000d' % 1", "'a'.ljust(3000000000)", "'a'|center(3000000000)",
        "'{:>3000000000}'.format(1)", "'%3000000000d'|format(1)", "'a'|indent(10**9)",
        "[1]|tojson(indent=10**9)", "'1'.zfill(10**9)", "[1]|batch(10**9, 0)|list",
        "[1]|slice(10**9)|list", "lipsum(n=10**9)", "10**9 * 'a'", "[1] * 10**9")),
    ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
     "too many steps"),
    ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
     "{{ f(40) }}", "too many steps"),
    ("{% set n = namespace(i=10) %}{% for i in range(60) %}{% set n.i = n.i * n.i %}"
     "{% endfor %}", "small numbers"),
    ("{% if %}", "TemplateSyntaxError"),
    ("{{ raise_exception('system first') }}", "system first"),
])
def test_templates_that_do_harm_or_fail_are_refused(template, message):
  with pytest.raises(errors.UserError, match=message):
    chat.Template(template, {}).render("a")


@pytest.mark.parametrize("template, message", [
    ("{{ messages[0].content }}{{ messages | length }}", "writes the prompt otherwise"),
    ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "as it is"),
])
def test_templates_that_do_not_fit_are_refused(_headers, tmp_path, template, message):
  for name in ("tokenizer.json", "tokenizer_config.json"):
    (tmp_path / name).write_bytes((_headers[0] / name).read_bytes())
  (tmp_path / "chat_template.jinja").write_text(template)
  with pytest.raises(errors.UserError, match=message):
    _encoding(tmp_path).pairs(["a"], ["b"])


def test_what_templates_do_with_texts_stays_possible():
  template = chat.Template(
      "{% for m in messages %}{{ '<' + m['role'] + '>' ~ m.content | trim ~ '\n' }}"
      "{% endfor %}{% set x %}{{ bos_token }}!{% endset %}{{ x }}"
      "{{ messages | map(attribute='role') | join(', ') }}"
      "{{ 'a,b'.split(',') | join('-') }}{{ 'abc'.replace('b', 'x') }}"
      "{{ '%s' | format('q') }}{{ 'a%s' % 'b' }}{{ '{}!'.format('f') }}"
      "{{ 'l\nm' | indent(2) }}"
      "{{ missing | default('d') }}{{ 7 % 4 + 2 * 3 }}"
      "{{ {'k': [1]} | tojson }}{{ messages[0].content.find('o', 0) }}",
      {"bos_token": "^"})
  long = "long text " * 30_000

  assert template.render(long).startswith(f"<user>{long.strip()}\n^!")
  assert template.render("hello") == (
      "<user>hello\n^!usera-baxcqabf!l\n  md9{\"k\": [1]}4")


def test_another_value_than_none_and_chat_is_refused(_headers):
  wrong = config.Data(name="files", train="x.tsv", template="chatml")
  with pytest.raises(errors.UserError, match="template is 'chatml', must be one of"):
    pipeline.prepare(wrong, {}, tokenizers.load(_headers[0]), {})


def test_sentencepiece_reads_the_special_tokens_of_a_template(tmp_path):
  import sentencepiece
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(CORPUS), model_prefix=str(tmp_path / "m"), vocab_size=120,
      control_symbols=["<|im_start|>", "<|im_end|>"], hard_vocab_limit=False,
      minloglevel=2)
  (tmp_path / "m.vocab").unlink()
  (tmp_path / "chat_template.jinja").write_text(CHATML)
  ours = _encoding(tmp_path)

  [prompt], [answer], _ = ours.pairs(["The cat"], ["It sat"])

  special = ours.tokenizer.special
  assert prompt[0] == special["<|im_start|>"]
  assert np.count_nonzero(prompt == special["<|im_start|>"]) == 2
  assert answer.tolist() == [*ours.tokenizer.encode("It sat"), special["<|im_end|>"]]
