#!/usr/bin/env python3
"""Measures a trained model for its model card.

  bits     bits per byte of the held-out text (linnet perplexity); also with log2(vocabulary) bits for each token that the command
           leaves out because nothing stands before it
  xz       bits per byte of the held-out text under xz -9e, alone and after the training text
  ngram    bits per byte of the held-out text under a Kneser-Ney 5-gram model of the training tokens (needs numpy)
  poems    poems to held-out titles: the share whose lines all have five or all have seven characters
  shared   the longest piece that each of these poems shares with the training text (needs numpy, and poems)

  tools/model_card.py --model DIR --data DIR --out DIR            all of them; writes card.json and card.md
  tools/model_card.py --model DIR --data DIR --out DIR xz ngram   only these; what card.json has of the same model and data stays
  tools/model_card.py --self-test                                 each measure on small data against a plain computation
"""
import argparse
import hashlib
import json
import shlex
import sys
from pathlib import Path

sys.dont_write_bytecode = True
from measures import bits, ngram, poems, shared  # noqa: E402
from measures.shards import Failure, Shards      # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MEASURES = ('bits', 'xz', 'ngram', 'poems', 'shared')
OF_THE_MODEL = ('bits', 'poems', 'shared')
N_SAMPLES = 3


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('measures', nargs='*', metavar='MEASURE', help=f'{", ".join(MEASURES)} (default: all)')
    parser.add_argument('--model', metavar='DIR', help='checkpoint folder')
    parser.add_argument('--data', metavar='DIR', help='folder that linnet data build wrote')
    parser.add_argument('--out', metavar='DIR', help='folder of card.json and card.md')
    parser.add_argument('--linnet', metavar='FILE', default=str(ROOT / 'linnet'), help='the program (default: ./linnet of this tree)')
    parser.add_argument('--options', metavar='TEXT', default='', help='more options of linnet perplexity and generate: "--threads 1"')
    parser.add_argument('--source', default='verse', help='poems: the source of the data that holds poems (default: verse)')
    parser.add_argument('--poems', type=int, default=100, metavar='N', help='poems: how many (default: 100)')
    parser.add_argument('--choice-seed', type=int, default=0, metavar='N', help='poems: seed of the choice of titles (default: 0)')
    parser.add_argument('--temperature', type=float, default=1.0, metavar='T', help='poems (default: 1)')
    parser.add_argument('--top-p', type=float, default=0.95, metavar='P', help='poems (default: 0.95)')
    parser.add_argument('--max-tokens', type=int, default=400, metavar='N', help='poems: longer ones are not regular (default: 400)')
    parser.add_argument('--self-test', action='store_true')
    args = parser.parse_args()
    args.measures = args.measures or list(MEASURES)
    unknown = set(args.measures) - set(MEASURES)
    if unknown:
        parser.error(f'no measure {sorted(unknown)[0]}')
    if not args.self_test and not (args.model and args.data and args.out):
        parser.error('expected --model, --data and --out')
    return args


def digest(path):
    sha = hashlib.sha256()
    for file in sorted(path.glob('*.safetensors')):
        if file.name != 'optimizer.safetensors':
            sha.update(file.read_bytes())
    return sha.hexdigest()


def identity(args, shards):
    """Which model and data: what was measured of others is dropped."""
    model, trainer = {'sha256': digest(Path(args.model))}, Path(args.model) / 'trainer.json'
    if trainer.exists():
        known = json.loads(trainer.read_text())
        model |= {'step': known['step'], 'tokens': known['tokens']}
    data = {'tokenizer_hash': shards.manifest['tokenizer_hash'], 'held_out': shards.manifest['held_out'],
            'sources': {name: source['hash'] for name, source in shards.sources.items()}}
    return {'model': model, 'data': data}


def measure_all(args):
    shards = Shards(args.data)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    card = identity(args, shards)
    file = out / 'card.json'
    if file.exists():
        card = merged(json.loads(file.read_text()), card)
    options = shlex.split(args.options)
    sampling = {'temperature': args.temperature, 'top_p': args.top_p, 'max_tokens': args.max_tokens}
    run = {
        'bits': lambda: bits.model_bits(args.linnet, args.model, args.data, shards, options),
        'xz': lambda: bits.xz_bits(shards),
        'ngram': lambda: ngram.ngram_bits(shards),
        'poems': lambda: poems.poems(args.linnet, args.model, shards, args.source, args.poems, args.choice_seed, sampling, options),
        'shared': lambda: shared.shared(poems_of(card), shards),
    }
    for name in MEASURES:
        if name not in args.measures:
            continue
        print(f'{name} ...', file=sys.stderr, flush=True)
        card[name] = run[name]()
        if name == 'poems':
            card.pop('shared', None)  # it was of other poems
        file.write_text(json.dumps(card, ensure_ascii=False, indent=1) + '\n')
    (out / 'card.md').write_text(markdown(card))
    print(markdown(card), end='')


