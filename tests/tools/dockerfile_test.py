#!/usr/bin/env python3
"""What can be said of packaging/Dockerfile without building it: tests/tools/dockerfile_test.py PROGRAM.

Its stages, files and shell hold together, and what it starts and asks for its health works with the program.
"""
import fnmatch
import json
import os
import re
import select
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = os.path.abspath(sys.argv[1])
PATIENCE = 60
WORDS = {'FROM', 'WORKDIR', 'COPY', 'RUN', 'USER', 'EXPOSE', 'HEALTHCHECK', 'ENTRYPOINT', 'CMD'}
NEEDED = ['linnet', 'CMakeLists.txt', 'CMakePresets.json', 'cmake', 'src', 'README.md', 'LICENSE', 'docs', 'packaging', 'models/default']


def expect(true, what):
    if not true:
        sys.exit(f'dockerfile_test: {what}')


def instructions(text):
    """(word, options, the rest) of each instruction."""
    text = re.sub(r'^#.*\n', '', text, flags=re.MULTILINE)
    for line in re.sub(r'\\\n', ' ', text).splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(' ')
        options = []
        while match := re.match(r'--(\S+)\s+', rest):
            options.append(match[1])
            rest = rest[match.end():]
        yield word, options, rest


def ignored(path):
    patterns = (ROOT / '.dockerignore').read_text().split()
    return any(fnmatch.fnmatch(part, pattern) for part in (path, path.split('/')[0]) for pattern in patterns)


def check_files(all_of_it):
    stages, made = {}, ''  # stage: the shell of its RUN instructions
    for word, options, rest in all_of_it:
        expect(word in WORDS, f'{word}: not among the instructions that this test knows')
        if word == 'FROM':
            match = re.fullmatch(r'debian:bookworm(?:-slim)?(?: AS (\w+))?', rest)
            expect(match, f'FROM {rest}: expected an image of bookworm')
            stages[name := match[1] or ''] = ''
        elif word == 'COPY':
            *sources, _ = rest.split()
            for path in NEEDED if sources == ['.'] else sources:
                expect((ROOT / path).exists() and not ignored(path), f'COPY: {path}: not there, or in .dockerignore')
        elif word == 'RUN':
            expect(subprocess.run(['sh', '-n', '-c', rest]).returncode == 0, f'RUN {rest}: not shell')
            stages[name] += rest + '\n'
            for option in options:
                mount = dict(part.split('=') for part in option.removeprefix('mount=').split(','))
                expect(mount['from'] in stages and mount['source'] in stages[mount['from']],
                       f'RUN --{option}: {mount["source"]}: not made in stage {mount["from"]}')
                expect(f'{mount["target"]}/' in rest, f'RUN --{option}: nothing is taken from {mount["target"]}')
    expect('cpack --config build/release/CPackConfig.cmake' in stages['build'], 'the first stage makes no package')
    expect(os.access(ROOT / 'linnet', os.X_OK) and './linnet build' in stages['build'], 'the first stage does not build')


def check_server(one):
    start, start_with = json.loads(one['ENTRYPOINT']), json.loads(one['CMD'])
    health = json.loads(one['HEALTHCHECK'].partition('CMD ')[2])
    port = one['EXPOSE']
    expect(start == ['linnet'] and health[0] == 'linnet', 'expected the program that the package installs')
    expect(f'http://127.0.0.1:{port}' in health, f'HEALTHCHECK: expected port {port}')
    expect(re.search(rf'--port.*\b{port}\b', subprocess.run([PROGRAM, 'serve', '--help'], capture_output=True, text=True).stdout),
           f'EXPOSE {port}: not the default port of linnet serve')
    server = subprocess.Popen([PROGRAM, *start_with, '--port', '0', '-t', '1', '--quiet', '--model', str(ROOT / 'models/tiny-random')],
                              env={**os.environ, 'LINNET_API_KEY': 'key'}, stdout=subprocess.PIPE, text=True)
    try:
        ready, _, _ = select.select([server.stdout], [], [], PATIENCE)
        match = re.search(r' at http://0\.0\.0\.0:(\d+)$', server.stdout.readline() if ready else '')
        expect(match, 'the server does not say that it listens on every address')
        asked = [PROGRAM, *(word.replace(f':{port}', f':{match[1]}') for word in health[1:])]
        expect(subprocess.run(asked, stdout=subprocess.DEVNULL).returncode == 0, 'HEALTHCHECK: a healthy server fails it')
    finally:
        server.terminate()
        server.wait()
    expect(subprocess.run(asked, capture_output=True).returncode != 0, 'HEALTHCHECK: no server passes it')


everything = list(instructions((ROOT / 'packaging/Dockerfile').read_text()))
check_files(everything)
check_server({word: rest for word, _, rest in everything})
print(f'dockerfile_test: {len(everything)} instructions')
