// What stands around the conversation: the empty state, the list of conversations, the banner, the settings.
import {title} from './conversation.js';
import {button, h} from './dom.js';

const $ = id => document.getElementById(id);

const kGeneral = {
  description: 'Write to it: what you type goes to the model on this server, and to nowhere else.',
  examples: ['What can you do?', 'Write four lines about a small bird in winter.'],
};

// What the model can do. The server may say it with the model: linnet: {description, examples: [text or {title, prompt}]}.
export function welcome(model, send) {
  const about = {...kGeneral, ...model?.linnet};
  const examples = (Array.isArray(about.examples) ? about.examples : [])
    .map(example => typeof example === 'string' ? {prompt: example} : example).filter(example => typeof example?.prompt === 'string');
  return h('section', {class: 'welcome'},
           h('img', {src: 'page/icon.svg', alt: '', width: 72, height: 72}),
           h('h2', {}, model?.id || 'Linnet'),
           h('p', {}, about.description),
           examples.length && h('h3', {}, 'Try one'),
           h('ul', {class: 'examples'}, ...examples.map(example =>
             h('li', {}, button(example.title ?? example.prompt.trim(), () => send(example.prompt))))));
}

export function showModel(model) {
  const context = model?.context_length ?? model?.max_model_len ?? model?.linnet?.context;
  $('model').textContent = model?.id || 'Linnet';
  $('facts').textContent = context ? `context ${context.toLocaleString('en')} tokens` : '';
}

export function showList(conversations, current, open, remove) {
  $('list').replaceChildren(...conversations.map(conversation => {
    const name = title(conversation);
    return h('li', {}, button(name, () => open(conversation.id),
                              {class: 'open', title: name, 'aria-current': conversation.id === current.id && 'true'}),
             button('×', () => remove(conversation), {class: 'remove', 'aria-label': `Delete: ${name}`, title: 'Delete'}));
  }));
}

// One sentence and what can be done about it: [[text, action], ...]. No sentence: nothing is shown.
export function banner(text = '', actions = []) {
  const place = $('banner');
  place.hidden = text === '';
  place.replaceChildren(text, ...actions.map(([name, action]) => button(name, action)));
}

const kThemes = ['system', 'light', 'dark'];

export function setUpTheme() {
  const root = document.documentElement;
  const show = () => { $('theme-name').textContent = root.dataset.theme ?? 'system'; };
  $('theme').addEventListener('click', () => {
    const next = kThemes[(kThemes.indexOf(root.dataset.theme ?? 'system') + 1) % kThemes.length];
    if (next === 'system') delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      localStorage.setItem('linnet.theme', next);
    } catch {
      // kept for this visit only
    }
    show();
  });
  show();
}

export function setUpMenu() {
  const open = on => {
    document.body.classList.toggle('side-open', on);
    $('menu').setAttribute('aria-expanded', String(on));
  };
  $('menu').addEventListener('click', () => open(!document.body.classList.contains('side-open')));
  $('main').addEventListener('click', event => { if (event.target !== $('menu')) open(false); });
  $('side').addEventListener('keydown', event => { if (event.key === 'Escape') open(false), $('menu').focus(); });
  return () => open(false);
}

// values(): what the form starts with; keep(values): what it ends with. Returns open(field).
export function setUpSettings(values, keep) {
  const dialog = $('settings');
  const form = $('settings-form');
  form.addEventListener('submit', event => {
    event.preventDefault();
    keep(Object.fromEntries(new FormData(form)));
    dialog.close();
  });
  $('settings-cancel').addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });  // beside the form
  const open = field => {
    for (const [name, value] of Object.entries(values())) form.elements[name].value = value;
    dialog.showModal();
    form.elements[field]?.focus();
  };
  $('settings-open').addEventListener('click', () => open('system'));
  return open;
}
