#!/usr/bin/env python3
"""A stand-in for `linnet serve`: the API's shapes without a model, for the tests of the chat page and of the load generator.

  tests/page/mock_server.py [PORT]     serves the page's files as they lie in the tree; prints its address

What the last message holds decides the reply: see `Reply`. GET /mock/requests tells what was asked so far.
"""
import json
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / 'src/server/page'
TYPES = {'.html': 'text/html; charset=utf-8', '.css': 'text/css; charset=utf-8', '.js': 'text/javascript; charset=utf-8',
         '.svg': 'image/svg+xml'}
POLICY = ''.join(re.findall(r'^ +"(.*)";?$', (ROOT / 'src/server/page_files.h').read_text(), re.MULTILINE))

POEM = '春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。'
MARKDOWN = '''Here is **some** *text* with `code` and <b>no HTML</b>, 2 * 3 * 4 = 24.

## A heading

1. first
2. second

- one
  - deeper

> quoted
> twice

```python
def song(n):
    return "<script>alert(1)</script>" * n
```
The end.'''
PROSE = ('The little bird sat upon the highest bough of the old elm, and sang as though the whole of the valley had been made '
         'for no other purpose than to hear it.')

MODEL = {
    'id': 'linnet-verse', 'object': 'model', 'created': 0, 'owned_by': 'linnet', 'context_length': 4096,
    'linnet': {
        'sessions': True,
        'description': 'A small model that continues a heading 《title》author with a classical Chinese poem, and English prose '
                       'where it ends.',
        'examples': ['《春曉》孟浩然', '《靜夜思》李白', '《寄友》',
                     {'title': 'It was a bright cold morning…', 'prompt': 'It was a bright cold morning in March, and the road'}],
    },
}


