"""Bits per byte of the held-out text: of the model, and of xz."""
import json
import lzma
import math
import os
import struct
import subprocess

from measures.shards import Failure

SEPARATOR = b'\0'  # after each document: where it ends is part of what is compressed, as the end token is of what the model predicts
PIECE = 1 << 16


def model_bits(linnet, model, data, shards, options):
    command = [linnet, 'perplexity', '--model', model, '--data', data, '--json', *options]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise Failure(f'{linnet} perplexity ended with status {result.returncode}')
    return with_first_tokens(json.loads(result.stdout), shards)


def with_first_tokens(scored, shards):
    """The command leaves out what has nothing before it: the first token of each document (and of each window of a long one).
    Here each of them costs log2(vocabulary) bits, and all bytes of the text count."""
    by_source = {}
    for entry in scored['by_source']:
        held_out = shards.sources[entry['source']]['held-out']
        bits = entry['loss'] * entry['tokens'] / math.log(2)
        by_source[entry['source']] = {
            'bytes': held_out['bytes'], 'tokens': held_out['tokens'], 'scored_bytes': entry['bytes'],
            'scored_tokens': entry['tokens'], 'scored_bits': bits,
            'bits': bits + (held_out['tokens'] - entry['tokens']) * math.log2(shards.vocab_size)}
    result = with_sum(by_source, ('bytes', 'tokens', 'scored_bytes', 'scored_tokens', 'scored_bits', 'bits'))
    for entry in result.values():
        entry['scored_bits_per_byte'] = entry['scored_bits'] / entry['scored_bytes']
        entry['bits_per_byte'] = entry['bits'] / entry['bytes']
    return {'window': scored['window'], 'by_source': result}


def with_sum(by_source, keys):
    return by_source | {'all': {key: sum(entry[key] for entry in by_source.values()) for key in keys}}


def xz_bits(shards):
    """xz -9e of the held-out text alone; and by how much xz -9e of the training text grows when the held-out text follows it."""
    train, held_out = [], {}
    for source in shards.sources:
        train += shards.documents('train', source)
        held_out[source] = joined(shards.documents('held-out', source))
    n_bytes = {source: shards.sources[source]['held-out']['bytes'] for source in shards.sources}
    held_out = {source: text for source, text in held_out.items() if text}
    held_out['all'] = b''.join(held_out.values())
    n_bytes['all'] = sum(n_bytes.values())
    grown, dictionary = growth(joined(train), held_out)
    by_source = {}
    for source, text in held_out.items():
        alone = len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
        by_source[source] = {'bytes': n_bytes[source], 'alone_bytes': alone, 'after_train_bytes': grown[source],
                             'alone_bits_per_byte': 8 * alone / n_bytes[source],
                             'after_train_bits_per_byte': 8 * grown[source] / n_bytes[source]}
    return {'dictionary_bytes': dictionary, 'by_source': by_source}


def joined(documents):
    return b''.join(text + SEPARATOR for text in documents)


def growth(before, texts):
    """name -> bytes that xz needs for the text after `before`, all of which the dictionary holds."""
    size = 1 << 16
    while size < len(before) + max(map(len, texts.values())):
        size *= 2
    size = min(size, 3 << 29)  # xz's limit
    xz = lzma.LZMACompressor(filters=[{'id': lzma.FILTER_LZMA2, 'preset': 9 | lzma.PRESET_EXTREME, 'dict_size': size}])
    # In pieces: of one large piece compress() would only take in the bytes, and every copy below would do the work.
    n_before = sum(len(xz.compress(before[i:i + PIECE])) for i in range(0, len(before), PIECE))
    sizes = {name: n_before + in_copy(lambda text=text: len(xz.compress(text)) + len(xz.flush()))
             for name, text in [('', b''), *texts.items()]}
    return {name: sizes[name] - sizes[''] for name in texts}, size


def in_copy(count):
    """The number that count() returns in a copy of this process: the compressor here stays as it is."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, struct.pack('<q', count()))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, 'rb') as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if len(answer) != 8:
        raise Failure('the copy of this process that compresses ended early')
    return struct.unpack('<q', answer)[0]
