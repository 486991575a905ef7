"""The edge between gin and the library: only entry points import it."""

from __future__ import annotations

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import gin
from gin import config as gin_config

from selfimprove import annotated
from selfimprove.line_difference import first_difference

_T = TypeVar('_T')
_Key = tuple[str, str, str]  # Scope, selector and parameter.

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""Gin files are looked for here if they are not found from the working
directory."""


# Devices along each axis, layouts over them, how much is drawn at one time, and
# options of the compiler: none of them changes what is computed.
_WHERE = re.compile(
  r'([\w.]+\.)?MeshShape\.|# Parameters for .*MeshShape'
  r'|\S+\.(training_layout|decode_layout|prompts_at_once|compiler_options) ='
  r"|\s+\(?'xla_"  # Options on lines of their own.
)
# What nobody binds by hand.
_DEFINED_IN = {
  'MODEL': 'gin_configs/models/',
  'TASK': 'gin_configs/tasks/',
  'REWARD': 'gin_configs/tasks/',
  'STAGES': 'gin_configs/algorithms/',
  'EVAL_ROLLOUT': 'gin_configs/algorithms/',
}


class ConfigError(ValueError):
  """A gin file, a binding or a workdir cannot be used as it is."""


def build(
  configurable: Callable[..., _T],
  *,
  files: Sequence[str],
  bindings: Sequence[str] = (),
) -> _T:
  """The object that gin files describe, with every binding consumed.

  Args:
    configurable: class or function that is called with what is bound to it.
    files: gin files; later ones override earlier ones.
    bindings: lines of gin that override the files. They may name whatever
      the files import.

  Returns:
    What `configurable` returns.

  Raises:
    ConfigError: a file is missing, a name is unknown, a required value is not
      given, nothing uses a binding, or one of `bindings` has no effect because
      others take its place wherever it would be used.
  """
  gin.clear_config()
  if not files:
    raise ConfigError(
      'No gin file is given; name at least one, such as '
      '--gin_file=experiments/score_self_correction/run.gin.'
    )
  _check_files(files)
  gin.add_config_file_search_path(ROOT)
  # Gin looks in Python packages too, and fails at folders that are none.
  del gin_config._FILE_READERS[1:]
  try:
    gin.parse_config_files_and_bindings(
      list(files), None, finalize_config=False
    )
    overriding = _parse_bindings(bindings)
    _check_types()
    built = gin.get_configurable(configurable)()
  except Exception as error:
    raise ConfigError(_ended(_in_one_sentence(error))) from error
  if missing := _required_macros():
    raise ConfigError(_not_given(missing))
  unused = [
    name for name in unused_bindings() if _is_written(name, files, bindings)
  ]
  if unused:
    shown = ', '.join(f'`{name}`' for name in unused[:8])
    others = f' (and {len(unused) - 8} more)' if unused[8:] else ''
    raise ConfigError(
      f'Nothing uses the binding {shown}{others}{_nearest(unused[0])}; correct '
      'its name or scope, or remove it.'
    )
  _check_effect(overriding)
  return built


def unused_bindings() -> list[str]:
  """The bindings that were parsed and that no call has consumed.

  Gin raises on unknown names but is silent on bindings that nothing reads.

  Returns:
    Names as they are written in gin files, sorted.
  """
  # Gin has no public way to tell the two apart but by their printed form.
  bound = gin_config._CONFIG
  used = gin_config._OPERATIVE_CONFIG
  unused = []
  for (scope, selector), parameters in bound.items():
    for name, value in parameters.items():
      # A requirement that nobody asks for has nothing to give.
      if str(value) != '%gin.REQUIRED' and not any(
        selector == other
        and name in consumed
        and (not scope or inner == scope or inner.startswith(scope + '/'))
        for (inner, other), consumed in used.items()
      ):
        unused.append(_as_written(scope, selector, name))
  return sorted(unused)


def _nearest(name: str) -> str:
  """What is used and reads like a binding that is not."""
  used = {
    _as_written(scope, selector, parameter)
    for (scope, selector), consumed in gin_config._OPERATIVE_CONFIG.items()
    for parameter in consumed
  } | {
    scope for scope, key in gin_config._OPERATIVE_CONFIG if key == 'gin.macro'
  }
  return _suggestion(name, used)


def _suggestion(name: str, known: Iterable[str]) -> str:
  near = difflib.get_close_matches(name, sorted(known), n=1)
  return f' (nearest: `{near[0]}`)' if near else ''


def _is_written(
  name: str, files: Sequence[str], bindings: Sequence[str]
) -> bool:
  """Whether a binding stands in what was given, not in what that includes.

  A variant includes its parent and replaces some of what is in it; the bindings
  of what was replaced are then idle, and nobody's mistake.
  """
  scope, _, rest = name.rpartition('/')
  tail = re.escape('.'.join(rest.split('.')[-2:]))
  prefix = re.escape(f'{scope}/') if scope else ''
  line = re.compile(rf'^{prefix}([\w.]+\.)?{tail}\s*=', re.MULTILINE)
  return any(map(line.search, [*map(_text, files), *bindings]))


def _text(file: str) -> str:
  found = (os.path.join(base, file) for base in ('', ROOT))
  with open(next(filter(os.path.isfile, found)), encoding='utf-8') as opened:
    return opened.read()


def operative_config() -> str:
  """The bindings that took part, as gin; parsing it gives itself again."""
  return gin.operative_config_str()


def on_one_line(error: Exception) -> str:
  """The message of an exception without the notes that gin adds to it.

  Gin also writes on what its functions raise long after the config was read.

  Args:
    error: any exception.

  Returns:
    One line; the type of the exception if it says nothing.
  """
  return re.sub(r" In call to configurable '\w+' \(.*", '', _joined(error))


def _joined(error: Exception) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return ' '.join(lines) or type(error).__name__


def _ended(sentence: str) -> str:
  return sentence if sentence[-1] in '.!?)' else f'{sentence}.'


def check_workdir(workdir: str, config: str, *, begun: object) -> None:
  """Writes the config of a new workdir, or compares with that of an old one.

  A workdir is new until there is a checkpoint: what failed before that may be
  corrected and started again.

  Args:
    workdir: folder of the run; made if it is not there.
    config: text of the operative config.
    begun: whether there is a checkpoint.

  Raises:
    ConfigError: the workdir belongs to a run with another config.
  """
  path = os.path.join(workdir, 'config.gin')
  if not os.path.exists(path) or not begun:
    os.makedirs(workdir, exist_ok=True)
    _write(path, config)
    return
  with open(path, encoding='utf-8') as file:
    before = file.read()
  theirs, ours = _without_places(before), _without_places(config)
  if theirs != ours:
    old, new = first_difference(theirs, ours, nothing='(nothing)')
    raise ConfigError(
      f'{workdir} holds a run with another config: it has `{old}`, this run '
      f'`{new}`; use another --workdir, or the config in {path}.'
    )
  if before != config:
    _write(path, config)


def _without_places(config: str) -> str:
  """A config but for what lies where and when, which a run may change."""
  lines = config.splitlines(keepends=True)
  return ''.join(line for line in lines if not _WHERE.match(line))


def _write(path: str, config: str) -> None:
  """Puts a config in the place of a file, all or nothing."""
  temporary = f'{path}.tmp'
  with open(temporary, 'w', encoding='utf-8') as file:
    file.write(config)
  os.replace(temporary, path)


def _check_files(files: Sequence[str]) -> None:
  for file in files:
    if not any(os.path.isfile(os.path.join(base, file)) for base in ('', ROOT)):
      raise ConfigError(
        f'There is no gin file {file!r}, neither from the working directory '
        f'nor in {ROOT}; the configs that come with the project are under '
        'gin_configs/ and experiments/.'
      )


def _parse_bindings(bindings: Sequence[str]) -> dict[_Key, str]:
  """Parses bindings one by one, so that an error can name its own.

  Returns what each of them binds, and its text.
  """
  # They may name whatever the files import.
  statements = gin_config._IMPORTS
  imports = sorted({statement.format() for statement in statements})
  # Gin wants this one before all others.
  imports.sort(key=lambda line: 'dynamic_registration' not in line)
  written: dict[_Key, str] = {}
  config = gin_config._CONFIG
  for binding in bindings:
    before = {key: dict(parameters) for key, parameters in config.items()}
    # Into an empty config: a value that stays the same is seen as well.
    config.clear()
    try:
      gin.parse_config('\n'.join([*imports, binding]))
    except Exception as error:
      why = re.sub(r' In bindings string line .*', '', on_one_line(error))
      why = re.sub(r' \(line \d+\)$', '', why).rstrip('.')
      # What Python says about it names an object of the parser.
      why = re.sub(
        r"^malformed node .* token '(.*)'$",
        r"'\1' is no value; put text in quotes",
        why,
      )
      parameter = re.match(
        r"Configurable '(.*)' doesn't have a parameter named '(.*)'$", why
      )
      if parameter:
        why += _suggestion(parameter[2], _parameters(parameter[1]))
      if why == 'Unable to parse value':
        why += '; put text in quotes'
      raise ConfigError(f'Binding `{binding:.200}`: {why}.') from error
    written |= {(*key, name): binding for key in config for name in config[key]}
    for key, parameters in config.items():
      before.setdefault(key, {}).update(parameters)
    config.update(before)
  return written


def _parameters(configurable: str) -> list[str]:
  """Names of the parameters of what gin knows by a name."""
  found = gin_config._REGISTRY.get_match(configurable)
  return list(inspect.signature(found.wrapped).parameters) if found else []


def _check_effect(overriding: Mapping[_Key, str]) -> None:
  """Refuses overrides of what more specific bindings decide everywhere.

  Files may bind defaults that later ones override in each scope: they are not
  asked about.
  """
  decided: dict[_Key, set[_Key]] = {}
  bound = gin_config._CONFIG
  for (inner, selector), consumed in gin_config._OPERATIVE_CONFIG.items():
    parts = inner.split('/') if inner else []
    outwards = ['/'.join(parts[:n]) for n in range(len(parts), -1, -1)]
    for name in consumed:
      keys = [
        (scope, selector, name)
        for scope in outwards
        if name in bound.get((scope, selector), {})
      ]
      for key in keys:
        decided.setdefault(key, set()).add(keys[0])
  for key, binding in overriding.items():
    winners = decided.get(key, {key})
    if key not in winners:
      names = ', '.join(
        f'`{_as_written(*winner)}`' for winner in sorted(winners)
      )
      raise ConfigError(
        f'Binding `{binding}` has no effect, for {names} decides wherever it '
        'would be used; bind that instead.'
      )


def _check_types() -> None:
  """Refuses values that are not of the type that a parameter is annotated with.

  Only values that stand in the config: what references make is not known yet.
  """
  for (scope, selector), parameters in gin_config._CONFIG.items():
    if selector == 'gin.macro':
      continue
    function = gin_config._REGISTRY[selector].wrapped
    for name, bound in parameters.items():
      try:
        value = _resolved(bound)
      except LookupError:
        continue
      expected = annotated.mismatch(function, name, value)
      if expected:
        goes = f'`{_as_written(scope, selector, name)}`'
        macro = _macro(bound)
        given = f'`{macro} = {value!r:.80}`, for {goes},' if macro else ''
        given = given or f'{goes} = {value!r:.80}'
        raise ConfigError(
          f'{given} is no {expected}; bind a value of that type.'
        )


def _macro(value: Any) -> str:
  """The name of a macro; empty for anything else."""
  if not isinstance(value, gin_config.ConfigurableReference):
    return ''
  # Its scope is its name: `%SEED` is `@SEED/gin.macro()`.
  name, _, selector = value.scoped_selector.rpartition('/')
  return name if selector.endswith('macro') else ''


def _resolved(value: Any) -> Any:
  """A value with its macros replaced; LookupError if it is not known yet."""
  if macro := _macro(value):
    bound = gin_config._CONFIG.get((macro, 'gin.macro'), {})
    return _resolved(bound['value'])
  unknown = isinstance(value, gin_config.ConfigurableReference)
  if unknown or str(value) == '%gin.REQUIRED':
    raise LookupError(value)
  if isinstance(value, dict):
    return {key: _resolved(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return type(value)(_resolved(item) for item in value)
  return value


def _as_written(scope: str, selector: str, name: str) -> str:
  if selector == 'gin.macro':
    return scope
  return f'{scope}/{selector}.{name}' if scope else f'{selector}.{name}'


def _required_macros() -> list[str]:
  """Macros that some call asked for and that are still `%gin.REQUIRED`.

  Gin finds out itself about parameters, but hands a macro's marker on as if it
  were a value.
  """
  bound = gin_config._CONFIG
  return sorted(
    scope
    for scope, selector in gin_config._OPERATIVE_CONFIG
    if selector == 'gin.macro'
    and str(bound.get((scope, selector), {}).get('value')) == '%gin.REQUIRED'
  )


def _not_given(macros: Sequence[str]) -> str:
  folders = sorted(
    {_DEFINED_IN[name] for name in macros if name in _DEFINED_IN}
  )
  if folders:
    return (
      f'Required value not given: {", ".join(macros)}; add a --gin_file of '
      f'{" and of ".join(folders)}.'
    )
  return (
    f'Required value not given: {", ".join(macros)}; set it in a gin file or '
    f'with --gin_bindings="{macros[0]} = ...".'
  )


def _in_one_sentence(error: Exception) -> str:
  """The message of an exception, without gin's stack of notes."""
  if missing := _required_macros():
    return _not_given(missing)
  macro = re.match(
    r"macro\(\) missing .*? in scope '(?:[^']*/)?(\w+)'", _joined(error)
  )
  if macro:
    return _not_given([macro[1]])
  required = re.search(
    r'Required bindings for `(.*?)` not provided.*?: (.*)', on_one_line(error)
  )
  if required:
    return (
      f'Required value not given for `{required[1]}` ({required[2]}); set it '
      'in a gin file or with --gin_bindings.'
    )
  return on_one_line(error)
