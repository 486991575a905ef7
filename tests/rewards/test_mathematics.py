"""Hard pairs of answers: the known ways in which graders fail."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.rewards.mathematics import MathAnswer
from selfimprove.rewards.pool import Failure, VerifierPool
from selfimprove.rewards.verifiers import HostVerifier

SAME = [
  ('1/2', r'\frac12'),
  (r'\frac12', '0.5'),
  (r'\dfrac{1}{2}', '1/2'),
  ('½', '0.5'),
  (r'-\frac{1}{2}', r'\frac{-1}{2}'),
  (r'1{,}000', '1000'),
  ('1,000', '1000'),
  ('1 000', '1000'),
  (r'50\%', '0.5'),
  (r'50\%', '50'),
  ('x=5', '5'),
  ('5', 'x = 5'),
  ('f(x)=x+1', 'x+1'),
  (r'\text{(B)}', 'B'),
  ('B', '(B)'),
  ('(b)', 'B'),
  ('B. 12 apples', r'\text{(B)}'),
  ('B: this or that', 'B'),
  (r'90^\circ', '90'),
  ('90°', r'90^{\circ}'),
  ('90 degrees', '90'),
  (r'\sqrt{8}', r'2\sqrt2'),
  (r'2\sqrt{2}', '√8'),
  (r'\frac{\sqrt{2}}{2}', r'\frac{1}{\sqrt{2}}'),
  ('1.41421356', r'\sqrt2'),
  ('1 1/2', '1.5'),
  (r'1\frac12', r'\frac32'),
  ('1.5e3', '1500'),
  (r'1.5 \times 10^{3}', '1500'),
  ('10^{3}', '1000'),
  ('5 cm', '5'),
  ('5', r'5\text{ cm}'),
  (r'12\text{ in}^2', '12 square inches'),
  (r'\$5', '5'),
  ('5 dollars', '$5'),
  (r'\theta = 5', '5'),
  ('AB + BC = 5', '5'),
  ('2x+y=3', 'y=3-2x'),
  ('x=y=5', 'x = y = 5.0'),
  ('B. A dog', 'B'),
  (r'B. \frac{x}{2} + C', 'B'),
  ('5 apples', '5'),
  ('12 cm', '12'),
  ('3 square feet', '3'),
  (r'7 \text{ dollars}', '7'),
  ('42.', '42'),
  ('−3', '-3'),
  ('-0', '0'),
  ('5.0', '5'),
  ('(5)', '5'),
  (r'\{1,2\}', r'\{2,1\}'),
  ('1,2', '2, 1'),
  ('1 and 2', '1,2'),
  ('x=1, y=2', 'y=2, x=1'),
  ('(1, 0.5)', r'\left(1,\frac12\right)'),
  ('[0,1)', r'\left[0,1\right)'),
  (r'x\in[5,\infty)', r'[5,\infty)'),
  (r'[5,\infty)', r'x\ge 5'),
  ('x>5', '5<x'),
  (r'(-\infty,2)\cup(3,\infty)', r'(3,\infty)\cup(-\infty,2)'),
  (
    r'\begin{pmatrix}1\\2\end{pmatrix}',
    r'\begin{bmatrix}1\\2\end{bmatrix}',
  ),
  ('x^2+2x+1', '(x+1)^2'),
  ('y=2x+1', 'y=1+2x'),
  ('x^2y', 'yx^2'),
  ('3+2i', '2i+3'),
  (r'\pi/2', r'\frac{\pi}{2}'),
  ('2π', r'2\pi'),
  ('2^{10}', '1024'),
  ('5!', '120'),
  ('Evelyn', r'\text{Evelyn}'),
  ('YES', 'yes'),
  ('10^{10^{10}}', '10^{10^{10}}'),  # Beyond all bounds, but the same text.
]

DIFFERENT = [
  ('1/2', '1/3'),
  (r'\pi', '3.14'),
  ('3.14', r'\pi'),
  ('0.33', '1/3'),
  ('1.5', '1 1/5'),
  (r'2\frac12', '1'),
  ('1000', '1001'),
  ('1', '-1'),
  ('(1,2)', '[1,2]'),
  ('[1,2]', '(1,2]'),
  ('(1,2)', '(2,1)'),
  ('(1,2)', r'\{1,2\}'),
  (r'\{1,2\}', '(1,2)'),
  ('1,2', '1,2,3'),
  ('1,1,2', '1,2,2'),
  ('1 or 2', '2'),  # Every answer at once is none.
  ('2', '1 or 2'),
  ('0 1 2 3 4 5', '5'),
  ('y=5', 'x=5'),
  ('A', 'B'),
  ('12', 'B'),
  ('A and B', 'B'),
  ('A. or B.', 'A'),
  ('A) B) C) D)', 'A'),
  ('5 cm', '5 m'),
  ('5 square cm', '5 cm'),
  ('5 million', '5'),
  ('4=5', '5'),
  ('1=2=3=4=5', '5'),
  ('x=4=5', '5'),
  ('4=5', 'x=5'),
  (r'\{4=5\}', r'\{5\}'),
  ('4 cm = 5', '5'),
  (r'4 \equiv 5', '5'),
  ('x=4=5', 'x=y=5'),
  ('A. foo, C', 'A'),
  ('A. foo, c', 'A'),
  ('A. or it may be B', 'A'),
  ('5...', '5'),
  ('5…', '5'),
  (r'5\ldots', '5'),
  ('5 millions', '5'),
  ('5 billions', '5'),
  ('3 hundredths', '3'),
  ('7 squared', '7'),
  (r'3 \text{ cubed}', '3'),
  ('5 negative', '5'),
  ('12 less', '12'),
  ('5 twice', '5'),
  ('5 lakh', '5'),
  ('2 dozens', '2'),
  ('6 factorial', '6'),
  ('9 roots', '9'),
  ('5 degrees below zero', '5'),
  ('5', '5 millions'),
  ('5m', '5'),
  ('5x', '5'),
  ('cat', 'act'),  # No product of variables.
  ('x', 'y'),
  (r'\sqrt{-4}', '2'),
  (r'\frac{1}{0}', '1'),
  ('(1,2', '(1,2)'),
  (')1,2(', '(1,2)'),
  ('x>5', 'x<5'),
  (r'x\ge 5', 'x>5'),
  ('2^{9}', '1024'),
  ('50%', '5'),
  (r'90^\circ', r'\frac{\pi}{2}'),
  (r'\infty', r'-\infty'),
  ('1e400', '1e401'),
  ('0.9999999', '1'),
  ('9^{9^{9}}', '7'),
  ('(' * 18 + '5' + ')' * 17, '5'),
  ('e', '2.718'),
  ('0,5', '0.5'),
  ('', '7'),
  ('x+1 ' * 200, 'x+1'),
]


def _verdict(attempt, answer, **settings):
  return MathAnswer(**settings)(attempt, {'answer': answer})


@pytest.mark.parametrize(('answer', 'reference'), SAME)
def test_the_same_answer_in_another_form_is_right(answer, reference):
  assert _verdict(rf'So \boxed{{{answer}}}.', reference) == 1.0


@pytest.mark.parametrize(('answer', 'reference'), DIFFERENT)
def test_another_answer_is_wrong(answer, reference):
  assert _verdict(rf'So \boxed{{{answer}}}.', reference) == 0.0


@pytest.mark.parametrize(
  ('attempt', 'verdict'),
  [
    (r'7, no: \boxed{5}', 1.0),
    (r'\boxed{5}, no: \boxed{7}', 0.0),
    ('2+3=5\n#### 5', 1.0),
    ('The answer is 5.', 1.0),
    ('5', 1.0),
    ('It could be 5 or so', 0.0),
    ('', 0.0),
  ],
)
def test_the_final_answer_of_an_attempt_counts(attempt, verdict):
  assert _verdict(attempt, '5') == verdict


def test_only_the_ways_that_are_named_are_gone():
  assert _verdict('5', '5', ways=('boxed',)) == 0.0
  assert _verdict(r'\boxed{5}', '5', ways=('boxed',)) == 1.0


def test_a_choice_may_stand_anywhere_if_nothing_marks_an_answer():
  assert _verdict('Clearly it must be (B)', 'B') == 1.0
  assert _verdict('Not (B) but (C)', 'B') == 0.0
  assert _verdict(r'Not (B) but \boxed{C}', 'B') == 0.0


@pytest.mark.parametrize('row', ['a\n#### 5', r'so \boxed{5}', '5', 5])
def test_the_reference_is_read_from_its_solution(row):
  assert _verdict(r'\boxed{5}', row) == 1.0
  assert _verdict(r'\boxed{6}', row) == 0.0


def test_another_field_can_hold_the_reference():
  verifier = MathAnswer(field='target')
  assert verifier('5', {'target': '5', 'answer': '6'}) == 1.0
  with pytest.raises(ValueError, match=r"\['answer'\] and no 'target'"):
    verifier('5', {'answer': '6'})


@pytest.mark.parametrize('empty', ['', '  ', r'\boxed{}', '####'])
def test_a_row_that_holds_no_answer_is_named(empty):
  with pytest.raises(ValueError, match=r"'answer' of the row.*holds no answer"):
    _verdict('5', empty)


def test_a_tolerance_reaches_into_lists():
  assert _verdict('(0.33, 1)', r'(\frac13, 1)') == 0.0
  assert _verdict('(0.33, 1)', r'(\frac13, 1)', relative_tolerance=0.02) == 1.0


def test_without_algebra_only_text_and_numbers_count():
  assert _verdict('x+x', '2x') == 1.0
  assert _verdict('x+x', '2x', algebra=False) == 0.0
  assert _verdict('1/2', '0.5', algebra=False) == 1.0


@pytest.mark.parametrize(
  ('setting', 'value'),
  [
    ('ways', ('box',)),
    ('relative_tolerance', -1.0),
    ('absolute_tolerance', float('inf')),
    ('max_characters', 0),
  ],
)
def test_a_setting_out_of_range_is_named(setting, value):
  with pytest.raises(ValueError, match=f'{setting} (is|has) '):
    MathAnswer(**{setting: value})


def test_the_verdict_does_not_depend_on_what_was_judged_before():
  pairs = [(a, b) for a, b in SAME[::3]]
  first = [_verdict(rf'\boxed{{{a}}}', b) for a, b in pairs]
  again = [_verdict(rf'\boxed{{{a}}}', b) for a, b in reversed(pairs)]
  assert first == again[::-1]


# Within the bounds, yet each takes minutes or more.
STUCK = [
  r'\int_0^1 e^{-x^2}\sin(x^3)\,dx',
  r'\exp(\exp(\exp(100)))',
  r'e^{e^{e^{100}}}',
  r'\Gamma(99999999)',
]


def test_an_answer_that_hangs_algebra_is_killed_and_the_next_one_judged():
  pool = VerifierPool(
    MathAnswer(), timeout_seconds=2.0, workers=1, memory_bytes=2 << 30
  )
  row = {'answer': 'x+7'}
  attempts = [rf'\boxed{{{text}}}' for text in (STUCK[1], '7+x', '9^{9^9}')]
  verdicts = pool.run([(a, row) for a in attempts], stop_at_failure=False)
  assert isinstance(verdicts[0], Failure)
  assert verdicts[0].timed_out
  assert verdicts[1:] == [1.0, 0.0]
  pool.close()


@pytest.mark.slow
def test_hostile_answers_never_outlive_their_time():
  verifier = HostVerifier(
    fn=MathAnswer(),
    workers=2,
    timeout_seconds=2.0,
    timeout_reward=0.0,
    memory_bytes=2 << 30,
  )
  attempts = [rf'\boxed{{{text}}}' for text in STUCK * 2 + ['7+x']]
  rewards = verifier.judge(
    [[attempt] for attempt in attempts], [{'answer': 'x+7'}] * len(attempts)
  )
  assert rewards[:, 0].tolist() == [0.0] * 8 + [1.0]
  # Equal ones are tried once; each was killed, and is counted.
  assert verifier.metrics()['reward/verifier_timeouts'] == 8.0
  assert verifier.timing()['verifier/cached'] == 4.0
  verifier.close()


def _junk(alphabet, size):
  return st.text(alphabet=alphabet, max_size=size)


_answers = st.one_of(
  _junk('0123456789.,/%eE+-−() x', 40),
  _junk(r'\{}[]()^_&$#!=<>,;.0123456789xyπ√½ ', 40),
  st.text(max_size=60),
  st.lists(
    st.sampled_from(
      [*'{}()[]^1x,&!=', r'\frac', r'\sqrt', r'\boxed', r'\text', r'\\']
    ),
    max_size=12,
  ).map(''.join),
)


@given(answer=_answers, reference=_answers)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_any_junk_gets_a_verdict(answer, reference):
  verifier = MathAnswer(algebra=False)
  verdict = verifier(rf'\boxed{{{answer}}}', {'answer': f'7 {reference}'})
  assert verdict in (0.0, 1.0)
  same = verifier(reference, {'answer': reference}) if reference.strip() else 1
  assert same == 1.0 or r'\boxed' in reference or '####' in reference


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.tuples(_answers, _answers), min_size=50, max_size=50))
def test_any_junk_gets_a_verdict_or_a_failure_from_algebra(pairs):
  calls = [(a, {'answer': f'x{b}'}) for a, b in pairs]
  verdicts = _SHARED.run(calls, stop_at_failure=False)
  assert all(isinstance(v, Failure) or v in (0.0, 1.0) for v in verdicts), (
    verdicts
  )


# Started by its first call.
_SHARED = VerifierPool(
  MathAnswer(), timeout_seconds=2.0, workers=2, memory_bytes=2 << 30
)
