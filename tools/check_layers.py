#!/usr/bin/env python3
"""Checks the include lines of src/, tests/ and bindings/ against the dependency direction, the length of files, and that files
named as tests, benchmarks and fuzzers hold one.

    core <- formats, ops, dist <- model <- runtime, train <- cli, bindings; runtime <- server <- cli

  tools/check_layers.py               checks the tree; prints one line per finding, exit status 1 when there is one
  tools/check_layers.py --self-test   plants one violation of each rule and expects it to be found
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Layer -> the layers it may include besides itself. runtime and train never see each other.
BELOW_MODEL = {'core', 'formats', 'ops', 'dist'}
LAYERS = {
    'core': set(),
    'formats': {'core'},
    'ops': {'core'},
    'dist': {'core'},
    'model': BELOW_MODEL,
    'runtime': BELOW_MODEL | {'model'},
    'train': BELOW_MODEL | {'model'},
    'server': BELOW_MODEL | {'model', 'runtime'},
    'cli': BELOW_MODEL | {'model', 'runtime', 'train', 'server'},
    'bindings': BELOW_MODEL | {'model', 'runtime', 'train'},
    'tests': {'core'},  # tests/support: what every test program links
}

# Headers from outside -> the files that may include them.
OUTSIDE = [
    (r'nlohmann/', r'\.cpp$', 'JSON belongs into .cpp files'),
    (r'hwy/', r'_simd[^/]*\.(cpp|h)$|-inl\.h$|_test\.cpp$|^src/core/cpu_features\.',
     'Highway belongs into *_simd*.cpp, *-inl.h and core/cpu_features'),
    (r'\w*intrin\.h', r'_(avx512_bf16|amx)\.cpp$', 'intrinsics belong into *_avx512_bf16.cpp and *_amx.cpp'),
    (r'CLI/', r'^src/cli/', 'CLI11 belongs into src/cli'),
    (r'g(test|mock)/', r'_test\.cpp$|_test_support\.(h|cpp)$|_case\.h$|^tests/', 'GoogleTest belongs into tests'),
    (r'benchmark/', r'_bench\.cpp$', 'Google Benchmark belongs into *_bench.cpp'),
    (r'(torch|ATen|c10|pybind11)/|Python\.h', r'^bindings/', 'torch and Python belong into bindings/'),
    (r'(cuda|cublas|cute|cutlass|cooperative_groups|nccl)\w*[./]', r'\.cuh?$|_(cuda|nccl)\w*\.cpp$',
     'CUDA belongs into .cu, .cuh and *_cuda*.cpp'),
    (r'bits/', r'^$', 'the standard library\'s internal headers belong nowhere'),
]

# Files whose name promises something -> what keeps the promise.
PROMISES = [
    (r'_test\.cpp$', r'^(TYPED_)?TEST(_F|_P)?\(', 'a test'),
    (r'_bench\.cpp$', r'\bBENCHMARK|\bRegisterBenchmark\(', 'a benchmark'),
    (r'_fuzz\.cpp$', r'\bLLVMFuzzerTestOneInput\(', 'LLVMFuzzerTestOneInput'),
]

WARN_LINES, MAX_LINES = 500, 800
SOURCES = {'.h', '.cpp', '.cu', '.cuh'}
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def layer_of(path):
    parts = path.split('/')
    return parts[1] if parts[0] == 'src' and len(parts) > 2 else parts[0]


def check_project_include(path, target, paths):
    """What is wrong with `#include "target"` in the file `path`; None when nothing is."""
    found = next((p for p in (f'src/{target}', f'tests/{target}', f'bindings/{target}') if p in paths), None)
    if found is None:
        return f'"{target}": expected a path from src/, tests/ or bindings/ that exists'
    here, there = layer_of(path), layer_of(found)
    is_test = re.search(r'_(test|bench|fuzz|check)\.(cpp|cu)$|_test_support\.(h|cpp)$|_cases?\.(h|cpp|cuh)$', path)
    if here == there or there in LAYERS.get(here, ()) or (there == 'tests' and is_test):
        return None
    return f'"{target}": {here} may include {", ".join(sorted(LAYERS.get(here, set()) | {here}))}, not {there}'


def check(files):
    """files: path from the root -> text. Returns (errors, warnings), each a list of 'path:line: finding'."""
    errors, warnings = [], []
    for path, text in sorted(files.items()):
        lines = text.splitlines()
        if layer_of(path) not in LAYERS:
            errors.append(f'{path}:1: {layer_of(path)}: no layer of that name in tools/check_layers.py')
        repeatable = path.endswith('-inl.h')  # compiled once for each Highway target
        if path.endswith(('.h', '.cuh')) and not repeatable and '#pragma once' not in lines:
            errors.append(f'{path}:1: expected #pragma once')
        if len(lines) > WARN_LINES:
            finding = f'{path}:{len(lines)}: {len(lines)} lines: over {WARN_LINES} is a smell, {MAX_LINES} is the limit'
            (errors if len(lines) > MAX_LINES else warnings).append(finding)
        errors += [f'{path}:1: expected {what}' for name, pattern, what in PROMISES
                   if re.search(name, path) and not re.search(pattern, text, re.MULTILINE)]
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            project, outside = match.groups()
            findings = [check_project_include(path, project, files)] if project else [
                f'<{outside}>: {rule}' for header, allowed, rule in OUTSIDE
                if re.match(header, outside) and not re.search(allowed, path)]
            errors += [f'{path}:{number}: {finding}' for finding in findings if finding]
    return errors, warnings


def read_tree(root):
    return {str(path.relative_to(root)): path.read_text()
            for folder in ('src', 'tests', 'bindings') for path in (root / folder).rglob('*') if path.suffix in SOURCES}


CLEAN = {
    'src/core/a.h': '#pragma once\n#include <vector>\n',
    'src/formats/f.h': '#pragma once\n#include "core/a.h"\n',
    'src/formats/f.cpp': '#include <nlohmann/json.hpp>\n',
    'src/ops/o/o.h': '#pragma once\n#include "core/a.h"\n',
    'src/ops/o/o_simd.cpp': '#include <hwy/highway.h>\n#include "ops/o/o.h"\n',
    'src/ops/o/o-inl.h': '#include <hwy/highway.h>\n',
    'src/ops/o/o_amx.cpp': '#include <immintrin.h>\n',
    'src/ops/o/o_test.cpp': '#include <gtest/gtest.h>\n#include "support/s.h"\nTEST_F(a, b) {}\n',
    'src/model/m.h': '#pragma once\n#include "ops/o/o.h"\n#include "formats/f.h"\n',
    'src/runtime/r.h': '#pragma once\n#include "model/m.h"\n',
    'src/server/s.h': '#pragma once\n#include "runtime/r.h"\n',
    'src/cli/c.cpp': '#include <CLI/CLI.hpp>\n#include "server/s.h"\n',
    'tests/support/s.h': '#pragma once\n#include <gtest/gtest.h>\n#include "core/a.h"\n',
}
# path, text, what the finding must say
PLANTED = [
    ('src/core/x.cpp', '#include "formats/f.h"', 'core may include core, not formats'),
    ('src/ops/o/x.cpp', '#include "model/m.h"', 'ops may include core, ops, not model'),
    ('src/formats/x.cpp', '  # include "ops/o/o.h"', 'not ops'),
    ('src/model/x.cpp', '#include "runtime/r.h"', 'not runtime'),
    ('src/train/x.cpp', '#include "runtime/r.h"', 'not runtime'),
    ('src/runtime/x.cpp', '#include "support/s.h"', 'not tests'),
    ('src/runtime/x.cpp', '#include "server/s.h"', 'not server'),
    ('src/model/x.cpp', '#include "m.h"', 'that exists'),
    ('src/model/x.cpp', '#include "../ops/o/o.h"', 'that exists'),
    ('src/formats/x.h', '#pragma once\n#include <nlohmann/json.hpp>', 'JSON belongs'),
    ('src/ops/o/x.cpp', '#include <hwy/highway.h>', 'Highway belongs'),
    ('src/ops/o/x_simd.cpp', '#include <immintrin.h>', 'intrinsics belong'),
    ('src/runtime/x.cpp', '#include <CLI/CLI.hpp>', 'CLI11 belongs'),
    ('src/ops/o/x.cpp', '#include <gtest/gtest.h>', 'GoogleTest belongs'),
    ('src/ops/o/x.cpp', '#include <benchmark/benchmark.h>', 'Google Benchmark belongs'),
    ('src/ops/o/x.h', '#pragma once\n#include <torch/extension.h>', 'torch and Python belong'),
    ('src/ops/o/x.h', '#pragma once\n#include <cuda_runtime.h>', 'CUDA belongs'),
    ('src/core/x.cpp', '#include <bits/stl_pair.h>', 'internal headers'),
    ('src/core/x.h', 'int x;', 'expected #pragma once'),
    ('src/core/x.cpp', 'int x;\n' * 801, 'is the limit'),
    ('src/core/x_test.cpp', '// TEST(a, b) {}', 'expected a test'),
    ('src/core/x_bench.cpp', 'int x;', 'expected a benchmark'),
    ('src/core/x_fuzz.cpp', 'int x;', 'expected LLVMFuzzerTestOneInput'),
    ('src/extra/x.cpp', 'int x;', 'no layer of that name'),
]


def self_test():
    failures = [f'clean tree: {e}' for e in check(CLEAN)[0]]
    for path, text, expected in PLANTED:
        errors, _ = check({**CLEAN, path: text})
        if len(errors) != 1 or expected not in errors[0]:
            failures.append(f'{path}: {text[:60]!r}: expected one finding with {expected!r}, got {errors}')
    if len(check({**CLEAN, 'src/core/x.cpp': 'int x;\n' * 501})[1]) != 1:
        failures.append('501 lines: expected one warning')
    print('\n'.join(failures) or f'check_layers: {len(PLANTED)} planted violations found')
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ['--self-test']:
        return self_test()
    files = read_tree(ROOT)
    errors, warnings = check(files)
    for finding in warnings:
        print(f'warning: {finding}')
    for finding in errors:
        print(finding)
    print(f'check_layers: {len(files)} files, {len(errors)} errors, {len(warnings)} warnings')
    return 1 if errors or not files else 0


sys.exit(main())
