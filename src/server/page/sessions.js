// Conversations that the server keeps with their state (linnet serve --sessions): a list beside those of the browser, and a dialog
// that saves the one that is shown.
import {ask} from './api.js';
import {addTurn, newConversation, title} from './conversation.js';
import {button, h} from './dom.js';

const $ = id => document.getElementById(id);
const path = name => `v1/sessions/${encodeURIComponent(name)}`;

// Letters and digits of the title, else the day: what the server takes as a name.
export function nameFor(text, day) {
  const name = text.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-+|-+$/g, '').slice(0, 40).replace(/-+$/, '');
  return name || `conversation-${day}`;
}

export function fromMessages(messages) {
  const text = content => typeof content === 'string' ? content : (content ?? []).map(part => part.text ?? '').join('');
  const conversation = newConversation();
  let parent = '';
  for (const {role, content} of messages) {
    if (role === 'system') conversation.system = text(content);
    else if (role === 'user' || role === 'assistant')
      parent = addTurn(conversation, parent, role, text(content), role === 'assistant' ? {finish: 'stop'} : null).id;
  }
  return conversation;
}

// page: {key(), current(), messages(), opened(conversation), said(text)}. Returns show(on): whether the server keeps sessions.
export function setUpSessions(page) {
  const dialog = $('save');
  const form = $('save-form');
  const call = (where, options) => ask(where, {key: page.key(), ...options});

  async function list() {
    try {
      const {data} = await call('v1/sessions');
      $('kept').replaceChildren(...data.map(({name, tokens, defect}) =>
        h('li', {}, button(name, () => load(name), {class: 'open', title: defect ?? `${tokens} tokens`, disabled: Boolean(defect)}),
          button('×', () => remove(name), {class: 'remove', 'aria-label': `Delete on the server: ${name}`, title: 'Delete'}))));
    } catch (error) {
      page.said(error.message);
    }
  }

  async function load(name) {
    try {
      page.opened(fromMessages((await call(path(name))).messages));
    } catch (error) {
      page.said(`${name}: ${error.message}`);
    }
  }

  async function remove(name) {
    if (!confirm(`Delete ${name} on the server?`)) return;
    await call(path(name), {method: 'DELETE'}).catch(error => page.said(`${name}: ${error.message}`));
    list();
  }

  $('save-open').addEventListener('click', () => {
    form.elements.name.value = nameFor(title(page.current()), new Date().toISOString().slice(0, 10));
    $('save-error').textContent = '';
    dialog.showModal();
    form.elements.name.select();
  });
  $('save-cancel').addEventListener('click', () => dialog.close());
  form.addEventListener('submit', async event => {
    event.preventDefault();
    const name = form.elements.name.value;
    try {
      await call(path(name), {method: 'PUT', body: {messages: page.messages()}});
      dialog.close();
      page.said(`Saved on the server: ${name}.`);
      list();
    } catch (error) {
      $('save-error').textContent = error.message;
    }
  });
  return on => {
    $('on-server').hidden = $('save-open').hidden = !on;
    if (on) list();
  };
}
