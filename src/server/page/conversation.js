// A conversation is a tree of turns: editing or regenerating a turn adds a sibling, nothing is overwritten.
//   {id, created, updated, system, turns: {id: {id, parent, role, content, note}}, chosen: {parent: id}}
// `turns` keeps the order of creation; parent '' is the root; `chosen` says which branch is shown below each turn.
// Nothing here knows the browser.

let last = 0;

// Unique in this browser and, for imports from another one, as good as unique. Starts with a letter: keys that look like numbers
// would not keep their order.
export function newId() {
  last = Math.max(last + 1, Date.now());
  return 't' + last.toString(36) + Math.floor(Math.random() * 36 ** 4).toString(36);
}

export function newConversation(system = '') {
  const now = Date.now();
  return {id: newId(), created: now, updated: now, system, turns: {}, chosen: {}};
}

export function addTurn(conversation, parent, role, content, note = null) {
  const turn = {id: newId(), parent, role, content, note};
  conversation.turns[turn.id] = turn;
  conversation.chosen[parent] = turn.id;
  conversation.updated = Date.now();
  return turn;
}

export function children(conversation, parent) {
  return Object.values(conversation.turns).filter(turn => turn.parent === parent);
}

// The turns that are shown, from the first.
export function path(conversation) {
  const turns = [];
  for (let id = conversation.chosen['']; id !== undefined && conversation.turns[id]; id = conversation.chosen[id])
    turns.push(conversation.turns[id]);
  return turns;
}

// The turn's place among its siblings: {at, of, previous, next}, the latter two ids or undefined.
export function branches(conversation, turn) {
  const all = children(conversation, turn.parent).map(sibling => sibling.id);
  const at = all.indexOf(turn.id);
  return {at, of: all.length, previous: all[at - 1], next: all[at + 1]};
}

export function choose(conversation, id) {
  conversation.chosen[conversation.turns[id].parent] = id;
}

// Takes back a turn that holds nothing, and shows its last sibling instead.
export function removeTurn(conversation, id) {
  const {parent} = conversation.turns[id];
  delete conversation.turns[id];
  const left = children(conversation, parent);
  if (left.length) conversation.chosen[parent] = left[left.length - 1].id;
  else delete conversation.chosen[parent];
}

// What the API is sent for a reply below the turn `parent`.
export function messages(conversation, parent) {
  const list = [];
  for (let id = parent; id !== ''; id = conversation.turns[id].parent) {
    const {role, content} = conversation.turns[id];
    list.unshift({role, content});
  }
  if (conversation.system) list.unshift({role: 'system', content: conversation.system});
  return list;
}

export function title(conversation) {
  const first = path(conversation)[0];
  const line = first?.content.split('\n').find(text => text.trim()) ?? '';
  const letters = Array.from(line.trim());
  return letters.length > 60 ? letters.slice(0, 60).join('') + '…' : letters.join('') || 'New conversation';
}

const kFormat = 'linnet-conversations';

export function exported(conversations) {
  return JSON.stringify({format: kFormat, version: 1, conversations}, null, 1);
}

// The conversations of an exported file, checked and copied field by field, under new ids. Throws an Error that says what is wrong.
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('the file is not JSON');
  }
  if (file?.format !== kFormat || file.version !== 1 || !Array.isArray(file.conversations))
    throw new Error('the file does not hold conversations exported from this page');
  return file.conversations.map((source, i) => copy(source, `conversation ${i + 1}`));
}

function copy(source, place) {
  const fail = what => { throw new Error(`${place}: ${what}`); };
  if (typeof source?.turns !== 'object' || source.turns === null) fail('expected turns');
  const conversation = newConversation(typeof source.system === 'string' ? source.system : '');
  const ids = new Map([['', '']]);
  for (const [id, turn] of Object.entries(source.turns)) {
    if (!ids.has(turn?.parent)) fail(`turn ${id}: expected its parent before it`);
    if (turn.role !== 'user' && turn.role !== 'assistant') fail(`turn ${id}: expected the role user or assistant`);
    if (typeof turn.content !== 'string') fail(`turn ${id}: expected a text`);
    ids.set(id, addTurn(conversation, ids.get(turn.parent), turn.role, turn.content, note(turn.note)).id);
  }
  for (const [parent, id] of Object.entries(source.chosen ?? {}))
    if (ids.has(parent) && conversation.turns[ids.get(id)]?.parent === ids.get(parent))
      conversation.chosen[ids.get(parent)] = ids.get(id);
  for (const time of ['created', 'updated'])
    if (Number.isFinite(source[time])) conversation[time] = source[time];
  return conversation;
}

// Numbers and short texts only.
function note(source) {
  if (typeof source !== 'object' || source === null) return null;
  return Object.fromEntries(Object.entries(source).filter(
      ([, value]) => Number.isFinite(value) || (typeof value === 'string' && value.length < 1000)));
}
