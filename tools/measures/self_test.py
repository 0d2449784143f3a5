"""Each measure on small data that is made here, against a plain computation that shares no code with it."""
import array
import base64
import collections
import hashlib
import json
import lzma
import math
import random
import stat
import struct
import tempfile
from pathlib import Path

from measures import bits, ngram, poems, shared
from measures.shards import Failure, Shards, need_numpy

END = 256  # of a tokenizer of single bytes
TEMPLATE = '《{title}》{author}\n\n{text}'


def expect(what, got, expected, tolerance=0.0):
    same = abs(got - expected) <= tolerance if tolerance else got == expected
    if not same:
        raise AssertionError(f'{what}: expected {expected!r}, got {got!r}')


def write_data(folder, sources, template=None):
    """sources: name -> (training texts, held-out texts)"""
    (folder / 'tokenizer').mkdir(parents=True)
    lines = [f'{base64.b64encode(bytes([i])).decode()} {i}\n' for i in range(256)]
    (folder / 'tokenizer' / 'tiktoken.model').write_text(''.join(lines))
    manifest = {'vocab_size': END + 1, 'tokenizer_hash': '0', 'held_out': 0.1, 'sources': []}
    for name, splits in sources.items():
        source = {'name': name, 'hash': '0'} | ({'template': template} if template else {})
        for split, texts in zip(('train', 'held-out'), splits):
            shards = [write_shard(folder / f'{name}-{split}-{i}.bin', texts[i:i + 3]) for i in range(0, len(texts), 3)]
            n_bytes = sum(len(text.encode()) for text in texts)
            source[split] = {'documents': len(texts), 'tokens': n_bytes + len(texts), 'bytes': n_bytes,
                             'shards': [{'file': shard} for shard in shards]}
        manifest['sources'].append(source)
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    return Shards(folder)


def write_shard(path, texts):
    ids, ends = array.array('H'), array.array('Q')
    for text in texts:
        ids.extend([*text.encode(), END])
        ends.append(len(ids))
    body = ids.tobytes() + bytes(-2 * len(ids) % 8) + ends.tobytes()
    header = struct.pack('<8sIIQQQQQII', b'LINNETTK', 1, 2, 64 + len(body), 0, len(ids), len(ends), 0, END + 1, 0)
    path.write_bytes(header + body)
    return path.name


def test_shards(folder):
    texts = ['one', '', '春眠不覺曉', 'x' * 9]
    data = write_data(folder / 'shards', {'a': (texts, ['two']), 'b': ([], ['three'])})
    expect('documents', data.documents('train', 'a'), [text.encode() for text in texts])
    expect('documents of no shard', data.documents('train', 'b'), [])
    data.sources['a']['train']['bytes'] += 1
    try:
        data.documents('train', 'a')
        raise AssertionError('a manifest with other bytes: expected a failure')
    except Failure:
        pass


def test_bits(folder):
    data = write_data(folder / 'bits', {'a': (['x'], ['abcd', 'efg']), 'b': (['x'], ['hi'])})
    # a: 4 + 3 bytes, 9 tokens, of which 7 are scored and hold 5 bytes; b: 2 bytes, 3 tokens, 2 scored, 1 byte
    scored = {'window': 8, 'by_source': [{'source': 'a', 'tokens': 7, 'bytes': 5, 'loss': 2 * math.log(2)},
                                         {'source': 'b', 'tokens': 2, 'bytes': 1, 'loss': math.log(2)}]}
    result = bits.with_first_tokens(scored, data)['by_source']
    expect('bits of a', result['a']['scored_bits_per_byte'], 14 / 5, 1e-12)
    expect('bits of a, every token', result['a']['bits_per_byte'], (14 + 2 * math.log2(257)) / 7, 1e-12)
    expect('bits of all', result['all']['scored_bits_per_byte'], 16 / 6, 1e-12)
    expect('bits of all, every token', result['all']['bits_per_byte'], (16 + 3 * math.log2(257)) / 9, 1e-12)


def test_xz(folder):
    rng = random.Random(1)
    noise = [''.join(chr(rng.randrange(33, 127)) for _ in range(3000)) for _ in range(40)]
    data = write_data(folder / 'xz', {'old': (noise, [noise[3]]), 'new': ([], [noise[0][::-1]])})
    result = bits.xz_bits(data)['by_source']
    alone = len(lzma.compress(noise[3].encode() + b'\0', preset=9 | lzma.PRESET_EXTREME))
    expect('xz alone', result['old']['alone_bits_per_byte'], 8 * alone / 3000, 1e-12)
    # noise of 94 characters: log2(94) = 6.55 bits each; what the training text holds costs next to nothing
    expect('xz of noise', result['new']['alone_bits_per_byte'], 6.75, 0.25)
    expect('xz of what it has seen', result['old']['after_train_bits_per_byte'], 0.05, 0.05)
    expect('xz of what it has not seen', result['new']['after_train_bits_per_byte'], 6.7, 0.2)


