#!/usr/bin/env python3
"""Checks what the documents name against what there is.

  - a path in backticks or in a link exists (`<op>` and `*` stand for anything, `ops/gemm/gemm.h` is looked for in src/ too);
  - a command in backticks or in a block of shell lines exists, and so do its flags (in `linnet COMMAND --help`);
  - an environment variable LINNET_... is read somewhere, a CMake preset is one;
  - a document that a comment of a source file points to exists;
  - a block of shell lines after the comment <!-- run --> runs: all of a document's in one new folder, in order;
  - no tracked file names a place of the machine that it was written on, README.md has at most 150 lines.

  tools/check_docs.py [--program FILE]   checks the tree; prints one line per finding, exit status 1 when there is one
  tools/check_docs.py --self-test        plants one mistake of each kind and expects it to be found
"""
import argparse
import fnmatch
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

DOCUMENTS = ('README.md', 'CONTRIBUTING.md', 'docs/*.md', 'src/*/README.md', 'bench/*.md', 'models/*.md')  # * spans folders
LAUNCHER_COMMANDS = ('test', 'build')
GROUPS = ('tokenizer', 'data')  # commands that hold commands
MACHINE_PATH = re.compile(r'(?<![\w.}])/(?:work|root|home/\w+|tmp/wt)/')  # in any tracked text
MAX_README_LINES = 150

LINK = re.compile(r'\[[^\]]*\]\(([^)\s]+)\)')
CODE = re.compile(r'`([^`]+)`')
PATH = re.compile(r'\.?[\w<>*.@{},-]+(/[\w<>*.@{},-]+)*/?')
SOURCE_NAME = re.compile(r'[\w<>*.-]+\.(h|cpp|cu|cuh|py|md|cmake)')
FLAG = re.compile(r'--?[A-Za-z][\w-]*')
RUN_SECONDS = 600


class Tree:
    """The tracked files, the program's help and what else the documents may name."""

    def __init__(self, files, help_of, sources):
        self.files = set(files)
        self.folders = {'/'.join(f.split('/')[:i]) for f in files for i in range(1, f.count('/') + 1)}
        self.help_of = help_of    # command -> text of its --help, None when there is no such command
        self.sources = sources    # texts of launcher, CMake files, tools and src/: environment variables, flags of tools
        self.presets = {p['name'] for p in json.loads(sources.get('CMakePresets.json', '{}')).get('configurePresets', [])}

    def has(self, path, folder):
        """Whether `path`, as written in a document in `folder`, names something."""
        for base in ('', 'src/', 'src/ops/', folder + '/' if folder else ''):
            name = normal(base + path)
            if name in self.files or name in self.folders or name == '':
                return True
            if re.search(r'[<*{]', name):
                pattern = re.sub(r'<[^>]*>|\{[^}]*\}', '*', name)
                if any(fnmatch.fnmatchcase(f, pattern) for f in self.files | self.folders):
                    return True
        return False

    def has_name(self, name):
        pattern = re.sub(r'<[^>]*>', '*', name)
        return any(fnmatch.fnmatchcase(f.rsplit('/', 1)[-1], pattern) for f in self.files)

    def mentions(self, word):
        return any(re.search(rf'(?<![\w-]){re.escape(word)}(?![\w-])', text) for text in self.sources.values())


def normal(path):
    parts = []
    for part in path.split('/'):
        if part == '..' and parts:
            parts.pop()
        elif part not in ('', '.'):
            parts.append(part)
    return '/'.join(parts)


def check_flags(words, text, command):
    return [f'`{command}` has no flag {flag}' for flag in (w.split('=')[0] for w in words)
            if FLAG.fullmatch(flag) and flag != '--help' and not re.search(rf'(?<![\w-]){re.escape(flag)}(?![\w-])', text)]


def check_command(line, tree):
    """Findings in one shell line; commands that are not of this project are not looked at."""
    findings = []
    for part in re.split(r'&&|\|\||[|;]', re.sub(r"'[^']*'|\"[^\"]*\"", 'TEXT', line.split(' #')[0])):
        words = re.split(r'[<>]', part)[0].split()
        while words and re.fullmatch(r'\$|\w+=\S*', words[0]):
            findings += check_variables(words.pop(0), tree)
        if not words:
            continue
        name, arguments = words[0], words[1:]
        if name in ('./linnet', 'linnet'):
            names = [w for w in arguments if not w.startswith('-')]
            command = ' '.join(names[:2 if names[0] in GROUPS else 1]) if names else ''
            if command in LAUNCHER_COMMANDS or re.fullmatch(r'[A-Z.]+', command):
                continue  # the rest is ctest's; or a placeholder
            text = tree.help_of(command)
            if text is None:
                findings.append(f'`linnet {command}`: no such command')
            else:
                findings += check_flags(arguments, text, f'linnet {command}')
        elif name.startswith(('tools/', './tools/', '.ci/', 'scripts/')):
            if normal(name) not in tree.files:
                findings.append(f'{name}: no such file')
            else:
                findings += check_flags(arguments, tree.sources.get(normal(name), ''), name)
        elif name == 'cmake' and '--preset' in arguments:
            preset = arguments[arguments.index('--preset') + 1]
            if preset not in tree.presets:
                findings.append(f'no CMake preset {preset}')
    return findings


