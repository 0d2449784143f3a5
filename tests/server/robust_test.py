#!/usr/bin/env python3
"""What no client can do to the server: tests/server/robust_test.py PROGRAM. Hang-ups, slow and hostile clients, keys, limits, the end."""
import json
import os
import re
import resource
import select
import signal
import subprocess
import tempfile
import unittest
from pathlib import Path

import client

LONG = {'prompt': 'a', 'max_tokens': 100000, 'temperature': 0, 'ignore_eos': True}  # seconds of work
MODELS = tempfile.TemporaryDirectory(prefix='linnet-serve-')


def endless_model():
    """The smallest model there is, with a context that no test lives to see the end of."""
    folder = Path(MODELS.name) / 'endless'
    if not folder.exists():
        config = json.loads((client.ROOT / 'examples/configs/tiny.json').read_text())
        config['model_max_length'] = 1 << 20
        file = Path(MODELS.name) / 'config.json'
        file.write_text(json.dumps(config))
        client.run('synth', '--config', str(file), '--out', str(folder))
    return str(folder)


class Robust(unittest.TestCase):
    def serve(self, *options, **more):
        server = client.Server('--context', '200000', '--state-memory', '2000', *options, model=endless_model(), **more)
        self.addCleanup(server.close)
        return server

    def test_a_client_that_hangs_up_frees_its_place(self):
        server = self.serve('--max-streams', '2', '--queue', '8')
        for stream in (True, False):
            connections = [server.raw() for _ in range(4)]  # two run, two wait
            for connection in connections:
                connection.sendall(client.post('/v1/completions', {**LONG, 'stream': stream}))
            server.await_metric('linnet_requests_running', lambda n: n == 2)
            server.await_metric('linnet_requests_waiting', lambda n: n == 2)
            if stream:
                connections[0].recv(1000)
            for connection in connections:
                connection.close()
            server.await_metric('linnet_requests_running', lambda n: n == 0)
            server.await_metric('linnet_state_reserved_bytes', lambda n: n == 0)
        server.await_metric('linnet_hang_ups_total', lambda n: n == 8)
        self.assertEqual({r['finish'] for r in server.records()}, {'hung up'})

    def test_a_client_that_hangs_up_while_its_prompt_is_read(self):
        server = self.serve('--tokens-per-pass', '64')
        for stream in (True, False):
            connection = server.raw()
            connection.sendall(client.post('/v1/completions', {'prompt': [65] * 190000, 'max_tokens': 1, 'stream': stream}))
            server.await_metric('linnet_prefill_passes_total', lambda n: n > 0)
            server.await_metric('linnet_requests_running', lambda n: n == 1)
            connection.close()
            server.await_metric('linnet_requests_running', lambda n: n == 0)
            server.await_metric('linnet_state_reserved_bytes', lambda n: n == 0)
        self.assertLess(server.metric('linnet_tokens_read_total'), 190000)
        server.await_metric('linnet_hang_ups_total', lambda n: n == 2)

    def test_a_full_queue_is_told(self):
        server = self.serve('--max-streams', '1', '--queue', '1')
        held = [server.raw() for _ in range(2)]
        for connection in held:
            connection.sendall(client.post('/v1/completions', LONG))
        server.await_metric('linnet_requests_running', lambda n: n == 1)
        server.await_metric('linnet_requests_waiting', lambda n: n == 1)
        status, headers, answer = server.ask('/v1/completions', {'prompt': 'a'})
        self.assertEqual((status, answer['error']['code'], answer['error']['type']), (429, 'busy', 'rate_limit_error'))
        self.assertGreaterEqual(int(headers['Retry-After']), 1)
        self.assertEqual(server.ask('/health')[0], 200)
        for connection in held:
            connection.close()
        server.await_metric('linnet_requests_running', lambda n: n == 0)
        server.complete(prompt='a', max_tokens=1)

    def test_a_slow_reader_holds_nobody_up(self):
        server = self.serve()
        slow = server.raw(receive_buffer=4096)
        slow.sendall(client.post('/v1/completions', {**LONG, 'stream': True, 'logprobs': 20, 'max_tokens': 6000}))
        self.assertEqual(slow.recv(12), b'HTTP/1.1 200')
        alone = server.complete(prompt='b', max_tokens=50, seed=1)
        self.assertEqual(client.together([lambda: server.complete(prompt='b', max_tokens=50, seed=1)['choices']] * 4), [alone['choices']] * 4)
        server.await_metric('linnet_requests_running', lambda n: n == 0)  # all is drawn, though nobody has read it
        slow.close()
        server.await_metric('linnet_hang_ups_total', lambda n: n == 1)

    def test_bodies_beyond_the_limit(self):
        server = self.serve('--max-body', '1')
        before = server.metric('linnet_resident_bytes')
        connection = server.raw()
        connection.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n')
        for _ in range(100):
            connection.sendall(b'x' * 1000000)
        answer = client.read_all(connection)
        self.assertTrue(answer.startswith(b'HTTP/1.1 413 '), answer[:80])
        self.assertEqual(json.loads(answer.split(b'\r\n\r\n')[1])['error']['param'], None)
        body = json.dumps({'prompt': 'ab ' * 300000})  # within the limit of bytes, beyond the context
        for _ in range(3):
            status, _, answer = server.ask('/v1/completions', body)
            self.assertEqual((status, answer['error']['code']), (400, 'context_length_exceeded'))
        self.assertLess(server.metric('linnet_resident_bytes') - before, 80e6)  # what was sent and refused is nowhere kept

    def test_ten_thousand_connections(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        n = 10000 if hard == resource.RLIM_INFINITY else min(10000, hard - 200)
        resource.setrlimit(resource.RLIMIT_NOFILE, (n + 200, hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        server = self.serve('--max-connections', str(n // 2))
        before = server.metric('linnet_resident_bytes')
        first, *others = [server.raw() for _ in range(n)]  # the system makes them, whether or not the server keeps them
        told = 0
        for connection in others:
            connection.setblocking(False)
        watched = select.epoll()  # select() knows a thousand
        for connection in others:
            watched.register(connection.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        by_number, ended = {c.fileno(): c for c in others}, 0
        while ended < n - n // 2 - 1:  # those that the server did not take
            ready = watched.poll(client.PATIENCE)
            self.assertTrue(ready, f'{ended} of {n} connections ended')
            for number, _ in ready:
                watched.unregister(number)
                ended += 1
                try:
                    told += by_number[number].recv(12) == b'HTTP/1.1 503'
                except OSError:
                    pass  # beyond what stands by to be told
        self.assertGreaterEqual(told, n // 8)
        first.sendall(b'GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
        metrics = client.read_all(first).decode()
        self.assertLess(float(re.search(r'^linnet_resident_bytes (\S+)', metrics, re.MULTILINE)[1]) - before, 50e6)
        watched.close()
        for connection in server.connections:
            connection.close()
        for _ in range(100 * client.PATIENCE):  # until it has seen them go, it has no room for this one
            try:
                if server.ask('/health')[0] == 200:
                    break
            except OSError:
                pass
        server.await_metric('linnet_connections', lambda n: n <= 2)
        server.complete(prompt='a', max_tokens=1)

    def test_bytes_that_are_no_http(self):
        server = self.serve()
        for data, status in ((b'\x16\x03\x01\x02\x00\x01\x00\r\n\r\n', b'400'), (b'GET /\r\n\r\n', b'400'),
                             (b'GET / HTTP/1.1\r\n\r\n', b'400'), (b'GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n', b'400'),
                             (b'GET /' + b'a' * 100000, b'414'), (b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * 10000, b'431'),
                             (b'POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', b'400'),
                             (b'GET / HTTP/3.0\r\nHost: localhost\r\n\r\n', b'505')):
            connection = server.raw()
            connection.sendall(data)
            answer = client.read_all(connection)
            self.assertTrue(answer.startswith(b'HTTP/1.1 ' + status), (data[:20], answer[:80]))
            self.assertIn(b'"error"', answer)
            connection.close()
        chunked = b'POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n'
        connection = server.raw()
        connection.sendall(chunked + b'5\r\n{"pro\r\n9\r\nmpt":"a"}\r\n0\r\n\r\n')
        self.assertIn(b'"count":1', client.read_all(connection))

    def test_keys(self):
        with tempfile.NamedTemporaryFile('w', suffix='.keys') as file:
            file.write('# mine\nfirst-key\n\nsecond-key\n')
            file.flush()
            server = self.serve('--api-key-file', file.name, environment={'LINNET_API_KEY': 'third-key'})
        for key in ('first-key', 'second-key', 'third-key'):
            self.assertEqual(server.ask('/v1/models', headers={'Authorization': f'Bearer {key}'})[0], 200)
        for value in ('Bearer first-ke', 'Bearer first-key2', 'Bearer ', 'Bearer # mine', 'first-key', 'Basic first-key'):
            status, headers, answer = server.ask('/v1/models', headers={'Authorization': value})
            self.assertEqual((status, answer['error']['code'], headers['WWW-Authenticate']), (401, 'invalid_api_key', 'Bearer'), value)
        self.assertEqual(server.ask('/v1/completions', {'prompt': 'a'})[0], 401)
        self.assertEqual([server.ask(path)[0] for path in ('/health', '/', '/page/app.js')], [200, 200, 200])
        for method, path in (('GET', '/metrics'), ('GET', '/v1/models'), ('GET', '/v1/models/endless'), ('POST', '/v1/chat/completions'),
                             ('POST', '/v1/completions'), ('POST', '/v1/embeddings'), ('POST', '/tokenize'), ('POST', '/detokenize'),
                             ('GET', '/tokenizer_info'), ('GET', '/v1/sessions'), ('PUT', '/v1/sessions/a'), ('GET', '/v1/sessions/a'),
                             ('DELETE', '/v1/sessions/a')):
            self.assertEqual(server.ask(path, {} if method == 'POST' else None, method=method)[0], 401, path)
        self.assertNotIn('-key', server.errors())

    def test_other_machines_need_a_key(self):
        def refused(*options, status=2):
            result = subprocess.run([client.PROGRAM, 'serve', '--model', client.MODEL, '--port', '0', *options],
                                    capture_output=True, text=True, timeout=client.PATIENCE,
                                    env={k: v for k, v in os.environ.items() if k != 'LINNET_API_KEY'})
            self.assertEqual((result.returncode, result.stdout), (status, ''), result.stderr)
            return result.stderr

        self.assertIn('--no-api-key', refused('--host', '0.0.0.0'))
        self.assertIn('expected an address', refused('--host', '192.0.2.1', '--no-api-key'))
        server = self.serve('--host', '0.0.0.0', '--no-api-key')
        self.assertEqual(server.ask('/health', headers={'Host': 'any.name'})[0], 200)
        self.assertIn('Address already in use', refused('--port', str(server.port), status=3))

    def test_pages_of_elsewhere(self):
        server = self.serve('--cors', 'https://good.example')
        body = {'prompt': 'a', 'max_tokens': 1}
        self.assertEqual(server.ask('/v1/completions', body, {'Host': 'evil.example'})[0], 421)  # a name that points here
        for host in ('localhost', '127.0.0.1:1', '[::1]:80'):
            self.assertEqual(server.ask('/v1/completions', body, {'Host': host})[0], 200)
        self.assertEqual(server.ask('/v1/completions', body, {'Origin': 'https://evil.example'})[0], 403)
        self.assertEqual(server.ask('/v1/completions', body, {'Host': 'localhost:5', 'Origin': 'http://localhost:5'})[0], 200)
        status, headers, _ = server.ask('/v1/completions', body, {'Origin': 'https://good.example'})
        self.assertEqual((status, headers['Access-Control-Allow-Origin']), (200, 'https://good.example'))
        status, headers, _ = server.ask('/v1/completions', headers={'Origin': 'https://good.example', 'Access-Control-Request-Method': 'POST'},
                                        method='OPTIONS')
        self.assertEqual(status, 204)
        self.assertIn('POST', headers['Access-Control-Allow-Methods'])
        self.assertNotIn('Access-Control-Allow-Origin', server.ask('/health')[1])

    def test_requests_that_take_too_long(self):
        server = self.serve('--request-timeout', '0.3')
        status, _, answer = server.ask('/v1/completions', LONG)
        self.assertEqual((status, answer['error']['code']), (504, 'timed_out'))
        self.assertEqual(server.stream('/v1/completions', **LONG)[-1]['error']['code'], 'timed_out')

    def test_streams_end_before_the_server_does(self):
        server = self.serve()
        connection = server.raw()
        connection.sendall(client.post('/v1/completions', {**LONG, 'max_tokens': 1000, 'stream': True}, 'Connection: close\r\n'))
        connection.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        rest = client.read_all(connection)
        self.assertIn(b'"finish_reason":"length"', rest)
        self.assertTrue(rest.endswith(b'data: [DONE]\n\n\r\n0\r\n\r\n'), rest[-80:])
        self.assertEqual(server.wait(), 0)
        self.assertRaises(OSError, server.raw)

    def test_what_does_not_end_in_time_gets_an_error(self):
        server = self.serve('--drain-timeout', '0.2')
        stream, whole = server.raw(), server.raw()
        stream.sendall(client.post('/v1/completions', {**LONG, 'stream': True}, 'X-Request-Id: cut\r\n'))
        self.assertIn(b' 200 ', stream.recv(1000))
        whole.sendall(client.post('/v1/completions', LONG))
        server.await_metric('linnet_requests_running', lambda n: n == 2)
        server.process.send_signal(signal.SIGINT)
        self.assertRegex(client.read_all(stream).decode(), re.compile('data: .*shutting_down.*0\r\n\r\n$', re.DOTALL))
        self.assertTrue(client.read_all(whole).startswith(b'HTTP/1.1 503'))
        self.assertEqual(server.wait(), 0)
        (cut,) = [r for r in server.records() if r['request_id'] == 'cut']
        self.assertEqual((cut['status'], cut['finish'], cut['prompt_tokens']), (503, 'shutting_down', 1))
        self.assertGreater(cut['generated_tokens'], 0)

    def test_a_second_signal_ends_at_once(self):
        server = self.serve('--drain-timeout', '1000')
        connection = server.raw()
        connection.sendall(client.post('/v1/completions', {**LONG, 'stream': True}))
        connection.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        while 'stopping' not in server.errors():
            pass
        self.assertEqual(server.stop(signal.SIGINT), -signal.SIGINT)


if __name__ == '__main__':
    unittest.main(argv=['robust_test'] + client.sys.argv[2:])
