// Small helpers for making elements.

// h('button', {class: 'main', type: 'button', onclick: f}, 'text', child...): attributes, handlers for names that begin with "on";
// an attribute that is false, null or undefined is left out.
export function h(tag, attributes = {}, ...content) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...content.filter(part => part !== null && part !== undefined && part !== false));
  return made;
}

export const button = (text, onclick, attributes = {}) => h('button', {type: 'button', ...attributes, onclick}, text);

// A text field as high as its text, up to what the style sheet allows.
export function fit(field) {
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight + field.offsetHeight - field.clientHeight}px`;
}

// Enter without Shift, and not the Enter that ends the choice of an input method (Safari says that with key code 229 only).
export const isSubmit = event => event.key === 'Enter' && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

export function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  h('a', {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// Tells people who hear the page instead of seeing it.
export function announce(text) {
  document.getElementById('status').textContent = text;
}
