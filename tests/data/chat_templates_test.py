"""Tests that templates, as published models have them, are rendered as elsewhere.

Each is written after the structure of a kind of template, with all that such templates
do: tools, dates, checks of roles, thoughts that are cut off, macros and namespaces.
"""

import datetime
import itertools

import pytest
import tokenizers as hf
import transformers

from transfer_gen import errors
from transfer_gen.data import chat

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
# Only what a template itself sets is there beside a question and its answer, so that
# these lines stand before those that have tools or a system message.
TOOLS = """{%- set tools = [{'type': 'function', 'function': {'name': 'look_up',
 'description': 'Looks <up> "it"', 'parameters': {'type': 'object', 'required':
 ['what'], 'properties': {'what': {'type': 'string', 'enum': ['a', 'ü']}, 'many':
 {'type': ['integer', 'null'], 'default': 3}}}}}] -%}"""
SYSTEM = """{%- set messages = [{'role': 'system', 'content': ' Be brief. '}] + messages
 -%}"""
PARTS = """{%- set messages = [{'role': 'user', 'content': [{'type': 'image'}, {'type':
 'text', 'text': messages[0].content}]}] + messages[1:] -%}"""
CALLS = """{%- set messages = messages + [{'role': 'assistant', 'content': none,
 'tool_calls': [{'id': 'abcdefghi', 'function': {'name': 'f', 'arguments': {'x': [1.5,
 true]}}}]}, {'role': 'tool', 'content': '42', 'tool_call_id': 'abcdefghi'}] -%}"""
