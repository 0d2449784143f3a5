"""What the tests of `linnet serve` share: a server of their own, and a client that needs nothing but Python."""
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else str(ROOT / 'build/release/linnet')
MODEL = str(ROOT / 'models/tiny-random')
PATIENCE = 120  # seconds after which something that should happen counts as never happening


def run(*arguments):
    result = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    return result.stdout


class Server:
    """`linnet serve` on a free port; ends with the test."""

    def __init__(self, *options, model=MODEL, environment=None):
        self.connections = []
        self.log = tempfile.NamedTemporaryFile('w+', prefix='linnet-serve-')
        self.process = subprocess.Popen([PROGRAM, 'serve', '--model', model, '--port', '0', '-t', '2', *options],
                                        stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, **(environment or {})})
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ''
        match = re.search(r'serving (\S+) at http://(\S+):(\d+)$', line)
        if not match:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f'no address: {line!r}; {self.errors()}')
        self.name, self.port = match[1], int(match[3])

    def errors(self):
        return Path(self.log.name).read_text()

    def records(self):
        return [json.loads(line) for line in self.errors().splitlines() if line.startswith('{')]

    def stop(self, kind=signal.SIGTERM):
        self.process.send_signal(kind)
        return self.wait()

    def wait(self):
        try:
            return self.process.wait(timeout=PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def close(self):
        for connection in self.connections:
            connection.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def connect(self):
        return http.client.HTTPConnection('127.0.0.1', self.port, timeout=PATIENCE)

    def ask(self, path, body=None, headers=None, method=None):
        """The answer as (status, headers, body); the body as JSON where it is."""
        connection = self.connect()
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method or ('GET' if body is None else 'POST'), path, data,
                           {'Content-Type': 'application/json', **(headers or {})})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.headers.get('Content-Type', '').startswith('application/json') and content:
            content = json.loads(content)
        return answer.status, answer.headers, content

    def complete(self, **fields):
        status, _, answer = self.ask('/v1/completions', fields)
        assert status == 200, answer
        return answer

    def chat(self, text='hello', **fields):
        status, _, answer = self.ask('/v1/chat/completions', {'messages': [{'role': 'user', 'content': text}], **fields})
        assert status == 200, answer
        return answer

    def stream(self, path, **fields):
        """The events of a stream; the last is '[DONE]', or an object with an error."""
        connection = self.connect()
        connection.request('POST', path, json.dumps({**fields, 'stream': True}))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.headers['Content-Type'].startswith('text/event-stream')
        events = []
        for line in answer:
            line = line.decode().rstrip('\n')
            if line.startswith('data: '):
                events.append(line[6:] if line == 'data: [DONE]' else json.loads(line[6:]))
        connection.close()
        return events

    def metric(self, name):
        _, _, text = self.ask('/metrics')
        match = re.search(rf'^{re.escape(name)} (\S+)$', text.decode(), re.MULTILINE)
        assert match, f'{name}: not in\n{text.decode()}'
        return float(match[1])

    def await_metric(self, name, wanted):
        """Until the metric has the value: the server gets there by itself, or never."""
        for _ in range(100 * PATIENCE):
            value = self.metric(name)
            if wanted(value):
                return value
            threading.Event().wait(0.01)
        raise AssertionError(f'{name} stays {value}')

    def raw(self, receive_buffer=None):
        """A connection for bytes as they are; closed with the server."""
        connection = socket.socket()
        self.connections.append(connection)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(PATIENCE)
        connection.connect(('127.0.0.1', self.port))
        return connection


def read_all(connection):
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b''.join(parts)


def post(path, body, headers=''):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f'POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n'.encode() + body


def together(calls):
    """Runs the calls at once, each in a thread; their results in order. The first error is raised."""
    results, errors = [None] * len(calls), []

    def one(i):
        try:
            results[i] = calls[i]()
        except BaseException as e:  # told to the test
            errors.append(e)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
