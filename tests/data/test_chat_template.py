from __future__ import annotations

import dataclasses
import json
import time

import pytest

from selfimprove.data import chat_template
from selfimprove.data.chat_template import ChatTemplate, ChatTemplateError
from tests.data import chat_models

CONTENTS = (
  'What is 1 < 2 & "3"?',
  '  spaces, tabs\tand\nlines  \n\n',
  'Grüße, 你好, \U0001f469\u200d\U0001f680 <b>bold</b>',
  '{{ 1 + 1 }} {% if %} {# not a template #} \\n',
  'a special <|im_end|> token',
  '',
)


def conversations(*, system=False):
  asked = [[{'role': 'user', 'content': text}] for text in CONTENTS]
  longer = [
    [
      *one,
      {'role': 'assistant', 'content': text},
      {'role': 'user', 'content': 'Sure?'},
    ]
    for one, text in zip(asked, reversed(CONTENTS))
  ]
  found = [*asked, *longer, longer[1][:2]]
  if not system:
    return found
  return [
    [{'role': 'system', 'content': ' Be brief.\n'}, *one] for one in found
  ]


@pytest.fixture
def theirs():
  return pytest.importorskip('transformers').AutoTokenizer.from_pretrained


@pytest.mark.parametrize('style', chat_models.STYLES)
def test_texts_and_ids_are_those_of_the_reference_library(
  tmp_path, theirs, style
):
  chat_models.write(tmp_path, style)
  reference = theirs(tmp_path)
  ours = chat_template.find(tmp_path)
  vocabulary = chat_models.vocabulary(tmp_path)
  given = conversations(system=style != 'gemma')
  for add in (False, True):
    texts = ours.render(given, add_generation_prompt=add)
    for messages, text in zip(given, texts, strict=True):
      how = {'conversation': messages, 'add_generation_prompt': add}
      assert text == reference.apply_chat_template(**how, tokenize=False)
      ids = reference.apply_chat_template(**how, tokenize=True)['input_ids']
      assert list(vocabulary.encode(text)) == ids


# What templates are allowed to use, each beside what it writes.
ALLOWED = (
  '{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}',
  '{{ messages | tojson }}',
  '{{ messages | tojson(indent=2) }} {{ [1, "é"] | tojson }}',
  '{% for m in messages %}\n  {% if loop.first %}{% continue %}{% endif %}\n'
  'a {{ m.role }}\n{% break %}\n{% endfor %}\n',
  '{% for m in messages %}{% set x = 1 %}{% generation %}\n{% set x = 2 %}'
  '{{ m.content }}{{ loop.index }}\n{% endgeneration %}{{ x }}{% endfor %}',
  '  {% if messages %}\n    indented\n  {% endif %}\nend\n',
  '{{ tools is none }} {{ documents is none }} {{ custom_tools is defined }}',
  '{{ strftime_now("%Y-%m-%d") }}',
  '{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(messages[0].content) }}',
  '{% set ns = namespace(a=1) %}{% for m in messages %}'
  '{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }} {{ dict(a=1) }}',
  '{{ thinking }}{{ missing }}{{ messages[9] }}',
  '{{ "\\n\\u00e9\\N{BULLET}" }}{{ messages[0].content.split(" ")[-1] }}',
)


def test_whatever_a_template_uses_it_means_what_it_means_there(
  tmp_path, theirs
):
  chat_models.write(tmp_path, 'llama')
  reference, ours = theirs(tmp_path), chat_template.find(tmp_path)
  variables = {**ours.variables, 'thinking': True}
  messages = conversations()[len(CONTENTS)]
  for source in ALLOWED:
    here = dataclasses.replace(ours, source=source, variables=variables)
    (text,) = here.render([messages])
    assert text == reference.apply_chat_template(
      messages,
      chat_template=source,
      tokenize=False,
      add_generation_prompt=True,
      thinking=True,
    ), source


def template(source, **kwargs):
  return ChatTemplate(source=source, path='its.jinja', **kwargs)


ASKED = [{'role': 'user', 'content': 'x'}]

# What a template does not get away with, and the word that says so.
FORBIDDEN = (
  (chat_models.FAILING, 'this model does not talk'),
  ("{{ ''.__class__.__mro__[1].__subclasses__() }}", 'SecurityError'),
  ('{{ raise_exception.__globals__["sys"] }}', 'SecurityError'),
  ('{{ cycler.__init__.__globals__.os.popen("true").read() }}', 'Security'),
  ('{{ messages.append(1) }}', 'SecurityError'),
  ('{{ messages[0].update(role="system") }}', 'SecurityError'),
  ('{% include "/etc/passwd" %}', 'no loader'),
  ('{{ open("/etc/passwd") }}', "'open' is undefined"),
  ('{% if %}', 'TemplateSyntaxError'),
  ('{{ missing.field }}', "'missing' is undefined"),
  ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'RecursionError'),
  ('{{ "a" * 10 ** 11 }}', 'MemoryError'),
  ('{{ "a" * 2 * 10 ** 7 }}', 'writes 20000000 characters'),
  ('{{ range(10 ** 6) | list }}', 'OverflowError'),
)


