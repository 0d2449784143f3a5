#!/usr/bin/env python3
"""Writes test cases for the pre-tokeniser: lines {"text": .., "pieces": [bytes of each piece]}.

The pieces are those that Python's `regex` module (V1 syntax, which knows set intersection) finds with the published
pattern, tests/data/tokenizer/pattern.txt. Three ways to use it:

  pre_tokenizer_cases.py > tests/data/tokenizer/pieces.jsonl     the committed cases
  pre_tokenizer_cases.py --code-points > ALL.jsonl               every code point in several surroundings
  pre_tokenizer_cases.py FILE... > TEXTS.jsonl                   any texts, and random mixtures of their characters

  LINNET_PIECES=ALL.jsonl formats_test --gtest_filter='pre_tokenizer.*'   compares with a file other than the committed one

Left out of --code-points and of the mixtures, because `regex` may know a later Unicode version than PCRE2 10.42, which
knows 14: what 14 leaves unassigned, and U+0295, which Unicode 16 moved from Ll to Lo.
"""

import json
import pathlib
import random
import sys
import unicodedata

import regex

PATTERN_FILE = pathlib.Path(__file__).parent.parent / "data/tokenizer/pattern.txt"
PATTERN = regex.compile(PATTERN_FILE.read_text().rstrip("\n"), regex.V1)

# A few of each kind that the pattern tells apart: Han (also outside the BMP, and not a letter), cases, modifiers, marks,
# digits of several scripts, white space, line breaks, punctuation, symbols, format and control characters, letters whose
# simple case folding is an ASCII letter.
KINDS = (
    "中漢字〇々𠮷。、，ab zAZ éßΩжЖǅʰªºא日本語かナ한ु़́⃝"
    "0197٣५½ⅷ²\t\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u3000\u200b\u200d\ufeff\xad"
    "\x00\x1c\x1f\x7f'’\"!?-_—<|>[]{}()$+=^€©😀👩🏽‍💻\ue000\U0010ffff\u0378sStTrReEvVmMlLdDſK"
)
PHRASES = ["'s", "'T", "'re", "'LL", "'ſ", "I'm", "they'd", "  ", "\r\n", "\n\n  ", " \n", "12345", "x2", " (", "...\n\n", "中文", "。"]


def comparable(c):
    return unicodedata.category(c) not in ("Cn", "Cs") and c != "\u0295"


def case(text):
    pieces = [m.group().encode() for m in PATTERN.finditer(text)]
    assert b"".join(pieces) == text.encode(), "the pattern covers every character"
    return json.dumps({"text": text, "pieces": [len(p) for p in pieces]}, ensure_ascii=False)


def mixtures(alphabet, n, seed, longest):
    rng = random.Random(seed)
    for _ in range(n):
        yield "".join(
            rng.choice(PHRASES) if rng.random() < 0.2 else rng.choice(alphabet) for _ in range(rng.randint(1, longest))
        )


def code_points():
    for code in range(0x110000):
        c = chr(code)
        if comparable(c):
            yield f"{c}a{c}A{c}中{c}1{c} {c}\n{c}{c}!{c}é {c}Ab1{c}Cd"


def main():
    arguments = sys.argv[1:]
    if arguments == ["--code-points"]:
        texts = code_points()
    elif arguments:
        contents = [pathlib.Path(name).read_text(encoding="utf-8", errors="ignore") for name in arguments]
        assigned = [c for c in dict.fromkeys("".join(contents)) if comparable(c)]
        texts = contents + list(mixtures(assigned + list(KINDS), 20000, seed=1, longest=60))
    else:
        texts = list(mixtures(KINDS, 300, seed=2, longest=40))
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    for text in texts:
        print(case(text))


main()
