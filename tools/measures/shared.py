"""The longest piece that a text shares with the training text, in characters."""
from measures.shards import Failure, need_numpy

LIMIT = 20
GAP = (0x110000).to_bytes(4, 'little')  # between documents; no character
FACTOR = 0x9E3779B97F4A7C15             # of the windows' hash, mod 2^64: h(window + c) = h(window) * FACTOR + c
TABLE_BITS = 22


def code_points(np, texts):
    return np.frombuffer(GAP.join(text.encode('utf-32-le', 'replace') for text in texts), '<u4')


def longest_shared(texts, documents):
    """For each text the longest piece that one of the documents has, too. Pieces grow by one character a step; of the places where
    they begin, in the texts and in the documents, only those go on whose piece so far is on the other side as well."""
    np = need_numpy()
    ours, theirs = code_points(np, texts), code_points(np, documents)
    lengths = np.array([len(text.encode('utf-32-le', 'replace')) // 4 for text in texts], np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    begins = np.cumsum(lengths + 1) - lengths - 1
    left = np.flatnonzero(ours != 0x110000)
    room = (begins + lengths)[owner] - left  # characters from there to the end of the text
    place = np.arange(len(theirs), dtype=np.int64 if len(theirs) >= 1 << 31 else np.int32)
    our_hash, their_hash = ours[left].astype(np.uint64), theirs.astype(np.uint64)
    longest = np.zeros(len(texts), np.int64)
    found = {}  # text -> where it stands in ours and theirs
    length = 1
    while len(left):
        wanted = np.unique(our_hash)
        keep = member(np, wanted, their_hash)
        place, their_hash = place[keep], their_hash[keep]
        on = member(np, np.unique(their_hash), our_hash)
        left, owner, room, our_hash = left[on], owner[on], room[on], our_hash[on]
        longest[owner] = length
        if len(left):
            remember(np, found, owner, left, our_hash, place, their_hash)
        more = room > length
        left, owner, room, our_hash = left[more], owner[more], room[more], our_hash[more]
        inside = place < len(theirs) - length
        place, their_hash = place[inside], their_hash[inside]
        our_hash = our_hash * np.uint64(FACTOR) + ours[left + length]
        their_hash = their_hash * np.uint64(FACTOR) + theirs[place + length]
        length += 1
    for text, (at, there) in found.items():  # equal hashes are not yet equal texts
        n = longest[text]
        if not np.array_equal(ours[at:at + n], theirs[there:there + n]):
            raise Failure(f'shared: a hash of two different pieces of {n} characters; change FACTOR')
    return longest.tolist()


def member(np, wanted, hashes):
    """Which of the hashes are in the sorted, different ones: a table of their upper bits first, for most are not."""
    shift = np.uint64(64 - TABLE_BITS)
    spread = np.uint64(FACTOR)  # short pieces have small hashes
    table = np.zeros(1 << TABLE_BITS, bool)
    table[(wanted * spread) >> shift] = True
    result = table[(hashes * spread) >> shift]
    at = np.flatnonzero(result)
    where = np.searchsorted(wanted, hashes[at])
    where[where == len(wanted)] = 0
    result[at] = wanted[where] == hashes[at] if len(wanted) else False
    return result


def remember(np, found, owner, left, our_hash, place, their_hash):
    texts, first = np.unique(owner, return_index=True)
    order = np.argsort(their_hash, kind='stable') if len(their_hash) < 1 << 20 else None
    if order is None:
        return  # so many places: the pieces are of a few characters, whose hashes differ
    at = np.searchsorted(their_hash[order], our_hash[first])
    for text, i, j in zip(texts, first, at):
        found[int(text)] = (int(left[i]), int(place[order[j]]))


def distribution(lengths):
    ordered = sorted(lengths)
    n = len(ordered)
    return {'n': n, 'under_limit': sum(length < LIMIT for length in ordered), 'limit': LIMIT, 'least': ordered[0],
            'median': ordered[n // 2], 'p95': ordered[min(n - 1, n * 95 // 100)], 'greatest': ordered[-1]}


def shared(poems, shards):
    """Of the poems, and for comparison of the held-out poems by people whose titles they were written to."""
    documents = [text.decode(errors='replace') for source in shards.sources for text in shards.documents('train', source)]
    kinds = {'generated': [poem['text'] for poem in poems], 'originals': [poem['original'] for poem in poems]}
    lengths = longest_shared([text for texts in kinds.values() for text in texts], documents)
    result = {}
    for i, kind in enumerate(kinds):
        part = lengths[i * len(poems):(i + 1) * len(poems)]
        result[kind] = distribution(part) | {'lengths': part}
    return result
