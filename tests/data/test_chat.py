from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from selfimprove.data import chat, pipeline, rows, tasks, vocabularies
from selfimprove.data.chat import ChatPrompts
from selfimprove.data.chat_template import ChatTemplateError
from tests.data import chat_models

STYLES = tuple(chat_models.STYLES)
PROMPT = 'What is 2 + 3?'
AGAIN = 'There may be an error. Correct it, and write the solution again.'
# None begins or ends with white space, which some templates take away; their
# insides are as hard as the merges of the tokenizer make them.
ATTEMPTS = (
  '5',
  'It is 5.',
  'system\n\n\nuser',
  '\\boxed{\\frac{1}{2}}',
  'x\n\n \ny',
  'Grüße, 你好 \U0001f469\u200d\U0001f680',
  '<think> 012',
  '{{ braces }} {% here %}',
  'one <|im_start|> too many',
  '<|endoftext|>',
)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  return {
    style: chat_models.write(tmp_path_factory.mktemp(style), style)
    for style in STYLES
  }


def form_of(folder, **kwargs):
  # The style of Llama writes the day.
  kwargs = {'date': '2024-07-26', **kwargs}
  return ChatPrompts(
    folder=folder, vocabulary=chat_models.vocabulary(folder), **kwargs
  )


@pytest.fixture
def form(folders, request):
  return form_of(folders[request.param])


@pytest.fixture
def their_ids():
  """Ids of a conversation that the assistant goes on with, as others say."""
  load = pytest.importorskip('transformers').AutoTokenizer.from_pretrained

  def ids(form, messages):
    return load(form.folder).apply_chat_template(
      messages,
      add_generation_prompt=True,
      date_string='26 Jul 2024',
      **form.variables,
    )['input_ids']

  return ids


def asked(text):
  return {'role': 'user', 'content': text}


def said(text):
  return {'role': 'assistant', 'content': text}


@pytest.mark.parametrize('form', STYLES, indirect=True)
def test_prompts_are_the_beginning_of_a_conversation(form, their_ids):
  texts = [PROMPT, 'An added\n <|im_end|> token ', *ATTEMPTS]
  for text, ids in zip(texts, form(texts), strict=True):
    assert ids.tolist() == their_ids(form, [asked(text)])


@pytest.mark.parametrize('form', STYLES, indirect=True)
def test_a_conversation_is_what_the_template_makes_of_the_whole(
  form, their_ids
):
  told, end = form.instruction(AGAIN).tolist(), form.closing().tolist()
  (prompt,) = form([PROMPT])
  for first, second in zip(ATTEMPTS, (*ATTEMPTS[1:], ATTEMPTS[0])):
    written = [list(form.vocabulary.encode(text)) for text in (first, second)]
    ours = prompt.tolist()
    messages = [asked(PROMPT)]
    for text, ids in zip((first, second), written):
      ours += [*ids, *end, *told]
      messages += [said(text), asked(AGAIN)]
      assert ours == their_ids(form, messages), text


@pytest.mark.parametrize('form', STYLES, indirect=True)
def test_white_space_around_an_attempt_does_not_change_what_follows_it(
  form, their_ids
):
  told, end = form.instruction(AGAIN).tolist(), form.closing().tolist()
  for text in ('\n\n5', '5\n\n', ' 5 \n', '\n', ' ', ''):
    whole = their_ids(form, [asked(PROMPT), said(text), asked(AGAIN)])
    assert whole[-len(told) - 1 :] == [*end, *told]


@pytest.mark.parametrize('style', STYLES)
def test_what_ends_a_turn_of_the_template_is_one_special_token(folders, style):
  form = form_of(folders[style])
  assert form.closing().tolist() == [chat_models.ENDS[style]]
  ends = vocabularies.eos_ids(vocabulary=form.vocabulary, first=form.closing())
  # What demonstrations end with comes first, whatever the checkpoint says.
  assert ends.tolist() == [chat_models.ENDS[style], 0]