class Reply:
    """pieces of text, and what happens to them."""

    def __init__(self, message):
        self.status, self.end, self.delay, self.finish = 200, 'done', 0.002, 'stop'
        if message.startswith('!'):
            command, _, rest = message[1:].partition(' ')
            text = PROSE
            if command == 'markdown':
                text = MARKDOWN
            elif command == 'slow':         # goes on until the client leaves
                text, self.delay = (PROSE + ' ') * 1000, 0.02
            elif command == 'break':        # the connection ends in the middle
                self.end = 'break'
            elif command == 'event':        # an error event in the middle
                self.end = 'event'
            elif command == 'length':
                self.finish = 'length'
            elif command == 'say':
                text = rest
            elif command.isdigit():
                self.status = int(command)
        else:
            text = POEM if '》' in message else PROSE if message.isascii() else f'你說：{message}'
        self.pieces = [text[i:i + 3] for i in range(0, len(text), 3)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self):
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        pass

    def answer(self, status, body, content_type='application/json', headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (('Content-Type', content_type), ('Content-Length', str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, headers=()):
        self.answer(status, {'error': {'message': message, 'type': 'mock', 'code': None}}, headers=headers)

    def do_GET(self):
        path = self.path.partition('?')[0]
        name = 'index.html' if path == '/' else path.removeprefix('/page/')
        if self.server.key and path.startswith('/v1/') and self.headers['Authorization'] != f'Bearer {self.server.key}':
            self.refuse(401, 'An API key is needed.')
        elif path == '/v1/models':
            self.answer(200, {'object': 'list', 'data': [MODEL]})
        elif path == '/v1/sessions':
            self.answer(200, {'data': [{'name': name, 'tokens': 8} for name in sorted(self.server.sessions)]})
        elif path.startswith('/v1/sessions/') and path[13:] in self.server.sessions:
            self.answer(200, {'name': path[13:], 'messages': self.server.sessions[path[13:]]})
        elif path == '/health':
            self.answer(200, {'status': 'ok'})
        elif path == '/mock/requests':
            self.answer(200, self.server.requests)
        elif '/' not in name and (PAGE / name).is_file():
            self.answer(200, (PAGE / name).read_bytes(), TYPES[(PAGE / name).suffix],
                        [('Content-Security-Policy', POLICY), ('X-Content-Type-Options', 'nosniff')])
        else:
            self.refuse(404, f'{path}: nothing here')

    def do_PUT(self):
        messages = json.loads(self.rfile.read(int(self.headers['Content-Length'])))['messages']
        if self.server.disk_full:
            return self.refuse(507, 'No space left on device.')
        self.server.sessions[self.path[13:]] = messages
        self.answer(200, {'state_tokens': 64})

    def do_DELETE(self):
        del self.server.sessions[self.path[13:]]
        self.answer(200, {'deleted': True})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        chat = self.path == '/v1/chat/completions'
        if not chat and self.path != '/v1/completions':
            return self.refuse(404, f'{self.path}: nothing here')
        with self.server.lock:
            self.server.requests.append({**body, 'hung_up': False})
            request = self.server.requests[-1]
            refused = self.server.busy > 0
            self.server.busy -= refused
        if self.server.key and self.headers['Authorization'] != f'Bearer {self.server.key}':
            return self.refuse(401, 'An API key is needed.')
        if refused:
            return self.refuse(429, 'All places are taken.', [('Retry-After', str(self.server.retry_after))])
        message = body['messages'][-1]['content'] if chat else str(body['prompt'])
        reply = Reply(message)
        if reply.status != 200:
            return self.refuse(reply.status, f'A mock error with status {reply.status}.')
        limit = body.get('max_tokens')
        if limit is not None and limit < len(reply.pieces):
            reply.pieces, reply.finish = reply.pieces[:limit], 'length'
        prompt = len(json.dumps(body.get('messages', message))) // 4
        usage = {'prompt_tokens': prompt, 'completion_tokens': len(reply.pieces), 'total_tokens': prompt + len(reply.pieces),
                 'prompt_tokens_details': {'cached_tokens': prompt // 64 * 64}}
        try:
            self.stream(reply, usage, chat)
        except OSError:
            request['hung_up'] = True
            self.close_connection = True

    def stream(self, reply, usage, chat):
        self.send_response(200)
        self.send_header('Content-Type', 'text/event-stream')
        self.send_header('Transfer-Encoding', 'chunked')
        self.end_headers()

        def chunk(data):
            self.wfile.write(f'{len(data):x}\r\n'.encode() + data + b'\r\n')
            self.wfile.flush()

        def event(choices, **more):
            chunk(b'data: ' + json.dumps({'object': 'chat.completion.chunk', 'choices': choices, **more}).encode() + b'\n\n')

        def choice(text, finish=None):
            return [{'index': 0, 'finish_reason': finish, **({'delta': {'content': text}} if chat else {'text': text})}]

        for i, piece in enumerate(reply.pieces):
            if i == len(reply.pieces) // 2 and reply.end == 'break':
                self.close_connection = True
                return
            if i == len(reply.pieces) // 2 and reply.end == 'event':
                chunk(b'data: {"error": {"message": "The mock lost its thread."}}\n\n')
                chunk(b'')
                return
            event(choice(piece))
            time.sleep(reply.delay)
        event(choice('', reply.finish))
        event([], usage=usage)
        chunk(b'data: [DONE]\n\n')
        self.wfile.write(b'0\r\n\r\n')


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port=0):
        super().__init__(('127.0.0.1', port), Handler)
        self.lock = threading.Lock()
        self.requests = []
        self.busy = 0          # so many requests are refused with 429
        self.retry_after = 1
        self.key = ''
        self.sessions, self.disk_full = {}, False
        self.model = MODEL['id']
        self.connections = set()
        self.url = f'http://127.0.0.1:{self.server_address[1]}'

    def start(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # a client that has gone
            super().handle_error(request, client_address)

    def stop(self):
        """As a process that ends: open connections end, too."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # ended by itself


if __name__ == '__main__':
    server = Server(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(server.url, flush=True)
    server.serve_forever()
