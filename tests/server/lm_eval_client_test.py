#!/usr/bin/env python3
"""EleutherAI's harness against linnet serve, without a network: tests/server/lm_eval_client_test.py PROGRAM. A task of its own, by
log-likelihoods and by generation, with the server's tokenizer; each answer is compared with what the server says when asked directly."""
import json
import os
import tempfile
import unittest
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE='1', HF_DATASETS_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
import lm_eval  # noqa: E402
import lm_eval.tasks  # noqa: E402

import client  # noqa: E402

QUESTIONS = [{'question': q, 'choices': c, 'answer': a} for q, c, a in (
    ('A linnet is a', ['bird', 'fish', 'stone'], 0), ('Water is', ['dry', 'wet'], 1), ('Two and two are', ['three', 'five', 'four'], 2))]
CHOICE = '''task: birds_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}]
'''
WRITE = '''task: birds_write
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 12, temperature: 0, do_sample: false}
metric_list: [{metric: exact_match}]
'''


class Harness(unittest.TestCase):
    def test_scores_and_texts_are_the_servers_own(self):
        with tempfile.TemporaryDirectory() as folder:
            os.environ['HF_HOME'] = folder
            data = Path(folder) / 'birds.jsonl'
            data.write_text('\n'.join(map(json.dumps, QUESTIONS)))
            for name, task in (('choice', CHOICE), ('write', WRITE)):
                (Path(folder) / f'{name}.yaml').write_text(task.replace('FILE', str(data)))
            server = client.Server()
            self.addCleanup(server.close)
            results = lm_eval.simple_evaluate(
                model='local-completions', batch_size=2, log_samples=True, bootstrap_iters=0,
                model_args=f'model=tiny-random,base_url=http://127.0.0.1:{server.port}/v1/completions,tokenizer_backend=remote,'
                           'num_concurrent=2,max_retries=1',
                tasks=['birds_choice', 'birds_write'],
                task_manager=lm_eval.tasks.TaskManager(include_path=folder, include_defaults=False))
        self.assertEqual(set(results['results']), {'birds_choice', 'birds_write'})
        for sample in results['samples']['birds_choice']:
            self.assertEqual(len(sample['filtered_resps']), len(sample['doc']['choices']))
            for choice, (score, _) in zip(sample['doc']['choices'], sample['filtered_resps']):
                self.assertAlmostEqual(float(score), self.score(server, sample['doc']['question'], ' ' + choice), places=4)
        for sample in results['samples']['birds_write']:
            text = server.complete(prompt=sample['doc']['question'], max_tokens=12, temperature=0, stop=['\n\n'])['choices'][0]['text']
            self.assertEqual(sample['resps'][0][0], text)

    def score(self, server, context, continuation):
        n = server.ask('/tokenize', {'prompt': context})[2]['count']
        answer = server.complete(prompt=context + continuation, max_tokens=0, echo=True, logprobs=0)
        return sum(answer['choices'][0]['logprobs']['token_logprobs'][n:])


if __name__ == '__main__':
    unittest.main(argv=['lm_eval_client_test'] + client.sys.argv[2:])
