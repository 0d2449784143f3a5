// What stays in the browser: conversations, each under a key of its own so that two windows do not overwrite each other's, and
// settings. Every function throws what localStorage throws (no storage, full storage); the caller says so.

const kConversation = 'linnet.conversation.';
const kSettings = 'linnet.settings';

export const defaults = {temperature: '', top_p: '', max_tokens: 512, seed: '', key: ''};

export function conversations() {
  const found = [];
  for (let i = 0; i < localStorage.length; ++i) {
    const key = localStorage.key(i);
    if (!key.startsWith(kConversation)) continue;
    try {
      found.push(JSON.parse(localStorage.getItem(key)));
    } catch {
      // not ours, or cut: it stays where it is
    }
  }
  return found.sort((a, b) => b.updated - a.updated);
}

export function keep(conversation) {
  localStorage.setItem(kConversation + conversation.id, JSON.stringify(conversation));
}

export function forget(id) {
  localStorage.removeItem(kConversation + id);
}

export function settings() {
  try {
    return {...defaults, ...JSON.parse(localStorage.getItem(kSettings) ?? '{}')};
  } catch {
    return {...defaults};
  }
}

export function keepSettings(values) {
  localStorage.setItem(kSettings, JSON.stringify(values));
}

export function onChange(callback) {
  addEventListener('storage', event => { if (event.key === null || event.key.startsWith(kConversation)) callback(); });
}
