"""Poems that the model writes to titles it has not seen: do all lines have five, or all seven characters?"""
import json
import random
import re
import subprocess
import unicodedata

from measures.shards import Failure

LINE_END = re.compile(r'[。，？！、；：\s]+')
MEASURES = (5, 7)
MIN_LINES = 2


def measure(text, min_lines=MIN_LINES):
    """5 or 7 when every line has that many characters and there are enough lines, else None. Any other mark makes it None."""
    lines = [line for line in LINE_END.split(text) if line]
    lengths = {len(line) if all(unicodedata.category(c) == 'Lo' for c in line) else None for line in lines}
    return lengths.pop() if len(lines) >= min_lines and len(lengths) == 1 and lengths <= set(MEASURES) else None


class Template:
    """What `linnet data build` made documents of: text with {names}, the last of them {text}."""

    def __init__(self, template):
        if not template.endswith('{text}') or '{title}' not in template or '{{' in template:
            raise Failure(f'poems: expected a source with a template of {{title}} ... {{text}}, got {template!r}')
        self.head = template.removesuffix('{text}')
        parts = re.split(r'\{(\w+)\}', self.head)
        self.pattern = re.compile(''.join(rf'(?P<{part}>[^\n]*?)' if i % 2 else re.escape(part) for i, part in enumerate(parts)))

    def read(self, document):
        """-> (prompt, title, text), None when the document does not look like the template"""
        match = self.pattern.match(document)
        return match and (match[0], match['title'], document[match.end():])


def choose(template, train, held_out, n, seed):
    """n held-out poems of at least four lines, all of five or all of seven characters, whose titles no training poem has."""
    seen = {poem[1] for poem in map(template.read, train) if poem}
    chosen = []
    for poem in map(template.read, held_out):
        if poem and poem[1] not in seen and measure(poem[2], 4):
            seen.add(poem[1])
            chosen.append(poem)
    if len(chosen) < n:
        raise Failure(f'poems: expected {n} held-out poems with unseen titles, got {len(chosen)}')
    return random.Random(seed).sample(sorted(chosen), n)


def write(linnet, model, prompts, sampling, options):
    """One poem for each prompt, with the seeds 0, 1, ..; -> [{"text", "finish"}]"""
    written = []
    for seed, prompt in enumerate(prompts):
        command = [linnet, 'generate', '--model', model, '--prompt', prompt, '--seed', str(seed), '--json', '--quiet',
                   '--temperature', str(sampling['temperature']), '--top-p', str(sampling['top_p']),
                   '--max-tokens', str(sampling['max_tokens']), *options]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if result.returncode != 0:
            raise Failure(f'{linnet} generate ended with status {result.returncode}')
        answer = json.loads(result.stdout)
        written.append({'text': answer['text'], 'finish': answer['finish']})
    return written


def poems(linnet, model, shards, source, n, seed, sampling, options):
    if source not in shards.sources:
        raise Failure(f'poems: expected a source of the data, got {source}')
    template = Template(shards.sources[source].get('template', ''))
    texts = {split: [text.decode(errors='replace') for text in shards.documents(split, source)] for split in ('train', 'held-out')}
    chosen = choose(template, texts['train'], texts['held-out'], n, seed)
    written = write(linnet, model, [prompt for prompt, _, _ in chosen], sampling, options)
    for poem, (prompt, _, original) in zip(written, chosen):
        poem |= {'prompt': prompt, 'original': original, 'measure': measure(poem['text']) if poem['finish'] == 'end token' else None}
    return {'source': source, 'choice_seed': seed} | sampling | summary(written) | {'poems': written}


def summary(written):
    return {'n': len(written), 'regular': sum(poem['measure'] is not None for poem in written),
            'five': sum(poem['measure'] == 5 for poem in written), 'seven': sum(poem['measure'] == 7 for poem in written),
            'ended': sum(poem['finish'] == 'end token' for poem in written),
            'four_or_eight_lines': sum(poem['measure'] is not None and
                                       len(list(filter(None, LINE_END.split(poem['text'])))) in (4, 8) for poem in written),
            'different': len({poem['text'] for poem in written})}
