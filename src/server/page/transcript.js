// The conversation on the page: one article for each turn of the branch that is shown.
import {branches, path} from './conversation.js';
import {announce, button, fit, h, isSubmit} from './dom.js';
import {Blocks, script} from './markdown.js';
import {endText, noteText} from './reply.js';

const kNames = {user: 'You', assistant: 'Reply'};

// actions: {regenerate(turn), edit(turn, text), choose(id), openSettings()}; replyOf(turn): the Reply on its way, if any.
export class Transcript {
  #shown = new Map();  // turn id -> {article, blocks, state, tools}

  constructor(container, actions, replyOf) {
    this.container = container;
    this.actions = actions;
    this.replyOf = replyOf;
    this.conversation = null;
  }

  // Everything anew: another conversation, another branch, a new turn. The keyboard's place among the buttons is kept.
  render(conversation, welcome) {
    const place = this.#focusPlace();
    this.conversation = conversation;
    this.#shown.clear();
    const turns = path(conversation);
    const system = conversation.system &&
      button(`System prompt: ${conversation.system}`, () => this.actions.openSettings('system'), {class: 'system'});
    this.container.replaceChildren(...(system ? [system] : []), ...(turns.length ? turns.map(turn => this.#article(turn)) : [welcome]));
    this.#restoreFocus(place);
    this.follow(true);
  }

  // The text of one turn has grown, or its reply has changed its state.
  update(turn) {
    const shown = this.#shown.get(turn.id);
    if (!shown) return;
    const following = this.#atEnd();
    this.#fill(shown, turn);
    if (following) this.follow(true);
  }

  follow(now) {
    const {container} = this;
    if (now || this.#atEnd()) container.scrollTop = container.scrollHeight;
  }

  edit(turn) {
    const shown = this.#shown.get(turn.id);
    if (!shown || this.replyOf(turn)) return;
    const field = h('textarea', {class: 'edit', 'aria-label': `Edit: ${kNames[turn.role]}`});
    field.value = turn.content;
    const close = () => {
      form.replaceWith(shown.text);
      shown.tools.hidden = false;
      shown.article.querySelector('[data-action=edit]')?.focus();
    };
    const save = () => {
      if (!field.value.trim()) return;
      if (field.value === turn.content && turn.role === 'assistant') return close();
      this.actions.edit(turn, field.value);
    };
    const form = h('form', {class: 'editor', onsubmit: event => { event.preventDefault(); save(); }}, field,
                   h('div', {class: 'row end'},
                     h('span', {class: 'hint'}, turn.role === 'user' ? 'The text before stays as a branch.' : 'Kept as a branch; nothing is asked.'),
                     button('Cancel', close),
                     h('button', {type: 'submit', class: 'main'}, turn.role === 'user' ? 'Send' : 'Keep')));
    field.addEventListener('input', () => fit(field));
    field.addEventListener('keydown', event => {
      if (isSubmit(event)) event.preventDefault(), save();
      if (event.key === 'Escape') event.stopPropagation(), close();
    });
    shown.tools.hidden = true;
    shown.text.replaceWith(form);
    fit(field);
    field.focus();
  }

  #article(turn) {
    const text = h('div', {class: 'text'});
    const state = h('p', {class: 'state', hidden: true});
    const tools = h('div', {class: 'tools'});
    const article = h('article', {class: `turn ${turn.role}`, 'aria-label': kNames[turn.role], 'data-turn': turn.id},
                      h('h2', {class: 'who'}, kNames[turn.role]), text, state, tools);
    const shown = {article, text, state, tools, blocks: turn.role === 'assistant' ? new Blocks(text) : null, stateKey: ''};
    this.#shown.set(turn.id, shown);
    this.#fill(shown, turn);
    return article;
  }

  #fill(shown, turn) {
    const reply = this.replyOf(turn);
    if (shown.blocks) {
      shown.blocks.show(turn.content);
    } else {
      shown.text.textContent = turn.content;
      shown.text.lang = script(turn.content);
    }
    shown.article.classList.toggle('running', Boolean(reply));
    shown.article.setAttribute('aria-busy', String(Boolean(reply)));
    const failed = !reply && turn.note?.error !== undefined;
    const stateKey = reply ? `${reply.state} ${reply.waiting} ${turn.content === ''}` : `ended ${endText(turn.note)}`;
    if (stateKey === shown.stateKey) return;
    shown.stateKey = stateKey;
    this.#fillState(shown.state, turn, reply, failed);
    shown.tools.replaceChildren(...(reply ? [] : this.#tools(turn)));
  }

  #fillState(state, turn, reply, failed) {
    let parts = [];
    if (reply?.state === 'busy') {
      parts = [`The server is busy. Asking again in ${reply.waiting} s. `, button('Ask now', () => reply.hurry()),
               button('Give up', () => reply.stop())];
    } else if (reply) {
      if (turn.content === '') parts = [h('span', {class: 'dots', 'aria-label': 'Waiting for the first words'}, '…')];
    } else if (turn.role === 'assistant') {
      const text = endText(turn.note);
      if (text) parts.push(text + ' ');
      if (failed || turn.content === '') parts.push(button('Try again', () => this.actions.regenerate(turn)));
      if (turn.note?.kind === 'key') parts.push(button('Open the settings', () => this.actions.openSettings('key')));
    }
    state.classList.toggle('error', failed);
    state.hidden = parts.length === 0;
    state.replaceChildren(...parts);
  }

  #tools(turn) {
    const tools = [];
    const {at, of, previous, next} = branches(this.conversation, turn);
    if (of > 1) {
      const go = (id, text, action, what) =>
        button(text, () => this.actions.choose(id), {'aria-label': what, 'data-action': action, disabled: id === undefined});
      tools.push(h('span', {class: 'branches', role: 'group', 'aria-label': `Branch ${at + 1} of ${of}`},
                   go(previous, '‹', 'previous', 'Previous branch'), h('span', {}, `${at + 1} / ${of}`),
                   go(next, '›', 'next', 'Next branch')));
    }
    if (turn.content === '') return tools;  // nothing came: the state above offers what can be done
    tools.push(button('Copy', () => this.#copy(turn), {'data-action': 'copy'}));
    tools.push(button('Edit', () => this.edit(turn), {'data-action': 'edit'}));
    if (turn.role === 'assistant')
      tools.push(button('Regenerate', () => this.actions.regenerate(turn), {'data-action': 'regenerate'}),
                 h('span', {class: 'note'}, noteText(turn.note)));
    return tools;
  }

  async #copy(turn) {
    try {
      await navigator.clipboard.writeText(turn.content);
      announce('Copied.');
    } catch {
      // The clipboard needs https or localhost: select the text instead, for Ctrl+C.
      getSelection().selectAllChildren(this.#shown.get(turn.id).text);
      announce('Selected: copy it with the keyboard.');
    }
  }

  #atEnd() {
    const {scrollHeight, scrollTop, clientHeight} = this.container;
    return scrollHeight - scrollTop - clientHeight < 80;
  }

  #focusPlace() {
    const article = document.activeElement?.closest?.('article.turn');
    if (!article || !this.container.contains(article)) return null;
    return {index: Array.from(this.container.children).indexOf(article), action: document.activeElement.dataset.action};
  }

  #restoreFocus(place) {
    if (!place?.action) return;
    const article = this.container.children[place.index];
    const wanted = article?.querySelector(`[data-action=${place.action}]:not(:disabled)`);
    (wanted ?? article?.querySelector('.tools button:not(:disabled)'))?.focus();
  }
}
