#!/usr/bin/env python3
"""What serving costs beside the model, and what company brings, as ratios measured in one run.

  bench/serving.py PROGRAM [--model DIR] [--threads N] [--rounds N] [--starts N] [--only invariance] [--json]

Requests are greedy: `linnet bench` does not draw.

  streams    tokens a second of 16 streams over those of one
  overhead   time of a token of one stream over that of `linnet bench` (medians of interleaved rounds)
  first      99th percentile of the time to the first token: first requests of fresh processes over requests of a warm one
  health     GET /health a second while 16 streams run
  invariance what batch invariance costs: processor time of the server with it over that with --no-batch-invariance, for replies of one
             stream and of 16, and for prompts of 32 and of 1,024 tokens (the least of interleaved rounds). One thread: several wait busily
Needs nothing but Python's library. A quiet machine: the ratios of one run are comparable, no more.
"""
import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

PROMPT, REPLY, STREAMS = 32, 256, 16


class Bench:
    def __init__(self, args, threads=None):
        self.program, self.processes = args.program, {}
        self.engine = (['--model', args.model] if args.model else []) + ['--threads', str(threads or args.threads)]

    @contextlib.contextmanager
    def server(self, *options):
        process = subprocess.Popen([self.program, 'serve', '--port', '0', '--quiet', *self.engine, *options], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, text=True)
        try:
            url = re.search(r'http://\S+:\d+', process.stdout.readline())[0]
            self.processes[url] = process.pid
            yield url
        finally:
            process.terminate()
            process.wait()

    def output(self, *command):
        done = subprocess.run([self.program, *command, '--json'], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f'serving: linnet {" ".join(command)}: {done.stderr.strip()}')
        return json.loads(done.stdout)

    def load(self, url, requests, concurrency, *more):
        result = self.output('bench-serve', url, '-n', str(requests), '-c', str(concurrency), '--prompt-tokens', str(PROMPT),
                             '--output-tokens', str(REPLY), '--temperature', '0', *more)
        if result['failed']:
            raise SystemExit(f'serving: {result["failed"]} requests failed: {result["errors"]}')
        return result

    def decode_seconds(self):
        """Of a token, at the depths that a reply passes, without a server."""
        bench = self.output('bench', '--depths', str(PROMPT), '--prompt', '64', '--decode', str(REPLY), '--repetitions', '1', *self.engine)
        return bench['decode'][0]['seconds_per_token']['median']

    def throughput(self, rounds):
        one, many, alone = [], [], []
        with self.server() as url:
            self.load(url, 2, 1)
            for _ in range(rounds):
                alone.append(self.decode_seconds())
                one.append(self.load(url, 2, 1)['tpot_ms']['p50'] / 1000)
                many.append(self.load(url, STREAMS, STREAMS)['tpot_ms']['p50'] / 1000 / STREAMS)
        return tuple(map(statistics.median, (alone, one, many)))

    def first_tokens(self, starts):
        fresh = []
        for seed in range(starts):
            with self.server() as url:
                fresh.append(self.load(url, 1, 1, '--seed', str(seed), '--output-tokens', '2')['ttft_ms']['max'])
        with self.server() as url:
            self.load(url, 4, 1, '--seed', '999')
            warm = self.load(url, starts, 1, '--output-tokens', '2')['ttft_ms']
        return max(fresh), statistics.median(fresh), warm['p99'], warm['p50']

    def processor_time(self, url, *load):
        """Of the server's threads, in nanoseconds."""
        def total():
            return sum(int(file.read_text().split()[0]) for file in Path(f'/proc/{self.processes[url]}/task').glob('*/schedstat'))

        before = total()
        self.load(url, *load)
        return total() - before

    def invariance(self, rounds):
        loads = {'one_stream': (2, 1), f'streams_{STREAMS}': (STREAMS, STREAMS), 'prompts_of_32': (64, 1, '--output-tokens', '1'),
                 'prompts_of_1024': (8, 1, '--output-tokens', '1', '--prompt-tokens', '1024')}
        with self.server('--no-prefix-cache') as pinned, self.server('--no-prefix-cache', '--no-batch-invariance') as free:
            times = {name: ([], []) for name in loads}
            for _ in range(rounds):
                for name, load in loads.items():
                    for url, to in zip((pinned, free), times[name]):
                        to.append(self.processor_time(url, *load))
        return {name: min(with_it) / min(without) for name, (with_it, without) in times.items()}

    def health(self):
        with self.server() as url:
            background = subprocess.Popen([self.program, 'bench-serve', url, '-n', '100000', '-c', str(STREAMS), '--output-tokens', str(REPLY)],
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                return self.output('bench-serve', url, '--health', '--seconds', '3')['requests_per_second']
            finally:
                background.kill()
                background.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program')
    parser.add_argument('--model')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--starts', type=int, default=30)
    parser.add_argument('--only', choices=['invariance'])
    parser.add_argument('--json', action='store_true')
    args = parser.parse_args()
    bench = Bench(args)
    costs = Bench(args, threads=1).invariance(args.rounds)
    if args.only:
        print(json.dumps({'op': 'serving', 'invariance': costs}))
        return 0
    alone, one, many = bench.throughput(args.rounds)
    fresh, fresh_median, warm, warm_median = bench.first_tokens(args.starts)
    health = bench.health()
    record = {'op': 'serving', 'streams': one / many, 'overhead': one / alone - 1, 'first': fresh / warm, 'first_median': fresh_median / warm_median,
              'health_per_second': health, 'token_us': {'bench': alone * 1e6, 'one': one * 1e6, 'of_16': many * 1e6},
              'first_ms': {'fresh_p99': fresh, 'warm_p99': warm}, 'invariance': costs, 'threads': args.threads}
    if args.json:
        print(json.dumps(record))
        return 0
    print(f'{one / many:6.2f}  tokens/s of {STREAMS} streams over one     {1 / many:8.0f} /s and {1 / one:.0f} /s')
    print(f'{one / alone:6.3f}  a token served over linnet bench       {one * 1e6:8.0f} us and {alone * 1e6:.0f} us')
    print(f'{fresh / warm:6.2f}  first token, fresh over warm, p99      {fresh:8.1f} ms and {warm:.1f} ms (medians: {fresh_median / warm_median:.2f})')
    print(f'{health:6.0f}  /health a second beside {STREAMS} streams')
    for name, ratio in costs.items():
        print(f'{ratio:6.3f}  batch invariance, {name.replace("_", " ")}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
