// The chat page: what the user does, what the server answers, what is kept. The parts: conversation.js (the tree of turns), reply.js
// (one reply), api.js (the server), transcript.js and panels.js (what is seen), store.js (what is kept).
import * as api from './api.js';
import {addTurn, children, choose, exported, imported, messages, newConversation, path, removeTurn, title} from './conversation.js';
import {announce, download, fit, isSubmit} from './dom.js';
import {banner, setUpMenu, setUpSettings, setUpTheme, showList, showModel, welcome} from './panels.js';
import {Reply, requestBody, seedOf} from './reply.js';
import {setUpSessions} from './sessions.js';
import * as store from './store.js';
import {Transcript} from './transcript.js';

const $ = id => document.getElementById(id);
const kRetryMs = 3000;
const kKeepMs = 1000;

let settings = store.defaults;
let kept = [];                           // conversations in storage, the latest first
let conversation = newConversation();    // the one that is shown
let model = null;
let complained = false;                  // the banner says that the server does not answer
const replies = new Map();               // turn id -> Reply on its way

const transcript = new Transcript($('log'), {regenerate, edit, choose: chooseBranch, openSettings: field => openSettings(field)},
                                  turn => replies.get(turn.id));

function stored(what) {
  try {
    return what();
  } catch (error) {
    const full = error?.name === 'QuotaExceededError';
    banner(full ? 'The browser\'s storage is full: this conversation is not kept. Export, then delete some.'
                : 'The browser refuses storage: conversations end with this page.', [['Close', () => banner()]]);
    return undefined;
  }
}

function keep(changed) {
  if (!kept.includes(changed)) kept.unshift(changed);
  kept.sort((a, b) => b.updated - a.updated);
  stored(() => store.keep(changed));
}

function render() {
  transcript.render(conversation, welcome(model, send));
  showList(kept, conversation, open, remove);
  showState();
  document.title = path(conversation).length ? `${title(conversation)} · Linnet` : 'Linnet';
}

const runningHere = () => path(conversation).map(turn => replies.get(turn.id)).find(Boolean);

function showState() {
  const running = runningHere();
  $('send').textContent = running ? 'Stop' : 'Send';
  $('send').disabled = !running && !$('input').value.trim();
}

function open(id) {
  conversation = kept.find(one => one.id === id) ?? newConversation();
  history.replaceState(null, '', path(conversation).length ? `#${conversation.id}` : location.pathname + location.search);
  closeMenu();
  render();
  $('input').focus();
}

function remove(gone) {
  for (const turn of Object.values(gone.turns)) replies.get(turn.id)?.stop();
  kept = kept.filter(one => one !== gone);
  stored(() => store.forget(gone.id));
  if (gone === conversation) open();
  else render();
  const undo = () => { banner(); keep(gone); open(gone.id); };
  banner(`Deleted: ${title(gone)} `, [['Undo', undo], ['Close', () => banner()]]);
}

function send(text) {
  if (refused()) return;
  const turns = path(conversation);
  const turn = addTurn(conversation, turns.length ? turns[turns.length - 1].id : '', 'user', text);
  history.replaceState(null, '', `#${conversation.id}`);
  answer(turn.id);
  $('input').focus();
}

// Asks for a reply below the turn `parent`, a new branch where there is one already.
function answer(parent) {
  const here = conversation;
  const seed = seedOf(settings, children(here, parent).length);
  const body = requestBody(model?.id ?? '', messages(here, parent), settings, seed);
  const turn = addTurn(here, parent, 'assistant', '');
  let shownAt = 0, keptAt = performance.now(), timer = 0;
  const show = () => {
    timer = 0;
    shownAt = performance.now();
    Object.assign(turn, {content: reply.text, note: {...reply.note}});
    if (here === conversation) transcript.update(turn);
    if (shownAt - keptAt > kKeepMs) keptAt = shownAt, keep(here);
  };
  const reply = new Reply(body, settings.key, () => { timer ||= setTimeout(show, Math.max(0, 33 - (performance.now() - shownAt))); });
  replies.set(turn.id, reply);
  keep(here);
  render();
  reply.run().then(() => {
    clearTimeout(timer);
    replies.delete(turn.id);
    show();
    if (kept.includes(here)) keep(here);
    if (here === conversation) showState();
    showList(kept, conversation, open, remove);
    announce(turn.note.error ?? 'The reply is complete.');
    if (turn.note.kind === 'gone') findModel();
  });
}

// Whether the conversation must be left alone now; says so.
function refused() {
  if (!runningHere()) return false;
  banner('A reply is on its way: stop it first.', [['Stop', () => { runningHere()?.stop(); banner(); }], ['Close', () => banner()]]);
  return true;
}

