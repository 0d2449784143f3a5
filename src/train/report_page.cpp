// What the browser gets. The script draws with SVG elements; every colour is a variable of the style sheet, so that light and dark
// need no script.
#include "train/report_page.h"

namespace linnet::train {

const char* const kReportPage = R"page(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{title}}</title>
<style>
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --ink: #1c1e21; --soft: #6a6f76; --line: #e2e2de; --grid: #ededea;
  --c0: #2563c9; --c1: #d4520c; --c2: #0f8a6b; --c3: #8a3ffc; --c4: #b8860b; --c5: #c2255c; --c6: #0b7285; --c7: #5c5f66;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131518; --card: #1b1e22; --ink: #e6e7e9; --soft: #979da6; --line: #2d3137; --grid: #262a2f;
    --c0: #6ea8fe; --c1: #ff9a5c; --c2: #4fd1a5; --c3: #c3a1ff; --c4: #f0c35a; --c5: #ff86ac; --c6: #5fd0e0; --c7: #b3b8bf;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 14px/1.45 system-ui, sans-serif;
       font-variant-numeric: tabular-nums; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 21px; font-weight: 650; margin: 0; letter-spacing: -.01em; }
header p { margin: 3px 0 18px; color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.table { overflow-x: auto; padding: 4px 6px; }
table { border-collapse: collapse; width: 100%; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); font-size: 12px; }
th, td { text-align: right; padding: 7px 10px; }
th:first-child, td:first-child { text-align: left; }
td { font-size: 15px; font-weight: 550; border-top: 1px solid var(--line); }
td small { font-weight: 400; font-size: 12px; color: var(--soft); }
.many td:first-child::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  background: var(--run); margin-right: 8px; }
nav { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; margin: 18px 2px 12px; color: var(--soft); }
nav .runs { display: flex; flex-wrap: wrap; gap: 6px; }
nav .runs:empty { display: none; }
button { font: inherit; font-size: 13px; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: 7px; padding: 3px 10px; cursor: pointer; }
button:hover { border-color: var(--soft); }
button:focus-visible, input:focus-visible { outline: 2px solid var(--c0); outline-offset: 1px; }
button.run::before { content: ""; display: inline-block; width: 9px; height: 9px; border-radius: 3px; margin-right: 6px;
  background: var(--run); }
button.run[aria-pressed=false] { opacity: .45; text-decoration: line-through; }
.switch { display: inline-flex; }
.switch button { border-radius: 0; margin-left: -1px; color: var(--soft); }
.switch button:first-child { border-radius: 7px 0 0 7px; margin: 0; }
.switch button:last-child { border-radius: 0 7px 7px 0; }
button.on { color: var(--ink); background: var(--grid); font-weight: 550; }
label { display: inline-flex; gap: 8px; align-items: center; }
input[type=range] { width: 110px; accent-color: var(--c0); }
.charts { display: grid; grid-template-columns: 1fr 1fr; gap: 14px; }
.charts section { padding: 12px 14px 6px; min-width: 0; }
.charts .wide { grid-column: 1 / -1; }
@media (max-width: 760px) { .charts { grid-template-columns: 1fr; } }
.top { display: flex; align-items: baseline; gap: 8px; margin-bottom: 4px; }
h2 { font-size: 14px; font-weight: 620; margin: 0; }
.top span { color: var(--soft); font-size: 12.5px; }
.top .key { margin-left: auto; }
.top .key i { display: inline-block; width: 20px; border-top: 2px solid var(--k); vertical-align: middle; margin: 0 5px 0 12px; }
.top .key i.dots { border-top-style: dotted; border-top-width: 3px; }
.top button { padding: 1px 8px; font-size: 12px; color: var(--soft); }
.plot { position: relative; }
svg { display: block; width: 100%; touch-action: pan-y; cursor: crosshair; user-select: none; }
svg text { fill: var(--soft); font-size: 11.5px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--line); }
.curve { fill: none; stroke: var(--run); stroke-width: 1.8; stroke-linejoin: round; }
.faint { stroke-width: 1; opacity: .28; }
.band { fill: var(--run); opacity: .13; }
.held { fill: none; stroke: var(--held); stroke-width: 1.6; stroke-dasharray: 1 4; stroke-linecap: round; }
.dot { fill: var(--card); stroke: var(--held); stroke-width: 1.8; }
.cross { stroke: var(--soft); stroke-dasharray: 3 3; visibility: hidden; }
.mark { fill: var(--soft); opacity: .15; visibility: hidden; }
.tip { position: absolute; pointer-events: none; visibility: hidden; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; box-shadow: 0 4px 16px rgb(0 0 0 / .16); padding: 7px 10px; font-size: 12.5px; white-space: nowrap;
  z-index: 2; }