KINDS = {
    "chatml": """
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nHelp.<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}{% if (loop.first and message['role'] != 'tool') or
 not loop.last %}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' +
 (message['content'] or '')}}{% if loop.last and message.role == 'assistant' %}
{{ '<|im_end|>'}}{% else %}{{ '<|im_end|>' + '\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}
{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "headers": """
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}
  {%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
  {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
  {%- set system_message = messages[0]['content']|trim %}
  {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|head|>system<|end_head|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
  {{- "Environment: ipython\\n" }}{%- endif %}
{%- if builtin_tools is defined %}
  {{- "Tools: " + builtin_tools | reject('equalto', 'code') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
  {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot|>" }}
{%- if tools_in_user_message and not tools is none %}
  {%- if messages | length != 0 %}
    {%- set first_user_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
  {%- else %}{{- raise_exception("no first user message") }}{%- endif %}
  {{- '<|head|>user<|end_head|>\\n\\n' -}}
  {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
  {{- first_user_message + "<|eot|>"}}
{%- endif %}
{%- for message in messages %}
  {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in
   message) %}
    {{- '<|head|>' + message['role'] + '<|end_head|>\\n\\n' +
     message['content'] | trim + '<|eot|>' }}
  {%- elif 'tool_calls' in message %}
    {%- if not message.tool_calls|length == 1 %}
      {{- raise_exception("one call at once") }}{%- endif %}
    {%- set call = message.tool_calls[0].function %}
    {{- '<|head|>assistant<|end_head|>\\n\\n' -}}
    {{- '{"name": "' + call.name + '", ' }}{{- '"parameters": ' }}
    {{- call.arguments | tojson }}{{- "}" }}{{- "<|eot|>" }}
  {%- elif message.role == "tool" or message.role == "ipython" %}
    {{- "<|head|>ipython<|end_head|>\\n\\n" }}
    {%- if message.content is mapping or message.content is iterable %}
      {{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
    {{- "<|eot|>" }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|head|>assistant<|end_head|>\\n\\n' }}{%- endif %}""",
    "brackets": """
{%- if messages[0]["role"] == "system" %}
  {%- set system_message = messages[0]["content"] %}
  {%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}{%- set ns.index = 0 %}
{%- for message in loop_messages %}
  {%- if not (message.role == "tool" or message.role == "tool_results" or
   (message.tool_calls is defined and message.tool_calls is not none)) %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
      {{- raise_exception("roles must alternate user/assistant/...") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
  {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
  {%- if message["role"] == "user" %}
    {%- if tools is not none and (message == user_messages[-1]) %}
      {{- "[AVAILABLE_TOOLS] [" }}
      {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- '{"type": "function", "function": {' }}
        {%- for key, val in tool.items() if key != "return" %}
          {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
          {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
          {%- if not loop.last %}{{- ", " }}{%- endif %}
        {%- endfor %}
        {{- "}}" }}
        {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
      {%- endfor %}
      {{- "[/AVAILABLE_TOOLS]" }}
    {%- endif %}
    {%- if loop.last and system_message is defined %}
      {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
    {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
  {%- elif message.tool_calls is defined and message.tool_calls is not none %}
    {{- "[TOOL_CALLS] [" }}
    {%- for tool_call in message.tool_calls %}
      {%- set out = tool_call.function|tojson %}{{- out[:-1] }}
      {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
        {{- raise_exception("ids have 9 characters") }}{%- endif %}
      {{- ', "id": "' + tool_call.id + '"}' }}
      {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
    {%- endfor %}
  {%- elif message["role"] == "assistant" %}
    {{- " " + message["content"]|trim + eos_token}}
  {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
    {%- if message.content is defined and message.content.content is defined %}
      {%- set content = message.content.content %}
    {%- else %}{%- set content = message.content %}{%- endif %}
    {{- '[TOOL_RESULTS] {"content": ' + content|string + "}[/TOOL_RESULTS]" }}
  {%- else %}{{- raise_exception("no such role") }}{%- endif %}
{%- endfor %}""",
    "turns": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
  {%- if messages[0]['content'] is string -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
  {%- else -%}
    {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\\n\\n' -%}
  {%- endif -%}
  {%- set loop_messages = messages[1:] -%}
{%- else -%}
  {%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
    {{ raise_exception("Conversation roles must alternate") }}
  {%- endif -%}
  {%- if (message['role'] == 'assistant') -%}{%- set role = "model" -%}
  {%- else -%}{%- set role = message['role'] -%}{%- endif -%}
  {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
  {%- if message['content'] is string -%}{{ message['content'] | trim }}
  {%- elif message['content'] is iterable -%}
    {%- for item in message['content'] -%}
      {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
      {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
    {%- endfor -%}
  {%- else -%}{{ raise_exception("Invalid content type") }}{%- endif -%}
  {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}""",
    "xml tools": """
{%- if tools %}
  {{- '<|im_start|>system\\n' }}
  {%- if messages[0].role == 'system' %}
    {{- messages[0].content + '\\n\\n' }}{%- endif %}
  {{- "# Tools\\n\\n<tools>" }}
  {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson(indent=2) }}{%- endfor %}
  {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
  {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
  {%- set index = (messages|length - 1) - loop.index0 %}
  {%- if ns.multi_step_tool and message.role == "user" and message.content is string and
   not(message.content.startswith('<tool_response>') and
   message.content.endswith('</tool_response>')) %}
    {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
  {%- endif %}
{%- endfor %}
{%- for message in messages %}
  {%- set content = message.content if message.content is string else '' %}
  {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
  {%- elif message.role == "assistant" %}
    {%- set reasoning_content = '' %}
    {%- if message.reasoning_content is string %}
      {%- set reasoning_content = message.reasoning_content %}
    {%- elif '</think>' in content %}
      {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split(
       '<think>')[-1].lstrip('\\n') %}
      {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
      {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip(
       '\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
    {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
    {%- if message.tool_calls %}
      {%- for tool_call in message.tool_calls %}
        {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
        {%- if tool_call.function %}
          {%- set tool_call = tool_call.function %}{%- endif %}
        {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
        {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
        {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
        {{- '}\\n</tool_call>' }}
      {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
  {%- elif message.role == "tool" %}
    {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
      {{- '<|im_start|>user' }}{%- endif %}
    {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
    {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
      {{- '<|im_end|>\\n' }}{%- endif %}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|im_start|>assistant\\n' }}
  {%- if enable_thinking is defined and enable_thinking is false %}
    {{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "thoughts": """
{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}
{%- endif %}
{%- set ns = namespace(is_first=false, is_tool=false, is_output_first=true,
 system_prompt='', is_first_sp=true) %}
{%- for message in messages %}{%- if message['role'] == 'system' %}
  {%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt +
   message['content'] %}{% set ns.is_first_sp = false %}
  {%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content']
   %}{%- endif %}{%- endif %}
{%- endfor %}
{{- bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
  {%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}
    {{- '<|User|>' + message['content'] }}
  {%- endif %}
  {%- if message['role'] == 'assistant' and 'tool_calls' in message %}
    {%- set ns.is_tool = false -%}
    {%- for tool in message['tool_calls'] %}
      {%- if not ns.is_first %}
        {{- '<|Assistant|><|calls|>' + tool['function']['name'] + '\\n```json\\n' +
         tool['function']['arguments'] | tojson + '\\n```' }}
        {%- set ns.is_first = true -%}
      {%- else %}{{- '\\n' + tool['function']['name'] }}{%- endif %}
    {%- endfor %}
  {%- elif message['role'] == 'assistant' and message['content'] is not none %}
    {%- if ns.is_tool %}{{- '<|outputs|>' + message['content'] + eos_token }}
    {%- else %}
      {%- set content = message['content'] -%}
      {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1] -%}
      {%- endif %}
      {{- '<|Assistant|>' + content + eos_token }}
    {%- endif %}
  {%- endif %}
  {%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}
    {{- '<|output|>' + message['content'] }}{%- set ns.is_output_first = false %}
  {%- endif %}
{%- endfor -%}
{% if ns.is_tool %}{{ '<|outputs end|>' }}{% endif %}
{%- if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|><think>\\n' }}
{%- endif %}""",
    "marks": """{% for message in messages %}{% if message['role'] == 'system' and
 message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'user' %}
{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}
{% elif message['role'] == 'assistant' %}
{{'<|assistant|>\\n' + (message['content'] or '-') + '<|end|>\\n'}}{% endif %}
{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}
{{ eos_token }}{% endif %}""",
    "macros": """
{%- macro type_of(spec, nullable=false) -%}
  {%- if spec.type is string -%}{{ spec.type | upper }}
  {%- elif spec.type is sequence -%}{{ spec.type | join(' | ') }}
  {%- else -%}any{%- endif -%}
  {%- if nullable %} | null{% endif -%}
{%- endmacro -%}
{%- macro shown(tool, level=1) -%}
  {{- "// " ~ tool.description ~ "\\n" ~ ' ' * (2 * level) ~ "type " ~ tool.name
   ~ " = (_: {\\n" }}
  {%- for name, spec in tool.parameters.properties | items %}
    {%- set last = loop.last %}
    {{- '  ' * level + name }}{{ '?' if name not in tool.parameters.required }}
    {{- ": " + type_of(spec, nullable=loop.last) }}
    {%- if spec.default is defined %} // default: {{ spec.default|tojson }}{% endif %}
    {%- if spec.enum %} // {{ spec.enum | map('tojson') | join(', ') }}{% endif %}
    {{- ",\\n" if not last else "\\n" }}
  {%- endfor %}
  {{- "}) => any;" }}
{%- endmacro -%}
{%- macro boxed(title) -%}[{{ title | title }}: {{ caller() | trim }}]{%- endmacro -%}
{{- "Date: " + strftime_now("%Y-%m-%d") + "\\n" }}
{%- call boxed('tool list') %} {{ tools | length if tools else 'none' }} {% endcall %}
{%- for tool in tools or [] %}{{ shown(tool.function) }}{% endfor %}
{%- for group in messages | groupby('role') %}
  {{ group.grouper }}={{ group.list|length }};{%- endfor %}
{%- set text %}{% filter lower %}ROLES{% endfilter %}: {{ messages |
 map(attribute='role') | unique | sort | join('/') }}{% endset %}
{{- text | replace('/', ' and ') }}
{%- for message in messages if message.content is string and message.content %}
  {%- if loop.index > 9 %}{% break %}{% endif %}
  {{- loop.cycle('+', '-') }}{{ '%02d' % loop.index }} {{ '{}>'.format(message.role
   .capitalize()) }}
  {%- if message.role == 'system' %}{% continue %}{% endif %}
  {{- message.content.strip().replace('\\r\\n', '\\n').split('\\n') | join('\\n> ') }}
  {{- '\\n' ~ '=' * 12 ~ loop.revindex ~ '\\n' }}
{%- else %}nothing{% endfor %}
{%- set pairs = dict(a=1, b=messages[0].role) %}
{%- for key, value in pairs | dictsort %}{{ key }}:{{ value }} {% endfor %}
{{- messages | rejectattr('role', 'in', ['system']) | map(attribute='role') | list
 | first | default('-') }}
{{- [0] * 3 }}{{ [1, 2, 3] | sum }}{{ 7 // 2 }}{{ 2 ** 5 }}{{ 'abc'[::-1] }}
{{- (messages[0].content or 'x') | string | truncate(2000) | indent(2) }}
{{- messages[-1].get('name', 'nobody') | e }}
{%- if add_generation_prompt %}assistant:{% endif %}""",
}
CASES = [(name, before) for name in KINDS for before in (
    "", SYSTEM, TOOLS, CALLS, PARTS, SYSTEM + TOOLS, TOOLS + CALLS)
    # Those of the real kinds refuse or fail on these as well.
    if not (before == PARTS and name not in ("turns", "macros"))
    and not (before.endswith(CALLS) and name == "turns")]
TALKS = [("What <is> it?",), ("a\r\nb ", "<think>\nHm.\n</think>\n\nIt is ü & more. ")]


@pytest.fixture(name="peer", scope="module")
def _peer():
  made = transformers.PreTrainedTokenizerFast(
      tokenizer_object=hf.Tokenizer(hf.models.BPE()), **TOKENS)

  def render(template, contents):
    return made.apply_chat_template(
        [{"role": role, "content": content} for role, content in zip(
            itertools.cycle(("user", "assistant")), contents)],
        chat_template=template, tokenize=False,
        add_generation_prompt=len(contents) % 2 == 1)
  return render


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_template_gives_the_text_of_transformers(peer, name):
  for _, before in (case for case in CASES if case[0] == name):
    template = before + KINDS[name]
    for contents in (*TALKS, ("long text\n" * 30_000,)):
      theirs = peer(template, contents)
      # Ours prints the same day always.
      for form, day in (("%d %b %Y", "26 Jul 2024"), ("%Y-%m-%d", "2024-07-26")):
        theirs = theirs.replace(datetime.datetime.now().strftime(form), day)

      assert chat.Template(template, TOKENS).render(*contents) == theirs, before
      # Some templates write other ends of lines.
      assert contents[0].split()[0] in theirs


@pytest.mark.parametrize("name", ["brackets", "turns"])
def test_checks_of_roles_are_refused_with_what_the_template_says(name):
  twice = "{%- set messages = messages + messages -%}"
  with pytest.raises(errors.UserError, match="must alternate"):
    chat.Template(twice + KINDS[name], TOKENS).render("a")
