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