def poems_of(card):
    if 'poems' not in card:
        raise Failure('shared: expected the measure poems in the same call or an earlier one')
    return card['poems']['poems']


def merged(old, new):
    same_model, same_data = (old.get(key) == new[key] for key in ('model', 'data'))
    keep = {name: old[name] for name in MEASURES if name in old and same_data and (same_model or name not in OF_THE_MODEL)}
    return new | keep


def share(part, whole):
    return f'{part} of {whole} ({100 * part / whole:.0f} %)' if whole else '0 of 0'


def bits_table(card):
    """Rows: sources. Columns: what was measured."""
    columns = [('bits', 'scored_bits_per_byte', 'model'), ('ngram', 'scored_bits_per_byte', '5-gram'),
               ('bits', 'bits_per_byte', 'model, every token'), ('ngram', 'bits_per_byte', '5-gram, every token'),
               ('xz', 'alone_bits_per_byte', 'xz -9e alone'), ('xz', 'after_train_bits_per_byte', 'xz -9e after the training text')]
    columns = [column for column in columns if column[0] in card]
    if not columns:
        return []
    rows = card[columns[0][0]]['by_source']
    lines = ['| held-out text | bytes | ' + ' | '.join(title for _, _, title in columns) + ' |', '|---' * (len(columns) + 2) + '|']
    for source, entry in rows.items():
        cells = [f'{card[name]["by_source"][source][key]:.3f}' for name, key, _ in columns]
        lines.append(f'| {source} | {entry["bytes"]:,} | ' + ' | '.join(cells) + ' |')
    return ['Bits per byte:', '', *lines, '', *notes(card)]


def notes(card):
    lines = []
    if 'bits' in card or 'ngram' in card:
        lines += ['"Every token" counts the first token of each document, too, which the other columns leave out: of the model '
                  f'log2(vocabulary) bits{window_note(card)}, of the 5-gram its bits by its frequency.']
    if 'ngram' in card:
        lines += ['The 5-gram: of tokens, interpolated Kneser-Ney, three discounts for each order, all training text once.']
    if 'xz' in card:
        lines += [f'xz: documents one after the other, a zero byte behind each; "after the training text": by how much the compressed '
                  f'training text grows, dictionary {card["xz"]["dictionary_bytes"] >> 20} MiB.']
    return [*lines, '']


def window_note(card):
    return f' (also at the beginning of each further window of {card["bits"]["window"]:,} tokens)' if 'bits' in card else ''


def poem_lines(result):
    n = result['n']
    lines = [f'{n} poems to held-out titles that no training poem has (temperature {result["temperature"]:g}, top-p '
             f'{result["top_p"]:g}, seeds 0 to {n - 1}):', '',
             f'- all lines of five or all of seven characters, ended by the end token: {share(result["regular"], n)}; '
             f'{result["five"]} of five, {result["seven"]} of seven characters',
             f'- of four or eight such lines: {share(result["four_or_eight_lines"], n)}',
             f'- ended by the end token: {share(result["ended"], n)}; different texts: {result["different"]}', '',
             f'The first {min(N_SAMPLES, n)}, not chosen:', '']
    for poem in result['poems'][:N_SAMPLES]:
        lines += ['```text', poem['prompt'].rstrip('\n'), '', poem['text'].rstrip('\n'), '```', '']
    return lines


def shared_lines(result):
    lines = ['Longest piece shared with the training text, in characters with punctuation and line ends:', '',
             f'| | under {shared.LIMIT} | least | median | 95th of 100 | greatest |', '|---|---|---|---|---|---|']
    for kind, title in (('generated', 'generated'), ('originals', 'held-out poems by people, for comparison')):
        d = result[kind]
        lines.append(f'| {title} | {share(d["under_limit"], d["n"])} | {d["least"]} | {d["median"]} | {d["p95"]} | {d["greatest"]} |')
    return [*lines, '']


def markdown(card):
    model = card['model']
    title = f'Step {model["step"]:,}, {model["tokens"]:,} tokens of training.' if 'step' in model else ''
    lines = [title, ''] if title else []
    lines += bits_table(card)
    lines += poem_lines(card['poems']) if 'poems' in card else []
    lines += shared_lines(card['shared']) if 'shared' in card else []
    return '\n'.join(lines).rstrip('\n') + '\n'


def main():
    args = arguments()
    if args.self_test:
        from measures import self_test
        return self_test.run()
    try:
        measure_all(args)
    except Failure as failure:
        print(f'model_card: {failure}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
