#!/usr/bin/env python3
"""What the server remembers: tests/server/memory_test.py PROGRAM. The prefix cache over HTTP, and sessions across the server's death."""
import os
import resource
import signal
import tempfile
import threading
import unittest
from pathlib import Path

import client

TURNS = ['Tell me of the linnet. ' * 4, 'And of its song?', 'Why does it sing at dawn, and not at night?', 'Thank you.']


def converse(server, turns, messages=(), tokens=70):
    """The conversation with a reply to each turn: (messages, [(text, log-probabilities)], usage of each turn)."""
    messages, replies, usages = list(messages), [], []
    for turn in turns:
        messages.append({'role': 'user', 'content': turn})
        status, _, answer = server.ask('/v1/chat/completions', {'messages': messages, 'max_tokens': tokens, 'seed': len(messages),
                                                                'ignore_eos': True, 'logprobs': True})
        assert status == 200, answer
        choice = answer['choices'][0]
        messages.append({'role': 'assistant', 'content': choice['message']['content']})
        replies.append((choice['message']['content'], [t['logprob'] for t in choice['logprobs']['content']]))
        usages.append(answer['usage'])
    return messages, replies, usages


def cached(usage):
    return usage['prompt_tokens_details']['cached_tokens']


class Memory(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix='linnet-sessions-')
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / 'sessions'

    def serve(self, *options):
        server = client.Server(*options)
        self.addCleanup(server.close)
        return server

    def test_a_conversation_reads_what_is_new_and_says_the_same(self):
        remembering, forgetting = self.serve(), self.serve('--no-prefix-cache')
        _, expected, usages = converse(forgetting, TURNS)
        self.assertEqual([cached(u) for u in usages], [0] * len(TURNS))
        _, replies, usages = converse(remembering, TURNS)
        self.assertEqual(replies, expected)
        for before, usage in zip(usages, usages[1:]):
            # At least all whole blocks of the last prompt; all of the reply, too, when its text is read as the tokens it was drawn as.
            self.assertGreaterEqual(cached(usage), before['prompt_tokens'] // 64 * 64 - 64)
        self.assertEqual(remembering.metric('linnet_cached_tokens_total'), sum(map(cached, usages)))

    def test_thirty_turns_and_a_fork_at_each(self):
        remembering, forgetting = self.serve(), self.serve('--no-prefix-cache')
        turns = TURNS[:1] + [f'And the song of number {i}, what is it like?' for i in range(29)]
        messages, replies, usages = converse(remembering, turns, tokens=40)
        self.assertEqual(replies, converse(forgetting, turns, tokens=40)[1])
        read = sum(u['prompt_tokens'] - cached(u) for u in usages)
        self.assertLess(read, usages[-1]['prompt_tokens'] + 30 * 128)  # each token once, and the ends of turns again
        self.assertGreater(sum(u['prompt_tokens'] for u in usages), 5 * read)
        for turn in range(30):  # finds its beginning, and says what it would have said alone
            beginning = messages[:2 * turn]
            _, fork, usage = converse(remembering, ['Another question, then.'], beginning, tokens=8)
            if turn:
                self.assertGreaterEqual(cached(usage[0]), usages[turn - 1]['prompt_tokens'] // 64 * 64 - 64, turn)
            self.assertEqual(fork, converse(forgetting, ['Another question, then.'], beginning, tokens=8)[1], turn)

    def test_a_session_outlives_the_server(self):
        server = self.serve('--sessions', str(self.folder))
        messages, _, _ = converse(server, TURNS[:3])
        status, _, saved = server.ask('/v1/sessions/linnet', {'messages': messages}, method='PUT')
        self.assertEqual(status, 200, saved)
        self.assertGreater(saved['state_tokens'], 64)
        _, expected, _ = converse(server, TURNS[3:], messages)
        server.process.send_signal(signal.SIGKILL)
        server.wait()

        again, server_without = self.serve('--sessions', str(self.folder)), self.serve('--no-prefix-cache')
        _, _, listed = again.ask('/v1/sessions')
        self.assertEqual([(s['name'], s['tokens'], s['state_tokens']) for s in listed['data']],
                         [('linnet', saved['tokens'], saved['state_tokens'])])
        status, _, loaded = again.ask('/v1/sessions/linnet')
        self.assertEqual((status, loaded['messages']), (200, messages))
        _, replies, usages = converse(again, TURNS[3:], loaded['messages'])
        self.assertEqual(cached(usages[0]), saved['state_tokens'])
        self.assertEqual(replies, expected)
        for turn in (0, 2, 4):  # the beginning of one that was saved goes on in another way
            self.assertEqual(converse(again, ['Or this?'], messages[:turn])[1], converse(server_without, ['Or this?'], messages[:turn])[1])
        self.assertEqual(again.ask('/v1/sessions/linnet', method='DELETE')[0], 200)
        self.assertEqual([again.ask('/v1/sessions/linnet', method=m)[0] for m in ('GET', 'DELETE')], [404, 404])

    # Slow is what the disk is until the test lets it go on; the save has begun by then, since its fsync waits.
    @unittest.skipUnless(os.environ.get('LINNET_SLOW_DISK_LIBRARY'), 'no library that makes the disk slow')
    def test_others_generate_while_a_session_is_written(self):
        pipe = self.folder.parent / 'pipe'
        os.mkfifo(pipe)
        server = client.Server('--sessions', str(self.folder), environment={
            'LD_PRELOAD': os.environ['LINNET_SLOW_DISK_LIBRARY'], 'LINNET_SLOW_DISK': str(pipe),
            'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') + ':verify_asan_link_order=0'})  # g++'s wants to be loaded first
        self.addCleanup(server.close)
        messages, expected, _ = converse(server, TURNS[:2])
        saved = []
        save = threading.Thread(target=lambda: saved.append(server.ask('/v1/sessions/slow', {'messages': messages}, method='PUT')))
        save.start()
        with open(pipe, 'w'):  # waits for the fsync
            self.assertEqual(converse(server, TURNS[:2])[1], expected)
            self.assertEqual(server.stream('/v1/completions', prompt='a', max_tokens=100, ignore_eos=True)[-1], '[DONE]')
            self.assertEqual((saved, server.ask('/v1/sessions')[2]['data']), ([], []))
        save.join()
        self.assertEqual(saved[0][0], 200, saved)

    def test_what_sessions_refuse(self):
        server = self.serve('--sessions', str(self.folder))
        messages, expected, _ = converse(server, TURNS[:2])
        save = {'messages': messages}
        for name in ('a/b', '.hidden', 'a' * 65, '%20', '..%2fup'):
            self.assertEqual(server.ask(f'/v1/sessions/{name}', save, method='PUT')[0], 400, name)
        status, _, answer = server.ask('/v1/sessions/new', {'messages': [{'role': 'user', 'content': 'never read'}]}, method='PUT')
        self.assertEqual((status, answer['error']['type']), (400, 'invalid_request_error'))
        without = self.serve()
        self.assertEqual(without.ask('/v1/sessions')[0], 404)
        self.assertEqual([s.ask('/v1/models')[2]['data'][0]['linnet']['sessions'] for s in (server, without)], [True, False])

        self.assertEqual(server.ask('/v1/sessions/whole', save, method='PUT')[0], 200)
        file = next(f for f in self.folder.iterdir())
        data = file.read_bytes()
        for broken in (data[:-100], data[:-100] + b'x' * 100, data[:20], b''):
            file.write_bytes(broken)
            status, _, answer = server.ask('/v1/sessions/whole')
            self.assertEqual((status, answer['error']['code']), (500, 'session_unreadable'))
        file.write_bytes(data)
        # A disk that is full: the old session stays.
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (20000, 20000))
        status, _, answer = server.ask('/v1/sessions/whole', save, method='PUT')
        self.assertEqual((status, answer['error']['code']), (507, 'storage'))
        self.assertEqual(file.read_bytes(), data)
        self.assertEqual(os.listdir(self.folder), [file.name])
        self.assertEqual(converse(server, TURNS[:2])[1], expected)


if __name__ == '__main__':
    unittest.main(argv=['memory_test'] + client.sys.argv[2:])
