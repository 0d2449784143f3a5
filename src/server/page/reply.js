// One reply on its way: asks, waits while the server is busy, collects the text and the measures.
import {ApiError, chat} from './api.js';

// What the API is sent. Empty settings are left to the server.
export function requestBody(model, messages, settings, seed) {
  const body = {model, messages, stream: true, stream_options: {include_usage: true}, seed};
  for (const name of ['temperature', 'top_p', 'max_tokens'])
    if (settings[name] !== '') body[name] = Number(settings[name]);
  return body;
}

// A set seed gives the same reply each time; the nth regeneration below the same turn shall still be another one.
export function seedOf(settings, siblings) {
  return settings.seed === '' ? Math.floor(Math.random() * 2 ** 31) : Number(settings.seed) + siblings;
}

// "42 tokens · 118 tokens/s · first after 0.12 s · 384 of 402 prompt tokens cached · seed 7"
export function noteText(note) {
  if (!note) return '';
  const parts = [];
  const count = (n, what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`;
  if (note.tokens !== undefined) parts.push(count(note.tokens, 'token'));
  if (note.tokens > 1 && note.seconds > 0.01) {
    const rate = (note.tokens - 1) / note.seconds;  // the first came with reading the prompt
    parts.push(`${rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString('en')} tokens/s`);
  }
  if (note.first !== undefined) parts.push(`first after ${note.first.toFixed(2)} s`);
  if (note.prompt !== undefined)
    parts.push(note.cached === undefined ? count(note.prompt, 'prompt token')
                                         : `${note.cached.toLocaleString('en')} of ${count(note.prompt, 'prompt token')} cached`);
  if (note.seed !== undefined) parts.push(`seed ${note.seed}`);
  return parts.join(' · ');
}

const kEnds = {
  length: 'Ended at the longest reply that the settings allow.',
  stopped: 'Stopped.',
  edited: 'Written by hand.',
  open: 'Cut: the page was closed before the reply ended.',
};

// How a reply that is no longer on its way ended, where that needs saying.
export function endText(note) {
  return note ? note.error ?? kEnds[note.finish ?? 'open'] ?? '' : '';
}

export class Reply {
  text = '';
  note;
  state = 'asking';  // asking, busy, streaming, ended
  waiting = 0;       // busy: seconds until it asks again
  #controller = new AbortController();
  #wake = () => {};

  constructor(body, key, onChange) {
    this.body = body;
    this.key = key;
    this.onChange = onChange;
    this.note = {seed: body.seed};
  }

  stop() {
    this.#controller.abort();
    this.#wake();
  }

  // Asks at once instead of at the end of the wait.
  hurry() { this.#wake(); }

  // Never throws: what went wrong is in note.error and note.kind.
  async run() {
    const {signal} = this.#controller;
    for (;;) {
      try {
        await this.#stream(signal);
        this.note.finish ??= 'stop';
        break;
      } catch (error) {
        if (signal.aborted) {
          this.note.finish = 'stopped';
          break;
        }
        if (error instanceof ApiError && error.kind === 'busy' && this.text === '') {
          await this.#wait(error.seconds);
          continue;
        }
        this.note.error = error.message;
        this.note.kind = error instanceof ApiError ? error.kind : 'page';
        if (!(error instanceof ApiError)) console.error(error);
        break;
      }
    }
    this.state = 'ended';
    this.onChange();
  }

  async #stream(signal) {
    this.state = 'asking';
    this.onChange();
    const started = performance.now();
    let first = 0;
    for await (const piece of chat(this.body, {key: this.key, signal})) {
      const choice = piece.choices?.[0];
      const text = choice?.delta?.content;
      if (text) {
        const now = performance.now();
        first ||= now;
        this.text += text;
        this.note.first = (first - started) / 1000;
        this.note.seconds = (now - first) / 1000;
      }
      if (choice?.finish_reason) this.note.finish = choice.finish_reason;
      if (piece.usage) {
        this.note.tokens = piece.usage.completion_tokens;
        this.note.prompt = piece.usage.prompt_tokens;
        this.note.cached = piece.usage.prompt_tokens_details?.cached_tokens;
      }
      this.state = 'streaming';
      this.onChange();
    }
  }

  async #wait(seconds) {
    this.state = 'busy';
    let awake = false;
    this.waiting = Math.ceil(seconds);
    while (this.waiting > 0 && !awake && !this.#controller.signal.aborted) {
      this.onChange();
      await new Promise(resolve => {
        const timer = setTimeout(resolve, 1000);
        this.#wake = () => { awake = true; clearTimeout(timer); resolve(); };
      });
      --this.waiting;
    }
    this.#wake = () => {};
  }
}