class PlainKneserNey:
    """The formula of ngram.py by dictionaries, one probability at a time; the discounts are the ones that are being checked."""

    def __init__(self, documents, vocab_size, order, discounts):
        self.vocab_size, self.order, self.discounts = vocab_size, order, discounts
        raw = collections.Counter()
        for document in documents:
            words = ['mark', *document]
            for end in range(2, len(words) + 1):
                raw.update(tuple(words[end - n:end]) for n in range(1, min(order, end) + 1))
        before = collections.defaultdict(set)
        for gram in raw:
            before[gram[1:]].add(gram[0])
        self.adjusted = {gram: count if len(gram) == order or gram[0] == 'mark' else len(before[gram])
                         for gram, count in raw.items()}
        self.after = collections.defaultdict(list)
        for gram, count in self.adjusted.items():
            self.after[gram[:-1]].append(count)

    def probability(self, context, word):
        """context: at most order - 1 words"""
        lower = self.probability(context[1:], word) if context else 1 / self.vocab_size
        counts = self.after.get(tuple(context), [])
        if not counts:
            return lower
        d = [0, *self.discounts[len(context)]]
        count = self.adjusted.get((*context, word), 0)
        return (count - d[min(count, 3)] + sum(d[min(c, 3)] for c in counts) * lower) / sum(counts)


def test_ngram(folder):
    np = need_numpy()
    rng = random.Random(2)
    texts = [''.join(rng.choice('abcd') if rng.random() < 0.5 else 'abcd'[i % 4] for i in range(rng.randrange(0, 30)))
             for _ in range(120)]
    train, held_out = texts[:90], [*texts[90:], 'zzabcdz', '']
    data = write_data(folder / 'ngram', {'a': (train[:50], held_out[:20]), 'b': (train[50:], held_out[20:])})
    ids = np.array([token for text in train for token in [*text.encode(), END]], np.uint16)
    ends = np.cumsum([len(text) + 1 for text in train]).astype(np.uint64)
    model = ngram.NGram(ids, ends, END + 1)
    d = [order.discounts for order in model.orders[1:]]
    if not any(0 < x < 0.999 and abs(x - 0.5) > 1e-9 for order in d for x in order[:1]):
        raise AssertionError(f'discounts: expected an estimate, got {d}')
    plain = PlainKneserNey([[*text.encode(), END] for text in train], END + 1, ngram.ORDER, d)
    for context in ([], ['mark'], ['mark', 97], [97, 98, 99, 100], [122, 97]):
        expect(f'sum after {context}', sum(plain.probability(context, word) for word in range(END + 1)), 1, 1e-9)
    frequency = collections.Counter(ids.tolist())
    totals = collections.Counter()
    for i, text in enumerate(held_out):
        words = ['mark', *text.encode(), END]
        for end in range(1, len(words)):
            cost = -math.log2(plain.probability(words[max(0, end - ngram.ORDER + 1):end], words[end]))
            totals['from_mark'] += cost
            totals['every'] += cost if end > 1 else -math.log2((frequency[words[1]] + 1) / (len(ids) + END + 1))
    n_bytes = sum(map(len, held_out))
    result = ngram.ngram_bits(data)['by_source']['all']
    expect('5-gram from the mark on', result['from_mark_bits_per_byte'], totals['from_mark'] / n_bytes, 1e-5)
    expect('5-gram, every token', result['bits_per_byte'], totals['every'] / n_bytes, 1e-5)
    expect('bytes', (result['bytes'], result['scored_bytes']), (n_bytes, n_bytes - sum(map(bool, held_out))))


def test_discounts(_):
    np = need_numpy()
    # n1..n4 = 8, 4, 2, 1: Y = 1/2, so 1 - 1/2, 2 - 3/4, 3 - 1
    counts = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4])
    expect('discounts', ngram.discounts(np, counts).tolist(), [0.0, 0.5, 1.25, 2.0])


def test_measure(_):
    for text, expected in [('春眠不覺曉，處處聞啼鳥。\n夜來風雨聲，花落知多少。', 5), ('月落烏啼霜滿天，江楓漁火對愁眠。', 7),
                           ('春眠不覺曉，月落烏啼霜滿天。', None), ('春眠不覺曉。', None), ('未央宮裏紅杏，羯鼓三聲打開。', None),
                           ('春眠不覺曉，處處聞(啼。', None), ('', None), ('春眠不覺曉？\n\n處處聞啼鳥', 5)]:
        expect(f'measure of {text!r}', poems.measure(text), expected)


