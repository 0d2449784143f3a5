#!/usr/bin/env python3
"""Many conversations at once against `linnet serve`: every answer must be the one that was given alone.

  tests/server/soak_test.py PROGRAM --model DIR [--requests N] [--clients N] [--state-memory MIB] [--seed N]

Each conversation has its own canary word in every message. First each is held alone, on a server without a prefix cache. Then all run at
once, over and over, on a server whose memory is too small for their states: whole conversations, turns that start in the middle (forks),
requests that hang up half-way. Every answer that ends is compared with the lone one: text, tokens, and log-probabilities to the last
digit. No canary word may appear in another conversation, and the server's memory must not grow with the number of requests.
Prints one line a problem; exit status 1 when there is one. Needs nothing but Python's library.
"""
import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time

TURNS = 6
# AddressSanitizer keeps what was freed, up to a quarter of a GiB: that would look like growth.
ENVIRONMENT = {**os.environ, 'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') + ':quarantine_size_mb=8'}
CANARY = re.compile(r'kanarie\d+x')


class Server:
    """A running `linnet serve` on a free port."""

    def __init__(self, program, model, *options):
        self.process = subprocess.Popen([program, 'serve', '--model', model, '--port', '0', '--quiet', *options],
                                        stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        line = self.process.stdout.readline()
        found = re.search(r'http://127\.0\.0\.1:(\d+)', line)
        if not found:
            raise SystemExit(f'soak: the server said {line!r}')
        self.port = int(found[1])

    def post(self, body, timeout=300):
        """-> (status, answer)"""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        try:
            connection.request('POST', '/v1/chat/completions', json.dumps(body), {'Content-Type': 'application/json'})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def hang_up_during(self, body, pieces):
        """Reads so many pieces of a stream, then closes the connection."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=300)
        try:
            connection.request('POST', '/v1/chat/completions', json.dumps(body | {'stream': True}),
                               {'Content-Type': 'application/json'})
            response = connection.getresponse()
            for _ in range(pieces):
                if not response.readline():
                    break
        finally:
            connection.close()

    def resident_mib(self):
        with open(f'/proc/{self.process.pid}/status') as status:
            return int(re.search(r'VmRSS:\s+(\d+)', status.read())[1]) / 1024

    def stop(self):
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise SystemExit(f'soak: the server ended with status {self.process.returncode}')


class Conversation:
    """Messages of one client. The answers are those given alone: what it says next never depends on the server under test."""

    def __init__(self, number):
        self.number = number
        self.rng = random.Random(number)
        self.alone = []  # one answer a turn
        self.messages = []

    def body(self, turn):
        return {'messages': self.messages[:2 * turn + 1], 'seed': self.number * 100 + turn, 'max_tokens': 4 + self.number % 13,
                'temperature': 1, 'logprobs': True}

    def hold_alone(self, server):
        for turn in range(TURNS):
            words = ' '.join(self.rng.choice(('the', 'lark', '山', 'rain', 'and', '月', 'why')) for _ in range(self.rng.randrange(1, 60)))
            self.messages.append({'role': 'user', 'content': f'kanarie{self.number}x {words}'})
            status, answer = server.post(self.body(turn))
            if status != 200:
                raise SystemExit(f'soak: alone: status {status}: {answer}')
            self.alone.append(essence(answer))
            self.messages.append({'role': 'assistant', 'content': answer['choices'][0]['message']['content']})


def essence(answer):
    choice = answer['choices'][0]
    return {'text': choice['message']['content'], 'finish': choice['finish_reason'],
            'tokens': [(t['token'], repr(t['logprob'])) for t in choice['logprobs']['content']],
            'prompt': answer['usage']['prompt_tokens']}


class Soak:
    def __init__(self, server, conversations, requests, seed):
        self.server, self.conversations, self.left = server, conversations, requests
        self.rng, self.lock = random.Random(seed), threading.Lock()
        self.problems, self.cached, self.hung_up, self.refused, self.compared = [], 0, 0, 0, 0

    def next_job(self):
        with self.lock:
            if self.left <= 0 or len(self.problems) > 10:
                return None
            first = self.rng.randrange(TURNS)
            last = self.rng.randrange(first, TURNS)
            self.left -= last - first + 1
            return self.rng.choice(self.conversations), range(first, last + 1), self.rng.random() < 0.15, self.rng.randrange(1, 9)

    def client(self):
        try:
            while job := self.next_job():
                conversation, turns, hangs_up, pieces = job
                for turn in turns:
                    body = conversation.body(turn)
                    if hangs_up:
                        self.server.hang_up_during(body, pieces)
                        self.hung_up += 1
                    self.compare(conversation, turn, body)
        except Exception as error:  # a thread's error must not go unseen
            self.problems.append(f'{type(error).__name__}: {error}')

    def compare(self, conversation, turn, body):
        while True:
            status, answer = self.server.post(body)
            if status != 429:
                break
            self.refused += 1
            time.sleep(0.05)
        place = f'conversation {conversation.number}, turn {turn}'
        if status != 200:
            self.problems.append(f'{place}: status {status}: {answer}')
            return
        got = essence(answer)
        foreign = set(CANARY.findall(got['text'])) - {f'kanarie{conversation.number}x'}
        if foreign:
            self.problems.append(f'{place}: words of another conversation: {sorted(foreign)}')
        if got != conversation.alone[turn]:
            self.problems.append(f'{place}: expected {conversation.alone[turn]}, got {got}')
        with self.lock:
            self.compared += 1
            self.cached += answer['usage'].get('prompt_tokens_details', {}).get('cached_tokens', 0)

    def run(self, clients):
        threads = [threading.Thread(target=self.client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program')
    parser.add_argument('--model', required=True)
    parser.add_argument('--requests', type=int, default=400)
    parser.add_argument('--clients', type=int, default=64)
    parser.add_argument('--state-memory', default='16', metavar='MIB')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()

    conversations = [Conversation(number) for number in range(args.clients)]
    alone = Server(args.program, args.model, '--no-prefix-cache')
    for conversation in conversations:
        conversation.hold_alone(alone)
    alone.stop()

    server = Server(args.program, args.model, '--state-memory', args.state_memory)
    warm_up = Soak(server, conversations, args.requests // 4, args.seed)
    warm_up.run(args.clients)
    before = server.resident_mib()
    soak = Soak(server, conversations, args.requests - args.requests // 4, args.seed + 1)
    soak.run(args.clients)
    after = server.resident_mib()
    server.stop()
    problems = warm_up.problems + soak.problems
    if warm_up.cached + soak.cached == 0:
        problems.append('no token came from the prefix cache: it was not tested')
    if after > before + 32:
        problems.append(f'memory grew from {before:.0f} to {after:.0f} MiB')
    print(f'{warm_up.compared + soak.compared} answers equal to those given alone, {warm_up.hung_up + soak.hung_up} requests hung up, '
          f'{warm_up.refused + soak.refused} told to come later, {warm_up.cached + soak.cached} tokens from the cache, '
          f'resident {before:.0f} then {after:.0f} MiB' if not problems else f'{len(problems)} problems')
    for problem in problems[:10]:
        print(problem[:2000])
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
