"""A 5-gram model of tokens: interpolated Kneser-Ney with three discounts for each order (Chen and Goodman 1999, section 3).

For an n-gram h w with adjusted count a, and h' = h without its first token:

    P_n(w | h) = max(a(h w) - D_n(a), 0) / S(h) + gamma(h) P_(n-1)(w | h')      S(h) = sum over w of a(h w)
    P_1(w)     = max(a(w) - D_1(a), 0) / S + gamma / V                         gamma(h) = sum over w of D_n(a(h w)) / S(h)

a is the count for the highest order and for n-grams that begin where a document begins; for the others it is the number of
different tokens that stand before the n-gram. A context that training has not seen passes everything on: gamma = 1.

Documents lie one after the other, each behind a mark (the id V). An n-gram never reaches beyond the mark of its document.
"""
import math

from measures.shards import need_numpy

ORDER = 5


def marked(np, ids, ends, vocab_size):
    """-> tokens with a mark before each document, and the place of each in its document: 0 the mark, 1 the first token"""
    ends = np.frombuffer(ends, dtype=np.uint64).astype(np.int64) if len(ends) else np.zeros(0, np.int64)
    begins = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    tokens = np.insert(np.asarray(ids).astype(np.int32), begins, np.int32(vocab_size))
    lengths = ends - begins + 1
    place = np.arange(len(tokens), dtype=np.int32)
    place -= np.repeat((begins + np.arange(len(begins))).astype(np.int32), lengths)
    return tokens, place


class Order:
    """One order: sorted keys (row of the context) * (V + 1) + token, and the arrays of the formula beside them."""

    def __init__(self, np, keys, adjusted, n_contexts, base):
        context = keys // base
        d = discounts(np, adjusted)
        taken = d[np.minimum(adjusted, 3)]
        total = np.bincount(context, weights=adjusted, minlength=n_contexts)
        self.keys, self.discounts = keys, d[1:].tolist()
        with np.errstate(invalid='ignore', divide='ignore'):
            gamma = np.bincount(context, weights=taken, minlength=n_contexts) / total
        self.gamma = np.where(total > 0, gamma, 1.0).astype(np.float32)
        self.alpha = ((adjusted - taken) / total[context]).astype(np.float32)


