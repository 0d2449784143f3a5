// Text of a model as blocks: a small, forgiving part of Markdown. Only text nodes are made, never HTML; line breaks are kept, as
// verse needs them. parse() is pure; Blocks puts the result on the page and, while text grows, touches only what has changed.

const kFence = /^ {0,3}(```+|~~~+)[ \t]*([^`]*)$/;
const kHeading = /^(#{1,6})[ \t]+(.*)$/;
const kItem = /^([ \t]*)([-*+]|\d{1,3}[.)])[ \t]+(.*)$/;
const kQuote = /^>[ \t]?(.*)$/;
const kRule = /^(?:-{3,}|\*{3,}|_{3,})[ \t]*$/;

// [{kind: 'paragraph' | 'heading' | 'code' | 'list' | 'quote' | 'rule', source, ...}]
export function parse(text) {
  const lines = text.split('\n');
  const blocks = [];
  let i = 0;
  const take = pattern => {
    const taken = [];
    while (i < lines.length && pattern.test(lines[i])) taken.push(lines[i++]);
    return taken;
  };
  while (i < lines.length) {
    const start = i;
    const line = lines[i];
    let block;
    let match;
    if (/^[ \t]*$/.test(line)) {
      ++i;
      continue;
    } else if ((match = kFence.exec(line))) {
      block = fence(match);
    } else if ((match = kHeading.exec(line))) {
      ++i;
      block = {kind: 'heading', level: match[1].length, text: match[2]};
    } else if (kRule.test(line)) {
      ++i;
      block = {kind: 'rule'};
    } else if (kQuote.test(line)) {
      block = {kind: 'quote', text: take(kQuote).map(l => kQuote.exec(l)[1]).join('\n')};
    } else if ((match = kItem.exec(line))) {
      const items = take(kItem).map(l => kItem.exec(l));
      block = {kind: 'list', ordered: /\d/.test(match[2]), first: parseInt(match[2], 10) || 1,
               items: items.map(([, indent, , content]) => ({depth: Math.min(4, indent.replace(/\t/g, '  ').length >> 1), text: content}))};
    } else {
      const taken = [];
      while (i < lines.length && !/^[ \t]*$/.test(lines[i]) && !(taken.length && starts(lines[i]))) taken.push(lines[i++]);
      block = {kind: 'paragraph', text: taken.join('\n')};
    }
    block.source = lines.slice(start, i).join('\n');
    blocks.push(block);
  }
  return blocks;

  // Without its end the fence goes on to the end of the text: it is still being written.
  function fence([, mark, language]) {
    const taken = [];
    for (++i; i < lines.length; ++i) {
      const end = /^ {0,3}(```+|~~~+)[ \t]*$/.exec(lines[i]);
      if (end && end[1].startsWith(mark)) {
        ++i;
        break;
      }
      taken.push(lines[i]);
    }
    return {kind: 'code', language: language.trim(), text: taken.join('\n')};
  }
}

const starts = line => kFence.test(line) || kHeading.test(line) || kQuote.test(line);

// [{kind: 'text' | 'code' | 'strong' | 'em', text}]; marks without a partner are text.
export function spans(text) {
  const found = [];
  let rest = 0;
  const mark = /(`+)([^`][^]*?)\1(?!`)|\*\*(?=\S)([^*\n]+?)(?<=\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]+?)(?<=\S)\*(?![\w*])/g;
  for (const match of text.matchAll(mark)) {
    if (match.index > rest) found.push({kind: 'text', text: text.slice(rest, match.index)});
    if (match[1]) found.push({kind: 'code', text: match[2]});
    else found.push({kind: match[3] !== undefined ? 'strong' : 'em', text: match[3] ?? match[4]});
    rest = match.index + match[0].length;
  }
  if (rest < text.length) found.push({kind: 'text', text: text.slice(rest)});
  return found;
}

const kHan = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/gu;

// 'ja', 'ko', 'zh' for text that is mostly written so, else ''.
export function script(text) {
  const letters = text.match(/\p{L}/gu)?.length ?? 0;
  const cjk = text.match(kHan)?.length ?? 0;
  if (cjk === 0 || cjk * 2 < letters) return '';
  if (/[\p{Script=Hiragana}\p{Script=Katakana}]/u.test(text)) return 'ja';
  return /\p{Script=Hangul}/u.test(text) ? 'ko' : 'zh';
}

// Several short lines of CJK text are verse.
export function isVerse(text) {
  const lines = text.split('\n').filter(line => line.trim());
  return lines.length > 1 && script(text) !== '' && lines.every(line => Array.from(line).length <= 34);
}

function element(tag, text) {
  const made = document.createElement(tag);
  if (text === undefined) return made;
  for (const span of spans(text)) {
    if (span.kind === 'text') made.append(span.text);
    else made.append(Object.assign(document.createElement(span.kind), {textContent: span.text}));
  }
  return made;
}

function list(block) {
  const made = element(block.ordered ? 'ol' : 'ul');
  if (block.ordered) made.start = block.first;
  for (const item of block.items) {
    const entry = element('li', item.text);
    if (item.depth) entry.className = `depth-${item.depth}`;
    made.append(entry);
  }
  return made;
}

function code(block) {
  const made = element('pre');
  made.tabIndex = 0;  // it scrolls: the keyboard must get there
  if (block.language) made.dataset.language = block.language;
  made.append(Object.assign(document.createElement('code'), {textContent: block.text}));
  return made;
}

function build(block) {
  if (block.kind === 'code') return code(block);
  if (block.kind === 'list') return list(block);
  if (block.kind === 'rule') return element('hr');
  const tag = {heading: `h${Math.min(6, (block.level ?? 1) + 2)}`, quote: 'blockquote', paragraph: 'p'}[block.kind];
  const made = element(tag, block.text);
  if (isVerse(block.text)) made.className = 'verse';
  made.lang = script(block.text);
  if (!made.lang) made.removeAttribute('lang');
  return made;
}

export class Blocks {
  #shown = [];

  constructor(container) { this.container = container; }

  show(text) {
    const blocks = parse(text);
    const same = blocks.findIndex((block, i) => block.source !== this.#shown[i]);
    const keep = same < 0 ? blocks.length : same;
    while (this.container.childNodes.length > keep) this.container.lastChild.remove();
    this.container.append(...blocks.slice(keep).map(build));
    this.#shown = blocks.map(block => block.source);
  }
}
