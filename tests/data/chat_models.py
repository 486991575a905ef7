"""Chat models without weights: tokenizers, and templates in several styles."""

from __future__ import annotations

import json

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from selfimprove.data.hf_vocabulary import HuggingFaceVocabulary

CHATML = """\
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a test.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user'
        or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n'
            + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- generation %}{{- message.content }}{%- endgeneration %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
  {%- if strftime_now is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
  {%- else %}
    {%- set date_string = '1 Jan 2020' %}
  {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
  {%- set told = messages[0]['content']|trim %}
  {%- set messages = messages[1:] %}
{%- else %}
  {%- set told = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' }}
{{- date_string + '\\n\\n' + told + '<|eot_id|>' }}
{%- for message in messages %}
  {%- if message.role == 'ignored' %}{%- continue %}{%- endif %}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'
      + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = (
  '{{ bos_token }}'
  "{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('A system role is not supported') }}{% endif %}"
  '{% for message in messages %}'
  "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('Roles must alternate') }}{% endif %}"
  "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
  "{% else %}{% set role = message['role'] %}{% endif %}"
  "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim"
  " + '<end_of_turn>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)

# As some models of reasoning do: earlier thoughts are not shown again.
THINKING = """\
{%- set last = namespace(index=0) %}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {%- set last.index = loop.index0 %}
  {%- endif %}
{%- endfor %}
{%- for message in messages %}
  {%- set content = message.content %}
  {%- if '</think>' in content and loop.index0 < last.index %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
  {%- endif %}
  {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""

# No token tells where the assistant's turn ends.
OPEN = """\
{% for m in messages %}{{ m.role }}: {{ m.content }}
{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"""

FAILING = "{{ raise_exception('this model does not talk') }}"

STYLES = {'chatml': CHATML, 'llama': LLAMA, 'gemma': GEMMA}

SPECIAL = [
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<|begin_of_text|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<bos>',
  '<start_of_turn>',
  '<end_of_turn>',
]
ENDS = {'chatml': 2, 'llama': 6, 'gemma': 9}
BEGINS = {'chatml': None, 'llama': '<|begin_of_text|>', 'gemma': '<bos>'}

TEXTS = (
  'system user assistant model\n\n\nWhat is 2 + 3?\nIt is 5.\n\n',
  'There may be an error. Correct it, and write the solution again.\n\n \n',
  '\\boxed{\\frac{1}{2}} <think>\nno\n</think>\n\nyes 0123456789',
)


# What merges do not cross in the tokenizers of Llama 3 and Qwen.
_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
  r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+'
)


def tokenizer():
  """Bytes, with merges that cross whitespace wherever they can."""
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_WORDS), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=420,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=SPECIAL,
    show_progress=False,
  )
  made.train_from_iterator(TEXTS * 4, trainer)
  return made


def write(folder, style='chatml', template=None, *, ends=None):
  """Writes what a checkpoint says about its text."""
  tokenizer().save(str(folder / 'tokenizer.json'))
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    # As a token with its options is written.
    'eos_token': {
      '__type': 'AddedToken',
      'content': SPECIAL[ENDS[style]],
      'lstrip': False,
      'normalized': False,
      'rstrip': False,
      'single_word': False,
      'special': True,
    },
    'pad_token': '<|endoftext|>',
  }
  if BEGINS[style] is not None:
    config['bos_token'] = BEGINS[style]
  if template is None:
    template = STYLES[style]
  if template:
    config['chat_template'] = template
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  (folder / 'generation_config.json').write_text(
    json.dumps({'eos_token_id': ends or [0, ENDS[style]]})
  )
  return folder


def vocabulary(folder):
  """The vocabulary of such a checkpoint."""
  return HuggingFaceVocabulary(folder)
