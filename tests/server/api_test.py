#!/usr/bin/env python3
"""What the API answers: tests/server/api_test.py PROGRAM. One server, the model of random parameters that lies in the tree."""
import json
import os
import tempfile
import unittest

import client

GREEDY = {'temperature': 0, 'ignore_eos': True}


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = client.Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.close()

    def refuse(self, path, body, status, param, text, code=None):
        got, _, answer = self.server.ask(path, body)
        self.assertEqual(got, status, answer)
        self.assertEqual(set(answer['error']), {'message', 'type', 'param', 'code'})
        self.assertIn(text, answer['error']['message'])
        self.assertEqual(answer['error']['param'], param)
        if code:
            self.assertEqual(answer['error']['code'], code)

    def test_models(self):
        _, _, models = self.server.ask('/v1/models')
        self.assertEqual([m['id'] for m in models['data']], ['tiny-random'])
        self.assertEqual(self.server.ask('/v1/models/tiny-random')[2], models['data'][0])
        self.assertEqual(self.server.ask('/v1/models/gpt')[0], 404)
        self.refuse('/v1/completions', {'prompt': 'a', 'model': 'gpt'}, 404, 'model', 'tiny-random', 'model_not_found')
        for name in ('tiny-random', 'default', None):
            self.server.complete(prompt='a', max_tokens=1, model=name)

    def test_a_completion_is_what_generate_writes(self):
        for options, fields in ((['--greedy'], {'temperature': 0}),
                                (['--seed', '7'], {'seed': 7}),
                                (['--seed', '9', '--temperature', '0.7', '--top-k', '50', '--top-p', '0.9', '--min-p', '0.01',
                                  '--repetition-penalty', '1.2', '--presence-penalty', '0.5', '--frequency-penalty', '0.25'],
                                 {'seed': 9, 'temperature': 0.7, 'top_k': 50, 'top_p': 0.9, 'min_p': 0.01,
                                  'repetition_penalty': 1.2, 'presence_penalty': 0.5, 'frequency_penalty': 0.25})):
            expected = json.loads(client.run('generate', '--model', client.MODEL, '-p', 'Once upon a time', '-n', '60', '--json', *options))
            got = self.server.complete(prompt='Once upon a time', max_tokens=60, **fields)
            self.assertEqual(got['choices'][0]['text'], expected['text'])
            self.assertEqual(got['usage']['completion_tokens'], len(expected['tokens']))
            self.assertEqual(got['usage']['prompt_tokens'], expected['prompt_tokens'])

    def test_a_stream_is_the_whole_in_pieces(self):
        fields = {'prompt': 'hello', 'max_tokens': 50, 'seed': 3, 'n': 3, 'logprobs': 2}
        whole = self.server.complete(**fields)
        events = self.server.stream('/v1/completions', **fields, stream_options={'include_usage': True})
        self.assertEqual(events.pop(), '[DONE]')
        usage = events.pop()
        self.assertEqual((usage['choices'], usage['usage']['completion_tokens']), ([], whole['usage']['completion_tokens']))
        self.assertTrue(all(e['usage'] is None for e in events))
        for choice in whole['choices']:
            parts = [e['choices'][0] for e in events if e['choices'][0]['index'] == choice['index']]
            self.assertEqual(''.join(p['text'] for p in parts), choice['text'])
            for key in choice['logprobs']:
                self.assertEqual(sum((p['logprobs'][key] for p in parts), []), choice['logprobs'][key])
            self.assertEqual([p['finish_reason'] for p in parts], [None] * (len(parts) - 1) + [choice['finish_reason']])

    def test_chat(self):
        fields = {'max_tokens': 20, 'seed': 5, 'logprobs': True, 'top_logprobs': 3}
        whole = self.server.chat('Hi', **fields)['choices'][0]
        self.assertEqual(whole['message']['role'], 'assistant')
        events = self.server.stream('/v1/chat/completions', messages=[{'role': 'user', 'content': 'Hi'}], **fields)
        self.assertEqual(events.pop(), '[DONE]')
        deltas = [e['choices'][0]['delta'] for e in events]
        self.assertEqual(deltas[0]['role'], 'assistant')
        self.assertEqual(''.join(d.get('content', '') for d in deltas), whole['message']['content'])
        scores = [t for e in events for t in e['choices'][0]['logprobs']['content']]
        self.assertEqual(scores, whole['logprobs']['content'])
        self.assertEqual(len(scores), 20)
        for token in scores:
            top = [t['logprob'] for t in token['top_logprobs']]
            self.assertEqual((len(top), top), (3, sorted(top, reverse=True)))
            self.assertEqual(bytes(token['bytes']).decode(errors='replace'), token['token'])
        parts = [{'type': 'text', 'text': 'H'}, {'type': 'text', 'text': 'i'}]
        self.assertEqual(self.server.chat(parts, **fields)['choices'][0], whole)

    def test_prompts_as_text_ids_and_lists(self):
        texts = ['hello world', 'Once', 'linnet']
        ids = [self.server.ask('/tokenize', {'prompt': t})[2]['tokens'] for t in texts]
        alone = [self.server.complete(prompt=t, max_tokens=9, **GREEDY)['choices'][0]['text'] for t in texts]
        self.assertEqual([self.server.complete(prompt=i, max_tokens=9, **GREEDY)['choices'][0]['text'] for i in ids], alone)
        for prompts in (texts, ids):
            answer = self.server.complete(prompt=prompts, max_tokens=9, n=2, **GREEDY)
            self.assertEqual([c['text'] for c in answer['choices']], [t for t in alone for _ in range(2)])
            self.assertEqual(answer['usage']['prompt_tokens'], sum(map(len, ids)))

    def test_more_prompts_than_places(self):
        prompts = [f'number {i}' for i in range(400)]
        answer = self.server.complete(prompt=prompts, max_tokens=2, **GREEDY)
        self.assertEqual([c['index'] for c in answer['choices']], list(range(400)))
        alone = self.server.complete(prompt='number 399', max_tokens=2, **GREEDY)
        self.assertEqual(answer['choices'][399]['text'], alone['choices'][0]['text'])

    def test_echo_and_logprobs_score_a_prompt(self):
        text = 'The linnet sings 歌.'
        answer = self.server.complete(prompt=text, max_tokens=1, echo=True, logprobs=1, **GREEDY)
        choice, scores = answer['choices'][0], answer['choices'][0]['logprobs']
        n = answer['usage']['prompt_tokens']
        self.assertTrue(choice['text'].startswith(text))
        self.assertEqual([len(scores[k]) for k in ('tokens', 'token_logprobs', 'top_logprobs', 'text_offset')], [n + 1] * 4)
        self.assertIsNone(scores['token_logprobs'][0])
        self.assertTrue(all(x < 0 for x in scores['token_logprobs'][1:]))
        for score, top in zip(scores['token_logprobs'][1:], scores['top_logprobs'][1:]):
            self.assertLessEqual(score, max(top.values()))
            self.assertIn(score, top.values())
        offsets = scores['text_offset']
        self.assertEqual((offsets[0], offsets[n]), (0, len(text)))
        # What is scored is what perplexity measures.
        only = self.server.complete(prompt=text, max_tokens=0, echo=True, logprobs=0)['choices'][0]
        self.assertEqual(only['text'], text)
        self.assertEqual(only['logprobs']['token_logprobs'], scores['token_logprobs'][:n])
        with open(self.server.log.name + '.txt', 'w') as file:
            file.write(text)
        measured = json.loads(client.run('perplexity', '--model', client.MODEL, '--json', file.name))
        os.remove(file.name)
        mean = -sum(only['logprobs']['token_logprobs'][1:]) / (n - 1)
        self.assertAlmostEqual(mean, measured['loss'], delta=1e-6)  # log-probabilities come as floats, of about 6

    def test_where_replies_end(self):
        whole = self.server.complete(prompt='hello', max_tokens=40, **GREEDY)['choices'][0]
        self.assertEqual(whole['finish_reason'], 'length')
        stop = whole['text'][20:23]
        for stops in (stop, ['never this', stop]):
            cut = self.server.complete(prompt='hello', max_tokens=40, stop=stops, **GREEDY)['choices'][0]
            self.assertEqual((cut['text'], cut['finish_reason']), (whole['text'][:whole['text'].find(stop)], 'stop'))
        ended = self.server.complete(prompt='a', max_tokens=40, temperature=0, logit_bias={'770': 100})  # <|im_end|>
        self.assertEqual((ended['choices'][0]['text'], ended['choices'][0]['finish_reason']), ('', 'stop'))
        ended = self.server.complete(prompt='hello', temperature=0, logit_bias={'65': 100}, stop_token_ids=[65], ignore_eos=True)
        self.assertEqual((ended['choices'][0]['text'], ended['choices'][0]['finish_reason']), ('', 'stop'))
        full = self.server.complete(prompt=[65] * 4090, max_tokens=1000, **GREEDY)  # the context holds 4096
        self.assertEqual((full['usage']['completion_tokens'], full['choices'][0]['finish_reason']), (7, 'length'))
        self.assertEqual(self.server.complete(prompt='a', **GREEDY)['usage']['completion_tokens'], 16)

    def test_stops_that_begin_anywhere(self):
        fields = {'prompt': '歌', 'max_tokens': 60, 'seed': 3, 'temperature': 2}
        whole = self.server.complete(**fields)['choices'][0]['text']
        self.assertIn('\ufffd', whole)  # bytes that are no text
        for i in range(0, len(whole) - 3, 2):
            stop = whole[i:i + 1 + i % 3]
            *events, end, done = self.server.stream('/v1/completions', **fields, stop=[stop])
            self.assertEqual(''.join(e['choices'][0]['text'] for e in events + [end]), whole[:whole.find(stop)], stop)
            self.assertEqual((end['choices'][0]['finish_reason'], done), ('stop', '[DONE]'))

    # Decoding goes token by token, echo reads them as a prompt: errors that add up, or states that forget, would part the two.
    def test_a_long_reply_is_scored_as_it_was_drawn(self):
        def scored(prompt, n):
            return self.server.complete(prompt=prompt, max_tokens=n, seed=1, ignore_eos=True, echo=True, logprobs=0)['choices'][0]['logprobs']

        names = scored(list(range(1024)), 0)['tokens']
        self.assertEqual(len(set(names)), 1024)
        prompt = self.server.ask('/tokenize', {'prompt': 'Once upon a time'})[2]['tokens']
        drawn = scored(prompt, 3000)
        read = scored([names.index(name) for name in drawn['tokens']], 0)
        self.assertEqual((len(drawn['tokens']), drawn['tokens']), (len(prompt) + 3000, read['tokens']))
        self.assertLess(max(abs(a - b) for a, b in zip(drawn['token_logprobs'][1:], read['token_logprobs'][1:])), 3e-2)

    def test_json_by_schema(self):
        schema = {'type': 'object', 'properties': {'z': {'type': 'integer'}, 'a': {'enum': ['x', 'y']}}, 'required': ['z', 'a'],
                  'additionalProperties': False}
        fields = {'max_tokens': 100, 'seed': 1}
        for n in range(2):  # the second finds the grammar made
            text = self.server.chat(response_format={'type': 'json_schema', 'json_schema': {'name': 'v', 'schema': schema}},
                                    **fields)['choices'][0]['message']['content']
            value = json.loads(text)
            self.assertEqual(list(value), ['z', 'a'])  # in the schema's order
        text = self.server.complete(prompt='a', response_format={'type': 'json_object'}, **fields)['choices'][0]['text']
        self.assertIsInstance(json.loads(text), dict)
        bad = {'type': 'json_schema', 'json_schema': {'schema': {'type': 'string', 'pattern': 'a+'}}}
        self.refuse('/v1/completions', {'prompt': 'a', 'response_format': bad}, 400, 'response_format', '#/pattern')
        bomb = {'type': 'array', 'maxItems': 60000, 'items': {'type': 'array', 'maxItems': 60000, 'items': {'enum': ['ab'] * 100}}}
        self.refuse('/v1/completions', {'prompt': 'a', 'response_format': {'type': 'json_schema', 'json_schema': {'schema': bomb}}},
                    400, 'response_format', 'at most 65536 states')

    # Random weights: nothing but the constraint makes the calls right.
    def test_tools(self):
        def tool(name, properties):
            return {'type': 'function', 'function': {'name': name, 'parameters': {
                'type': 'object', 'properties': properties, 'required': list(properties), 'additionalProperties': False}}}
        tools = [tool('weather', {'city': {'enum': ['Oslo', 'Rome']}}), tool('add', {'a': {'type': 'boolean'}, 'b': {'type': 'boolean'}})]
        fields = {'messages': [{'role': 'user', 'content': 'hello'}], 'tools': tools, 'max_tokens': 120}
        names = set()
        for seed in range(6):
            choice = self.server.chat(**fields, tool_choice='required', parallel_tool_calls=False, seed=seed)['choices'][0]
            self.assertEqual(choice['finish_reason'], 'tool_calls', choice)
            (call,) = choice['message']['tool_calls']
            arguments = json.loads(call['function']['arguments'])
            names.add(call['function']['name'])
            if call['function']['name'] == 'weather':
                self.assertIn(arguments, [{'city': 'Oslo'}, {'city': 'Rome'}])
            else:
                self.assertEqual((set(arguments), {type(v) for v in arguments.values()}), ({'a', 'b'}, {bool}))

            deltas = [e['choices'][0]['delta'] for e in self.server.stream(
                '/v1/chat/completions', **fields, tool_choice='required', parallel_tool_calls=False, seed=seed)[:-1]]
            pieces = [piece for delta in deltas for piece in delta.get('tool_calls', [])]
            self.assertEqual([pieces[0]['id'], pieces[0]['function']['name']], [call['id'], call['function']['name']])
            self.assertEqual(''.join(piece['function'].get('arguments', '') for piece in pieces), call['function']['arguments'])
        self.assertEqual(names, {'weather', 'add'})

        named = self.server.chat(**fields, tool_choice={'type': 'function', 'function': {'name': 'add'}}, parallel_tool_calls=False)
        (call,) = named['choices'][0]['message']['tool_calls']
        self.assertEqual(call['function']['name'], 'add')
        said = fields['messages'] + [named['choices'][0]['message'], {'role': 'tool', 'tool_call_id': call['id'], 'content': '7'}]
        answered = self.server.chat(messages=said, tools=tools, tool_choice='none', max_tokens=8)['choices'][0]
        self.assertNotIn('tool_calls', answered['message'])
        strict = [tool('f', {'a': {'type': 'string', 'pattern': 'a'}})]
        self.server.chat(**fields | {'tools': strict, 'max_tokens': 1})
        strict[0]['function']['strict'] = True
        self.refuse('/v1/chat/completions', fields | {'tools': strict}, 400, 'tools', '#/properties/a/pattern', 'unsupported_schema')
        self.refuse('/v1/chat/completions', fields | {'tool_choice': {'type': 'function', 'function': {'name': 'fly'}}}, 400,
                    'tool_choice', 'fly')

    def test_fields_that_are_wrong_are_named(self):
        for fields, param in (({'temperature': 'hot'}, 'temperature'), ({'temperature': -1}, 'temperature'), ({'n': 0}, 'n'),
                              ({'max_tokens': 1.5}, 'max_tokens'), ({'logit_bias': {'x': 1}}, 'logit_bias'),
                              ({'logit_bias': {'5': 1e9}}, 'logit_bias.5'), ({'logit_bias': {'99999': 1}}, 'logit_bias'),
                              ({'stop': ['']}, 'stop'), ({'stop': ['a'] * 65}, 'stop'), ({'prompt': []}, 'prompt'),
                              ({'prompt': [1, 'a']}, 'prompt'), ({'prompt': {}}, 'prompt'), ({'prompt': [[1], [99999]]}, 'prompt'),
                              ({'prompt': None}, 'prompt'), ({'prompt': ''}, 'prompt'), ({'logprobs': 21}, 'logprobs'),
                              ({'stream_options': 3}, 'stream_options'), ({'response_format': {'type': 'xml'}}, 'response_format.type'),
                              ({'n': 65}, 'n'), ({'best_of': 2}, 'best_of'), ({'suffix': 'x'}, 'suffix'), ({'use_beam_search': True}, 'use_beam_search')):
            self.refuse('/v1/completions', {'prompt': 'a', **fields}, 400, param, param.split('.')[0])
        for fields, param in (({'messages': []}, 'messages'), ({'messages': [{'role': 'cat', 'content': 'm'}]}, 'messages[0].role'),
                              ({'messages': [{'role': 'user'}]}, 'messages[0].content'), ({'top_logprobs': 2}, 'top_logprobs'),
                              ({'messages': [{'role': 'user', 'content': [{'type': 'image_url'}]}]}, 'messages[0].content[0].type')):
            self.refuse('/v1/chat/completions', {'messages': [{'role': 'user', 'content': 'a'}], **fields}, 400, param, '')
        self.refuse('/v1/completions', {'prompt': [65] * 4096}, 400, 'prompt', '4096', 'context_length_exceeded')
        for neutral in ({'best_of': 1}, {'suffix': None}, {'use_beam_search': False}, {'min_tokens': 0}, {'length_penalty': 1}):
            self.server.complete(prompt='a', max_tokens=1, **neutral)

    def test_a_template_that_refuses(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in os.listdir(client.MODEL):
                os.symlink(os.path.join(client.MODEL, name), os.path.join(folder, name))
            with open(os.path.join(folder, 'chat_template.jinja'), 'w') as file:
                file.write("{{ raise_exception('no ' + messages[0].content) }}")
            server = client.Server(model=folder)
            self.addCleanup(server.close)
            for path in ('/v1/chat/completions', '/tokenize'):
                status, _, answer = server.ask(path, {'messages': [{'role': 'user', 'content': 'cats'}]})
                self.assertEqual((status, answer['error']['param']), (400, 'messages'))
                self.assertRegex(answer['error']['message'], r'^messages: chat_template\.jinja:1:\d+: .*no cats$')

    def test_unknown_fields_are_told(self):
        status, headers, _ = self.server.ask('/v1/completions', {'prompt': 'a', 'max_tokens': 1, 'zebra': 1, 'user': 'me'})
        self.assertEqual((status, headers['X-Ignored-Fields']), (200, 'zebra'))

    def test_bodies_that_are_no_requests(self):
        for body in (b'', b'{', b'[]', b'nonsense', b'{"prompt":"a"}x', b'{"prompt":"\xff"}', b'{"prompt":"a","prompt":"b"}',
                     b'{"a":' * 100 + b'1' + b'}' * 100, b'[' * 100000, b'{"prompt":1e999}', b'{"prompt":"\\ud800"}', b'\0'):
            for path in ('/v1/completions', '/v1/chat/completions', '/tokenize', '/detokenize'):
                status, _, answer = self.server.ask(path, body)
                self.assertEqual((status, answer['error']['type']), (400, 'invalid_request_error'), body[:20])

    def test_tokenize_and_back(self):
        text = 'Once 歌 <|im_end|>'
        answer = self.server.ask('/tokenize', {'content': text, 'parse_special': False})[2]
        self.assertEqual(answer['count'], len(answer['tokens']))
        self.assertEqual(self.server.ask('/detokenize', {'tokens': answer['tokens']})[2]['prompt'], text)
        parsed = self.server.ask('/tokenize', {'prompt': text})[2]
        self.assertLess(parsed['count'], answer['count'])
        info = self.server.ask('/tokenizer_info')[2]
        self.assertEqual(self.server.ask('/tokenize', {'prompt': info['eos_token']})[2]['count'], 1)
        chat = self.server.ask('/tokenize', {'messages': [{'role': 'user', 'content': 'hello'}]})[2]
        self.assertEqual(chat['count'], self.server.chat(max_tokens=1)['usage']['prompt_tokens'])
        more = {'messages': [{'role': 'user', 'content': 'hello'}], 'tools': [{'type': 'function', 'function': {'name': 'add'}}]}
        count = self.server.ask('/tokenize', more)[2]['count']
        self.assertGreater(count, chat['count'])
        self.assertEqual(count, self.server.chat(max_tokens=1, tools=more['tools'])['usage']['prompt_tokens'])
        self.assertEqual(self.server.ask('/detokenize', {'tokens': [10 ** 6]})[0], 400)

    def test_page(self):
        status, headers, body = self.server.ask('/')
        self.assertEqual(status, 200)
        self.assertIn(b'<html', body.lower())
        self.assertIn("default-src 'none'", headers['Content-Security-Policy'])
        self.assertEqual(self.server.ask('/', headers={'If-None-Match': headers['ETag']})[0], 304)
        self.assertEqual(self.server.ask('/page/nothing.js')[0], 404)
        self.assertEqual(self.server.ask('/', method='HEAD')[2], b'')

    def test_paths_methods_and_what_there_is_not(self):
        self.refuse('/v1/nothing', {}, 404, None, '/v1/nothing')
        self.refuse('/v1/models', {}, 405, None, 'expected GET, got POST')
        self.refuse('/v1/embeddings', {'input': 'a'}, 501, None, 'embeddings')

    def test_health_metrics_and_log(self):
        self.assertEqual(self.server.ask('/health')[2]['status'], 'ok')
        before = self.server.metric('linnet_requests_total{route="completions",status="200"}') if self.server.complete(
            prompt='a', max_tokens=1) else 0
        drawn = self.server.metric('linnet_generated_tokens_total')
        _, headers, _ = self.server.ask('/v1/completions', {'prompt': 'a', 'max_tokens': 5, **GREEDY}, {'X-Request-Id': 'mine-1'})
        self.assertEqual(headers['X-Request-Id'], 'mine-1')
        self.server.await_metric('linnet_requests_total{route="completions",status="200"}', lambda n: n > before)
        self.server.await_metric('linnet_generated_tokens_total', lambda n: n >= drawn + 5)  # the one before may count late
        _, headers, _ = self.server.ask('/health', headers={'X-Request-Id': 'bad id'})
        self.assertTrue(headers['X-Request-Id'].startswith('req-'))
        record = next(r for r in self.server.records() if r['request_id'] == 'mine-1')
        self.assertEqual((record['status'], record['generated_tokens'], record['finish']), (200, 5, 'length'))

    def test_many_at_once_get_what_each_gets_alone(self):
        def ask(i):
            answer = self.server.chat(f'canary {i}', max_tokens=24, seed=i, logprobs=True)['choices'][0]
            return answer['message']['content'], [t['logprob'] for t in answer['logprobs']['content']]

        alone = [ask(i) for i in range(24)]
        self.assertEqual(client.together([lambda i=i: ask(i) for i in range(24)]), alone)
        self.assertEqual(len({text for text, _ in alone}), 24)


if __name__ == '__main__':
    unittest.main(argv=['api_test'] + client.sys.argv[2:])
