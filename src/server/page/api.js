// The server's API: what is asked, and what can go wrong, as one kind of error with a sentence for people.

// kind: gone (no answer), broken (the answer ended early), busy (429, 503: seconds to wait), key (401), request (we), server (it).
export class ApiError extends Error {
  constructor(kind, message, seconds = 0) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

// Cuts a stream of text into the data of server-sent events; the pieces may end anywhere.
export class EventReader {
  #rest = '';
  #data = [];

  push(text) {
    const events = [];
    this.#rest += text;
    // A line end is \n, \r\n or \r; a \r at the very end may be half of one.
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === '') {
        if (this.#data.length) events.push(this.#data.join('\n'));
        this.#data = [];
      } else if (line.startsWith('data:')) {
        this.#data.push(line.slice(line[5] === ' ' ? 6 : 5));
      }
    }
    return events;
  }
}

function failure(response, text) {
  let message = '';
  try {
    const {error} = JSON.parse(text);
    message = typeof error === 'string' ? error : error?.message ?? '';
  } catch {
    message = '';
  }
  const {status} = response;
  const wait = Number(response.headers.get('Retry-After')) || 2;
  if (status === 429 || status === 503) return new ApiError('busy', message || 'The server is busy.', wait);
  if (status === 401) return new ApiError('key', 'The server asks for an API key: enter it in the settings.');
  return new ApiError(status >= 500 ? 'server' : 'request', message || `The server answered with status ${status}.`);
}

async function request(path, {key = '', body, signal, method} = {}) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers['Content-Type'] = 'application/json';
  let response, text;
  try {
    response = await fetch(path, {method: method ?? (body ? 'POST' : 'GET'), headers, body: body && JSON.stringify(body), signal});
    if (response.ok) return response;
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError('gone', 'The server does not answer. Is it still running?');
  }
  throw failure(response, text);
}

// The JSON of an answer.
export async function ask(path, options) {
  return (await request(path, options)).json();
}

// The first model of the list, as the server describes it.
export async function model(options) {
  const {data} = await ask('v1/models', options);
  return data?.[0] ?? {id: ''};
}

function parsed(data) {
  let piece;
  try {
    piece = JSON.parse(data);
  } catch {
    throw new ApiError('broken', 'The server sent something that is not JSON.');
  }
  if (piece.error) throw new ApiError('server', piece.error.message ?? String(piece.error));
  return piece;
}

// The pieces of a streamed reply. Ends normally only after the server said that it is complete.
export async function* chat(body, options) {
  const response = await request('v1/chat/completions', {...options, body});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  try {
    for (;;) {
      const {done, value} = await reader.read().catch(error => {
        if (options.signal?.aborted) throw error;
        return {done: true};
      });
      if (done) throw new ApiError('broken', 'The connection ended in the middle of the reply.');
      for (const data of events.push(value)) {
        if (data === '[DONE]') return;
        yield parsed(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
