#!/usr/bin/env python3
"""OpenAI's Python client against linnet serve: tests/server/openai_client_test.py PROGRAM."""
import asyncio
import json
import tempfile
import unittest

import openai
import pydantic

import client

HELLO = [{'role': 'user', 'content': 'hello'}]


class Bird(pydantic.BaseModel):
    wings: int
    sings: bool


class OpenAI(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.NamedTemporaryFile('w') as file:
            file.write('the-key\n')
            file.flush()
            cls.server = client.Server('--api-key-file', file.name)
        cls.url = f'http://127.0.0.1:{cls.server.port}/v1'
        cls.api = openai.OpenAI(base_url=cls.url, api_key='the-key', max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.api.close()
        cls.server.close()

    def test_models(self):
        self.assertEqual([m.id for m in self.api.models.list()], ['tiny-random'])
        self.assertEqual(self.api.models.retrieve('tiny-random').owned_by, 'linnet')

    def test_chat_whole_and_as_a_stream(self):
        ask = {'model': 'tiny-random', 'messages': HELLO, 'max_tokens': 20, 'seed': 4}
        whole = self.api.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
        self.assertEqual((whole.usage.completion_tokens, whole.choices[0].finish_reason), (20, 'length'))
        self.assertEqual(len(whole.choices[0].logprobs.content), 20)
        text, usage = '', None
        for chunk in self.api.chat.completions.create(**ask, stream=True, stream_options={'include_usage': True}):
            if chunk.choices:
                text += chunk.choices[0].delta.content or ''
            usage = chunk.usage or usage
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertEqual(usage.completion_tokens, 20)
        self.assertIsNotNone(usage.prompt_tokens_details.cached_tokens)

    def test_completions(self):
        answer = self.api.completions.create(model='tiny-random', prompt=['Once', 'upon'], n=2, max_tokens=5, seed=1, echo=True, logprobs=3)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2, 3])
        self.assertTrue(answer.choices[3].text.startswith('upon'))
        self.assertIsNone(answer.choices[0].logprobs.token_logprobs[0])
        by_ids = self.api.completions.create(model='tiny-random', prompt=[[1, 2, 3]], max_tokens=5, extra_body={'ignore_eos': True})
        self.assertEqual(by_ids.usage.completion_tokens, 5)

    def test_parsed_json(self):
        answer = self.api.chat.completions.parse(model='tiny-random', messages=HELLO, max_tokens=200, seed=2, response_format=Bird)
        self.assertIsInstance(answer.choices[0].message.parsed, Bird)
        answer = self.api.chat.completions.create(model='tiny-random', messages=HELLO, max_tokens=200, seed=2,
                                                  response_format={'type': 'json_object'})
        self.assertIsInstance(json.loads(answer.choices[0].message.content), dict)

    def test_tools(self):
        tools = [{'type': 'function', 'function': {'name': name, 'parameters': {
            'type': 'object', 'properties': {'city': {'enum': ['Oslo', 'Rome']}}, 'required': ['city'], 'additionalProperties': False}}}
            for name in ('weather', 'time')]
        for seed in range(40):  # until the model that knows nothing happens to call twice
            ask = {'model': 'tiny-random', 'messages': HELLO, 'tools': tools, 'tool_choice': 'required', 'max_tokens': 300, 'seed': seed}
            message = self.api.chat.completions.create(**ask).choices[0].message
            if len(message.tool_calls) > 1:
                break
        else:
            self.fail('no parallel calls')
        self.assertEqual(len({call.id for call in message.tool_calls}), len(message.tool_calls))
        calls = {}
        for chunk in self.api.chat.completions.create(**ask, stream=True):
            for part in chunk.choices[0].delta.tool_calls or []:
                call = calls.setdefault(part.index, {'id': part.id, 'name': part.function.name, 'arguments': ''})
                call['arguments'] += part.function.arguments or ''
        self.assertEqual([calls[i] for i in range(len(calls))], [{'id': c.id, 'name': c.function.name, 'arguments': c.function.arguments}
                                                                 for c in message.tool_calls])
        one = self.api.chat.completions.create(**ask, parallel_tool_calls=False).choices[0]
        self.assertEqual((one.finish_reason, len(one.message.tool_calls)), ('tool_calls', 1))
        self.assertIn(json.loads(one.message.tool_calls[0].function.arguments)['city'], ('Oslo', 'Rome'))
        answer = {'role': 'tool', 'tool_call_id': one.message.tool_calls[0].id, 'content': '7'}
        said = self.api.chat.completions.create(model='tiny-random', messages=[*HELLO, one.message, answer], tools=tools, tool_choice='none',
                                                max_tokens=5)
        self.assertIsNone(said.choices[0].message.tool_calls)

    def test_a_stream_that_is_closed_and_what_headers_say(self):
        ask = {'model': 'tiny-random', 'prompt': 'a', 'max_tokens': 4000, 'extra_body': {'ignore_eos': True}}
        with self.api.completions.create(**ask, stream=True) as stream:
            next(iter(stream))
        key = {'Authorization': 'Bearer the-key'}
        for _ in range(100 * client.PATIENCE):
            if b'linnet_requests_running 0\n' in self.server.ask('/metrics', headers=key)[2]:
                break
        else:
            self.fail('its request goes on')
        raw = self.api.completions.with_raw_response.create(model='tiny-random', prompt='a', max_tokens=1, logit_bias={'65': 100},
                                                            extra_headers={'X-Request-Id': 'from-client'})
        self.assertEqual((raw.headers['x-request-id'], raw.parse().choices[0].text), ('from-client', 'A'))

    def test_errors_become_its_exceptions(self):
        with self.assertRaises(openai.BadRequestError) as refused:
            self.api.completions.create(model='tiny-random', prompt='a', temperature=1000)
        self.assertEqual((refused.exception.param, refused.exception.type), ('temperature', 'invalid_request_error'))
        with self.assertRaises(openai.NotFoundError):
            self.api.completions.create(model='gpt', prompt='a')
        with self.assertRaises(openai.APIStatusError) as refused:
            self.api.embeddings.create(model='tiny-random', input='a')
        self.assertEqual(refused.exception.status_code, 501)
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=self.url, api_key='wrong', max_retries=0).models.list()

    def test_many_at_once(self):
        async def ask_all():
            async with openai.AsyncOpenAI(base_url=self.url, api_key='the-key') as api:
                return await asyncio.gather(*(api.chat.completions.create(model='tiny-random', messages=HELLO, max_tokens=10, seed=i)
                                              for i in range(32)))

        answers = asyncio.run(ask_all())
        self.assertEqual(len({a.choices[0].message.content for a in answers}), 32)


if __name__ == '__main__':
    unittest.main(argv=['openai_client_test'] + client.sys.argv[2:])