.tip b { font-weight: 600; } .tip div { display: flex; gap: 12px; justify-content: space-between; }
.tip .x { color: var(--soft); }
.tip i { display: inline-block; width: 8px; height: 8px; border-radius: 2px; margin-right: 6px; background: var(--run); }
.empty { color: var(--soft); text-align: center; padding: 60px 0; }
footer { color: var(--soft); font-size: 12.5px; margin: 14px 2px 0; }
</style>
</head>
<body>
<main>
<header><h1>{{title}}</h1><p>{{subtitle}}</p></header>
<section class="table"><table id="summary">{{summary}}</table></section>
<nav>
  <span class="runs" id="runs"></span>
  <span class="switch" id="axis"><button data-x="step" class="on">steps</button><button data-x="tokens">tokens</button></span>
  <label>smoothing <input type="range" id="smooth" min="0" max="100" value="60"></label>
  <button id="reset" hidden>whole run</button>
</nav>
<div class="charts" id="charts"></div>
<footer>Drag across a curve to look closer; double-click for the whole run. A pale band spans the least and the greatest loss of
the steps that share a point.</footer>
<noscript><p class="empty">The curves are drawn by a script in this file.</p></noscript>
</main>
)page"
                                R"page(<script type="application/json" id="data">{{data}}</script>
<script>
'use strict';
const runs = JSON.parse(document.getElementById('data').textContent);
const view = {x: 'step', smooth: 0.6, zoom: null, off: new Set(), log: new Set()};
const charts = [
  {key: 'loss', title: 'Loss', unit: 'nats per token', wide: true, smooth: true, held: true},
  {key: 'lr', title: 'Learning rate', unit: ''},
  {key: 'grad_norm', title: 'Gradient norm', unit: 'before clipping', smooth: true},
  {key: 'tokens_per_s', title: 'Throughput', unit: 'tokens per second', smooth: true, zero: true},
  {key: 'gemm_share', title: 'Share of the GEMM rate', unit: '', percent: true, smooth: true, zero: true},
];
const number = v => v !== null && isFinite(v);
const color = i => `var(--c${i % 8})`;
const heldColor = i => runs.length === 1 ? 'var(--c1)' : color(i);

function el(name, attributes, parent) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (parent) parent.appendChild(e);
  return e;
}
function html(name, attributes, parent, text) {
  const e = document.createElement(name);
  for (const k in attributes) e.setAttribute(k, attributes[k]);
  if (text !== undefined) e.textContent = text;
  if (parent) parent.appendChild(e);
  return e;
}

// Numbers as people write them.
const trim = s => s.includes('.') ? s.replace(/\.?0+$/, '') : s;
function short(v) {
  const a = Math.abs(v);
  for (const [unit, name] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M'], [1e3, 'k']])
    if (a >= unit) return trim((v / unit).toPrecision(4)) + name;
  return trim(v.toPrecision(4));
}
function value(v, chart) {
  if (chart.percent) return (100 * v).toFixed(1) + ' %';
  const a = Math.abs(v);
  if (a >= 1000) return Math.round(v).toLocaleString('en');
  return a > 0 && a < 1e-3 ? v.toExponential(2).replace('e-', 'e−') : v.toPrecision(4);
}
function tickText(v, step, largest, chart) {
  if (chart.percent) return trim((100 * v).toFixed(1)) + ' %';
  if (v === 0) return '0';
  if (Math.abs(v) >= 1e3) return short(v);
  if (largest < 1e-3) return v.toExponential(1).replace('.0e', 'e').replace('e-', 'e−');
  return v.toFixed(Math.min(6, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))));
}

// Ticks at 1, 2 or 5 times a power of ten; on a log scale whole powers and their 2 and 5 when there is room.
function linearTicks(low, high, n) {
  const rough = (high - low) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => s >= rough) || 10 * power;
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; ++i) ticks.push(i * step);
  return {ticks, step};
}
function logTicks(low, high, n) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return linearTicks(low, high, n);
  const factors = decades < 1.5 ? [1, 2, 3, 4, 5, 7] : decades < 3.5 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / (n + 1)));
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); ++e)
    if (e % every === 0) for (const f of factors) if (f * 10 ** e >= low && f * 10 ** e <= high) ticks.push(f * 10 ** e);
  return {ticks, step: 0};
}