@pytest.mark.parametrize(('source', 'word'), FORBIDDEN)
def test_what_is_forbidden_is_one_sentence(source, word):
  (found,) = template(source).render([ASKED])
  assert isinstance(found, ChatTemplateError)
  assert word in str(found)
  assert str(found).startswith('The chat template its.jinja does not write')
  assert '\n' not in str(found)
  assert str(found).endswith('.')


def test_what_a_template_refuses_does_not_stop_the_others():
  source = (
    '{% if messages|length > 1 %}{{ raise_exception("one") }}{% endif %}a'
  )
  one, two, three = template(source).render([ASKED, ASKED * 2, ASKED])
  assert (one, three) == ('a', 'a')
  assert isinstance(two, ChatTemplateError)


@pytest.mark.parametrize(
  'source',
  [
    '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}'
    '{% endfor %}',
    '{{ 9 ** (9 ** (7 + messages | length)) }}',
  ],
)
def test_a_conversation_that_does_not_end_is_ended_alone(source):
  begin = time.monotonic()
  source = '{% if messages|length > 1 %}' + source + '{% endif %}a'
  given = [ASKED, ASKED * 2, ASKED]
  one, two, three = template(source, seconds=0.5).render(given)
  assert (one, three) == ('a', 'a')
  assert isinstance(two, ChatTemplateError)
  assert 'took more than 0.5 seconds' in str(two)
  assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
  'source', ['{{ 9 ** (9 ** (8 + messages | length)) }}', '{{ 9 ** (9 ** 9) }}']
)
def test_a_template_that_never_ends_is_not_asked_for_each_row(source):
  with pytest.raises(
    ChatTemplateError, match=r'took more than 0.2 seconds on conversation \d;'
  ):
    template(source, seconds=0.2).render([ASKED] * 1000)


@pytest.mark.slow
def test_what_a_template_writes_altogether_is_bounded(monkeypatch):
  monkeypatch.setattr(chat_template, '_ROOM', 2**16)
  source = '{{ "a" * 30000 }}'
  assert len(template(source).render([ASKED] * 3)) == 3
  with pytest.raises(ChatTemplateError, match=r'wrote more than \d+ bytes on'):
    template('{{ "a" * 50000 }}').render([ASKED] * 40)


def test_what_went_wrong_once_is_asked_again(monkeypatch, tmp_path):
  script = tmp_path / 'worker.py'
  script.write_text('raise SystemExit("busy")')
  with monkeypatch.context() as patch:
    patch.setattr(chat_template.chat_worker, '__file__', str(script))
    with pytest.raises(ChatTemplateError, match='with status 1 busy on'):
      template('asked again').render([ASKED])
  assert template('asked again').render([ASKED]) == ['asked again']


def test_the_day_can_be_another_than_today():
  source = '{{ strftime_now("%d %b %Y") }}'
  assert template(source).reads_clock
  there = template(source, date='2024-07-26')
  assert not there.reads_clock
  assert there.render([ASKED]) == ['26 Jul 2024']


def test_a_template_is_found_where_the_reference_library_finds_it(
  tmp_path, theirs
):
  chat_models.write(tmp_path, template='from the config')

  def both(name):
    found = chat_template.find(tmp_path, name=name or 'default').source
    assert theirs(tmp_path).get_chat_template(name) == found
    return found

  assert both(None) == 'from the config'
  named = [
    {'name': 'default', 'template': 'one of several'},
    {'name': 'tool_use', 'template': 'with tools'},
  ]
  chat_models.write(tmp_path, template=named)
  assert both(None) == 'one of several'
  assert both('tool_use') == 'with tools'
  with pytest.raises(ValueError, match=r"no chat template 'rag', only \["):
    chat_template.find(tmp_path, name='rag')
  (tmp_path / 'chat_template.jinja').write_text('from its file')
  assert both(None) == 'from its file'
  (tmp_path / 'additional_chat_templates').mkdir()
  (tmp_path / 'additional_chat_templates' / 'rag.jinja').write_text('more')
  assert both('rag') == 'more'
  assert both(None) == 'from its file'


def test_a_checkpoint_may_have_no_template(tmp_path):
  assert chat_template.find(tmp_path) is None
  chat_models.write(tmp_path, template='')
  assert chat_template.find(tmp_path) is None
  assert not chat_template.exists(tmp_path)


def test_a_template_that_is_no_text_is_refused(tmp_path):
  for wrong in ([{'name': 'default'}], 7, ['text']):
    chat_models.write(tmp_path, template=wrong)
    with pytest.raises(
      ValueError, match=r'tokenizer_config\.json has a chat_t'
    ):
      chat_template.find(tmp_path)


def test_older_checkpoints_name_special_tokens_in_a_file_of_their_own(
  tmp_path, theirs
):
  chat_models.write(tmp_path, 'llama')
  (tmp_path / 'special_tokens_map.json').write_text(
    json.dumps({'bos_token': {'content': '<bos>'}, 'sep_token': '<|im_end|>'})
  )
  found = chat_template.special_tokens(tmp_path)
  assert found['bos_token'] == '<bos>'
  assert found == theirs(tmp_path).special_tokens_map
