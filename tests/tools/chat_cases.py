#!/usr/bin/env python3
"""Writes tests/data/chat/cases.json: templates, variables and what Python's Jinja2 (3.1) makes of them.

The environment is the one Hugging Face transformers renders chat templates in: ImmutableSandboxedEnvironment with
trim_blocks and lstrip_blocks, break and continue, generation blocks, json.dumps without HTML escapes for tojson, and
raise_exception. Without strftime_now: a rendering here does not depend on the clock.

A case is {"name", "template" (text) or "file" (beside cases.json), "variables", "output"}, or "fails": true in place of
"output" where Jinja2 raises.
"""

import copy
import json
import pathlib

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

DATA = pathlib.Path(__file__).parent.parent / "data/chat"


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def raise_exception(message):
    raise TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    for name in ("lipsum", "cycler", "joiner"):  # not in the subset: undefined names there
        del env.globals[name]
    return env


# ---- conversations ----

SYSTEM = {"role": "system", "content": "You are a careful assistant."}
USER = {"role": "user", "content": " What is 2 + 2?\n"}
REPLY = {"role": "assistant", "content": "It is 4."}
MORE = {"role": "user", "content": "And <|im_end|>[BOS] 中文 \"quoted\" 😀?"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "functions.add:0", "type": "function", "function": {"name": "add", "arguments": {"b": 2, "a": [1, 2.5, None, True]}}}
    ],
}
CALLS = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "functions.add:0", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "functions.say:1", "function": {"name": "say", "arguments": {"text": "</é>\n"}}},
    ],
}
RESULT = {"role": "tool", "tool_call_id": "functions.add:0", "name": "add", "content": "4"}
RESULT2 = {"role": "tool", "tool_call_id": "functions.say:1", "content": "done"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}]}
THINKING = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFour."}
REASONED = {"role": "assistant", "content": "Four.", "reasoning_content": "2 + 2"}
NAMED = {"role": "user", "name": "Ana", "content": "hi"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <numbers> & 'such', né",
            "parameters": {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "array", "items": {}}}, "required": []},
        },
    },
    {"type": "function", "function": {"name": "say", "description": "", "parameters": {}, "return": 1}},
]
# ids as the Mistral layout wants them
NINE = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "function": {"name": "add", "arguments": {"a": 1}}}]}
NINE_RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": 4}

CONVERSATIONS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "turns": [SYSTEM, USER, REPLY, MORE],
    "tool": [USER, CALL, RESULT],
    "tools": [SYSTEM, USER, CALLS, RESULT, RESULT2],
    "parts": [PARTS],
    "thinking": [USER, THINKING, MORE, THINKING],
    "reasoned": [USER, REASONED, RESULT, REASONED],
    "named": [NAMED, REPLY],
    "nine": [SYSTEM, USER, NINE, NINE_RESULT, REPLY, MORE],
    "wrong_turns": [USER, USER],
    "wrong_role": [USER, {"role": "martian", "content": "x"}],
}


def family_cases():
    for file in ("kimi_k2", "chatml", "llama3", "mistral", "qwen3"):
        for name, messages in CONVERSATIONS.items():
            for tools in (None, TOOLS):
                for prompt in (False, True):
                    if tools and name not in ("one", "tool", "tools", "nine"):
                        continue
                    yield {
                        "name": f"{file} {name}{' tools' if tools else ''}{' prompt' if prompt else ''}",
                        "file": f"{file}.jinja",
                        "variables": {
                            "messages": messages,
                            "tools": tools,
                            "add_generation_prompt": prompt,
                            "bos_token": "<s>",
                            "eos_token": "</s>",
                        },
                    }
    yield {
        "name": "qwen3 without thinking",
        "file": "qwen3.jinja",
        "variables": {"messages": [USER], "tools": None, "add_generation_prompt": True, "enable_thinking": False},
    }


# ---- constructs, one line each: what Jinja2 does with them is the answer ----

VARIABLES = {
    "s": "  Hello, World é中😀 \n",
    "t": "a,b,,c",
    "n": 7,
    "f": 2.5,
    "big": 1e22,
    "none_": None,
    "yes": True,
    "l": [3, 1, 2],
    "words": ["b", "A", "c", "a"],
    "d": {"one": 1, "two": [2, {"three": "x<y>&'\"\u0001\u007f\u2028"}], "items": "key", "été": None},
    "people": [{"name": "Bo", "age": 3, "tags": ["x"]}, {"name": "Al", "age": 5}, {"name": "Cy", "age": 3, "tags": []}],
    "deep": {"a": {"b": [10, 20]}},
    "floats": [0.1, 1.0, -0.0, 1e16, 1e15, 1.5e-5, 0.0001, 123456789.125, 1e300],
}