// Mean under a Gaussian of `width` points on either side: no lag.
function smoothed(ys, width) {
  const reach = Math.ceil(3 * width), kernel = [];
  for (let k = 0; k <= reach; ++k) kernel.push(Math.exp(-0.5 * (k / width) ** 2));
  return ys.map((y, j) => {
    if (!number(y)) return null;
    let sum = 0, weight = 0;
    for (let k = Math.max(0, j - reach); k <= Math.min(ys.length - 1, j + reach); ++k)
      if (number(ys[k])) sum += kernel[Math.abs(k - j)] * ys[k], weight += kernel[Math.abs(k - j)];
    return sum / weight;
  });
}
function nearest(xs, x) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; xs[middle] < x ? low = middle : high = middle; }
  return xs.length && x - xs[low] < xs[high] - x ? low : high;
}

// The curves of one chart: {run, i, xs, ys, raw, low, high}, held-out ones apart.
function curvesOf(chart) {
  const lines = [], held = [], whole = wholeX(), share = view.zoom ? (view.zoom[1] - view.zoom[0]) / whole[1] : 1;
  runs.forEach((run, i) => {
    if (view.off.has(i)) return;
    const raw = run[chart.key];
    if (raw.some(number)) {
      const width = chart.smooth ? view.smooth ** 2 * share * raw.length / 25 : 0;  // up to 4 % of what is visible
      const ys = width > 0.3 ? smoothed(raw, width) : raw;
      lines.push({run, i, xs: run[view.x], ys, raw, low: chart.held ? run.low : null, high: run.high});
    }
    if (chart.held && run.eval.loss.some(number)) held.push({run, i, xs: run.eval[view.x], ys: run.eval.loss});
  });
  return {lines, held};
}
function wholeX() {
  let high = 1;
  for (const run of runs) for (const xs of [run[view.x], run.eval[view.x]]) if (xs.length) high = Math.max(high, xs[xs.length - 1]);
  return [0, high];
}
)page"
                                R"page(
// The y range of what is visible. The first steps of a whole run do not count: their loss would press the rest flat.
function rangeY(chart, curves, [x0, x1], log) {
  const from = view.zoom || chart.zero || chart.key === 'lr' ? x0 : x0 + 0.02 * (x1 - x0);
  let low = Infinity, high = -Infinity;
  for (const start of [from, x0]) {
    for (const c of [...curves.lines, ...curves.held]) {
      for (const ys of c.raw && c.raw !== c.ys ? [c.ys, c.raw] : [c.ys]) {
        const seen = ys.filter((y, j) => number(y) && c.xs[j] >= start && c.xs[j] <= x1 && (!log || y > 0));
        if (!seen.length) continue;
        seen.sort((a, b) => a - b);
        const cut = ys === c.ys ? 0 : Math.floor(0.01 * seen.length);  // single spikes may leave the picture
        low = Math.min(low, seen[cut]), high = Math.max(high, seen[seen.length - 1 - cut]);
      }
    }
    if (low <= high) break;
  }
  if (low > high) return log ? [0.1, 1] : [0, 1];
  if (log) {
    const pad = Math.max((high / low) ** 0.06, 1.01);
    return [low / pad, high * pad];
  }
  const pad = 0.06 * (high - low) || 0.05 * Math.abs(high) || 1;
  if (chart.zero || (low >= 0 && low < 0.25 * (high - low))) return [0, high + pad];
  return [low - pad, high + pad];
}

function path(xs, ys, px, py) {
  let d = '', pen = false;
  ys.forEach((y, j) => {
    const at = number(y) ? py(y) : NaN;
    if (!isFinite(at)) { pen = false; return; }
    d += (pen ? 'L' : 'M') + px(xs[j]).toFixed(1) + ' ' + at.toFixed(1);
    pen = true;
  });
  return d;
}
function band(c, px, py) {
  const up = [], down = [];
  c.low.forEach((l, j) => {
    const a = number(l) ? py(l) : NaN, b = number(c.high[j]) ? py(c.high[j]) : NaN;
    if (!isFinite(a) || !isFinite(b)) return;
    const x = px(c.xs[j]).toFixed(1);
    up.push(x + ' ' + b.toFixed(1)), down.unshift(x + ' ' + a.toFixed(1));
  });
  return up.length ? 'M' + up.concat(down).join('L') + 'Z' : '';
}

