#!/usr/bin/env python3
"""Checks what nvcc made of each kernel against what the kernel's file declares.

  // Registers 66, spills 0.                          the kernels of this file
  // prep_kernel: registers 168, spills 8, stack 8.   this kernel

in a comment of the file that defines the kernel. Of several instances of a template the most counts; spills are bytes of stores and loads,
stack is bytes of the frame. What is not declared is 0; registers that are not declared are not compared. The hardware allots registers in
eights: a declaration holds when it leads to as many as the kernel needs.

  tools/check_kernels.py LOG          LOG: output of a fresh configuration and a full build (cmake/cuda.cmake compiles with -Xptxas=-v);
                                      prints the kernels and one line per finding, exit status 1 when there is one
  tools/check_kernels.py --self-test  plants one mistake of each kind and expects it to be found
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = '13.0'  # of nvcc, by which the declared figures were made
ALLOTTED = 8  # registers of a thread at a time

COMPILER = re.compile(r'The CUDA compiler identification is NVIDIA ([\d.]+)')
OBJECT = re.compile(r'Building CUDA object \S*?\.dir/(src/\S+\.cu)\.o')
ENTRY = re.compile(r"ptxas info\s*: Compiling entry function '(\w+)' for '(\w+)'")
FRAME = re.compile(r'(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads')
USED = re.compile(r'ptxas info\s*: Used (\d+) registers')
SERIALIZED = re.compile(r'\(C75\d\d\) (Potential Performance Loss.*)')

KERNEL = re.compile(r'__global__\s[^;{]*?(\w+)\s*\((?!\s*\()[^;{]*\)\s*\{')
DECLARED = re.compile(r'//.*?(?:\b(\w+): r|\bR)egisters (\d+)(?:, spills (\d+))?(?:, stack (\d+))?')
NOT_IN_MODULE = re.compile(r'_(check|bench|case)[^/]*\.cu$')


class Use:
    """What the instances of one kernel need at most."""

    def __init__(self):
        self.registers = self.spills = self.stack = self.instances = 0


def attributes_removed(text):
    """Without what stands between __global__ and the name in parentheses, as __launch_bounds__(128, 3)."""
    return re.sub(r'__(launch_bounds|cluster_dims|maxnreg|block_size)__\s*\([^()]*(\([^()]*\)[^()]*)*\)', '', text)


def kernels_of(text):
    return KERNEL.findall(attributes_removed(re.sub(r'//.*', '', text)))


def read_log(log, sources):
    """(file that defines the kernel, kernel) -> Use, files compiled, findings."""
    used, compiled, findings = {}, set(), []
    source = use = None
    for line in log.splitlines():
        if match := OBJECT.search(line):
            source, use = match[1], None
            compiled.add(source)
        elif source and NOT_IN_MODULE.search(source):
            continue  # a program that checks kernels
        elif match := ENTRY.search(line):
            key = place_of(match[1], source, sources)
            if key is None:
                findings.append(f'{source}: {match[1]}: no source file defines this kernel')
                use = Use()
                continue
            use = used.setdefault(key, Use())
            use.instances += 1
        elif (match := FRAME.search(line)) and use:
            stack, stores, loads = map(int, match.groups())
            use.stack, use.spills = max(use.stack, stack), max(use.spills, stores + loads)
        elif (match := USED.search(line)) and use:
            use.registers = max(use.registers, int(match[1]))
        elif match := SERIALIZED.search(line):
            findings.append(f'{source}: {match[1]}')
    return used, compiled, findings


def place_of(symbol, source, sources):
    """Where the kernel of this symbol is defined: in the file that is compiled, else in a header of the project."""
    for path in [source, *sorted(p for p in sources if p.endswith('.cuh'))]:
        for name in kernels_of(sources.get(path, '')):
            if re.search(rf'(?<!\d){len(name)}{name}|[0-9a-f]{{8}}{len(name)}{name}', symbol):
                return path, name
    return None


def declarations(path, text):
    """kernel or None -> (registers, spills, stack), findings."""
    declared, findings = {}, []
    for name, registers, spills, stack in DECLARED.findall(text):
        if name and name not in kernels_of(text):
            findings.append(f'{path}: {name}: declares registers, but there is no kernel of that name')
        elif (name or None) in declared:
            findings.append(f'{path}: {name or "all kernels"}: registers are declared twice')
        declared[name or None] = (int(registers), int(spills or 0), int(stack or 0))
    return declared, findings


def compare(path, name, use, declared):
    registers, spills, stack = declared.get(name, declared.get(None, (None, 0, 0)))
    findings = []
    for what, expected, got in (('registers', registers, use.registers), ('bytes of spills', spills, use.spills),
                                ('bytes of stack', stack, use.stack)):
        unit = ALLOTTED if what == 'registers' else 1
        if expected is not None and -(-expected // unit) != -(-got // unit):
            findings.append(f'{path}: {name}: {what}: declared {expected}, got {got}')
    return findings


def check(log, sources):
    """sources: path -> text of all .cu and .cuh files of the module. Returns (kernels, findings)."""
    release = COMPILER.search(log)
    if not release or not release[1].startswith(RELEASE + '.'):
        return {}, [f'expected the log of a fresh configuration with nvcc {RELEASE}, got {release[1] if release else "none"}']
    used, compiled, findings = read_log(log, sources)
    for path, text in sorted(sources.items()):
        declared, wrong = declarations(path, text)
        findings += wrong
        if path.endswith('.cu') and path not in compiled:
            findings.append(f'{path}: not in the log: a build of all files is needed (--clean-first)')
            continue
        for name in dict.fromkeys(kernels_of(text)):
            if (path, name) in used:
                findings += compare(path, name, used[path, name], declared)
            elif path.endswith('.cu'):
                findings.append(f'{path}: {name}: defined here, but nothing was compiled of it')
    return used, findings


def read_tree(root):
    paths = [p for suffix in ('cu', 'cuh') for p in (root / 'src').rglob(f'*.{suffix}') if not NOT_IN_MODULE.search(p.name)]
    return {str(p.relative_to(root)): p.read_text() for p in paths}


SOURCES = {
    'src/ops/o/o_sm90.cu': '''// What it does.
// Smem    2 KB. Registers 66, spills 0.
template <int k> __global__ void __launch_bounds__(kThreads, 3) step_kernel(const __grid_constant__ Args<k> a) {
}
''',
    'src/ops/o/o_sm90_two.cu': '''// first_kernel: registers 168, spills 8, stack 16.
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(size_of(k), 1)
    first_kernel(Args a, char* b) {
}
__global__ void other(int n) {
}
''',
    'src/ops/o/o_sm90.cuh': '// Registers 20, spills 0.\ntemplate <int k>\n__global__ void shared_kernel() {\n}\n',
}
CHECK_LOG = '''[4/4] Building CUDA object CMakeFiles/o_sm90_check.dir/src/ops/o/o_sm90_check.cu.o
ptxas info    : Compiling entry function '_ZN6linnet5flushEv' for 'sm_90a'
    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
'''
LOG = '''-- The CUDA compiler identification is NVIDIA 13.0.88
[1/3] Building CUDA object CMakeFiles/linnet_cuda_kernels.dir/src/ops/o/o_sm90.cu.o
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN6linnet59_GLOBAL__N__cbbe45cc_9_o_sm90_cu_a8f9596711step_kernelILi1EEEvi' for 'sm_90a'
ptxas info    : Function properties for _ZN6linnet59_GLOBAL__N__cbbe45cc_9_o_sm90_cu_a8f9596711step_kernelILi1EEEvi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers
ptxas info    : Compiling entry function '_ZN6linnet59_GLOBAL__N__cbbe45cc_9_o_sm90_cu_a8f9596711step_kernelILi0EEEvi' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 66 registers, used 1 barriers
[2/3] Building CUDA object CMakeFiles/linnet_cuda_kernels.dir/src/ops/o/o_sm90_two.cu.o
ptxas info    : Compiling entry function '_ZN6linnet12first_kernelE4ArgsPc' for 'sm_90a'
    16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 16 bytes cumulative stack size
ptxas info    : Compiling entry function '_ZN6linnet5otherEi' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 1 barriers
ptxas info    : Compiling entry function '_ZN6linnet13shared_kernelILi3EEEv' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 1 barriers
'''
# where, what is replaced, by what, what the finding must say
PLANTED = [
    ('log', 'Used 66 registers', 'Used 73 registers', 'o_sm90.cu: step_kernel: registers: declared 66, got 73'),
    ('log', 'Used 20 registers', 'Used 25 registers', 'o_sm90.cuh: shared_kernel: registers: declared 20, got 25'),
    ('log', '0 bytes spill stores', '12 bytes spill stores', 'step_kernel: bytes of spills: declared 0, got 12'),
    ('log', '4 bytes spill loads', '0 bytes spill loads', 'first_kernel: bytes of spills: declared 8, got 4'),
    ('log', '16 bytes stack frame', '24 bytes stack frame', 'first_kernel: bytes of stack: declared 16, got 24'),
    ('log', '5otherEi', '5thingEi', 'no source file defines this kernel'),
    ('log', '13.0.88', '13.1.80', 'expected the log of a fresh configuration with nvcc 13.0, got 13.1.80'),
    ('log', '-- The CUDA', '-- The', 'got none'),
    ('log', '[2/3]', 'ptxas info : (C7510) Potential Performance Loss: wgmma serialized\n[2/3]', 'wgmma serialized'),
    ('src/ops/o/o_sm90.cu', '66', '64', 'registers: declared 64, got 66'),
    ('src/ops/o/o_sm90.cu', 'spills 0', 'spills 8', 'bytes of spills: declared 8, got 0'),
    ('src/ops/o/o_sm90.cu', '// What', '// Registers 1.\n// What', 'registers are declared twice'),
    ('src/ops/o/o_sm90_two.cu', '// first_kernel: ', '// last_kernel: ', 'last_kernel: declares registers, but there is no kernel'),
    ('src/ops/o/o_sm90_two.cu', 'other(int n) {\n}', 'other(int n) {\n}\n__global__ void unused() {\n}', 'unused: defined here'),
    ('src/ops/o/o_sm90_new.cu', '', '// A new file.', 'o_sm90_new.cu: not in the log'),
]


def self_test():
    kernels, findings = check(LOG + CHECK_LOG, SOURCES)
    failures = [f'clean log: {f}' for f in findings]
    if len(kernels) != 4 or sum(k.instances for k in kernels.values()) != 5:
        failures.append(f'expected 4 kernels in 5 instances, got {sorted(kernels)}')
    if findings := check(LOG.replace('Used 66', 'Used 65'), SOURCES)[1]:
        failures.append(f'65 registers, declared 66: {findings}')
    for where, old, new, expected in PLANTED:
        log, sources = LOG, dict(SOURCES)
        if where == 'log':
            log = log.replace(old, new, 1)
        else:
            sources[where] = sources.get(where, '').replace(old, new, 1)
        findings = check(log, sources)[1]
        if not any(expected in f for f in findings):
            failures.append(f'{old!r} -> {new!r}: expected a finding with {expected!r}, got {findings}')
    print('\n'.join(failures) or f'check_kernels: {len(PLANTED)} planted mistakes found')
    return 1 if failures else 0


def main():
    if sys.argv[1:] == ['--self-test']:
        return self_test()
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    kernels, findings = check(Path(sys.argv[1]).read_text(errors='replace'), read_tree(ROOT))
    for (path, name), use in sorted(kernels.items()):
        print(f'{path}: {name}: {use.instances} instances, registers {use.registers}, spills {use.spills}, stack {use.stack}')
    print('\n'.join(findings + [f'check_kernels: {len(kernels)} kernels, {len(findings)} findings']))
    return 1 if findings or not kernels else 0


sys.exit(main())