CONSTRUCTS = """
{{ s }}|{{ s|trim }}|{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip('\\n ') }}|{{ s|upper }}|{{ s|lower }}|{{ s|length }}
{{ 'hELLO wORLD it\\'s'|title }}|{{ 'hELLO'|capitalize }}|{{ 'ÀÉ ß ǆ Σ'|lower }}|{{ 'àé ǆ ı'|upper }}|{{ 'aB 中é it\\'s'.title() }}
{{ t.split(',') }}|{{ t.split(',', 1) }}|{{ t.rsplit(',', 1) }}|{{ ' a  b '.split() }}|{{ ' a  b c'.split(none, 1) }}|{{ t.split('zz') }}
{{ 'a\\nb\\r\\nc\\n'.splitlines() }}|{{ ''.splitlines() }}|{{ 'abcabc'.find('c') }}|{{ 'abcabc'.rfind('c') }}|{{ 'abc'.find('z') }}|{{ 'aaaa'.count('aa') }}
{{ 'abc'.replace('b', 'XX') }}|{{ 'aaa'|replace('a', 'b', 2) }}|{{ 'ab'.replace('', '-') }}|{{ 'aaa'.replace('a', 'b', 1) }}
{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'abc'.startswith(('x',)) }}|{{ '-'.join(['a', 'b']) }}|{{ ','.join('xyz') }}
{{ l }}|{{ d }}|{{ people }}|{{ (1, 'a') }}|{{ (1,) }}|{{ () }}|{{ [] }}|{{ {} }}|{{ none }}|{{ true }}|{{ False }}|{{ ['\u00a0\u200d\u3000\U000e0001 é中😀\x7f\x85\xad'] }}|{{ 'it\\'s' }}|{{ ['it\\'s', 'q"', 'b\\'"', 'n\\n\\t\\\\'] }}
{{ floats }}|{{ f }}|{{ big }}|{{ floats|tojson }}|{{ 1/2 }}|{{ 6/2 }}|{{ 7//2 }}|{{ -7//2 }}|{{ -7%3 }}|{{ 7%-3 }}|{{ 2**10 }}|{{ 2**-1 }}|{{ 7.5//2 }}|{{ -7.5%2 }}
{{ d|tojson }}|{{ d|tojson(indent=2) }}|{{ d|tojson(separators=(',', ':'), sort_keys=true) }}|{{ d|tojson(ensure_ascii=true) }}|{{ []|tojson(indent=2) }}|{{ {}|tojson(indent=2) }}|{{ s|tojson }}|{{ none|tojson }}|{{ (1,2)|tojson }}
{{ {1: 'a', none: 2, true: 3, 1.5: 4}|tojson }}|{{ {'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true, indent='\\t') }}
{{ l|sort }}|{{ l|sort(reverse=true) }}|{{ words|sort }}|{{ words|sort(case_sensitive=true) }}|{{ people|sort(attribute='age')|map(attribute='name')|join(',') }}
{{ d|dictsort }}|{{ {'b': 1, 'A': 2}|dictsort }}|{{ {'b': 1, 'A': 2}|dictsort(true) }}|{{ {'b': 1, 'a': 2}|dictsort(by='value') }}|{{ {'b': 1, 'a': 2}|dictsort(false, 'key', true) }}
{{ l|first }}|{{ l|last }}|{{ 'abc'|first }}|{{ 'abc'|last }}|{{ []|first }}|{{ d|first }}|{{ l|reverse|list }}|{{ 'abc'|reverse }}|{{ l|max }}|{{ l|min }}|{{ words|max }}|{{ []|max }}
{{ people|map(attribute='name')|list }}|{{ people|map(attribute='tags', default='none')|list }}|{{ words|map('upper')|join }}|{{ [{'a': [5]}]|map(attribute='a.0')|list }}|{{ words|map('replace', 'a', 'z')|join('+') }}
{{ people|selectattr('age', 'eq', 3)|map(attribute='name')|join(' ') }}|{{ people|rejectattr('tags')|list|length }}|{{ people|selectattr('tags', 'defined')|list|length }}|{{ l|select('odd')|list }}|{{ l|reject('gt', 2)|list }}|{{ [0, 1, '']|select|list }}
{{ ['a', 'A', 'b', 'a']|unique|list }}|{{ ['a', 'A']|unique(true)|list }}|{{ [1, 1.0, 2]|unique|list }}|{{ 'abc'|list }}|{{ d|list }}
{{ none|map('upper')|list }}{{ 0|select|list }}{{ ''|selectattr('a')|list }}|{{ people|join(', ', attribute='name') }}|{{ l|join }}|{{ l|join('-') }}|{{ 'abc'|join('.') }}|{{ []|join(',') }}
{{ x|default('dd') }}|{{ ''|default('dd') }}|{{ ''|default('dd', true) }}|{{ none|d('z') }}|{{ x|d }}|{{ d.nothing|default('nn') }}
{{ '12'|int }}|{{ 'x'|int }}|{{ 'x'|int(5) }}|{{ '3.7'|int }}|{{ 3.9|int }}|{{ ' 12 '|int }}|{{ '1.5'|float }}|{{ 'x'|float }}|{{ true|int }}|{{ 5|string }}|{{ none|string }}|{{ 1.0|string }}|{{ -3|abs }}
{{ 'a\\nb\\n\\nc'|indent }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'a\\n\\nb'|indent(2, false, true) }}|{{ 'a\\nb'|indent('>>') }}|{{ 'a'|indent(first=true) }}|{{ 'a\\n'|indent(1) }}
{{ 'xxaxx'|trim('x') }}|{{ 'abcba'.strip('ab') }}|{{ 'aXbX'.rstrip('X') }}|{{ '  '|trim|length }}
{{ d.items is mapping }}|{{ d['items'] }}|{{ d.get('one') }}|{{ d.get('zzz') }}|{{ d.get('zzz', 5) }}|{{ d.keys()|list }}|{{ deep.a.b[1] }}|{{ deep['a']['b'][-1] }}|{{ deep.a.b.1 }}|{{ deep.a.b.5 is defined }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}|{% for k, v in d|items %}{{ k }};{% endfor %}|{% for v in {'a': 1}.values() %}{{ v }}{% endfor %}|{{ x|items|list }}
{{ l[0] }}|{{ l[-1] }}|{{ l[1:] }}|{{ l[:-1] }}|{{ l[::-1] }}|{{ l[::2] }}|{{ l[5:] }}|{{ l[-100:100] }}|{{ 'abcdef'[1:4] }}|{{ 'abcdef'[::-2] }}|{{ 'abc'[1] }}|{{ (1, 2, 3)[:2] }}|{{ l[9] is defined }}{{ l[-9] is defined }}{{ l[-3] }}|{{ l[2:0:-1] }}|{{ 5[0:1] is defined }}
{{ 1 < 2 < 3 }}|{{ 1 < 2 > 3 }}|{{ 1 == 1.0 }}|{{ true == 1 }}|{{ 'a' < 'b' }}|{{ [1, 2] < [1, 3] }}|{{ 'a' in 'abc' }}|{{ 1 in l }}|{{ 'one' in d }}|{{ 9 not in l }}|{{ not 1 in l }}|{{ 'x' in undefinedthing }}|{{ (1, 2) == [1, 2] }}|{{ {'a': 1} == {'a': 1.0} }}|{{ none == none }}|{{ undefinedthing == other }}
{{ 1 and 2 }}|{{ 0 or 'x' }}|{{ not '' }}|{{ none or [] or 'last' }}|{{ 'a' if yes else 'b' }}|{{ 'a' if not yes }}|{{ ('a' if false) is defined }}|{{ 1 if 0 else 2 if 0 else 3 }}|{{ '' and undefinedthing.x }}
{{ 1 + 2 * 3 }}|{{ (1 + 2) * 3 }}|{{ 'a' ~ 1 ~ none ~ 2.5 }}|{{ 'a' + 'b' ~ 'c' }}|{{ 'ab' * 3 }}|{{ [1] * 2 + [2] }}|{{ -n }}|{{ +n }}|{{ -n|abs }}|{{ 1 - -1 }}|{{ 2 ** 3 ** 2 }}|{{ 10 - 2 - 3 }}|{{ 'x' * 0 }}|{{ 1 ~ 2 * 3 }}|{{ 'a' * -1 }}
{{ x is defined }}|{{ x is undefined }}|{{ x is not defined }}|{{ none_ is none }}|{{ s is string }}|{{ d is mapping }}|{{ l is iterable }}|{{ l is sequence }}|{{ n is number }}|{{ yes is number }}|{{ yes is true }}|{{ n is true }}|{{ yes is boolean }}|{{ n is integer }}|{{ yes is integer }}|{{ f is float }}|{{ d is sequence }}|{{ n is iterable }}|{{ range is callable }}|{{ s is callable }}|{{ x is iterable }}
{{ n is odd }}|{{ n is even }}|{{ n is divisibleby 7 }}|{{ n is divisibleby(2) }}|{{ 3 is in l }}|{{ n is eq 7 }}|{{ n is gt(3) }}|{{ n is ne 3 and yes }}|{{ -3 is odd }}|{{ yes is not false }}|{{ n is equalto 7 if yes else 0 }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem is defined }};{% endfor %}
{% for i in l if i > 1 %}{{ i }}{{ loop.length }}{% else %}none{% endfor %}|{% for i in [] %}x{% else %}empty{% endfor %}|{% for i in undefinedthing %}x{% else %}undef{% endfor %}|{% for c in 'añ' %}[{{ c }}]{% endfor %}|{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }},{% endfor %}|{% for i in 1, 2 %}{{ i }}{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}|{{ range(2, 8, 3)|list }}|{{ range(3, 0, -1)|list }}|{{ range(0)|list }}
{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}{% endfor %}
{% set a = 1 %}{% for i in l %}{% set a = a + i %}{{ a }}{% endfor %}{{ a }}|{% set ns = namespace(a=0, b=[]) %}{% for i in l %}{% set ns.a = ns.a + i %}{% set ns.b = ns.b + [i] %}{% endfor %}{{ ns.a }}{{ ns.b }}|{{ ns.zz is defined }}
{% if yes %}{% set inner = 5 %}{% endif %}{{ inner }}|{% set p, q = 1, 2 %}{{ p }}{{ q }}|{% set tup = 1, 2 %}{{ tup }}|{% set cap %}<{{ n }}>{% endset %}{{ cap }}{{ cap|length }}|{% set (u, v) = [8, 9] %}{{ u }}{{ v }}
{% macro m(a, b=2, c='x' ~ a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a='k') }}{{ m() }}|{{ m(1)|length }}|{{ m('q') ~ 'z' }}|{% macro empty() %}{% endmacro %}{{ empty() == '' }}|{{ m is callable }}
{% macro fact(k) %}{% if k < 2 %}1{% else %}{{ k * (fact(k - 1)|int) }}{% endif %}{% endmacro %}{{ fact(10) }}|{% set outer = 3 %}{% macro sees() %}{{ outer }}{{ n }}{% endmacro %}{{ sees() }}{% set outer = 4 %}{{ sees() }}
{% generation %}made {{ n }}{% endgeneration %}|{% raw %}{{ not }} {% this %}{% endraw %}|{#- comment -#} after
{{ dict(a=1, b=n) }}|{{ dict({'z': 1}, y=2) }}|{{ {'a': 1,}.a }}|{{ [1, 2,] }}|{{ {'k' ~ 1: 'v'}.k1 }}|{{ 'a' 'b' "c" }}|{{ "\\u00e9\\x41\\n\\q\\"" }}|{{ '{{ }} %} {#' }}|{{ {'a': {'b': {}}} }}
{{ 1_000 }}|{{ 1.5e3 }}|{{ 2e-3 }}|{{ 1.0 }}|{{ 0 }}|{{ 12345678901234 }}
{{ l.index(1) }}|{{ [1, 1, 2].count(1) }}|{{ l.zzz is defined }}|{{ s.zzz is defined }}|{{ (n).zzz is defined }}|{{ none_.x is defined }}|{{ d.items() is iterable }}
{{ [people[0], people[1]]|map(attribute='name')|map('lower')|list }}|{{ [[1, 2], [3]]|map('length')|list }}|{{ [[1, 2], [3]]|map('join', '-')|list }}|{{ ['1', '2']|map('int')|list|max }}
{{ d is defined and d is mapping or x }}|{{ (d.one is defined) and not (d.two is string) }}|{{ 'a' is string and 'b' }}|{{ not x is defined }}|{{ not x }}|{{ x is defined or 'no' }}
{{ ['b', 'a']|sort|first|upper }}|{{ 'A-B'|lower|replace('-', '_')|trim('_') }}|{{ s|trim|length > 3 and 'long' or 'short' }}|{{ (n|string)[0] }}|{{ n|string|length }}|{{ 'a,b'.split(',')|last }}
""".strip("\n").split("\n")