function draw(chart) {
  const box = chart.plot, width = box.clientWidth, height = chart.wide ? 360 : 210;
  const left = 58, right = 14, top = 8, bottom = 26;
  box.querySelectorAll('svg, .empty').forEach(e => e.remove());
  chart.tip.style.visibility = 'hidden';
  const curves = curvesOf(chart), log = view.log.has(chart.key);
  if (!curves.lines.length && !curves.held.length) { html('div', {class: 'empty'}, box, 'nothing recorded yet'); return; }
  const [x0, x1] = view.zoom || wholeX(), [y0, y1] = rangeY(chart, curves, [x0, x1], log);
  const px = x => left + (x - x0) / (x1 - x0) * (width - left - right);
  const scale = log ? Math.log : y => y;
  const py = y => top + (scale(y1) - scale(y)) / (scale(y1) - scale(y0)) * (height - top - bottom);
  const svg = el('svg', {viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': chart.title}, box);
  const yTicks = (log ? logTicks : linearTicks)(y0, y1, chart.wide ? 7 : 4);
  for (const t of yTicks.ticks) {
    el('line', {class: 'grid', x1: left, x2: width - right, y1: py(t), y2: py(t)}, svg);
    el('text', {x: left - 8, y: py(t) + 4, 'text-anchor': 'end'}, svg).textContent = tickText(t, yTicks.step || t, yTicks.step ? yTicks.ticks.at(-1) : t, chart);
  }
  for (const t of linearTicks(x0, x1, Math.max(3, Math.floor(width / 110))).ticks) {
    el('line', {class: 'axis', x1: px(t), x2: px(t), y1: height - bottom, y2: height - bottom + 4}, svg);
    el('text', {x: px(t), y: height - 7, 'text-anchor': 'middle'}, svg).textContent = short(t);
  }
  el('line', {class: 'axis', x1: left, x2: width - right, y1: height - bottom, y2: height - bottom}, svg);
  const clip = el('clipPath', {id: 'clip-' + chart.key}, svg);
  el('rect', {x: left, y: top - 3, width: width - left - right + 5, height: height - top - bottom + 3}, clip);
  const inside = el('g', {'clip-path': `url(#clip-${chart.key})`}, svg);
  for (const c of curves.lines) {
    const style = `--run: ${color(c.i)}`;
    if (c.low && !log) el('path', {class: 'band', style, d: band(c, px, py)}, inside);
    if (c.ys !== c.raw) el('path', {class: 'curve faint', style, d: path(c.xs, c.raw, px, py)}, inside);
    el('path', {class: 'curve', style, d: path(c.xs, c.ys, px, py)}, inside);
  }
  for (const c of curves.held) {
    const style = `--held: ${heldColor(c.i)}`;
    el('path', {class: 'held', style, d: path(c.xs, c.ys, px, py)}, inside);
    const every = Math.ceil(c.xs.length / 60);
    c.ys.forEach((y, j) => {
      if (number(y) && j % every === (c.ys.length - 1) % every)
        el('circle', {class: 'dot', style, cx: px(c.xs[j]), cy: py(y), r: 3}, inside);
    });
  }
  chart.cross = el('line', {class: 'cross', y1: top, y2: height - bottom}, svg);
  chart.mark = el('rect', {class: 'mark', y: top, height: height - top - bottom}, svg);
  Object.assign(chart, {svg, px, left, width, right, x0, x1, curves});
  listen(chart);
}

// Pointer: a cross at the same place of every chart, a note in this one, a drag to look closer.
function xAt(chart, event) {
  const inner = chart.width - chart.left - chart.right;
  const share = (event.clientX - chart.svg.getBoundingClientRect().left - chart.left) / inner;
  return chart.x0 + Math.min(1, Math.max(0, share)) * (chart.x1 - chart.x0);
}
function listen(chart) {
  let start = null;
  chart.svg.addEventListener('pointerdown', e => { start = xAt(chart, e); chart.svg.setPointerCapture(e.pointerId); });
  chart.svg.addEventListener('pointermove', e => {
    const x = xAt(chart, e);
    hover(chart, x);
    if (start === null) return;
    const a = chart.px(Math.min(start, x)), b = chart.px(Math.max(start, x));
    chart.mark.setAttribute('x', a), chart.mark.setAttribute('width', b - a), chart.mark.style.visibility = 'visible';
  });
  chart.svg.addEventListener('pointerup', e => {
    const end = xAt(chart, e), from = start;
    start = null;
    chart.mark.style.visibility = 'hidden';
    if (from !== null && Math.abs(chart.px(end) - chart.px(from)) > 6) zoom([Math.min(from, end), Math.max(from, end)]);
  });
  chart.svg.addEventListener('pointerleave', () => hover(chart, null));
  chart.svg.addEventListener('dblclick', () => zoom(null));
}
function row(tip, fill, name, text) {
  const div = html('div', {}, tip), label = html('span', {}, div);
  html('i', {style: `--run: ${fill}`}, label);
  label.append(name);
  html('b', {}, div, text);
}
function hover(chart, x) {
  for (const c of charts) {
    if (!c.cross) continue;
    c.cross.style.visibility = x === null ? 'hidden' : 'visible';
    if (x !== null) c.cross.setAttribute('x1', c.px(x)), c.cross.setAttribute('x2', c.px(x));
  }
  const tip = chart.tip;
  tip.style.visibility = x === null ? 'hidden' : 'visible';
  if (x === null) return;
  tip.textContent = '';
  html('div', {class: 'x'}, tip, `${view.x === 'step' ? 'step' : 'tokens'} ${Math.round(x).toLocaleString('en')}`);
  for (const c of chart.curves.lines) {
    const y = c.raw[nearest(c.xs, x)];
    if (number(y)) row(tip, color(c.i), c.run.name || chart.title.toLowerCase(), value(y, chart));
  }
  for (const c of chart.curves.held) {
    const y = c.ys[nearest(c.xs, x)];
    if (number(y)) row(tip, heldColor(c.i), (c.run.name ? c.run.name + ', ' : '') + 'held-out', value(y, chart));
  }
  const at = chart.px(x), w = tip.offsetWidth;
  tip.style.left = (at + 14 + w > chart.width ? Math.max(0, at - 14 - w) : at + 14) + 'px';
  tip.style.top = '14px';
}
function zoom(range) {
  view.zoom = range;
  document.getElementById('reset').hidden = range === null;
  drawAll();
}
function drawAll() { for (const chart of charts) draw(chart); }

for (const chart of charts) {
  const card = html('section', {class: chart.wide ? 'wide' : ''}, document.getElementById('charts'));
  const head = html('div', {class: 'top'}, card);
  html('h2', {}, head, chart.title);
  html('span', {}, head, chart.unit);
  const key = html('span', {class: 'key'}, head);
  if (chart.held && runs.some(r => r.eval.loss.some(number))) {
    html('i', {style: `--k: ${runs.length === 1 ? 'var(--c0)' : 'var(--soft)'}`}, key), key.append('training');
    html('i', {class: 'dots', style: `--k: ${runs.length === 1 ? 'var(--c1)' : 'var(--soft)'}`}, key), key.append('held-out');
  }
  const button = html('button', {'aria-pressed': 'false'}, head, 'log');
  button.onclick = () => {
    view.log.has(chart.key) ? view.log.delete(chart.key) : view.log.add(chart.key);
    button.classList.toggle('on', view.log.has(chart.key));
    button.setAttribute('aria-pressed', view.log.has(chart.key));
    draw(chart);
  };
  chart.plot = html('div', {class: 'plot'}, card);
  chart.tip = html('div', {class: 'tip'}, chart.plot);
}
if (runs.length > 1) {
  document.getElementById('summary').className = 'many';
  runs.forEach((run, i) => {
    const button = html('button', {class: 'run', style: `--run: ${color(i)}`, 'aria-pressed': 'true'},
                        document.getElementById('runs'), run.name);
    button.onclick = () => {
      view.off.has(i) ? view.off.delete(i) : view.off.add(i);
      button.setAttribute('aria-pressed', !view.off.has(i));
      drawAll();
    };
  });
}
document.getElementById('axis').onclick = e => {
  if (!e.target.dataset.x) return;
  view.x = e.target.dataset.x;
  for (const b of e.currentTarget.children) b.classList.toggle('on', b === e.target);
  zoom(null);
};
document.getElementById('smooth').oninput = e => { view.smooth = e.target.value / 100; drawAll(); };
document.getElementById('reset').onclick = () => zoom(null);
new ResizeObserver(drawAll).observe(document.getElementById('charts'));
drawAll();
</script>
</body>
</html>
)page";

}  // namespace linnet::train