def check_variables(text, tree):
    return [f'{name}: nothing reads it' for name in re.findall(r'\bLINNET_[A-Z_]*[A-Z]\b', text) if not tree.mentions(name)]


def check_span(span, folder, tree):
    """Findings in one `span` of code in running text."""
    words = span.split()
    if words[0] in ('./linnet', 'linnet', 'cmake') or re.match(r'(tools|\.ci|scripts)/\w', words[0]):
        return check_command(span, tree)
    if len(words) > 1:
        return []
    if FLAG.fullmatch(span.split('=')[0]) and span.startswith('--'):
        flag = span.split('=')[0]
        return [] if tree.mentions(flag) or flag in (tree.help_of('') or '') else [f'nothing has a flag {flag}']
    if SOURCE_NAME.fullmatch(span):
        return [] if tree.has_name(span) else [f'{span}: no file of that name']
    if '/' in span.strip('/') and PATH.fullmatch(span) or span.endswith('/') and PATH.fullmatch(span):
        first = span.removeprefix('./').split('/')[0]
        is_path = first in tree.folders or f'src/{first}' in tree.folders or SOURCE_NAME.fullmatch(span.split('/')[-1])
        return [] if not is_path or tree.has(span, folder) else [f'{span}: no such path']
    return []


def check_document(path, text, tree):
    findings = []
    folder = path.rpartition('/')[0]
    block = None  # language of the fenced block that the line is in
    for number, line in enumerate(text.splitlines(), 1):
        found = check_variables(line, tree)
        fence = re.match(r'\s*```(\w*)', line)
        if fence:
            block = fence[1] or 'text' if block is None else None
        elif block in ('sh', 'bash', 'console'):
            found += check_command(line.strip().removeprefix('$ '), tree)
        elif block is None:
            for span in CODE.findall(line):
                found += check_span(span.strip(), folder, tree) if span.strip() else []
            for target in LINK.findall(CODE.sub('', line)):
                target = target.split('#')[0]
                if target and not re.match(r'\w+:', target) and not tree.has(target, folder):
                    found.append(f'{target}: no such path')
        findings += [f'{path}:{number}: {finding}' for finding in dict.fromkeys(found)]
    if path == 'README.md' and text.count('\n') > MAX_README_LINES:
        findings.append(f'{path}: expected at most {MAX_README_LINES} lines, got {text.count(chr(10))}')
    return findings


def check_machine_paths(path, text):
    return [f'{path}:{number}: names a place of one machine: {line.strip()[:80]}'
            for number, line in enumerate(text.splitlines(), 1) if MACHINE_PATH.search(line)]


def check_references(path, text, tree):
    """Documents that the comments of a source file point to."""
    return [f'{path}:{number}: {name}: no such document' for number, line in enumerate(text.splitlines(), 1)
            for name in re.findall(r'(?<![\w/])(?:docs|src|tests|bench)/[\w/.-]+\.md\b', line) if name not in tree.files]


def run_blocks(text):
    return re.findall(r'<!-- run -->\s*```sh\n(.*?)```', text, re.DOTALL)


def run_document(path, text, root):
    """Runs the marked blocks of one document in a new folder that looks like the tree: what they write stays out of it."""
    blocks = run_blocks(text)
    if not blocks:
        return []
    script = 'set -euo pipefail\n' + '\n'.join(blocks)
    with tempfile.TemporaryDirectory() as folder:
        for entry in root.iterdir():
            (Path(folder) / entry.name).symlink_to(entry)
        result = subprocess.run(['bash', '-c', script], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, errors='replace', timeout=RUN_SECONDS)
    if result.returncode == 0:
        return []
    return [f'{path}: a marked block ended with status {result.returncode}: {result.stderr.strip()[-800:]}']


def is_document(path):
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in DOCUMENTS)


def read_text(path):
    data = path.read_bytes()
    return None if b'\0' in data[:8192] else data.decode(errors='replace')


def program_help(program):
    """command -> help text, asked once for each."""
    known = {}

    def help_of(command):
        if command not in known:
            result = subprocess.run([program, *command.split(), '--help'], stdin=subprocess.DEVNULL,
                                    capture_output=True, text=True, timeout=60)
            known[command] = result.stdout if result.returncode == 0 else None
        return known[command]

    return help_of