def test_format_system_and_variables_reach_the_template(folders, their_ids):
  form = form_of(
    folders['llama'],
    prompt_format='{prompt}\nUse \\boxed{}, and {x}.',
    system='Be brief.',
    variables={'date_string': 'never'},
  )
  (ids,) = form(['1 {prompt} 2'])
  text = form.vocabulary._tokenizer.decode(
    ids.tolist(), skip_special_tokens=False
  )
  assert 'Today: never\n\nBe brief.<|eot_id|>' in text
  assert '1 {prompt} 2\nUse \\boxed{}, and {x}.<|eot_id|>' in text


def test_a_template_of_ones_own_takes_the_place_of_the_checkpoints(
  folders, tmp_path
):
  path = tmp_path / 'mine.jinja'
  path.write_text('{{ eos_token }}{{ messages[0].content }}')
  form = form_of(folders['chatml'], template_file=path)
  (ids,) = form(['5'])
  assert ids.tolist() == [2, *form.vocabulary.encode('5')]
  with pytest.raises(FileNotFoundError, match=r'no chat template .*other'):
    form_of(folders['chatml'], template_file=tmp_path / 'other')


def test_templates_that_rewrite_earlier_turns_are_refused(tmp_path):
  folder = chat_models.write(tmp_path, template=chat_models.THINKING)
  form = form_of(folder)
  with pytest.raises(ChatTemplateError, match='rewrites earlier turns') as why:
    form.instruction(AGAIN)
  assert '<think>' in str(why.value)
  assert 'template_file' in str(why.value)
  # A single turn is no conversation that goes on.
  assert form.closing().tolist() == [2]
  assert isinstance(form([PROMPT])[0], np.ndarray)


def test_templates_whose_turns_have_no_end_are_refused(tmp_path):
  form = form_of(chat_models.write(tmp_path, template=chat_models.OPEN))
  for ask in (form.closing, lambda: form.instruction(AGAIN)):
    with pytest.raises(ChatTemplateError, match='begin with a special token'):
      ask()


def test_a_template_that_writes_nothing_is_refused_when_it_is_chosen(tmp_path):
  folder = chat_models.write(tmp_path, template=chat_models.FAILING)
  with pytest.raises(ChatTemplateError, match='this model does not talk'):
    form_of(folder)


def test_a_system_text_that_a_template_refuses_is_said_at_once(folders):
  with pytest.raises(ChatTemplateError, match='system role is not supported'):
    form_of(folders['gemma'], system='Be brief.')


def test_a_format_without_a_place_for_the_prompt_is_refused(folders):
  with pytest.raises(ValueError, match=r'has no \{prompt\}'):
    form_of(folders['chatml'], prompt_format='Hello')


def test_an_empty_instruction_is_refused(folders):
  vocabulary = chat_models.vocabulary(folders['chatml'])
  with pytest.raises(ValueError, match='instruction is empty'):
    chat.instruction(text='', vocabulary=vocabulary)


def test_without_a_form_an_instruction_is_its_text_and_closes_nothing(folders):
  vocabulary = chat_models.vocabulary(folders['chatml'])
  ids = chat.instruction(text=AGAIN, vocabulary=vocabulary)
  assert ids.tolist() == list(vocabulary.encode(AGAIN))
  assert chat.closing().tolist() == []
  form = form_of(folders['chatml'])
  told = chat.instruction(text=AGAIN, vocabulary=vocabulary, form=form)
  assert told.tolist() == form.instruction(AGAIN).tolist() != ids.tolist()
  assert chat.closing(form=form).tolist() == form.closing().tolist()