STUB = '''#!/usr/bin/env python3
import json, sys
value = lambda flag: sys.argv[sys.argv.index(flag) + 1]
seed, prompt = int(value('--seed')), value('--prompt')
assert sys.argv[1] == 'generate' and value('--model') == 'MODEL' and value('--temperature') == '0.5', sys.argv
texts = ['春眠不覺曉，處處聞啼鳥。', '月落烏啼霜滿天，江楓漁火對愁眠。', '春眠不覺，處處聞啼鳥。', '春眠不覺曉，處處聞啼鳥。' * 9]
print(json.dumps({'text': texts[seed % 4], 'finish': 'token limit' if seed % 4 == 3 else 'end token'}))
'''


def test_poems(folder):
    verse = '一二三四五，六七八九十。\n一二三四五，六七八九十。'

    def poem(title, text=verse):
        return TEMPLATE.format(title=title, author='某', text=text)
    held_out = [poem(f'題{i}') for i in range(8)] + [poem('舊題'), poem('短', '一二三四五，六七八九十。'), 'no poem']
    data = write_data(folder / 'poems', {'verse': ([poem('舊題'), poem('別')], held_out)}, TEMPLATE)
    stub = folder / 'stub'
    stub.write_text(STUB)
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    sampling = {'temperature': 0.5, 'top_p': 0.9, 'max_tokens': 50}
    result = poems.poems(str(stub), 'MODEL', data, 'verse', 8, 0, sampling, [])
    expect('poems', [result[key] for key in ('n', 'regular', 'five', 'seven', 'ended', 'four_or_eight_lines', 'different')],
           [8, 4, 2, 2, 6, 0, 4])
    expect('prompts', sorted(poem['prompt'] for poem in result['poems']), [f'《題{i}》某\n\n' for i in range(8)])
    expect('seeds from 0', [poem['text'][:4] for poem in result['poems'][:3]], ['春眠不覺', '月落烏啼', '春眠不覺'])
    expect('an original', result['poems'][0]['original'], verse)
    again = poems.poems(str(stub), 'MODEL', data, 'verse', 8, 0, sampling, [])
    expect('the same seed, the same choice', again, result)


def test_shared(_):
    rng = random.Random(3)
    documents = [''.join(rng.choice('春眠不覺曉a，') for _ in range(rng.randrange(0, 60))) for _ in range(50)] + ['the last one']
    texts = ['', '夜', documents[-1], documents[9], documents[4][2:] + documents[5][:9], '夜' + documents[7][:3] + '夜']
    texts += [''.join(rng.choice('春眠不覺曉a，夜') for _ in range(40)) for _ in range(20)]

    def plain(text):
        return max((j - i for i in range(len(text)) for j in range(i + 1, len(text) + 1)
                    if any(text[i:j] in document for document in documents)), default=0)
    expect('longest shared', shared.longest_shared(texts, documents), [plain(text) for text in texts])
    np = need_numpy()
    neighbour = (5 + pow(shared.FACTOR, -1, 1 << 64)) % (1 << 64)  # at the place of 5 in the table
    hashes = np.array([neighbour, 5, 6], np.uint64)
    expect('member', shared.member(np, hashes[1:2], hashes).tolist(), [False, True, False])
    d = shared.distribution([*range(1, 21)] * 5)
    expect('distribution', [d[key] for key in ('n', 'under_limit', 'least', 'median', 'p95', 'greatest')], [100, 95, 1, 11, 20, 20])


def test_committed_card(folder):
    """The card beside the model that comes with the program is of that model."""
    model = Path(__file__).resolve().parents[2] / 'models/default'
    card = json.loads((model / 'card.json').read_text())
    expect('sha256', hashlib.sha256((model / 'model.safetensors').read_bytes()).hexdigest(), card['model']['sha256'])


TESTS = ((test_committed_card, False), (test_shards, False), (test_bits, False), (test_xz, False), (test_discounts, True), (test_ngram, True),
         (test_measure, False), (test_poems, False), (test_shared, True))


def run():
    failed = 0
    try:
        have_numpy = bool(need_numpy())
    except Failure:
        have_numpy = False
    for test, with_numpy in TESTS:
        name = test.__name__.removeprefix('test_')
        if with_numpy and not have_numpy:
            print(f'model_card: {name}: not tried, numpy is not installed')
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                test(Path(folder))
            except (AssertionError, Failure) as failure:
                print(f'model_card: {name}: {failure}')
                failed += 1
    print(f'model_card: {failed} of {len(TESTS)} self-tests failed')
    return 1 if failed else 0