def check_tree(program):
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [f for f in listed.split('\0') if f and (ROOT / f).is_file()]
    texts = {f: read_text(ROOT / f) for f in files if not f.startswith(('tests/data/', 'tests/corpus/'))}
    texts = {f: text for f, text in texts.items() if text is not None}
    sources = {f: text for f, text in texts.items() if not f.endswith('.md')}
    tree = Tree(files, program_help(program), sources)
    findings = [f for path, text in texts.items() for f in check_machine_paths(path, text)]
    findings += [f for path, text in sources.items() if not path.startswith('tools/')
                 for f in check_references(path, text, tree)]
    documents = {path: text for path, text in texts.items() if is_document(path)}
    for path, text in sorted(documents.items()):
        findings += check_document(path, text, tree)
        findings += run_document(path, text, ROOT)
    print('\n'.join(findings + [f'check_docs: {len(documents)} documents, {len(findings)} findings']))
    return 1 if findings or 'README.md' not in documents else 0


CLEAN = '''# Title
See [the design](docs/a.md#part), `src/ops/gemm/gemm.h`, `ops/gemm/gemm.h`, `gemm.h`, `src/ops/<op>/<op>.h`, `src/`, `*.h`.
`./linnet test`, `linnet generate -p TEXT`, `--seed`, `LINNET_ISA`, `tools/t.py --self-test`, `model.layers.3`, `a/b`.
```sh
LINNET_ISA=avx2 ./linnet generate --seed 1 -p 'a --b' > out | other --flag   # comment
cmake --preset release && ./linnet test -R formats
```
'''
# a line added to the clean document, what the finding must say
PLANTED = [
    ('[x](docs/b.md)', 'docs/b.md: no such path'),
    ('`src/ops/gemm/gone.h`', 'no such path'),
    ('`ops/gone/`', 'no such path'),
    ('`src/model/<name>.cpp`', 'no such path'),
    ('`gone.cpp`', 'no file of that name'),
    ('`linnet sing`', 'no such command'),
    ('`./linnet generate --sing`', 'no flag --sing'),
    ('`--sing`', 'nothing has a flag --sing'),
    ('```sh\n./linnet generate -p x -z\n```', 'no flag -z'),
    ('```sh\ncd x && ./linnet sing\n```', 'no such command'),
    ('```sh\ntools/gone.py\n```', 'no such file'),
    ('`tools/t.py --other`', 'no flag --other'),
    ('`cmake --preset fast`', 'no CMake preset fast'),
    ('`LINNET_SPEED`', 'nothing reads it'),
    ('\n' * 150, 'at most 150 lines'),
]


def self_test():
    sources = {'linnet': 'LINNET_ISA', 'tools/t.py': '--self-test', 'src/cli/x.cpp': '"--seed"',
               'CMakePresets.json': '{"configurePresets": [{"name": "release"}]}'}
    helps = {'': 'commands: generate', 'generate': '-p TEXT  prompt\n  --seed N'}
    tree = Tree(['README.md', 'docs/a.md', 'src/ops/gemm/gemm.h', *sources], helps.get, sources)
    failures = [f'clean document: {f}' for f in check_document('README.md', CLEAN, tree)]
    for line, expected in PLANTED:
        findings = check_document('README.md', CLEAN + line + '\n', tree)
        if len(findings) != 1 or expected not in findings[0]:
            failures.append(f'{line.strip()!r}: expected one finding with {expected!r}, got {findings}')
    for place in ('/work', '/root', '/home/me', '/tmp/wt'):
        if len(check_machine_paths('x.cpp', f'// see {place}/notes')) != 1:
            failures.append(f'{place}: expected a finding')
    if len(check_references('x.cpp', '// see docs/a.md and docs/b.md', tree)) != 1:
        failures.append('docs/b.md in a comment: expected a finding')
    if check_machine_paths('x.cpp', '// "${dir}/work/x", see/root/cause, build/work/'):
        failures.append('relative paths: expected no finding')
    for command, status in (('test -e linnet', 0), ('false', 1), ('false | true', 1)):
        text = f'<!-- run -->\n```sh\n{command}\n```\n'
        if len(run_document('README.md', text, ROOT)) != status:
            failures.append(f'marked block {command!r}: expected {status} findings')
    print('\n'.join(failures) or f'check_docs: {len(PLANTED)} planted mistakes found')
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description='Checks what the documents name against what there is.')
    parser.add_argument('--program', default=str(ROOT / 'build/release/linnet'), help='the built program')
    parser.add_argument('--self-test', action='store_true')
    arguments = parser.parse_args()
    return self_test() if arguments.self_test else check_tree(arguments.program)


sys.exit(main())