def discounts(np, adjusted):
    """D of the adjusted counts 0, 1, 2 and from 3 on; of few data, where the estimate has no value, halves."""
    n1, n2, n3, n4 = (int(np.count_nonzero(adjusted == count)) for count in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        d = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        if all(0 < x <= count for x, count in zip(d, (1, 2, 3))):
            return np.array([0.0, *d])
    return np.array([0.0, 0.5, 1.0, 1.5])


class NGram:
    def __init__(self, ids, ends, vocab_size, order=ORDER):
        np = self.np = need_numpy()
        self.vocab_size, self.base, self.order = vocab_size, vocab_size + 1, order
        tokens, place = marked(np, ids, ends, vocab_size)
        counts = np.bincount(tokens, minlength=self.base)[:vocab_size]
        self.unigram_bits = -np.log2((counts + 1) / (counts.sum() + vocab_size))
        self.orders = [None] * (order + 1)
        self._count(tokens, place)

    def _count(self, tokens, place):
        """Rows of order n are numbered by their keys' order; row[i] is that of the n-gram that ends at token i."""
        np = self.np
        row, n_rows = tokens, self.base  # order 1: the token itself
        count, from_mark = np.bincount(tokens, minlength=self.base), np.zeros(self.base, bool)
        keys, contexts = np.arange(self.base, dtype=np.int64), 1
        for n in range(2, self.order + 2):
            if n <= self.order:
                at = np.flatnonzero(place >= n - 1)
                next_keys, inverse, next_count = np.unique(
                    row[at - 1].astype(np.int64) * self.base + tokens[at], return_inverse=True, return_counts=True)
                suffix = np.empty(len(next_keys), np.int32)
                suffix[inverse] = row[at]
                before = np.bincount(suffix, minlength=n_rows)
                adjusted = np.where(from_mark, count, before)
            else:
                adjusted = count
            if n == 2:  # nothing predicts the mark
                self._finish(1, keys[:-1], adjusted[:-1], contexts)
            else:
                self._finish(n - 1, keys, adjusted, contexts)
            if n > self.order:
                return
            from_mark = np.zeros(len(next_keys), bool)
            from_mark[inverse[place[at] == n - 1]] = True
            row = np.full(len(tokens), -1, np.int32)
            row[at] = inverse
            keys, count, contexts, n_rows = next_keys, next_count, n_rows, len(next_keys)

    def _finish(self, n, keys, adjusted, n_contexts):
        self.orders[n] = Order(self.np, keys, adjusted, n_contexts, self.base)

    def bits(self, ids, ends):
        """-> for each token its bits and its place in the document, from 1. The first of a document, too, from the mark on."""
        np = self.np
        tokens, place = marked(np, ids, ends, self.vocab_size)
        first = self.orders[1]
        p = first.gamma[0] / self.vocab_size + np.append(first.alpha, np.float32(0))[tokens].astype(np.float64)
        row = tokens.astype(np.int64)
        for n in range(2, self.order + 1):
            order = self.orders[n]
            # never beyond the mark: no n-gram of training ends with one, so its row is -1
            context = np.concatenate([np.full(1, -1, np.int64), row[:-1]])
            at = np.flatnonzero(context >= 0)
            keys = context[at] * self.base + tokens[at]
            found = np.searchsorted(order.keys, keys)
            found[found == len(order.keys)] = 0
            known = order.keys[found] == keys
            p[at] = p[at] * order.gamma[context[at]] + np.where(known, order.alpha[found], 0)
            row = np.full(len(tokens), -1, np.int64)
            row[at[known]] = found[known]
        real = place > 0
        return -np.log2(p[real]), place[real]


def ngram_bits(shards):
    np = need_numpy()
    train = [shards.read('train', source) for source in shards.sources]
    ids = np.concatenate([np.frombuffer(ids, ids.typecode) for ids, _ in train if len(ids)])
    ends, before = [], 0
    for part, its_ends in train:
        ends.append(np.frombuffer(its_ends, np.uint64).astype(np.int64) + before)
        before += len(part)
    del train
    model = NGram(ids, np.concatenate(ends).astype(np.uint64), shards.vocab_size)
    n_bytes_of = np.array([len(token) for token in shards.bytes_of()])
    by_source = {}
    for source in shards.sources:
        ids, ends = shards.read('held-out', source)
        if len(ids):
            by_source[source] = source_bits(np, model, np.frombuffer(ids, ids.typecode), ends, n_bytes_of)
    total = {key: sum(entry[key] for entry in by_source.values()) for key in next(iter(by_source.values()))}
    by_source['all'] = total
    for entry in by_source.values():
        entry['scored_bits_per_byte'] = entry['scored_bits'] / entry['scored_bytes']
        entry['bits_per_byte'] = entry['bits'] / entry['bytes']
        entry['from_mark_bits_per_byte'] = entry['from_mark_bits'] / entry['bytes']
    return {'order': ORDER, 'discounts': [order.discounts for order in model.orders[1:]],
            'ngrams': [len(order.keys) for order in model.orders[1:]], 'by_source': by_source}


def source_bits(np, model, ids, ends, n_bytes_of):
    """scored: all but the first token of each document, as linnet perplexity counts. bits: that one by its unigram, too.
    from_mark_bits: that one from the documents' first tokens, which the model of the model card is never asked for."""
    bits, place = model.bits(ids, ends)
    first = place == 1
    n_bytes = n_bytes_of[ids]
    scored = math.fsum(bits[~first])
    return {'tokens': len(ids), 'bytes': int(n_bytes.sum()), 'scored_bytes': int(n_bytes[~first].sum()), 'scored_bits': scored,
            'bits': scored + math.fsum(model.unigram_bits[ids[first]]), 'from_mark_bits': math.fsum(bits)}