LAYOUT = [
    "a\n  {% if yes %}\n  b\n  {% endif %}\n c\n",
    "a\n  {%- if yes -%}\n  b\n  {%- endif -%}\n c\n",
    "a\n  {%+ if yes +%}\n  b\n  {%+ endif %}\n c\n\n",
    "  {{ n }}  \n  {{- n -}}  \n  {{ n }}\n",
    "  {# c #}\n  x {# c #} y\n{#- c -#}\n z {#+ c +#}\n w",
    "{% for i in l %}\n  {{ i }}\n{% endfor %}\nend",
    "{% for i in l -%}\n  {{ i }}\n{%- endfor %}\nend",
    "x {% if yes %} y {% endif %} z",
    "x\n\t{% set a = 1 %}\t\n\t{% set b = 2 %}\n{{ a }}{{ b }}",
    "\r\nx\r\n{% if yes %}\r\ny\r{% endif %}\rz\r\n",
    "{% if yes %}{% endif %}\n\n\nx",
    "{% if yes %}\n   {% if yes %}x{% endif %}\n {{ n }}{% endif %}\n\t{# c #}\n {# d #}y",
    "{{ n }}\n{{ n }}\n",
    "{{ n -}}\n\n  {%- if yes %}\n\n  q{% endif %}  \n",
    "  {% raw %}\n  {{ x }}\n  {% endraw %}\n  y",
    " {%- raw -%} \n a {%- endraw -%} \n b",
    "\u00a0{% if yes %}\u3000\n{% endif %}",
    "{% if yes %}a{% elif n %}b{% else %}c{% endif %}{% if not yes %}a{% elif n %}b{% else %}c{% endif %}{% if x %}a{% elif y %}b{% else %}c{% endif %}",
    "{%if yes%}1{%endif%}{{n}}{{-n-}}{%-if yes-%} 2 {%-endif-%}",
    "{{ n }}}{ {% if yes %}}}{% endif %}{{ '}}' }}",
    "{{\n  n\n  +\n  1\n}}",
    "",
    "\n",
    "plain < > & text",
]