function regenerate(turn) {
  if (refused()) return;
  if (turn.content === '') removeTurn(conversation, turn.id);
  answer(turn.parent);
}

function edit(turn, text) {
  if (refused()) return;
  const changed = addTurn(conversation, turn.parent, turn.role, text, turn.role === 'assistant' ? {finish: 'edited'} : null);
  if (turn.role === 'user') return answer(changed.id);
  keep(conversation);
  render();
}

function chooseBranch(id) {
  choose(conversation, id);
  keep(conversation);
  render();
}

// Asks what the server runs, again and again while it does not answer.
async function findModel() {
  try {
    model = await api.model({key: settings.key});
    if (complained) banner();
    complained = false;
    showModel(model);
    showSessions(Boolean(model.linnet?.sessions));
    if (!path(conversation).length) render();
  } catch (error) {
    complained = true;
    if (error.kind === 'key') banner(error.message, [['Open the settings', () => openSettings('key')]]);
    else banner(`${error.message} Asking again every ${kRetryMs / 1000} s.`);
    if (error.kind !== 'key') setTimeout(findModel, kRetryMs);
  }
}

const openSettings = setUpSettings(() => ({...settings, system: conversation.system}), values => {
  const {system, ...rest} = values;
  settings = {...store.defaults, ...rest};
  stored(() => store.keepSettings(settings));
  if (conversation.system !== system) {
    conversation.system = system;
    if (path(conversation).length) keep(conversation);
    if (!runningHere()) render();
  }
  findModel();
});
const closeMenu = setUpMenu();
const showSessions = setUpSessions({
  key: () => settings.key,
  current: () => conversation,
  messages: () => messages(conversation, path(conversation).pop()?.id ?? ''),
  opened: loaded => { keep(loaded); open(loaded.id); },
  said: text => banner(text, [['Close', () => banner()]]),
});

function setUpComposer() {
  const input = $('input');
  const submit = () => {
    const running = runningHere();
    const text = input.value;
    if (running || !text.trim()) return;
    input.value = '';
    fit(input);
    send(text);
  };
  $('composer').addEventListener('submit', event => {
    event.preventDefault();
    const running = runningHere();
    if (running) running.stop();
    else submit();
  });
  input.addEventListener('input', () => { fit(input); showState(); });
  input.addEventListener('keydown', event => {
    if (isSubmit(event)) event.preventDefault(), submit();
    if (event.key === 'ArrowUp' && !input.value && !runningHere()) {
      const last = path(conversation).filter(turn => turn.role === 'user').pop();
      if (last) event.preventDefault(), transcript.edit(last);
    }
  });
  document.addEventListener('keydown', event => {
    if (document.querySelector('dialog[open]') || event.defaultPrevented) return;
    if (event.key === 'Escape') runningHere()?.stop();
    if (event.key === '/' && !event.target.closest('input, textarea, select')) event.preventDefault(), input.focus();
  });
}

function setUpFiles() {
  $('export').addEventListener('click', () => {
    download(`linnet-${new Date().toISOString().slice(0, 10)}.json`, 'application/json', exported(kept));
  });
  $('import').addEventListener('click', () => $('file').click());
  $('file').addEventListener('change', async () => {
    const file = $('file').files[0];
    if (!file) return;
    try {
      const added = imported(await file.text());
      added.forEach(keep);
      render();
      banner(`Imported ${added.length} conversation${added.length === 1 ? '' : 's'}.`, [['Close', () => banner()]]);
    } catch (error) {
      banner(`${file.name}: ${error.message}.`, [['Close', () => banner()]]);
    }
    $('file').value = '';
  });
}

setUpTheme();
setUpComposer();
setUpFiles();
$('new').addEventListener('click', () => open());
settings = stored(store.settings) ?? settings;
kept = stored(store.conversations) ?? [];
store.onChange(() => {  // another window: what is on its way here stays as it is
  const busy = kept.filter(one => Object.keys(one.turns).some(id => replies.has(id)));
  const same = one => one.id === conversation.id && one.updated === conversation.updated;
  const others = (stored(store.conversations) ?? []).filter(one => !busy.some(mine => mine.id === one.id))
    .map(one => same(one) ? conversation : one);
  kept = [...busy, ...others].sort((a, b) => b.updated - a.updated);
  const changed = kept.find(one => one.id === conversation.id && one.updated !== conversation.updated);
  if (changed) conversation = changed, render();
  else showList(kept, conversation, open, remove);
});
addEventListener('pagehide', () => kept.filter(one => Object.keys(one.turns).some(id => replies.has(id))).forEach(keep));
open(location.hash.slice(1));
findModel();