def test_a_model_without_a_template_is_told_by_name(tmp_path):
  folder = chat_models.write(tmp_path, template='')
  with pytest.warns(chat.MissingChatTemplateWarning, match='no chat template'):
    form = form_of(folder, system='Be brief.')
  (ids,) = form([PROMPT])
  text = f'Be brief.\n\n{PROMPT}'
  assert ids.tolist() == list(form.vocabulary.encode(text))
  told = form.instruction(AGAIN).tolist()
  assert told == list(form.vocabulary.encode(AGAIN))
  assert form.closing().size == 0


def test_a_template_that_reads_the_clock_is_told_by_name(folders):
  with pytest.warns(chat.ClockInChatTemplateWarning, match='set the date'):
    form_of(folders['llama'], date=None)


@pytest.fixture
def problems(tmp_path):
  path = tmp_path / 'problems.jsonl'
  lines = [{'prompt': f'{i} + 1', 'answer': str(i + 1)} for i in range(40)]
  path.write_text('\n'.join(map(json.dumps, lines)))
  return path


def task_of(path, form, **kwargs):
  given = {
    'max_prompt_tokens': 64,
    'max_answer_tokens': 4,
    'prompt_form': form,
    'vocabulary': form and form.vocabulary,
    **kwargs,
  }
  return tasks.jsonl(train=str(path), **given)


def test_a_task_gives_the_prompts_in_their_form(folders, problems):
  form = form_of(folders['chatml'])
  table = pipeline.load(task_of(problems, form), 'train')
  texts = [fields['prompt'] for fields in table.fields]
  # Judges and splits see the problem, the model reads the conversation.
  assert texts[0] == '0 + 1'
  for ids, mask, wanted in zip(
    table.prompt_ids, table.prompt_mask, form(texts), strict=True
  ):
    assert ids[mask].tolist() == wanted.tolist()
  answer = table.answer_ids[0][table.answer_mask[0]]
  assert answer.tolist() == list(form.vocabulary.encode('1'))


def test_the_length_of_a_prompt_is_that_of_its_form(folders, problems):
  form = form_of(folders['chatml'])
  whole = pipeline.load(task_of(problems, form), 'train')
  sizes = whole.prompt_mask.sum(axis=1).tolist()
  least = min(sizes)
  assert least < max(sizes)
  short = {'max_prompt_tokens': least}
  with pytest.raises(
    rows.BadRowError, match=f'tokens are more than .*={least}'
  ):
    pipeline.load(task_of(problems, form, **short), 'train')
  found = task_of(problems, form, on_bad_row=rows.drop, **short)
  table = pipeline.load(found, 'train')
  assert len(table) == sizes.count(least)
  dropped = {'prompt: too many tokens': len(sizes) - len(table)}
  assert table.dropped == dropped


def test_a_prompt_that_a_template_refuses_is_a_bad_row(tmp_path, problems):
  template = (
    "{% if '7' in messages[0].content %}{{ raise_exception('no 7') }}"
    '{% endif %}{{ messages[0].content }}'
  )
  form = form_of(chat_models.write(tmp_path, template=template))
  with pytest.raises(rows.BadRowError, match=r"row \d+, field 'prompt'.*no 7"):
    pipeline.load(task_of(problems, form), 'train')
  found = task_of(problems, form, on_bad_row=rows.drop)
  table = pipeline.load(found, 'train')
  assert not any('7' in fields['prompt'] for fields in table.fields)
  assert table.dropped['prompt: cannot be put in its form'] > 0


def test_prompts_that_bypass_a_template_are_told_by_name(folders, problems):
  form = form_of(folders['chatml'])
  with pytest.warns(chat.BypassedChatTemplateWarning, match='plain text'):
    found = task_of(problems, None, vocabulary=form.vocabulary)
  (ids,) = found.prompt_ids(['5'])
  assert ids.tolist() == list(form.vocabulary.encode('5'))


def test_a_form_is_a_value(folders):
  one, other = (form_of(folders['chatml']) for _ in range(2))
  assert one == other
  assert one != dataclasses.replace(one, system='Be brief.')