FAILURES = [
    "{{ x.y }}",
    "{{ x() }}",
    "{{ x + 1 }}",
    "{{ 'a' + 1 }}",
    "{{ 1 < 'a' }}",
    "{{ none_|length }}",
    "{{ n|zzz }}",
    "{{ n is zzz }}",
    "{{ raise_exception('no') }}",
    "{{ l.append(1) }}",
    "{{ d.update({'a': 1}) }}",
    "{{ 1 / 0 }}",
    "{{ 1 % 0 }}",
    "{% if yes %}",
    "{% endif %}",
    "{% for i in l %}{% endif %}",
    "{{ n",
    "{% set a = %}",
    "{{ }}",
    "{{ 'a }}",
    "{# open",
    "{{ [1, 2 }}",
    "{{ (1 }}",
    "{% zzz %}",
    "{% for i in 5 %}{% endfor %}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{{ range() }}",
    "{{ 'a'.join([1]) }}",
    "{{ '' in 5 }}",
    "{{ x|tojson }}",
    "{{ namespace|tojson }}",
    "{% set n.x = 1 %}",
    "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{% endmacro %}{{ m(zz=1) }}",
    "{{ s.split('') }}",
    "{{ l|sort(zzz=1) }}",
    "{{ l[::0] }}",
    "{{ [1, 'a']|sort }}",
    "{{ x|upper|zzz }}",
    "{{ l.index(99) }}",
    "{{ l|map('zzz')|list }}",
    "{{ l|indent }}",
    "{{ x|int }}",
    "{{ x|float }}",
]


def cases():
    yield from family_cases()
    for i, template in enumerate(CONSTRUCTS):
        yield {"name": f"construct {i}", "template": template, "variables": VARIABLES}
    for i, template in enumerate(LAYOUT):
        yield {"name": f"layout {i}", "template": template, "variables": VARIABLES}
    for i, template in enumerate(FAILURES):
        yield {"name": f"failure {i}", "template": template, "variables": VARIABLES}


def main():
    env = environment()
    answered = []
    for case in cases():
        source = case.get("template")
        if source is None:
            source = (DATA / case["file"]).read_text(encoding="utf-8")
        try:
            case["output"] = env.from_string(source).render(**copy.deepcopy(case["variables"]))  # indent changes lists
        except Exception as error:  # whatever Python raises: a type error inside a template is an error too
            assert not case["name"].startswith(("construct", "layout")), (case["name"], source, error)
            case["fails"] = True
        assert ("fails" in case) == case["name"].startswith("failure") or "file" in case, (case["name"], source)
        if case["variables"] is VARIABLES:
            case["variables"] = "common"
        answered.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in answered)
    common = json.dumps(VARIABLES, ensure_ascii=False)
    (DATA / "cases.json").write_text(f'{{"common": {common},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")


main()
