"""Reads the folder that `linnet data build` writes (src/train/token_shard_file.h, src/train/shard_manifest.h), back to text, too."""
import array
import base64
import json
import struct
import sys
from pathlib import Path

HEADER = struct.Struct('<8sIIQQQQQII')  # magic, version, id bytes, file bytes, checksum, tokens, documents, hash, vocabulary, zero
SPLITS = ('train', 'held-out')


class Failure(Exception):
    """One line for the user."""


def need_numpy():
    try:
        import numpy
    except ImportError:
        raise Failure('this measure needs numpy: apt-get install python3-numpy, or pip install numpy') from None
    return numpy


class Shards:
    """ids(split, source) and ends(split, source): every token, and for each document the number of tokens up to its end."""

    def __init__(self, folder):
        self.folder = Path(folder)
        try:
            self.manifest = json.loads((self.folder / 'manifest.json').read_text())
        except OSError as error:
            raise Failure(f'{folder}: expected a folder that linnet data build wrote: {error.strerror}') from None
        self.sources = {source['name']: source for source in self.manifest['sources']}
        self.vocab_size = self.manifest['vocab_size']
        self._bytes_of = None

    def read(self, split, source):
        ids = array.array('H' if self.vocab_size <= 65536 else 'I')
        ends = array.array('Q')
        for shard in self.sources[source][split]['shards']:
            before = len(ids)
            more, its_ends = read_shard(self.folder / shard['file'])
            ids.extend(more)
            ends.extend(before + end for end in its_ends)
        return ids, ends

    def documents(self, split, source):
        """The text of each document, as bytes."""
        table = self.bytes_of()
        ids, ends = self.read(split, source)
        texts, begin = [], 0
        for end in ends:
            texts.append(b''.join(map(table.__getitem__, ids[begin:end])))
            begin = end
        n_bytes, expected = sum(map(len, texts)), self.sources[source][split]['bytes']
        if n_bytes != expected:
            raise Failure(f'{self.folder}: {source}, {split}: expected {expected} bytes of text, the tokens hold {n_bytes}')
        return texts

    def bytes_of(self):
        """id -> bytes; a special token has none."""
        if self._bytes_of is None:
            self._bytes_of = [b''] * self.vocab_size
            for line in (self.folder / 'tokenizer' / 'tiktoken.model').read_text().splitlines():
                token, rank = line.split()
                self._bytes_of[int(rank)] = base64.b64decode(token)
        return self._bytes_of


def read_shard(path):
    data = path.read_bytes()
    if sys.byteorder != 'little':
        raise Failure('expected a little-endian machine')
    if len(data) < HEADER.size:
        raise Failure(f'{path}: expected a token shard, got {len(data)} bytes')
    magic, version, id_bytes, n_bytes, _, n_tokens, n_documents, _, _, _ = HEADER.unpack_from(data)
    if magic != b'LINNETTK' or version != 1 or n_bytes != len(data):
        raise Failure(f'{path}: expected a token shard of version 1, {n_bytes} bytes, got version {version}, {len(data)} bytes')
    ids, ends = array.array('H' if id_bytes == 2 else 'I'), array.array('Q')
    ids.frombytes(data[HEADER.size:HEADER.size + n_tokens * id_bytes])
    ends.frombytes(data[len(data) - 8 * n_documents:])
    if len(ends) and ends[-1] != n_tokens:
        raise Failure(f'{path}: expected the last document to end at {n_tokens}, got {ends[-1]}')
    return ids, ends
